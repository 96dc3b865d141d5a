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

from bestiary.errors import import_optional
from bestiary.recipe_sections import AugmentConfig

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

    size: height and width of the result, if other than those of the images. Raises ValueError for turns of images that
    are not square.
    """
    if settings.mirror > 0:
        images = random_hflip(images, rng, probability=settings.mirror)
    if settings.vertical_mirror > 0:
        images = random_vflip(images, rng, probability=settings.vertical_mirror)
    if settings.turn == "quarters":
        images = random_quarter_turn(images, rng)
    if settings.crop_min_area < 1 or settings.turn == "any":
        images = random_resized_crop(
            images,
            rng,
            min_area=settings.crop_min_area,
            max_aspect_ratio=MAX_ASPECT_RATIO if settings.crop_min_area < 1 else 1.0,
            size=size,
            turn=settings.turn == "any",
        )
    elif size is not None and images.shape[2:] != (size, size):
        images = functional.interpolate(images.float(), size, mode="bilinear", antialias=True)
    if settings.policy == "trivial":
        images = trivial_augment(images, rng)
    if settings.colour_jitter > 0:
        images = colour_jitter(images, rng, strength=settings.colour_jitter)
    if settings.erasing > 0:
        images = random_erasing(images, rng, probability=settings.erasing)
    return images.float()


def trivial_augment(images: Tensor, rng: BatchRandom) -> Tensor:
    """Return the pictures as uint8, each changed by one random operation of random strength, or left as it is.

    Müller and Hutter 2021, "TrivialAugment", in torchvision's version ("Wide", with bilinear sampling). What a shift or
    a turn leaves empty gets the picture's mean colour. torchvision draws from torch's global generator, which is seeded
    for each picture and put back afterwards. One thread: the operations on one picture are too small to be shared.
    Raises MissingExtraError without torchvision.
    """
    transforms = import_optional("torchvision.transforms.v2", extra="torch")
    seeds = (rng.draw(len(images)).double() * 2**24).long().tolist()  # float32 in 0..1 has 24 bits
    pixels = images if images.dtype == torch.uint8 else images.round().clamp(0, 255).to(torch.uint8)
    fills = pixels.float().mean(dim=(2, 3)).tolist()
    changed, state, threads = torch.empty_like(pixels), torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for row, (seed, fill) in enumerate(zip(seeds, fills, strict=True)):
            torch.default_generator.manual_seed(seed)
            bilinear = transforms.InterpolationMode.BILINEAR
            changed[row] = transforms.TrivialAugmentWide(interpolation=bilinear, fill=fill)(pixels[row])
    finally:
        torch.set_rng_state(state)
        torch.set_num_threads(threads)
    return changed


def random_hflip(images: Tensor, rng: BatchRandom, *, probability: float = 0.5) -> Tensor:
    """Return the pictures, each mirrored left to right with `probability`; keeps the dtype."""
    return _random_flip(images, rng, probability, axis=-1)


def random_vflip(images: Tensor, rng: BatchRandom, *, probability: float = 0.5) -> Tensor:
    """Return the pictures, each turned upside down as by a mirror with `probability`; keeps the dtype."""
    return _random_flip(images, rng, probability, axis=-2)


def random_quarter_turn(images: Tensor, rng: BatchRandom) -> Tensor:
    """Return the pictures, each turned by 0, 90, 180 or 270 degrees, equally often; keeps the dtype.

    Raises ValueError if height and width differ.
    """
    _check_square(images)
    quarters = (rng.draw(len(images)) * 4).long().to(images.device)
    turned = images.clone()
    for number in (1, 2, 3):
        mask = quarters == number
        turned[mask] = images[mask].rot90(number, (-2, -1))
    return turned


def random_resized_crop(
    images: Tensor,
    rng: BatchRandom,
    *,
    min_area: float,
    max_aspect_ratio: float = MAX_ASPECT_RATIO,
    size: int | None = None,
    turn: bool = False,
) -> Tensor:
    """Return, as float32, a random crop of each picture, resized to the whole frame by bilinear sampling.

    The crop covers `min_area` to 1 of the picture's area. size: height and width of the result, by default those of the
    images, so that nothing shrinks. Shrinking is not antialiased: use at least half of the side. turn: first turn each
    picture by any angle around its centre; the corners that this leaves empty show its reflection. Raises ValueError if
    pictures to turn are not square.
    """
    count, _, height, width = images.shape
    if size is not None:
        height = width = size
    area = _uniform(count, rng, min_area, 1.0)
    stretch = _uniform(count, rng, -math.log(max_aspect_ratio), math.log(max_aspect_ratio)).exp()
    columns = _sample_points((area * stretch).sqrt().clamp(max=1), width, rng)
    rows = _sample_points((area / stretch).sqrt().clamp(max=1), height, rng)
    # Rows and columns are expanded here: affine_grid multiplies matrices and takes as long as the sampling.
    x, y = columns[:, None, :], rows[:, :, None]
    if turn:
        _check_square(images)
        angle = _uniform(count, rng, 0, 2 * math.pi)[:, None, None]
        x, y = angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y
    points = torch.stack([part.expand(count, height, width) for part in (x, y)], dim=-1).to(images.device)
    pixels = images.to(torch.float32, memory_format=torch.contiguous_format)
    padding = "reflection" if turn else "border"
    cropped = functional.grid_sample(pixels, points, mode="bilinear", padding_mode=padding, align_corners=False)
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


def _check_square(images: Tensor) -> None:
    """Raise ValueError if height and width differ: a turned picture would not fit its frame."""
    height, width = images.shape[-2:]
    if height != width:
        raise ValueError(f"Turns need square images; got {height} x {width} (height x width).")


def _random_flip(images: Tensor, rng: BatchRandom, probability: float, *, axis: int) -> Tensor:
    mask = _random_mask(images, rng, probability)
    flipped = images.clone()
    flipped[mask] = images[mask].flip(axis)
    return flipped


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
