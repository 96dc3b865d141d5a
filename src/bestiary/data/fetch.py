"""Collections that are downloaded for the user who asks for them by name; nothing else here uses the network."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bestiary.data.archives import atomic_folder, require_space
from bestiary.data.label_map import ANIMALS10
from bestiary.errors import MachineError, SourceError, UserError, did_you_mean, import_optional
from bestiary.files import is_occupied
from bestiary.progress import Reporter, SilentReporter


@dataclass(frozen=True)
class KnownDataset:
    """A collection on Kaggle: where it is, how large it is, and the class folders by which it is known to be whole."""

    handle: str
    page: str
    packed_bytes: int
    unpacked_bytes: int
    inside: str  # the folder of the download that holds the class folders
    classes: frozenset[str]


KNOWN_DATASETS = {
    "animals10": KnownDataset(
        handle="alessiocorrado99/animals10",
        page="https://www.kaggle.com/datasets/alessiocorrado99/animals10",
        packed_bytes=600_000_000,
        unpacked_bytes=620_000_000,
        inside="raw-img",
        classes=frozenset(ANIMALS10),
    ),
}


def fetch_dataset(name: str, folder: Path, *, reporter: Reporter) -> Path:
    """Return `folder` with a folder of pictures for each class of a known collection, downloaded if it is not there.

    Downloaded by kagglehub into its own cache, then linked into `folder` (copied where the disk is another one).
    kagglehub keeps what an interrupted download has brought, and goes on from there. Raises MissingExtraError without
    kagglehub, MachineError without space, UserError without a network, SourceError if something else is in `folder`.
    """
    if name not in KNOWN_DATASETS:
        raise UserError(f'There is no collection "{name}" to fetch. {did_you_mean(name, KNOWN_DATASETS)}')
    wanted = KNOWN_DATASETS[name]
    if _is_whole(folder, wanted):
        reporter.info(f"{name} is in {folder} already; nothing was downloaded.")
        return folder
    if is_occupied(folder):
        raise SourceError(f"{folder} holds something else than {name}. Give a folder that is empty or not there yet.")
    _check_space(wanted, folder)
    brought = _download(name, wanted, reporter)
    if folder.exists():
        folder.rmdir()  # it is empty, and its name is needed
    with atomic_folder(folder) as temporary:
        _link_files(brought, temporary, reporter)
    if not _is_whole(folder, wanted):
        raise SourceError(f"Something else was put into {folder} meanwhile. Give another folder.")
    reporter.info(f"kagglehub keeps its own copy in {brought}; it can be deleted.")
    return folder


def _is_whole(folder: Path, wanted: KnownDataset) -> bool:
    """Tell whether all classes are there. The folder gets its name when it is whole, so they are whole as well."""
    return all((folder / label).is_dir() for label in wanted.classes)


def _cache() -> Path:
    """Return where kagglehub keeps its downloads."""
    return Path(os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub")


def _check_space(wanted: KnownDataset, folder: Path) -> None:
    """Raise MachineError unless there is room to download, to unpack, and to copy where links are not possible."""
    kept = _cache() / "datasets" / wanted.handle
    there = sum(path.stat().st_size for path in kept.glob("*.archive"))
    missing = 0 if any(kept.glob("*.complete")) else wanted.packed_bytes + wanted.unpacked_bytes - there
    cache, target = _existing_parent(kept), _existing_parent(folder.absolute())
    if cache.stat().st_dev == target.stat().st_dev:
        require_space(target, missing, f"Downloading {wanted.handle}")
    else:
        require_space(cache, missing, f"Downloading {wanted.handle}")
        require_space(target, wanted.unpacked_bytes, f"Copying {wanted.handle}")


def _existing_parent(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _download(name: str, wanted: KnownDataset, reporter: Reporter) -> Path:
    """Return the folder of class folders that kagglehub has brought, now or at an earlier time."""
    reporter.info(f"Downloading {name} from {wanted.page}, {wanted.packed_bytes / 1e6:,.0f} MB.")
    with _redirect_stdout(reporter):
        kagglehub = import_optional("kagglehub", extra="fetch")
        try:
            brought = Path(kagglehub.dataset_download(wanted.handle)) / wanted.inside
        except Exception as error:  # whatever it may be, it is another library's, about a network we do not know
            raise UserError(_manual_download_message(name, wanted, f"{type(error).__name__}: {error}")) from error
    if not _is_whole(brought, wanted):
        raise UserError(
            _manual_download_message(
                name, wanted, f"{brought} has not the {len(wanted.classes)} expected class folders"
            )
        )
    return brought


@contextlib.contextmanager
def _redirect_stdout(reporter: Reporter) -> Iterator[None]:
    """Send to stderr, or nowhere when quiet, what kagglehub writes: it logs to stdout, where our results go."""
    where = io.StringIO() if isinstance(reporter, SilentReporter) else sys.stderr
    with contextlib.redirect_stdout(where), contextlib.redirect_stderr(where):
        yield


def _manual_download_message(name: str, wanted: KnownDataset, why: str) -> str:
    return (
        f"{name} could not be downloaded: {' '.join(why.split()).rstrip('.')}. What has come is kept: the same command"
        f" goes on from there once the network is back. Or download the zip in a browser from {wanted.page} and give it"
        f" as it is: bestiary train archive.zip --labels {name}"
    )


def _link_files(brought: Path, folder: Path, reporter: Reporter) -> None:
    """Link every file into `folder`, or copy it where it cannot be linked."""
    files = sorted(path for path in brought.rglob("*") if path.is_file())
    try:
        with reporter.progress("Linking pictures", len(files)) as advance:
            for path in files:
                target = folder / path.relative_to(brought)
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(path, target)
                advance(1)
    except OSError as error:
        raise MachineError(f"Cannot write into {folder.parent}: {error.strerror or error}. Free some space.") from None


def _link(path: Path, target: Path) -> None:
    try:
        target.hardlink_to(path)
    except OSError:  # another disk, or one without links
        shutil.copy2(path, target)
