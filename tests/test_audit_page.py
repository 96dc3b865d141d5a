"""The audit page: everything found is on it, duplicates side by side; nothing on it can harm, leave or outgrow it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from bestiary import checks, flow, table
from bestiary.checks import REVIEW_ORDER, TABLE_ORDER, find_check, severity_rank
from bestiary.data.dataset import AuditedDataset
from bestiary.demo.dataset import SyntheticDataset, make_synthetic_dataset
from bestiary.errors import MachineError
from bestiary.label_issue_summary import LabelIssueSummary
from bestiary.report import audit_cards
from bestiary.report.audit_page import MAX_PICTURES, fair_shares, write_audit_page
from bestiary.thumbnails import thumbnail_data_uri

HOSTILE = '<script>alert("1")</script> & Bär'
MOST_BYTES = 20_000_000
NEW_CHECKS = ("grey", "rotated", "alpha", "sideways-glance")


class Outline(HTMLParser):
    """The tags of a page with their attributes, its text, and whether every tag is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, text: str) -> None:
        self.text += text

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def picture(path: Path, seed: int = 0, side: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def picture_rows(paths: Sequence[Path], labels: Sequence[str | None], **changed: Any) -> pl.DataFrame:
    """Return a picture table in which every picture is its own group; `changed` replaces whole columns."""
    n = len(paths)
    columns: dict[str, Any] = {"row_id": range(n), "path": map(str, paths), "label": labels, "bytes": [2000] * n}
    columns |= {"width": [300] * n, "height": [225] * n, "format": ["JPEG"] * n, "group": range(n)}
    columns |= {"sha256": [f"{i:064x}" for i in range(n)], "phash": ["0" * 64] * n, "split": [None] * n}
    columns |= {"error": [None] * n} | changed
    return pl.DataFrame({name: list(values) for name, values in columns.items()}, schema=table.PICTURES)


def finding(check: str, row: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    about = {"row_id": row["row_id"], "path": row["path"]} if row else {"row_id": None, "path": None}
    blank = {"score": 0.5, "is_issue": True, "message": "A message.", "group": None, "suggested_label": None}
    return {"check": check} | about | blank | changed


def finding_rows(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=table.FINDINGS)


def written(pictures: pl.DataFrame, findings: pl.DataFrame, folder: Path, **passed_over: int) -> str:
    return write_audit_page(pictures, findings, passed_over, folder, source="/home/someone/animals").read_text("utf-8")


def section(page: str, check: str) -> str:
    """Return the HTML of one check's section, empty if the page has none."""
    title = find_check(check).plural
    sections = re.findall(r'<section class="section".*?</section>', page, re.DOTALL)
    return next((part for part in sections if f'">{title[0].upper()}{title[1:]}' in part.partition("</h3>")[0]), "")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> SyntheticDataset:
    return make_synthetic_dataset(tmp_path_factory.mktemp("drawn") / "creatures", pictures=120)


@pytest.fixture(scope="module")
def audited(drawn: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> AuditedDataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BESTIARY_CACHE", str(tmp_path_factory.mktemp("cache")))
        return flow.audit(drawn.folder, threads=1)


@pytest.fixture(scope="module")
def page(audited: AuditedDataset, drawn: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("audit")
    path = write_audit_page(audited.pictures, audited.findings, audited.passed_over, folder, source=str(drawn.folder))
    assert path == folder / "audit.html"
    assert [other.name for other in folder.iterdir()] == ["audit.html"]
    return path.read_text(encoding="utf-8")


def test_pictures_of_one_site_are_not_shown_as_duplicates(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{seed}.png", seed) for seed in range(4)]
    pictures = picture_rows(paths, ["cat"] * 4, group=[0, 0, 0, 0])
    pictures = pictures.with_columns(duplicate_group=pl.Series([0, 0, 2, 3]))
    findings = finding_rows([finding("near-duplicate", pictures.row(1, named=True), group=0)])
    page = written(pictures, findings, tmp_path)
    assert '<dt>Duplicates</dt><dd><span class="value">1</span>' in page
    assert section(page, "near-duplicate").count("<img") == 2


def test_the_overview_counts_what_the_tables_hold(page: str, audited: AuditedDataset) -> None:
    pictures, text = audited.pictures, " ".join(Outline(page).text.split())
    broken = pictures["error"].drop_nulls().len()
    sizes = pictures["group"].value_counts().filter(pl.col("count") > 1)["count"]
    assert f"{pictures.height} pictures in 10 classes; " in text
    assert " need attention: 1 label conflict, " in text
    assert broken == 3
    for name, value in (
        ("Pictures", pictures.height),
        ("Can be used", pictures.height - broken),
        ("Cannot be used", broken),
        ("Duplicates", sizes.sum() - sizes.len()),
        ("Label conflicts", 1),
        ("Skipped", sum(audited.passed_over.values())),
    ):
        assert f'<dt>{name}</dt><dd><span class="value">{value}</span>' in page
    assert f"In {sizes.len()} groups" in text
    assert "1 hidden" in text


def test_every_check_that_found_something_has_a_section_in_order_of_seriousness(
    page: str, audited: AuditedDataset
) -> None:
    checks = sorted(audited.findings["check"].unique(), key=severity_rank)
    places = [page.index(f'id="title-{place}">') for place in range(1, len(checks) + 1)]
    assert len(checks) > 5
    assert places == sorted(places)
    assert f'id="title-{len(checks) + 1}"' not in page
    for check in checks:
        part = section(page, check)
        for words in (find_check(check).effect, find_check(check).remedy):
            assert words in part
    assert page.index(section(page, "label-conflict")) < page.index(section(page, "exact-duplicate"))


def test_every_finding_of_the_drawn_collection_is_shown_with_its_message(page: str, audited: AuditedDataset) -> None:
    root = str(Path(audited.pictures["path"][0]).parents[1])
    for row in audited.findings.iter_rows(named=True):
        text = Outline(section(page, row["check"])).text
        assert row["message"].replace(f"{row['path']} ", "").replace(f"{root}/", "") in text
        if row["path"]:
            assert row["path"].removeprefix(f"{root}/") in text


def test_a_copy_stands_beside_its_original(page: str, drawn: SyntheticDataset) -> None:
    for copy, original in drawn.originals.items():
        check = next(fault for fault, paths in drawn.faults.items() if copy in paths)
        groups = re.split(r'<li class="group"', section(page, check))[1:]
        holding = [group for group in groups if f'title="{copy}"' in group]
        assert len(holding) == 1
        assert f'title="{original}"' in holding[0]


def test_the_page_is_well_formed_and_can_be_walked(page: str) -> None:
    outline = Outline(page)
    assert outline.open == []
    assert page.startswith("<!doctype html>")
    for tag, n in (("h1", 1), ("main", 1), ("header", 1), ("footer", 1), ("dialog", 1), ("script", 1)):
        assert outline.count(tag) == n
    assert outline.count("table") == outline.count("caption")
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    links = [attributes.get("href") or "" for tag, attributes in outline.tags if tag == "a"]
    assert len(set(ids)) == len(ids)
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert all("alt" in attributes for tag, attributes in outline.tags if tag == "img")


def test_the_page_loads_nothing(page: str) -> None:
    assert "default-src 'none'; img-src data:" in page
    for _, attributes in Outline(page).tags:
        for name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/jpeg;base64,"))
    assert not re.search(r"url\(|@import|https?://|fetch\(|XMLHttp", page)


def test_hostile_names_labels_and_messages_are_text(tmp_path: Path) -> None:
    name = '"><img src=x onerror=alert(1)>\u202egpj.exe\n.png'
    path = picture(tmp_path / "in" / name)
    pictures = picture_rows([path, tmp_path / "in" / "gone.png"], [HOSTILE, "cow"])
    row = pictures.row(0, named=True)
    rows = [finding("suspect-label", row, message=HOSTILE, suggested_label=HOSTILE), finding(HOSTILE, row)]
    rows.append(finding("shortcut", message=HOSTILE))
    page = write_audit_page(pictures, finding_rows(rows), {HOSTILE: 2}, tmp_path / HOSTILE[1:7], source=HOSTILE)
    outline = Outline(page.read_text(encoding="utf-8"))
    assert outline.open == []
    assert outline.count("script") == 1
    assert not any("onerror" in attributes for _, attributes in outline.tags)
    assert outline.text.count(HOSTILE) > 6
    assert {attributes.get("title") for tag, attributes in outline.tags if tag == "span"} >= {str(path)}


def test_a_suspect_shows_what_was_given_and_what_is_suggested(tmp_path: Path) -> None:
    paths = [picture(tmp_path / label / "1.png") for label in ("cow", "dog")]
    pictures = picture_rows(paths, ["cow", "dog"])
    row = pictures.row(0, named=True)
    page = written(pictures, finding_rows([finding("suspect-label", row, suggested_label="dog")]), tmp_path)
    text = " ".join(Outline(section(page, "suspect-label")).text.split())
    assert "given cow suggested dog" in text
    assert "300 × 225 px · 2 kB · JPEG" in text
    numbers = re.search(r'data-labels="([^"]*)"', section(page, "suspect-label"))
    assert numbers is not None
    assert len(numbers[1].split()) == 2  # found under either class


def test_labels_that_are_only_doubtful_need_no_attention(tmp_path: Path) -> None:
    pictures = picture_rows([tmp_path / f"{i}.jpg" for i in range(4)], ["cat", "cat", "dog", "dog"])
    findings = finding_rows([finding("suspect-label", row, suggested_label="cat") for row in pictures.to_dicts()[2:]])
    pages = [
        write_audit_page(
            pictures, findings, {}, tmp_path, source="animals", label_issues=LabelIssueSummary(2, 0.8, precision, 0, 1)
        ).read_text("utf-8")
        for precision in (0.9, 0.1)
    ]
    titles = [re.findall(r'<th scope="row"><a href="#check-1">([^<]*)</a>.*<td>(.*)</td>', page) for page in pages]
    assert titles == [[("Suspect labels", '<span class="badge">yes</span>')], [("Doubtful labels", "")]]
    assert "1 check needs attention: 2 suspect labels." in pages[0]
    assert "no finding needs attention." in pages[1]


def test_what_was_not_looked_for_is_not_claimed_to_be_absent(tmp_path: Path) -> None:
    pictures = picture_rows([tmp_path / "a.png", tmp_path / "b.png"], ["cow", "dog"])
    assert '<dt>Suspect labels</dt><dd><span class="value">0</span>' in written(pictures, finding_rows([]), tmp_path)
    reason = {"suspect-label": "data.suspects is false"}
    write_audit_page(pictures, finding_rows([]), {}, tmp_path, source="animals", not_looked_for=reason)
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert '<dt>Suspect labels</dt><dd><span class="value">–</span>' in page
    assert "suspect-label (data.suspects is false)" in page


def test_what_is_only_noted_is_shown_last_and_asks_for_nothing(tmp_path: Path) -> None:
    pictures = picture_rows([picture(tmp_path / "cow" / f"{i}.png") for i in range(2)], ["cow", "cow"])
    one, other = pictures.iter_rows(named=True)
    rows = [finding("alpha", one, is_issue=False), finding("dark", other), finding("blurry", one, is_issue=False)]
    page = written(pictures, finding_rows(rows), tmp_path)
    assert 0 < page.index(section(page, "dark")) < page.index(section(page, "alpha"))
    assert "no finding needs attention" in page
    blurry = section(page, "blurry")  # measured and passed, or settled by a correction
    assert "<summary>1 needs no action</summary>" in blurry
    assert "<img " not in blurry


def test_nothing_found_is_said(tmp_path: Path) -> None:
    pictures = picture_rows([tmp_path / "a.png", tmp_path / "b.png"], ["cow", "dog"])
    text = Outline(written(pictures, finding_rows([]), tmp_path)).text
    assert "2 pictures in 2 classes; no problem was found." in text
    assert "No problem was found" in text
    assert "The findings by check" not in text


def test_no_pictures_at_all_is_a_page_too(tmp_path: Path) -> None:
    text = Outline(written(picture_rows([], []), finding_rows([]), tmp_path, hidden=3)).text
    assert "0 pictures in 0 classes" in text
    assert "3 hidden" in text


def test_a_picture_that_has_gone_keeps_its_place(tmp_path: Path) -> None:
    here, gone = picture(tmp_path / "cow" / "1.png"), tmp_path / "cow" / "gone.png"
    pictures = picture_rows([here, gone], ["cow", "cow"])
    page = written(pictures, finding_rows([finding("dark", row) for row in pictures.to_dicts()]), tmp_path)
    part = section(page, "dark")
    assert part.count("<img ") == part.count('class="gone"') == 1
    assert f'title="{gone}"' in part


def test_a_file_left_out_without_a_finding_is_named_with_its_reason(tmp_path: Path) -> None:
    paths = [tmp_path / "cow" / f"{i}.png" for i in range(2)]
    pictures = picture_rows(paths, ["cow", None], error=[f"{paths[0]} was dropped by corrections.csv.", None])
    page = written(pictures, finding_rows([]), tmp_path)
    assert "was dropped by corrections.csv." in Outline(section(page, "left-out")).text
    assert "1 file left out" in page
    assert "(no label)" in page


def test_checks_that_nobody_wrote_about_are_shown_after_those_that_need_a_person(tmp_path: Path) -> None:
    pictures = picture_rows([picture(tmp_path / "cow" / "1.png")], ["cow"])
    row = pictures.row(0, named=True)
    rows = [finding(check, row, message=f"Of {check}.") for check in (*NEW_CHECKS, "dark", "outlier")]
    page = written(pictures, finding_rows(rows), tmp_path)
    assert all(f"Of {check}." in section(page, check) for check in NEW_CHECKS)
    places = [page.index(section(page, check)) for check in ("outlier", "sideways-glance", "dark")]
    assert places == sorted(places)
    assert all(section(page, check) for check in NEW_CHECKS)


def test_every_check_of_the_contract_is_explained() -> None:
    unknown = find_check("sideways-glance")
    for name in (*table.CHECKS, *NEW_CHECKS[:-1], "left-out"):
        check = find_check(name)
        assert check.effect != unknown.effect
        assert check.meaning
        assert check.needs_person == (severity_rank(name) < severity_rank("sideways-glance"))
    assert {check.name for check in checks.CHECKS} == set(table.CHECKS) | {"left-out"}


def test_checks_have_one_place_each_in_the_table_and_in_the_review() -> None:
    orders = [check.table_order for check in checks.CHECKS if check.table_order]
    assert sorted(orders) == list(range(1, len(TABLE_ORDER) + 1))
    reviewed = [find_check(name).review_order for name in REVIEW_ORDER]
    assert reviewed == list(range(1, len(REVIEW_ORDER) + 1))
    ranks = {"decide": 0, "know": 1, "note": 2}
    severities = [ranks[check.severity] for check in checks.CHECKS]
    assert severities == sorted(severities)


def test_a_finding_about_a_row_that_the_table_lacks_is_shown_by_its_path(tmp_path: Path) -> None:
    stray = {"row_id": 77, "path": str(tmp_path / "stray.png")}
    page = written(picture_rows([tmp_path / "a.png"], ["cow"]), finding_rows([finding("dark", stray)]), tmp_path)
    assert "stray.png" in section(page, "dark")


def test_equal_files_alone_stand_together_as_exact_duplicates(tmp_path: Path) -> None:
    """A group of four near-duplicates, two of them the same file."""
    paths = [picture(tmp_path / "cow" / f"{i}.png", i) for i in range(4)]
    pictures = picture_rows(paths, ["cow"] * 4, group=[0] * 4, sha256=["a", "b", "a", "c"])
    rows = pictures.to_dicts()
    found = [finding("exact-duplicate", rows[2], group=0)]
    found += [finding("near-duplicate", row, group=0) for row in rows[1:]]
    page = written(pictures, finding_rows(found), tmp_path)
    shown = {
        check: re.findall(r"(\d).png</span>", section(page, check)) for check in ("exact-duplicate", "near-duplicate")
    }
    assert shown == {"exact-duplicate": ["0", "2"], "near-duplicate": ["0", "1", "2", "3"]}


def test_a_group_is_never_torn_and_a_huge_one_is_cut_with_a_count(tmp_path: Path) -> None:
    sizes = [audit_cards.MAX_GROUP_PICTURES + 30, 3, 3]
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    paths = [tmp_path / f"{i}.png" for i in range(len(groups))]
    pictures = picture_rows(paths, ["cow"] * len(groups), group=groups)
    rows = [finding("near-duplicate", row, group=row["group"], score=row["group"] / 9) for row in pictures.to_dicts()]
    found = audit_cards.findings_of_check("near-duplicate", finding_rows(rows), pictures)
    shown = audit_cards.choose_cards(found, "", max_pictures=audit_cards.MAX_GROUP_PICTURES + 4)
    assert [(len(exhibit.cards), exhibit.more) for exhibit in shown] == [(audit_cards.MAX_GROUP_PICTURES, 30), (3, 0)]
    assert (found.n, found.n_pictures) == (3, len(groups))


def audit_page_of(n: int, noise: Sequence[Path], folder: Path) -> tuple[str, int]:
    """Return the page for so many pictures that are marked by every check, and the number of findings."""
    folder.mkdir()
    names = [noise[i] if i < len(noise) else folder / "in" / f"{'long' * 30}{i}.png" for i in range(n)]
    pictures = picture_rows(names, [f"class {i % 10}" for i in range(n)], group=[i // 3 for i in range(n)])
    checks = [check for check in table.CHECKS if check not in ("imbalance", "shortcut")]
    grouped = {"near-duplicate", "label-conflict", "split-leak"}
    common = {"score": pl.lit(0.5), "is_issue": pl.lit(True), "message": pl.lit("A message. " * 90)}
    found = [
        pictures.select("row_id", "path", "group", **common, check=pl.lit(check), suggested_label=pl.lit("class 1"))
        for check in checks
    ]
    findings = pl.concat(
        part.with_columns(group=pl.when(pl.col("check").is_in(grouped)).then("group")) for part in found
    )
    return written(pictures, findings.select(list(table.FINDINGS)), folder), findings.height


def test_a_page_of_many_findings_does_not_grow_with_them(tmp_path: Path) -> None:
    """It says how many it leaves out."""
    noise = [picture(tmp_path / "in" / f"{i}.png", i, side=200) for i in range(40)]
    pages = []
    for n in (1_500, 4_500):
        page, n_findings = audit_page_of(n, noise, tmp_path / str(n))
        assert len(page.encode()) < MOST_BYTES
        cards = page.count("<figure>") + page.count('<code class="name">')
        assert MAX_PICTURES * 0.9 < cards <= MAX_PICTURES
        hidden = sum(int(more.replace(",", "")) for more in re.findall(r"([\d,]+) more pictures are not shown", page))
        assert hidden == n_findings - cards
        assert Outline(page).open == []
        pages.append(page)
    assert len(pages[1]) == pytest.approx(len(pages[0]), abs=1_000)


def test_the_worst_picture_keeps_within_its_share_of_the_page(tmp_path: Path) -> None:
    address = thumbnail_data_uri(
        picture(tmp_path / "noise.png", side=900), audit_cards.PICTURE_PIXELS, largest_bytes=audit_cards.PICTURE_BYTES
    )
    assert address is not None
    assert 1000 < len(address) <= audit_cards.PICTURE_BYTES * 4 / 3 + 40
    text_of_a_card = 4 * (4096 + 8 * audit_cards.MAX_TEXT)
    assert MAX_PICTURES * (audit_cards.PICTURE_BYTES * 4 / 3 + 40) < MOST_BYTES - 5_000_000
    assert MAX_PICTURES * text_of_a_card < 15_000_000


def test_room_is_shared_out_whole() -> None:
    assert fair_shares({}, 9) == {}
    assert fair_shares({"a": 1, "b": 2}, 9) == {"a": 1, "b": 2}
    assert fair_shares({"a": 100, "b": 1, "c": 100}, 9) == {"b": 1, "a": 4, "c": 4}


def test_writing_again_gives_the_same_page(
    page: str, audited: AuditedDataset, drawn: SyntheticDataset, tmp_path: Path
) -> None:
    again = write_audit_page(
        audited.pictures, audited.findings, audited.passed_over, tmp_path, source=str(drawn.folder)
    )
    assert again.read_text(encoding="utf-8") == page


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(MachineError, match="file"):
        written(picture_rows([], []), finding_rows([]), tmp_path / "file")
