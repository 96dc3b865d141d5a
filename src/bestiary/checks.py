"""The checks of the audit: name, severity, order and explanation of each, in one place.

Their texts are in `checks.toml`. `data/audit.py` measures them; the findings table, the audit page, the report and the
review queue derive their orders and texts from here.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Severity = Literal["decide", "know", "note"]  # a person has to decide; worth knowing; bestiary deals with it itself


@dataclass(frozen=True)
class AuditCheck:
    """One check.

    singular: what was found, empty where nothing can be counted; many: its plural, if not with an s; meaning: a phrase
    for a table; effect: on a model; remedy: what to do. table_order: place in the findings table, 0 for a check that is
    not written there; review_order: place in the review queue, 0 for a check without pictures to decide about.
    fails_strict: `audit --strict` fails; alters_model: the findings change the model or its score; about_source: they
    are about folders or tables, not about a picture. alias: the name in lists, where that is not `name`.
    """

    name: str
    singular: str
    meaning: str
    effect: str
    remedy: str
    severity: Severity = "decide"
    table_order: int = 0
    review_order: int = 0
    fails_strict: bool = False
    alters_model: bool = False
    about_source: bool = False
    many: str = ""
    alias: str = ""

    @property
    def list_name(self) -> str:
        """The name in lists."""
        return self.alias or self.name

    @property
    def plural(self) -> str:
        """The findings in the plural."""
        return self.many or f"{self.singular}s"

    @property
    def needs_person(self) -> bool:
        """Whether a person has to decide about the findings."""
        return self.severity == "decide"

    def format_count(self, n: int) -> str:
        """Return how many were found: `3 suspect labels`."""
        return f"{n:,} {self.singular if n == 1 else self.plural}" if self.singular else self.plural


def _load_checks(kind: str) -> tuple[AuditCheck, ...]:
    content = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return tuple(AuditCheck(**check) for check in tomllib.loads(content)[kind])


CHECKS = _load_checks("audit")  # the most serious first: the order of the audit page
PREDICTION_CHECKS = _load_checks("prediction")  # reasons for a review that come from the predictions of a run
# Suspect labels of which most are expected to be correct: see `label_issue_summary.resolve_check`.
(DOUBTFUL_LABEL,) = _load_checks("doubtful")
_BY_NAME = {check.name: check for check in (*CHECKS, *PREDICTION_CHECKS)}
_SEVERITY_RANKS = {check.name: rank for rank, check in enumerate(CHECKS)}
_AFTER_DECIDE = sum(check.needs_person for check in CHECKS) - 0.5

TABLE_ORDER = tuple(check.name for check in sorted(CHECKS, key=lambda check: check.table_order) if check.table_order)
REVIEW_ORDER = tuple(
    check.name for check in sorted(_BY_NAME.values(), key=lambda check: check.review_order) if check.review_order
)
NOTED = frozenset(check.name for check in CHECKS if check.severity == "note")
FAILS_STRICT = frozenset(check.name for check in CHECKS if check.fails_strict)
EMPTY_CLASS = "empty-class"  # the check of class folders that are not used
ABOUT_SOURCE = tuple(check.name for check in CHECKS if check.about_source)
ALTERS_MODEL = tuple(check.name for check in CHECKS if check.alters_model)


def find_check(name: str) -> AuditCheck:
    """Return the check of this name; for a name that is not known, one with a general explanation."""
    words = name.replace("-", " ")
    return _BY_NAME.get(name) or AuditCheck(
        name,
        f"finding of “{words}”",
        "",
        "It depends on the finding: see the message of each picture.",
        "Look at some of them, and decide whether to keep them.",
        "know",
        many=f"findings of “{words}”",
    )


def severity_rank(name: str) -> tuple[float, str]:
    """Return a sort key for checks, the most serious first; unknown ones come after those that need a person."""
    return (_SEVERITY_RANKS.get(name, _AFTER_DECIDE), name)
