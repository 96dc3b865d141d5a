"""What is done with a changed file, and what may come out: a result that holds together, or a UserError."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bestiary.context import Context
from bestiary.costs import read_costs
from bestiary.data.box_file import add_boxes
from bestiary.data.corrections import read_corrections
from bestiary.data.formats.label_table import ReadOptions
from bestiary.data.formats.read_options import make_read_options
from bestiary.data.sources import list_sources
from bestiary.errors import UserError
from bestiary.picture import LIMITS, load, open_picture
from bestiary.recipe import Recipe
from fuzzing import cases
from fuzzing.cases import Case

SIDE = 64  # pixels of a model's input


@dataclass(frozen=True)
class Target:
    """Something that reads files: valid ones, and a function that reads them.

    check: called with the folder of the files, an empty folder for a cache, and the case; raises AssertionError if a
    result is wrong, and UserError where the file is refused.
    """

    make_cases: Callable[[], list[Case]]
    check: Callable[[Path, Path, Case], None]


class Bench:
    """A folder for the files of one case after another, in which nothing but the changed file may change."""

    def __init__(self, target: Target) -> None:
        """Write no file yet."""
        self.target, self.cases = target, target.make_cases()
        self._root = Path(tempfile.mkdtemp(prefix="fuzzing-"))
        self._files, self._cache, self._current = self._root / "files", self._root / "cache", -1
        (self._root / "cwd").mkdir()
        os.chdir(self._root / "cwd")

    def run(self, number: int, content: bytes) -> str:
        """Return the message of the error that a changed file of a case ends with, "" for none.

        Raises AssertionError for a wrong result, and any error that is no UserError.
        """
        case = self.cases[number % len(self.cases)]
        if number != self._current:
            shutil.rmtree(self._files, ignore_errors=True)
            for name, original in case.files.items():
                (self._files / name).parent.mkdir(parents=True, exist_ok=True)
                (self._files / name).write_bytes(original)
            self._current = number
        (self._files / case.fuzzed).write_bytes(content)
        before, message = self._snapshot(), ""
        try:
            self.target.check(self._files, self._cache, case)
        except UserError as error:
            message = str(error)
            assert message.strip(), "an error without a message"
            message.encode()  # one that cannot be printed would be a traceback
        finally:
            shutil.rmtree(self._cache, ignore_errors=True)
        assert self._snapshot() == before, "something was written beside the files"
        return message

    def close(self) -> None:
        """Remove the folders."""
        os.chdir("/")
        shutil.rmtree(self._root)

    def _snapshot(self) -> list[tuple[str, int, int]]:
        paths = [Path(folder) / name for folder, _, names in os.walk(self._root) for name in names]
        return sorted((str(path), *_state(path)) for path in paths if not path.is_relative_to(self._cache))


def _state(path: Path) -> tuple[int, int]:
    stat = path.lstat()
    return stat.st_size, stat.st_mtime_ns


def check_picture(folder: Path, _cache: Path, case: Case) -> None:
    """A picture is RGB of the size that is named, within the limit, or refused with the name of a finding."""
    content = (folder / case.fuzzed).read_bytes()
    opened = open_picture(content, at_least=SIDE)
    assert opened.image.mode == "RGB"
    assert opened.width > 0 < opened.height
    assert opened.image.width * opened.image.height <= LIMITS.max_pixels
    assert 0 <= opened.whitened <= 1
    pixels = load(content, SIDE)
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels.dtype == np.uint8


def check_source(folder: Path, cache: Path, case: Case) -> None:
    """Every listed picture has a label, and lies in the folder or was unpacked from it; something is listed."""
    options = make_read_options(**case.options) or ReadOptions()
    source = folder / case.source
    listing = list_sources([source], {}, Context(cache=cache), reading=replace(options, boxes=case.boxes))
    assert listing.pictures or listing.unusable
    for entry in listing.pictures:
        assert entry.label.strip() == entry.label != ""
        assert entry.split in (None, "train", "val", "test")
        assert (
            entry.box is None or np.isfinite([entry.box.left, entry.box.top, entry.box.width, entry.box.height]).all()
        )
        texts = [str(entry.path), entry.label, entry.group or "", entry.site or "", entry.time or ""]
        "".join(texts).encode()
    "".join(notice.message for notice in listing.notices).encode()


def check_boxes(folder: Path, cache: Path, case: Case) -> None:
    """Boxes of another file than the labels."""
    labels = folder.parent / "cwd" / "labels.csv"
    labels.write_text("".join(["path,label\n", *(f"{folder / name},fox\n" for name in ("s1/a.jpg", "c.jpg"))]))
    try:
        listing = list_sources([labels], {}, Context(cache=cache))
        assert add_boxes(listing, folder / case.source, ReadOptions(pictures=folder)).pictures
    finally:
        labels.unlink()


def _reads(read: Callable[[Path], Any]) -> Callable[[Path, Path, Case], None]:
    """Return a check of a reader of one file, of which nothing is asked but an answer or a UserError."""

    def check(folder: Path, _cache: Path, case: Case) -> None:
        read(folder / case.source)

    return check


TARGETS: dict[str, Target] = {
    "picture": Target(lambda: cases.make_file_cases("picture", *cases.draw_pictures()), check_picture),
    "table": Target(cases.make_table_cases, check_source),
    "manifest": Target(cases.make_manifest_cases, check_source),
    "huggingface": Target(cases.make_huggingface_cases, check_source),
    "label-studio": Target(cases.make_label_studio_cases, check_source),
    "roboflow": Target(cases.make_roboflow_cases, check_source),
    "cvat": Target(cases.make_cvat_cases, check_source),
    "webdataset": Target(cases.make_webdataset_cases, check_source),
    "coco": Target(cases.make_coco_cases, check_source),
    "megadetector": Target(cases.make_megadetector_cases, check_source),
    "speciesnet": Target(cases.make_speciesnet_cases, check_source),
    "camtrap-dp": Target(cases.make_camtrap_dp_cases, check_source),
    "wildlife-insights": Target(cases.make_wildlife_insights_cases, check_source),
    "timelapse": Target(cases.make_timelapse_cases, check_source),
    "deepfaune": Target(cases.make_deepfaune_cases, check_source),
    "archive": Target(cases.make_archive_cases, check_source),
    "boxes": Target(cases.make_megadetector_cases, check_boxes),
    "corrections": Target(
        lambda: cases.make_file_cases("corrections.csv", cases.CORRECTIONS), _reads(read_corrections)
    ),
    "costs": Target(lambda: cases.make_file_cases("costs.csv", *cases.COSTS), _reads(read_costs)),
    "recipe": Target(lambda: cases.make_file_cases("recipe.toml", cases.RECIPE), _reads(Recipe.read)),
}
