"""Without torch or Ray, the modules that are built on them are not collected for their docstring examples."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

SOURCE = Path(__file__).parent / "src"
IMPORT = re.compile(r"^(?:from|import) ([\w.]+)", re.MULTILINE)


OPTIONAL = ("torch", "ray")


@functools.cache
def dependent_modules(library: str) -> frozenset[Path]:
    """Return the modules that import a library as they are imported, themselves or through each other."""
    imports = {path: set(IMPORT.findall(path.read_text(encoding="utf-8"))) for path in SOURCE.rglob("*.py")}
    names = {path: ".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in imports}
    needed, results = {library}, set[Path]()
    while new := {path for path, modules in imports.items() if modules & needed} - results:
        results |= new
        needed |= {names[path] for path in new}
    return frozenset(results)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Return True for a module of the package that needs a library which is not there."""
    missing = [library for library in OPTIONAL if importlib.util.find_spec(library) is None]
    return any(collection_path in dependent_modules(library) for library in missing) or None
