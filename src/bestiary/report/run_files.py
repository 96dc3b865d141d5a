"""The files of a run folder that report, summary and model card are written from."""

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
from bestiary.checks import ABOUT_SOURCE
from bestiary.errors import RunError
from bestiary.few_groups import describe_few_groups
from bestiary.finding_counts import FindingCounts, count_findings, read_label_issues
from bestiary.label_issue_summary import LabelIssueSummary
from bestiary.report.classification_report import score_caveats

MAX_NOTICES = 5  # of one check, beside the scores
NEEDED_METRICS = ("n", "accuracy", "macro_f1", "per_class", "confusion")


@dataclass(frozen=True)
class RunFiles:
    """The contents of a run folder; optional files that are missing are empty."""

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
    def label_issues(self) -> LabelIssueSummary | None:
        """How many of the suspect labels are expected to be wrong; None without any, and in older runs."""
        return read_label_issues(self.environment)

    @property
    def finding_counts(self) -> FindingCounts:
        """The findings by check and severity."""
        return count_findings(self.findings, self.label_issues)

    @property
    def name(self) -> str:
        """The folder's name; for a winner of `tune`, whose folder is always called that, after the search's name."""
        own, above = self.folder.name, self.folder.parent.name
        return f"{above} {own}" if above and re.fullmatch(r"winner(-\d+)?", own) else own


def count_run_findings(run: Path) -> FindingCounts:
    """Return the counts of the findings of a run folder, none if it has no table of them."""
    findings = _read_findings(run / "findings.parquet")
    return count_findings(findings, read_label_issues(_read_json(run / "environment.json")))


def _read_findings(path: Path) -> pl.DataFrame:
    return table.read(path, table.FINDINGS) if path.exists() else pl.DataFrame(schema=table.FINDINGS)


def read_run(run: Path) -> RunFiles:
    """Return the files of a run folder; in its tables, `path` names the region of a crop too (`table.name_crops`).

    Raises RunError for a file that is needed and missing, or cannot be read.
    """
    metrics, pictures = _read_metrics(run), table.read(run / "pictures.parquet", table.PICTURES)
    predictions = table.read(run / "predictions.parquet", table.PREDICTIONS)
    return RunFiles(
        folder=run.resolve(),  # `runs/latest` is another run tomorrow
        metrics=metrics,
        history=_read_json_lines(run / "history.jsonl"),
        pictures=table.name_crops(pictures),
        findings=table.name_rows(_read_findings(run / "findings.parquet"), pictures),
        predictions=table.name_rows(predictions, pictures),
        resolved=_read_text(run / "resolved.toml"),
        requested=_read_text(run / "asked.toml"),
        environment=_read_json(run / "environment.json"),
        bundle=_read_json(run / "bundle.json"),
        leaks=_read_json(run / "leaks.json"),
        lessons=_read_json(run / "learning_curve.json"),
    )


def test_predictions(run: RunFiles) -> pl.DataFrame:
    """Return the prediction table of the test split."""
    test = run.predictions.filter(pl.col("split") == "test").sort("row_id")
    return test.with_columns(pl.col("unknown").fill_null(False))  # a run without a threshold answers everything


def run_caveats(run: RunFiles) -> list[str]:
    """Return the caveats that belong beside the scores of a run: test set reuse, cross-validation, leaks, notices."""
    times = run.metrics.get("test_scored", 1)
    reuse = (
        f"The test pictures were scored {times} times. Only the first score is unbiased. If anything was chosen after"
        " an earlier one, the scores are too high."
    )
    leaks = [run.leaks["sentence"]] if run.leaks else []
    few = [caution] if (caution := describe_few_groups(run.pictures)) else []
    return [*([reuse] if times >= 2 else []), *few, *score_caveats(run.metrics), *leaks, *_source_notices(run)]


def _source_notices(run: RunFiles) -> list[str]:
    """Return the messages about folders and tables that need attention; of many of one check, the first."""
    issues = run.findings.filter("is_issue")
    notices: list[str] = []
    for check in ABOUT_SOURCE:
        messages = issues.filter(pl.col("check") == check)["message"].to_list()
        notices += messages[:MAX_NOTICES]
        if (more := len(messages) - MAX_NOTICES) > 0:
            notices.append(f"{more:,} more findings of {check} are in findings.parquet.")
    return notices


def _read_metrics(run: Path) -> dict[str, Any]:
    if not run.is_dir():
        raise RunError(f'"{run}" is not a folder. Give the run folder that `bestiary train` printed, or runs/latest.')
    path = run / "metrics.json"
    if not path.exists():
        raise RunError(f"{run} holds no finished run: it has no metrics.json. Train again, or resume it.")
    metrics = _read_json(path)
    if missing := [key for key in NEEDED_METRICS if key not in metrics]:
        raise RunError(f'{path} has no "{missing[0]}". Score the run: bestiary evaluate {shlex.quote(str(run))}')
    return metrics


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}. Train or evaluate the run again.") from None


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, empty if there is no such file."""
    objects = _parse_objects(path, [_read_text(path)])
    return objects[0] if objects else {}


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    return _parse_objects(path, _read_text(path).splitlines())


def _parse_objects(path: Path, parts: Sequence[str]) -> list[dict[str, Any]]:
    try:
        objects = [json.loads(part) for part in parts if part.strip()]
    except json.JSONDecodeError as error:
        raise RunError(
            f"{path} is damaged, line {error.lineno}: {error.msg}. Train or evaluate the run again."
        ) from None
    if not all(isinstance(entry, dict) for entry in objects):
        raise RunError(f"{path} is damaged: it does not hold JSON objects. Train or evaluate the run again.")
    return objects
