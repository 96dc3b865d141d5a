"""`bestiary --version`: what a bug report needs."""

from __future__ import annotations

import sys
from typing import Any

from bestiary.files import cache_folder
from bestiary.installation import PACKAGES, describe_installation
from bestiary.models.accelerators import AcceleratorDevice, explain_unavailable, find_accelerator
from bestiary.models.engine import EngineChoice
from bestiary.models.engine_choice import iter_records, select_engine
from bestiary.processor import Processor
from bestiary.recipe_sections import FeaturesConfig


def collect_versions() -> dict[str, Any]:
    """Return versions, processor and, of each backbone that was measured on this computer, engine and precision."""
    return describe_installation() | {"features": _collect_engines(), "accelerator": _describe_accelerator()}


def format_versions(facts: dict[str, Any]) -> str:
    """Return the facts of `collect_versions` as lines of text."""
    processor = Processor(**facts["processor"])
    cores = f"{facts['cores']} {'core' if facts['cores'] == 1 else 'cores'}"
    packages = [
        f"{name} {facts['packages'].get(name, 'not installed')}"
        for name in PACKAGES
        if name in facts["packages"] or name != "onnxruntime-gpu"
    ]
    features = [_format_engine(entry) for entry in facts["features"]]
    accelerator = "none (bestiary doctor says why)" if facts["accelerator"].startswith("none") else facts["accelerator"]
    return "\n".join(
        [
            f"bestiary {facts['bestiary']}",
            f"installed in {facts['folder']}",
            f"{facts['python']} on {facts['platform']}",
            f"{processor}, {cores}",
            *packages,
            *(features or ["features: no engine measured yet; the first training or audit measures them"]),
            f"accelerator of features and predictions: {accelerator}",
        ]
    )


def _format_engine(entry: dict[str, Any]) -> str:
    speeds = ", ".join(f"{name} {speed:g}" for name, speed in entry["pictures_per_second"].items())
    device = "" if entry["device"] == "cpu" else f" on {entry['device']}"
    chosen = f"{entry['engine']}{device} in {entry['precision']}"
    return f"features of {entry['graph']}: {chosen} (measured, pictures a second and core: {speeds})"


def _describe_accelerator() -> str:
    """Return the accelerator that `--device auto` may use, or why there is none."""
    accelerator = find_accelerator()
    if accelerator is not None:
        return str(accelerator)
    device: AcceleratorDevice = "coreml" if sys.platform == "darwin" else "cuda"
    return f"none: {explain_unavailable(device)}"


def _collect_engines() -> list[dict[str, Any]]:
    entries = []
    for record in iter_records(cache_folder()):
        choice = select_engine(record.measurements, FeaturesConfig())
        speeds = {
            _engine_title(entry.choice): entry.pictures_per_second for entry in record.measurements if not entry.error
        }
        errors = {str(entry.choice): entry.error for entry in record.measurements if entry.error}
        entries.append(
            {
                "graph": record.title,
                "engine": choice.engine,
                "precision": choice.precision,
                "device": choice.device,
                "pictures_per_second": speeds,
                "errors": errors,
            }
        )
    return entries


def _engine_title(choice: EngineChoice) -> str:
    device = "" if choice.device == "cpu" else f" on {choice.device}"
    return f"{choice.engine}{device} {choice.precision}"
