"""Progress and notices: live bars on a terminal (stderr) and in a notebook, lines elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

UPDATE_EVERY_SECONDS = 0.2  # of a bar in a notebook
LINE_EVERY_SECONDS, FREQUENT_LINES = 10.0, 3  # of a task; then every third of these lines is written

# Beginnings of titles whose steps are no pictures: their number would be taken for a result, such as 118 duplicates.
UNCOUNTED = (
    "Searching for duplicates",
    "Checking for shortcuts",
    "Checking labels",
    "Estimating the time",
    "Fitting the head",
    "Learning curve",
    "Computing metrics",
    "Writing the report",
)

Advance = Callable[[int], None]


Item = TypeVar("Item")


def ignore_steps(steps: int) -> None:
    """Report no progress: the default of functions that may be called without a reporter."""


def iter_counted(items: Iterable[Item], advance: Advance) -> Iterator[Item]:
    """Yield the items, and report a step for each."""
    for item in items:
        advance(1)
        yield item


class Reporter(Protocol):
    """Receives notices and progress. Results are returned, never reported here."""

    def info(self, text: str) -> None:
        """Show one notice."""

    def progress(self, title: str, total: int | None) -> contextlib.AbstractContextManager[Advance]:
        """Open a task of `total` steps (None: unknown); call the function it gives with the number of steps done."""


class SilentReporter:
    """Shows nothing: the default of the library."""

    def info(self, text: str) -> None:
        """Show nothing."""

    @contextlib.contextmanager
    def progress(self, title: str, total: int | None) -> Iterator[Advance]:
        """Show nothing."""
        yield lambda steps: None


class LogReporter:
    """Plain lines on stderr: for logs, pipes and CI."""

    def info(self, text: str) -> None:
        """Write the notice as one line."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    @contextlib.contextmanager
    def progress(self, title: str, total: int | None) -> Iterator[Advance]:
        """Write a line after ten, twenty and thirty seconds, then every thirty, and one at the end.

        A thread writes them, so that a step that takes longer is no silence.
        """
        done, started, lock, ended = 0, time.monotonic(), threading.Lock(), threading.Event()

        def advance(steps: int) -> None:
            nonlocal done
            with lock:
                done += steps

        def write_lines() -> None:
            for number in itertools.count(1):
                if ended.wait(LINE_EVERY_SECONDS):
                    return
                if number <= FREQUENT_LINES or number % FREQUENT_LINES == 0:
                    self.info(f"{title}: {_format_progress(done, total, time.monotonic() - started)}")

        writer = threading.Thread(target=write_lines, daemon=True, name="bestiary-progress")
        writer.start()
        try:
            yield advance
        finally:
            ended.set()
            writer.join()
        self.info(_format_end(title, done, time.monotonic() - started))


def _format_end(title: str, done: int, seconds: float) -> str:
    """Return the last line of a task: the number of its pictures, or "done".

    >>> _format_end("[1/4] Reading pictures", 1800, 9.0), _format_end("[3/4] Checking for shortcuts", 14, 2.0)
    ('[1/4] Reading pictures: 1,800 in 9.0 s', '[3/4] Checking for shortcuts: done in 2.0 s')
    """
    is_uncounted = title.rpartition("] ")[2].startswith(UNCOUNTED)
    return f"{title}: {'done' if is_uncounted else f'{done:,}'} in {seconds:.1f} s"


def _format_progress(done: int, total: int | None, seconds: float) -> str:
    """Return the steps done, the rate, and the time left.

    >>> _format_progress(600, 1800, 30.0), _format_progress(2, 5, 14.0)
    ('600 of 1,800, 20 a second, 60 s left', '2 of 5, 7 s each, 21 s left')
    >>> _format_progress(0, 5, 20.0), _format_progress(0, None, 20.0)
    ('0 of 5, 20 s so far', '20 s so far')
    """
    if not done:
        return f"{seconds:.0f} s so far" if total is None else f"0 of {total:,}, {seconds:.0f} s so far"
    each = seconds / done
    rate = f"{1 / each:,.{0 if each < 0.1 else 1}f} a second" if each < 1 else f"{each:.0f} s each"
    if total is None:
        return f"{done:,}, {rate}"
    left = (total - done) * each
    return f"{done:,} of {total:,}, {rate}, " + (f"{left:.0f} s left" if left < 600 else f"{left / 60:.0f} min left")


class RichReporter:
    """Live bars with rate and time left, drawn by Rich on stderr."""

    def __init__(self) -> None:
        """Bind to stderr."""
        from rich.console import Console

        self._console = Console(stderr=True)

    def info(self, text: str) -> None:
        """Print the notice above any live bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, title: str, total: int | None) -> Iterator[Advance]:
        """Draw a live bar, then write one line."""
        from rich import progress

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TaskProgressColumn(show_speed=True),
            progress.TimeRemainingColumn(),
        )
        started = time.monotonic()
        with progress.Progress(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(title, total=total)
            yield lambda steps: bars.advance(task, steps)
            done = bars.tasks[task].completed
        self.info(_format_end(title, int(done), time.monotonic() - started))


class NotebookReporter:
    """A bar for each task in the output of a notebook's cell, updated in its own line; notices as lines of text."""

    def info(self, text: str) -> None:
        """Show the notice as a line."""
        from IPython.display import display

        display({"text/plain": text}, raw=True)

    @contextlib.contextmanager
    def progress(self, title: str, total: int | None) -> Iterator[Advance]:
        """Show a bar with rate and time left, which the last line of the task replaces."""
        from IPython.display import display

        started = updated = time.monotonic()
        done, lock = 0, threading.Lock()
        handle = display(_format_bar(title, 0, total, 0.0), raw=True, display_id=True)

        def advance(steps: int) -> None:
            nonlocal done, updated
            with lock:
                done, now = done + steps, time.monotonic()
                is_due = now - updated >= UPDATE_EVERY_SECONDS
                updated = now if is_due else updated
            if is_due:
                handle.update(_format_bar(title, done, total, now - started), raw=True)

        yield advance
        handle.update({"text/plain": _format_end(title, done, time.monotonic() - started)}, raw=True)


def _format_bar(title: str, done: int, total: int | None, seconds: float) -> dict[str, str]:
    """Return a bar as text, and as HTML in the colours of the notebook.

    >>> _format_bar("Reading <pictures>", 600, 1800, 30.0)["text/html"]
    '<progress value="600" max="1800"></progress> Reading &lt;pictures&gt;: 600 of 1,800, 20 a second, 60 s left'
    """
    from html import escape

    text = f"{title}: {_format_progress(done, total, seconds)}"
    value = f' value="{done}" max="{max(total, done, 1)}"' if total is not None else ""
    return {"text/plain": text, "text/html": f"<progress{value}></progress> {escape(text)}"}


def is_notebook() -> bool:
    """Return whether this runs in a notebook, whose output is stderr's but no terminal."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def make_interactive_reporter(*, quiet: bool) -> Reporter:
    """Return the reporter of the Python interface: bars on a terminal and in a notebook, nothing in a script."""
    if not quiet and is_notebook():
        return NotebookReporter()
    return make_reporter(quiet=quiet or not sys.stderr.isatty())


def make_reporter(*, quiet: bool) -> Reporter:
    """Return the reporter for stderr: bars on a terminal, else lines."""
    if quiet:
        return SilentReporter()
    return RichReporter() if sys.stderr.isatty() else LogReporter()
