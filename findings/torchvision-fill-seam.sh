#!/bin/sh
# torchvision 0.29.1 with torch 2.14.1: a white tensor that is rotated by 30 degrees with a white fill has a grey seam. Of 128 x 128
# pixels 1.3 % are darker than 255, down to 191. The same call on a PIL picture, and on a tensor with nearest-neighbour interpolation,
# gives 255 everywhere. Bilinear sampling takes zeros from outside the picture into the edge, and the fill is then blended over it
# with the same weights once more: at a weight of one half, 0.5 * (0.5 * 255) + 0.5 * 255 = 191. affine, perspective and elastic share
# it, so RandomRotation, TrivialAugmentWide and others draw a line along the edge of a picture whose fill was chosen to hide it.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check "torch==2.14.1" "torchvision==0.29.1" "numpy==2.4.6" >/dev/null 2>&1
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torchvision
from torchvision.transforms.v2 import ElasticTransform, InterpolationMode, RandomPerspective
from torchvision.transforms.v2 import functional as F

assert torchvision.__version__.partition("+")[0] == "0.29.1"
torch.manual_seed(0)
white = torch.full((3, 128, 128), 255, dtype=torch.uint8)
bilinear, nearest = InterpolationMode.BILINEAR, InterpolationMode.NEAREST
rotated = F.rotate(white, 30, interpolation=bilinear, fill=255)
share = (rotated < 255).float().mean().item()
print(f"rotate: smallest value {rotated.min().item()}, {share:.2%} of the values below 255")
assert rotated.min() == 191 and 0.010 < share < 0.016
others = {
    "affine": F.affine(white, 30, [0, 0], 1.0, [0, 0], interpolation=bilinear, fill=255),
    "perspective": RandomPerspective(p=1, fill=255)(white),
    "elastic": ElasticTransform(alpha=100.0, fill=255)(white),
}
for name, result in others.items():
    print(f"{name}: smallest value {result.min().item()}")
    assert 185 <= result.min() <= 200
pil = F.pil_to_tensor(F.rotate(F.to_pil_image(white), 30, interpolation=bilinear, fill=255))
print("PIL:", pil.min().item(), "nearest:", F.rotate(white, 30, interpolation=nearest, fill=255).min().item())
assert pil.min() == 255 and F.rotate(white, 30, interpolation=nearest, fill=255).min() == 255
PYTHON
echo "As described: a white tensor gets a grey seam, a white PIL picture does not."
