"""Values that the shell completes: runs, settings with their values, recipes, names; `--install-completion` sets it up.

A completion is a word, or a word and a short help text, which zsh and fish show beside it.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bestiary.settings_reference import Setting

RUNS = Path("runs")
MAX_LETTERS = 60  # of a text beside a completed word
CLAUSE_END = re.compile(r"[.:;] | \(|\[|\.$")
WORDS, INDEX = "COMP_WORDS", "COMP_CWORD"  # of bash: the words, a line each, and the index of the word to complete


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


def complete_override(incomplete: str) -> list[tuple[str, str]]:
    """Return the words of `--set` that begin so: `section.key=`, and for a single setting its values as well.

    The values are those of a choice, or else the defaults. With two words or more, bash adds no space after "=".
    """
    from bestiary.settings_reference import list_settings

    name, equals, _ = incomplete.partition("=")
    if equals:
        values = [word for setting in list_settings() if setting.name == name for word in _list_values(setting)]
        return [(word, meaning) for word, meaning in values if word.startswith(incomplete)]
    listed = [setting for setting in list_settings() if setting.name.startswith(name)]
    words = [(f"{setting.name}=", shorten_help(setting.meaning)) for setting in listed]
    return [*words, *_list_values(listed[0])] if len(listed) == 1 else words


def complete_search(incomplete: str) -> list[tuple[str, str]]:
    """Return the words of `--search` that begin so: `section.key=`; the range or the list is the user's."""
    return [(f"{name}=", meaning) for name, meaning in complete_setting(incomplete)]


def complete_recipe(incomplete: str) -> list[str]:
    """Return the built-in recipes and the TOML files of this folder that begin so."""
    from bestiary.recipe_files import builtin_recipes

    names = [*builtin_recipes(), *sorted(path.name for path in Path().glob("*.toml"))]
    return [name for name in names if name.startswith(incomplete)]


def complete_backbone(incomplete: str) -> list[str]:
    """Return the bundled backbones that begin so; a file is completed by the shell."""
    from bestiary.recipe_sections import BACKBONE_SIZES

    return [name for name in BACKBONE_SIZES if name.startswith(incomplete)]


def complete_format(incomplete: str) -> list[str]:
    """Return the formats of labels that begin so."""
    from bestiary.data.formats.registry import FORMATS

    return sorted(form.name for form in FORMATS if form.name.startswith(incomplete))


def complete_words(*words: str) -> Callable[[str], list[str]]:
    """Return a function that completes one of the words.

    >>> complete_words("folder", "none")("f")
    ['folder']
    """

    def complete_word(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete_word


def complete_in_bash(program: Callable[[], object]) -> None:
    """Run the completion of a program for bash, which breaks words at "=": join them first, and cut what it has.

    So `--set train.schedule=c` and `--method=p` are read as typed. program: writes a completion a line.
    """
    start = join_bash_words(os.environ)
    with io.StringIO() as lines:
        try:
            with contextlib.redirect_stdout(lines):
                program()
        finally:
            sys.stdout.writelines(cut_start(line, start) for line in lines.getvalue().splitlines(keepends=True))


def join_bash_words(environment: MutableMapping[str, str]) -> str:
    """Join the words that bash broke at "=", and return the part of the last one that is not replaced.

    >>> broken = {"COMP_WORDS": "bestiary\\ntrain\\n--set\\ntrain.schedule\\n=\\nc", "COMP_CWORD": "5"}
    >>> join_bash_words(broken), broken["COMP_WORDS"].split(), broken["COMP_CWORD"]
    ('train.schedule=', ['bestiary', 'train', '--set', 'train.schedule=c'], '3')
    """
    words = environment.get(WORDS, "").split("\n")[: int(environment.get(INDEX, "0")) + 1]
    joined: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if joined and "=" in (before, word):
            joined[-1] += word
        else:
            joined.append(word)
    environment.update({WORDS: "\n".join(joined), INDEX: str(len(joined) - 1)})
    is_broken = "=" in words[-2:]
    return "".join(joined[-1].rpartition("=")[:2]) if is_broken else ""


def cut_start(completion: str, start: str) -> str:
    """Return a completion without the beginning that bash keeps.

    >>> cut_start("train.schedule=cosine", "--set=train.schedule="), cut_start("train.schedule=", "--set=")
    ('cosine', 'train.schedule=')
    """
    head, equals, tail = completion.rpartition("=")
    return tail if equals and start.endswith(head + equals) else completion


def _list_values(setting: Setting) -> list[tuple[str, str]]:
    """Return `section.key=value` for the values of a choice, or else for the defaults, each with what it is."""
    from bestiary.settings_reference import setting_choices

    learners: dict[str, list[str]] = {}
    for learner, value in setting.defaults.items():
        if value is not None and not isinstance(value, list | dict):
            learners.setdefault(value if isinstance(value, str) else json.dumps(value), []).append(learner)
    meanings = {text: f"default of {', '.join(names)}" for text, names in learners.items()}
    if len(meanings) == 1:
        meanings = dict.fromkeys(meanings, "default")
    values: Iterable[str] = setting_choices().get(setting.name, ()) or meanings
    return [(f"{setting.name}={text}", meanings.get(text, "")) for text in values]


def shorten_help(text: str) -> str:
    """Return the first clause of a help text, on one line: typer's scripts take a second line for another word.

    >>> shorten_help("lite0, lite1, timm:NAME (weights: --set model.weights=FILE), or FILE.onnx for a probe.")
    'lite0, lite1, timm:NAME'
    """
    return textwrap.shorten(CLAUSE_END.split(text, maxsplit=1)[0], MAX_LETTERS, placeholder="…")
