"""The storage of a search: a file, or the URL of a database."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("optuna")

import optuna

from bestiary.data.dataset import DataSource
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import MachineError, MissingExtraError, RunError
from bestiary.recipe import Recipe
from bestiary.run_folder import collect_environment
from bestiary.tune import folder as folder_module
from bestiary.tune.folder import locate_search
from bestiary.tune.storage import TrialStorage, _open_storage
from bestiary.tune.storage_location import StorageLocation, locate_storage
from bestiary.tune.tune import SearchRequest, tune

PROBE: dict[str, Any] = {
    "data": {"classes": ["bird", "fish"], "suspects": False},
    "picture": {"size": 64},
    "model": {"backbone": "lite0"},
    "evaluate": {"resamples": 100},
}


def try_search(collection: SyntheticDataset, out: Path, *, storage: Path | str, trials: int = 1) -> dict[str, Any]:
    request = SearchRequest(recipe=Recipe.of(PROBE), trials=trials, fresh_seeds=0)
    return tune(DataSource(collection.folder), request, out=out, storage=storage, threads=1)


def test_a_url_of_sqlite_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, absolute = Path("search"), tmp_path / "deep" / "x.db"
    for storage, path in {
        None: folder / "tune.db",
        "shared.db": Path("shared.db"),
        "sqlite:///shared.db": Path("shared.db"),
        "sqlite+pysqlite:///deep/x.db": Path("deep/x.db"),
        f"sqlite:///{absolute}": absolute,
        absolute: absolute,
    }.items():
        assert locate_storage(storage, folder) == StorageLocation(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("sqlite://", "is a database in memory"),
        ("sqlite:///:memory:", "is a database in memory"),
        ("sqlite:///file:x.db?uri=true", "has parameters"),
        (Path("sqlite:///x.db"), "is no URL of a database"),
        ("postgresql://u:secret@host:abc/db", "is no URL of a database"),
        (Path("postgresql://u:secret@host/db"), "is no URL of a database"),
        ("redis://h/db?user=u&password=secret", "names no supported kind of database"),
        ("sqlite:///x.db?password=secret", "has parameters"),
        ("redis://u:secret@localhost", "names no supported kind of database"),
        ("https://u:secret@localhost/x", "names no supported kind of database"),
    ],
)
def test_a_url_that_names_no_storage(
    collection: SyntheticDataset, tmp_path: Path, storage: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=words) as refused:
        try_search(collection, Path("search"), storage=storage)
    assert "sqlite:///tune.db" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "module", "package"),
    [
        ("postgresql+psycopg2://u:secret@h/d", "psycopg2", "psycopg2-binary"),
        ("mysql://u:secret@h", "MySQLdb", "mysqlc"),
        ("mysql://h/d?user=u&passwd=secret", "MySQLdb", "mysqlc"),
    ],
)
def test_a_server_without_its_driver(
    collection: SyntheticDataset, tmp_path: Path, url: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingExtraError, match=f'driver "{module}".*pip install {package}') as refused:
        try_search(collection, Path("search"), storage=url)
    assert "secret" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_searches_of_two_folders_do_not_meet_on_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite stands in for the server: what differs is that locks and trials lie in the folder of the search."""
    server, source = f"sqlite:///{tmp_path / 'server.db'}", DataSource(tmp_path / "pictures")
    monkeypatch.setattr(folder_module, "locate_storage", lambda _, folder: StorageLocation(folder / "tune.db", server))
    folders = [locate_search(tmp_path / name, server, source, Recipe()) for name in ("a", "b", "a")]
    storages = [TrialStorage(folder.storage, folder.study) for folder in folders]
    storages[0].study.enqueue_trial({"x": 1})
    assert [len(storage.trials()) for storage in storages] == [1, 0, 1]
    assert [storage.folder for storage in storages] == [tmp_path / name / "tune.trials" for name in "aba"]
    assert folders[0].study.startswith("bestiary-tune-probe-")
    names = optuna.get_all_study_names(_open_storage(StorageLocation(tmp_path / "x.db", server)))
    assert sorted(names) == sorted({folder.study for folder in folders})
    assert not (tmp_path / "a" / "tune.db").exists()


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    location = StorageLocation(tmp_path / "tune.db", f"sqlite:///{tmp_path}/absent/server.db")
    with pytest.raises(MachineError, match=r"absent/server\.db cannot be written"):
        TrialStorage(location, "x")
    assert StorageLocation(Path("x"), "postgresql://u:secret@h/d").name == "postgresql://u:***@h/d"


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("postgresql://u:secret@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:se/c?r@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@tenant:se@cret@h:5432/d", "postgresql://u@tenant:***@h:5432/d"),
        ("postgresql://h/d?user=u&password=secret&port=1", "postgresql://h/d?user=u&password=***&port=1"),
        ("postgresql://h/d?SSLPassword=se;cret", "postgresql://h/d?SSLPassword=***"),
        ("mysql://h/d?passwd=a&charset=x", "mysql://h/d?passwd=***&charset=x"),
        (
            "mssql+pyodbc:///?odbc_connect=UID%3Du%3BPWD%3Dsecret%3B",
            "mssql+pyodbc:///?odbc_connect=UID%3Du%3BPWD%3D***%3B",
        ),
        ("postgresql://u@h:5432/d?connect_timeout=3", "postgresql://u@h:5432/d?connect_timeout=3"),
    ],
)
def test_passwords_are_in_no_message_and_no_file(
    tmp_path: Path, url: str, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = StorageLocation(tmp_path / "tune.db", url)
    assert (location.name, location.record(), location.url) == (hidden, hidden, url)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/bestiary", "tune", "a b", "--storage", url])
    arguments = shlex.split(collect_environment({})["command"])
    assert arguments == ["bestiary", "tune", "a b", "--storage", hidden]


@pytest.mark.slow
def test_a_search_on_a_server_keeps_its_files_in_its_folder(
    collection: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = f"sqlite:///{tmp_path / 'server.db'}"  # stands in for one
    monkeypatch.setattr(folder_module, "locate_storage", lambda _, folder: StorageLocation(folder / "tune.db", server))
    for trials in (1, 2):
        result = try_search(collection, tmp_path / "search", storage=server, trials=trials)
    assert result["trials"]["complete"] == 2
    location = StorageLocation(tmp_path / "x.db", server)
    [name] = optuna.get_all_study_names(_open_storage(location))
    assert len(TrialStorage(location, name).trials()) == 2
    assert not (tmp_path / "search" / "tune.db").exists()
    assert json.loads((tmp_path / "search" / "search.json").read_text())["storage"] == server


@pytest.mark.slow
def test_a_search_resumes_from_a_url(collection: SyntheticDataset, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'shared.db'}"
    for trials in (1, 2):
        try_search(collection, tmp_path / "search", storage=url, trials=trials)
    assert len(TrialStorage(tmp_path / "new" / "shared.db", "tune-probe").trials()) == 2
    assert url.endswith("new/shared.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "search"]
