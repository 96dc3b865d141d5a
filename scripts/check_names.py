#!/usr/bin/env python3
"""Refuses names in src/ that a search for the field's words does not find (see CONTRIBUTING.md, "Names").

A function is named by a verb, a predicate or a quantity, never by a past participle; some words name nothing.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"
PARTICIPLES = {"found", "told", "said", "given", "made", "kept", "known", "asked", "shown"}
VAGUE = {"here", "place", "one", "other", "right", "sure", "ground", "standing", "share"}
OTHER_PARTICIPLES = {
    "begun",
    "done",
    "drawn",
    "held",
    "learnt",
    "left",
    "sent",
    "spoken",
    "taken",
    "understood",
    "written",
}
NO_PARTICIPLES = {"embed", "exceed", "feed", "need", "proceed", "seed", "shed", "speed", "succeed"}
# Names that others decide (protocols of Python and of libraries), fields of files, and the public interface.
PUBLIC = {
    "recipe.py": {"asked", "resolved"},
    "study/runs.py": {"share"},
    "web/connection.py": {"connection_made"},
}


def iter_names(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
    """Yield line, name and whether it is a function's, of everything that a module defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name, True
            yield from ((*argument, False) for argument in iter_arguments(node.args))
        elif isinstance(node, ast.Lambda):
            yield from ((*argument, False) for argument in iter_arguments(node.args))
        elif isinstance(node, ast.ClassDef):
            yield node.lineno, node.name, False
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr, False


def iter_arguments(arguments: ast.arguments) -> Iterator[tuple[int, str]]:
    """Yield line and name of each argument."""
    several = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    yield from ((argument.lineno, argument.arg) for argument in several if argument is not None)


def split_words(name: str) -> list[str]:
    """Return the words of an identifier, in lower case.

    >>> split_words("at_most"), split_words("KnownDataset")
    (['at', 'most'], ['known', 'dataset'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def explain_refusal(name: str, is_function: bool) -> str | None:
    """Return what is wrong with a name, or None.

    >>> explain_refusal("found", False), explain_refusal("audited", True), explain_refusal("find_issues", True)
    ('the word "found"', 'a past participle as the name of a function', None)
    """
    words = split_words(name)
    if refused := [word for word in words if word in PARTICIPLES | VAGUE]:
        return f'the word "{refused[0]}"'
    if "at_most" in name.lower():
        return 'the words "at_most"'
    if is_function and len(words) == 1 and not name.startswith("__"):
        word = words[0]
        if word in OTHER_PARTICIPLES or (word.endswith("ed") and word not in NO_PARTICIPLES):
            return "a past participle as the name of a function"
    return None


def main() -> int:
    """Print each refused name with its file and line; return 1 if there is one."""
    refusals = 0
    for path in sorted(SRC.rglob("*.py")):
        for line, name, is_function in sorted(set(iter_names(ast.parse(path.read_text(encoding="utf-8"))))):
            if name in PUBLIC.get(path.relative_to(SRC / "bestiary").as_posix(), ()):
                continue
            if reason := explain_refusal(name, is_function):
                print(f"{path.relative_to(SRC.parent)}:{line}: {name}: {reason}")
                refusals += 1
    return int(refusals > 0)


if __name__ == "__main__":
    sys.exit(main())
