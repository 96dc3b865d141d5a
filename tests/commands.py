"""Commands that run in the process of the test: the fixture `bestiary` in conftest.py."""

from collections.abc import Callable
from typing import NamedTuple


class Done(NamedTuple):
    """What a command left: exit code, stdout and stderr."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]
