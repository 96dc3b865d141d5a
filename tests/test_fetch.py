import os
import re
import shutil
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from bestiary.data import fetch as fetching
from bestiary.data.archives import KEEP_FREE_BYTES
from bestiary.data.fetch import fetch_dataset
from bestiary.data.label_map import ANIMALS10
from bestiary.data.sources import list_sources
from bestiary.errors import MachineError, MissingExtraError, SourceError, UserError
from bestiary.install_command import install_command
from bestiary.progress import LogReporter, SilentReporter

usage = namedtuple("usage", "total used free")


class FakeKagglehub(ModuleType):
    """Downloads as kagglehub 1.0 does: into its own cache, in parts, telling stdout and stderr about it."""

    def __init__(self, cache: Path) -> None:
        super().__init__("kagglehub")
        self.kept = cache / "datasets" / "alessiocorrado99" / "animals10"
        self.asked: list[str] = []
        self.resumed_from = 0
        self.failure: BaseException | None = None
        self.classes = sorted(ANIMALS10)

    def dataset_download(self, handle: str) -> str:
        self.asked.append(handle)
        sys.stdout.write("Warning: Looks like you're using an outdated `kagglehub` version")
        sys.stderr.write("100%|####| 586M/586M")
        part, place = self.kept / "2.archive", self.kept / "versions" / "2"
        if (self.kept / "2.complete").exists():
            return str(place)
        self.resumed_from = part.stat().st_size if part.exists() else 0
        self.kept.mkdir(parents=True, exist_ok=True)
        part.write_bytes(bytes(1000))
        if self.failure is not None:
            raise self.failure
        for label in self.classes:
            (place / "raw-img" / label).mkdir(parents=True)
            (place / "raw-img" / label / "1.jpeg").write_bytes(label.encode())
        (place / "translate.py").write_text("translate = {}")
        part.unlink()
        (self.kept / "2.complete").touch()
        return str(place)


@pytest.fixture
def kagglehub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeKagglehub:
    fake = FakeKagglehub(tmp_path / "hub")
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(sys.modules, "kagglehub", fake)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**12, 0, 10**12))
    return fake


def fetched(folder: Path) -> Path:
    return fetch_dataset("animals10", folder, reporter=SilentReporter())


def test_the_collection_comes_as_a_folder_for_each_class(kagglehub: FakeKagglehub, tmp_path: Path) -> None:
    folder = fetched(tmp_path / "pictures" / "animals10")
    assert folder == tmp_path / "pictures" / "animals10"
    assert kagglehub.asked == ["alessiocorrado99/animals10"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(ANIMALS10)
    assert [path.name for path in folder.parent.iterdir()] == ["animals10"]
    assert list_sources([folder], ANIMALS10).labels() == sorted(ANIMALS10.values())
    linked = kagglehub.kept / "versions" / "2" / "raw-img" / "cane" / "1.jpeg"
    assert (folder / "cane" / "1.jpeg").samefile(linked)  # no space is used twice
    assert folder.stat().st_mode & 0o777 == 0o755


def test_a_collection_that_is_there_is_not_downloaded_again(kagglehub: FakeKagglehub, tmp_path: Path) -> None:
    fetched(tmp_path / "animals10")
    (tmp_path / "animals10" / "cane" / "1.jpeg").unlink()  # what the user has done there stays done
    assert fetched(tmp_path / "animals10") == tmp_path / "animals10"
    assert len(kagglehub.asked) == 1
    assert not (tmp_path / "animals10" / "cane" / "1.jpeg").exists()


def test_an_empty_folder_is_filled_and_any_other_is_left_alone(kagglehub: FakeKagglehub, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert len(list(fetched(tmp_path / "empty").iterdir())) == 10
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("mine", "file"):
        with pytest.raises(SourceError, match=rf"{name} has other content than animals10\. Pass a folder that is"):
            fetched(tmp_path / name)
    assert len(kagglehub.asked) == 1


def test_where_links_are_not_possible_pictures_are_copied(
    kagglehub: FakeKagglehub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(target: Path, source: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    folder = fetched(tmp_path / "animals10")
    assert (folder / "cane" / "1.jpeg").read_bytes() == b"cane"
    assert (folder / "cane" / "1.jpeg").stat().st_nlink == 1


def test_without_a_network_it_says_what_failed_and_what_to_do(kagglehub: FakeKagglehub, tmp_path: Path) -> None:
    kagglehub.failure = ConnectionError("HTTPSConnectionPool(host='www.kaggle.com', port=443):\n Max retries exceeded.")
    with pytest.raises(UserError) as caught:
        fetched(tmp_path / "animals10")
    message = str(caught.value)
    assert message.startswith(
        "animals10 could not be downloaded: ConnectionError: HTTPSConnectionPool(host='www.kaggle.com', port=443): Max"
        " retries exceeded. The downloaded part is kept: run the same command again to resume once the network is back."
    )
    assert "https://www.kaggle.com/datasets/alessiocorrado99/animals10" in message
    assert message.endswith("bestiary train archive.zip --labels animals10")
    assert "\n" not in message
    assert not (tmp_path / "animals10").exists()


def test_an_interrupted_download_goes_on_where_it_stopped(kagglehub: FakeKagglehub, tmp_path: Path) -> None:
    kagglehub.failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        fetched(tmp_path / "animals10")
    assert not (tmp_path / "animals10").exists()
    kagglehub.failure = None
    fetched(tmp_path / "animals10")
    assert kagglehub.resumed_from == 1000


def test_an_interrupted_linking_leaves_nothing_half_there(
    kagglehub: FakeKagglehub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = fetching._link

    def interrupt(path: Path, target: Path) -> None:
        if "gatto" in str(path):
            raise KeyboardInterrupt
        link(path, target)

    monkeypatch.setattr(fetching, "_link", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetched(tmp_path / "animals10")
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]
    monkeypatch.setattr(fetching, "_link", link)
    assert len(list(fetched(tmp_path / "animals10").iterdir())) == 10


def test_a_full_disk_is_told(kagglehub: FakeKagglehub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching, "_link", full)
    with pytest.raises(MachineError, match=r"Cannot write into .*: No space left on device\. Free some space"):
        fetched(tmp_path / "animals10")
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def with_free_bytes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def free(count: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**12, 0, KEEP_FREE_BYTES + count))

    return free


def test_space_is_checked_before_anything_is_downloaded(
    kagglehub: FakeKagglehub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, needed = with_free_bytes(monkeypatch), 1_220_000_000
    free(needed - 1)
    with pytest.raises(MachineError, match=r"Downloading .*animals10 needs 1,220 MB, and 1,488 MB are free at "):
        fetched(tmp_path / "animals10")
    assert kagglehub.asked == []
    kagglehub.kept.mkdir(parents=True)
    (kagglehub.kept / "2.archive").write_bytes(b"x")  # the part that an earlier try has brought counts
    fetched(tmp_path / "animals10")
    free(0)
    fetched(tmp_path / "once more")  # everything is in kagglehub's cache; links need no room


def test_another_disk_needs_room_for_the_copy(
    kagglehub: FakeKagglehub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub").mkdir()
    stat = Path.stat

    def on_its_own_disk(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = stat(path, follow_symlinks=follow_symlinks)
        if "hub" not in path.parts:
            return found
        return os.stat_result([*found[:2], found.st_dev + 1, *found[3:]])

    monkeypatch.setattr(Path, "stat", on_its_own_disk)
    free = {"hub": 1_300_000_000, "disk": 600_000_000}
    monkeypatch.setattr(
        shutil, "disk_usage", lambda p: usage(10**12, 0, KEEP_FREE_BYTES + free["hub" if "hub" in p.parts else "disk"])
    )
    with pytest.raises(MachineError, match=r"Copying .*animals10 needs 620 MB, and 868 MB are free"):
        fetched(tmp_path / "animals10")
    free["disk"] = 700_000_000
    fetched(tmp_path / "animals10")


def test_a_download_without_the_class_folders_is_not_passed_on(kagglehub: FakeKagglehub, tmp_path: Path) -> None:
    kagglehub.classes = ["cane", "gatto"]
    with pytest.raises(UserError, match=r"raw-img does not contain the 10 expected class folders"):
        fetched(tmp_path / "animals10")
    assert not (tmp_path / "animals10").exists()


def test_without_kagglehub_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**12, 0, 10**12))
    with pytest.raises(MissingExtraError, match=re.escape(install_command("fetch"))):
        fetched(tmp_path / "animals10")


def test_an_unknown_collection_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'no dataset "animal10" to fetch\. Did you mean "animals10"\? Known: '):
        fetch_dataset("animal10", tmp_path, reporter=SilentReporter())


def test_stdout_is_kept_for_results_and_quiet_is_quiet(
    kagglehub: FakeKagglehub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch_dataset("animals10", tmp_path / "a", reporter=SilentReporter())
    assert capsys.readouterr() == ("", "")
    fetch_dataset("animals10", tmp_path / "b", reporter=LogReporter())
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Downloading animals10 from https://www.kaggle.com/" in shown.err
    assert "586M" in shown.err
    fetch_dataset("animals10", tmp_path / "b", reporter=LogReporter())
    assert "is in" in capsys.readouterr().err
