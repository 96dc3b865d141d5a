"""Progress as events, for a caller's own display: `bestiary.train(pictures, on_event=print)`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bestiary.errors import InputError
from bestiary.progress import Advance, Reporter, make_interactive_reporter


@dataclass(frozen=True)
class Event:
    """One step of a job.

    stage: the title of the task at work, such as "Computing features"; empty outside one. done, total: its steps; total
    is None where their number is not known in advance. message: a notice for people, empty if the event is progress.
    A task begins with done 0 and, unless an error ends it, its last event has done equal to total.
    """

    stage: str
    done: int
    total: int | None
    message: str = ""


class EventReporter:
    """Passes all notices and progress to a function, and to another reporter.

    The function is called between two steps of the work, which waits for it; what it raises ends the job.
    """

    def __init__(self, on_event: Callable[[Event], object], reporter: Reporter) -> None:
        """Keep the function, and the reporter that shows the same."""
        self._on_event, self._reporter = on_event, reporter
        self._tasks: list[Event] = []  # that are open, the innermost last, as of their last event

    def info(self, text: str) -> None:
        """Pass on one notice, with the stage that it occurred in."""
        self._reporter.info(text)
        task = self._tasks[-1] if self._tasks else Event("", 0, None)
        self._on_event(Event(task.stage, task.done, task.total, text))

    @contextlib.contextmanager
    def progress(self, title: str, total: int | None) -> Iterator[Advance]:
        """Pass on the progress of a task."""
        depth = len(self._tasks)
        self._tasks.append(Event(title, 0, total))
        try:
            with self._reporter.progress(title, total) as show:
                self._on_event(self._tasks[depth])

                def advance(steps: int) -> None:
                    show(steps)
                    self._tasks[depth] = Event(title, self._tasks[depth].done + steps, total)
                    self._on_event(self._tasks[depth])

                yield advance
            last = self._tasks[depth]
            if last.total != last.done:
                self._on_event(Event(title, last.done, last.done))
        finally:
            del self._tasks[depth:]


def choose_reporter(
    *, quiet: bool = False, on_event: Callable[[Event], object] | None = None, reporter: Reporter | None = None
) -> Reporter:
    """Return the reporter of a call from Python.

    Progress is shown on a terminal and in a notebook, unless `quiet`; `reporter` shows it in place of that. `on_event`
    receives it as well, quiet or not. Raises InputError for a reporter that is to be quiet.
    """
    if reporter is not None and quiet:
        raise InputError("quiet=True shows nothing, but a reporter is passed to show it. Leave out one of the two.")
    display = reporter or make_interactive_reporter(quiet=quiet)
    return display if on_event is None else EventReporter(on_event, display)
