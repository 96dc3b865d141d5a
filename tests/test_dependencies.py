"""What the project asks of other packages: ranges and locks that agree, and nothing that their next versions remove."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import bestiary

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
LOCKS: dict[str, list[str]] = {
    "requirements.lock": [],
    "requirements-train.lock": ["train", "tune"],
    "requirements-cluster.lock": ["cluster"],
}
MODULES = {
    path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(Path(bestiary.__file__).parent.rglob("*.py"))
}


def environment(python: str, machine: str) -> dict[str, str]:
    system = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "extra": ""}
    return system | {"python_version": python, "python_full_version": f"{python}.1", "platform_machine": machine}


def requirements(extras: list[str], python: str, machine: str) -> Iterator[Requirement]:
    """Yield the requirements of the base install and of extras that hold there."""
    for line in [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]:
        requirement = Requirement(line)
        if requirement.name == "bestiary":
            yield from requirements(sorted(requirement.extras), python, machine)
        elif requirement.marker is None or requirement.marker.evaluate(environment(python, machine)):
            yield requirement


def locked_versions(name: str, python: str, machine: str) -> dict[str, str]:
    """Return the version of each package that a lock installs there; fails if a package has two."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    used = [line for line in pinned if line.marker is None or line.marker.evaluate(environment(python, machine))]
    assert max(Counter(canonicalize_name(line.name) for line in used).values()) == 1
    assert all(re.fullmatch(r"==[^,*]+", str(line.specifier)) for line in used)
    return {canonicalize_name(line.name): str(line.specifier).removeprefix("==") for line in used}


def called_methods(tree: ast.AST, *names: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names:
            yield node


def keywords(call: ast.Call) -> set[str | None]:
    return {keyword.arg for keyword in call.keywords}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_satisfies_the_ranges_of_the_project(name: str, python: str, machine: str) -> None:
    versions = locked_versions(name, python, machine)
    asked = list(requirements(LOCKS[name], python, machine))
    assert len(asked) >= len(PROJECT["dependencies"])
    wrong = [
        str(line) for line in asked if not line.specifier.contains(versions.get(canonicalize_name(line.name), "0"))
    ]
    assert wrong == []


def test_the_scripts_that_try_versions_take_every_extra_that_tests_need() -> None:
    needed = {"all", "dev", "docs"}
    for name in ("test-floors", "test-newest"):
        (extras,) = re.findall(r"EXTRAS:-([\w,]+)", (ROOT / "scripts" / name).read_text(encoding="utf-8"))
        assert set(extras.split(",")) == needed
    installed = {line for extra in needed for line in EXTRAS[extra]}
    left = {"mlflow", "quality"}  # some forty packages, and the tools of scripts that are not run with the tests
    named = {extra for line in installed for extra in Requirement(line).extras if "bestiary" in line}
    assert set(EXTRAS) - named - needed - {"heif"} == left


def test_every_lock_is_written_by_the_script() -> None:
    text = (ROOT / "scripts" / "lock").read_text(encoding="utf-8")
    written = {
        name: re.findall(r"--extra (\w+)", extras) for name, extras in re.findall(r"^lock (\S+\.lock)(.*)$", text, re.M)
    }
    assert written == LOCKS
    assert {path.name for path in ROOT.glob("requirements*.lock")} == set(LOCKS)


def test_a_lock_names_no_package_index() -> None:
    for name in LOCKS:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "http" not in text.replace("httptools", "").replace("httpx", "")
        assert "index" not in text


def test_the_image_installs_the_lock() -> None:
    recipe = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "pip install --no-cache-dir -r requirements.lock" in recipe
    assert "pip install --no-cache-dir --no-deps ." in recipe
    assert "!requirements.lock" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


def test_dependencies_have_a_floor_and_no_pin() -> None:
    """A pin would decide for whoever installs bestiary beside something else; these two have a ceiling."""
    ceilings = {"tomli-w", "playwright"}
    lines = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    for requirement in map(Requirement, lines):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators == ({">=", "<"} if requirement.name in ceilings else {">="}) or requirement.name == "bestiary"


def test_strangers_pictures_are_not_read_by_decoders_with_known_overflows() -> None:
    (pillow,) = [line for line in map(Requirement, PROJECT["dependencies"]) if line.name == "Pillow"]
    assert not pillow.specifier.contains("12.3.0")


def test_the_classifiers_name_the_tested_versions_of_python() -> None:
    listed = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert listed == PYTHONS
    assert "Python 3.11 to 3.14" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_joins_name_the_order_of_their_rows() -> None:
    """Polars promises none unless it is asked to, and its streaming engine keeps none."""
    joins = [(path.name, call) for path, tree in MODULES.items() for call in called_methods(tree, "join")]
    tables = [(name, call) for name, call in joins if keywords(call) & {"on", "left_on", "how"}]
    assert len(tables) > 20
    assert [f"{name}:{call.lineno}" for name, call in tables if "maintain_order" not in keywords(call)] == []


def test_groups_are_kept_in_order_or_sorted() -> None:
    for path, tree in MODULES.items():
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            loose = [call for call in called_methods(function, "group_by") if "maintain_order" not in keywords(call)]
            sorted_later = any(called_methods(function, "sort", "item"))
            assert not loose or sorted_later, f"{path.name}: {function.name}"


def test_no_lazy_query_is_collected() -> None:
    """Polars 2 streams them. Files are written by a sink, whose order is spelled out."""
    assert not [path.name for path, tree in MODULES.items() if any(called_methods(tree, "collect", "lazy"))]
    sinks = [call for tree in MODULES.values() for call in called_methods(tree, "sink_parquet")]
    assert sinks
    assert all("maintain_order" in keywords(call) for call in sinks)


def test_no_argument_that_scikit_learn_removes() -> None:
    models = [
        node
        for tree in MODULES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "LogisticRegression"
    ]
    assert models
    assert not [call.lineno for call in models if keywords(call) & {"penalty", "n_jobs", "multi_class"}]


def test_nothing_is_written_in_torchscript() -> None:
    """Deprecated since torch 2.10; its exporter is the one that `dynamo=False` asks for."""
    for path, tree in MODULES.items():
        names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not {name for name in names if name.startswith("torch.jit")}, path.name
        exports = [call for call in called_methods(tree, "export") if ast.unparse(call.func) == "torch.onnx.export"]
        for call in exports:
            assert any(keyword.arg == "dynamo" and ast.unparse(keyword.value) == "True" for keyword in call.keywords)
