"""`bestiary --version`: what a bug report needs."""

from __future__ import annotations

from typing import Any

from bestiary.files import cache_folder
from bestiary.installation import PACKAGES, describe_installation
from bestiary.models.engine_choice import iter_records, select_engine
from bestiary.processor import Processor
from bestiary.recipe import FeaturesConfig


def collect_versions() -> dict[str, Any]:
    """Return versions, processor and, of each backbone that was measured on this computer, engine and precision."""
    return describe_installation() | {"features": _collect_engines()}


def format_versions(facts: dict[str, Any]) -> str:
    """Return the facts of `collect_versions` as lines of text."""
    processor = Processor(**facts["processor"])
    cores = f"{facts['cores']} {'core' if facts['cores'] == 1 else 'cores'}"
    packages = [f"{name} {facts['packages'].get(name, 'not installed')}" for name in PACKAGES]
    features = [_format_engine(entry) for entry in facts["features"]]
    return "\n".join(
        [
            f"bestiary {facts['bestiary']}",
            f"installed in {facts['folder']}",
            f"{facts['python']} on {facts['platform']}",
            f"{processor}, {cores}",
            *packages,
            *(features or ["features: no engine measured yet; the first training or audit measures them"]),
        ]
    )


def _format_engine(entry: dict[str, Any]) -> str:
    speeds = ", ".join(f"{name} {speed:g}" for name, speed in entry["pictures_per_second"].items())
    chosen = f"{entry['engine']} in {entry['precision']}"
    return f"features of {entry['graph']}: {chosen} (measured, pictures a second and core: {speeds})"


def _collect_engines() -> list[dict[str, Any]]:
    entries = []
    for record in iter_records(cache_folder()):
        choice = select_engine(record.measurements, FeaturesConfig())
        speeds = {
            f"{entry.choice.engine} {entry.choice.precision}": entry.pictures_per_second
            for entry in record.measurements
            if not entry.error
        }
        errors = {str(entry.choice): entry.error for entry in record.measurements if entry.error}
        entries.append(
            {
                "graph": record.title,
                "engine": choice.engine,
                "precision": choice.precision,
                "pictures_per_second": speeds,
                "errors": errors,
            }
        )
    return entries
