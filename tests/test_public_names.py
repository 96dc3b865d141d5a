import subprocess
import sys

import pytest

import bestiary
from bestiary.install_command import install_command


def test_the_public_names_are_these() -> None:
    types = ["BestiaryError", "Event", "PictureClassifier", "Predictor", "Recipe", "UserError", "__version__"]
    functions = [
        "audit",
        "compare",
        "embed",
        "evaluate",
        "export",
        "load",
        "predict",
        "read_boxes",
        "resume",
        "study",
        "train",
        "tune",
    ]
    assert bestiary.__all__ == [*types, *functions]
    assert dir(bestiary) == bestiary.__all__


@pytest.mark.parametrize("name", bestiary.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    found = getattr(bestiary, name)
    assert isinstance(found, str) or found.__name__ == name


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r'bestiary has no "trian"\. It has: BestiaryError, .*, tune\.'):
        bestiary.trian  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'trian'"):
        exec("from bestiary import trian")


@pytest.mark.parametrize("name", ["export", "study", "tune"])
def test_a_folder_of_the_same_name_does_not_hide_a_function(name: str) -> None:
    """Whatever is imported first; and what is in the folder can still be imported."""
    module = {"export": "verify", "study": "plan", "tune": "page"}[name]
    lines = [
        f"from bestiary.{name} import {module}",
        f"import bestiary, bestiary.{name}.{module}, sys",
        f"assert callable(bestiary.{name}), bestiary.{name}",
        f"assert sys.modules['bestiary.{name}'].{module} is {module}",
        f"from bestiary import {name}",
        f"assert {name}.__module__ in ('bestiary.api', 'bestiary.api_search'), {name}",
    ]
    for program in ("; ".join(lines), "; ".join([*lines[1:3], *lines[:1], *lines[2:]])):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_predict_needs_no_training_extra() -> None:
    program = "import sys; sys.modules['polars'] = None; from bestiary import predict, load, Event"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_importing_the_package_imports_only_what_turns_reports_off() -> None:
    program = "import sys, bestiary; print(*(name for name in sys.modules if name.startswith('bestiary')))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert sorted(answer.stdout.split()) == ["bestiary", "bestiary.telemetry"]


@pytest.mark.parametrize("name", ["train", "audit", "tune", "embed", "PictureClassifier"])
def test_what_needs_the_training_extra_says_so_where_it_is_missing(name: str) -> None:
    program = f"import sys; sys.modules['polars'] = None; from bestiary import {name}"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert 'This needs "polars", which is not installed. Add it with: ' + install_command("train") in answer.stderr
