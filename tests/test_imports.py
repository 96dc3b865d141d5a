"""The order of the rooms, and the promise that the main job needs no torch and a prediction hardly anything."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bestiary

PACKAGE = Path(bestiary.__file__).parent
# The modules beside flow.py, lowest first: each imports only those before it.
BASE = (
    "version",
    "array_types",
    "box",
    "text",
    "special_labels",
    "summary",
    "install_command",
    "errors",
    "telemetry",
    "costs",
    "stats",
    "class_thresholds",
    "quick_metrics",
    "machine",
    "processor",
    "installation",
    "profiling",
    "progress",
    "stages",
    "events",
    "run_location",
    "experiment_log",
    "defaults",
    "files",
    "locks",
    "decode_rules",
    "colour_profile",
    "coded_colours",
    "tiff_tags",
    "transparency",
    "depth",
    "first_decoding",
    "jpeg",
    "heif",
    "orientation",
    "capture_time",
    "content_type",
    "picture_formats",
    "text_table",
    "table_columns",
    "picture",
    "crops",
    "thumbnails",
    "preprocess",
    "group_rules",
    "result_cache",
    "recipe_errors",
    "recipe_files",
    "recipe_sections",
    "recipe",
    "settings_reference",
    "recipe_arguments",
    "tried_backbones",
    "checks",
    "label_issue_summary",
    "table",
    "few_groups",
    "finding_counts",
    "table_map",
    "context",
    "run_folder",
)
DATA = {"batches", "data", "models"}
MODEL = {*DATA, "training", "inference", "export"}
# Which rooms a room may import, beside itself and the base.
MAY_IMPORT: dict[str, set[str]] = {
    "demo": set(),
    "web": set(),
    "batches": set(),
    "data": set(),
    "models": {"batches"},
    "training": DATA,
    "inference": {"batches", "models"},
    "export": {"batches", "models", "training", "inference"},
    "serve": {"batches", "inference", "web"},
    "evaluation": MODEL,
    "report": {"models", "evaluation", "inference"},
    "review": {"batches", "data", "models", "inference", "report", "web"},
    "flow": {*MODEL, "evaluation", "report"},
    "tune": {*MODEL, "evaluation", "report", "flow"},
    "study": {*MODEL, "evaluation", "report", "flow"},
    "cluster": {*MODEL, "evaluation", "report", "flow", "tune", "study"},
    "api": {*MODEL, "evaluation", "report", "flow", "tune", "study", "cluster"},
    "cli": {*MODEL, "evaluation", "report", "flow", "tune", "study", "cluster", "demo", "web", "serve", "review"},
}
FLOW = {"flow", "classifier"}
API = {"api", "api_predict", "api_results", "api_search"}
FRONT_DOORS = {"__init__", "__main__"}  # they hand on what others made
MODULES = sorted(path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
MAY_IMPORT_TORCH = {
    "batches/augmentation",
    "models/distillation",
    "models/layers",
    "models/networks",
    "models/timm_backbone",
    "models/torch_export",
    "training/activation_cache",
    "training/card_memory",
    "training/checkpoint",
    "training/device",
    "training/finetune",
    "training/loop",
    "training/muon",
    "training/optimiser",
    "training/distributed",
}
TRAINING_ONLY = [
    "ray",
    "pyarrow",
    "polars",
    "sklearn",
    "scipy",
    "joblib",
    "onnx",
    "cleanlab",
    "jinja2",
    "matplotlib",
    "torch",
]


def room(module: str) -> str:
    return "base" if module in BASE else "flow" if module in FLOW else "api" if module in API else module


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
def test_a_module_imports_only_from_the_rooms_that_its_own_may(module: Path) -> None:
    own = module.parts[0]
    for name in imported(module):
        top, _, rest = name.partition(".")
        if top != "bestiary":
            continue
        assert rest, f"{module} imports the package's front door"
        other = rest.partition(".")[0]
        if room(own) == "base":
            assert other in BASE[: BASE.index(own)], f"{module} imports {name}, which does not come before it"
        else:
            allowed = {room(own), "base", *MAY_IMPORT[room(own)]}
            assert room(other) in allowed, f"{module} imports {name}, which its room may not"


def test_the_rooms_have_no_circle() -> None:
    order = list(MAY_IMPORT)
    for name, lower in MAY_IMPORT.items():
        assert lower <= set(order[: order.index(name)]), name


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
        (  # what is imported before a budget is refused
            "bestiary.flow, bestiary.study.leakage, bestiary.study.study",
            ["scipy", "sklearn", "joblib", "onnx", "cleanlab"],
        ),
        ("bestiary.api_predict, bestiary.cli, bestiary.inference.writers", TRAINING_ONLY),
        ("bestiary.serve.app, bestiary.inference.output_file, bestiary.inference.link_folders", TRAINING_ONLY),
        ("bestiary.data.measure", [*TRAINING_ONLY, "onnxruntime", "pydantic"]),  # what worker processes import
    ],
)
def test_what_is_not_needed_is_not_imported(modules: str, unwanted: list[str]) -> None:
    program = f"import sys, {modules}; print(*sorted(set({unwanted!r}) & sys.modules.keys()))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []
