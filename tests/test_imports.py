"""The order of the rooms, and the promise that the main job needs no torch and a prediction hardly anything."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bestiary

PACKAGE = Path(bestiary.__file__).parent
BASE = {
    "array_types",
    "defaults",
    "errors",
    "files",
    "machine",
    "picture",
    "preprocess",
    "profiling",
    "progress",
    "quick_metrics",
    "recipe",
    "run_folder",
    "stats",
    "table",
    "text",
    "version",
}
FLOW = {"flow", "classifier"}
ORDER = [
    "base",
    "demo",
    "web",
    "batches",
    "data",
    "models",
    "training",
    "inference",
    "serve",
    "export",
    "evaluation",
    "report",
    "review",
    "study",
    "flow",
    "tune",
    "cli",
]
FRONT_DOORS = {"__init__", "__main__"}  # they hand on what others made
MODULES = sorted(path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
MAY_IMPORT_TORCH = {
    "batches/augmentation",
    "models/layers",
    "models/networks",
    "models/timm_backbone",
    "models/torch_export",
    "training/activation_cache",
    "training/checkpoint",
    "training/device",
    "training/finetune",
    "training/loop",
    "training/muon",
    "training/optimiser",
    "training/distributed",
}
TRAINING_ONLY = ["polars", "sklearn", "scipy", "joblib", "onnx", "cleanlab", "jinja2", "matplotlib", "torch"]


def room(module: str) -> str:
    return "base" if module in BASE else "flow" if module in FLOW else module


def imported(module: Path) -> Iterator[str]:
    """Every module imported anywhere in the file, in functions too; `from bestiary import x` is `bestiary.x`."""
    for node in ast.walk(ast.parse((PACKAGE / module).with_suffix(".py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            source = str(node.module)
            yield from (f"bestiary.{name.name}" for name in node.names) if source == "bestiary" else [source]


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts[0] not in FRONT_DOORS], ids=str)
def test_a_module_imports_only_from_its_own_room_or_an_earlier_one(module: Path) -> None:
    own = ORDER.index(room(module.parts[0]))
    for name in imported(module):
        top, _, rest = name.partition(".")
        if top == "bestiary" and rest and not rest.startswith("__"):
            other = room(rest.partition(".")[0])
            assert other in ORDER, f"{module} imports {name}, which belongs to no room"
            assert ORDER.index(other) <= own, f"{module} imports {name}, which comes after it"


def test_torch_is_imported_at_the_top_of_few_modules() -> None:
    found = set()
    for module in MODULES:
        tree = ast.parse((PACKAGE / module).with_suffix(".py").read_text(encoding="utf-8"))
        named = {n.name for node in tree.body if isinstance(node, ast.Import) for n in node.names}
        named |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
        if {name.partition(".")[0] for name in named} & {"torch", "torchvision", "timm"}:
            found.add(module.as_posix())
    assert found <= MAY_IMPORT_TORCH


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("bestiary.flow, bestiary.inference.predictor, bestiary.cli", ["torch", "torchvision", "timm"]),
        ("bestiary.inference.predictor, bestiary.cli, bestiary.inference.writers", TRAINING_ONLY),
        ("bestiary.serve.app, bestiary.inference.output_file, bestiary.inference.link_folders", TRAINING_ONLY),
        ("bestiary.data.measure", [*TRAINING_ONLY, "onnxruntime", "pydantic"]),  # what worker processes import
    ],
)
def test_what_is_not_needed_is_not_imported(modules: str, unwanted: list[str]) -> None:
    program = f"import sys, {modules}; print(*sorted(set({unwanted!r}) & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []
