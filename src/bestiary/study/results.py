"""Results of a study so far: plain values, CSV tables and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import polars as pl

from bestiary import table
from bestiary.evaluation.comparison import COMPARED, RunPredictions, read_run_predictions
from bestiary.evaluation.multi_seed import RecipePair, compare_over_seeds
from bestiary.files import atomic_path, read_json, write_json
from bestiary.study.page import write_page
from bestiary.study.recipes import StudyRecipe, recipe_diff
from bestiary.study.runs import StudyRun

RESULTS, PAGE, CELLS_CSV, DIFFERENCES_CSV = "results.json", "study.html", "cells.csv", "differences.csv"


class Results:
    """Reads the finished runs of a study and writes their results into its folder."""

    def __init__(self, out: Path, pairs: Sequence[RecipePair], facts: Mapping[str, Any]) -> None:
        """facts: what the page states of the study as a whole."""
        self.out, self._pairs, self._facts = out, pairs, facts
        self._read = dict[Path, tuple[RunPredictions, dict[str, Any]]]()

    def write_results(self, cells: Sequence[StudyRun], failed: Mapping[str, str]) -> dict[str, Any]:
        """Write the results of the finished runs as JSON, tables and a page; return them as plain values.

        At least one run is finished. The bootstrap takes seconds with many recipes and pictures. Raises UserError if
        the runs of a seed tested different pictures.
        """
        done = self._finished_cells(cells)
        missing = [str(cell) for cell in cells if cell not in done]
        results = self._summarise(done) | {"failed": dict(failed), "missing": missing}
        write_json(self.out / RESULTS, results)
        _write_csv(self.out / CELLS_CSV, results["cells"])
        _write_csv(self.out / DIFFERENCES_CSV, [_difference_row(row) for row in results["differences"]])
        write_page(results, self.out / PAGE)
        return results

    def write_cells_table(self, cells: Sequence[StudyRun]) -> None:
        """Write the table of the finished runs only."""
        _write_csv(self.out / CELLS_CSV, [self._cell_row(cell) for cell in self._finished_cells(cells)])

    def _finished_cells(self, cells: Sequence[StudyRun]) -> list[StudyRun]:
        """Return the finished runs, after reading them."""
        done = [cell for cell in cells if cell.is_finished]
        for cell in done:
            if cell.run not in self._read:
                self._read[cell.run] = read_run_predictions(cell.run), read_json(cell.run / "metrics.json")
        return done

    def _summarise(self, finished: Sequence[StudyRun]) -> dict[str, Any]:
        names = list(dict.fromkeys(cell.entry.name for cell in finished))
        answers = {
            name: {cell.seed: self._read[cell.run][0] for cell in finished if cell.entry.name == name} for name in names
        }
        pairs = [pair for pair in self._pairs if pair.recipe in answers and pair.against in answers]
        scored = compare_over_seeds(answers, pairs, {cell.seed: _test_train_ratio(cell.run) for cell in finished})
        descriptions = self._describe_recipes({cell.entry.name: cell.entry for cell in finished}, finished)
        return {
            **self._facts,
            **scored,
            "recipes": [row | descriptions[row["recipe"]] for row in scored["recipes"]],
            "cells": [self._cell_row(cell) for cell in finished],
        }

    def _describe_recipes(
        self, entries: Mapping[str, StudyRecipe], finished: Sequence[StudyRun]
    ) -> dict[str, dict[str, Any]]:
        """Return the description of each recipe, its differences from the one it is compared with, and its seconds."""
        against = {pair.recipe: pair.against for pair in self._pairs}
        return {
            name: {
                "about": entry.about,
                "against": against.get(name),
                "changes": recipe_diff(entry, entries[against[name]]) if against.get(name) in entries else [],
                "train_seconds": mean(
                    self._stage_seconds(cell, "train") for cell in finished if cell.entry.name == name
                ),
            }
            for name, entry in entries.items()
        }

    def _stage_seconds(self, cell: StudyRun, stage: str) -> float:
        return float(self._read[cell.run][1]["seconds"].get(stage, 0.0))

    def _cell_row(self, cell: StudyRun) -> dict[str, Any]:
        metrics = self._read[cell.run][1]
        return {
            "recipe": cell.entry.name,
            "seed": cell.seed,
            "n": metrics["n"],
            **{name: metrics[name]["value"] for name in COMPARED},
            "train_seconds": self._stage_seconds(cell, "train"),
            "total_seconds": self._stage_seconds(cell, "total"),
            "run": str(cell.run),
        }


def _test_train_ratio(run: Path) -> float:
    """Return the ratio of test to training pictures of a run."""
    splits = table.read(run / "pictures.parquet", table.PICTURES)["split"].to_list()
    return splits.count("test") / splits.count("train")


def _difference_row(difference: Mapping[str, Any]) -> dict[str, Any]:
    line: dict[str, Any] = {key: difference[key] for key in ("recipe", "against")}
    line["seeds"] = " ".join(map(str, difference["seeds"]))
    for metric in COMPARED:
        estimate = difference[metric]
        line |= {f"{metric}_{key}": estimate[key] for key in ("value", "low", "high", "p", "p_holm", "verdict")}
    return line


def _write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    with atomic_path(path) as temporary:
        pl.DataFrame(list(lines)).write_csv(temporary)
