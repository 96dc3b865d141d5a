"""The package as users get it: a wheel, with nothing but the base dependencies beside it, predicts and stays small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bestiary.demo.dataset import SyntheticDataset

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
MOST_MEGABYTES = 260


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution, so that what the one lacks the other lacks too."""
    out = tmp_path_factory.mktemp("dist")
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "build", str(ROOT), "--outdir", str(out), "--no-isolation"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and its base dependencies, and nothing else."""
    place = tmp_path_factory.mktemp("base")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(place), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip could not install the base dependencies here: {done.stderr.strip().splitlines()[-1]}")
    return place


def test_the_wheel_has_the_pages_the_recipes_and_the_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = (
        "report/templates/report.html",
        "serve/templates/serve.js",
        "recipes/original-v2.toml",
        "checks.toml",
        "py.typed",
    )
    assert {f"bestiary/{name}" for name in wanted} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_the_base_install_is_small_and_predicts(
    installed: Path, probed: Path, collection: SyntheticDataset, tmp_path: Path
) -> None:
    size = sum(file.stat().st_size for file in installed.rglob("*") if file.is_file() and not file.is_symlink())
    assert size / 1e6 <= MOST_MEGABYTES
    extras = ("torch", "polars", "sklearn", "scipy", "openvino", "jinja2", "onnx")
    assert not [name for name in extras if (installed / name).exists()]
    picture = next(collection.folder.rglob("*.png"), None) or next(collection.folder.rglob("*.jpg"))
    command = [sys.executable, "-S", "-m", "bestiary", "predict", str(probed), str(picture), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])
