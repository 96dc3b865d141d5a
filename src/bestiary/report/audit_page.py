"""One page that shows what an audit found: numbers, classes, then the pictures of each check side by side.

Picture table and findings -> sections of exhibits (a picture, or a group of duplicates) -> `templates/audit.html`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import polars as pl

from bestiary import table
from bestiary.data.dataset import AuditedDataset
from bestiary.files import write_text
from bestiary.report.audit_cards import CardGroup, choose_cards, findings_of_check, load_images, middle_ellipsis
from bestiary.report.audit_checks import NOTED, CheckText, check_text, severity_rank
from bestiary.report.gallery import common_folder
from bestiary.report.render import render_page
from bestiary.version import __version__

MAX_PICTURES = 640  # on the whole page; at most 22 kB each, it stays below 20 MB whatever was found
MAX_UNFOLDED_PICTURES = 24  # of a check; the others are folded away
MAX_REMARKS = 50
MAX_CLASSES = 200
DUPLICATES = ("exact-duplicate", "near-duplicate")
LEFT_OUT = "left-out"
NO_LABEL = "(no label)"
NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class CheckSection:
    """All findings of one check. `remarks` are messages about no picture in particular.

    n_pictures counts the pictures concerned, shown or not; n counts exhibits (pictures, or groups of them) or remarks.
    """

    check: str
    advice: CheckText
    n: int
    n_pictures: int
    grouped: bool
    remarks: Sequence[str]
    exhibits: Sequence[CardGroup]

    @property
    def count(self) -> str:
        """How many there are, as words for a table."""
        groups = f" in {self.n:,} group{'s' if self.n != 1 else ''}" if self.grouped else ""
        return f"{self.n_pictures or self.n:,}{groups}"

    @property
    def title(self) -> str:
        """What was found, as a heading."""
        return self.advice.plural[0].upper() + self.advice.plural[1:]

    @property
    def more(self) -> int:
        """How many pictures are concerned and not shown."""
        return self.n_pictures - sum(len(exhibit.cards) for exhibit in self.exhibits)

    @property
    def unfolded(self) -> int:
        """How many exhibits are shown at first sight, so that a section can be taken in at a glance."""
        seen = 0
        for place, exhibit in enumerate(self.exhibits):
            seen += len(exhibit.cards)
            if seen > MAX_UNFOLDED_PICTURES:
                return max(1, place)
        return len(self.exhibits)


def write_audit(dataset: AuditedDataset, folder: Path, *, source: str) -> Path:
    """Write `pictures.parquet`, `findings.parquet` and `audit.html` into `folder`; return the path of the page."""
    table.write(dataset.pictures, folder / "pictures.parquet")
    table.write(dataset.findings, folder / "findings.parquet")
    return write_audit_page(
        dataset.pictures,
        dataset.findings,
        dataset.passed_over,
        folder,
        source=source,
        not_looked_for=dataset.not_looked_for,
    )


def write_audit_page(
    pictures: pl.DataFrame,
    findings: pl.DataFrame,
    passed_over: Mapping[str, int],
    folder: Path,
    *,
    source: str,
    not_looked_for: Mapping[str, str] = NOTHING,
) -> Path:
    """Return the path of `audit.html`, written into `folder`: one file of less than 20 MB that loads nothing.

    pictures: `table.PICTURES`, its `split` may be null, a `given_split` is shown; findings: `table.FINDINGS`, with any
    check names; passed_over: how many files were not looked at, by reason; source: where the pictures lie, as words;
    not_looked_for: checks that were not made, with the reason.
    Raises MachineError when the folder cannot be written.
    """
    target = folder / "audit.html"
    write_text(target, render_audit_page(pictures, findings, passed_over, source=source, not_looked_for=not_looked_for))
    return target


def render_audit_page(
    pictures: pl.DataFrame,
    findings: pl.DataFrame,
    passed_over: Mapping[str, int],
    *,
    source: str,
    not_looked_for: Mapping[str, str] = NOTHING,
) -> str:
    """Return the whole page as HTML that needs nothing from outside itself."""
    pictures = pictures.with_columns(pl.col("label").fill_null(NO_LABEL))
    issues = pl.concat([findings.filter("is_issue"), _left_out_findings(pictures, findings)])
    root = common_folder(pictures["path"].drop_nulls().to_list())
    looked_at = pl.concat([issues, findings.filter(~pl.col("is_issue") & pl.col("check").is_in(NOTED))])
    sections = _sections(pictures, looked_at, root)
    classes = _classes(pictures, issues)
    values = {
        "version": __version__,
        "source": middle_ellipsis(source, 300),
        "name": middle_ellipsis(PurePath(source).name or source),
        "root": root,
        "verdict": audit_verdict(pictures.height, len(classes), sections, not_looked_for),
        "figures": _figures(pictures, findings, sections, passed_over, not_looked_for),
        "makeup": _makeup(pictures),
        "not_looked_for": sorted(not_looked_for.items()),
        "passed_over": sorted(passed_over.items(), key=lambda item: (-item[1], item[0])),
        "classes": classes[:MAX_CLASSES],
        "classes_more": len(classes) - len(classes[:MAX_CLASSES]),
        "sections": sections,
        "filters": {label: number for number, label in enumerate(_labels_on_page(sections))},
    }
    return render_page("audit.html", values)


def audit_verdict(
    n: int, n_classes: int, sections: Sequence[CheckSection], not_looked_for: Collection[str] = ()
) -> str:
    """Return the audit in one sentence: how many pictures there are, and what a person has to look at."""
    size = f"{_plural(n, 'picture')} in {_plural(n_classes, 'class', 'classes')}"
    needs = [section.advice.format_count(section.n) for section in sections if section.advice.needs_you]
    if not needs:
        rest = "what was found is worth knowing, nothing needs you" if sections else "nothing was found wrong"
        rest += f", but {_plural(len(not_looked_for), 'thing')} not looked for." if not_looked_for else "."
        return f"{size}; {rest}"
    listed = needs[:3] + ([f"{len(needs) - 3} more"] if len(needs) > 3 else [])
    words = ", ".join(listed[:-1]) + (" and " if listed[1:] else "") + listed[-1]
    return f"{size}; {_plural(len(needs), 'thing')} need{'s' if len(needs) == 1 else ''} you: {words}."


def _left_out_findings(pictures: pl.DataFrame, findings: pl.DataFrame) -> pl.DataFrame:
    """Return findings for files that are left out and that no finding speaks of: each is named with its reason."""
    left_out = pictures.filter(pl.col("error").is_not_null())
    silent = left_out.join(findings.filter("is_issue"), on="row_id", how="anti")
    made = {"check": pl.lit(LEFT_OUT), "score": pl.lit(0.0), "is_issue": pl.lit(True), "message": pl.col("error")}
    null = [pl.lit(None, kind).alias(name) for name, kind in (("group", pl.Int64), ("suggested_label", pl.String))]
    return silent.select("row_id", "path", *null, **made).select(findings.columns).cast(findings.schema)


def _sections(pictures: pl.DataFrame, issues: pl.DataFrame, root: str) -> list[CheckSection]:
    """Return a section for each check that found something, the most serious first, with its pictures."""
    checks = sorted(issues["check"].unique(), key=severity_rank)
    found = {check: findings_of_check(check, issues, pictures) for check in checks}
    sizes = {check: of.n_pictures for check, of in found.items()}
    room = fair_shares(sizes, MAX_PICTURES)
    shown = load_images({check: choose_cards(of, root, max_pictures=room[check]) for check, of in found.items()})
    sections = []
    for check, of in found.items():
        remarks = issues.filter((pl.col("check") == check) & pl.col("path").is_null())["message"].to_list()
        said = [middle_ellipsis(words, 600) for words in remarks[:MAX_REMARKS]]
        grouped, n = len(of.groups) > 0, of.n or len(remarks)
        sections.append(CheckSection(check, check_text(check), n, sizes[check], grouped, said, shown[check]))
    return sections


def fair_shares(wanted: Mapping[str, int], total: int) -> dict[str, int]:
    """Return how much each gets of a total: an equal share, and what one leaves over goes to those who want more.

    >>> fair_shares({"blurry": 2, "dark": 90, "tiny": 50}, 60)
    {'blurry': 2, 'tiny': 29, 'dark': 29}
    """
    given = {}
    for place, name in enumerate(sorted(wanted, key=lambda name: wanted[name])):
        given[name] = min(wanted[name], total // (len(wanted) - place))
        total -= given[name]
    return given


def _classes(pictures: pl.DataFrame, issues: pl.DataFrame) -> list[dict[str, Any]]:
    """Return what the table of classes shows, the largest class first; `share` is of the largest class."""
    marked = Counter(
        issues.select("row_id").unique().join(pictures.select("row_id", "label"), on="row_id")["label"].to_list()
    )
    usable = pl.col("error").is_null()
    counts = (
        pictures.group_by("label")
        .agg(n=pl.len(), usable=usable.sum())
        .sort("usable", "label", descending=[True, False])
    )
    largest = max([*counts["n"], 1])
    return [
        {"label": middle_ellipsis(label), "n": n, "usable": used, "unusable": n - used, "marked": marked[label]}
        | {"used_width": 100 * used / largest, "unused_width": 100 * (n - used) / largest}
        for label, n, used in counts.iter_rows()
    ]


def _figures(
    pictures: pl.DataFrame,
    findings: pl.DataFrame,
    sections: Sequence[CheckSection],
    passed_over: Mapping[str, int],
    not_looked_for: Mapping[str, str],
) -> list[tuple[str, str, str]]:
    """Return the overview in numbers as (name, value, what it means)."""
    n_of = {section.check: section.n for section in sections}
    usable, over = pictures.filter(pl.col("error").is_null()), sum(passed_over.values())
    surplus, groups = _surplus(pictures, findings)
    sizes = sorted(usable["label"].value_counts()["count"].to_list())
    ratio = f"The largest is {sizes[-1] / sizes[0]:.1f} times the smallest." if sizes else "None has a usable picture."
    left_out = pictures.height - usable.height
    of_class = f"In {_plural(groups, 'group')}; one picture of each is not counted." if groups else "No picture twice."
    return [
        ("Pictures", f"{pictures.height:,}", "Files with the name of one."),
        ("Classes", f"{pictures['label'].n_unique():,}", ratio),
        ("Can be used", f"{usable.height:,}", "Read from the first byte to the last."),
        ("Cannot be used", f"{left_out:,}", "The reasons stand below." if left_out else "Every file could be read."),
        ("Duplicates", f"{surplus:,}", of_class),
        ("Label conflicts", f"{n_of.get('label-conflict', 0):,}", "The same picture, different labels."),
        ("Suspect labels", *_label_issue_figure(n_of.get("suspect-label", 0), not_looked_for.get("suspect-label"))),
        ("Passed over", f"{over:,}", "Files that were not looked at."),
    ]


def _label_issue_figure(n: int, reason: str | None) -> tuple[str, str]:
    """Return how many labels are suspect; 0 would promise too much where nobody looked."""
    return (
        ("–", "Not looked for; the reason stands below.")
        if reason
        else (f"{n:,}", "A model trained without them disagrees.")
    )


def _surplus(pictures: pl.DataFrame, findings: pl.DataFrame) -> tuple[int, int]:
    """Return how many pictures would go if one of each group of duplicates stayed, and the number of groups."""
    named = findings.filter(pl.col("is_issue") & pl.col("check").is_in(DUPLICATES))["group"].drop_nulls().unique()
    members = pictures.filter(pl.col("error").is_null() & pl.col("group").is_in(named.to_list()))
    return max(0, members.height - named.len()), named.len()


def _makeup(pictures: pl.DataFrame) -> str:
    """Return a sentence on formats and sizes."""
    usable = pictures.filter(pl.col("error").is_null() & pl.col("format").is_not_null())
    if not usable.height:
        return ""
    formats = usable["format"].value_counts().sort("count", "format", descending=[True, False]).rows()
    words = ", ".join(f"{count:,} {name}" for name, count in formats[:6])
    middle = usable.select(pl.col("width", "height").median().round().cast(pl.Int64)).row(0)
    megabytes = sum(usable["bytes"].drop_nulls()) / 1e6
    return f"{words}; {megabytes:,.0f} MB in all; typically {middle[0]:,} × {middle[1]:,} pixels."


def _labels_on_page(sections: Sequence[CheckSection]) -> list[str]:
    """Return the labels of the pictures that are shown, in order: what the page can be filtered by."""
    return sorted({label for section in sections for exhibit in section.exhibits for label in exhibit.labels if label})


def _plural(n: int, singular: str, plural: str = "") -> str:
    return f"{n:,} {singular if n == 1 else plural or singular + 's'}"
