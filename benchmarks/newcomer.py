"""What the first screen of a report tells a newcomer: three runs, their screenshots, and the answers from the tables.

    python benchmarks/newcomer.py PICTURES [--labels animals10] [--out newcomer]

Trains the probe with lite0 on three collections and leaves a folder for each in `--out`:

strong   PICTURES as they are
flipped  200 pictures of each large class, 5 % of them with the label of another class, by a table
weak     3,000 squares of 96 px cut from PICTURES, on which a probe is right about three times in four

A reader who knows nothing else sees `strong.png`, `flipped.png` and `weak.png`, each the first screen of `report.html`
in a window of 1280 x 800, and answers the three questions that are printed. `truth.json` has the answers. Confusions
and labels are counted in the tables of the run, not by the code that writes the sentences; the next step is that of
`report.md`, so that a reader only shows whether it is understood. --look writes the pages of existing runs again.
Never publish the folder: it has pictures of the collection. Needs Playwright and Chromium.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from bestiary.data.label_map import find_label, label_map
from large_collection import draw_collection
from measuring import build_command, build_picture_parser, list_class_files, run_command

QUESTIONS = (
    "Which two classes does the model confuse most, how often, and of how many pictures?",
    "How many labels of the collection are wrong, as far as the page knows?",
    "What would you do next, and how?",
)
RUNS = ("strong", "flipped", "weak")
VIEWS: dict[str, dict[str, Any]] = {
    "": {"viewport": {"width": 1280, "height": 800}},
    "-dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "-phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True},
}
PER_CLASS, FLIPPED = 200, 0.05
SQUARES, SIDE = 3000, 96


def main() -> None:
    parser = build_picture_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("newcomer"))
    parser.add_argument("--look", action="store_true", help="train nothing: write the pages of the runs there again")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    if not arguments.look:
        train_runs(arguments, out)
    for name in RUNS:
        run_command(build_command("report", out / name))
    take_screenshots(out)
    truth = {name: read_truth(out / name) for name in RUNS}
    truth["flipped"]["changed labels"] = compare_with_changes(out)
    (out / "truth.json").write_text(json.dumps(truth, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"Look at {', '.join(f'{name}.png' for name in RUNS)} in {out}, and at nothing else:")
    print(*(f"{number}. {question}" for number, question in enumerate(QUESTIONS, 1)), sep="\n")
    print(f"Then check the answers with {out / 'truth.json'}.")


# ---- Runs ----------------------------------------------------------------------------------------------------------


def train_runs(arguments: argparse.Namespace, out: Path) -> None:
    if existing := [name for name in RUNS if (out / name).exists()]:
        sys.exit(f"{out} already has a run named {existing[0]}; choose another --out, or pass --look")
    out.mkdir(parents=True, exist_ok=True)
    write_flipped_table(arguments.pictures, arguments.labels, out)
    squares = out / "squares"
    if not squares.exists():
        draw_collection(arguments.pictures, squares, SQUARES, SIDE)
    options = ("--labels", arguments.labels)
    train(out / "strong", arguments.pictures, *options)
    train(out / "flipped", out / "flipped.csv")
    train(out / "weak", squares, *options, "--set", f"picture.size={SIDE}")


def train(run: Path, *arguments: object) -> None:
    run_command(build_command("train", *arguments, "--backbone", "lite0", "--quiet", "--out", run))


def write_flipped_table(pictures: Path, labels: str, out: Path) -> None:
    """Write `flipped.csv` (path, label) and `changes.csv` (path, label, true_label), the rows with another label."""
    rng, names = random.Random(0), label_map(labels)
    files: dict[str, list[Path]] = {}
    for path in list_class_files(pictures.resolve()):
        files.setdefault(find_label(path.parent.name, names), []).append(path)
    chosen = {label: rng.sample(paths, PER_CLASS) for label, paths in files.items() if len(paths) >= PER_CLASS}
    rows: list[tuple[str, str, str]] = []
    for label, paths in chosen.items():
        others = [other for other in chosen if other != label]
        wrong = round(FLIPPED * PER_CLASS)
        rows += [(str(path), rng.choice(others), label) for path in paths[:wrong]]
        rows += [(str(path), label, label) for path in paths[wrong:]]
    for name, columns, kept in (
        ("flipped.csv", ("path", "label"), rows),
        ("changes.csv", ("path", "label", "true_label"), [row for row in rows if row[1] != row[2]]),
    ):
        with (out / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([columns, *(row[: len(columns)] for row in kept)])


# ---- Answers -------------------------------------------------------------------------------------------------------


def read_truth(run: Path) -> dict[str, Any]:
    """Return the answers to the three questions from the tables of a run."""
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    test = pl.read_parquet(run / "predictions.parquet").filter(pl.col("split") == "test")
    suspects = read_suspects(run)
    summary = environment.get("label issues") or {}
    precision, n = summary.get("precision", 1.0), suspects.height
    apart = [] if precision < 0.5 else suspects["row_id"].to_list()
    return {
        "accuracy": round(test.filter(pl.col("label") == pl.col("predicted")).height / test.height, 4),
        "macro_f1": {key: round(metrics["macro_f1"][key], 4) for key in ("value", "low", "high")},
        "test pictures": test.height,
        "mistakes": test.filter(pl.col("label") != pl.col("predicted")).height,
        "most confused, apart from suspect labels unless they are only doubtful": count_confusions(test, apart),
        "labels": {
            "suspect": n,
            "by split": dict(Counter(suspects["split"].to_list())),
            "only doubtful": precision < 0.5,
            "expected wrong": [round(n * summary.get(key, 1.0)) for key in ("precision", "low", "high")],
        },
        "next": read_first_step(run),
    }


def read_suspects(run: Path) -> pl.DataFrame:
    """Return the pictures with a suspect label: row_id, path, label, split."""
    findings = pl.read_parquet(run / "findings.parquet")
    rows = findings.filter(pl.col("is_issue") & (pl.col("check") == "suspect-label"))["row_id"]
    pictures = pl.read_parquet(run / "pictures.parquet").select("row_id", "path", "label", "split")
    return pictures.filter(pl.col("row_id").is_in(rows.implode()))


def count_confusions(test: pl.DataFrame, apart: Sequence[int]) -> dict[str, Any]:
    """Return the most common confusions in one direction, and pairs of classes in both, all that are tied.

    apart: row ids of mistakes that do not count.
    """
    mistakes = test.filter((pl.col("label") != pl.col("predicted")) & ~pl.col("row_id").is_in(list(apart)))
    wrong = mistakes.select("label", "predicted").rows()
    support = Counter(test["label"].to_list())
    directed = Counter(wrong)
    pairs = Counter(tuple(sorted(pair)) for pair in wrong)
    most, most_of_pair = (max(counts.values(), default=0) for counts in (directed, pairs))
    return {
        "mistakes": len(wrong),
        "in one direction": [
            f"{label} predicted as {predicted}: {n} of {support[label]}"
            for (label, predicted), n in sorted(directed.items())
            if n == most
        ],
        "in both directions": [
            f"{a} and {b}: {n} of {support[a] + support[b]}" for (a, b), n in sorted(pairs.items()) if n == most_of_pair
        ],
    }


def read_first_step(run: Path) -> str:
    """Return the first step of `report.md`, which the steps of the page must agree with."""
    lines = (run / "report.md").read_text(encoding="utf-8").splitlines()
    return next(line.removeprefix("1. ") for line in lines if line.startswith("1. "))


def compare_with_changes(out: Path) -> dict[str, int]:
    """Return how many labels were changed, and how many of those are suspect."""
    changes = pl.read_csv(out / "changes.csv")
    suspects = set(read_suspects(out / "flipped")["path"].to_list())
    return {"changed": changes.height, "of them suspect": sum(path in suspects for path in changes["path"])}


# ---- Screenshots ---------------------------------------------------------------------------------------------------


def take_screenshots(out: Path) -> None:
    """Write the first screen of each report: in a window, in the dark, and on a phone."""
    from playwright.sync_api import sync_playwright

    executable = find_browser(("chromium", "chromium-browser", "google-chrome"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for suffix, options in VIEWS.items():
            page = browser.new_context(**options).new_page()
            for name in RUNS:
                page.goto((out / name / "report.html").as_uri())
                page.screenshot(path=out / f"{name}{suffix}.png")
        browser.close()


def find_browser(names: Sequence[str]) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    sys.exit(f"None of {', '.join(names)} is installed (apt-get install chromium)")


if __name__ == "__main__":
    main()
