"""Data augmentation: pure functions on whole batches, deterministic given their generator.

All functions take and return images (n, 3, height, width), values 0 to 255, uint8 or float. The generator is a CPU
generator on every device, so that the same seed gives the same augmentation on a laptop and on an accelerator. If
several processes share a batch, each draws for all of it (`BatchRandom`), so a picture's augmentation stays the same.

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

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601 weights of red, green and blue
MAX_ASPECT_RATIO = 4 / 3  # of a crop relative to its picture; at least 3/4
ERASED_AREA = (0.02, 0.25)  # fraction of the picture


@dataclass(frozen=True)
class BatchRandom:
    """Random numbers for a batch; other processes have the `offset` pictures before and the `after` behind."""

    generator: Generator
    offset: int = 0
    after: int = 0

    def draw(self, count: int) -> Tensor:
        """Return `count` numbers in 0..1, float32, for the pictures of this process."""
        numbers = torch.rand(self.offset + count + self.after, generator=self.generator)
        return numbers[self.offset : self.offset + count]


def augment(images: Tensor, settings: AugmentConfig, rng: BatchRandom, *, size: int | None = None) -> Tensor:
    """Return the augmented pictures as float32 in 0..255; a disabled augmentation draws no numbers.

    size: height and width of the result, if other than those of the images.
    """
    if settings.mirror > 0:
        images = random_hflip(images, rng, probability=settings.mirror)
    if settings.crop_min_area < 1:
        images = random_resized_crop(images, rng, min_area=settings.crop_min_area, size=size)
    elif size is not None and images.shape[2:] != (size, size):
        images = functional.interpolate(images.float(), size, mode="bilinear", antialias=True)
    if settings.colour_jitter > 0:
        images = colour_jitter(images, rng, strength=settings.colour_jitter)
    if settings.erasing > 0:
        images = random_erasing(images, rng, probability=settings.erasing)
    return images.float()


def random_hflip(images: Tensor, rng: BatchRandom, *, probability: float = 0.5) -> Tensor:
    """Return the pictures, each mirrored left to right with `probability`; keeps the dtype."""
    mask = _random_mask(images, rng, probability)
    mirrored = images.clone()
    mirrored[mask] = images[mask].flip(-1)
    return mirrored


def random_resized_crop(
    images: Tensor,
    rng: BatchRandom,
    *,
    min_area: float,
    max_aspect_ratio: float = MAX_ASPECT_RATIO,
    size: int | None = None,
) -> Tensor:
    """Return, as float32, a random crop of each picture, resized to the whole frame by bilinear sampling.

    The crop covers `min_area` to 1 of the picture's area. size: height and width of the result, by default those of the
    images, so that nothing shrinks. Shrinking is not antialiased: use at least half of the side.
    """
    count, _, height, width = images.shape
    if size is not None:
        height = width = size
    area = _uniform(count, rng, min_area, 1.0)
    stretch = _uniform(count, rng, -math.log(max_aspect_ratio), math.log(max_aspect_ratio)).exp()
    columns = _sample_points((area * stretch).sqrt().clamp(max=1), width, rng)
    rows = _sample_points((area / stretch).sqrt().clamp(max=1), height, rng)
    # Rows and columns are expanded here: affine_grid multiplies matrices and takes as long as the sampling.
    grid = [part.expand(count, height, width) for part in (columns[:, None, :], rows[:, :, None])]
    points = torch.stack(grid, dim=-1).to(images.device)
    pixels = images.to(torch.float32, memory_format=torch.contiguous_format)
    cropped = functional.grid_sample(pixels, points, mode="bilinear", padding_mode="border", align_corners=False)
    return cropped.clamp_(0, 255)


def colour_jitter(images: Tensor, rng: BatchRandom, *, strength: float) -> Tensor:
    """Return, as float32, the pictures with saturation, brightness and contrast scaled by 1 ± `strength` at most.

    All three are affine in the colour, so each picture needs one 3x3 matrix and one offset: x -> matrix x + offset.
    """
    count, _, height, width = images.shape
    saturation, brightness, contrast = (
        _uniform(count, rng, 1 - strength, 1 + strength).to(images.device)[:, None, None] for _ in range(3)
    )
    luma = torch.tensor(LUMA, device=images.device)
    pixels = images.to(torch.float32, memory_format=torch.contiguous_format).view(count, 3, height * width)
    mean_luma = (pixels.mean(dim=2) @ luma)[:, None, None]
    grey = luma.expand(3, 3)  # maps a colour to its luma in all three channels
    matrix = contrast * brightness * (saturation * torch.eye(3, device=images.device) + (1 - saturation) * grey)
    offset = (1 - contrast) * brightness * mean_luma  # contrast is scaled around the picture's mean luma
    jittered = torch.baddbmm(offset.expand(count, 3, 1), matrix, pixels)
    return jittered.clamp_(0, 255).view(count, 3, height, width)


def random_erasing(images: Tensor, rng: BatchRandom, *, probability: float) -> Tensor:
    """Return the pictures, each with `probability` filled in a rectangle with its mean colour; keeps the dtype.

    After Zhong et al. 2017, "Random Erasing"; filling with the mean keeps the channel statistics.
    """
    count, _, height, width = images.shape
    area = _uniform(count, rng, *ERASED_AREA)
    stretch = _uniform(count, rng, -math.log(2), math.log(2)).exp()
    erased_rows = _interval((area / stretch).sqrt(), height, rng)
    erased_columns = _interval((area * stretch).sqrt(), width, rng)
    erased = (erased_rows[:, None, :, None] & erased_columns[:, None, None, :]).to(images.device)
    mask = _random_mask(images, rng, probability)[:, None, None, None]
    fill = images.float().mean(dim=(2, 3), keepdim=True).to(images.dtype)
    return torch.where(erased & mask, fill, images)


def _uniform(count: int, rng: BatchRandom, low: float, high: float) -> Tensor:
    return low + (high - low) * rng.draw(count)


def _random_mask(images: Tensor, rng: BatchRandom, probability: float) -> Tensor:
    """Boolean (n,) on the images' device, True with `probability`."""
    return (rng.draw(len(images)) < probability).to(images.device)


def _sample_points(extent: Tensor, pixels: int, rng: BatchRandom) -> Tensor:
    """Float (n, pixels) in -1..1: sampling positions of a crop of `extent` (n,) in 0..1 at a random position."""
    start = rng.draw(len(extent)) * (1 - extent)
    return 2 * (start[:, None] + extent[:, None] * _pixel_centres(pixels)) - 1


def _interval(extent: Tensor, pixels: int, rng: BatchRandom) -> Tensor:
    """Boolean (n, pixels): an interval of `extent` (n,) in 0..1 at a random position."""
    start, centres = rng.draw(len(extent)) * (1 - extent), _pixel_centres(pixels)
    return (centres >= start[:, None]) & (centres < (start + extent)[:, None])


def _pixel_centres(pixels: int) -> Tensor:
    return (torch.arange(pixels) + 0.5) / pixels
