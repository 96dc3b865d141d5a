"""Recall, additional pairs and running time of the search for near-duplicates.

    python benchmarks/duplicates.py PICTURES [--labels animals10] [--contact-sheet FILE.png]

Writes changed copies of pictures of the collection, 60 of each kind, to a temporary folder and counts how many are
detected. Lists every pair of original pictures that the hash alone does not detect, for review by eye. Frames 400
pictures alike and counts pairs, of which none is a copy. Searches 200,000 random hashes with planted near pairs. Seeds
are fixed. Times are of one run; the first includes decoding.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image, ImageOps

from bestiary.context import Context
from bestiary.data import duplicates, hamming_search
from bestiary.data.copy_changes import describe_changes
from bestiary.data.label_map import label_map
from bestiary.data.scan import scan_pictures
from bestiary.data.sources import PictureList, list_sources
from bestiary.data.views import VIEWS
from bestiary.machine import available_cores
from bestiary.picture import DecodeLimits, open_picture
from bestiary.recipe_sections import DataConfig
from measuring import build_parser

Random = np.random.Generator
EACH = 60
MANY = 200_000


def resize(image: Image.Image, _: Random) -> Image.Image:
    return image.resize((round(0.7 * image.width), round(0.7 * image.height)), Image.Resampling.BICUBIC)


def change_brightness(image: Image.Image, random: Random) -> Image.Image:
    """Shift every value by 20 to 50 of 255, up or down."""
    shift = int(random.integers(20, 51)) * int(random.choice([-1, 1]))
    return image.point(lambda value: value + shift)  # Pillow clips to 0..255


def mirror(image: Image.Image, _: Random) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def crop(image: Image.Image, random: Random) -> Image.Image:
    """Crop 5 % from each edge, or 5 % of the width and the height at a random position."""
    low, high = np.full(2, 0.05), np.full(2, 0.95)
    if random.random() < 0.5:
        low = random.uniform(0, 0.05, 2)
        high = low + 0.95
    (x1, y1), (x2, y2) = low * image.size, high * image.size
    return image.crop((round(x1), round(y1), round(x2), round(y2)))


def crop_fifth(image: Image.Image, random: Random) -> Image.Image:
    """Keep 80 % of the width and of the height, at a random position."""
    low = random.uniform(0, 0.2, 2)
    (x1, y1), (x2, y2) = low * image.size, (low + 0.8) * image.size
    return image.crop((round(x1), round(y1), round(x2), round(y2)))


def crop_every_edge(image: Image.Image, _: Random) -> Image.Image:
    return image.crop((image.width // 5, image.height // 5, image.width - image.width // 5, image.height * 4 // 5))


def shift(image: Image.Image, random: Random, *, fill: str = "edge", fraction: float = 0.1) -> Image.Image:
    """Shift by a tenth along both axes, in a random direction; what is empty becomes black, or continues the edge."""
    pixels = np.asarray(image)
    down, across = (round(fraction * side) * int(random.choice([-1, 1])) for side in pixels.shape[:2])
    margin = ((abs(down),) * 2, (abs(across),) * 2, (0, 0))
    padded = np.pad(pixels, margin, mode="edge") if fill == "edge" else np.pad(pixels, margin)
    rows, columns = (np.arange(side) for side in pixels.shape[:2])
    return Image.fromarray(padded[rows + abs(down) - down][:, columns + abs(across) - across])


def tilt(image: Image.Image, random: Random, *, degrees: float = 4) -> Image.Image:
    return image.rotate(degrees * float(random.choice([-1, 1])), Image.Resampling.BICUBIC)


Transpose = Image.Transpose
KINDS: dict[str, tuple[Callable[[Image.Image, Random], Image.Image], int]] = {  # and the JPEG quality of the copy
    "re-encoded": (lambda image, _: image, 40),
    "resized": (resize, 90),
    "brightness": (change_brightness, 90),
    "without colour": (lambda image, _: image.convert("L").convert("RGB"), 90),
    "mirrored": (mirror, 90),
    "turned by 90": (lambda image, _: image.transpose(Transpose.ROTATE_90), 90),
    "turned by 180": (lambda image, _: image.transpose(Transpose.ROTATE_180), 90),
    "upside down": (lambda image, _: image.transpose(Transpose.FLIP_TOP_BOTTOM), 90),
    "inverted": (lambda image, _: ImageOps.invert(image), 90),
    "cropped 5 %": (crop, 90),
    "cropped 20 %": (crop_fifth, 90),
    "cropped 20 % at each edge": (crop_every_edge, 90),
    "shifted 10 %": (shift, 90),
    "shifted 10 %, black": (partial(shift, fill="black"), 90),
    "turned by 4": (tilt, 90),
    "turned by 10": (partial(tilt, degrees=10), 90),
}


def plant(pictures: pl.DataFrame, folder: Path, seed: int) -> dict[str, list[tuple[str, str]]]:
    """Write 60 copies of each kind; return the paths of originals and copies by kind."""
    random = np.random.default_rng(seed)
    chosen = iter(random.permutation(pictures["path"].to_list())[: EACH * len(KINDS)].tolist())
    planted: dict[str, list[tuple[str, str]]] = {kind: [] for kind in KINDS}
    for kind, (change, quality) in KINDS.items():
        for number in range(EACH):
            original = next(chosen)
            copy = folder / "copies" / f"{kind}-{number}.jpg".replace(" ", "-")
            copy.parent.mkdir(exist_ok=True)
            change(open_picture(Path(original)).image, random).save(copy, quality=quality)
            planted[kind].append((original, str(copy)))
    return planted


def print_recall(planted: dict[str, list[tuple[str, str]]], paths: list[str], pairs: npt.NDArray[np.int64]) -> None:
    """Print how many copies are in the group of their original, directly or through a picture with the same hash."""
    group = dict(zip(paths, duplicates.connected_groups(len(paths), pairs).tolist(), strict=True))
    for kind, copies in planted.items():
        missed = [Path(copy).name for original, copy in copies if group[original] != group[copy]]
        print(f"  {kind:26s} {len(copies) - len(missed):3d} of {len(copies)}", f"(missed: {missed})" if missed else "")


def draw_hashes(count: int) -> tuple[npt.NDArray[np.uint64], dict[tuple[int, int], int]]:
    """Return random hashes, uint64 (count, 4), and the pairs planted among them, 500 each at 10, 20, 30 and 40 bits."""
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**64, (count, 4), np.uint64)
    planted = {}
    for number, distance in enumerate(np.repeat([10, 20, 30, 40], 500)):
        flipped = np.zeros(256, np.uint8)
        flipped[random.choice(256, distance, replace=False)] = 1
        bits[count - 1 - number] = bits[number] ^ np.packbits(flipped).view(np.uint64)
        planted[number, count - 1 - number] = int(distance)
    return bits, planted


def time_hash_search() -> None:
    """Print time and recall of the search among random hashes with pairs planted at 10, 20, 30 and 40 bits."""
    bits, planted = draw_hashes(MANY)
    start = time.perf_counter()
    pairs = hamming_search.find_near_pairs(bits, 40, threads=available_cores())
    seconds = time.perf_counter() - start
    distances = {(first, second): distance for first, second, distance in pairs.tolist()}
    detected = sum(distances.get(pair) == distance for pair, distance in planted.items())
    print(f"{MANY:,} hashes: {seconds:.1f} s; {len(distances)} pairs,", end="")
    print(f" {detected} of {len(planted)} planted ones at 10, 20, 30 and 40 bits")


def time_view_search() -> None:
    """Print time and peak memory of the search among as many random hashes and smooth thumbnails, with every view."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (MANY, 8, 8), np.uint8)
    thumbnails = [
        np.asarray(Image.fromarray(grid).resize((32, 32), Image.Resampling.BICUBIC)).tobytes() for grid in coarse
    ]
    frame = pl.DataFrame(
        {
            "sha256": [str(number) for number in range(MANY)],
            "phash": [phash.tobytes().hex() for phash in random.integers(0, 2**64, (MANY, 4), np.uint64)],
            "thumbnail": thumbnails,
            "error": pl.Series([None] * MANY, dtype=pl.String),
        }
    )
    start = time.perf_counter()
    pairs = duplicates.find_duplicate_pairs(frame, DataConfig().near_duplicate_bits, threads=available_cores())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{MANY:,} pictures, {len(VIEWS)} views of each: {time.perf_counter() - start:.1f} s, {len(pairs)} pairs,",
        end="",
    )
    print(f" peak memory {peak:,.0f} MB")


def count_pairs_in_frames(pictures: pl.DataFrame, folder: Path, seed: int) -> None:
    """Print how many pairs are detected among 400 pictures with one kind of frame, and without."""
    chosen = pictures.filter(pl.col("error").is_null()).sample(400, seed=seed)["path"].to_list()
    frames = {"none": 0, "black, 5 %": 20, "white, 5 %": 20}
    for kind, divisor in frames.items():
        target = folder / kind.replace(" ", "-") / "framed"
        target.mkdir(parents=True)
        for number, path in enumerate(chosen):
            image = open_picture(Path(path)).image
            width = image.width // divisor if divisor else 0
            ImageOps.expand(image, width, kind.split(",")[0] if divisor else 0).save(target / f"{number}.jpg")
        framed = _scan(list_sources([target.parent], label_map(None)))
        print(f"  frame {kind:12s} {len(duplicates.find_duplicate_pairs(framed, 40))} pairs")


def write_contact_sheet(pairs: list[tuple[str, str]], out: Path, *, side: int = 150, columns: int = 5) -> None:
    sheet = Image.new("RGB", (columns * (2 * side + 8), -(-len(pairs) // columns) * (side + 4)), "white")
    for number, pair in enumerate(pairs):
        for column, path in enumerate(pair):
            corner = number % columns * (2 * side + 8) + column * side, number // columns * (side + 4)
            sheet.paste(open_picture(Path(path)).image.resize((side, side)), corner)
    sheet.save(out)


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--labels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contact-sheet", type=Path)
    arguments = parser.parse_args()

    listing = list_sources([arguments.pictures], label_map(arguments.labels))
    start = time.perf_counter()
    pictures = _scan(listing)
    print(
        f"{pictures.height:,} pictures scanned in {time.perf_counter() - start:.1f} s by {available_cores()} processes"
    )

    start = time.perf_counter()
    pairs = duplicates.find_duplicate_pairs(pictures, DataConfig().near_duplicate_bits, threads=available_cores())
    seconds = time.perf_counter() - start
    added = pairs[(pairs[:, 2] > DataConfig().near_duplicate_bits) | (pairs[:, 3] > 0)]
    paths = pictures["path"].to_list()
    print(f"{len(pairs)} pairs in {seconds:.1f} s, {len(added)} of them not by the hash alone:")
    for first, second, bits, how in added.tolist():
        print(f"  {bits:2d} bits{describe_changes(how)}: {_shorten(paths[first])}  {_shorten(paths[second])}")
    if arguments.contact_sheet:
        write_contact_sheet(
            [(paths[first], paths[second]) for first, second, *_ in added.tolist()], arguments.contact_sheet
        )

    with tempfile.TemporaryDirectory() as folder:
        planted = plant(pictures, Path(folder), arguments.seed)
        copies = _scan(list_sources([Path(folder)], label_map(None)))
    all_pictures = pl.concat([pictures.select(copies.columns), copies])
    with tempfile.TemporaryDirectory() as folder:
        print("Pairs among 400 pictures:")
        count_pairs_in_frames(pictures, Path(folder), arguments.seed)
    print(f"Detected, of {EACH} copies of each kind:")
    print_recall(
        planted,
        all_pictures["path"].to_list(),
        duplicates.find_duplicate_pairs(all_pictures, DataConfig().near_duplicate_bits, threads=available_cores()),
    )
    time_hash_search()
    time_view_search()


def _scan(listing: PictureList) -> pl.DataFrame:
    return scan_pictures(listing, DecodeLimits(), Context(cache=None))


def _shorten(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


if __name__ == "__main__":
    main()
