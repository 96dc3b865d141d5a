"""Report section on the findings of the audit: counts by check, the first with pictures, then the others by path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import polars as pl

from bestiary.checks import ALTERS_MODEL, find_check
from bestiary.report.gallery import thumbnails

FINDING_PIXELS = 96
MAX_EXAMPLES = 6  # of a check, with pictures
MAX_LISTED = 300  # of a check, without pictures
MAX_LISTED_IN_ALL = 3000


def finding_values(findings: pl.DataFrame, issues: pl.DataFrame, names: Mapping[str, str]) -> dict[str, Any]:
    """Return the findings by check, the serious checks first, then by number.

    issues: those of the findings that need a look; names: the short name of each path. Of a check, `examples` have a
    picture, `listed` have none, and `more` counts those that are only in findings.parquet.
    """
    counts, checks, room = Counter(issues["check"].to_list()).most_common(), [], MAX_LISTED_IN_ALL
    for check, n in sorted(counts, key=lambda pair: pair[0] not in ALTERS_MODEL):
        rows = issues.filter(pl.col("check") == check).to_dicts()
        entries = [{"message": row["message"], "name": names.get(row["path"], row["path"] or "")} for row in rows]
        images = thumbnails([row["path"] for row in rows[:MAX_EXAMPLES]], FINDING_PIXELS)
        examples = [entry | {"image": image} for entry, image in zip(entries, images, strict=False)]
        listed = entries[MAX_EXAMPLES : MAX_EXAMPLES + min(MAX_LISTED, room)]
        room -= len(listed)
        about = {"check": check, "n": n, "meaning": find_check(check).meaning, "open": check in ALTERS_MODEL}
        checks.append(about | {"examples": examples, "listed": listed, "more": n - len(examples) - len(listed)})
    return {"checks": checks, "issues": issues.height, "remarks": findings.height - issues.height}
