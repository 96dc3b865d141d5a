#!/bin/sh
# pillow-heif 1.8.1: `image.save(path, "HEIF", exif=exif)` takes EXIF as bytes or as Pillow's Image.Exif. With bytes, the
# orientation becomes the container's rotation (`irot`), as it must: programs ignore the orientation in EXIF. With an
# Image.Exif it does not, and reading the file resets the one in EXIF to 1: a picture of a phone that was saved like that
# lies on its side for every program, without any message. Pillow's own writers take both forms alike.
#
# Seen: orientation 6 of a picture of 40 x 20 pixels: 20 x 40 with bytes, 40 x 20 with Image.Exif.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "pillow==13.0.0" "pillow-heif==1.8.1" >/dev/null 2>&1
"$folder/venv/bin/python" - <<'PYTHON'
import io

import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()
exif = Image.Exif()
exif[0x0112] = 6  # to be turned by a quarter
sizes = []
for name, value in (("bytes", exif.tobytes()), ("Image.Exif", exif)):
    Image.new("RGB", (40, 20), "red").save(stream := io.BytesIO(), "HEIF", exif=value)
    with Image.open(stream) as image:
        orientation = image.getexif().get(0x0112)
        sizes.append(image.size)
        print(f"exif as {name}: {image.size}, irot: {b'irot' in stream.getvalue()}, orientation in EXIF: {orientation}")
assert sizes == [(20, 40), (40, 20)], "the behaviour has changed"
PYTHON
