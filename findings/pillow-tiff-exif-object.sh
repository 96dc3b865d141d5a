#!/bin/sh
# Pillow 13.0.0: the writer of TIFF takes `exif=` as bytes or as Image.Exif. Of an Image.Exif to which the EXIF folder was
# added by `get_ifd`, it writes the first folder only: the time of taking and all else of the camera is lost, without a
# message. The same object as bytes, and the writers of JPEG, PNG, WebP and AVIF, keep it.
#
# Seen: DateTimeOriginal is there in all of them, but not in the TIFF written from an Image.Exif.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "pillow==13.0.0" >/dev/null 2>&1
"$folder/venv/bin/python" - <<'PYTHON'
import io

from PIL import ExifTags, Image

exif = Image.Exif()
exif[ExifTags.Base.Make] = "camera"
exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:05:14 12:00:00"
missing = []
for form in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF"):
    for name, value in (("bytes", exif.tobytes()), ("Image.Exif", exif)):
        Image.new("RGB", (20, 10)).save(stream := io.BytesIO(), form, exif=value)
        with Image.open(stream) as image:
            taken = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
            print(f"{form}, exif as {name}: {taken}")
            missing += [(form, name)] if taken is None else []
assert missing == [("TIFF", "Image.Exif")], "the behaviour has changed"
PYTHON
