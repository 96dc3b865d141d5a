"""The interface of an experiment log: where the epochs and the test scores of a run are recorded beside its folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, get_args

LogKind = Literal["tensorboard", "mlflow"]
LOG_KINDS: tuple[str, ...] = get_args(LogKind)


class ExperimentLog(Protocol):
    """Receives what a run records."""

    def log_epoch(self, record: Mapping[str, Any]) -> None:
        """Log an epoch, as in history.jsonl."""

    def log_test(self, metrics: Mapping[str, Any]) -> None:
        """Log the test scores, as in metrics.json."""


class NoLog:
    """Logs nothing: the default."""

    def log_epoch(self, record: Mapping[str, Any]) -> None:
        """Log nothing."""

    def log_test(self, metrics: Mapping[str, Any]) -> None:
        """Log nothing."""
