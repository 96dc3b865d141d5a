"""A reporter that keeps what it is told."""

from __future__ import annotations

from bestiary.progress import SilentReporter


class Listening(SilentReporter):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def info(self, text: str) -> None:
        self.said.append(text)
