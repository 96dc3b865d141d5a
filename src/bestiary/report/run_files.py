"""The files of a run folder that its report, its summary and its model card are written from."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from bestiary import table
from bestiary.errors import RunError
from bestiary.report.classification_report import score_caveats

NEEDED_METRICS = ("n", "accuracy", "macro_f1", "per_class", "confusion")


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
    requested: str
    environment: Mapping[str, Any]
    bundle: Mapping[str, Any]
    leaks: Mapping[str, Any] = field(default_factory=dict)
    lessons: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder's name; of a winner of `tune`, whose folder is always called that, the search's name before it."""
        own, above = self.folder.name, self.folder.parent.name
        return f"{above} {own}" if above and re.fullmatch(r"winner(-\d+)?", own) else own


def read_run(run: Path) -> RunFiles:
    """Return the files of a run folder. Raises RunError for one that is needed and missing, or cannot be read."""
    findings = run / "findings.parquet"
    none = pl.DataFrame(schema=table.FINDINGS)
    return RunFiles(
        folder=run.resolve(),  # `runs/latest` is another run tomorrow
        metrics=_read_metrics(run),
        history=_read_json_lines(run / "history.jsonl"),
        pictures=table.read(run / "pictures.parquet", table.PICTURES),
        findings=table.read(findings, table.FINDINGS) if findings.exists() else none,
        predictions=table.read(run / "predictions.parquet", table.PREDICTIONS),
        resolved=_read_text(run / "resolved.toml"),
        requested=_read_text(run / "asked.toml"),
        environment=_read_json(run / "environment.json"),
        bundle=_read_json(run / "bundle.json"),
        leaks=_read_json(run / "leaks.json"),
        lessons=_read_json(run / "learning_curve.json"),
    )


def test_predictions(run: RunFiles) -> pl.DataFrame:
    """Return the prediction table of the tested pictures."""
    test = run.predictions.filter(pl.col("split") == "test").sort("row_id")
    return test.with_columns(pl.col("unknown").fill_null(False))  # a run without a threshold answers everything


def run_caveats(run: RunFiles) -> list[str]:
    """Return what must be said beside the scores of a run."""
    return [*score_caveats(run.metrics), *([run.leaks["sentence"]] if run.leaks else [])]


def _read_metrics(run: Path) -> dict[str, Any]:
    if not run.is_dir():
        raise RunError(f'"{run}" is not a folder. Give the run folder that `bestiary train` printed, or runs/latest.')
    if not (run / "metrics.json").exists():
        raise RunError(f"{run} holds no finished run: it has no metrics.json. Train again, or resume it.")
    metrics = _read_json(run / "metrics.json")
    if missing := [key for key in NEEDED_METRICS if key not in metrics]:
        raise RunError(
            f'{run / "metrics.json"} has no "{missing[0]}". Score the run: bestiary evaluate {shlex.quote(str(run))}'
        )
    return metrics


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}. Train or evaluate the run again.") from None


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, empty if there is no such file."""
    lines = _read_json_lines(path, whole=True)
    return lines[0] if lines else {}


def _read_json_lines(path: Path, *, whole: bool = False) -> list[dict[str, Any]]:
    text = _read_text(path)
    try:
        found = [json.loads(part) for part in ([text] if whole else text.splitlines()) if part.strip()]
    except json.JSONDecodeError as error:
        raise RunError(
            f"{path} is damaged, line {error.lineno}: {error.msg}. Train or evaluate the run again."
        ) from None
    if not all(isinstance(one, dict) for one in found):
        raise RunError(f"{path} is damaged: it holds something else than objects. Train or evaluate the run again.")
    return found
