"""Training of a large collection of small pictures: this working tree against an older commit.

    python benchmarks/large_collection.py REV --pictures DIR [--count 60000] [--side 96] [--pairs 1] [--out FOLDER]

The collection is drawn from real pictures: squares of 30 to 60 % of the shorter side at random places, reduced to
`--side` pixels and saved as JPEG, in the same class folders, so that classes keep their proportions. An animal is
often cut in half: a probe reaches about the accuracy that it has on CIFAR-10. Each tree trains the probe with lite0 at
`--side` pixels and an empty cache, in alternating order. Prints seconds, processor seconds and peak memory.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from against_commit import Tree, prepare, read_children_seconds, read_git, read_tree_versions, unpack
from measuring import build_parser, count_cores, list_class_files, read_processor_name, time_call

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("revision", metavar="REV")
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--count", type=int, default=60_000)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--trees", default="old,new", help="new: only this working tree; old: only the older one")
    parser.add_argument("--out", type=Path, help="draw the collection here and leave it, or use the one that is there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        compare(arguments, Path(name))


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    collection = arguments.out or folder / "collection"
    if not collection.exists():
        draw_collection(arguments.pictures, collection, arguments.count, arguments.side)
    commit = read_git("rev-parse", "--verify", f"{arguments.revision}^{{commit}}").strip()
    unpack(commit, folder / "older")
    trees = [
        prepare(Tree("old", folder / "older", sys.executable, folder / "old")),
        prepare(Tree("new", ROOT, sys.executable, folder / "new")),
    ]
    files = list_class_files(collection)
    print(f"{read_processor_name()}, {count_cores()} cores; {len(files):,} pictures of {arguments.side} pixels")
    print(f"old: {commit[:10]}; {read_tree_versions(trees[0])}", flush=True)
    trees = [tree for tree in trees if tree.name in arguments.trees.split(",")]
    for pair in range(arguments.pairs):
        results = {}
        for tree in trees if pair % 2 == 0 else reversed(trees):
            results[tree.name] = measure(tree, collection, arguments.side)
            print(f"{tree.name}: {json.dumps(results[tree.name])}", flush=True)
        if len(results) < 2:
            continue
        ratios = {key: round(results["new"][key] / results["old"][key], 3) for key in ("seconds", "processor", "peak")}
        print(f"new/old: {ratios}", flush=True)


def draw_collection(pictures: Path, out: Path, count: int, side: int) -> None:
    """Write `count` squares of the pictures, the same number of each picture or one more."""
    from PIL import Image

    files = list_class_files(pictures)
    random.Random(0).shuffle(files)
    for number in range(count):
        path = files[number % len(files)]
        chance = random.Random(number)
        with Image.open(path) as image:
            rgb = image.convert("RGB")
        length = round(min(rgb.size) * chance.uniform(0.3, 0.6))
        left, top = chance.randint(0, rgb.width - length), chance.randint(0, rgb.height - length)
        target = out / path.parent.name / f"{number}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        box = (left, top, left + length, top + length)
        rgb.resize((side, side), Image.Resampling.BICUBIC, box=box).save(target, quality=92)


def measure(tree: Tree, collection: Path, side: int) -> dict[str, Any]:
    """Return seconds, processor seconds, peak memory in MB and accuracy of a training."""
    with tempfile.TemporaryDirectory(dir=tree.work) as name:
        run = Path(name) / "run"
        command = ["-m", "bestiary", "train", collection, "--quiet", "--json", "--backbone", "lite0", "--out", run]
        command += ["--set", f"picture.size={side}"]
        printed: list[str] = []
        before = read_children_seconds()
        seconds = time_call(partial(_run, tree, command, Path(name) / "cache", printed))
        processor = read_children_seconds() - before
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    accuracy = metrics["accuracy"]
    return {
        "seconds": round(seconds, 1),
        "processor": round(processor, 1),
        "peak": metrics["peak_rss_mb"],
        "accuracy": round(accuracy["value"] if isinstance(accuracy, dict) else accuracy, 4),
    }


def _run(tree: Tree, command: list[object], cache: Path, printed: list[str]) -> None:
    printed.append(tree.run(*command, cache=cache))


if __name__ == "__main__":
    main()
