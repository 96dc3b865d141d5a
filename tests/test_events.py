"""Progress as events, and where it is shown by default."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from bestiary.errors import InputError
from bestiary.events import Event, EventReporter, choose_reporter
from bestiary.progress import NotebookReporter, RichReporter, SilentReporter
from listening import Listening


def test_a_task_begins_at_zero_and_ends_with_done_equal_to_total() -> None:
    events: list[Event] = []
    reporter = EventReporter(events.append, SilentReporter())
    reporter.info("before")
    with reporter.progress("Reading", 5) as advance:
        advance(2)
        reporter.info("within")
        advance(2)
    assert events == [
        Event("", 0, None, "before"),
        Event("Reading", 0, 5),
        Event("Reading", 2, 5),
        Event("Reading", 2, 5, "within"),
        Event("Reading", 4, 5),
        Event("Reading", 4, 4),
    ]


def test_a_task_within_another_has_its_own_events() -> None:
    events: list[Event] = []
    reporter = EventReporter(events.append, SilentReporter())
    with reporter.progress("outer", 1) as outer:
        with reporter.progress("inner", None) as inner:
            inner(3)
        reporter.info("after")
        outer(1)
    assert [(event.stage, event.done, event.total, event.message) for event in events] == [
        ("outer", 0, 1, ""),
        ("inner", 0, None, ""),
        ("inner", 3, None, ""),
        ("inner", 3, 3, ""),
        ("outer", 0, 1, "after"),
        ("outer", 1, 1, ""),
    ]


def test_what_the_function_raises_ends_the_job_without_a_last_event() -> None:
    events: list[Event] = []

    def stop(event: Event) -> None:
        events.append(event)
        if event.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), EventReporter(stop, SilentReporter()).progress("Reading", 5) as advance:
        advance(1)
    assert events == [Event("Reading", 0, 5), Event("Reading", 1, 5)]


def test_events_are_also_shown() -> None:
    shown = Listening()
    reporter = choose_reporter(on_event=lambda event: None, reporter=shown)
    reporter.info("a notice")
    assert shown.said == ["a notice"]


def test_progress_is_shown_on_a_terminal_and_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(choose_reporter(), SilentReporter)
    notebook = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    assert isinstance(choose_reporter(), NotebookReporter)
    assert isinstance(choose_reporter(quiet=True), SilentReporter)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace()))
    assert isinstance(choose_reporter(), SilentReporter)  # IPython in a terminal whose stderr goes elsewhere
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(choose_reporter(), RichReporter)
    assert isinstance(choose_reporter(quiet=True), SilentReporter)


def test_a_reporter_cannot_be_quiet() -> None:
    with pytest.raises(InputError, match="quiet=True shows nothing"):
        choose_reporter(quiet=True, reporter=SilentReporter())
