#!/usr/bin/env python3
"""Refuses names in src/ that a search for the field's words does not find (see CONTRIBUTING.md, "Names").

A function is named by a verb, a predicate or a quantity, never by a past participle; the words below are no names.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"
WORDS = set("found told said given made kept known here place one other right sure asked shown ground standing share".split())
PARTICIPLES = WORDS - {"here", "place", "one", "other", "right", "sure", "ground", "standing", "share"}
PARTICIPLES |= set("held left taken begun done drawn learnt sent spoken split_up thought understood written".split())
NO_PARTICIPLES = {"embed", "exceed", "feed", "need", "proceed", "read", "seed", "speed", "shed", "spread", "succeed"}
# Names that are public: fields of files, of HTTP bodies and of the Python interface, and the arguments of protocols.
ALLOWED = {"other": {"__eq__", "__lt__", "__or__", "__and__", "__add__"}}


def defined_names(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Yield line, name and kind ("function" or "name") of everything that a module defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name, "function"
            arguments = node.args
            for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
                if argument is not None and node.name not in ALLOWED.get(argument.arg, ()):
                    yield argument.lineno, argument.arg, "name"
        elif isinstance(node, ast.ClassDef):
            yield node.lineno, node.name, "name"
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id, "name"
        elif isinstance(node, ast.Lambda):
            yield from ((argument.lineno, argument.arg, "name") for argument in node.args.args)


def words_of(name: str) -> list[str]:
    """Return the words of an identifier, in lower case.

    >>> words_of("at_most"), words_of("KnownDataset")
    (['at', 'most'], ['known', 'dataset'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def why_refused(name: str, kind: str) -> str | None:
    """Return what is wrong with a name, or None."""
    words = words_of(name)
    if refused := sorted(WORDS & set(words)) or (["at_most"] if "at_most" in name.lower() else []):
        return f'the word "{refused[0]}"'
    last = words[-1] if words else ""
    if kind == "function" and len(words) == 1 and (last in PARTICIPLES or (last.endswith("ed") and last not in NO_PARTICIPLES)):
        return "a past participle as the name of a function"
    return None


def main() -> int:
    """Print each refused name with its place; return 1 if there is one."""
    count = 0
    for path in sorted(SRC.rglob("*.py")):
        for line, name, kind in sorted(set(defined_names(ast.parse(path.read_text(encoding="utf-8"))))):
            if why := why_refused(name, kind):
                print(f"{path.relative_to(SRC.parent)}:{line}: {name}: {why}")
                count += 1
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
