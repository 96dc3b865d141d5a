"""The Camtrap DP package (1.0) that predicted pictures belong to: its deployments, media, and scientific names."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bestiary.errors import SourceError
from bestiary.text import format_names

DESCRIPTOR, DEPLOYMENTS, MEDIA = "datapackage.json", "deployments.csv", "media.csv"
VERSION = re.compile(r"/camtrap-dp/(1\.0(?:\.\d+)?)/")
DEPLOYMENT_COLUMNS = ("deploymentID", "latitude", "longitude", "deploymentStart", "deploymentEnd")
MEDIA_COLUMNS = ("mediaID", "deploymentID", "timestamp", "filePath")
PROJECT_FIELDS = ("created", "contributors", "project", "spatial", "temporal", "taxonomic")
MISSING = {"", "NA", "NaN", "nan"}
NEEDED = (
    "Give --package DIR with datapackage.json (project, contributors, spatial, temporal, taxonomic) and deployments.csv"
    " (deploymentID, latitude, longitude, deploymentStart, deploymentEnd), and media.csv if there is one."
)


@dataclass(frozen=True)
class Medium:
    """A picture of a package: its identifier, that of its deployment, and its time as ISO 8601 with offset."""

    media_id: str
    deployment_id: str
    timestamp: str


class CamtrapPackage:
    """A package on disk, in memory; `media` is None if it has no table of them."""

    def __init__(self, folder: Path) -> None:
        """Read the package. Raises SourceError, naming what is missing and what a Camtrap DP needs."""
        self.folder = folder
        self.descriptor = _read_descriptor(folder / DESCRIPTOR)
        self.version = _read_version(self.descriptor, folder / DESCRIPTOR)
        self.deployments = {
            row["deploymentID"]: row for row in _iter_table(folder / DEPLOYMENTS, DEPLOYMENT_COLUMNS, required=True)
        }
        self.has_media = (folder / MEDIA).exists()
        self._scientific_names = dict(_iter_names(self.descriptor["taxonomic"]))
        self._by_name: dict[str, list[tuple[str, Medium]]] = {}
        for row in _iter_table(folder / MEDIA, MEDIA_COLUMNS, required=False):
            medium = Medium(row["mediaID"], row["deploymentID"], row["timestamp"])
            path = row["filePath"].replace("\\", "/")
            for name in {path.rpartition("/")[2], row.get("fileName", "")} - MISSING:
                self._by_name.setdefault(name, []).append((path, medium))

    def find_media(self, picture: str) -> list[Medium]:
        """Return the media that a picture may be: one if it is known.

        By the longest ending that its path shares with `filePath`, else by `fileName` in the folder of its deployment.
        """
        *folders, name = picture.split("/")
        candidates = self._by_name.get(name, [])
        if len(candidates) < 2:
            return [medium for _, medium in candidates]
        shared = [_shared_parts(path, picture) for path, _ in candidates]
        best = [medium for (_, medium), parts in zip(candidates, shared, strict=True) if parts == max(shared)]
        if max(shared) < 2:
            best = [medium for _, medium in candidates]
        in_folder = [medium for medium in best if medium.deployment_id in folders]
        return list(dict.fromkeys(in_folder if len(best) > 1 and in_folder else best))

    def find_deployment(self, picture: str) -> str | None:
        """Return the deployment whose identifier is the name of a folder of the picture, the deepest such folder."""
        return next((name for name in reversed(picture.split("/")[:-1]) if name in self.deployments), None)

    def add_offset(self, time: str, deployment_id: str) -> str:
        """Return a time with offset to the second; one without has that of the start of its deployment."""
        moment = datetime.fromisoformat(time).replace(microsecond=0)
        if moment.tzinfo is None:
            start = datetime.fromisoformat(self.deployments[deployment_id]["deploymentStart"])
            moment = moment.replace(tzinfo=start.tzinfo)
        return moment.isoformat()

    def scientific_name(self, label: str) -> str | None:
        """Return the scientific name that the package's taxonomic coverage has for a label, in any of its languages."""
        return self._scientific_names.get(_fold(label))


def _iter_names(taxa: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield each name of each taxon with its scientific name; scientific names last, which win."""
    for taxon in taxa:
        vernacular = taxon.get("vernacularNames")
        for name in vernacular.values() if isinstance(vernacular, dict) else ():
            yield _fold(str(name)), str(taxon["scientificName"])
    for taxon in taxa:
        yield _fold(str(taxon["scientificName"])), str(taxon["scientificName"])


def _read_descriptor(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"There is no {path}. {NEEDED}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} cannot be read: {error}.") from None
    if not isinstance(values, dict) or (missing := [name for name in PROJECT_FIELDS if name not in values]):
        lacks = format_names(missing, len(PROJECT_FIELDS)) if isinstance(values, dict) else "an object"
        raise SourceError(f"{path} lacks {lacks}, which Camtrap DP requires. {NEEDED}")
    if not isinstance(values["taxonomic"], list) or not all(
        isinstance(taxon, dict) and "scientificName" in taxon for taxon in values["taxonomic"]
    ):
        raise SourceError(f"{path}: taxonomic is no list of objects with a scientificName.")
    return values


def _read_version(descriptor: dict[str, Any], path: Path) -> str:
    match = VERSION.search(str(descriptor.get("profile", "")))
    if match is None:
        raise SourceError(
            f"{path} has the profile {descriptor.get('profile')!r}; expected Camtrap DP 1.0. Convert the package first."
        )
    return match[1]


def _iter_table(path: Path, columns: tuple[str, ...], *, required: bool) -> Iterator[dict[str, str]]:
    """Yield the rows of a table of a package. Raises SourceError if a column, or a value in it, is missing."""
    if not required and not path.exists():
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            if missing := [name for name in columns if name not in (rows.fieldnames or [])]:
                raise SourceError(f"{path} lacks the columns {format_names(missing, len(columns))}.")
            for row in rows:
                if empty := [name for name in columns if (row[name] or "") in MISSING]:
                    raise SourceError(f"Line {rows.line_num} of {path} has no {format_names(empty, len(columns))}.")
                yield row
    except FileNotFoundError:
        raise SourceError(f"There is no {path}. {NEEDED}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read: {error}.") from None


def _shared_parts(path: str, picture: str) -> int:
    """Return how many of the last parts of two paths are equal."""
    pairs = zip(reversed(path.split("/")), reversed(picture.split("/")), strict=False)
    count = 0
    for first, second in pairs:
        if first != second:
            break
        count += 1
    return count


def _fold(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())
