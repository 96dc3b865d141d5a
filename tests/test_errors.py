import importlib.util
import pickle
import re
from pathlib import Path

import pytest

from bestiary import errors
from bestiary.errors import (
    BestiaryError,
    IntegrityError,
    InterruptedRun,
    MachineError,
    MissingExtraError,
    PictureError,
    RecipeError,
    RunError,
    SourceError,
    UserError,
    did_you_mean,
    import_optional,
    require_extra,
)
from bestiary.install_command import install_command


@pytest.mark.parametrize("error", [SourceError, PictureError, RecipeError, RunError, MissingExtraError, MachineError])
def test_what_the_user_can_mend_is_a_user_error(error: type[BestiaryError]) -> None:
    assert issubclass(error, UserError)


@pytest.mark.parametrize("error", [IntegrityError, InterruptedRun])
def test_failed_proofs_and_interruptions_are_no_user_errors(error: type[BestiaryError]) -> None:
    assert issubclass(error, BestiaryError)
    assert not issubclass(error, UserError)


def test_the_drawing_at_the_top_names_every_error_under_its_parent() -> None:
    drawing = (errors.__doc__ or "").splitlines()
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, BestiaryError) and error is not BestiaryError:
            (line,) = [line for line in drawing if f" {name} " in line]
            deeper = line.startswith("│") or line.startswith("    ")
            assert error.__base__ is (UserError if deeper else BestiaryError), name


def test_a_picture_error_survives_the_way_between_processes() -> None:
    home = pickle.loads(pickle.dumps(PictureError("a.jpg is empty.", check="unreadable")))
    assert (type(home), str(home), home.check) == (PictureError, "a.jpg is empty.", "unreadable")


def test_an_interrupted_run_says_how_to_go_on() -> None:
    error = InterruptedRun(Path("runs/one"))
    assert error.run == Path("runs/one")
    assert str(error).endswith("bestiary train --resume runs/one")


def test_the_nearest_name_is_guessed_and_all_are_listed() -> None:
    assert did_you_mean("prob", ["scratch", "probe"]) == 'Did you mean "probe"? Known: probe, scratch.'
    assert did_you_mean("zebra", ["lite2", "lite0"]) == "Known: lite0, lite2."
    assert did_you_mean("zebra", map(str, range(300))).endswith(" and 240 more.")


def test_a_missing_part_is_reported_with_the_command_that_adds_it() -> None:
    with pytest.raises(MissingExtraError, match=rf'"no_such_module".*{re.escape(install_command("train"))}'):
        import_optional("no_such_module", extra="train")
    assert import_optional("json", extra="train").__name__ == "json"


def test_a_broken_part_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_part.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        import_optional("broken_part", extra="train")


def test_what_an_extra_lacks_is_named_with_the_command_that_adds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    require_extra("train")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("joblib", "onnx") else find(name))
    with pytest.raises(
        MissingExtraError, match=rf'needs "joblib", "onnx", which are not .*{re.escape(install_command("train"))}'
    ):
        require_extra("train")
