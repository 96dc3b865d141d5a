import subprocess
import sys

import pytest

import bestiary
from bestiary.install_command import install_command


def test_the_public_names_are_these() -> None:
    names = ["BestiaryError", "PictureClassifier", "Predictor", "Recipe", "UserError", "__version__", "audit"]
    assert bestiary.__all__ == [*names, "evaluate", "load", "resume", "train"]


@pytest.mark.parametrize("name", bestiary.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    found = getattr(bestiary, name)
    assert isinstance(found, str) or found.__name__ == name


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r'bestiary has no "trian"\. It has: BestiaryError, .*, train\.'):
        bestiary.trian  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'trian'"):
        exec("from bestiary import trian")


def test_importing_the_package_imports_nothing_else() -> None:
    program = "import sys, bestiary; print(*(name for name in sys.modules if name.startswith('bestiary')))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["bestiary"]


@pytest.mark.parametrize("name", ["train", "audit", "PictureClassifier"])
def test_what_needs_the_training_extra_says_so_where_it_is_missing(name: str) -> None:
    program = f"import sys; sys.modules['polars'] = None; from bestiary import {name}"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert 'This needs "polars", which is not installed. Add it with: ' + install_command("train") in answer.stderr
