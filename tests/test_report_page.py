"""The report in a browser: light and dark, on a phone, by keys alone, and for people who cannot see it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bestiary.report.run_report import write_report
from test_report import LABELS, make_run
from tiny_model import write_run as write_model

pytest.importorskip("playwright")

pytestmark = pytest.mark.slow
LOOKS: dict[str, dict[str, Any]] = {
    "light": {},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}


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


@pytest.fixture(params=list(LOOKS))
def page(request: pytest.FixtureRequest, browser: Any, report: Path) -> Iterator[Any]:
    complaints: list[str] = []
    context = browser.new_context(**LOOKS[request.param])
    opened = context.new_page()
    opened.on("console", lambda said: complaints.append(f"{said.type}: {said.text}"))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "request", lambda asked: complaints.append(asked.url) if not asked.url.startswith(("file:", "data:")) else None
    )
    opened.goto(report.as_uri())
    yield opened
    context.close()
    assert complaints == []


def test_the_largest_report_is_within_the_limit(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    assert text.count("<img src=") >= 48 + 12 + 24 + 3 * 6
    assert text.count("data-evidence=") >= 48
    assert 4_000_000 < len(text.encode()) <= 8_000_000


def test_axe_finds_nothing_serious_with_all_of_it_unfolded(page: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = axe.run(page).response["violations"]
    assert [f"{one['id']}: {one['nodes'][:2]}" for one in found if one["impact"] in ("serious", "critical")] == []


def test_nothing_is_wider_than_the_screen(page: Any) -> None:
    page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_it_reads_from_the_verdict_over_what_to_do_to_the_evidence(page: Any) -> None:
    words = page.inner_text("body")
    verdict, peeked, next_, scores, wrong, trust = (
        words.index(part)
        for part in (
            "Right ",
            "The test pictures were scored 2 times",
            "What to do next\n",
            "How good it is\n",
            "Mistakes\n",
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


def test_the_evidence_is_shown_and_hidden_again(page: Any) -> None:
    image = page.locator("#mistakes ~ .gallery img").first
    plain = image.get_attribute("src")
    page.click("#evidence")
    assert page.get_attribute("#evidence", "aria-pressed") == "true"
    assert image.get_attribute("src") not in (plain, None)
    page.click("#evidence")
    assert image.get_attribute("src") == plain
