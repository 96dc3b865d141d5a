#!/bin/sh
# Little CMS 2.19 through Pillow 13.0.0: a grey picture with a linear profile (microscopes, scanners, renderers) is
# converted to sRGB up to 9.7 of 255 levels too dark in the shadows, where the eye sees it most. With its default flags
# the library replaces the curve from grey to sRGB by a table of 33 entries, linear in between; sRGB is steepest there.
# With the flag NOOPTIMIZE the error is rounding.
#
# Seen: level 2 of a linear ramp becomes 12 (right: 21.7); with NOOPTIMIZE the largest error is 0.5 of a level.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "pillow==13.0.0" "numpy==2.4.6" >/dev/null 2>&1
"$folder/venv/bin/python" - <<'PYTHON'
import io
import struct

import numpy as np
import PIL
from PIL import Image, ImageCms


def make_linear_grey_profile() -> bytes:
    """Return a version 2 ICC profile of grey, whose curve is the identity."""
    white = b"".join(struct.pack(">i", round(x * 65536)) for x in (0.9642, 1, 0.8249))
    name = b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78)
    tags = {
        b"desc": name + bytes(-len(name) % 4),
        b"cprt": b"text" + bytes(4) + b"no\0\0",
        b"wtpt": b"XYZ " + bytes(4) + white,
        b"kTRC": b"curv" + bytes(4) + struct.pack(">I", 0),
    }
    start = 132 + 12 * len(tags)
    index, body = struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        index += tag + struct.pack(">II", start + len(body), len(content))
        body += content
    head = struct.pack(">I", start + len(body)) + b"none" + bytes([2, 64, 0, 0]) + b"mntrGRAYXYZ " + bytes(12)
    return head + b"acsp" + bytes(28) + white + bytes(48) + index + body


values = np.arange(256) / 255
wanted = 255 * np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)
ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
source = ImageCms.ImageCmsProfile(io.BytesIO(make_linear_grey_profile()))
errors = {}
for name, flags in (("default", 0), ("NOOPTIMIZE", ImageCms.Flags.NOOPTIMIZE)):
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "L", "RGB", flags=flags)
    result = np.asarray(ImageCms.applyTransform(ramp, transform))[0, :, 0].astype(float)
    worst = int(np.abs(result - wanted).argmax())
    errors[name] = float(np.abs(result - wanted).max())
    print(f"{name}: level {worst} becomes {result[worst]:.0f}, right is {wanted[worst]:.1f}: {errors[name]:.1f} levels")
print(f"Pillow {PIL.__version__}, Little CMS {ImageCms.core.littlecms_version}")
assert PIL.__version__ == "13.0.0"
assert 9 < errors["default"] < 10.5, "the behaviour has changed"
assert errors["NOOPTIMIZE"] < 0.6, "the behaviour has changed"
PYTHON
