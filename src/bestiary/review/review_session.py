"""State of a review session: the doubtful pictures of a run, the model's predictions, the decisions so far."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from bestiary import run_folder, table
from bestiary.checks import REVIEW_ORDER, AuditCheck
from bestiary.context import Context
from bestiary.crops import decode_file
from bestiary.data.corrections import Correction
from bestiary.data.joined_groups import groups_without_sites
from bestiary.errors import PictureError, SourceError
from bestiary.files import read_json
from bestiary.finding_counts import read_label_issues
from bestiary.inference.predictor import Predictor
from bestiary.label_issue_summary import resolve_check
from bestiary.models.backbones import bundled_backbone, recipe_backbone, uses_features
from bestiary.models.engine_choice import explain_impossible
from bestiary.models.features import features_by_split, training_feature_cache
from bestiary.models.neighbours import nearest_neighbours
from bestiary.picture import read_bytes
from bestiary.preprocess import VerifiedFile
from bestiary.report.commands import compare_command, retrain_command
from bestiary.report.gallery import strip_common_folder
from bestiary.review.decisions import DecisionLog, reviewer_name
from bestiary.review.queue import ReviewItem, build_queue
from bestiary.run_folder import recorded_features
from bestiary.text import format_names, printable
from bestiary.thumbnails import jpeg_copy

SIDES = {"large": (1280, 88), "small": (240, 80)}  # pixels of the longer side, and JPEG quality
NEIGHBOURS, MAX_PROBABILITIES = 6, 6
PLAIN_BACKBONE = "lite0"  # for runs whose own network has no cached features


@dataclass(frozen=True)
class ReviewDecision:
    """A reviewer's decision: `is_new` says that the label is meant to be new; tab: the browser tab it comes from."""

    action: str
    label: str = ""
    note: str = ""
    tab: str = ""
    is_new: bool = False


class ReviewSession:
    """A run under review. Thread-safe."""

    def __init__(self, run: Path, decisions: DecisionLog, *, threads: int | None = None) -> None:
        """Read the tables and the model of a run; raises RunError if it is missing, unfinished or damaged."""
        self.run, self.decisions = run, decisions
        self._predictor, self._lock = Predictor(run, threads=threads), threading.Lock()
        self._pictures = table.read(run / "pictures.parquet", table.PICTURES)
        findings = table.read(run / "findings.parquet", table.FINDINGS)
        predictions = table.read(run / "predictions.parquet", table.PREDICTIONS)
        self._label_issues = read_label_issues(run_folder.read_environment(run))
        self.items = {item.row: item for item in build_queue(self._pictures, findings, predictions)}
        self._rows = {row["row_id"]: row for row in self._pictures.iter_rows(named=True)}
        self._files = dict(zip(self._pictures["row_id"], table.list_files(self._pictures), strict=True))
        names = table.name_crops(self._pictures)["path"].to_list()
        short = strip_common_folder(names)
        self._names = {row: short[name] for row, name in zip(self._pictures["row_id"], names, strict=True)}
        self._neighbours: Mapping[int, list[int]] | None = None
        self._neighbours_error: str | None = None
        decisions.all()  # raises for a file that cannot be parsed, before anything is decided

    def overview(self) -> dict[str, Any]:
        """Return everything but pictures and predictions: items, checks, decisions, the commands to run afterwards."""
        counts = dict.fromkeys(REVIEW_ORDER, 0)
        for item in self.items.values():
            for check in {reason.check for reason in item.reasons}:
                counts[check] += 1
        return {
            "run": self.run.resolve().name,
            "reviewer": self.decisions.reviewer,
            "file": str(self.decisions.path),
            "labels": sorted(self._pictures.filter(pl.col("error").is_null())["label"].unique()),
            "checks": [
                _check_json(resolve_check(check, self._label_issues), count) for check, count in counts.items() if count
            ],
            "items": [self._item_json(item) for item in self.items.values()],
            "decisions": self.decisions_by_row(),
            "commands": self.commands(),
            "missing": self.missing_files(),
        }

    def decisions_by_row(self) -> dict[int, dict[str, Any]]:
        """Return the current decision about each row of the run that has one."""
        decisions = self.decisions.all().by_content
        rows = ((row_id, decisions.get(row["sha256"])) for row_id, row in self._rows.items())
        return {row_id: _decision_json(decision) for row_id, decision in rows if decision is not None}

    def missing_files(self) -> str:
        """Return which files of the pictures to review are gone, in a sentence; empty if all are there."""
        gone = [self._rows[row]["path"] for row in self.items if not Path(self._rows[row]["path"]).exists()]
        if not gone:
            return ""
        pictures = "picture to review is" if len(self.items) == 1 else "pictures to review are"
        return (
            f"{len(gone):,} of {len(self.items):,} {pictures} not where the run found them:"
            f" {format_names([printable(path) for path in gone], 2)}. They cannot be shown; restore them, or decide by"
            " their names."
        )

    def decide(self, rows: Sequence[int], decision: ReviewDecision) -> None:
        """Record the same decision about items; `undo` reverts it for all of them.

        Raises SourceError for an unknown label; LookupError for an unknown item.
        """
        label = decision.label.strip() if decision.action in ("relabel", "both") else ""
        if decision.action == "relabel" and not decision.is_new and label not in set(self._pictures["label"]):
            raise SourceError(f'No picture has the label "{label}". Confirm that it is a new label.')
        pictures = [(self.items[row].sha256, printable(self._rows[row]["path"])) for row in rows]
        self.decisions.add_batch(pictures, decision.action, label, decision.note, decision.tab)

    def undo(self, tab: str = "") -> int | None:
        """Undo the last decision of this tab; return the row of its item, or None if there is none."""
        last = self.decisions.undo(tab)
        if last is None:
            return None
        return next((item.row for item in self.items.values() if item.sha256 == last.sha256), None)

    def model_prediction(self, row: int) -> dict[str, Any]:
        """Return the model's prediction for an item, and its nearest training pictures: None until they are computed.

        learned: whether the picture was in the training split with this label, so that the prediction is biased.
        """
        item = self.items[row]
        with self._lock:
            prediction = self._predictor.predict(self._files[row])
        ranked = sorted(prediction.probabilities.items(), key=lambda pair: -pair[1])
        return {
            "shares": ranked[:MAX_PROBABILITIES],
            "unknown": prediction.unknown,
            "error": prediction.error,
            "learned": item.split == "train",
            "neighbours": None if self._neighbours is None else [self._picture_json(n) for n in self._neighbours[row]],
            "why_not": self._neighbours_error,
        }

    def picture(self, row: int, size: str) -> bytes:
        """Return a picture of the run as a JPEG, `large` or `small`. Raises LookupError for another row or size.

        Raises PictureError if the file is missing, cannot be read, or has changed since the run.
        """
        (side, quality), picture = SIDES[size], self._rows[row]
        file = VerifiedFile.of(self._files[row], picture["sha256"])
        if not file.is_unchanged(read_bytes(file.path)):
            raise PictureError("This file has changed since the run.", check="unreadable")
        return jpeg_copy(decode_file(self._files[row], side), side, quality)

    def start_neighbour_search(self, context: Context) -> None:
        """Find the nearest training pictures of every item; features that are not cached are computed."""
        bundle = self._predictor.bundle
        recipe = run_folder.load_resolved_recipe(self.run)
        if uses_features(recipe):
            backbone = recipe_backbone(recipe, context.require_cache(), bundle.size)
        else:
            backbone = bundled_backbone(PLAIN_BACKBONE)
        train = self._pictures.filter(pl.col("split") == "train")
        items = pl.DataFrame([self._rows[row] for row in self.items], schema=self._pictures.schema)
        both, n = pl.concat([train, items]), train.height
        recorded = recorded_features(self.run)
        if explain_impossible(recorded) is None:  # else any other: neighbours need no exact precision
            context = replace(context, features=recorded)
        feature_cache = training_feature_cache(backbone, bundle.preprocess, context)
        splits = both["split"].fill_null("train").to_list()
        features = features_by_split(feature_cache, table.list_files(both), both["sha256"].to_list(), splits)
        groups, row_ids = groups_without_sites(both), train["row_id"].to_list()
        nearest = nearest_neighbours(features[n:], features[:n], groups[n:], groups[:n], NEIGHBOURS)
        self._neighbours = {
            row: [row_ids[index] for index in indices if index >= 0]
            for row, indices in zip(self.items, nearest, strict=True)
        }

    def cancel_neighbour_search(self, reason: str) -> None:
        """Show on the page why there are no nearest training pictures."""
        self._neighbours, self._neighbours_error = {row: [] for row in self.items}, reason

    def commands(self) -> list[str]:
        """Return the commands that train with the decisions and compare the result with this run."""
        run = self.run.resolve()  # after training, `runs/latest` is another run
        train = retrain_command(run / "asked.toml", read_json(run / "environment.json"), self.decisions.path.resolve())
        return [train, compare_command(run, "--labels-of", "runs/latest")]

    def _item_json(self, item: ReviewItem) -> dict[str, Any]:
        return {
            **{name: getattr(item, name) for name in ("row", "name", "label", "split")},
            "suggested": item.suggested_label,
            "reasons": [asdict(reason) for reason in item.reasons],
            "copies": [self._picture_json(row) for row in item.copies],
            "alike": [self._picture_json(row) for row in item.near_duplicates],
        }

    def _picture_json(self, row: int) -> dict[str, Any]:
        picture = self._rows[row]
        return {"row": row, "name": self._names[row], "label": picture["label"], "split": picture["split"]}


def _check_json(check: AuditCheck, count: int) -> dict[str, Any]:
    return {"check": check.name, "one": check.singular, "many": check.plural, "remedy": check.remedy, "count": count}


def _decision_json(decision: Correction) -> dict[str, Any]:
    fields = {name: getattr(decision, name) for name in ("action", "label", "note", "when")}
    return {**fields, "by": reviewer_name(decision)}
