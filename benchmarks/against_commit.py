"""Compares this working tree with an older commit: cold and cached training, and the prediction of a single picture.

    python benchmarks/against_commit.py REV [--pictures DIR] [--pairs 5] [--predictions 15] [--backbone lite2]
        [--what cold,cached,predict] [--older FOLDER] [--python PYTHON] [--json FILE]

The older commit is unpacked to a folder (--older, by default a temporary one). Both trees run with the same interpreter
and environment, with PYTHONPATH set to the src folder of each tree, so that only the code differs. An older tree that
needs different packages gets its own interpreter with --python; the printed versions then show which packages differ.
Every measurement is a whole process of `python -m bestiary`, in the order old, new, new, old and so on, after both
trees were compiled to bytecode and all pictures were read.

cold: `train` with an empty cache. cached: `train` with a cache that the same tree filled. predict: a single picture,
with a run of the same tree. Prints the ratio new/old as the median over the pairs, with minimum and maximum. When
other jobs run on the machine, the ratios are more reliable than the times, most of all the ratio of processor seconds.
--pictures: a folder with a folder for each class; default: the environment variable BESTIARY_ANIMALS10.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from measuring import (
    build_environment,
    build_parser,
    count_cores,
    format_median,
    list_class_files,
    list_picture_files,
    parse_choices,
    read_processor_name,
    read_versions,
    time_call,
)

ROOT = Path(__file__).resolve().parent.parent
MEASUREMENTS = ("cold", "cached", "predict")
PACKAGES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Tree:
    """A source tree with its interpreter, and the working folder for its cache and run."""

    name: str
    root: Path
    python: str
    work: Path

    def run(self, *arguments: object, cache: Path | None = None) -> str:
        """Run the interpreter with the code of this tree; return its output, or exit with the end of its error text."""
        environment = build_environment(cache or self.work / "cache") | {"PYTHONPATH": str(self.root / "src")}
        command = [self.python, *map(str, arguments)]
        process = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.work)
        if process.returncode:
            error = "\n".join(process.stderr.strip().splitlines()[-5:])
            raise SystemExit(f"The {self.name} tree ended with {process.returncode}: {' '.join(command)}\n{error}")
        return process.stdout


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("revision", metavar="REV")
    parser.add_argument("--pictures", type=Path, default=os.environ.get("BESTIARY_ANIMALS10"))
    parser.add_argument("--labels", default="animals10")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--predictions", type=int, help="number of pairs of predictions; default: three times --pairs")
    parser.add_argument("--backbone", default="lite2")
    parser.add_argument(
        "--what", type=partial(parse_choices, known=MEASUREMENTS), default=MEASUREMENTS, metavar=",".join(MEASUREMENTS)
    )
    parser.add_argument("--older", type=Path, help="unpack the older commit to this empty folder, and leave it")
    parser.add_argument("--python", default=sys.executable, help="the older tree's interpreter")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.pictures is None:
        parser.error("name a folder of pictures with --pictures, or set BESTIARY_ANIMALS10 to one")
    if not arguments.pictures.is_dir():
        parser.error(f"there is no folder {arguments.pictures}")
    arguments.pictures = arguments.pictures.resolve()
    with tempfile.TemporaryDirectory() as name:
        result = compare(arguments, Path(name))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run and print the chosen measurements; return them for the JSON file."""
    commit = read_git("rev-parse", "--verify", f"{arguments.revision}^{{commit}}").strip()
    older = arguments.older.resolve() if arguments.older else folder / "older"
    unpack(commit, older)
    trees = [
        prepare(Tree("old", older, arguments.python, folder / "old")),
        prepare(Tree("new", ROOT, sys.executable, folder / "new")),
    ]
    files = list_class_files(arguments.pictures)
    for file in files:  # so that no run waits for the disk
        file.read_bytes()
    result: dict[str, Any] = {
        "old": commit,
        "new": describe_tree(),
        "processor": read_processor_name(),
        "cores": count_cores(),
        "versions": {tree.name: read_tree_versions(tree) for tree in trees},
        "pictures": len(files),
        "backbone": arguments.backbone,
        "measurements": {},
    }
    print(f"{result['processor']}, {result['cores']} cores; {len(files):,} pictures, {arguments.backbone}")
    print(f"old: {commit[:10]}; new: {result['new']}")
    for name, versions in result["versions"].items():
        print(f"{name}: " + ", ".join(f"{package} {version}" for package, version in versions.items()), flush=True)
    if set(arguments.what) != {"cold"}:
        for tree in trees:
            train(tree, arguments, tree.work / "cache", tree.work / "run")
    functions = build_functions(arguments, folder)
    for what in arguments.what:
        pairs = (arguments.predictions or 3 * arguments.pairs) if what == "predict" else arguments.pairs
        result["measurements"][what] = measure_pairs(what, functions[what], trees, pairs)
    return result


# ---- The trees -----------------------------------------------------------------------------------------------------


def unpack(commit: str, folder: Path) -> None:
    """Write the files of a commit into an empty folder."""
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty. Name an empty folder with --older, or a new one.")
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")


def prepare(tree: Tree) -> Tree:
    """Compile a tree to bytecode, and check that the interpreter imports bestiary from it."""
    tree.work.mkdir()
    tree.run("-m", "compileall", "-q", tree.root / "src")
    module = Path(tree.run("-c", "import bestiary; print(bestiary.__file__)").strip())
    if not module.is_relative_to(tree.root):
        raise SystemExit(f"The {tree.name} tree runs {module}, not the code in {tree.root}.")
    return tree


def describe_tree() -> str:
    """Return the commit of this working tree, and whether it has uncommitted changes."""
    changes = read_git("status", "--porcelain").strip()
    return read_git("rev-parse", "HEAD").strip() + (", with changes" if changes else "")


def read_tree_versions(tree: Tree) -> dict[str, str]:
    if tree.python == sys.executable:
        return read_versions(PACKAGES)
    program = "import json, sys; from measuring import read_versions; print(json.dumps(read_versions(sys.argv[1:])))"
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); {program}"
    versions: dict[str, str] = json.loads(tree.run("-c", program, *PACKAGES))
    return versions


def read_git(*arguments: str) -> str:
    process = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {process.stderr.strip()}")
    return process.stdout


# ---- Measurements --------------------------------------------------------------------------------------------------


def build_functions(arguments: argparse.Namespace, folder: Path) -> dict[str, Callable[[Tree], None]]:
    """Return the function that runs each measurement."""
    picture = list_picture_files(arguments.pictures)[0]

    def train_cold(tree: Tree) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            train(tree, arguments, Path(name) / "cache", Path(name) / "run")

    def train_cached(tree: Tree) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            train(tree, arguments, tree.work / "cache", Path(name) / "run")

    def predict(tree: Tree) -> None:
        tree.run("-m", "bestiary", "predict", tree.work / "run", picture)

    return {"cold": train_cold, "cached": train_cached, "predict": predict}


def train(tree: Tree, arguments: argparse.Namespace, cache: Path, run: Path) -> None:
    options = ["-m", "bestiary", "train", arguments.pictures, "--labels", arguments.labels, "--quiet"]
    tree.run(*options, "--backbone", arguments.backbone, "--out", run, cache=cache)


def measure_pairs(what: str, function: Callable[[Tree], None], trees: list[Tree], pairs: int) -> dict[str, Any]:
    """Run old, new, new, old and so on; print the times, their medians and the ratios."""
    seconds: dict[str, list[float]] = {tree.name: [] for tree in trees}
    processors: dict[str, list[float]] = {tree.name: [] for tree in trees}
    print(f"\n{what:14}{'old':>10} {'new':>10} {'new/old':>8} {'processor: old':>19} {'new':>10} {'new/old':>8}")
    for number in range(pairs):
        for tree in trees if number % 2 == 0 else reversed(trees):
            before = read_children_seconds()
            seconds[tree.name].append(time_call(partial(function, tree)))
            processors[tree.name].append(read_children_seconds() - before)
        old, new, old_busy, new_busy = (times[name][-1] for times in (seconds, processors) for name in ("old", "new"))
        print(f"{number + 1:2}, {'old first' if number % 2 == 0 else 'new first':10}", end="")
        print(f"{old:9.3f}s {new:9.3f}s {new / old:8.3f} {old_busy:18.2f}s {new_busy:9.2f}s {new_busy / old_busy:8.3f}")
        sys.stdout.flush()
    for name, times in seconds.items():
        print(f"{name}: {format_median(times)}; processor {format_median(processors[name])}")
    result: dict[str, Any] = {"seconds": seconds, "processor_seconds": processors}
    for name, series in (("new/old", seconds), ("new/old of processor seconds", processors)):
        ratios = [new / old for old, new in zip(series["old"], series["new"], strict=True)]
        print(f"{name}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, n = {pairs} pairs)")
        result[name] = {"median": statistics.median(ratios), "ratios": ratios}
    return result


def read_children_seconds() -> float:
    """Return the processor seconds of all completed child processes and their children."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
