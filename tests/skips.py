"""In CI (`CI=true`) a test that could run may not be skipped: not for a missing browser, package or network.

Allowed there are the skips that a test's own marks announce: of another operating system, of `slow` without
`--run-slow`, and of `real` and `field` without the files that are not in the repository.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# scikit-learn's own check of arrays that PictureClassifier does not take: those of other libraries than NumPy.
NOT_ASKED = "Skipped: SCIPY_ARRAY_API is not set"


def is_ci() -> bool:
    return os.environ.get("CI") == "true"


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"Not skipped in CI (CI=true): {report.nodeid}. {reason}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Make a failure of a skip by `pytest.skip` or `importorskip` in a test or in a fixture of it."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.skipped and is_ci():
        marks = [*item.iter_markers("skip"), *item.iter_markers("skipif")]
        reasons = {f"Skipped: {mark.kwargs.get('reason')}" for mark in marks}
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if reason not in reasons and not reason.startswith(NOT_ASKED) and not {"real", "field"} & set(item.keywords):
            _fail(report)
    return report  # type: ignore[return-value]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Make a failure of a skip of a whole module."""
    report: pytest.CollectReport = yield  # type: ignore[assignment]
    if report.skipped and is_ci():
        _fail(report)
    return report  # type: ignore[return-value]
