"""Growth of time and memory with the number of rows: near-duplicates, split, features and heads, without the pictures.

    python benchmarks/scale.py [--pictures DIR] [--sizes 10000 30000 100000 300000 1000000] [--json FILE]
        [--stages hashes duplicates crowd split table features head] [--channels 1280] [--threads 2]

hashes: the search among 256-bit hashes. duplicates: the whole search, with all views and the registration of what they
propose. crowd: the same where nine of ten pictures share one of ten backgrounds. split: groups and split of a table, as
training does them. table: the table of measured pictures is built and written. features: features are written to disk
and scaled. head: six heads are fitted to them.

Thumbnails are drawn: a mixture of squares of two pictures of DIR, whose hashes have the skewed bits of photographs; one
in twenty is a copy of another, brighter and with noise, a third of them mirrored, a third turned. Without --pictures,
random scenes take their place. Every measurement is a process of its own. Prints seconds, processor seconds, the memory
added to that before the stage and the peak of the process, then the slope of processor seconds on logarithmic axes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from bestiary.data.hamming_search import find_near_pairs
from bestiary.machine import available_cores
from measuring import build_parser, read_processor_name, read_versions, run_command

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
DRAWN_AT_ONCE, COPIES = 8_192, 0.05
LABELS, C_VALUES = 10, (4, 12, 40, 120, 400, 1200)  # of C times the number of pictures, as training tries them
Thumbnails = npt.NDArray[np.uint8]
Stage = Callable[[int, argparse.Namespace], Callable[[], str]]


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--stages", choices=STAGES, nargs="+", default=list(STAGES))
    parser.add_argument("--channels", type=int, default=1280)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)  # thumbnails that others are drawn from
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)  # in the process of a measurement
    arguments = parser.parse_args()
    if arguments.measure:
        stage, size = arguments.measure
        print(json.dumps(measure(STAGES[stage](int(size), arguments))))
        return
    print(f"{read_processor_name()}, {available_cores()} cores; {read_versions(['numpy', 'polars', 'scipy'])}")
    results: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "thumbnails.npy"
        np.save(source, read_thumbnails(arguments.pictures) if arguments.pictures else draw_scenes(4_000))
        shared = ["--channels", arguments.channels, "--threads", arguments.threads, "--source", source]
        for stage in arguments.stages:
            print(f"\n{stage:12}{'rows':>12}{'seconds':>10}{'processor':>11}{'added MB':>10}{'peak MB':>9}")
            results[stage] = []
            for size in arguments.sizes:
                command = [sys.executable, __file__, *shared, "--measure", stage, size]
                row = json.loads(run_command(command).stdout.splitlines()[-1])
                results[stage].append({"rows": size, **row})
                print(f"{'':12}{size:12,}{row['seconds']:10.2f}{row['processor']:11.2f}", end="")
                print(f"{row['added_mb']:10.0f}{row['peak_mb']:9.0f}  {row['result']}", flush=True)
                if arguments.json:  # after each, so that a long run that is stopped leaves what it measured
                    arguments.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
            if len(results[stage]) > 1:
                print(f"{'':12}slope {fit_slope(results[stage]):.2f}", flush=True)


def fit_slope(rows: list[dict[str, Any]]) -> float:
    """Return the slope of processor seconds over rows on logarithmic axes, by least squares."""
    sizes, seconds = (np.log([row[name] for row in rows]) for name in ("rows", "processor"))
    return float(np.polyfit(sizes, seconds, 1)[0])


def measure(stage: Callable[[], str]) -> dict[str, Any]:
    """Run a prepared stage once."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    before, start, processor = read_memory("VmRSS"), time.perf_counter(), time.process_time()
    result = stage()
    return {
        "seconds": time.perf_counter() - start,
        "processor": time.process_time() - processor,
        "added_mb": read_memory("VmHWM") - before,
        "peak_mb": read_memory("VmHWM"),
        "result": result,
    }


def read_memory(name: str) -> float:
    """Return the memory of this process in MB: VmRSS is the current, VmHWM the peak."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(name))


# ---- Drawn pictures ------------------------------------------------------------------------------------------------


def read_thumbnails(pictures: Path) -> Thumbnails:
    """Return the thumbnails of a collection as the scan measures them, uint8 (n, 32, 32)."""
    from bestiary.context import Context
    from bestiary.data.scan import scan_pictures
    from bestiary.data.sources import list_sources
    from bestiary.data.thumbnail_rows import unpack_thumbnails
    from bestiary.picture import DecodeLimits

    table = scan_pictures(list_sources([pictures], {}), DecodeLimits(), Context(cache=None))
    return unpack_thumbnails(table.filter(table["error"].is_null())["thumbnail"].to_list())


def draw_scenes(count: int) -> Thumbnails:
    """Return smooth random scenes, whose contrast falls with the frequency as in photographs."""
    random, frequency = np.random.default_rng(0), np.arange(16)
    waves = np.cos(np.pi * frequency[:, None] * (np.arange(32) + 0.5) / 32)
    strength = 120 / (1 + np.hypot(frequency[:, None], frequency)) ** 1.2
    scenes = waves.T @ (random.normal(0, 1, (count, 16, 16)) * strength) @ waves
    return (128 + scenes).clip(0, 255).astype(np.uint8)


def draw_thumbnails(source: Thumbnails, count: int, *, background: float = 0.0) -> Thumbnails:
    """Return drawn thumbnails, the copies last; background: the fraction before one of ten backgrounds."""
    random, originals = np.random.default_rng(0), count - round(COPIES * count)
    thumbnails = np.empty((count, 32, 32), np.uint8)
    for start in range(0, originals, DRAWN_AT_ONCE):
        size = min(DRAWN_AT_ONCE, originals - start)
        first, second = (cut_squares(source[random.integers(0, len(source), size)], random) for _ in range(2))
        weight = random.uniform(0.25, 0.75, (size, 1, 1)).astype(np.float32)
        mixed: npt.NDArray[Any] = weight * first + (1 - weight) * second
        mean = mixed.mean(axis=(1, 2), keepdims=True)
        mixed = mean + 1.4 * (mixed - mean)  # a mean of two has less contrast
        is_before = random.random(size) < background
        scenes = source[random.integers(0, 10, size)] + random.normal(0, 4, (size, 32, 32))
        scenes[:, 10:22, 10:22] = mixed[:, 10:22, 10:22]
        mixed[is_before] = scenes[is_before]
        thumbnails[start : start + size] = mixed.clip(0, 255)
    for start in range(originals, count, DRAWN_AT_ONCE):
        size = min(DRAWN_AT_ONCE, count - start)
        copies: npt.NDArray[Any] = thumbnails[random.integers(0, originals, size)].astype(np.float32)
        kind = random.integers(0, 3, size)
        copies[kind == 1] = copies[kind == 1][:, :, ::-1]
        copies[kind == 2] = np.rot90(copies[kind == 2], axes=(1, 2))
        copies = 1.03 * copies + 3 + random.normal(0, 1.5, copies.shape)
        thumbnails[start : start + size] = copies.clip(0, 255)
    return thumbnails


def cut_squares(thumbnails: Thumbnails, random: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return a random square of each thumbnail, enlarged to its size by bilinear interpolation, some mirrored."""
    count = len(thumbnails)
    side = random.uniform(0.45, 0.9, count)
    corner = random.uniform(0, 1, (2, count)) * (1 - side)
    positions = (32 * corner[:, :, None] + side[:, None] * (np.arange(32) + 0.5) - 0.5).clip(0, 30.999)
    first = positions.astype(np.int64)
    (across, down), (x, y) = (positions - first).astype(np.float32), first
    x, y, row = x[:, None, :], y[:, :, None], np.arange(count)[:, None, None]
    corners = [thumbnails[row, y + j, x + i].astype(np.float32) for j in (0, 1) for i in (0, 1)]
    top = corners[0] + (corners[1] - corners[0]) * across[:, None, :]
    below = corners[2] + (corners[3] - corners[2]) * across[:, None, :]
    squares: npt.NDArray[np.float32] = top + (below - top) * down[:, :, None]
    is_mirrored = random.random(count) < 0.5
    squares[is_mirrored] = squares[is_mirrored][:, :, ::-1]
    return squares


def hash_thumbnails(thumbnails: Thumbnails) -> npt.NDArray[np.uint64]:
    """Return the 256-bit perceptual hash of each thumbnail, uint64 (n, 4)."""
    waves = np.cos(np.pi * np.arange(16)[:, None] * (np.arange(32) + 0.5) / 32)
    weights = np.einsum("ay,bx->abyx", waves, waves).reshape(256, -1).T.astype(np.float32)
    hashes = np.empty((len(thumbnails), 4), np.uint64)
    for start in range(0, len(thumbnails), DRAWN_AT_ONCE):
        chunk = slice(start, start + DRAWN_AT_ONCE)
        low = np.round(thumbnails[chunk].reshape(-1, 1024).astype(np.float32) @ weights, 1)
        above = low > np.sort(low, axis=1)[:, 127:129].mean(axis=1, keepdims=True)
        hashes[chunk] = np.packbits(above, axis=1).view(np.uint64)
    return hashes


def iter_measured(thumbnails: Thumbnails) -> Iterator[pl.DataFrame]:
    """Yield the columns of the table of measured pictures that the search for duplicates reads."""
    for start in range(0, len(thumbnails), DRAWN_AT_ONCE):
        chunk = thumbnails[start : start + DRAWN_AT_ONCE]
        hashes = hash_thumbnails(chunk)
        rows = {
            "sha256": [f"{number:064x}" for number in range(start, start + len(chunk))],
            "phash": [row.tobytes().hex() for row in hashes],
            "thumbnail": [row.tobytes() for row in chunk],
            "colours": [bytes([128]) * 128] * len(chunk),
        }
        yield pl.DataFrame(rows).with_columns(error=pl.lit(None, pl.String))


# ---- Stages --------------------------------------------------------------------------------------------------------


def prepare_hashes(size: int, arguments: argparse.Namespace) -> Callable[[], str]:
    hashes = np.unique(hash_thumbnails(draw_thumbnails(np.load(arguments.source), size)), axis=0)
    return lambda: f"{len(find_near_pairs(hashes, 40, threads=arguments.threads)):,} pairs"


def prepare_duplicates(size: int, arguments: argparse.Namespace, background: float = 0.0) -> Callable[[], str]:
    from bestiary.data.duplicates import find_duplicate_pairs

    pictures = pl.concat(iter_measured(draw_thumbnails(np.load(arguments.source), size, background=background)))
    return lambda: f"{len(find_duplicate_pairs(pictures, 40, threads=arguments.threads)):,} pairs"


def prepare_crowd(size: int, arguments: argparse.Namespace) -> Callable[[], str]:
    return prepare_duplicates(size, arguments, background=0.9)


def prepare_split(size: int, _: argparse.Namespace) -> Callable[[], str]:
    """Sites and bursts of three; a thousand labels, of which some are rare."""
    from bestiary import table
    from bestiary.data.assign_splits import assign_splits
    from bestiary.data.dataset import AuditedDataset
    from bestiary.data.joined_groups import join_groups
    from bestiary.recipe_sections import DataConfig

    random, burst = np.random.default_rng(0), np.arange(size) // 3
    label = (min(1000, size // 100) * random.random(size // 3 + 1) ** 2).astype(np.int64)[burst]
    types: dict[str, Any] = {**table.PICTURES, **table.GROUPING}
    columns = {name: pl.lit(None, kind) for name, kind in types.items()}
    pictures = pl.DataFrame({"row_id": np.arange(size)}).with_columns(
        **{name: value for name, value in columns.items() if name != "row_id"},
    )
    pictures = pictures.with_columns(
        path=pl.format("pictures/{}.jpg", "row_id"),
        sha256=pl.col("row_id").hash(0).cast(pl.String) + pl.col("row_id").hash(1).cast(pl.String),
        label=pl.format("label {}", pl.Series(label)),
        group=pl.col("row_id"),
        given_group=pl.format("burst {}", pl.Series(burst)),
        given_split=pl.lit(None, pl.String),
        dropped=pl.lit(value=False),
    ).with_columns(given_label="label")

    def split() -> str:
        joined, _ = join_groups(pictures)
        dataset = AuditedDataset(
            pictures.with_columns(group=pl.Series(joined)), pl.DataFrame(schema=table.FINDINGS), {}
        )
        result, digest = assign_splits(dataset, DataConfig(), seed=0)
        return f"{(result['split'] == 'test').sum() / size:.3f} test, {digest}"

    return split


def prepare_table(size: int, arguments: argparse.Namespace) -> Callable[[], str]:
    """The table of measured pictures is built some rows at a time and written, as the scan does."""
    from bestiary import table

    source = np.load(arguments.source)

    def build() -> str:
        parts = [part for start in range(0, size, DRAWN_AT_ONCE) for part in iter_measured(source[:DRAWN_AT_ONCE])]
        pictures = pl.concat(parts).head(size)
        with tempfile.TemporaryDirectory() as folder:
            table.write(pictures, Path(folder) / "pictures.parquet")
            return f"{pictures.height:,} rows, {(Path(folder) / 'pictures.parquet').stat().st_size / 1e6:,.0f} MB"

    return build


def write_features(size: int, channels: int) -> tuple[Any, npt.NDArray[np.int64]]:
    """Return correlated drawn features on disk, float16, and their labels, sorted as class folders are."""
    from bestiary.batches.feature_matrix import DiskMatrix

    random = np.random.default_rng(0)
    mixing = (random.normal(0, 1, (64, channels)) * np.exp(-np.arange(64) / 12)[:, None]).astype(np.float32)
    centres = random.normal(0, 0.45, (LABELS, 64)).astype(np.float32)
    labels = np.sort(random.integers(0, LABELS, size))
    matrix = DiskMatrix(Path(tempfile.gettempdir()), channels, np.float16)
    for start in range(0, size, DRAWN_AT_ONCE):
        own = labels[start : start + DRAWN_AT_ONCE]
        hidden = centres[own] + random.normal(0, 1, (len(own), 64)).astype(np.float32)
        noise = 0.3 * random.normal(0, 1, (len(own), channels)).astype(np.float32)
        matrix.append(np.maximum(hidden @ mixing + noise, 0))
    return matrix, labels


def prepare_features(size: int, arguments: argparse.Namespace) -> Callable[[], str]:
    from bestiary.batches.feature_matrix import fit_scaler

    def write() -> str:
        matrix, _ = write_features(size, arguments.channels)
        return f"mean scale {fit_scaler(matrix)[1].mean():.3f}"

    return write


def prepare_head(size: int, arguments: argparse.Namespace) -> Callable[[], str]:
    from bestiary.models.logistic_regression import make_solver

    matrix, labels = write_features(size, arguments.channels)

    def fit() -> str:
        solver = make_solver(matrix, labels, LABELS)
        weights = [solver.fit(value / size)[0] for value in C_VALUES]
        return f"weights of {np.abs(weights[-1]).sum():.1f} in all"

    return fit


STAGES: dict[str, Stage] = {
    "hashes": prepare_hashes,
    "duplicates": prepare_duplicates,
    "crowd": prepare_crowd,
    "split": prepare_split,
    "table": prepare_table,
    "features": prepare_features,
    "head": prepare_head,
}


if __name__ == "__main__":
    main()
