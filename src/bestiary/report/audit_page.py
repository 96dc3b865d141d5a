"""Audit page: overview, classes, then the pictures of each check.

Picture table and findings -> sections of card groups (a picture, or a group of duplicates) -> `templates/audit.html`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import polars as pl

from bestiary import table
from bestiary.checks import NOTED, AuditCheck, find_check, severity_rank
from bestiary.files import write_text
from bestiary.finding_counts import CheckCount, FindingCounts, count_findings
from bestiary.label_issue_summary import LabelIssueSummary
from bestiary.report.audit_cards import CardGroup, choose_cards, findings_of_check, load_images, middle_ellipsis
from bestiary.report.findings_page import FINDINGS_PAGE, FindingEntry, list_findings, write_findings_page
from bestiary.report.render import render_page
from bestiary.text import common_folder, describe_skipped, format_count, relative_name
from bestiary.version import __version__

MAX_PICTURES = 640  # at most 22 kB each: the page stays below 20 MB
MAX_OPEN_PICTURES = 24  # of a check; the others are folded away
MAX_REMARKS = 50
MAX_SETTLED = 300
MAX_CLASSES = 200
DUPLICATES = ("exact-duplicate", "near-duplicate")
LEFT_OUT = "left-out"
NO_LABEL = "(no label)"
NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class CheckSection:
    """All findings of one check. `remarks` are messages about no picture in particular, of `n_remarks` the first.

    n_pictures counts the pictures with findings, shown or not; n counts card groups or remarks; counts: of findings,
    the rows of findings.parquet. settled: findings that need no action although others of the check do.
    """

    counts: CheckCount
    n: int
    n_pictures: int
    grouped: bool
    remarks: Sequence[str]
    groups: Sequence[CardGroup]
    n_remarks: int = 0
    settled: Sequence[FindingEntry] = ()

    @property
    def check(self) -> AuditCheck:
        """The check, under the name that its findings deserve."""
        return self.counts.check

    @property
    def needs_person(self) -> bool:
        """Whether a person has to decide about findings of this section."""
        return self.check.needs_person and self.counts.issues + (self.check.name == LEFT_OUT) > 0

    @property
    def n_findings(self) -> int:
        """The number of findings, those that need no action included."""
        return self.counts.issues + self.counts.noted

    @property
    def is_incomplete(self) -> bool:
        """Whether the page leaves out some of the findings."""
        cut = self.more > 0 or self.n_remarks > len(self.remarks) or len(self.settled) > MAX_SETTLED
        return self.n_findings > 0 and (cut or any(group.more for group in self.groups))

    @property
    def count(self) -> str:
        """The number of pictures and of groups as text."""
        groups = f" in {format_count(self.n, 'group')}" if self.grouped else ""
        return f"{self.n_pictures or self.n:,}{groups}"

    @property
    def title(self) -> str:
        """The heading."""
        return self.check.plural[0].upper() + self.check.plural[1:]

    @property
    def more(self) -> int:
        """The number of pictures with findings that are not shown."""
        return self.n_pictures - sum(len(group.cards) for group in self.groups)

    @property
    def n_open(self) -> int:
        """The number of card groups that are not folded away, so that a section stays short."""
        n_pictures = 0
        for index, group in enumerate(self.groups):
            n_pictures += len(group.cards)
            if n_pictures > MAX_OPEN_PICTURES:
                return max(1, index)
        return len(self.groups)


def write_audit_page(
    pictures: pl.DataFrame,
    findings: pl.DataFrame,
    passed_over: Mapping[str, int],
    folder: Path,
    *,
    source: str,
    not_looked_for: Mapping[str, str] = NOTHING,
    label_issues: LabelIssueSummary | None = None,
) -> Path:
    """Return the path of `audit.html`, written into `folder`: one file of less than 20 MB that loads nothing.

    pictures: `table.PICTURES`, its `split` may be null, a `given_split` is shown; findings: `table.FINDINGS`, with any
    check names; passed_over: number of skipped files by reason; source: the folder of the pictures, as text;
    not_looked_for: skipped checks, with the reason; label_issues: how many suspect labels are expected to be wrong.
    Raises MachineError when the folder cannot be written.
    """
    findings = table.name_rows(findings, pictures)
    pictures = table.name_crops(table.with_duplicate_groups(pictures))
    pictures = pictures.with_columns(pl.col("label").fill_null(NO_LABEL))
    issues = pl.concat([findings.filter("is_issue"), _left_out_findings(pictures, findings)])
    noted = findings.filter(~pl.col("is_issue") & pl.col("check").is_in(NOTED))
    settled = findings.filter(~pl.col("is_issue") & ~pl.col("check").is_in(NOTED))
    root = common_folder(pictures["path"].drop_nulls().to_list())
    names = {path: relative_name(path, root) for path in findings["path"].drop_nulls().unique()}
    counts = count_findings(findings, label_issues)
    sections = _sections(pictures, pl.concat([issues, noted]), root, counts, list_settled(settled, names))
    if any(section.is_incomplete for section in sections):
        name = PurePath(source).name or source
        write_findings_page(findings, names, folder, name=name, label_issues=label_issues)
    classes = _classes(pictures, issues)
    labels = sorted({label for section in sections for group in section.groups for label in group.labels if label})
    values = {
        "version": __version__,
        "source": middle_ellipsis(source, 300),
        "name": middle_ellipsis(PurePath(source).name or source),
        "verdict": audit_verdict(pictures.height, len(classes), sections, not_looked_for),
        "finding_counts": counts.describe(),
        "findings_page": FINDINGS_PAGE,
        "max_settled": MAX_SETTLED,
        "figures": _figures(pictures, findings, sections, passed_over, not_looked_for, label_issues),
        "makeup": _makeup(pictures),
        "not_looked_for": sorted(not_looked_for.items()),
        "skipped": describe_skipped(dict(sorted(passed_over.items(), key=lambda item: (-item[1], item[0])))),
        "classes": classes[:MAX_CLASSES],
        "classes_more": len(classes) - len(classes[:MAX_CLASSES]),
        "sections": sections,
        "filters": {label: number for number, label in enumerate(labels)},
    }
    path = folder / "audit.html"
    write_text(path, render_page("audit.html", values))
    return path


def audit_verdict(
    n: int,
    n_classes: int,
    sections: Sequence[CheckSection],
    not_looked_for: Collection[str] = (),
) -> str:
    """Return the audit in one sentence: the number of pictures, and the findings that a person has to decide about."""
    size = f"{format_count(n, 'picture')} in {format_count(n_classes, 'class', 'classes')}"
    needs = [section.check.format_count(section.n) for section in sections if section.needs_person]
    if not needs:
        rest = "no finding needs attention" if sections else "no problem was found"
        rest += f", but {format_count(len(not_looked_for), 'check')} skipped." if not_looked_for else "."
        return f"{size}; {rest}"
    listed = needs[:3] + ([f"{len(needs) - 3} more"] if len(needs) > 3 else [])
    words = ", ".join(listed[:-1]) + (" and " if listed[1:] else "") + listed[-1]
    return f"{size}; {format_count(len(needs), 'check needs', 'checks need')} attention: {words}."


def _left_out_findings(pictures: pl.DataFrame, findings: pl.DataFrame) -> pl.DataFrame:
    """Return findings for files that are left out and have no finding yet: each with its reason."""
    left_out = pictures.filter(pl.col("error").is_not_null())
    new = left_out.join(findings.filter("is_issue"), on="row_id", how="anti", maintain_order="left")
    columns = {"check": pl.lit(LEFT_OUT), "score": pl.lit(0.0), "is_issue": pl.lit(True), "message": pl.col("error")}
    columns |= {"group": pl.lit(None, pl.Int64), "suggested_label": pl.lit(None, pl.String)}
    return new.select("row_id", "path", **columns).select(findings.columns).cast(findings.schema)


def list_settled(settled: pl.DataFrame, names: Mapping[str, str]) -> dict[str, list[FindingEntry]]:
    """Return by check the findings that need no action although others of their check do."""
    checks = settled["check"].unique(maintain_order=True).to_list()
    return {check: list_findings(settled.filter(pl.col("check") == check), names) for check in checks}


def _sections(
    pictures: pl.DataFrame,
    issues: pl.DataFrame,
    root: str,
    counts: FindingCounts,
    settled: Mapping[str, Sequence[FindingEntry]],
) -> list[CheckSection]:
    """Return a section for each check that found something, the most serious first, with its pictures."""
    by_name = {count.check.name: count for count in counts.checks}
    decide = {
        check for check in (*issues["check"], LEFT_OUT) if check not in by_name or by_name[check].severity == "decide"
    }
    checks = sorted({*issues["check"], *settled}, key=lambda check: (check not in decide, severity_rank(check)))
    by_check = {check: findings_of_check(check, issues, pictures) for check in checks}
    sizes = {check: findings.n_pictures for check, findings in by_check.items()}
    room = fair_shares(sizes, MAX_PICTURES)
    cards = load_images({check: choose_cards(of, root, max_pictures=room[check]) for check, of in by_check.items()})
    sections = []
    for check, findings in by_check.items():
        remarks = issues.filter((pl.col("check") == check) & pl.col("path").is_null())["message"].to_list()
        short = [middle_ellipsis(remark, 600) for remark in remarks[:MAX_REMARKS]]
        grouped, n = len(findings.groups) > 0, findings.n or len(remarks)
        count = by_name.get(check) or CheckCount(find_check(check), 0, 0)  # files left out have no finding
        own = settled.get(check, [])
        n_remarks = len(remarks)
        sections.append(CheckSection(count, n, sizes[check], grouped, short, cards[check], n_remarks, own))
    return sections


def fair_shares(wanted: Mapping[str, int], total: int) -> dict[str, int]:
    """Return a fair allocation of a total: equal shares, and what one does not need goes to the others.

    >>> fair_shares({"blurry": 2, "dark": 90, "tiny": 50}, 60)
    {'blurry': 2, 'tiny': 29, 'dark': 29}
    """
    shares = {}
    for index, name in enumerate(sorted(wanted, key=lambda name: wanted[name])):
        shares[name] = min(wanted[name], total // (len(wanted) - index))
        total -= shares[name]
    return shares


def _classes(pictures: pl.DataFrame, issues: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of the table of classes, the largest class first; widths are in per cent of the largest."""
    marked = Counter(pictures.filter(pl.col("row_id").is_in(issues["row_id"].implode()))["label"].to_list())
    counts = pictures.group_by("label").agg(n=pl.len(), usable=pl.col("error").is_null().sum())
    counts = counts.sort("usable", "label", descending=[True, False])
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
    label_issues: LabelIssueSummary | None,
) -> list[tuple[str, str, str]]:
    """Return the overview as (name, value, explanation)."""
    n_of = {section.check.name: section.n for section in sections}
    usable = pictures.filter(pl.col("error").is_null())
    surplus, groups = _surplus(pictures, findings)
    sizes = sorted(usable["label"].value_counts()["count"].to_list())
    ratio = (
        f"The largest is {sizes[-1] / sizes[0]:.1f} times the smallest." if sizes else "No class has a usable picture."
    )
    left_out = pictures.height - usable.height
    counted = f"In {format_count(groups, 'group')}; one picture of each is not counted." if groups else "No duplicates."
    suspects = (f"{n_of.get('suspect-label', 0):,}", "A cross-validated model predicts another class.")
    if label_issues is not None:
        suspects = (suspects[0], label_issues.describe())
    if "suspect-label" in not_looked_for:  # 0 would claim too much
        suspects = ("–", "Not checked; the reason is below.")
    return [
        ("Pictures", f"{pictures.height:,}", "Files with a picture extension."),
        ("Classes", f"{pictures['label'].n_unique():,}", ratio),
        ("Can be used", f"{usable.height:,}", "Decoded completely."),
        ("Cannot be used", f"{left_out:,}", "The reasons are below." if left_out else "Every file could be read."),
        ("Duplicates", f"{surplus:,}", counted),
        ("Label conflicts", f"{n_of.get('label-conflict', 0):,}", "The same picture, different labels."),
        ("Doubtful labels" if label_issues is not None and label_issues.is_doubtful else "Suspect labels", *suspects),
        ("Skipped", f"{sum(passed_over.values()):,}", "Files that are not used as pictures."),
    ]


def _surplus(pictures: pl.DataFrame, findings: pl.DataFrame) -> tuple[int, int]:
    """Return the number of duplicates beyond the first of each group, and the number of groups."""
    groups = findings.filter(pl.col("is_issue") & pl.col("check").is_in(DUPLICATES))["group"].drop_nulls().unique()
    members = pictures.filter(pl.col("error").is_null() & pl.col("group").is_in(groups.to_list()))
    return max(0, members.height - groups.len()), groups.len()


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
