"""What the script of each peer does for `run.py`: four commands, the same for all. Imports the standard library only.

    python PEER.py train SPLIT.csv MODEL [--weights FILE] [--epochs N]   trains on train and val, writes MODEL
    python PEER.py predict MODEL PATHS.txt ANSWERS.csv                   reads MODEL, labels pictures
    python PEER.py export MODEL PATHS.txt ANSWERS.csv                    exports MODEL, labels with what was exported
    python PEER.py split PICTURES PARTS.csv                              the peer's own default split of a folder

SPLIT.csv: `path,label,split`. ANSWERS.csv: `path,label`. PARTS.csv: `path,part`. `train` and `export` leave facts for
the table in MODEL/facts.json.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THREADS = 2
Row = dict[str, str]


@dataclass(frozen=True)
class PeerScript:
    """The commands of one peer; `split` and `export` are None where the peer has none.

    train: from (rows of the split, folder of the model, options) to facts. predict, export: from (folder of the model,
    paths) to labels; export returns facts too. split: from a folder to (path, part) pairs.
    """

    train: Callable[[list[Row], Path, argparse.Namespace], dict[str, Any]]
    predict: Callable[[Path, list[str]], Sequence[str]]
    export: Callable[[Path, list[str]], tuple[Sequence[str], dict[str, Any]]] | None = None
    split: Callable[[Path], Iterable[tuple[str, str]]] | None = None


def run_peer(script: PeerScript, **defaults: Any) -> None:
    """Run the command that the arguments name; `defaults`: epochs and other options with their defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    add_train_parser(commands, defaults)
    for name in ("predict", "export"):
        command = commands.add_parser(name)
        command.add_argument("model", type=Path)
        command.add_argument("paths", type=Path)
        command.add_argument("answers", type=Path)
    command = commands.add_parser("split")
    command.add_argument("pictures", type=Path)
    command.add_argument("parts", type=Path)
    arguments = parser.parse_args()
    run_command(script, arguments)


def add_train_parser(commands: Any, defaults: dict[str, Any]) -> None:
    train = commands.add_parser("train")
    train.add_argument("split", type=Path)
    train.add_argument("model", type=Path)
    train.add_argument("--weights", type=Path)
    train.add_argument("--epochs", type=int, default=1)
    train.add_argument("--seed", type=int, default=0)
    for name, default in defaults.items():
        if name != "epochs":
            train.add_argument(f"--{name}", default=default)
    train.set_defaults(**defaults)


def run_command(script: PeerScript, arguments: argparse.Namespace) -> None:
    if arguments.command == "train":
        arguments.model.mkdir(parents=True, exist_ok=True)
        write_facts(arguments.model, script.train(read_rows(arguments.split), arguments.model, arguments))
    elif arguments.command == "predict":
        paths = arguments.paths.read_text(encoding="utf-8").splitlines()
        write_pairs(
            arguments.answers, ("path", "label"), zip(paths, script.predict(arguments.model, paths), strict=True)
        )
    elif arguments.command == "export":
        if script.export is None:
            raise SystemExit("This peer has no export.")
        paths = arguments.paths.read_text(encoding="utf-8").splitlines()
        labels, facts = script.export(arguments.model, paths)
        write_pairs(arguments.answers, ("path", "label"), zip(paths, labels, strict=True))
        write_facts(arguments.model, facts)
    else:
        if script.split is None:
            raise SystemExit("This peer has no splitter.")
        write_pairs(arguments.parts, ("path", "part"), script.split(arguments.pictures))


# ---- Files ---------------------------------------------------------------------------------------------------------


def read_rows(table: Path) -> list[Row]:
    """Return the rows of a CSV file."""
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_pairs(table: Path, header: tuple[str, str], pairs: Iterable[tuple[str, str]]) -> None:
    """Write a CSV file of two columns."""
    with table.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(header)
        rows.writerows(pairs)


def write_facts(model: Path, facts: dict[str, Any]) -> None:
    """Add facts to those of the model."""
    path = model / "facts.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(before | facts, indent=1), encoding="utf-8")


def write_classes(model: Path, classes: Sequence[str]) -> None:
    """Keep the order of the classes with the model."""
    (model / "classes.json").write_text(json.dumps(list(classes)), encoding="utf-8")


def read_classes(model: Path) -> list[str]:
    """Return the classes in the order of the model's outputs."""
    classes: list[str] = json.loads((model / "classes.json").read_text(encoding="utf-8"))
    return classes


# ---- Rows ----------------------------------------------------------------------------------------------------------


def select_split(rows: Iterable[Row], split: str) -> tuple[list[str], list[str]]:
    """Return paths and labels of one split."""
    chosen = [row for row in rows if row["split"] == split]
    return [row["path"] for row in chosen], [row["label"] for row in chosen]


def list_classes(rows: Iterable[Row]) -> list[str]:
    """Return the labels in the order of code points."""
    return sorted({row["label"] for row in rows})
