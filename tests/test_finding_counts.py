"""Command line, pages, model card and JSON count the same findings, and every finding can be reached."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip("sklearn")

from bestiary import files, table
from bestiary.checks import CHECKS
from bestiary.cli import app
from bestiary.cli.audit_table import audit_rows
from bestiary.data.dataset import AuditedDataset
from bestiary.demo.dataset import make_synthetic_dataset
from bestiary.finding_counts import SEVERITIES, FindingCounts, count_findings, read_label_issues
from bestiary.label_issue_summary import LabelIssueSummary
from bestiary.report import audit_page, finding_section
from bestiary.report.audit_page import write_audit_page
from bestiary.report.run_files import count_run_findings
from bestiary.report.run_report import write_report
from bestiary.review.decisions import DecisionLog
from bestiary.review.review_session import ReviewSession
from reviewed_run import plant
from test_report import Outline

SETTINGS = [
    "--set",
    "model.backbone=lite0",
    "--set",
    "picture.size=64",
    "--set",
    "evaluate.resamples=100",
    "--set",
    "data.min_per_class=4",
    "--threads",
    "2",
]
TABLES = {"pictures": table.PICTURES, "findings": table.FINDINGS}


@dataclass(frozen=True)
class Outputs:
    """What `audit` and `train` printed and wrote about one collection."""

    text: str
    values: dict[str, object]
    page: str
    printed: str
    run: Path

    @property
    def findings(self) -> pl.DataFrame:
        """The findings of the run."""
        return table.read(self.run / "findings.parquet", table.FINDINGS)

    @property
    def counts(self) -> FindingCounts:
        """What is expected everywhere."""
        return count_findings(self.findings, read_label_issues(files.read_json(self.run / "environment.json")))


@pytest.fixture(scope="module")
def collection_of_faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn creatures with all faults of `bestiary.demo`, and further ones; folders that are no classes."""
    drawn = make_synthetic_dataset(tmp_path_factory.mktemp("drawn") / "faults", pictures=240, seed=5)
    folder, rng = drawn.folder / "bird", np.random.default_rng(0)
    noise = rng.integers(0, 256, (90, 120, 4), np.uint8)
    Image.new("RGB", (90, 70), "white").save(folder / "empty.png")
    Image.new("RGB", (90, 70), (3, 3, 3)).save(folder / "dark.png")
    for name, columns in (("opaque", 0), ("transparent", 90)):
        noise[..., 3] = np.where(np.arange(120) < columns, 0, 255)
        Image.fromarray(noise).save(folder / f"{name}.png")
    Image.fromarray(noise[:20, :, :3]).save(folder / "narrow.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (drawn.folder / "empty class").mkdir()
    (drawn.folder / "fish" / "below").mkdir()
    shutil.copy(next((drawn.folder / "fish").glob("*.*")), drawn.folder / "fish" / "below" / "copy.png")
    return drawn.folder


@pytest.fixture(scope="module")
def outputs(collection_of_faults: Path, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    folder, pictures = tmp_path_factory.mktemp("outputs"), str(collection_of_faults)
    answers = [
        CliRunner().invoke(app, [*command, *SETTINGS], catch_exceptions=False)
        for command in (
            ["audit", pictures, "--out", str(folder / "audit")],
            ["audit", pictures, "--json", "--quiet"],
            ["train", pictures, "--out", str(folder / "run")],
        )
    ]
    assert [answer.exit_code for answer in answers] == [0, 0, 0], answers[-1].output
    text, values, printed = answers[0].stdout, json.loads(answers[1].stdout), answers[2].output
    return Outputs(text, values, (folder / "audit" / "audit.html").read_text("utf-8"), printed, folder / "run")


def table_rows(page: str) -> dict[str, int]:
    """Return the column of findings in the overview of an audit page, by title."""
    overview = page.partition('id="found"')[2].partition("</table>")[0]
    cells = r'<a href="#check-\d+">([^<]+)</a></th><td class="number">([\d,–]+)</td>'
    return {title: int(n.replace(",", "")) for title, n in re.findall(cells, overview) if n != "–"}


def test_the_collection_has_many_kinds_of_findings(outputs: Outputs) -> None:
    kinds = {count.check.name for count in outputs.counts.checks}
    assert len(kinds) >= 15
    assert kinds > {"label-conflict", "truncated", "low-information", "mostly-transparent", "empty-class"}
    assert all(outputs.counts.by_severity().values())
    opaque = outputs.findings.filter(pl.col("path").str.ends_with("opaque.png"))
    assert not set(opaque["check"]) & {"alpha", "mostly-transparent"}


def test_all_say_the_same_by_severity(outputs: Outputs) -> None:
    sentence = outputs.counts.describe()
    assert sentence.startswith(f"{outputs.findings.height} findings: ")
    report = (outputs.run / "report.html").read_text("utf-8")
    card = (outputs.run / "README.md").read_text("utf-8")
    for place in (outputs.text, outputs.printed, outputs.page, report, card):
        assert sentence in place
    severity = outputs.values["severity"]
    assert severity == outputs.counts.facts()
    assert severity == files.read_json(outputs.run / "metrics.json")["findings"]
    assert sum(severity[name] for name in SEVERITIES) == outputs.findings.height


def test_all_say_the_same_by_check(outputs: Outputs) -> None:
    counts = {count.check: (count.issues, count.noted) for count in outputs.counts.checks}
    listed = re.findall(r"^ *([\d,]+)  (\S+)", outputs.text, re.MULTILINE)
    assert {name: int(n) for n, name in listed} == {c.list_name: n or m for c, (n, m) in counts.items()}
    total = {c.plural[0].upper() + c.plural[1:]: n + m for c, (n, m) in counts.items()}
    assert table_rows(outputs.page) == total
    assert outputs.values["findings"] == {c.name: n + m for c, (n, m) in counts.items()}
    report = (outputs.run / "report.html").read_text("utf-8")
    linked = re.findall(r'<a href="#check-\d+">([^<]+)</a> <span class="muted">([\d,]+)</span>', report)
    assert {name: int(n) for name, n in linked} == {c.list_name: n or m for c, (n, m) in counts.items()}
    card = (outputs.run / "README.md").read_text("utf-8")
    for check, numbers in counts.items():
        for number in filter(None, numbers):
            assert re.search(rf"^\| {check.list_name} \| {number} \|", card, re.MULTILINE), check.name


def is_reachable(row: dict[str, str | None], text: str) -> bool:
    message = str(row["message"])
    if not row["path"]:
        return message in text
    path = Path(row["path"])
    own = message.removeprefix(f"{path} ").partition(str(path.parent.parent))[0]
    return f"{path.parent.name}/{path.name}" in text and own in text


def test_every_finding_is_a_row_of_the_report_and_of_the_audit_page(outputs: Outputs) -> None:
    for page in ((outputs.run / "report.html").read_text("utf-8"), outputs.page):
        text = Outline(page).text
        assert [row for row in outputs.findings.to_dicts() if not is_reachable(row, text)] == []
    assert not (outputs.run / "findings.html").exists()  # nothing was left out


def test_what_a_page_leaves_out_is_one_link_away(
    outputs: Outputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(outputs.run, tmp_path / "run")
    for name in ("MAX_EXAMPLES", "MAX_LISTED"):
        monkeypatch.setattr(finding_section, name, 1)
    monkeypatch.setattr(audit_page, "MAX_PICTURES", 20)
    report = write_report(run, threads=2)
    pictures = table.read(run / "pictures.parquet", table.PICTURES)
    audit = write_audit_page(pictures, outputs.findings, {}, tmp_path / "audit", source=str(run))
    for page in (report, audit):
        links = set(re.findall(r'href="(findings\.html)#([\w-]+)"', page.read_text("utf-8")))
        assert len(links) > 3
        every = (page.parent / "findings.html").read_text("utf-8")
        for _, anchor in links:
            assert f'id="{anchor}"' in every
        text = Outline(every).text
        assert [row for row in outputs.findings.to_dicts() if not is_reachable(row, text)] == []


def test_resolved_findings_count_as_such_everywhere(outputs: Outputs, tmp_path: Path) -> None:
    """Corrections settle findings, bfloat16 lists some that are none: they need no action, and stay in sight."""
    is_settled = pl.col("check") == "near-duplicate"
    findings = outputs.findings.with_columns(is_issue=pl.col("is_issue") & ~is_settled)
    counts, before = count_findings(findings, None), count_findings(outputs.findings, None)
    moved = findings.filter(is_settled).height
    assert moved > 1
    assert counts.by_severity()["note"] == before.by_severity()["note"] + moved
    assert counts.total == before.total
    pictures = table.read(outputs.run / "pictures.parquet", table.PICTURES)
    page = write_audit_page(pictures, findings, {}, tmp_path, source="x").read_text("utf-8")
    assert f"<summary>{moved} need no action</summary>" in page
    (row,) = (row for row in audit_rows(AuditedDataset(pictures, findings, {})) if row.check == "near-duplicate")
    assert (row.n, row.is_issue, row.needs_person) == (moved, False, False)


def test_serious_findings_need_a_person() -> None:
    assert all(check.severity == "decide" for check in CHECKS if check.fails_strict)


def set_label_issues(run: Path, summary: LabelIssueSummary) -> None:
    path = run / "environment.json"
    files.write_json(path, files.read_json(path) | {"label issues": asdict(summary)})


@pytest.mark.parametrize("precision", [0.05, 0.9])
def test_labels_are_called_what_the_summary_calls_them(probed: Path, tmp_path: Path, precision: float) -> None:
    """Report with galleries, model card, review queue, audit page and command line."""
    summary = LabelIssueSummary(40, 0.7, precision, 0.0, 1.0)
    word, avoided = ("doubtful", "suspect") if summary.is_doubtful else ("suspect", "doubtful")
    run = plant(probed, tmp_path / "run", suspects=40)
    set_label_issues(run, summary)
    page = write_report(run, threads=2).read_text("utf-8")
    assert f'<span class="badge">{word} label</span>' in page
    pictures, findings = (table.read(run / f"{name}.parquet", columns) for name, columns in TABLES.items())
    dataset = AuditedDataset(pictures, findings, {}, label_issues=summary)
    audit = write_audit_page(pictures, findings, {}, tmp_path / "audit", source="x", label_issues=summary)
    (row,) = (row for row in audit_rows(dataset) if row.check == "suspect-label")
    assert (row.name, row.needs_person) == (f"{word}-label", not summary.is_doubtful)
    for text in (Outline(page).text, (run / "README.md").read_text("utf-8"), Outline(audit.read_text("utf-8")).text):
        assert re.search(rf"\b{word}[- ]label", text, re.IGNORECASE)
        shown = text.replace("whose check is suspect-label", "")
        assert not re.search(rf"\b{avoided}[- ]label", shown, re.IGNORECASE)
    session = ReviewSession(run, DecisionLog(tmp_path / "corrections.csv", "anna"), threads=1)
    (check,) = (check for check in session.overview()["checks"] if check["check"] == "suspect-label")
    assert (check["one"], check["many"]) == (f"{word} label", f"{word} labels")
    assert word in str(dataset.summary())
    severity = count_run_findings(run).by_severity()
    assert severity["know" if summary.is_doubtful else "decide"] >= 40
