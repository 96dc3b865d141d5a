"""Start-up time of `--help` and of one prediction, and many predictions against the graph alone.

    python benchmarks/start_up.py RUN PICTURES_FOLDER [--runs 7] [--files 1000]

The ratio compares the predictor on files, decoding included, with the same engine on decoded arrays.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bestiary.batches.pixel_cache import iter_pixel_batches
from bestiary.inference.bundle import GRAPH_NAME, read_bundle
from bestiary.inference.predictor import Predictor
from bestiary.machine import available_cores
from bestiary.models.engine_choice import fastest_float32_engine
from measuring import build_command, build_parser, format_median, list_picture_files, run_command, time_calls


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--files", type=int, default=1000)
    arguments = parser.parse_args()
    files = list_picture_files(arguments.pictures)
    files = files[:: max(1, len(files) // arguments.files)][: arguments.files]
    print_median("import bestiary", arguments.runs, lambda: run_command([sys.executable, "-c", "import bestiary"]))
    print_median("bestiary --help", arguments.runs, lambda: run_command(build_command("--help")))
    first = build_command("predict", arguments.run, files[0])
    print_median("bestiary predict RUN one.jpg", arguments.runs, lambda: run_command(first))
    graph = print_median("graph on decoded arrays", 3, prepare_graph_run(arguments.run, files))
    predictor = Predictor(arguments.run, engine="fastest")
    from_files = print_median("predictor on files", 3, lambda: sum(1 for _ in predictor.predict_many(files)))
    print(f"predictor on {len(files)} files runs at {graph / from_files:.0%} of the rate of the graph alone")


def prepare_graph_run(run: Path, files: list[Path]) -> Callable[[], object]:
    images = np.concatenate(list(iter_pixel_batches(files, read_bundle(run).preprocess, threads=available_cores())))
    engine = fastest_float32_engine(run / GRAPH_NAME, threads=available_cores())
    size = engine.batch_size
    return lambda: [None for _ in engine.stream(images[start : start + size] for start in range(0, len(images), size))]


def print_median(title: str, runs: int, function: Callable[[], object]) -> float:
    seconds = time_calls(function, runs)
    print(f"{title:30} {format_median(seconds)}", flush=True)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
