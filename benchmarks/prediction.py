"""Prediction against the same network in plain torch and timm: one picture from a cold start, and many.

    python benchmarks/prediction.py cold RUN PICTURES [--runs 7]
    python benchmarks/prediction.py many RUN PICTURES [--files 5000] [--plain-files 1000] [--exported DIR …]
    python benchmarks/prediction.py overlap RUN PICTURES [--files 1000]

Whole processes, their start included, alternating; medians. `overlap` holds the predictor against the slower of
decoding alone and the graph alone on ready arrays.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bestiary.batches.decoding import decode_ahead
from bestiary.inference.bundle import read_bundle
from bestiary.inference.predictor import Predictor
from bestiary.machine import available_cores

PLAIN = Path(__file__).parent / "plain" / "predict_torch.py"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=["cold", "many", "overlap"])
    options.add_argument("run", type=Path)
    options.add_argument("pictures", type=Path)
    options.add_argument("--runs", type=int, default=7)
    options.add_argument("--files", type=int, default=5000)
    options.add_argument("--plain-files", type=int, default=1000)
    options.add_argument("--exported", type=Path, nargs="*", default=[])
    asked = options.parse_args()
    found = sorted(path for path in asked.pictures.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    files = [found[at] for at in np.linspace(0, len(found) - 1, min(asked.files, len(found))).astype(int)]
    if asked.what == "overlap":
        overlap(asked.run, files)
        return
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = plain_checkpoint(Path(folder))
        if asked.what == "cold":
            cold(asked.run, files[0], checkpoint, asked.runs)
        else:
            many([asked.run, *asked.exported], files, checkpoint, asked.plain_files, Path(folder))


def cold(run: Path, file: Path, checkpoint: Path, runs: int) -> None:
    ways: dict[str, list[object]] = {
        "import bestiary": ["-c", "import bestiary"],
        "bestiary predict, one picture": ["-m", "bestiary", "predict", run, file],
        "plain torch and timm, one picture": [PLAIN, checkpoint, file],
    }
    for words in ways.values():
        seconds_of(words)  # files in memory
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, words in ways.items():
            taken[name].append(seconds_of(words))
    for name, seconds in taken.items():
        print(f"{name:36} {spread(seconds)}", flush=True)
    _, ours, plain = (statistics.median(seconds) for seconds in taken.values())
    print(f"{plain / ours:.1f} times faster")


def many(models: Sequence[Path], files: Sequence[Path], checkpoint: Path, plain_files: int, folder: Path) -> None:
    few = files[:: max(1, len(files) // plain_files)][:plain_files]
    plain = len(few) / seconds_of([PLAIN, checkpoint, *few])
    print(f"{'plain torch and timm, float32':36} {plain:.0f} a second, {len(few):,} files", flush=True)
    for number, model in enumerate(models):
        listed = folder / "list.txt"
        listed.write_text("\n".join(map(str, files)))
        out = folder / f"{number}.jsonl"
        with listed.open("rb") as names:
            rate = len(files) / seconds_of(["-m", "bestiary", "predict", model, "-", "-q", "--out", out], stdin=names)
        kind = read_bundle(model).precision
        print(f"{'bestiary predict, ' + kind:36} {rate:.0f} a second, {len(files):,} files: {rate / plain:.1f} times")


def overlap(run: Path, files: Sequence[Path]) -> None:
    predictor = Predictor(run, engine="fastest")
    view, threads = predictor.bundle.preprocess, available_cores()
    images = [item.pixels for item in decode_ahead(files, view, threads=threads) if item.pixels is not None]

    def decoding() -> object:
        return sum(1 for _ in decode_ahead(files, view, threads=threads))

    def graph() -> object:
        engine = predictor._engine
        size = engine.batch_size
        return [None for _ in engine.stream(np.stack(images[at : at + size]) for at in range(0, len(images), size))]

    rates = {}
    for name, work in {
        "decoding": decoding,
        "graph": graph,
        "both": lambda: list(predictor.predict_many(files)),
    }.items():
        rates[name] = len(files) / statistics.median(timed(work) for _ in range(3))
        print(f"{name:36} {rates[name]:.0f} a second", flush=True)
    both = 1 / (1 / rates["decoding"] + 1 / rates["graph"])
    print(f"{rates['both'] / min(rates['decoding'], rates['graph']):.0%} of the slower one alone")
    print(f"{rates['both'] / both:.0%} of what the same processors could do at most, as both need all of them")


def plain_checkpoint(folder: Path) -> Path:
    program = (
        "import sys, timm, torch; torch.save(timm.create_model('tf_efficientnet_lite2', num_classes=10).state_dict(),"
        " sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", program, str(folder / "plain.pt")], check=True)
    return folder / "plain.pt"


def seconds_of(words: Sequence[object], stdin: object = None) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *map(str, words)], check=True, capture_output=True, stdin=stdin)  # type: ignore[call-overload]
    return time.perf_counter() - started


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def spread(seconds: list[float]) -> str:
    return f"median {statistics.median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f}, n = {len(seconds)})"


if __name__ == "__main__":
    main()
