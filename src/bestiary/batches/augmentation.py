"""Random changes to training pictures: pure functions on whole batches, deterministic in their generator.

Everywhere: images (n, 3, height, width), values 0 to 255, uint8 or float; the same shape comes back. The generator is a
CPU generator on every device, so that the same seed draws the same changes on a laptop and on an accelerator. Where
several processes share a batch, each draws for the whole of it (`BatchRandom`): a picture is changed in the same way.

>>> import torch
>>> from bestiary.recipe import AugmentConfig
>>> images = torch.full((2, 3, 8, 8), 100, dtype=torch.uint8)
>>> changed = augment(images, AugmentConfig(), BatchRandom(torch.Generator().manual_seed(0)))
>>> changed.shape, changed.dtype
(torch.Size([2, 3, 8, 8]), torch.float32)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

from bestiary.recipe import AugmentConfig

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: the weights of red, green and blue in brightness
MAX_ASPECT_RATIO = 4 / 3  # a crop's aspect ratio, against the picture's own, lies between 3/4 and 4/3
ERASED_AREA = (0.02, 0.25)  # of the picture


@dataclass(frozen=True)
class BatchRandom:
    """Random numbers for the pictures of a batch; `before` and `after` of them are with other processes."""

    generator: Generator
    offset: int = 0
    after: int = 0

    def draw(self, count: int) -> Tensor:
        """Return `count` numbers in 0..1, float32: those of this process's pictures."""
        numbers = torch.rand(self.offset + count + self.after, generator=self.generator)
        return numbers[self.offset : self.offset + count]


def augment(images: Tensor, settings: AugmentConfig, chance: BatchRandom, *, size: int | None = None) -> Tensor:
    """Return the changed pictures as float32 in 0..255. A part whose setting turns it off draws no numbers.

    size: height and width of what comes back, where it is not that of the images.
    """
    if settings.mirror > 0:
        images = random_hflip(images, chance, probability=settings.mirror)
    if settings.crop_min_area < 1:
        images = random_resized_crop(images, chance, min_area=settings.crop_min_area, size=size)
    elif size is not None and images.shape[2:] != (size, size):
        images = functional.interpolate(images.float(), size, mode="bilinear", antialias=True)
    if settings.colour_jitter > 0:
        images = colour_jitter(images, chance, strength=settings.colour_jitter)
    if settings.erasing > 0:
        images = random_erasing(images, chance, probability=settings.erasing)
    return images.float()


def random_hflip(images: Tensor, chance: BatchRandom, *, probability: float = 0.5) -> Tensor:
    """Return the pictures, about `probability` of them mirrored left to right; dtype is kept."""
    chosen = _random_mask(images, chance, probability)
    mirrored = images.clone()
    mirrored[chosen] = images[chosen].flip(-1)
    return mirrored


def random_resized_crop(
    images: Tensor,
    chance: BatchRandom,
    *,
    min_area: float,
    max_aspect_ratio: float = MAX_ASPECT_RATIO,
    size: int | None = None,
) -> Tensor:
    """Return, as float32, a random part of each picture, scaled to the whole frame by bilinear sampling.

    The part covers `min_area` to all of the picture's area. size: height and width of what comes back, of the images
    by default; then nothing shrinks. Smaller ones are not antialiased: half of the side is as far as it should go.
    """
    count, _, height, width = images.shape
    if size is not None:
        height = width = size
    area = _uniform(count, chance, min_area, 1.0)
    stretch = _uniform(count, chance, -math.log(max_aspect_ratio), math.log(max_aspect_ratio)).exp()
    columns = _sample_points((area * stretch).sqrt().clamp(max=1), width, chance)
    rows = _sample_points((area / stretch).sqrt().clamp(max=1), height, chance)
    # Rows and columns are spread out here: affine_grid multiplies matrices for it and takes as long as the sampling.
    points = torch.stack(
        (columns[:, None, :].expand(count, height, width), rows[:, :, None].expand(count, height, width)), dim=-1
    ).to(images.device)
    pixels = images.to(torch.float32, memory_format=torch.contiguous_format)
    cropped = functional.grid_sample(pixels, points, mode="bilinear", padding_mode="border", align_corners=False)
    return cropped.clamp_(0, 255)


def colour_jitter(images: Tensor, chance: BatchRandom, *, strength: float) -> Tensor:
    """Return, as float32, the pictures with saturation, brightness and contrast changed by up to 1 ± `strength`.

    All three are affine in the colour, so each picture needs one 3x3 matrix and one offset: x -> matrix x + offset.
    """
    count, _, height, width = images.shape
    saturation, brightness, contrast = (
        _uniform(count, chance, 1 - strength, 1 + strength).to(images.device)[:, None, None] for _ in range(3)
    )
    luma = torch.tensor(LUMA, device=images.device)
    pixels = images.to(torch.float32, memory_format=torch.contiguous_format).view(count, 3, height * width)
    mean_luma = (pixels.mean(dim=2) @ luma)[:, None, None]
    grey = luma.expand(3, 3)  # maps a colour to its brightness in all three channels
    matrix = contrast * brightness * (saturation * torch.eye(3, device=images.device) + (1 - saturation) * grey)
    offset = (1 - contrast) * brightness * mean_luma  # contrast turns around the picture's own brightness
    jittered = torch.baddbmm(offset.expand(count, 3, 1), matrix, pixels)
    return jittered.clamp_(0, 255).view(count, 3, height, width)


def random_erasing(images: Tensor, chance: BatchRandom, *, probability: float) -> Tensor:
    """Return the pictures, about `probability` of them with a rectangle in the picture's mean colour; dtype is kept.

    After Zhong et al. 2017, "Random Erasing"; the mean keeps the statistics that networks normalise by.
    """
    count, _, height, width = images.shape
    area = _uniform(count, chance, *ERASED_AREA)
    stretch = _uniform(count, chance, -math.log(2), math.log(2)).exp()
    erased_rows = _interval((area / stretch).sqrt(), height, chance)
    erased_columns = _interval((area * stretch).sqrt(), width, chance)
    erased = (erased_rows[:, None, :, None] & erased_columns[:, None, None, :]).to(images.device)
    chosen = _random_mask(images, chance, probability)[:, None, None, None]
    fill = images.float().mean(dim=(2, 3), keepdim=True).to(images.dtype)
    return torch.where(erased & chosen, fill, images)


def _uniform(count: int, chance: BatchRandom, low: float, high: float) -> Tensor:
    return low + (high - low) * chance.draw(count)


def _random_mask(images: Tensor, chance: BatchRandom, probability: float) -> Tensor:
    """Boolean (n,) on the images' device: the pictures that are changed."""
    return (chance.draw(len(images)) < probability).to(images.device)


def _sample_points(extent: Tensor, pixels: int, chance: BatchRandom) -> Tensor:
    """Float (n, pixels) in -1..1: where to sample, for parts of `extent` (n,) in 0..1 at a random place."""
    start = chance.draw(len(extent)) * (1 - extent)
    centres = (torch.arange(pixels) + 0.5) / pixels
    return 2 * (start[:, None] + extent[:, None] * centres) - 1


def _interval(extent: Tensor, pixels: int, chance: BatchRandom) -> Tensor:
    """Boolean (n, pixels): an interval of `extent` (n,) in 0..1 at a random place."""
    start = chance.draw(len(extent)) * (1 - extent)
    centres = (torch.arange(pixels) + 0.5) / pixels
    return (centres >= start[:, None]) & (centres < (start + extent)[:, None])
