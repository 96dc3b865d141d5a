"""The report in a browser: light and dark, on a phone, by keys alone, and for people who cannot see it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bestiary.report.run_report import write_report
from browsers import is_firefox, serious_violations
from test_report import LABELS, make_run
from tiny_model import write_run as write_model

pytest.importorskip("playwright")

pytestmark = pytest.mark.slow
LOOKS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}


HUNDRED = tuple(f"class {c:03}" for c in range(100))


def noise(folder: Path, labels: tuple[str, ...], n: int) -> dict[str, list[Path]]:
    """Draw pictures of coarse noise, whose small copies are as large as they may be: the largest page there can be."""
    chance, files = np.random.default_rng(0), dict[str, list[Path]]()
    coarse = (Image.fromarray(chance.integers(0, 256, (95, 95, 3), dtype=np.uint8)) for _ in range(4))
    shapes = [one.resize((420, 420), Image.Resampling.BICUBIC) for one in coarse]
    for at, label in enumerate(labels):
        for number in range(n):
            path = folder / str(at) / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            shapes[(at + number) % 4].save(path, quality=92)
            files.setdefault(label, []).append(path)
    return files


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with as many pictures of each kind as it ever shows, and a second look at the test pictures."""
    home = tmp_path_factory.mktemp("paged")
    files = noise(home / "pictures", LABELS, 120)
    run = make_run(home / "run", files, sure=1.4, changed={"test_scored": 2})
    return write_report(write_model(run))


@contextmanager
def opened_page(browser: Any, look: str, path: Path) -> Iterator[Any]:
    """Open a file as a page; nothing may be on its console, and nothing asked of the network."""
    complaints: list[str] = []
    context = browser.new_context(**LOOKS[look])
    opened = context.new_page()
    opened.on("console", lambda said: complaints.append(f"{said.type}: {said.text}"))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "request", lambda asked: complaints.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None
    )
    try:
        opened.goto(path.as_uri())
        yield opened
    finally:
        context.close()
    assert complaints == []


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The report on a phone in Chromium, which emulates one, and on a wide screen in Firefox: each layout once."""
    with opened_page(browser, "light" if is_firefox(browser) else "phone", report) as opened:
        yield opened


def test_the_largest_report_is_within_the_limit(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert text.count("<img src=") >= 48 + 12 + 24 + 3 * 6
    assert text.count("data-evidence=") >= 48
    assert 4_000_000 < len(text.encode()) <= 8_000_000


@pytest.mark.parametrize("look", list(LOOKS))
def test_unfolded_it_fits_the_screen_and_axe_finds_nothing_serious(browser: Any, report: Path, look: str) -> None:
    with opened_page(browser, look, report) as page:
        page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert serious_violations(page) == []


def test_it_reads_from_the_verdict_over_what_to_do_to_the_evidence(page: Any) -> None:
    words = page.inner_text("body")
    verdict, peeked, next_, scores, wrong, trust = (
        words.index(part)
        for part in (
            "Right ",
            "The test pictures were scored 2 times",
            "What to do next\n",
            "How good it is\n",
            "Confusion matrix\n",
            "Calibration: can its probabilities be trusted?\n",
        )
    )
    assert verdict < peeked < next_ < scores < wrong < trust
    levels = [int(name[1]) for name in re.findall(r"<(h[1-6])\b", page.content())]
    assert all(after - before <= 1 for before, after in pairwise(levels)), "a heading skips a level"


def test_pictures_open_larger_by_keys_and_the_focus_comes_back(page: Any) -> None:
    first = page.locator(".gallery button").first
    first.focus()
    page.keyboard.press("Enter")
    large = page.locator("dialog img")
    assert large.evaluate("image => image.clientWidth") > first.evaluate("button => button.clientWidth")
    source = large.get_attribute("src")
    page.keyboard.press("ArrowRight")
    assert large.get_attribute("src") != source or page.inner_text("dialog .words")
    page.keyboard.press("ArrowLeft")
    assert large.get_attribute("src") == source
    page.keyboard.press("Escape")
    assert first.evaluate("button => button === document.activeElement")


def test_the_probabilities_of_a_picture_are_beside_it(page: Any) -> None:
    page.locator("#mistakes ~ .gallery button").first.click()
    labels, values = (page.locator(f"dialog .top-five {tag}").all_inner_texts() for tag in ("dt", "dd"))
    assert len(labels) == len(values) == 5
    shares = [float(value.split()[-2]) for value in values if "below" not in value]
    assert shares == sorted(shares, reverse=True)
    assert page.inner_text("dialog .words").startswith(f"predicted {labels[0]}")


def column(page: Any, at: int) -> list[str]:
    return [
        str(text)
        for text in page.locator(f"#classes ~ [data-explore] tbody tr:visible td:nth-child({at})").all_inner_texts()
    ]


def test_classes_are_sorted_by_keys_and_filtered(page: Any) -> None:
    table = page.locator("#classes ~ [data-explore]").first
    f1 = [int(text.split("\u00a0")[0]) for text in column(page, 2)]
    assert f1 == sorted(f1)
    head = table.locator("th", has_text="Recall")
    head.locator("button").focus()
    for key, direction, sign in (("Enter", "ascending", 1), ("Space", "descending", -1)):
        page.keyboard.press(key)
        assert head.get_attribute("aria-sort") == direction
        recall = [sign * int(text.split("\u00a0")[0]) for text in column(page, 4)]
        assert recall == sorted(recall)
        assert f"Sorted by Recall, {direction}." in table.inner_text()
    assert table.locator("th[aria-sort=none]").count() == 5
    table.locator("th", has_text="Class").locator("button").click()
    names = table.locator("tbody th").all_inner_texts()
    assert names.index("cow") < names.index("dog") < names.index("sheep")
    table.locator("input").fill("  SH")
    assert table.locator("tbody tr:visible th").all_inner_texts() == ["sheep"]
    assert "1 of 6 classes" in table.inner_text()
    table.locator("input").fill("")
    assert table.locator("tbody tr:visible").count() == 6


def test_a_cell_of_the_matrix_shows_its_pictures(page: Any) -> None:
    cells = page.locator(".matrix td.off button")
    assert page.locator(".matrix button[tabindex='0']").count() == 1
    for at in range(min(4, cells.count())):
        cell = cells.nth(at)
        cell.click()
        [(label, predicted, n)] = re.findall(r"(.*) predicted as (.*): (\d+), ", cell.get_attribute("aria-label"))
        items = page.locator("#cell .gallery > li")
        assert 0 < items.count() <= int(n)
        pairs = items.evaluate_all("items => items.map((item) => [item.dataset.label, item.dataset.predicted])")
        assert pairs == [[label, predicted]] * items.count()
        status = page.inner_text("#cell [role=status]")
        assert f"{label} predicted as {predicted}: {n} of " in status
        assert ("predictions.parquet" in status) == (items.count() < int(n))
        rows = items.evaluate_all("items => items.map((item) => item.dataset.row)")
        assert len(set(rows)) == len(rows)
    page.locator("#cell .gallery button").first.click()
    assert page.locator("dialog img").evaluate("image => image.naturalWidth") > 0
    page.keyboard.press("Escape")
    cells.first.focus()
    page.keyboard.press("ArrowRight")
    chosen = page.evaluate("() => document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("Enter")
    assert chosen.startswith(page.inner_text("#cell [role=status]").split(":")[0])
    assert chosen != cells.first.get_attribute("aria-label")
    page.locator(".show-cell").first.click()
    most = page.inner_text("#cell [role=status]")
    assert page.locator("[data-cell]").first.inner_text().startswith(most.partition(" (")[0])
    page.select_option("#cell select", index=1)
    assert page.inner_text("#cell [role=status]") == most
    assert page.locator(".matrix button[aria-current]").count() == 1


def test_the_threshold_shows_coverage_and_accuracy(page: Any, report: Path) -> None:
    metrics = json.loads((report.parent / "metrics.json").read_text())
    status = page.locator("#threshold [role=status]")
    own = status.inner_text()
    assert "(this model)" in own
    assert f"{100 * metrics['unknown']['coverage']:.1f}\u00a0% answered" in own
    slider = page.locator("#threshold input")
    slider.focus()
    page.keyboard.press("Home")
    everything = status.inner_text()
    assert f"100.0\u00a0% answered ({metrics['n']} of {metrics['n']})" in everything
    assert f"{100 * metrics['accuracy']['value']:.1f}\u00a0% of the answers right" in everything
    before = page.get_attribute("#coverage-plot circle.ring-other", "cx")
    page.keyboard.press("End")
    assert status.inner_text() != everything
    assert page.get_attribute("#coverage-plot circle.ring-other", "cx") != before
    assert slider.get_attribute("aria-valuetext") == status.inner_text()
    page.click("#threshold .own")
    assert status.inner_text() == own
    page.select_option("#threshold select", "confidence")
    assert status.inner_text() == everything.replace("Threshold 0.000", status.inner_text().split(":")[0])


def test_a_link_to_findings_unfolds_them(page: Any) -> None:
    link = page.locator(".counts a", has_text="dark")
    target = page.locator(link.get_attribute("href"))
    assert not target.evaluate("folded => folded.open")
    link.click()
    page.wait_for_function("id => document.querySelector(id).open", arg=link.get_attribute("href"))


@pytest.fixture(scope="module")
def large_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on a hundred classes."""
    home = tmp_path_factory.mktemp("large")
    return write_report(make_run(home / "run", noise(home / "pictures", HUNDRED, 13), sure=2.5, weak="class 042"))


@pytest.mark.parametrize("look", ["light", "phone"])
def test_a_hundred_classes_can_be_explored(browser: Any, large_report: Path, look: str) -> None:
    with opened_page(browser, look, large_report) as page:
        assert page.locator("#classes ~ [data-explore] table").count() == 1
        assert len(column(page, 2)) == 100
        region = page.locator("#classes ~ [data-explore] .scroll")
        assert region.evaluate("region => region.scrollHeight > region.clientHeight")
        cells = json.loads(page.get_attribute("#cell", "data-cells"))
        frame = page.locator("#heatmap .frame")
        frame.scroll_into_view_if_needed()
        box = frame.bounding_box()
        page.mouse.move(box["x"] + 42.5 * box["width"] / 100, box["y"] + 42.5 * box["height"] / 100)
        assert page.inner_text("#heatmap .readout").startswith("class 042 predicted as class 042: ")
        row, place, n = next(cell for cell in cells if cell[0] != cell[1])
        page.mouse.click(box["x"] + (place + 0.5) * box["width"] / 100, box["y"] + (row + 0.5) * box["height"] / 100)
        assert page.inner_text("#cell [role=status]").startswith(
            f"{HUNDRED[row]} predicted as {HUNDRED[place]}: {n} of"
        )
        assert page.locator("#cell .gallery > li").count() > 0
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert large_report.stat().st_size < 8_000_000


def test_the_evidence_is_shown_and_hidden_again(page: Any) -> None:
    image = page.locator("#mistakes ~ .gallery img").first
    plain = image.get_attribute("src")
    page.click("#evidence")
    assert page.get_attribute("#evidence", "aria-pressed") == "true"
    assert image.get_attribute("src") not in (plain, None)
    page.click("#evidence")
    assert image.get_attribute("src") == plain
