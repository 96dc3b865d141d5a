"""Throughput of this machine: a second of feature extraction or decoding, on the task's own pictures. No torch."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bestiary.array_types import Pixels
from bestiary.batches.pixel_cache import iter_pixel_batches
from bestiary.box import PictureFile
from bestiary.machine import single_blas_thread
from bestiary.models.features import FeatureCache
from bestiary.preprocess import Preprocessing

File = TypeVar("File", bound=PictureFile)

MEASURE_SECONDS, GLANCE_SECONDS = 1.0, 0.1
START_SECONDS = 0.5  # of loading a graph into an engine
WARM_UP_PICTURES = 8
EXACT_REPEATS, QUICK_REPEATS = 10, 3  # of the reference workload
REFERENCE_WORKLOAD_SECONDS = 0.0175  # on the reference machine of `FixedCosts`


@dataclass(frozen=True)
class Throughput:
    """Start-up seconds, and pictures per second from then on."""

    start_seconds: float
    pictures_per_second: float

    def seconds(self, pictures: int) -> float:
        """Return the time for so many pictures; 0 for none."""
        return self.start_seconds + pictures / self.pictures_per_second if pictures else 0.0


def measure_feature_throughput(cache: FeatureCache, paths: Sequence[PictureFile]) -> Throughput:
    """Return the throughput of feature extraction from files, by the engine that will be used."""
    preprocess, threads = cache.preprocess, cache.context.threads
    cache.graph  # noqa: B018 - built before the time is measured
    began = time.perf_counter()
    engine = cache.load_engine()
    start_seconds = time.perf_counter() - began
    few = paths[:WARM_UP_PICTURES]
    for _ in engine.stream(iter_pixel_batches(few, preprocess, threads=threads, batch_size=engine.batch_size)):
        pass
    batches = _iter_timed_batches(paths, preprocess, threads, engine.batch_size)
    began, pictures = time.perf_counter(), 0
    for outputs in engine.stream(batches):
        pictures += len(outputs["features"])
    return Throughput(start_seconds, pictures / (time.perf_counter() - began))


def recorded_feature_throughput(cache: FeatureCache, paths: Sequence[PictureFile]) -> Throughput | None:
    """Return the throughput by the recorded speed of the engine, and a short measurement of decoding.

    None if the speed is not recorded. A record is of one thread on an idle core.
    """
    speed, threads = cache.recorded_speed, cache.context.threads
    if speed is None:
        return None
    decoding = measure_decode_throughput(cache.preprocess, paths, threads=threads, seconds=GLANCE_SECONDS)
    return Throughput(START_SECONDS, 1 / (1 / (speed * threads) + 1 / decoding.pictures_per_second))


def measure_decode_throughput(
    preprocess: Preprocessing, paths: Sequence[PictureFile], *, threads: int, seconds: float = MEASURE_SECONDS
) -> Throughput:
    """Return the throughput of decoding and resizing files, measured for so many seconds."""
    began = time.perf_counter()
    batches = _iter_timed_batches(paths, preprocess, threads, WARM_UP_PICTURES, seconds=seconds)
    pictures = sum(len(images) for images in batches)
    return Throughput(0.0, pictures / (time.perf_counter() - began))


def machine_slowdown(repeats: int = EXACT_REPEATS) -> float:
    """Return the time of plain numpy and Python relative to the reference machine, the median of some repeats.

    On one thread: where another program uses a core, two wait for each other, and the machine would seem to be slower
    by three times than the stages that follow find it.
    """
    with single_blas_thread():
        return statistics.median(_time_reference_workload() for _ in range(repeats)) / REFERENCE_WORKLOAD_SECONDS


def evenly_spaced(paths: Sequence[File], count: int = 512) -> list[File]:
    """Return at most `count` of the paths, evenly spaced over classes and folders, in random order."""
    indices = np.unique(np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int))
    return [paths[index] for index in np.random.default_rng(0).permutation(indices)]


def _iter_timed_batches(
    paths: Sequence[PictureFile],
    preprocess: Preprocessing,
    threads: int,
    batch_size: int,
    *,
    seconds: float = MEASURE_SECONDS,
) -> Iterator[Pixels]:
    """Yield decoded pictures, in cycles, for about so many seconds."""
    end = time.perf_counter() + seconds
    going = itertools.takewhile(lambda _: time.perf_counter() < end, itertools.cycle(paths))
    return iter_pixel_batches(going, preprocess, threads=threads, batch_size=batch_size)


def _time_reference_workload() -> float:
    began = time.perf_counter()
    numbers = np.ones((2048, 1280), np.float32)
    weights = np.ones((1280, 16), np.float32)
    for _ in range(4):
        weights = (numbers.T @ (numbers @ weights)) * np.float32(1e-7)
    words = [f"{number:,}" for number in range(20_000)]
    sorted(words)
    return time.perf_counter() - began
