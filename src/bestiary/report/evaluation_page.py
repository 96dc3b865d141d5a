"""The page of an evaluation on other pictures: distribution shift first, then the sections of a run's report."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from bestiary import table
from bestiary.files import read_json, write_text
from bestiary.inference.bundle import read_bundle
from bestiary.report import verdict
from bestiary.report.calibration_section import calibration_values
from bestiary.report.commands import reading_options
from bestiary.report.confusion_section import confusion_values, most_confused_pairs
from bestiary.report.gallery import build_galleries, gallery_pictures, heatmap_overlays, strip_common_folder
from bestiary.report.present_classes import present_metrics
from bestiary.report.render import render_page
from bestiary.report.threshold_section import threshold_values
from bestiary.text import describe_skipped
from bestiary.version import __version__

PAGE = "report.html"
MAX_STRANGERS = 24  # pictures of classes that the model does not know
MAX_LEFT_OUT = 1000
MAX_ROWS, FIRST_ROWS = 30, 20  # of the table of classes, as in a run's report
EMPTY_SHIFT = {"familiarity": None, "classifier": None, "classes": None}


def write_evaluation_page(folder: Path, *, threads: int | None = None) -> Path:
    """Write `report.html` into the folder of an evaluation, `RUN/evaluations/NAME`, from its files; return its path."""
    run, metrics = folder.resolve().parents[1], read_json(folder / "metrics.json")
    pictures = table.read(folder / "pictures.parquet", table.PICTURES)
    predictions = table.read(folder / "predictions.parquet", table.PREDICTIONS).sort("row_id")
    predictions = table.name_rows(predictions, pictures).with_columns(pl.col("unknown").fill_null(False))
    pictures = table.name_crops(pictures)
    names, classes = strip_common_folder(pictures["path"].to_list()), read_bundle(run).classes
    is_class = pl.col("label").is_in(list(classes))
    strangers = predictions.filter(~is_class).sort("unknown", -pl.col("probability"))
    options = reading_options(metrics.get("reading") or {})
    values = {
        "version": __version__,
        "name": folder.name,
        "run": run,
        "command": shlex.join(["bestiary", "evaluate", str(run), metrics["source"], *options]),
        "source": metrics["source"],
        "shift": EMPTY_SHIFT | metrics["shift"],
        "skipped": describe_skipped(metrics.get("passed_over", {})),
        "notices": metrics.get("notices", ()),
        "n_pictures": metrics["pictures"],
        "left_out": _left_out(pictures, names),
        "copies_of_test": metrics["copies"]["test"],
        "unknown_classes": metrics["unknown_classes"],
        "strangers": gallery_pictures(strangers.head(MAX_STRANGERS), names, {}),
        "n_strangers": strangers.height,
        "absent": _absent_classes(metrics),
        "metrics": {},
    }
    if "per_class" in metrics:
        heatmaps = partial(heatmap_overlays, run, threads=threads)
        scored = predictions.filter(is_class)
        values |= _score_values(present_metrics(metrics), scored, names, _count_training_pictures(run))
        values |= build_galleries(scored, {}, names, heatmaps)
    path = folder / PAGE
    write_text(path, render_page("evaluation.html", values))
    return path


def _score_values(
    metrics: Mapping[str, Any], scored: pl.DataFrame, names: Mapping[str, str], train_counts: Mapping[str, int]
) -> dict[str, Any]:
    """Return the values of the sections on scores, confusions and probabilities; metrics: of the present classes."""
    return {
        "metrics": metrics,
        "verdict": verdict.describe_accuracy(metrics),
        "facts": verdict.list_mistake_facts(metrics),
        "classes": [
            {"label": label, "train": train_counts.get(label, 0)} | metrics["per_class"][label]
            for label in verdict.classes_by_f1(metrics)
        ],
        "most_rows": MAX_ROWS,
        "first_rows": FIRST_ROWS,
        "slices": metrics.get("slices") or {},
        **confusion_values(metrics),
        "confused": most_confused_pairs(metrics, scored, names, {}),
        **calibration_values(metrics, scored),
        **threshold_values(metrics),
    }


def _absent_classes(metrics: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the classes of the model without pictures here, with how many pictures of others are predicted as them."""
    confusion = metrics.get("confusion", {"labels": [], "counts": []})
    predicted = {label: sum(row[at] for row in confusion["counts"]) for at, label in enumerate(confusion["labels"])}
    absent = [(label, predicted.get(label, 0)) for label in metrics["classes_without_pictures"]]
    return sorted(absent, key=lambda pair: (-pair[1], pair[0]))


def _left_out(pictures: pl.DataFrame, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the pictures that were not scored by reason, the most frequent first, limited to MAX_LEFT_OUT names."""
    rows = pictures.filter(pl.col("split").is_null()).sort("path")
    reasons: dict[str, list[str]] = {}
    for path, error in rows.select("path", "error").iter_rows():
        reason = (
            (error or "no reason was recorded").replace(path, "").lstrip(" :").partition(":")[0].removeprefix("is ")
        )
        reasons.setdefault(reason, []).append(names[path])
    room, limited = MAX_LEFT_OUT, []
    for reason, files in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        limited.append({"reason": reason, "n": len(files), "files": files[:room]})
        room = max(0, room - len(files))
    return limited


def _count_training_pictures(run: Path) -> dict[str, int]:
    pictures = table.read(run / "pictures.parquet", table.PICTURES)
    return Counter(pictures.filter(pl.col("split") == "train")["label"].to_list())
