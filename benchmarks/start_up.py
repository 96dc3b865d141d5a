"""How long it takes to start: `--help`, one prediction, and many predictions against the bare graph.

    python benchmarks/start_up.py RUN PICTURES_FOLDER [--runs 7] [--files 1000]

The ratio compares `bestiary predict` (decoding included, whole process) with the same engine fed ready arrays.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bestiary.batches.pixel_cache import iter_pixel_batches
from bestiary.inference.bundle import GRAPH_NAME, read_bundle
from bestiary.inference.predictor import Predictor
from bestiary.machine import available_cores
from bestiary.models.engine import fastest_engine


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("run", type=Path)
    options.add_argument("pictures", type=Path)
    options.add_argument("--runs", type=int, default=7)
    options.add_argument("--files", type=int, default=1000)
    asked = options.parse_args()
    files = sorted(path for path in asked.pictures.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    files = files[:: max(1, len(files) // asked.files)][: asked.files]
    tell("import bestiary", asked.runs, lambda: command("-c", "import bestiary"))
    tell("bestiary --help", asked.runs, lambda: command("-m", "bestiary", "--help"))
    tell("bestiary predict RUN one.jpg", asked.runs, lambda: command("-m", "bestiary", "predict", asked.run, files[0]))
    graph = tell("graph on ready arrays", 3, bare_graph(asked.run, files))
    predictor = Predictor(asked.run, engine="fastest")
    from_files = tell("predictor on files", 3, lambda: sum(1 for _ in predictor.predict_many(files)))
    print(f"predictor on {len(files)} files runs at {graph / from_files:.0%} of the graph's own rate")


def command(*words: object) -> None:
    subprocess.run([sys.executable, *map(str, words)], check=True, capture_output=True)


def bare_graph(run: Path, files: list[Path]) -> Callable[[], object]:
    images = np.concatenate(list(iter_pixel_batches(files, read_bundle(run).preprocess, threads=available_cores())))
    engine = fastest_engine(run / GRAPH_NAME, threads=available_cores())
    size = engine.batch_size
    return lambda: [None for _ in engine.stream(images[at : at + size] for at in range(0, len(images), size))]


def tell(title: str, runs: int, work: Callable[[], object]) -> float:
    work()  # warm-up: file system cache, compiled graphs
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    middle = statistics.median(seconds)
    print(f"{title:30} median {middle:.3f} s (from {min(seconds):.3f} to {max(seconds):.3f}, n = {runs})", flush=True)
    return middle


if __name__ == "__main__":
    main()
