"""One page that tells what a run learnt, for a newcomer: reads the run folder's files and nothing else of the run.

Run folder -> RunFiles (as read) -> plain values for the page -> `templates/report.html` -> `report.html`.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from bestiary import __version__, table
from bestiary.deliver import plots, verdict
from bestiary.deliver.gallery import galleries, shared_folder, short_names, thumbnails
from bestiary.deliver.learning_section import lesson_values
from bestiary.deliver.page import render_page
from bestiary.errors import RunError
from bestiary.evaluation.classification_report import notes_of
from bestiary.machine import write_text

NEEDED_METRICS = ("n", "accuracy", "macro_f1", "per_class", "confusion")
LARGEST_TABLE_MATRIX = 30  # classes; beyond, the confusion matrix is a picture
FINDING_PIXELS = 96
KINDS = (*table.SPLITS, "out")
FINDINGS_SHOWN = 5
LEFT_OUT_SHOWN = 1000
PAIRS_SHOWN = 8


@dataclass(frozen=True)
class RunFiles:
    """What lies in a run folder, as read; what is optional and missing is empty."""

    folder: Path
    metrics: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    pictures: pl.DataFrame
    findings: pl.DataFrame
    predictions: pl.DataFrame
    resolved: str
    asked: str
    environment: Mapping[str, Any]
    bundle: Mapping[str, Any]
    leaks: Mapping[str, Any] = field(default_factory=dict)
    lessons: Mapping[str, Any] = field(default_factory=dict)


def write_report(run: Path) -> Path:
    """Return the path of `report.html`, written anew from the tables of a run folder.

    Raises RunError, naming the file, if the run has no metrics, pictures or predictions yet, or one is damaged.
    """
    target = run / "report.html"
    write_text(target, render(read_run(run)))
    return target


def read_run(run: Path) -> RunFiles:
    """Return the files of a run folder. Raises RunError for one that is needed and missing, or cannot be read."""
    findings = run / "findings.parquet"
    none = pl.DataFrame(schema=table.FINDINGS)
    return RunFiles(
        folder=run.absolute(),
        metrics=_metrics(run),
        history=_json_lines(run / "history.jsonl"),
        pictures=table.read(run / "pictures.parquet", table.PICTURES),
        findings=table.read(findings, table.FINDINGS) if findings.exists() else none,
        predictions=table.read(run / "predictions.parquet", table.PREDICTIONS),
        resolved=_text(run / "resolved.toml"),
        asked=_text(run / "asked.toml"),
        environment=_json(run / "environment.json"),
        bundle=_json(run / "bundle.json"),
        leaks=_json(run / "leaks.json"),
        lessons=_json(run / "learning_curve.json"),
    )


def render(run: RunFiles) -> str:
    """Return the whole page as HTML that needs nothing from outside itself."""
    test = run.predictions.filter(pl.col("split") == "test").sort("row_id")
    test = test.with_columns(pl.col("unknown").fill_null(False))  # a run without a threshold answers everything
    names = short_names(run.pictures["path"].to_list())
    marked = run.findings.filter(pl.col("is_issue") & (pl.col("check") == "suspect-label"))
    suspects = set(marked["row_id"].to_list())
    values = {
        "version": run.environment.get("bestiary", __version__),
        **_story(run),
        **_pictures(run, names),
        **_findings(run, names),
        **_learning(run),
        **lesson_values(run.lessons),
        **_confusion(run.metrics),
        **_trust(test),
        **galleries(test, suspects, names),
    }
    return render_page("report.html", values)


def _story(run: RunFiles) -> dict[str, Any]:
    method = str(run.bundle.get("method", ""))
    train = run.pictures.filter(pl.col("split") == "train")["label"]
    train_counts = {str(label): n for label, n in Counter(train.to_list()).items()}
    issues = Counter(run.findings.filter(pl.col("is_issue"))["check"].to_list())
    of_suspects = run.findings.filter(pl.col("is_issue") & (pl.col("check") == "suspect-label"))["row_id"]
    suspects = Counter(
        run.pictures.filter(pl.col("row_id").is_in(of_suspects.implode()))["split"].drop_nulls().to_list()
    )
    m = run.metrics
    return {
        "name": run.folder.name,
        "folder": run.folder,
        "method": method,
        "bundle": run.bundle,
        "metrics": m,
        "notes": [*notes_of(m), *([run.leaks["sentence"]] if run.leaks else [])],
        "verdict": verdict.verdict(m),
        "steps": verdict.next_steps(
            m, train_counts, run.history, issues, shlex.quote(str(run.folder)), method, suspects
        ),
        "classes": [
            {"label": label, "train": train_counts.get(label, 0)} | m["per_class"][label] for label in _order(m)
        ],
        "resolved": run.resolved,
        "asked": run.asked,
        "environment": run.environment,
    }


def _order(metrics: Mapping[str, Any]) -> list[str]:
    """Return the classes, weakest first; those without test pictures come last."""
    judged = verdict.by_f1(metrics)
    return judged + [label for label in metrics["per_class"] if label not in set(judged)]


def _pictures(run: RunFiles, names: Mapping[str, str]) -> dict[str, Any]:
    counts: dict[str, Counter[str]] = {}
    for label, split in run.pictures.select("label", "split").iter_rows():
        counts.setdefault(label if label is not None else "(no label)", Counter())[split or "out"] += 1
    rows: list[dict[str, Any]] = [
        {"label": label, "total": n.total()} | {kind: n[kind] for kind in KINDS} for label, n in counts.items()
    ]
    return {
        "classes_used": sorted(rows, key=lambda row: (-row["total"], row["label"])),
        "totals": {key: sum(row[key] for row in rows) for key in ("total", *KINDS)},
        "largest": max((row["total"] for row in rows), default=1),
        "reasons": _first_lines(_reasons(run, names)),
        "root": shared_folder(run.pictures["path"].to_list()),
    }


def _reasons(run: RunFiles, names: Mapping[str, str]) -> dict[str, list[tuple[str, str]]]:
    """Return the files left out, as (name, what is wrong), by the check that marked them, else by reason."""
    checks = dict(run.findings.filter(pl.col("is_issue")).select("row_id", "check").iter_rows())
    left_out = run.pictures.filter(pl.col("split").is_null()).sort("error", "path")
    reasons: dict[str, list[tuple[str, str]]] = {}
    for row_id, path, error in left_out.select("row_id", "path", "error").iter_rows():
        words = (error or "no reason was recorded").replace(path, "").lstrip(" :")
        reason = checks.get(row_id, words.partition(":")[0])
        reasons.setdefault(reason, []).append((names[path], words))
    return reasons


def _first_lines(reasons: Mapping[str, list[tuple[str, str]]]) -> list[dict[str, Any]]:
    """Return the reasons, the most frequent first, each with its count and the files that still fit on the page."""
    room, kept = LEFT_OUT_SHOWN, []
    for reason, files in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        kept.append({"reason": reason, "n": len(files), "files": files[:room]})
        room = max(0, room - len(files))
    return kept


def _findings(run: RunFiles, names: Mapping[str, str]) -> dict[str, Any]:
    issues = run.findings.filter(pl.col("is_issue"))
    checks = []
    counted = Counter(issues["check"].to_list()).most_common()
    for check, n in sorted(counted, key=lambda pair: pair[0] not in verdict.SERIOUS):  # serious first, then by number
        rows = issues.filter(pl.col("check") == check).head(FINDINGS_SHOWN).to_dicts()
        images = thumbnails([row["path"] for row in rows], FINDING_PIXELS)
        examples = [
            {"message": row["message"], "name": names.get(row["path"], row["path"] or ""), "image": image}
            for row, image in zip(rows, images, strict=True)
        ]
        checks.append(
            {
                "check": check,
                "n": n,
                "meaning": verdict.CHECKS.get(check, ""),
                "examples": examples,
                "open": check in verdict.SERIOUS,
            }
        )
    return {"checks": checks, "issues": issues.height, "remarks": run.findings.height - issues.height}


def _learning(run: RunFiles) -> dict[str, Any]:
    """Return both curves (empty without a history), the heading, and the line that was kept."""
    history = run.history
    path = any("regularisation" in line for line in history)
    key, words = ("regularisation", "C (weaker regularisation to the right)") if path else ("epoch", "Epoch")
    x = [line[key] for line in history]
    kept = _kept(history)
    mark = None if kept is None else (kept[key], f"kept: {'C =' if path else 'epoch'} {kept[key]:g}")
    loss = [plots.Series("training", "ink-other", _column(history, "train_loss"))]
    loss.append(plots.Series("validation", "ink-right", _column(history, "val_loss")))
    score = [plots.Series("validation", "ink-right", _column(history, "val_macro_f1"))]
    shape: dict[str, Any] = {"x_label": words, "x_log": path, "mark": mark}
    return {
        "is_path": path,
        "history": history,
        "kept": kept,
        "loss_plot": plots.curve("Loss", x, loss, y_label="Loss (lower is better)", **shape),
        "score_plot": plots.curve("Macro-F1", x, score, y_label="Macro-F1 on validation", as_percent=True, **shape),
    }


def _column(history: Sequence[Mapping[str, Any]], key: str) -> list[float | None]:
    return [line.get(key) for line in history]


def _kept(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the line marked as chosen, else the first with the best validation macro-F1."""
    chosen = [line for line in history if line.get("chosen")]
    scored = [line for line in history if line.get("val_macro_f1") is not None]
    if chosen:
        return chosen[-1]
    return max(scored, key=lambda line: float(line["val_macro_f1"]), default=None)


def _confusion(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the confusion matrix as rows of cells, or as a picture, and its most frequent mistakes."""
    labels: list[str] = metrics["confusion"]["labels"]
    counts = np.asarray(metrics["confusion"]["counts"], dtype=np.int64).reshape(len(labels), len(labels))
    rates = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = np.where(np.eye(len(labels), dtype=bool), 0, counts)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS_SHOWN]
    pairs = [
        (row, column) for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[row, column]
    ]
    as_table = len(labels) <= LARGEST_TABLE_MATRIX
    return {
        "labels": labels,
        "matrix": list(zip(labels, counts.tolist(), rates.tolist(), strict=True)) if as_table else [],
        "matrix_plot": Markup("") if as_table else plots.confusion_map(labels, counts),
        "pairs": [(labels[r], labels[c], int(counts[r, c]), int(counts[r].sum())) for r, c in pairs],
    }


def _trust(test: pl.DataFrame) -> dict[str, Any]:
    """Return the plots about probabilities; none without test pictures."""
    confidence = test["probability"].cast(pl.Float64).to_numpy()
    right = (test["label"] == test["predicted"]).to_numpy().astype(bool)
    unknown = test["unknown"].to_numpy().astype(bool)
    if not len(right):
        return {"trust_plots": [], "bins": []}
    bins = plots.reliability_points(confidence, right)
    return {
        "trust_plots": [
            plots.reliability(bins),
            plots.confidence_histogram(confidence, right),
            plots.coverage(confidence, right, unknown),
        ],
        "bins": bins,
    }


def _metrics(run: Path) -> dict[str, Any]:
    if not run.is_dir():
        raise RunError(f'"{run}" is not a folder. Give the run folder that `bestiary train` printed, or runs/latest.')
    metrics = _json(run / "metrics.json")
    if missing := [key for key in NEEDED_METRICS if key not in metrics]:
        raise RunError(f'{run / "metrics.json"} has no "{missing[0]}". Score the run: bestiary evaluate {run}')
    return metrics


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, empty if there is no such file."""
    lines = _json_lines(path, whole=True)
    return lines[0] if lines else {}


def _json_lines(path: Path, *, whole: bool = False) -> list[dict[str, Any]]:
    text = _text(path)
    try:
        return [json.loads(part) for part in ([text] if whole else text.splitlines()) if part.strip()]
    except json.JSONDecodeError as error:
        raise RunError(
            f"{path} is damaged, line {error.lineno}: {error.msg}. Train or evaluate the run again."
        ) from None
