"""Report section on the findings of the audit: counts by check, the first with pictures, then the others by path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from bestiary.checks import ALTERS_MODEL
from bestiary.finding_counts import SEVERITY_NAMES, CheckCount
from bestiary.report.findings_page import FINDINGS_PAGE, list_findings
from bestiary.report.gallery import thumbnails
from bestiary.report.run_files import RunFiles

FINDING_PIXELS = 96
MAX_EXAMPLES = 6  # of a check, with pictures
MAX_LISTED = 300  # of a check, without pictures
MAX_LISTED_IN_ALL = 3000


def finding_values(run: RunFiles, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the findings by check, the most serious first; names: the short name of each path.

    Of a check, `examples` have a picture, `listed` have none, and `more` counts those that are only on the page with
    all findings; findings that need no action come last.
    """
    counts, checks, room = run.finding_counts, [], MAX_LISTED_IN_ALL
    for count in counts.checks:
        own = run.findings.filter(pl.col("check") == count.check.name)
        entries = list_findings(own, names)
        paths = own.filter("is_issue").head(MAX_EXAMPLES)["path"].to_list()
        examples = list(zip(entries, thumbnails(paths, FINDING_PIXELS), strict=False))
        listed = entries[len(examples) : len(examples) + min(MAX_LISTED, room)]
        room -= len(listed)
        checks.append(_check_values(count) | {"examples": examples, "listed": listed})
        checks[-1]["more"] = len(entries) - len(examples) - len(listed)
    return {"checks": checks, "finding_counts": counts.describe(), "findings_page": FINDINGS_PAGE}


def has_unlisted_findings(values: Mapping[str, Any]) -> bool:
    """Return whether the section leaves findings to the page with all of them."""
    return any(check["more"] for check in values["checks"])


def _check_values(count: CheckCount) -> dict[str, Any]:
    is_open = count.issues > 0 and count.check.name in ALTERS_MODEL and count.check.alters_model
    return {
        "check": count.check.list_name,
        "name": count.check.name,
        "n": count.issues or count.noted,
        "noted": count.noted if count.issues else 0,
        "meaning": count.check.meaning,
        "severity": SEVERITY_NAMES[count.severity],
        "open": is_open,
    }
