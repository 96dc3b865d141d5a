"""Completion by the shell: the scripts are installed and run, in a home folder of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

from bestiary import cli
from bestiary.cli.completion import complete_override
from bestiary.recipe import Recipe
from bestiary.recipe_files import apply_overrides
from bestiary.settings_reference import list_settings

PROGRAM = f"#!{sys.executable}\nfrom bestiary.cli import main\nmain()\n"
COMPLETE = "source ~/.bashrc; COMP_WORDS=(%s); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _bestiary_completion bestiary"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder with the program `bestiary` and a folder of runs."""
    program = tmp_path / "bin" / "bestiary"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    for name in ("2026-11-01-probe", "latest"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    return tmp_path


def run_shell(home: Path, line: str, **variables: str) -> str:
    """Return what a line of bash writes, in the home folder."""
    paths = [str(Path(cli.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "HOME": str(home),
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    bash = [str(shutil.which("bash")), "--norc", "-c", line]
    done = subprocess.run(
        bash, env=environment | variables, cwd=home, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


def complete(home: Path, *words: str) -> list[str]:
    """The completions of bash for the last of the words after `bestiary`."""
    quoted = " ".join(["bestiary", *(word or '""' for word in words)])
    return run_shell(home, f'{COMPLETE % quoted}; printf "%s\\n" "${{COMPREPLY[@]}}"').splitlines()


@pytest.mark.skipif(shutil.which("bash") is None, reason="There is no bash.")
def test_bash_completes_commands_options_values_and_runs(home: Path) -> None:
    (home / ".bashrc").write_text("# mine\n")
    installed = run_shell(home, "bestiary --install-completion; true")  # a second command, so that bash stays
    assert "bash completion installed in" in installed
    assert (home / ".bashrc").read_text().startswith("# mine\n")
    assert complete(home, "tr") == ["train"]
    assert complete(home, "train", "--back") == ["--backbone"]
    assert complete(home, "train", "--method", "") == ["probe", "finetune", "scratch"]
    assert complete(home, "predict", "") == ["runs/latest", "runs/2026-11-01-probe"]
    assert complete(home, "predict", "runs/2") == ["runs/2026-11-01-probe"]
    assert complete(home, "settings", "augment.c") == ["augment.crop_min_area", "augment.colour_jitter"]
    assert complete(home, "train", "--recipe", "original-v") == ["original-v1", "original-v2"]
    assert complete(home, "compare", "runs/l") == ["runs/latest"]
    assert complete(home, "train", "pic") in ([], [""])  # left to bash, which completes paths


@pytest.mark.skipif(shutil.which("bash") is None, reason="There is no bash.")
def test_bash_completes_settings_and_their_values(home: Path) -> None:
    run_shell(home, "bestiary --install-completion; true")
    assert complete(home, "train", "--set", "train.size") == ["train.size_from=", "train.size_to="]
    # Several words, which begin alike: bash writes `train.optimiser=`, without a space after it.
    assert complete(home, "train", "--set", "train.opt") == [
        f"train.optimiser={value}" for value in ("", "sgd", "adamw", "muon")
    ]
    # Bash breaks words at "=", and completes only what follows.
    assert complete(home, "train", "--set", "train.optimiser", "=") == ["sgd", "adamw", "muon"]
    assert complete(home, "tune", "--set", "train.optimiser", "=", "a") == ["adamw"]
    assert complete(home, "study", "--set", "=", "train.optimiser", "=", "s") == ["sgd"]
    assert complete(home, "train", "--set", "picture.size", "=") == ["260", "128"]  # no choice: the defaults
    assert complete(home, "train", "--method", "=", "p") == ["probe"]


def test_every_choice_of_a_setting_is_completed() -> None:
    for setting in list_settings():
        values = [word.partition("=")[2] for word, _ in complete_override(f"{setting.name}=")]
        for value in values:
            Recipe.of(apply_overrides({}, [f"{setting.name}={value}"]))
        if setting.values == "true or false":
            assert values == ["true", "false"]
    assert complete_override("model.method=") == [
        ("model.method=probe", "default"),
        ("model.method=finetune", ""),
        ("model.method=scratch", ""),
    ]
    assert complete_override("train.epochs=")[0] == ("train.epochs=5", "default of finetune")
    assert complete_override("train.epoch=") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="There is no bash.")
def test_the_other_shells_are_answered_in_their_protocols(home: Path) -> None:
    assert "#compdef bestiary" in run_shell(home, "_BESTIARY_COMPLETE=source_zsh bestiary")
    zsh = run_shell(home, "bestiary", _BESTIARY_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="bestiary train --back")
    assert zsh == '_arguments \'*: :(("--backbone":"lite0, lite1, lite2, timm\\\\:NAME"))\'\n'
    fish = run_shell(
        home,
        "bestiary",
        _BESTIARY_COMPLETE="complete_fish",
        _TYPER_COMPLETE_ARGS="bestiary do",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    assert fish.startswith("doctor\tSay which processor")
    assert fish.count("\n") == 1
    for name in ("train", "predict", "tune"):  # a second line would be another word
        options = run_shell(
            home,
            "bestiary",
            _BESTIARY_COMPLETE="complete_fish",
            _TYPER_COMPLETE_ARGS=f"bestiary {name} --",
            _TYPER_COMPLETE_FISH_ACTION="get-args",
        ).splitlines()
        assert len(options) > 10
        assert [line for line in options if not line.startswith("--")] == []
