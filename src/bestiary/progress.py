"""Progress and notices on stderr: live bars on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

LINE_EVERY_SECONDS = 10.0

Advance = Callable[[int], None]


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
        """Write a line every ten seconds, and one at the end."""
        done, started, last = 0, time.monotonic(), time.monotonic()

        def advance(steps: int) -> None:
            nonlocal done, last
            done += steps
            now = time.monotonic()
            if now - last >= LINE_EVERY_SECONDS:
                last = now
                self.info(f"{title}: {_format_progress(done, total, now - started)}")

        yield advance
        self.info(f"{title}: {done:,} in {time.monotonic() - started:.1f} s")


def _format_progress(done: int, total: int | None, seconds: float) -> str:
    """Return the steps done, the rate, and the time left.

    >>> _format_progress(600, 1800, 30.0), _format_progress(2, 5, 14.0)
    ('600 of 1,800, 20 a second, 60 s left', '2 of 5, 7 s each, 21 s left')
    """
    each = seconds / max(done, 1)
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
        self.info(f"{title}: {done:,.0f} in {time.monotonic() - started:.1f} s")


def is_notebook() -> bool:
    """Return whether this runs in a notebook, whose output is stderr's but no terminal."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def make_interactive_reporter(*, quiet: bool) -> Reporter:
    """Return the reporter of the Python interface: bars on a terminal, lines in a notebook, nothing in a script."""
    if quiet or not (sys.stderr.isatty() or is_notebook()):
        return SilentReporter()
    return make_reporter(quiet=False)


def make_reporter(*, quiet: bool) -> Reporter:
    """Return the reporter for stderr: bars on a terminal, else lines."""
    if quiet:
        return SilentReporter()
    return RichReporter() if sys.stderr.isatty() else LogReporter()
