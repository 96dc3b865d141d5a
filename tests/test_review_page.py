"""The review page in a browser: by keyboard, on a phone, with a screen reader."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("playwright")

from bestiary.context import Context
from bestiary.data.corrections import Correction, read_corrections
from bestiary.progress import SilentReporter
from bestiary.review.app import create_app
from bestiary.review.decisions import DecisionLog
from bestiary.review.review_session import ReviewSession
from bestiary.web.settings import ServerSettings
from browsers import serious_violations, tap
from reviewed_run import plant
from served import served_here

pytestmark = pytest.mark.slow
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@dataclass
class Review:
    """An open review page, and its corrections file."""

    page: Any
    file: Path
    console: list[str] = field(default_factory=list)

    def rows(self) -> tuple[Correction, ...]:
        """Return the decisions in the file once all of them are saved."""
        self.page.evaluate("writes")
        return read_corrections(self.file).rows if self.file.exists() else ()

    def picture(self) -> int:
        """Return the row of the picture on the page, once it is loaded."""
        return int(self.page.locator("#large[data-row]").get_attribute("data-row"))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)


@pytest.fixture(scope="module")
def run(probed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(probed, tmp_path_factory.mktemp("paged") / "run", suspects=24)


@contextmanager
def started_command(run: Path, file: Path) -> Iterator[str]:
    """Start `bestiary review` as users do, and give its address; Ctrl-C ends it without an error."""
    command = [sys.executable, "-m", "bestiary", "review", str(run), "--corrections", str(file), "--reviewer", "anna"]
    server = subprocess.Popen([*command, "--port", "0", "--json", "--quiet"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield json.loads(server.stdout.readline())["address"]
    finally:
        os.kill(server.pid, signal.SIGINT)
        server.communicate(timeout=60)
    assert server.returncode == 0


@contextmanager
def started_here(run: Path, file: Path) -> Iterator[str]:
    """Do what the command does, without its two seconds of imports."""
    session = ReviewSession(run, DecisionLog(file, "anna"))
    settings = ServerSettings(port=0, token="sesame")
    with served_here(create_app(session, settings), settings) as address:
        search = threading.Thread(target=session.start_neighbour_search, args=[Context.create(None, SilentReporter())])
        search.start()
        yield address
        search.join()


@pytest.fixture(params=[{}], ids=["desktop"])
def review(request: pytest.FixtureRequest, browser: Any, run: Path, tmp_path: Path) -> Iterator[Review]:
    file = tmp_path / "corrections.csv"
    options = dict(request.param)
    start = started_command if options.pop("command", False) else started_here
    with start(run, file) as address:
        context = browser.new_context(**options)
        opened = Review(context.new_page(), file)
        opened.page.on("console", lambda message: opened.console.append(f"{message.type}: {message.text}"))
        opened.page.on("pageerror", lambda error: opened.console.append(str(error)))
        try:
            opened.page.goto(address)
            opened.picture()
            yield opened
        finally:
            context.close()
    assert opened.console == []


def choose(review: Review, check: str) -> None:
    review.page.select_option("#check", check)


@pytest.mark.parametrize("review", [{"command": True}], indirect=True, ids=["command"])
def test_twenty_pictures_are_reviewed_by_keyboard(review: Review) -> None:
    choose(review, "suspect-label")
    seen: list[int] = []
    for number in range(20):
        review.page.wait_for_function("seen => current() && !seen.includes(current().row)", arg=seen)  # the next one
        seen.append(review.page.evaluate("current().row"))
        review.press(*(("k",), ("d",), ("r", "Enter"), ("s",))[number % 4])
    rows = review.rows()
    assert len(set(seen)) == 20
    assert [row.action for row in rows] == ["keep", "drop", "relabel"] * 5
    suggested = dict(review.page.evaluate("overview.items.map((item) => [item.row, item.suggested])"))
    assert [row.label for row in rows[2::3]] == [suggested[row] for row in seen[2::4]]
    assert {row.note for row in rows} == {"anna"}
    assert review.page.inner_text("#count") == "15 of 24 decided"
    assert "anna" not in review.page.inner_text("#status")


@pytest.mark.parametrize("review", [{"viewport": {"width": 1280, "height": 720}}], indirect=True, ids=["low"])
def test_all_neighbours_are_visible_on_a_low_screen(review: Review) -> None:
    choose(review, "suspect-label")
    near = review.page.locator("#neighbours > li")
    near.nth(5).wait_for()
    side, last = review.page.locator(".side").bounding_box(), near.nth(5).bounding_box()
    assert last["y"] + last["height"] <= side["y"] + side["height"]


def test_undo_reverts_decisions_and_skips(review: Review) -> None:
    choose(review, "suspect-label")
    first = review.page.evaluate("current().row")
    review.press("k", "s", "d")
    assert [row.action for row in review.rows()] == ["keep", "drop"]
    third = review.page.evaluate("queue[2].row")
    review.press("u")
    assert [row.action for row in review.rows()] == ["keep"]
    assert review.page.evaluate("current().row") == third
    review.press("u", "u")
    assert review.rows() == ()
    assert review.page.evaluate("current().row") == first
    review.press("u")
    review.rows()
    assert review.page.inner_text("#status") == "Nothing to undo."


def test_another_label_is_found_by_its_first_letters(review: Review) -> None:
    choose(review, "suspect-label")
    own, suggested = review.page.evaluate("[current().label, current().suggested]")
    other = next(label for label in ("bird", "fish", "rabbit", "spider") if label not in (own, suggested))
    review.press("r")
    assert review.page.locator("#options li").first.inner_text().startswith(suggested)
    assert own not in review.page.locator("#options .class-name").all_inner_texts()
    review.page.keyboard.type(other[:3])
    review.press("Enter")
    review.press("r", "ArrowDown", "Escape")
    assert [(row.action, row.label) for row in review.rows()] == [("relabel", other)]


def test_a_new_label_can_be_typed(review: Review) -> None:
    choose(review, "suspect-label")
    review.press("r")
    review.page.keyboard.type("otter")
    assert review.page.locator("#options li").all_inner_texts()[-1].split() == ["otter", "new", "label"]
    review.press("Enter")
    review.page.wait_for_function("!document.querySelector('#labels').open")
    review.press("b")
    first, second = review.rows()
    assert (first.action, first.label, second.action) == ("relabel", "otter", "both")


def test_all_of_a_pair_are_decided_after_a_confirmation_and_undone(review: Review) -> None:
    choose(review, "suspect-label")
    alike = review.page.evaluate("bulkItems().map((item) => item.row)")
    assert len(alike) > 1
    review.press("a")
    assert f"{len(alike)} undecided pictures" in review.page.inner_text("#bulk-text")
    review.page.click('[data-bulk=""]')
    assert review.rows() == ()
    review.press("a")
    suggested = review.page.evaluate("current().suggested")
    review.page.click('[data-bulk="relabel"]')
    assert {(row.action, row.label) for row in review.rows()} == {("relabel", suggested)}
    assert len(review.rows()) == len(alike)
    review.press("u")
    assert review.rows() == ()


def test_a_note_is_saved_with_the_decision_and_typing_it_triggers_no_shortcut(review: Review) -> None:
    review.press("n")
    review.page.keyboard.type("dark, skip?")
    review.press("Enter", "k")
    assert [row.note for row in review.rows()] == ["anna: dark, skip?"]
    review.press("ArrowLeft")
    assert review.page.inner_text("#decision") == "Kept: “dark, skip?”."
    assert review.page.input_value("#note") == ""


def test_a_decision_survives_a_reload_and_the_token_is_not_in_the_address(review: Review) -> None:
    first = review.picture()
    review.press("d")
    review.rows()
    assert "#" not in review.page.url
    review.page.reload()
    assert review.picture() != first
    assert review.page.inner_text("#count").startswith("1 of ")


def test_the_end_shows_the_tally_and_the_next_commands(review: Review, run: Path) -> None:
    choose(review, "outlier")
    review.press("d")
    assert review.page.inner_text("#title-end") == "This check is complete."
    assert review.page.inner_text("#tally") == "0 kept, 0 relabelled, 1 dropped."
    train, compare = review.page.inner_text("#train"), review.page.inner_text("#compare")
    assert train.startswith("bestiary train ")
    assert train.endswith(f"--corrections {review.file}")
    assert compare == f"bestiary compare {run} runs/latest --labels-of runs/latest"
    review.page.click("#again")
    assert review.page.input_value("#check") == ""
    assert review.page.is_visible("#item")


def test_pictures_and_neighbours_are_loaded(review: Review) -> None:
    review.page.wait_for_function("() => document.querySelectorAll('#neighbours img').length === 6", timeout=60_000)
    widths = "() => [...document.querySelectorAll('#neighbours img, #large')].every((image) => image.naturalWidth > 0)"
    review.page.wait_for_function(widths)
    ready = "pictures.has(`${queue[next(position)].row}/large`)"
    assert review.page.evaluate(ready), "the next picture is not preloaded"


@pytest.mark.parametrize(
    "review",
    [{}, {"color_scheme": "dark"}, PHONE],
    ids=["light", "dark", "phone"],
    indirect=True,
)
def test_axe_finds_no_serious_violation_in_any_view(review: Review) -> None:
    review.page.wait_for_function("() => document.querySelectorAll('#neighbours img').length === 6", timeout=60_000)
    assert serious_violations(review.page) == []
    review.press("r")
    assert serious_violations(review.page) == []
    review.press("Escape", "?")
    assert serious_violations(review.page) == []
    review.press("Escape")
    choose(review, "outlier")
    review.press("k")
    assert serious_violations(review.page) == []


@pytest.mark.parametrize("review", [PHONE], ids=["phone"], indirect=True)
def test_it_works_by_touch_on_a_narrow_screen(review: Review) -> None:
    assert review.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    choose(review, "suspect-label")
    buttons = [
        review.page.locator(f"[data-action={name}]")
        for name in ("keep", "relabel", "drop", "both", "bulk", "skip", "undo")
    ]
    for button in buttons:
        box = button.bounding_box()
        assert box["height"] >= 44
        assert box["y"] + box["height"] <= 844
    tap(buttons[0])
    tap(buttons[1])
    tap(review.page.locator("#options li").first)
    assert [row.action for row in review.rows()] == ["keep", "relabel"]
