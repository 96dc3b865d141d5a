"""Compares prediction with the same network in plain torch and timm: one picture from a cold start, and many.

    python benchmarks/prediction.py cold RUN PICTURES [--runs 7]
    python benchmarks/prediction.py many RUN PICTURES [--files 5000] [--plain-files 1000] [--exported DIR …]
    python benchmarks/prediction.py overlap RUN PICTURES [--files 1000]

Whole processes, start included, alternating; medians. `overlap` compares the predictor with the slower of decoding
alone and the graph alone on decoded arrays.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bestiary.batches.decoding import decode_ahead
from bestiary.inference.bundle import read_bundle
from bestiary.inference.predictor import Predictor
from bestiary.machine import available_cores
from measuring import build_parser, format_median, list_picture_files, time_call

PLAIN = Path(__file__).parent / "plain" / "predict_torch.py"


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("what", choices=["cold", "many", "overlap"])
    parser.add_argument("run", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--plain-files", type=int, default=1000)
    parser.add_argument("--exported", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    pictures = list_picture_files(arguments.pictures)
    positions = np.linspace(0, len(pictures) - 1, min(arguments.files, len(pictures))).astype(int)
    files = [pictures[position] for position in positions]
    if arguments.what == "overlap":
        measure_overlap(arguments.run, files)
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_plain_checkpoint(Path(folder))
        if arguments.what == "cold":
            measure_cold(arguments.run, files[0], checkpoint, arguments.runs)
        else:
            measure_many([arguments.run, *arguments.exported], files, checkpoint, arguments.plain_files, Path(folder))


def measure_cold(run: Path, file: Path, checkpoint: Path, runs: int) -> None:
    commands: dict[str, list[object]] = {
        "import bestiary": ["-c", "import bestiary"],
        "bestiary predict, one picture": ["-m", "bestiary", "predict", run, file],
        "plain torch and timm, one picture": [PLAIN, checkpoint, file],
    }
    for arguments in commands.values():
        time_process(arguments)  # warms up the file system's cache
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, arguments in commands.items():
            times[name].append(time_process(arguments))
    for name, seconds in times.items():
        print(f"{name:36} {format_median(seconds)}", flush=True)
    _, ours, plain = (statistics.median(seconds) for seconds in times.values())
    print(f"{plain / ours:.1f} times faster")


def measure_many(
    models: Sequence[Path], files: Sequence[Path], checkpoint: Path, plain_files: int, folder: Path
) -> None:
    sample = files[:: max(1, len(files) // plain_files)][:plain_files]
    plain = len(sample) / time_process([PLAIN, checkpoint, *sample])
    print(f"{'plain torch and timm, float32':36} {plain:.0f} per second, {len(sample):,} files", flush=True)
    for number, model in enumerate(models):
        path_list = folder / "list.txt"
        path_list.write_text("\n".join(map(str, files)))
        out = folder / f"{number}.jsonl"
        with path_list.open("rb") as paths:
            rate = len(files) / time_process(["-m", "bestiary", "predict", model, "-", "-q", "--out", out], stdin=paths)
        title = f"bestiary predict, {read_bundle(model).precision}"
        print(f"{title:36} {rate:.0f} per second, {len(files):,} files: {rate / plain:.1f} times")


def measure_overlap(run: Path, files: Sequence[Path]) -> None:
    predictor = Predictor(run, engine="fastest")
    preprocess, threads = predictor.bundle.preprocess, available_cores()
    images = [item.pixels for item in decode_ahead(files, preprocess, threads=threads) if item.pixels is not None]

    def decode() -> object:
        return sum(1 for _ in decode_ahead(files, preprocess, threads=threads))

    def run_graph() -> object:
        engine = predictor._engine
        size = engine.batch_size
        return [
            None for _ in engine.stream(np.stack(images[start : start + size]) for start in range(0, len(images), size))
        ]

    rates = {}
    for name, function in {
        "decoding": decode,
        "graph": run_graph,
        "both": lambda: list(predictor.predict_many(files)),
    }.items():
        rates[name] = len(files) / statistics.median(time_call(function) for _ in range(3))
        print(f"{name:36} {rates[name]:.0f} per second", flush=True)
    bound = 1 / (1 / rates["decoding"] + 1 / rates["graph"])
    print(f"{rates['both'] / min(rates['decoding'], rates['graph']):.0%} of the slower one alone")
    print(f"{rates['both'] / bound:.0%} of the bound for decoding and graph on the same cores")


def write_plain_checkpoint(folder: Path) -> Path:
    program = (
        "import sys, timm, torch; torch.save(timm.create_model('tf_efficientnet_lite2', num_classes=10).state_dict(),"
        " sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(folder / "plain.pt")], check=True)
    return folder / "plain.pt"


def time_process(arguments: Sequence[object], stdin: BinaryIO | None = None) -> float:
    start = time.perf_counter()
    command = [sys.executable, *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True, stdin=stdin)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
