"""Downloads a dataset that the user names; no other module of `data` uses the network."""

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
class KaggleDataset:
    """A dataset on Kaggle: its address, its sizes, and the class folders of a complete copy."""

    name: str
    handle: str
    packed_bytes: int
    unpacked_bytes: int
    inside: str  # the folder of the download that contains the class folders
    classes: frozenset[str]

    @property
    def page(self) -> str:
        """The web page of the dataset."""
        return f"https://www.kaggle.com/datasets/{self.handle}"

    def is_complete(self, folder: Path) -> bool:
        """Return whether a folder has all class folders."""
        return all((folder / label).is_dir() for label in self.classes)


DATASETS = {
    "animals10": KaggleDataset(
        "animals10", "alessiocorrado99/animals10", 600_000_000, 620_000_000, "raw-img", frozenset(ANIMALS10)
    )
}


def fetch_dataset(name: str, folder: Path, *, reporter: Reporter) -> Path:
    """Return `folder` with one folder of pictures per class of a dataset, downloaded unless it is there already.

    kagglehub downloads into its own cache and resumes interrupted downloads; the files are then linked into `folder`,
    or copied if it is on another disk. Raises MissingExtraError without kagglehub, MachineError without space,
    UserError without a network, SourceError if `folder` has other content.
    """
    if name not in DATASETS:
        raise UserError(f'There is no dataset "{name}" to fetch. {did_you_mean(name, DATASETS)}')
    dataset = DATASETS[name]
    if dataset.is_complete(folder):
        reporter.info(f"{name} is in {folder} already; nothing was downloaded.")
        return folder
    if is_occupied(folder):
        raise SourceError(f"{folder} has other content than {name}. Pass a folder that is empty or does not exist yet.")
    _check_space(dataset, folder)
    download = _download(dataset, reporter)
    if folder.exists():
        folder.rmdir()  # it is empty, and atomic_folder needs its name
    with atomic_folder(folder) as temporary:
        _link_files(download, temporary, reporter)
    if not dataset.is_complete(folder):
        raise SourceError(f"Another process wrote into {folder} meanwhile. Pass another folder.")
    reporter.info(f"kagglehub keeps its own copy in {download}; it can be deleted.")
    return folder


def _check_space(dataset: KaggleDataset, folder: Path) -> None:
    """Raise MachineError unless there is room to download and unpack, and to copy if links are not possible."""
    cache = Path(os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub")
    cached = cache / "datasets" / dataset.handle
    downloaded = sum(path.stat().st_size for path in cached.glob("*.archive"))
    is_complete = any(cached.glob("*.complete"))
    missing = 0 if is_complete else dataset.packed_bytes + dataset.unpacked_bytes - downloaded
    source, target = _existing_parent(cached), _existing_parent(folder.absolute())
    require_space(source, missing, f"Downloading {dataset.handle}")
    if source.stat().st_dev != target.stat().st_dev:
        require_space(target, dataset.unpacked_bytes, f"Copying {dataset.handle}")


def _existing_parent(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _download(dataset: KaggleDataset, reporter: Reporter) -> Path:
    """Return the folder of class folders that kagglehub has downloaded, now or earlier."""
    reporter.info(f"Downloading {dataset.name} from {dataset.page}, {dataset.packed_bytes / 1e6:,.0f} MB.")
    with _redirect_stdout(reporter):
        kagglehub = import_optional("kagglehub", extra="fetch")
        try:
            folder = Path(kagglehub.dataset_download(dataset.handle)) / dataset.inside
        except Exception as error:  # kagglehub and the network may raise anything
            raise _download_error(dataset, f"{type(error).__name__}: {error}") from error
    if not dataset.is_complete(folder):
        raise _download_error(dataset, f"{folder} does not contain the {len(dataset.classes)} expected class folders")
    return folder


@contextlib.contextmanager
def _redirect_stdout(reporter: Reporter) -> Iterator[None]:
    """Redirect the logs of kagglehub, which go to stdout, to stderr, or to nowhere when quiet."""
    stream = io.StringIO() if isinstance(reporter, SilentReporter) else sys.stderr
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        yield


def _download_error(dataset: KaggleDataset, why: str) -> UserError:
    return UserError(
        f"{dataset.name} could not be downloaded: {' '.join(why.split()).rstrip('.')}. The downloaded part is kept: run"
        " the same command again to resume once the network is back. Or download the zip in a browser from"
        f" {dataset.page} and pass it as it is: bestiary train archive.zip --labels {dataset.name}"
    )


def _link_files(source: Path, folder: Path, reporter: Reporter) -> None:
    """Link every file into `folder`, or copy it if it cannot be linked."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    try:
        with reporter.progress("Linking pictures", len(files)) as advance:
            for path in files:
                target = folder / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(path, target)
                advance(1)
    except OSError as error:
        raise MachineError(f"Cannot write into {folder.parent}: {error.strerror or error}. Free some space.") from None


def _link(path: Path, target: Path) -> None:
    try:
        target.hardlink_to(path)
    except OSError:  # another disk, or a file system without links
        shutil.copy2(path, target)
