"""What a reviewer has before him: the run's doubtful pictures, what its model thinks, and what was decided."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image

from bestiary import table
from bestiary.context import Context
from bestiary.data.corrections import Correction
from bestiary.errors import PictureError, SourceError
from bestiary.evaluation.neighbours import nearest_neighbours
from bestiary.files import read_json
from bestiary.inference.predictor import Predictor
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.models.features import FeatureCache, training_precision
from bestiary.picture import decode, read_bytes
from bestiary.progress import Reporter
from bestiary.report.audit_checks import CheckText, check_text
from bestiary.report.commands import compare_command, retrain_command
from bestiary.report.gallery import strip_common_folder
from bestiary.report.thumbnails import jpeg_copy
from bestiary.review.decisions import DecisionLog, reviewer_name
from bestiary.review.queue import CHECKS, ReviewItem, build_queue

SIDES = {"large": (1280, 88), "small": (240, 80)}  # pixels of the longer side, and JPEG quality
NEIGHBOURS, MAX_PROBABILITIES = 6, 6
PLAIN_BACKBONE = "lite0"  # for runs whose own network is not one of the bundled ones
MODEL_ADVICE = {
    "confident-mistake": CheckText(
        "confident mistake",
        "confident mistakes",
        "pictures held back from training that the model is sure are something else",
        "Where the label is wrong, the score is lower than the model deserves.",
        "Correct the label if it is wrong. Keep it if it is right: then the model has something to learn.",
        True,
    ),
    "unknown": CheckText(
        "unknown picture",
        "unknown pictures",
        "pictures held back from training that the model takes for none of the classes",
        "Some show what is no class at all; others are only unusual.",
        "Drop what does not belong here; keep what is unusual but right.",
        True,
    ),
}


class ReviewSession:
    """A run under review. Any thread may ask."""

    def __init__(self, run: Path, decisions: DecisionLog, *, threads: int | None = None) -> None:
        """Read the tables and the model of a run; raises RunError if it is missing, unfinished or damaged."""
        self.run, self.decisions = run, decisions
        self._predictor, self._lock = Predictor(run, threads=threads), threading.Lock()
        self._pictures = table.read(run / "pictures.parquet", table.PICTURES)
        findings = table.read(run / "findings.parquet", table.FINDINGS)
        predictions = table.read(run / "predictions.parquet", table.PREDICTIONS)
        self.items = {item.row: item for item in build_queue(self._pictures, findings, predictions)}
        self._rows = {row["row_id"]: row for row in self._pictures.iter_rows(named=True)}
        self._names = strip_common_folder(self._pictures["path"].to_list())
        self._neighbours: Mapping[int, list[int]] | None = None
        self._neighbours_error: str | None = None
        decisions.all()  # a file that cannot be understood is told of before anything is decided

    def overview(self) -> dict[str, Any]:
        """Return everything but pictures and answers: the items, the checks, the decisions, what to do afterwards."""
        counts = dict.fromkeys(CHECKS, 0)
        for item in self.items.values():
            for check in {reason.check for reason in item.reasons}:
                counts[check] += 1
        return {
            "run": self.run.resolve().name,
            "reviewer": self.decisions.reviewer,
            "file": str(self.decisions.path),
            "labels": sorted(self._pictures.filter(pl.col("error").is_null())["label"].unique()),
            "checks": [_check_json(check, count) for check, count in counts.items() if count],
            "items": [self._item_json(item) for item in self.items.values()],
            "decisions": self.decisions_by_row(),
            "commands": self.commands(),
        }

    def decisions_by_row(self) -> dict[int, dict[str, Any]]:
        """Return the decision that holds for each row of the run that somebody decided about."""
        made = self.decisions.all().by_content
        rows = ((row_id, made.get(row["sha256"])) for row_id, row in self._rows.items())
        return {row_id: _decision_json(one) for row_id, one in rows if one is not None}

    def decide(self, row: int, action: str, label: str, note: str, tab: str = "") -> None:
        """Write a decision about an item. Raises SourceError for one that makes no sense; LookupError for no item."""
        item = self.items[row]
        if action == "relabel" and label not in set(self._pictures["label"]):
            raise SourceError(f'No picture has the label "{label}". New labels can be written into the file by hand.')
        self.decisions.add(item.sha256, action, label if action == "relabel" else "", note, tab)

    def undo(self, tab: str = "") -> int | None:
        """Take back the last decision made here in this tab; return the item it was about, or None if there is none."""
        last = self.decisions.undo(tab)
        if last is None:
            return None
        return next((item.row for item in self.items.values() if item.sha256 == last.sha256), None)

    def model_prediction(self, row: int) -> dict[str, Any]:
        """Return what the model says of an item now, and its nearest training pictures: None while they are sought.

        learned: whether it was taught this picture with this label, so that it is no independent witness.
        """
        item, path = self.items[row], Path(self._rows[row]["path"])
        with self._lock:
            answer = self._predictor.predict(path)
        shares = sorted(answer.probabilities.items(), key=lambda one: -one[1])[:MAX_PROBABILITIES]
        near = None if self._neighbours is None else [self._picture_json(other) for other in self._neighbours[row]]
        return {
            "shares": shares,
            "unknown": answer.unknown,
            "error": answer.error,
            "learned": item.split == "train",
            "neighbours": near,
            "why_not": self._neighbours_error,
        }

    def picture(self, row: int, size: str) -> bytes:
        """Return a picture of the run as a JPEG, `large` or `small`. Raises LookupError for another row or size.

        Raises PictureError if the file is gone, cannot be read, or is not the one that the run saw.
        """
        (side, quality), one = SIDES[size], self._rows[row]
        content = read_bytes(Path(one["path"]))
        if hashlib.sha256(content).hexdigest() != one["sha256"]:
            raise PictureError("This file has changed since the run.", check="unreadable")
        return jpeg_copy(Image.fromarray(decode(content, at_least=side)), side, quality)

    def start_neighbour_search(self, cache: Path, *, threads: int, reporter: Reporter) -> None:
        """Find the nearest training pictures of every item; features that are not in the cache are computed."""
        bundle = self._predictor.bundle
        backbone = bundle.backbone if bundle.backbone in BACKBONES else PLAIN_BACKBONE
        known = self._pictures.filter(pl.col("split") == "train")
        asked = pl.DataFrame([self._rows[row] for row in self.items], schema=self._pictures.schema)
        both = pl.concat([known, asked])
        context = Context(threads=threads, reporter=reporter, cache=cache)
        feature_cache = FeatureCache(backbone, bundle.preprocess, training_precision(), context)
        features = feature_cache.features([Path(path) for path in both["path"]], both["sha256"].to_list())
        split, groups = known.height, both["group"].to_numpy()
        found = nearest_neighbours(features[split:], features[:split], groups[split:], groups[:split], NEIGHBOURS)
        rows = known["row_id"].to_list()
        self._neighbours = {
            row: [rows[at] for at in near if at >= 0] for row, near in zip(self.items, found, strict=True)
        }

    def cancel_neighbour_search(self, reason: str) -> None:
        """Say on the page why there are no nearest training pictures."""
        self._neighbours, self._neighbours_error = {row: [] for row in self.items}, reason

    def commands(self) -> list[str]:
        """Return the commands that train on what was decided and compare the result with this run."""
        run = self.run.resolve()  # `runs/latest` is another run once the first of them is done
        train = retrain_command(run / "asked.toml", read_json(run / "environment.json"), self.decisions.path.resolve())
        return [train, compare_command(run, "--labels-of", "runs/latest")]

    def _item_json(self, item: ReviewItem) -> dict[str, Any]:
        return {
            **{name: getattr(item, name) for name in ("row", "name", "label", "split", "suggested")},
            "reasons": [asdict(reason) for reason in item.reasons],
            "copies": [self._picture_json(row) for row in item.copies],
            "alike": [self._picture_json(row) for row in item.near_duplicates],
        }

    def _picture_json(self, row: int) -> dict[str, Any]:
        one = self._rows[row]
        return {"row": row, "name": self._names[one["path"]], "label": one["label"], "split": one["split"]}


def _check_json(check: str, count: int) -> dict[str, Any]:
    words = MODEL_ADVICE.get(check) or check_text(check)
    return {"check": check, "one": words.singular, "many": words.plural, "remedy": words.remedy, "count": count}


def _decision_json(correction: Correction) -> dict[str, Any]:
    return {
        "action": correction.action,
        "label": correction.label,
        "note": correction.note,
        "by": reviewer_name(correction),
        "when": correction.when,
    }
