"""One page that tells what a run learnt, for a newcomer: reads the run folder's files and nothing else of the run.

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
from bestiary.evaluation.loss_curves import overfitting_point
from bestiary.files import write_text
from bestiary.report import audit_checks, plots, verdict
from bestiary.report.calibration_section import calibration_values
from bestiary.report.confusion_section import confusion_values, most_confused_pairs, slice_values
from bestiary.report.gallery import build_galleries, common_folder, heatmap_overlays, strip_common_folder, thumbnails
from bestiary.report.learning_curve_section import learning_curve_values
from bestiary.report.markdown_summary import markdown_summary
from bestiary.report.model_card import model_card
from bestiary.report.next_steps import next_steps, summarise_run
from bestiary.report.render import render_page
from bestiary.report.run_files import RunFiles, read_run, run_caveats, test_predictions
from bestiary.version import __version__

FINDING_PIXELS = 96
KINDS = (*table.SPLITS, "out")
MAX_EXAMPLES = 5
MAX_LEFT_OUT = 1000
MAX_ROWS, FIRST_ROWS = 30, 20  # of a table of classes: of a longer one the first are shown, the others folded away


def write_report(run: Path, *, threads: int | None = None) -> Path:
    """Return the path of `report.html`, written anew from the tables of a run folder; `report.md` and `README.md` too.

    threads: for the heatmaps of mistakes; all cores when not given.
    Raises RunError, naming the file, if the run has no metrics, pictures or predictions yet, or one is damaged.
    """
    target, files = run / "report.html", read_run(run)
    page = render_run_report(files, threads=threads)
    write_text(run / "report.md", markdown_summary(files))
    write_text(run / "README.md", model_card(files))
    write_text(target, page)  # last: a run that has it is finished
    return target


def render_run_report(run: RunFiles, *, threads: int | None = None) -> str:
    """Return the whole page as HTML that needs nothing from outside itself."""
    test = test_predictions(run)
    names = strip_common_folder(run.pictures["path"].to_list())
    marked = run.findings.filter(pl.col("is_issue") & (pl.col("check") == "suspect-label"))
    suspects = set(marked["row_id"].to_list())
    values = {
        "version": run.environment.get("bestiary", __version__),
        "most_rows": MAX_ROWS,
        "first_rows": FIRST_ROWS,
        **_overview_values(run),
        **_picture_values(run, names),
        **_finding_values(run, names),
        **_loss_curve_values(run),
        **learning_curve_values(run.lessons),
        **confusion_values(run.metrics),
        "confused": most_confused_pairs(run.metrics, test, names, suspects),
        **slice_values(run.metrics),
        **calibration_values(run.metrics, test),
        **build_galleries(test, suspects, names, partial(_heatmaps, run, threads)),
    }
    return render_page("report.html", values)


def _heatmaps(run: RunFiles, threads: int | None, paths: Sequence[str]) -> Sequence[str | None]:
    """Return the heatmaps of mistakes; none in cross-validation, where another model erred than the one that ships."""
    return [None] * len(paths) if run.metrics.get("folds") else heatmap_overlays(run.folder, paths, threads=threads)


def _overview_values(run: RunFiles) -> dict[str, Any]:
    evidence, m = summarise_run(run), run.metrics
    return {
        "name": run.name,
        "folder": run.folder,
        "quoted": evidence.run,
        "method": evidence.method,
        "bundle": run.bundle,
        "metrics": m,
        "notes": run_caveats(run),
        "verdict": verdict.verdict(m, evidence.n_label_issues),
        "steps": next_steps(evidence),
        "classes": [
            {"label": label, "train": evidence.train_counts.get(label, 0)} | m["per_class"][label]
            for label in _classes_weakest_first(m)
        ],
        "resolved": run.resolved,
        "asked": run.requested,
        "environment": run.environment,
    }


def _classes_weakest_first(metrics: Mapping[str, Any]) -> list[str]:
    """Return the classes, weakest first; those without test pictures come last."""
    judged = verdict.classes_by_f1(metrics)
    return judged + [label for label in metrics["per_class"] if label not in set(judged)]


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
        "reasons": _first_lines(_left_out_by_reason(run, names)),
        "root": common_folder(run.pictures["path"].to_list()),
    }


def _left_out_by_reason(run: RunFiles, names: Mapping[str, str]) -> dict[str, list[tuple[str, str]]]:
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
    room, kept = MAX_LEFT_OUT, []
    for reason, files in sorted(reasons.items(), key=lambda item: (-len(item[1]), item[0])):
        kept.append({"reason": reason, "n": len(files), "files": files[:room]})
        room = max(0, room - len(files))
    return kept


def _finding_values(run: RunFiles, names: Mapping[str, str]) -> dict[str, Any]:
    issues = run.findings.filter(pl.col("is_issue"))
    checks = []
    counted = Counter(issues["check"].to_list()).most_common()
    for check, n in sorted(
        counted, key=lambda pair: pair[0] not in audit_checks.SERIOUS
    ):  # serious first, then by number
        rows = issues.filter(pl.col("check") == check).head(MAX_EXAMPLES).to_dicts()
        images = thumbnails([row["path"] for row in rows], FINDING_PIXELS)
        examples = [
            {"message": row["message"], "name": names.get(row["path"], row["path"] or ""), "image": image}
            for row, image in zip(rows, images, strict=True)
        ]
        checks.append(
            {
                "check": check,
                "n": n,
                "meaning": audit_checks.CHECKS.get(check, ""),
                "examples": examples,
                "open": check in audit_checks.SERIOUS,
            }
        )
    return {"checks": checks, "issues": issues.height, "remarks": run.findings.height - issues.height}


def _loss_curve_values(run: RunFiles) -> dict[str, Any]:
    """Return both curves (empty without a history), the heading, and the line that was kept."""
    history = run.history
    path = any("regularisation" in line for line in history)
    key, words = ("regularisation", "C (weaker regularisation to the right)") if path else ("epoch", "Epoch")
    x = [line[key] for line in history]
    kept = _chosen_line(history)
    mark = None if kept is None else (kept[key], f"kept: C = {kept[key]:.3g}" if path else f"kept: epoch {kept[key]}")
    loss = [plots.Series("training", "ink-other", _column(history, "train_loss"))]
    loss.append(plots.Series("validation", "ink-right", _column(history, "val_loss")))
    score = [plots.Series("validation", "ink-right", _column(history, "val_macro_f1"))]
    shape: dict[str, Any] = {"x_label": words, "x_log": path}
    turn = mark
    if not path and (read := overfitting_point(history)).verdict == "overfitting" and read.best_epoch is not None:
        turn = (read.best_epoch, f"overfits from epoch {read.best_epoch}")
    return {
        "is_path": path,
        "history": history,
        "kept": kept,
        "loss_plot": plots.line_plot("Loss", x, loss, y_label="Loss (lower is better)", mark=turn, **shape),
        "score_plot": plots.line_plot(
            "Macro-F1", x, score, y_label="Macro-F1 on validation", as_percent=True, mark=mark, **shape
        ),
    }


def _column(history: Sequence[Mapping[str, Any]], key: str) -> list[float | None]:
    return [line.get(key) for line in history]


def _chosen_line(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the line marked as chosen, else the first with the best validation macro-F1."""
    chosen = [line for line in history if line.get("chosen")]
    scored = [line for line in history if line.get("val_macro_f1") is not None]
    if chosen:
        return chosen[-1]
    return max(scored, key=lambda line: float(line["val_macro_f1"]), default=None)
