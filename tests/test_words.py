"""Texts that users read have the field's words: none of the phrases that `docs/glossary.md` replaces."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import bestiary

PACKAGE = Path(bestiary.__file__).parent
ROOT = Path(__file__).parents[1]
PAGES = sorted(path for suffix in ("html", "js", "toml") for path in PACKAGE.rglob(f"*.{suffix}"))
NAMES_AND_HISTORY = ("glossary.md", "log.md")
DOCUMENTS = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").rglob("*.md")) if p.name not in NAMES_AND_HISTORY)]
REPLACED = re.compile(
    r"told apart|\bdealt\b|\banew\b|\blearnt\b|to learn from|to choose by|stood out|witness|\bdoubting\b"
    r"|parts? of (a|the) split|\btrainings\b|not sure|promised|flattered|torn apart|on (its|their) side"
    r"|(lies|lie|laid) (beside|on white)|animals? (is|was|in) the picture|\bfur\b|\bfeathers\b",
    re.IGNORECASE,
)


def iter_messages(module: Path) -> Iterator[str]:
    """Yield the texts in the code of a module, implicit concatenations joined, without docstrings."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = ""
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("module", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_messages_have_the_words_of_the_field(module: Path) -> None:
    assert [text for text in iter_messages(module) if REPLACED.search(text)] == []


@pytest.mark.parametrize("path", [*PAGES, *DOCUMENTS], ids=lambda path: path.name)
def test_pages_and_documents_have_the_words_of_the_field(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if REPLACED.search(line)] == []


def test_a_replaced_phrase_would_be_noticed(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""Dealt anew."""\nraise ValueError(f"{1} pictures are" " dealt anew")\n')
    found = [text for text in iter_messages(module) if REPLACED.search(text)]
    assert found == ["… pictures are dealt anew", " pictures are dealt anew"]  # whole, and its constant part
