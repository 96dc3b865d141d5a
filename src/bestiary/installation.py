"""What is installed where: versions of the main packages, Python, operating system and processor."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bestiary.machine import available_cores
from bestiary.processor import read_processor
from bestiary.version import __version__

PACKAGES = (
    "numpy",
    "Pillow",
    "pillow-heif",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "polars",
    "scikit-learn",
    "optuna",
    "torch",
    "timm",
)


def package_versions() -> dict[str, str]:
    """Return the versions of the main packages that are installed, by name."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def describe_installation() -> dict[str, Any]:
    """Return the facts for a bug report, for JSON: of bestiary, Python, operating system, processor and packages."""
    return {
        "bestiary": __version__,
        "folder": str(Path(__file__).parents[1]),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "processor": asdict(read_processor()),
        "cores": available_cores(),
        "packages": package_versions(),
    }
