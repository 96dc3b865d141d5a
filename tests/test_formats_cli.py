"""Tables and formats on the command line: the options, what a run records, and the commands that repeat them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

import bestiary as package
from bestiary import run_folder
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import UserError
from bestiary.files import read_json
from bestiary.report.commands import retrain_command
from commands import Call

KINDS = ("bird", "fish", "spider")
QUICK = (
    *("--backbone", "lite0", "--set", "picture.size=64", "--set", "probe.regularisation=[0.01]", "--threads", "2"),
    *("--set", "evaluate.resamples=100", "--set", "evaluate.learning_curve=off", "--set", "data.suspects=false"),
)


@pytest.fixture
def table(collection: SyntheticDataset, tmp_path: Path) -> Path:
    """A table of Windows of three kinds, with a column that no usual name has, and a picture that is not there."""
    rows = ["Datei;Art;Serie"]
    for kind in KINDS:
        paths = sorted((collection.folder / kind).iterdir())
        rows += [f"C:\\Fotos\\{kind}\\{path.name};{kind}ü;s{number}" for number, path in enumerate(paths)]
    (tmp_path / "labels.csv").write_bytes("\r\n".join([*rows, "C:\\Fotos\\gone.jpg;fishü;x"]).encode("cp1252"))
    return tmp_path / "labels.csv"


COLUMNS = "path=Datei,label=Art,group=Serie"


def test_audit_says_how_a_table_was_read(bestiary: Call, table: Path, collection: SyntheticDataset) -> None:
    options = ("--columns", COLUMNS, "--pictures", collection.folder, "--set", "data.suspects=false", "--threads", 2)
    code, out, err = bestiary("audit", table, *options, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["passed_over"] == {"not in the folder": 1}
    notices = {notice["check"]: notice["message"] for notice in reversed(found["notices"])}
    assert notices["source-format"] == f"{table} is read as a table (--format table)."
    assert notices["left-out-rows"].endswith("1 left out (not in the folder): C:\\Fotos\\gone.jpg.")
    for text in ("semicolons, Windows-1252", 'label from the column "Art"', "without the leading folders"):
        assert text in err
    assert bestiary("audit", table, *options[2:], "-q")[0] == 2


@pytest.mark.slow
def test_a_run_records_how_its_table_was_read(bestiary: Call, table: Path, collection: SyntheticDataset) -> None:
    options = ("--format", "table", "--columns", COLUMNS, "--pictures", collection.folder, "--leave-out", "none")
    assert bestiary("train", table, *QUICK, *options, "--out", "run", "-q")[0] == 0
    facts = run_folder.read_environment(Path("run"))
    assert facts["reading"] == {
        "format": "table",
        "columns": {"path": "Datei", "label": "Art", "group": "Serie"},
        "pictures": str(collection.folder),
        "leave out": [],
    }
    assert any("is read as a table" in notice["message"] for notice in facts["notices"])
    assert list(read_json(Path("run/bundle.json"))["classes"]) == [f"{kind}ü" for kind in KINDS]
    words = shlex.split(retrain_command(Path("run/asked.toml"), facts, None))
    assert words[-8:] == [str(option) for option in options]
    assert shlex.join(map(str, options)) in Path("run/report.html").read_text(encoding="utf-8").replace(
        "&#x27;", "'"
    ).replace("&#39;", "'")

    code, out, err = bestiary("evaluate", "run", table, *options, "--threads", 2, "--json", "-q")
    assert code == 0, err
    assert json.loads(out)["metrics"]["passed_over"] == {"not in the folder": 1}
    [evaluation] = Path("run/evaluations").iterdir()
    assert read_json(evaluation / "metrics.json")["reading"] == facts["reading"]
    assert "--columns, --pictures" in bestiary("evaluate", "run", "--columns", COLUMNS)[2]
    assert "--columns cannot be given with --resume" in bestiary("train", "--resume", "run", "--columns", COLUMNS)[2]


@pytest.mark.parametrize("command", ["audit", "train", "tune", "study"])
def test_options_that_are_wrong_are_explained(bestiary: Call, tmp_path: Path, command: str) -> None:
    (tmp_path / "t.csv").write_text("File,Species\na.jpg,fox\n")
    more = ("probe", "scratch") if command == "study" else ()
    for options, message in (
        (("--format", "tabel"), 'There is no format "tabel". Did you mean "table"'),
        (("--columns", "pfad=File"), 'there is no role "pfad"'),
        (("--pictures", "nowhere"), "There is no folder nowhere"),
        (("--leave-out", "animals"), 'there is no "animals"'),
        ((), "None of the 1 pictures of t.csv is in the folder"),
    ):
        code, out, err = bestiary(command, "t.csv", *more, *options, "-q")
        assert (code, out) == (2, "")
        assert message in err


def test_python_has_the_same_options(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("File,Species\na.jpg,fox\n")
    source, columns = str(tmp_path / "t.csv"), {"label": "Specie"}
    with pytest.raises(UserError, match='Did you mean "Species"'):
        package.audit(source, columns=columns, quiet=True)
    with pytest.raises(UserError, match='Did you mean "Species"'):
        package.train(source, columns="label=Specie", quiet=True)
    with pytest.raises(UserError, match="There is no format"):
        package.study(source, ["probe", "scratch"], format="tabel", quiet=True)
    with pytest.raises(UserError, match="There is no folder"):
        package.tune(source, pictures_folder=tmp_path / "nowhere", quiet=True)
    with pytest.raises(UserError, match='--leave-out: there is no "human being"'):
        package.audit(source, leave_out=["human being"], quiet=True)
