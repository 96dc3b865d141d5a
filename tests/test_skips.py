"""What may be skipped in CI: run as CI runs it, without a browser, on tests that skip in every way there is."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bestiary.models.engine import has_openvino
from skips import is_ci

HOME = Path(__file__).parent
SKIPPING = """
import pytest

def test_in_a_browser(browser): pass
def test_without_a_package(): pytest.importorskip("no_such_package")
def test_by_its_own_decision(): pytest.skip("not today")
@pytest.fixture
def network(): pytest.skip("no network")
def test_by_a_fixture(network): pass
@pytest.mark.skipif(True, reason="elsewhere")
def test_on_another_system(): pass
@pytest.mark.skipif(False, reason="elsewhere")
def test_on_this_system(): pytest.importorskip("no_such_package")
@pytest.mark.slow
def test_slow(): pass
@pytest.mark.real
def test_real(animals10): pass
def test_that_runs(): pass
"""
SKIPPING_MODULE = """
import pytest

pytest.importorskip("no_such_package")

def test_that_is_never_collected(browser): pass
"""
ALLOWED = {"test_on_another_system", "test_slow", "test_real"}
MADE_FAILURES = {
    "test_in_a_browser[chromium]",
    "test_in_a_browser[firefox]",
    "test_without_a_package",
    "test_by_its_own_decision",
    "test_by_a_fixture",
    "test_on_this_system",
    "test_module",
}


@pytest.mark.parametrize("ci", [False, True], ids=["local", "ci"])
def test_only_announced_skips_are_allowed_in_ci(tmp_path: Path, ci: bool) -> None:
    for path in HOME.glob("*.py"):
        if not path.name.startswith("test_"):  # conftest.py and what it imports
            shutil.copy(path, tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow\n    real\n")
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    (tmp_path / "test_module.py").write_text(SKIPPING_MODULE)
    missing = str(tmp_path / "none")
    environment = os.environ | {"PATH": missing, "CI": str(ci).lower(), "BESTIARY_ANIMALS10": missing}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    done = subprocess.run(
        [*command, f"--junitxml={tmp_path / 'out.xml'}", "."], cwd=tmp_path, env=environment, capture_output=True
    )
    cases = ElementTree.parse(tmp_path / "out.xml").iter("testcase")
    result = {case.get("name"): next((child.tag for child in case), "passed") for case in cases}
    assert result.pop("test_that_runs") == "passed"
    assert result.keys() == ALLOWED | MADE_FAILURES
    assert {name for name, tag in result.items() if tag == "skipped"} == (ALLOWED if ci else ALLOWED | MADE_FAILURES)
    assert done.returncode == int(ci), done.stdout.decode()


@pytest.mark.skipif(not is_ci(), reason="asked of CI only")
def test_openvino_is_there_where_it_is_a_requirement() -> None:
    """Tests with OpenVINO are skipped by a mark where it is not installed, as on Arm."""
    assert has_openvino() or platform.machine() not in ("x86_64", "AMD64")
