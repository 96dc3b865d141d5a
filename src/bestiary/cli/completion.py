"""Values that the shell completes: runs of this folder, and names of settings; `--install-completion` sets it up."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

RUNS = Path("runs")
MAX_LETTERS = 60  # of a text beside a completed word
CLAUSE_END = re.compile(r"[.:;] | \(|\[|\.$")


def complete_run(incomplete: str) -> list[str]:
    """Return the runs in `runs/` that begin so, `runs/latest` first; any other folder is completed by the shell."""
    if not RUNS.is_dir():
        return []
    names = sorted(path.name for path in RUNS.iterdir() if path.is_dir() and not path.name.startswith("."))
    names.sort(key=lambda name: name != "latest")
    return [path for path in (f"{RUNS}/{name}" for name in names) if path.startswith(incomplete)]


def complete_setting(incomplete: str) -> list[tuple[str, str]]:
    """Return the settings whose names begin so, with their meaning."""
    from bestiary.settings_reference import list_settings

    listed = [setting for setting in list_settings() if setting.name.startswith(incomplete)]
    return [(setting.name, shorten_help(setting.meaning)) for setting in listed]


def shorten_help(text: str) -> str:
    """Return the first clause of a help text, on one line: typer's scripts take a second line for another word.

    >>> shorten_help("lite0, lite1, timm:NAME (weights: --set model.weights=FILE), or FILE.onnx for a probe.")
    'lite0, lite1, timm:NAME'
    """
    return textwrap.shorten(CLAUSE_END.split(text, maxsplit=1)[0], MAX_LETTERS, placeholder="…")
