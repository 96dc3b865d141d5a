"""The report of a run as one page for newcomers, from the files of the run folder alone.

Run folder -> RunFiles (as read) -> plain values for the page -> `templates/report.html` -> `report.html`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from bestiary import table
from bestiary.checks import EMPTY_CLASS, find_check
from bestiary.evaluation.loss_curves import overfitting_point
from bestiary.files import write_text
from bestiary.label_issue_summary import resolve_check
from bestiary.report import plots, verdict
from bestiary.report.calibration_section import calibration_values
from bestiary.report.confusion_section import confusion_values, most_confused_pairs
from bestiary.report.event_section import event_values
from bestiary.report.finding_section import finding_values, has_unlisted_findings
from bestiary.report.findings_page import write_findings_page
from bestiary.report.gallery import build_galleries, heatmap_overlays, strip_common_folder
from bestiary.report.learning_curve_section import augmentation_values, learning_curve_values
from bestiary.report.markdown_summary import markdown_summary
from bestiary.report.model_card import model_card
from bestiary.report.next_steps import next_steps
from bestiary.report.proof_text import describe_model_proof
from bestiary.report.render import render_page
from bestiary.report.run_files import RunFiles, read_run, run_caveats, test_predictions
from bestiary.report.run_summary import summarise_run
from bestiary.report.threshold_section import threshold_values
from bestiary.text import common_folder
from bestiary.tried_backbones import TRIED, describe_tried_backbones
from bestiary.version import __version__

KINDS = (*table.SPLITS, "out")
MAX_LEFT_OUT = 1000
MAX_ROWS, FIRST_ROWS = 30, 20  # of a table of classes: of a longer one the first are shown, the others folded away


def write_report(run: Path, *, threads: int | None = None) -> Path:
    """Write `report.html`, `report.md` and `README.md` into a run folder; return the path of the page.

    If the page cannot list all findings, `findings.html` does.

    threads: for the heatmaps of mistakes; all cores when not given.
    Raises RunError, naming the file, if the run has no metrics, pictures or predictions yet, or one is damaged.
    """
    path, files = run / "report.html", read_run(run)
    names = strip_common_folder(files.pictures["path"].to_list())
    findings = finding_values(files, names)
    page = render_run_report(files, findings, threads=threads)
    if has_unlisted_findings(findings):
        write_findings_page(files.findings, names, run, name=files.name, label_issues=files.label_issues)
    write_text(run / "report.md", markdown_summary(files))
    write_text(run / "README.md", model_card(files))
    write_text(path, page)  # last: a run that has it is finished
    return path


def render_run_report(run: RunFiles, findings: Mapping[str, Any] | None = None, *, threads: int | None = None) -> str:
    """Return the whole page as HTML without external resources; findings: of `finding_values`, where known."""
    test = test_predictions(run)
    names = strip_common_folder(run.pictures["path"].to_list())
    suspects = run.findings.filter(pl.col("is_issue") & (pl.col("check") == "suspect-label"))["row_id"]
    tags = dict.fromkeys(suspects.to_list(), resolve_check("suspect-label", run.label_issues).singular)
    values = {
        "version": run.environment.get("bestiary", __version__),
        "most_rows": MAX_ROWS,
        "first_rows": FIRST_ROWS,
        **_overview_values(run),
        **_picture_values(run, names),
        **(finding_values(run, names) if findings is None else findings),
        **_loss_curve_values(run.history),
        **learning_curve_values(run.lessons),
        **augmentation_values(run.folder, run.lessons),
        **confusion_values(run.metrics),
        "confused": most_confused_pairs(run.metrics, test, names, tags),
        "slices": run.metrics.get("slices") or {},  # older runs have none
        **calibration_values(run.metrics, test, describe_model_proof(run.bundle, run.metrics, run.resolved)),
        **event_values(run.metrics, run.folder),
        **threshold_values(run.metrics),
        **build_galleries(test, tags, names, partial(_heatmaps, run, threads)),
    }
    return render_page("report.html", values)


def _heatmaps(run: RunFiles, threads: int | None, paths: Sequence[str]) -> Sequence[str | None]:
    """Return the heatmaps of mistakes; none in cross-validation, where the mistakes are those of other models."""
    return [None] * len(paths) if run.metrics.get("folds") else heatmap_overlays(run.folder, paths, threads=threads)


def _overview_values(run: RunFiles) -> dict[str, Any]:
    summary, metrics = summarise_run(run), run.metrics
    tested = verdict.classes_by_f1(metrics)
    weakest_first = tested + [label for label in metrics["per_class"] if label not in set(tested)]
    return {
        "name": run.name,
        "folder": run.folder,
        "quoted": summary.run,
        "method": summary.method,
        "bundle": run.bundle,
        "metrics": metrics,
        "notes": run_caveats(run),
        "verdict": verdict.describe_accuracy(metrics),
        "facts": verdict.list_run_facts(summary),
        "steps": next_steps(summary),
        "label_issues": "" if run.label_issues is None else run.label_issues.describe(),
        "classes": [
            {"label": label, "train": summary.train_counts.get(label, 0)} | metrics["per_class"][label]
            for label in weakest_first
        ],
        "resolved": run.resolved,
        "asked": run.requested,
        "environment": run.environment,
        "backbones": describe_tried_backbones(run.environment.get(TRIED, ())),
    }


def _picture_values(run: RunFiles, names: Mapping[str, str]) -> dict[str, Any]:
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
        "reasons": _limit_files(_left_out_by_reason(run, names)),
        "boxes": sum(region is not None for region in table.list_regions(run.pictures)),
        "root": common_folder(run.pictures["path"].to_list()),
    }


def _left_out_by_reason(run: RunFiles, names: Mapping[str, str]) -> dict[str, list[tuple[str, str]]]:
    """Return the files left out, as (name, error), by the check that found them, else by reason."""
    checks = dict(run.findings.filter("is_issue").select("row_id", "check").iter_rows())
    left_out = run.pictures.filter(pl.col("split").is_null()).sort("error", "path")
    reasons: dict[str, list[tuple[str, str]]] = {}
    for row_id, path, error in left_out.select("row_id", "path", "error").iter_rows():
        message = (error or "no reason was recorded").replace(path, "").lstrip(" :")
        reason = checks.get(row_id, message.partition(":")[0])
        reasons.setdefault(reason, []).append((names[path], message))
    folders = run.findings.filter(pl.col("is_issue") & (pl.col("check") == EMPTY_CLASS))["message"].to_list()
    return reasons | ({find_check(EMPTY_CLASS).plural: [(message, "") for message in folders]} if folders else {})


def _limit_files(reasons: Mapping[str, list[tuple[str, str]]]) -> list[dict[str, Any]]:
    """Return the reasons, the most frequent first, each with its count and the files that still fit on the page."""
    room, limited = MAX_LEFT_OUT, []
    for reason, files in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        noun = "folder" if reason == find_check(EMPTY_CLASS).plural else "file"
        limited.append({"reason": reason, "n": len(files), "files": files[:room], "noun": noun})
        room = max(0, room - len(files))
    return limited


def _loss_curve_values(history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return both curves (empty without a history), whether they are a regularisation path, and the chosen line."""
    is_path = any("regularisation" in line for line in history)
    key, x_label = ("regularisation", "C (weaker regularisation to the right)") if is_path else ("epoch", "Epoch")
    x, chosen, mark = [line[key] for line in history], _chosen_line(history), None
    if chosen is not None:
        mark = (chosen[key], f"kept: C = {chosen[key]:.3g}" if is_path else f"kept: epoch {chosen[key]}")
    train_loss, val_loss, val_f1 = (
        plots.Series(name, color, [line.get(column) for line in history])
        for name, color, column in (
            ("training", "ink-other", "train_loss"),
            ("validation", "ink-right", "val_loss"),
            ("validation", "ink-right", "val_macro_f1"),
        )
    )
    loss_mark = mark
    if (
        not is_path
        and (curves := overfitting_point(history)).verdict == "overfitting"
        and curves.best_epoch is not None
    ):
        loss_mark = (curves.best_epoch, f"overfits from epoch {curves.best_epoch}")
    plot = partial(plots.line_plot, x, x_label=x_label, x_log=is_path)
    return {
        "is_path": is_path,
        "history": history,
        "kept": chosen,
        "loss_plot": plot([train_loss, val_loss], y_label="Loss (lower is better)", mark=loss_mark),
        "score_plot": plot([val_f1], y_label="Macro-F1 on validation", as_percent=True, mark=mark),
    }


def _chosen_line(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the line marked as chosen, else the first with the best validation macro-F1."""
    chosen = [line for line in history if line.get("chosen")]
    scored = [line for line in history if line.get("val_macro_f1") is not None]
    return chosen[-1] if chosen else max(scored, key=lambda line: float(line["val_macro_f1"]), default=None)
