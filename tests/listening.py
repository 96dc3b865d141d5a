"""A reporter that keeps what it is told."""

from __future__ import annotations

from bestiary.progress import Silent


class Listening(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)
