"""WebDataset shards: tar files with `key.jpg` beside `key.cls`, `key.json` or `key.txt`; unpacked into the cache."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from bestiary.data.archive_members import DAMAGE, damage_error
from bestiary.data.folder_walk import NOT_TEXT, is_text
from bestiary.data.formats.label_table import LabelFormat, LabelTable, ReadOptions
from bestiary.data.formats.row_list import NO_LABEL, RowList
from bestiary.data.formats.table_file import format_json_value
from bestiary.data.split import parse_split_name
from bestiary.errors import SourceError
from bestiary.picture_formats import PICTURE_SUFFIXES
from bestiary.table_columns import LABEL_NAMES
from bestiary.text import format_names

LABEL_SUFFIXES = (".cls", ".json", ".txt")
CLASS_FILES = ("classes.txt", "classnames.txt", "labels.txt", "classes.json", "classnames.json")
MAX_LABEL_BYTES = 2**20
FIRST_MEMBERS = 12
_SHARD = re.compile(r"^(.*?)-?(\d{3,})\.tar$")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass
class Sample:
    """The members of one key: the name of its picture, and the texts beside it, by suffix."""

    picture: str | None = None
    texts: dict[str, str] = field(default_factory=dict)


def expand_shards(source: Path) -> list[Path]:
    """Return the shards of a path with a range, `name-{000000..000009}.tar`; of another path, itself."""
    match = _RANGE.search(source.name)
    if match is None:
        return [source]
    first, last = int(match[1]), int(match[2])
    if last < first or last - first > 1_000_000:
        raise SourceError(f"{source}: {match[0]} is no range of shards, such as {{000000..000009}}.")
    names = [
        f"{source.name[: match.start()]}{n:0{len(match[1])}}{source.name[match.end() :]}"
        for n in range(first, last + 1)
    ]
    return [source.with_name(name) for name in names]


def is_webdataset(source: Path) -> bool:
    """Return whether a tar, or the first of a folder of numbered shards, has labels beside its pictures."""
    if source.is_dir():
        shards = _list_shards(source)
        if not shards or any(path.is_dir() and not path.name.startswith(".") for path in source.iterdir()):
            return False
        return _has_labels(shards[0], needs_cls=False)
    paths = expand_shards(source)
    if not paths[0].is_file() or paths[0].suffix.lower() != ".tar":
        return False
    return _has_labels(paths[0], needs_cls=len(paths) == 1 and _SHARD.match(source.name) is None)


def read_webdataset(source: Path, options: ReadOptions) -> LabelTable:
    """Return a row for each sample, with the path of its unpacked picture.

    Raises SourceError if a shard is missing or damaged, or the label of a sample cannot be decided.
    """
    shards = _list_shards(source) if source.is_dir() else expand_shards(source)
    missing = [path.name for path in shards if not path.is_file()]
    if missing or not shards:
        why = (
            f"the shards {format_names(missing, 3)} are missing" if missing else "there are no numbered tar files in it"
        )
        raise SourceError(f"{source}: {why}.")
    if options.unpack is None:
        raise ValueError("The pictures of shards are unpacked: the options lack `unpack`.")
    rows, classes, fields = RowList(), _read_classes(source), dict[str, int]()
    for shard in shards:
        samples = _read_samples(shard)
        folder = options.unpack(shard)
        split = parse_split_name(match[1].rpartition("/")[2]) if (match := _SHARD.match(shard.name)) else None
        for key, sample in samples.items():
            if sample.picture is None:
                rows.leave_out(f"{shard.name}/{key}", "sample without a picture")
                continue
            if not is_text(Path(sample.picture)):
                rows.leave_out(f"{shard.name}/{sample.picture}", NOT_TEXT)
                continue
            label, name = _read_label(sample, options.columns.get("label"), f"{shard}, sample {key}")
            fields[name] = fields.get(name, 0) + 1
            if label is None:
                rows.leave_out(f"{shard.name}/{sample.picture}", NO_LABEL)
            else:
                rows.add(str(folder / sample.picture), _name_class(label, classes, shard), split=split)
    named = f", named by {len(classes)} classes" if classes else ""
    notes = [f"{source}: {len(shards):,} shards, labels from {', '.join(sorted(fields))}{named}."]
    if not classes and ".cls" in fields:
        notes.append(
            f"{source}: the labels are class numbers. A file classes.txt beside the shards, a name a line, names them."
        )
    return rows.make_table(notes)


# ---- Shards ---------------------------------------------------------------------------------------------------------


def _list_shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _SHARD.match(path.name) and path.is_file())


def _iter_headers(shard: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in iter(tar.next, None):
                if member.isfile():
                    yield tar, member
                vars(tar)["members"].clear()  # TarFile keeps every member it has read
    except DAMAGE as error:
        raise damage_error(shard, str(error)) from None


def _split_key(name: str) -> tuple[str, str]:
    """Return the key of a member, up to the first dot of its last part, and the lower-case suffix after it."""
    path = PurePosixPath(name)
    stem, dot, suffix = path.name.partition(".")
    return str(path.with_name(stem)) if stem else name, (dot + suffix).lower()


def _has_labels(shard: Path, *, needs_cls: bool) -> bool:
    """Return whether the first members are pictures with labels of the same key; with folders, only by `.cls`."""
    suffixes: dict[str, set[str]] = {}
    has_folders = False
    try:
        for number, (_, member) in enumerate(_iter_headers(shard)):
            if number == FIRST_MEMBERS:
                break
            key, suffix = _split_key(member.name)
            suffixes.setdefault(key, set()).add(suffix)
            has_folders = has_folders or "/" in member.name.removeprefix("./")
    except (SourceError, OSError):
        return False
    accepted = (".cls",) if needs_cls or has_folders else LABEL_SUFFIXES
    return any(s & PICTURE_SUFFIXES and s & set(accepted) for s in suffixes.values())


def _read_samples(shard: Path) -> dict[str, Sample]:
    samples: dict[str, Sample] = {}
    for tar, member in _iter_headers(shard):
        key, suffix = _split_key(member.name)
        sample = samples.setdefault(key, Sample())
        if suffix in PICTURE_SUFFIXES:
            if sample.picture is not None:
                raise SourceError(f"{shard}: the sample {key} has two pictures, {sample.picture} and {member.name}.")
            sample.picture = member.name.removeprefix("./")
        elif suffix in LABEL_SUFFIXES and member.size <= MAX_LABEL_BYTES:
            file = tar.extractfile(member)
            sample.texts[suffix] = "" if file is None else file.read().decode("utf-8", errors="replace").strip()
    return samples


# ---- Labels ---------------------------------------------------------------------------------------------------------


def _read_label(sample: Sample, requested: str | None, where: str) -> tuple[str | None, str]:
    """Return the label of a sample, None without one, and where it is from: .cls, else a field of .json, else .txt."""
    if ".cls" in sample.texts and requested is None:
        return sample.texts[".cls"] or None, ".cls"
    if ".json" in sample.texts:
        try:
            content = json.loads(sample.texts[".json"] or "null")
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{where}: the .json cannot be read: {error}.") from None
        name = requested or _label_field(content, where)
        value: Any = content.get(name) if isinstance(content, dict) and name else content
        return format_json_value(value), f".json{f' ({name})' if name else ''}"
    return sample.texts.get(".txt") or None, ".txt"


def _label_field(content: Any, where: str) -> str | None:
    if not isinstance(content, dict):
        return None
    usual = [name for name in content if name.casefold().replace("_", "") in (*LABEL_NAMES, "cls")]
    if len(usual) != 1:
        raise SourceError(
            f"{where}: its .json has {'several fields' if usual else 'no field'} that may be the label"
            f" ({format_names(usual or list(content))}). Name it: --columns label=FIELD."
        )
    return str(usual[0])


def _read_classes(source: Path) -> list[str]:
    """Return the class names in a file beside the shards, empty without one: a name a line, or a JSON list."""
    folder = source if source.is_dir() else source.parent
    path = next((folder / name for name in CLASS_FILES if (folder / name).is_file()), None)
    if path is None:
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = json.loads(text) if path.suffix == ".json" else text.split("\n")
    except (OSError, ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "UTF-8 text"
        raise SourceError(f"{path} cannot be read as {kind}: {error}. Expected class names.") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SourceError(f"{path}: expected a list of class names.")
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    if "" in names:  # without it, the numbers of the others would mean other names
        raise SourceError(f"{path}: the class {names.index('')} has no name. Expected a name for each number from 0.")
    return names


def _name_class(label: str, classes: list[str], shard: Path) -> str:
    if not classes or not label.isdecimal():
        return label
    if int(label) >= len(classes):
        raise SourceError(f"{shard}: the class {label} is none of the {len(classes)} of the file with class names.")
    return classes[int(label)]


FORMAT = LabelFormat("webdataset", "WebDataset shards", is_webdataset, read_webdataset)
