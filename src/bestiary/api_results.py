"""What the functions of `bestiary.api` return, where no other module has a type for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bestiary.evaluation.comparison import COMPARED
from bestiary.export.verify import ParityReport
from bestiary.report.comparison_page import NAMES
from bestiary.summary import Summary, SummaryRepr, format_score
from bestiary.tune.page import describe_result, describe_test_scores


@dataclass(frozen=True, repr=False)
class Comparison(SummaryRepr):
    """Compared runs: the content of `compare --json`, as `evaluation.comparison.compare_runs` describes it."""

    results: dict[str, Any]

    def summary(self) -> Summary:
        """Return the scores of every run, and the differences of the later ones to the first."""
        rows = []
        for run, difference in zip(self.results["runs"], [None, *self.results["differences"]], strict=True):
            rows.append((run["run"], _format_metrics(run)))
            if difference is not None:
                p = f"McNemar p {difference['mcnemar']['p']:.3g}"
                rows.append(("  minus the first", f"{_format_metrics(difference)}, {p}"))
        return Summary(f"Comparison on {self.results['n']:,} test pictures", tuple(rows))


@dataclass(frozen=True, repr=False)
class ExportedModel(SummaryRepr):
    """An exported model: its folder or file, and its differences from the run."""

    path: Path
    parity: ParityReport

    def summary(self) -> Summary:
        """Return the accuracy before and after, and how many labels differ."""
        parity = self.parity
        accuracy = f"{parity.accuracy:.3f} ({parity.accuracy_before:.3f} before)"
        changed = f"{parity.labels_changed:,} of {parity.pictures:,}"
        return Summary(f"Exported model {self.path}", (("accuracy", accuracy), ("labels that differ", changed)))


@dataclass(frozen=True, repr=False)
class SearchResult(SummaryRepr):
    """A hyperparameter search: the run of its winner, and the content of `tune.json`.

    path: None where another process will finish the search; then `results` has the best so far.
    """

    path: Path | None
    results: dict[str, Any]

    def summary(self) -> Summary:
        """Return the outcome on validation and on test pictures, and the recipe."""
        if self.path is None:
            return Summary("Search continued by other processes", (("best so far", str(self.results["best so far"])),))
        rows = (
            ("validation", describe_result(self.results)),
            ("test", describe_test_scores(self.results)),
            ("recipe", self.results["recipe"]),
        )
        return Summary(f"Search, winner {self.path}", rows)


def _format_metrics(scores: dict[str, Any]) -> str:
    return ", ".join(f"{NAMES[name]} {format_score(scores[name])}" for name in COMPARED)
