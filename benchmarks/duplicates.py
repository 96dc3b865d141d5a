"""Near-duplicates: how many planted copies are found, what is found beside them, and how long it takes.

    python benchmarks/duplicates.py PICTURES [--labels animals10] [--contact-sheet FILE.png]

Plants 300 copies of pictures of the collection, 60 of each kind, in a temporary folder; lists every pair found among
the untouched pictures beyond those that the hash alone gives, for somebody to look at; searches 200,000 random hashes
with planted near ones. Seeds are fixed. Times are of one run; the first of the collection reads every picture.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image

from bestiary.data import duplicates, hamming_search
from bestiary.data.label_map import label_map
from bestiary.data.registration import VIEWS
from bestiary.data.scan import scan_pictures
from bestiary.data.sources import PictureList, list_pictures
from bestiary.machine import available_cores
from bestiary.picture import DecodeLimits, open_picture
from bestiary.progress import SilentReporter
from bestiary.recipe import DataConfig

Random = np.random.Generator
EACH = 60
MANY = 200_000


def resized(image: Image.Image, _: Random) -> Image.Image:
    return image.resize((round(0.7 * image.width), round(0.7 * image.height)), Image.Resampling.BICUBIC)


def brightened(image: Image.Image, random: Random) -> Image.Image:
    """Shift every value by 20 to 50 of 255, up or down."""
    shift = int(random.integers(20, 51)) * int(random.choice([-1, 1]))
    return image.point(lambda value: value + shift)  # Pillow clips to 0..255


def mirrored(image: Image.Image, _: Random) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def cropped(image: Image.Image, random: Random) -> Image.Image:
    """Cut 5 % off: of each edge, or of the width and the height wherever it falls, in turn at random."""
    left, top, right, bottom = 0.05, 0.05, 0.95, 0.95
    if random.random() < 0.5:
        left, top = random.uniform(0, 0.05, 2)
        right, bottom = left + 0.95, top + 0.95
    width, height = image.size
    return image.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))


KINDS: dict[str, tuple[Callable[[Image.Image, Random], Image.Image], int]] = {  # and the JPEG quality of the copy
    "re-encoded": (lambda image, _: image, 40),
    "resized": (resized, 90),
    "brightness": (brightened, 90),
    "mirrored": (mirrored, 90),
    "cropped": (cropped, 90),
}


def plant(pictures: pl.DataFrame, folder: Path, seed: int) -> dict[str, list[tuple[str, str]]]:
    """Write 60 copies of each kind; return original and copy of each."""
    random = np.random.default_rng(seed)
    chosen = iter(random.permutation(pictures["path"].to_list())[: EACH * len(KINDS)].tolist())
    planted: dict[str, list[tuple[str, str]]] = {kind: [] for kind in KINDS}
    for kind, (change, quality) in KINDS.items():
        for number in range(EACH):
            original = next(chosen)
            copy = folder / "copies" / f"{kind}-{number}.jpg"
            copy.parent.mkdir(exist_ok=True)
            change(open_picture(Path(original)).image, random).save(copy, quality=quality)
            planted[kind].append((original, str(copy)))
    return planted


def found_of(planted: dict[str, list[tuple[str, str]]], paths: list[str], pairs: npt.NDArray[np.int64]) -> None:
    """Print how many copies are in the group of their original: of equal hashes only the first has pairs of its own."""
    group = dict(zip(paths, duplicates.connected_groups(len(paths), pairs).tolist(), strict=True))
    for kind, copies in planted.items():
        missed = [Path(copy).name for original, copy in copies if group[original] != group[copy]]
        print(f"  {kind:12s} {len(copies) - len(missed):3d} of {len(copies)}", f"(missed: {missed})" if missed else "")


def search_of_many() -> None:
    """Search random hashes among which pairs at 10, 20, 30 and 40 bits are planted."""
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**64, (MANY, 4), np.uint64)
    wanted = {}
    for number, distance in enumerate(np.repeat([10, 20, 30, 40], 500)):
        flipped = np.zeros(256, np.uint8)
        flipped[random.choice(256, distance, replace=False)] = 1
        bits[MANY - 1 - number] = bits[number] ^ np.packbits(flipped).view(np.uint64)
        wanted[number, MANY - 1 - number] = int(distance)
    begun = time.perf_counter()
    pairs = hamming_search.find_near_pairs(bits, 40, threads=available_cores())
    seconds = time.perf_counter() - begun
    found = {(left, right): distance for left, right, distance in pairs.tolist()}
    print(
        f"{MANY:,} hashes: {seconds:.1f} s; {len(found)} pairs, {sum(found.get(p) == d for p, d in wanted.items())}",
        end="",
    )
    print(f" of {len(wanted)} planted ones at 10, 20, 30 and 40 bits")


def search_of_many_pictures() -> None:
    """Search as many thumbnails and hashes, with every view: random ones that are as smooth as pictures are."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (MANY, 8, 8), np.uint8)
    thumbnails = [
        np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)).tobytes() for one in coarse
    ]
    frame = pl.DataFrame(
        {
            "sha256": [str(number) for number in range(MANY)],
            "phash": [one.tobytes().hex() for one in random.integers(0, 2**64, (MANY, 4), np.uint64)],
            "thumbnail": thumbnails,
            "error": pl.Series([None] * MANY, dtype=pl.String),
        }
    )
    begun = time.perf_counter()
    pairs = duplicates.find_duplicate_pairs(frame, DataConfig().near_duplicate_bits, threads=available_cores())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{MANY:,} pictures, {len(VIEWS)} views of each: {time.perf_counter() - begun:.1f} s, {len(pairs)} pairs,",
        end="",
    )
    print(f" peak memory {peak:,.0f} MB")


def contact_sheet(pairs: list[tuple[str, str]], out: Path, *, side: int = 150, columns: int = 5) -> None:
    sheet = Image.new("RGB", (columns * (2 * side + 8), -(-len(pairs) // columns) * (side + 4)), "white")
    for number, pair in enumerate(pairs):
        for place, path in enumerate(pair):
            corner = number % columns * (2 * side + 8) + place * side, number // columns * (side + 4)
            sheet.paste(open_picture(Path(path)).image.resize((side, side)), corner)
    sheet.save(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--labels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--contact-sheet", type=Path)
    asked = parser.parse_args()

    listing = list_pictures(asked.pictures, label_map(asked.labels), reporter=SilentReporter())
    begun = time.perf_counter()
    pictures = _measured(listing)
    print(
        f"{pictures.height:,} pictures measured in {time.perf_counter() - begun:.1f} s by {available_cores()} processes"
    )

    begun = time.perf_counter()
    pairs = duplicates.find_duplicate_pairs(pictures, DataConfig().near_duplicate_bits, threads=available_cores())
    seconds = time.perf_counter() - begun
    added = pairs[(pairs[:, 2] > DataConfig().near_duplicate_bits) | (pairs[:, 3] > 0)]
    paths = pictures["path"].to_list()
    print(f"{len(pairs)} pairs in {seconds:.1f} s, {len(added)} of them beyond the hash:")
    for left, right, bits, how in added.tolist():
        print(f"  {bits:2d} bits{duplicates.HOW[how]}: {_short(paths[left])}  {_short(paths[right])}")
    if asked.contact_sheet:
        contact_sheet([(paths[left], paths[right]) for left, right, *_ in added.tolist()], asked.contact_sheet)

    with tempfile.TemporaryDirectory() as folder:
        planted = plant(pictures, Path(folder), asked.seed)
        copies = _measured(list_pictures(Path(folder), label_map(None), reporter=SilentReporter()))
    together = pl.concat([pictures.select(copies.columns), copies])
    print(f"{EACH} planted of each kind, found:")
    found_of(
        planted,
        together["path"].to_list(),
        duplicates.find_duplicate_pairs(together, DataConfig().near_duplicate_bits, threads=available_cores()),
    )
    search_of_many()
    search_of_many_pictures()


def _measured(listing: PictureList) -> pl.DataFrame:
    return scan_pictures(listing, DecodeLimits(), threads=available_cores(), cache=None, reporter=SilentReporter())


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-2:])


if __name__ == "__main__":
    main()
