"""Where a run is: a path, or a result that knows its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class HasPath(Protocol):
    """A result with a folder, such as what `bestiary.train` returns."""

    @property
    def path(self) -> Path:
        """The folder."""


RunLocation = Path | str | HasPath


def locate_run(run: RunLocation) -> Path:
    """Return the folder of a run.

    >>> locate_run("runs/latest").name
    'latest'
    """
    return Path(run) if isinstance(run, str | Path) else run.path
