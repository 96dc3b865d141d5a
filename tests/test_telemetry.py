"""Libraries send no reports about their use to their makers."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bestiary.models.engine import engine_version, has_openvino
from bestiary.telemetry import VARIABLES, disable_telemetry, import_openvino
from tiny_model import coloured, write_run

PREDICT = """
import sys
from bestiary import Predictor
predictor = Predictor(sys.argv[1], engine=sys.argv[3])
assert predictor.predict(sys.argv[2]).label == "red"
"""


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_prediction_leaves_no_ids_in_the_home(tmp_path: Path, engine: str) -> None:
    """ONNX Runtime 1.29 and later and OpenVINO 2026.4 leave one where they report, but not where CI is set."""
    if engine == "openvino" and not has_openvino():
        pytest.skip("openvino is not installed")
    run, home = write_run(tmp_path / "run"), tmp_path / "home"
    (tmp_path / "red.png").write_bytes(coloured("red"))
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in {*VARIABLES, "CI", "XDG_CACHE_HOME"}}
    command = [sys.executable, "-c", PREDICT, str(run), str(tmp_path / "red.png"), engine]
    done = subprocess.run(command, env=kept | {"HOME": str(home)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(home.iterdir()) == []


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    disable_telemetry()
    assert {name: os.environ[name] for name in VARIABLES} == {**VARIABLES, "ORT_DISABLE_TELEMETRY": "0"}


def test_other_programs_can_import_the_package_for_reports_afterwards() -> None:
    if not has_openvino():
        pytest.skip("openvino is not installed")
    import_openvino()
    assert sys.modules.get("openvino_telemetry", "absent") is not None


def test_the_version_of_a_build_without_metadata_is_read_without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_openvino():
        pytest.skip("openvino is not installed")
    openvino = import_openvino()

    def find_no_package(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    imported: list[ModuleType] = []

    def note_import() -> ModuleType:
        imported.append(openvino)
        return openvino

    monkeypatch.setattr(importlib.metadata, "version", find_no_package)
    monkeypatch.setattr("bestiary.models.engine.import_openvino", note_import)
    assert engine_version("openvino") == openvino.__version__
    assert imported == [openvino]
