"""Messages from the workers of a cluster to this process: notices, progress, epochs, and the error that ends the work.

Workers send them to a `Mailbox`, an actor beside this process, whose messages `Relay` hands to the reporter here.
What a worker raises arrives as it was: a message for the user stays one, a bug keeps its traceback.
"""

from __future__ import annotations

import contextlib
import pickle
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bestiary.cluster.connection import import_ray
from bestiary.errors import BestiaryError
from bestiary.progress import Advance, Reporter

SEND_EVERY_SECONDS = 0.3  # of the steps of a progress bar

Message = tuple[str, Any]


class WorkerStoppedError(Exception):
    """The process that began the work has asked its workers to stop."""


class RemoteTracebackError(Exception):
    """The traceback of a bug as the worker saw it, shown above the one here."""


@dataclass(frozen=True)
class WorkerFailure:
    """What a worker raised, with its traceback as text."""

    error: Exception
    text: str

    @classmethod
    def of(cls, error: Exception) -> WorkerFailure:
        """Return the failure; an error that cannot be sent becomes a RuntimeError with its text."""
        text = "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return cls(error, text)

    def reraise(self) -> None:
        """Raise the error in this process."""
        cause = None if isinstance(self.error, BestiaryError) else RemoteTracebackError(f"\n{self.text}")
        raise self.error from cause


class Mailbox:
    """The actor that holds messages until they are taken, and says whether the workers should stop."""

    def __init__(self) -> None:
        """Begin empty."""
        self._messages: list[Message] = []
        self._failure: WorkerFailure | None = None
        self._is_stopped, self._left = False, 0

    def put(self, messages: list[Message]) -> bool:
        """Add messages; return whether the sender should go on."""
        self._messages += messages
        return not self._is_stopped

    def fail(self, failure: WorkerFailure) -> None:
        """Note what a worker raised; the first failure counts, later ones follow from it."""
        self._failure = self._failure or failure

    def stop(self) -> None:
        """Let the workers stop."""
        self._is_stopped = True

    def is_ended(self) -> bool:
        """Return whether the workers have nothing more to do, because one failed or all should stop."""
        return self._is_stopped or self._failure is not None

    def leave(self) -> None:
        """Note that a worker has ended."""
        self._left += 1

    def n_left(self) -> int:
        """Return how many workers have ended."""
        return self._left

    def take(self) -> list[Message]:
        """Return and remove the messages."""
        taken, self._messages = self._messages, []
        return taken

    def failure(self) -> WorkerFailure | None:
        """Return what a worker raised."""
        return self._failure


def start_actor(actor: type[Any], **options: Any) -> Any:
    """Start an actor on the node of this process, where it ends with it, and return its handle."""
    ray = import_ray()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(actor).options(num_cpus=0, scheduling_strategy=node, **options).remote()


class MailReporter:
    """A reporter in a worker, whose notices and progress appear where the work was begun."""

    def __init__(self, mailbox: Any) -> None:
        """Send to the handle of a Mailbox."""
        self._mailbox, self._tasks = mailbox, 0

    def send(self, *messages: Message) -> None:
        """Send messages; raises WorkerStoppedError if the work should stop."""
        if not import_ray().get(self._mailbox.put.remote(list(messages))):
            raise WorkerStoppedError

    def info(self, text: str) -> None:
        """Send a notice."""
        self.send(("info", text))

    def log_epoch(self, record: Mapping[str, Any]) -> None:
        """Send a line of history.jsonl, for the experiment log."""
        self.send(("epoch", dict(record)))

    @contextlib.contextmanager
    def progress(self, title: str, total: int | None) -> Iterator[Advance]:
        """Send the steps of a task every moment."""
        self._tasks += 1
        number, done, sent = self._tasks, 0, time.monotonic()
        self.send(("open", (number, title, total)))

        def advance(steps: int) -> None:
            nonlocal done, sent
            done += steps
            if time.monotonic() - sent >= SEND_EVERY_SECONDS:
                self.send(("advance", (number, done)))
                done, sent = 0, time.monotonic()

        yield advance
        self.send(("advance", (number, done)), ("close", number))


class Relay:
    """Hands the messages of a mailbox to a reporter."""

    def __init__(self, mailbox: Any, reporter: Reporter, on_message: Mapping[str, Callable[[Any], None]]) -> None:
        """Read from the handle of a Mailbox. on_message: what to do with other kinds of messages."""
        self._mailbox, self._reporter, self._on_message = mailbox, reporter, on_message
        self._tasks: dict[int, tuple[contextlib.ExitStack, Advance]] = {}

    def pump(self) -> None:
        """Handle the messages that have arrived."""
        for kind, content in import_ray().get(self._mailbox.take.remote()):
            if kind == "info":
                self._reporter.info(content)
            elif kind == "open":
                number, title, total = content
                stack = contextlib.ExitStack()
                self._tasks[number] = stack, stack.enter_context(self._reporter.progress(title, total))
            elif kind == "advance":
                number, steps = content
                self._tasks[number][1](steps)
            elif kind == "close":
                self._tasks.pop(content)[0].close()
            else:
                self._on_message[kind](content)

    def close(self) -> None:
        """Close the tasks that a lost worker left open."""
        for number in list(self._tasks):
            self._tasks.pop(number)[0].close()
