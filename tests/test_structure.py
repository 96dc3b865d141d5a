"""What the layout promises: names that can be searched for, short functions, few parameters, one home for caches."""

import ast
import runpy
import statistics
from collections.abc import Iterator
from pathlib import Path

import bestiary
from scheduling import FIRST_GROUPS, group_of_file

PACKAGE = Path(bestiary.__file__).parent
CHECK_NAMES = Path(__file__).parents[1] / "scripts" / "check_names.py"
MODULES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def test_names_are_the_words_of_the_field() -> None:
    assert runpy.run_path(str(CHECK_NAMES))["main"]() == 0


def test_the_check_of_names_finds_what_it_looks_for() -> None:
    check = runpy.run_path(str(CHECK_NAMES))
    source = "def told(one): pass\nclass KnownThing: pass\nfor found in []: pass\ndef read_rows(path): pass\n"
    refused = {
        name
        for _, name, is_function in check["iter_names"](ast.parse(source))
        if check["explain_refusal"](name, is_function)
    }
    assert refused == {"told", "one", "KnownThing", "found"}


def test_the_flow_reads_like_a_page() -> None:
    assert len((PACKAGE / "flow.py").read_text(encoding="utf-8").splitlines()) <= 160


def test_modules_are_short() -> None:
    assert not [path.name for path in MODULES if len(path.read_text(encoding="utf-8").splitlines()) > 350]


def test_functions_take_few_parameters() -> None:
    """Outside `cli/` and the Python interface, where each is an option, and what stands behind them.

    `bestiary.predict` is not in `api.py`, because it needs no table library.
    """
    many = [
        f"{path.relative_to(PACKAGE)}: {function.name}"
        for path, tree in MODULES.items()
        if path.parent.name != "cli" and path.name not in ("api.py", "api_predict.py", "api_search.py")
        for function in functions(tree)
        if parameters(function) > 8
    ]
    assert many == ["flow.py: train"]


def test_functions_are_short() -> None:
    lines = sorted(
        node.end_lineno - node.lineno + 1 for tree in MODULES.values() for node in functions(tree) if node.end_lineno
    )
    assert statistics.median(lines) <= 9
    assert lines[int(0.9 * len(lines))] <= 25


def test_the_cache_of_backbones_has_one_home() -> None:
    homes = [path.relative_to(PACKAGE).as_posix() for path in MODULES if '"trunks"' in path.read_text(encoding="utf-8")]
    assert homes == ["models/graph_cache.py"]


def test_files_that_begin_first_exist() -> None:
    groups = {group_of_file(path.name) for path in Path(__file__).parent.glob("test_*.py")}
    assert set(FIRST_GROUPS) <= groups
