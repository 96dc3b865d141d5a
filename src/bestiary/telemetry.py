"""Usage reports that libraries send to their makers: turned off, so that nothing leaves the computer unasked."""

from __future__ import annotations

import os
import sys
from types import ModuleType

# Environment variables by which libraries are told, before they are first imported, unless the user has set them.
VARIABLES = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime: since 1.29 on Linux, with a device id in ~/.cache
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
OPENVINO_REPORTS = "openvino_telemetry"


def disable_telemetry() -> None:
    """Set the variables that the environment does not have."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


def import_openvino() -> ModuleType:
    """Return the module `openvino`, imported without its package for reports; MissingExtraError if it is missing.

    `import openvino` reports itself and leaves an id in ~/intel (2026.4), and no variable turns that off. It works
    without the package as well.
    """
    from bestiary.errors import import_optional

    had_reports = OPENVINO_REPORTS in sys.modules
    sys.modules.setdefault(OPENVINO_REPORTS, None)  # type: ignore[arg-type] # as if it were not installed
    try:
        return import_optional("openvino", extra="train")
    finally:
        if not had_reports:
            sys.modules.pop(OPENVINO_REPORTS, None)  # another thread may have done so
