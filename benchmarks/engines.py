"""Feature extraction by every engine and precision of this computer, and the choice that bestiary makes.

    python benchmarks/engines.py PICTURES [--backbone lite2] [--runs 5] [--count 200]

Each run computes the features of the same decoded pictures with all cores, the engines in turns: medians of pictures a
second, and the ratio to float32 in OpenVINO. "choice": seconds that measuring for the choice takes in a new process
state, and how often each engine is chosen.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bestiary.context import Context
from bestiary.files import cache_folder
from bestiary.installation import describe_installation
from bestiary.machine import available_cores, disable_malloc_trim
from bestiary.models.efficientnet_lite import BACKBONES, cached_backbone_graph
from bestiary.models.engine import EngineChoice, make_engine, run_batch
from bestiary.models.engine_choice import OPENVINO, choose_engine, measure_engines
from bestiary.models.onnx_surgery import add_global_pool
from bestiary.preprocess import Preprocessing
from measuring import build_picture_parser


def main() -> None:
    parser = build_picture_parser(__doc__, backbone="lite2", backbones=BACKBONES)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--count", type=int, default=200)
    arguments = parser.parse_args()
    disable_malloc_trim()
    size, facts = BACKBONES[arguments.backbone].size, describe_installation()
    graph = cached_backbone_graph(arguments.backbone, cache_folder() / "trunks")
    files = sorted(path for path in arguments.pictures.rglob("*") if path.is_file())
    step = max(1, len(files) // arguments.count)
    preprocess = Preprocessing(size)
    images = np.stack([preprocess.load_pixels(path) for path in files[::step][: arguments.count]])
    measured = measure_engines(add_global_pool(graph), images[:1])
    rates: dict[EngineChoice, list[float]] = {entry.choice: [] for entry in measured if not entry.error}
    for _ in range(arguments.runs):
        for choice, seen in rates.items():
            seen.append(measure_rate(choice, add_global_pool(graph), images))
    print(f"{facts['processor']['name']}, {available_cores()} cores; {facts['packages']}")
    for choice, seen in rates.items():
        ratios = [one / other for one, other in zip(seen, rates.get(OPENVINO, seen), strict=True)]
        print(
            f"{choice}: {statistics.median(seen):.1f} a second, {statistics.median(ratios):.2f} of OpenVINO in float32"
        )
    report_choices(graph, size, arguments.runs)


def measure_rate(choice: EngineChoice, graph: bytes, images: np.ndarray) -> float:
    """Return pictures a second with all cores, after a warm-up."""
    engine = make_engine(choice, graph, threads=available_cores())
    batches = [images[start : start + engine.batch_size] for start in range(0, len(images), engine.batch_size)]
    for _ in range(2):
        run_batch(engine, batches[0])
    began = time.perf_counter()
    rows = sum(len(outputs["features"]) for outputs in engine.stream(batches))
    return rows / (time.perf_counter() - began)


def report_choices(graph: Path, size: int, runs: int) -> None:
    choices, seconds = Counter[str](), []
    for _ in range(runs):
        with TemporaryDirectory() as folder:
            began = time.perf_counter()
            choices[str(choose_engine(graph, size, Context(cache=Path(folder))))] += 1
            seconds.append(time.perf_counter() - began)
    print(f"choice: {dict(choices)}; {statistics.median(seconds):.2f} s (at most {max(seconds):.2f} s)")


if __name__ == "__main__":
    main()
