"""Keeps Ray's own lines out of the outputs of a command; the files of Ray's session have them. Errors are raised."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


def print_node_messages(enabled: bool) -> None:
    """Let Ray print what nodes report, such as that one was lost, or keep it from it.

    `log_to_driver=False` leaves it: Ray 2.60 prints it on stdout, among the results of a command.
    """
    from ray._private import worker

    worker._worker_logs_enabled = enabled


@contextmanager
def quiet_core() -> Iterator[None]:
    """Keep the line on stderr by which Ray's core says which level of its log is set."""
    copy = os.dup(2)
    with open(os.devnull, "wb") as nothing:  # noqa: PTH123 - no path
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(copy, 2)
        os.close(copy)


@contextmanager
def quiet_data() -> Iterator[None]:
    """Keep Ray Data's progress, notices and warnings about its own future from stderr."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        from ray.data import DataContext

        context = DataContext.get_current().copy()
        context.enable_progress_bars, context.print_on_execution_start = False, False
        stack.enter_context(DataContext.current(context))
        stack.enter_context(_quiet_logger("ray.data"))
        yield


@contextmanager
def _quiet_logger(name: str) -> Iterator[None]:
    """Let a logger write to its files only."""
    handlers = [handler for handler in logging.getLogger(name).handlers if "file" not in type(handler).__name__.lower()]
    levels = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for handler, level in zip(handlers, levels, strict=True):
            handler.setLevel(level)
