"""Camtrap DP 1.0: a package of machine observations, one for each picture or box, beside its deployments and media.

A Camtrap DP says where and when each picture was taken and what the project was. Pictures do not: that comes from a
package (`--package`), and nothing of it is invented. Its media are found by path; without media.csv, the folder that is
named like a deployment and the EXIF time of a picture make a row.
"""

from __future__ import annotations

import csv
import hashlib
import json
import mimetypes
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from bestiary.capture_time import read_capture_time
from bestiary.errors import MachineError, PictureError, UserError
from bestiary.inference.output_formats.camtrap_columns import DEPLOYMENT_COLUMNS, MEDIA_COLUMNS, OBSERVATION_COLUMNS
from bestiary.inference.output_formats.camtrap_package import (
    DEPLOYMENTS,
    DESCRIPTOR,
    MEDIA,
    NEEDED,
    CamtrapPackage,
    Medium,
)
from bestiary.inference.output_formats.conversion import Conversion, decimal, fraction_box, relative_name, utc_now
from bestiary.inference.predictor import Prediction
from bestiary.orientation import read_exif
from bestiary.picture import open_image, read_bytes
from bestiary.special_labels import Family, special_family
from bestiary.text import format_count, format_names

OBSERVATIONS = "observations.csv"
OBSERVATION_TYPES: dict[Family | None, str] = {
    "empty": "blank",
    "human": "human",
    "vehicle": "vehicle",
    "unknown": "unknown",
    None: "animal",
}
RESOURCES = ("deployments", "media", "observations")
SCHEMA = "https://raw.githubusercontent.com/tdwg/camtrap-dp/{version}/{name}-table-schema.json"
BOX_COLUMNS = ("bboxX", "bboxY", "bboxWidth", "bboxHeight")
MAX_PICTURES, ID_CHARS = 5, 16


def require_package(conversion: Conversion) -> CamtrapPackage:
    """Return the package of the pictures. Raises UserError if none was given, SourceError if it is not complete."""
    if conversion.package is None:
        raise UserError(
            "Camtrap DP requires a deployment with its place, and a time, for every picture, and facts of the project."
            f" {NEEDED}"
        )
    package = CamtrapPackage(conversion.package)
    if not package.has_media and conversion.folder is None:
        raise UserError(
            f"{package.folder} has no {MEDIA}: give a single folder of pictures, which paths are relative to."
        )
    return package


def write_camtrap_dp(predictions: Iterable[Prediction], path: Path, conversion: Conversion) -> list[str]:
    """Write the folder of a package, which appears when it is complete. Returns notices about its labels.

    Raises UserError, naming pictures, if some are no media of the package, or have no deployment or time.
    """
    package = require_package(conversion)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name[:20]}.", dir=path.parent))
        try:
            unnamed = _write_tables(predictions, staging, package, conversion)
            _copy_table(package.folder / DEPLOYMENTS, staging / DEPLOYMENTS, DEPLOYMENT_COLUMNS)
            if package.has_media:
                _copy_table(package.folder / MEDIA, staging / MEDIA, MEDIA_COLUMNS)
            text = json.dumps(_describe(package), indent=2, ensure_ascii=False) + "\n"
            (staging / DESCRIPTOR).write_text(text, encoding="utf-8")
            staging.chmod(0o755)
            staging.rename(path)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise MachineError(f"Cannot write {path}: {error.strerror or error}.") from error
    if not unnamed:
        return []
    return [
        f"{format_count(sum(unnamed.values()), 'observation has', 'observations have')} no scientificName, since"
        f" {package.folder / DESCRIPTOR} has none for {format_names(sorted(unnamed), MAX_PICTURES)}: their label"
        " is in observationTags."
    ]


def _write_tables(
    predictions: Iterable[Prediction], folder: Path, package: CamtrapPackage, conversion: Conversion
) -> Counter[str]:
    """Write observations.csv, and media.csv unless the package has it; returns how often each label has no name."""
    unnamed, unplaced, used = Counter[str](), list[str](), dict[str, tuple[str | None, int]]()
    now = utc_now().isoformat().replace("+00:00", "Z")
    with ExitStack() as files:
        observations = csv.writer(_create(folder / OBSERVATIONS, files), lineterminator="\n")
        observations.writerow(OBSERVATION_COLUMNS)
        media = None if package.has_media else csv.writer(_create(folder / MEDIA, files), lineterminator="\n")
        if media is not None:
            media.writerow(MEDIA_COLUMNS)
        for prediction in predictions:
            name = relative_name(prediction.path, conversion.folder)
            medium = _find_medium(prediction, name, package)
            if isinstance(medium, str):
                unplaced.append(f"{name} ({medium})")
                continue
            if medium.media_id in used and (prediction.box is None or used[medium.media_id][0] != prediction.path):
                unplaced.append(f"{name} (media {medium.media_id} has another picture already)")
                continue
            path, number = used.get(medium.media_id, (prediction.path, 0))
            used[medium.media_id] = path, number + 1
            if media is not None and not number:
                values = _describe_medium(medium, name)
                media.writerow([values.get(column, "") for column in MEDIA_COLUMNS])
            row = _observe(prediction, medium, package, conversion) | {"classificationTimestamp": now}
            if prediction.box is not None:
                sides = fraction_box(prediction) if prediction.error is None else ("",) * len(BOX_COLUMNS)
                row |= zip(BOX_COLUMNS, sides, strict=True)
                row["observationID"] += f"_{number + 1}"
            if not row.get("scientificName") and row["observationType"] == "animal":
                unnamed[str(prediction.label)] += 1
            observations.writerow([row.get(column, "") for column in OBSERVATION_COLUMNS])
    if unplaced:
        raise UserError(
            f"{format_count(len(unplaced), 'picture')} cannot be written into a Camtrap DP:"
            f" {format_names(unplaced, MAX_PICTURES)}. Complete {package.folder}, then go on with --resume: the"
            " predictions are kept."
        )
    return unnamed


def _copy_table(source: Path, target: Path, columns: tuple[str, ...]) -> None:
    """Copy a table as it is if it has all columns; else with empty ones in their places, and its own after them."""
    with source.open(encoding="utf-8-sig", newline="") as lines, ExitStack() as files:
        rows = csv.DictReader(lines)
        names = list(rows.fieldnames or [])
        if set(columns) <= set(names):
            shutil.copyfile(source, target)
            return
        out = csv.DictWriter(
            _create(target, files), [*columns, *(name for name in names if name not in columns)], lineterminator="\n"
        )
        out.writeheader()
        out.writerows(rows)


def _create(path: Path, files: ExitStack) -> Any:
    return files.enter_context(path.open("w", encoding="utf-8", errors="backslashreplace", newline=""))


def _find_medium(prediction: Prediction, name: str, package: CamtrapPackage) -> Medium | str:
    """Return the medium of a picture, or why it has none."""
    if package.has_media:
        media = package.find_media(name)
        if len(media) != 1:
            return f"it may be {len(media)} media" if media else "not in media.csv"
        return media[0] if media[0].deployment_id in package.deployments else "its deployment is not in deployments.csv"
    deployment = package.find_deployment(name)
    if deployment is None:
        return "no folder is named like a deployment"
    time = None
    with (
        suppress(PictureError, OSError, ValueError, SyntaxError),
        open_image(read_bytes(Path(str(prediction.path)))) as image,
    ):
        time = read_capture_time(read_exif(image))
    if time is None:
        return "no EXIF time"
    media_id = hashlib.sha256(name.encode()).hexdigest()[:ID_CHARS]
    return Medium(media_id, deployment, package.add_offset(time, deployment))


def _describe_medium(medium: Medium, name: str) -> dict[str, str]:
    kind = mimetypes.guess_type(name)[0] or ""
    kind = kind if kind.startswith("image/") else f"image/{Path(name).suffix.removeprefix('.').lower() or 'unknown'}"
    return {
        "mediaID": medium.media_id,
        "deploymentID": medium.deployment_id,
        "timestamp": medium.timestamp,
        "filePath": name,
        "filePublic": "false",
        "fileName": name.rpartition("/")[2],
        "fileMediatype": kind,
    }


def _observe(prediction: Prediction, medium: Medium, package: CamtrapPackage, conversion: Conversion) -> dict[str, Any]:
    """Return the observation of a picture: a blank, human or vehicle by its label, unknown if it is like no class."""
    row: dict[str, Any] = {
        "observationID": f"{medium.media_id}_machine",
        "deploymentID": medium.deployment_id,
        "mediaID": medium.media_id,
        "eventStart": medium.timestamp,
        "eventEnd": medium.timestamp,
        "observationLevel": "media",
        "classificationMethod": "machine",
        "classifiedBy": conversion.classifier,
    }
    if prediction.error is not None:
        return row | {"observationType": "unclassified", "observationComments": f"cannot be read: {prediction.error}"}
    label = str(prediction.label)
    if prediction.unknown:
        nearest = max(prediction.probabilities, key=prediction.probabilities.__getitem__)
        return row | {
            "observationType": "unknown",
            "observationComments": f"like none of the classes; nearest: {nearest}",
        }
    row |= {
        "observationType": OBSERVATION_TYPES[special_family(label)],
        "classificationProbability": decimal(prediction.probability),
    }
    if row["observationType"] == "animal":
        row |= {"scientificName": package.scientific_name(label) or "", "observationTags": f"label:{label}"}
    return row


def _describe(package: CamtrapPackage) -> dict[str, Any]:
    """Return datapackage.json: that of the package, with the three tables and the time of now."""
    resources = [
        {
            "name": name,
            "path": f"{name}.csv",
            "profile": "tabular-data-resource",
            "format": "csv",
            "mediatype": "text/csv",
            "encoding": "utf-8",
            "schema": SCHEMA.format(version=package.version, name=name),
        }
        for name in RESOURCES
    ]
    project = {**package.descriptor["project"], "observationLevel": ["media"]}
    values = {name: value for name, value in package.descriptor.items() if name not in {"id", "resources"}}
    created = utc_now().isoformat().replace("+00:00", "Z")
    return {"resources": resources, **values, "project": project, "created": created}
