"""Where a search is stored: a SQLite file, or a database server that an Optuna URL names."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from filelock import FileLock
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from bestiary.errors import MissingExtraError, RunError
from bestiary.files import URL_SCHEME, write_text
from bestiary.text import hide_passwords

FILE_NAME, STUDY_ID = "tune.db", "tune.study"
DRIVERS = {  # the package of each driver that Optuna's URLs name, where its name differs from that of the module
    "psycopg2": "psycopg2-binary",
    "psycopg": "psycopg[binary]",
    "MySQLdb": "mysqlclient",
}


@dataclass(frozen=True)
class StorageLocation:
    """The storage of a search.

    path: the SQLite file; for a server the path in the folder of the search whose name locks and trials derive from.
    url: of the server, None for a file.
    """

    path: Path
    url: str | None = None

    @property
    def name(self) -> str:
        """The file, or the URL with its passwords hidden, for messages."""
        return str(self.path) if self.url is None else hide_passwords(self.url)

    def record(self) -> str:
        """Return the absolute path, or the URL with its passwords hidden, for the folder of the search."""
        return str(self.path.absolute()) if self.url is None else self.name


def locate_storage(storage: Path | str | None, folder: Path) -> StorageLocation:
    """Return the storage that `--storage` names, a file or an Optuna URL; by default a file in the search's folder.

    `sqlite:///NAME` is the file NAME. Raises RunError for a URL that names no storage, MissingExtraError if its
    driver is not installed. No password is in a message.
    """
    if storage is None:
        return StorageLocation(folder / FILE_NAME)
    text = str(storage)
    if not URL_SCHEME.match(text):
        return StorageLocation(Path(storage))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # ValueError: the port is no number
        raise _url_error(text, "is no URL of a database") from None
    location = StorageLocation(folder / FILE_NAME, text)
    try:
        url.get_dialect().import_dbapi()
    except NoSuchModuleError:
        raise _url_error(location.name, "names no supported kind of database") from None
    except ImportError as error:
        raise _missing_driver_error(location.name, error) from None
    return StorageLocation(_sqlite_file(url)) if url.get_backend_name() == "sqlite" else location


def load_study_id(folder: Path) -> str:
    """Return the identifier of a search's folder, created by the first process: the name of its study on a server.

    Searches of several folders, and of several computers, may use one server: their studies do not meet.
    """
    file = folder / STUDY_ID
    with FileLock(folder / f"{STUDY_ID}.lock"):
        if not file.exists():
            write_text(file, uuid4().hex[:12])
        return file.read_text(encoding="utf-8").strip()


def _missing_driver_error(name: str, error: ImportError) -> MissingExtraError:
    """Return the error for a server whose database driver is not installed, with the command that installs it."""
    module = error.name or str(error)
    return MissingExtraError(
        f'--storage {name} needs the database driver "{module}", which is not installed. Add it with:'
        f" pip install {shlex.quote(DRIVERS.get(module, module))}. Or use a SQLite file: --storage {FILE_NAME}."
    )


def _sqlite_file(url: URL) -> Path:
    if not url.database or url.database == ":memory:":
        raise _url_error(str(url), "is a database in memory, which no process can resume")
    if url.query or url.database.startswith("file:"):
        raise _url_error(str(url), "has parameters, which are not supported")
    return Path(url.database)


def _url_error(text: str, problem: str) -> RunError:
    return RunError(
        f"--storage {hide_passwords(text)} {problem}. Expected a file ({FILE_NAME}), sqlite:///{FILE_NAME}, or the URL"
        " of a server such as postgresql://USER@HOST/DATABASE."
    )
