"""A reporter that records its messages."""

from __future__ import annotations

from bestiary.progress import SilentReporter


class Listening(SilentReporter):
    """Records the messages in `said`."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def info(self, text: str) -> None:
        self.said.append(text)
