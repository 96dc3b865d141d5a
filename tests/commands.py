"""Commands that run in the process of the test: the fixture `bestiary` in conftest.py."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple


class Done(NamedTuple):
    """What a command left: exit code, stdout and stderr."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]


def expand_patterns(words: Iterable[str]) -> list[str]:
    """Return words of a command line with each pattern, such as `new/*.jpg`, replaced by its files, as a shell does.

    A pattern without files stays as it is.
    """
    return [name for word in words for name in (_expand(word) if "*" in word else [word])]


def _expand(pattern: str) -> list[str]:
    return sorted(map(str, Path().glob(pattern))) or [pattern]
