"""Wildlife Insights: the folder of a download, with images*.csv, deployments*.csv and others.

Ids of deployments repeat across projects, so that sites and sequences carry the id of their project.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from bestiary.data.formats.label_table import LabelFormat, LabelTable, ReadOptions
from bestiary.data.formats.row_frame import choose_columns, split_rows
from bestiary.data.formats.taxonomy import COMMON_NAME, RANKS, scientific_name
from bestiary.data.formats.text_columns import read_header, read_text_columns
from bestiary.errors import SourceError
from bestiary.text import format_count

IMAGE_COLUMNS = ("project_id", "deployment_id", "image_id", "filename", "location", COMMON_NAME, "timestamp")
OPTIONAL_COLUMNS = (*RANKS, "is_blank", "sequence_id", "placename")
BLANK_WITH_SPECIES = "marked as blank, with the name of an animal"
_TRUE = ("1", "true", "yes")


def is_wildlife_insights(path: Path) -> bool:
    """Return whether a folder has images*.csv of Wildlife Insights, or a file is one."""
    tables = _image_tables(path) if path.is_dir() else [path]
    return any(set(IMAGE_COLUMNS) <= set(read_header(table)) for table in tables if table.suffix.lower() == ".csv")


def read_wildlife_insights(path: Path, options: ReadOptions) -> LabelTable:
    """Return a row for each species of a picture, with the scientific name or, by `columns`, label=common_name.

    The file is the path in a gs:// address; where there is none, the deployment and the file's name. The site is the
    placename. Raises SourceError for missing tables and columns, and for a deployment at two places.
    """
    folder = path if path.is_dir() else path.parent
    tables = _image_tables(folder) if path.is_dir() else [path]
    if not tables:
        raise SourceError(f"{folder} has no images*.csv. Expected the unpacked download of Wildlife Insights.")
    label, notes = _choose_label(path, options)
    images = pl.concat([read_text_columns(table, IMAGE_COLUMNS, OPTIONAL_COLUMNS) for table in tables])
    deployments = _read_deployments(folder)
    keys = ["project_id", "deployment_id"]
    rows = images.join(deployments, on=keys, how="left", maintain_order="left")
    qualified = pl.concat_str(keys, separator="/")
    site = pl.coalesce("deployment_placename", "placename", "deployment_id")
    without_deployment = rows.filter(pl.col("deployment_placename").is_null()).height
    if without_deployment:
        notes.append(
            f"{format_count(without_deployment, 'row has', 'rows have')} no placename in deployments*.csv: their site"
            " is the deployment."
        )
    is_blank = pl.col("is_blank").str.to_lowercase().is_in(_TRUE).fill_null(False)
    has_taxon = pl.any_horizontal(pl.col(rank).is_not_null() for rank in RANKS)
    has_path = pl.col("location").str.starts_with("gs://").fill_null(False)
    rows = rows.select(
        file=pl.when(has_path)
        .then("location")
        .otherwise(pl.coalesce(pl.col("deployment_id") + "/" + pl.col("filename"), "location")),
        label=pl.when(is_blank).then(pl.lit("empty")).otherwise(label),
        group=pl.concat_str(qualified, "sequence_id", separator="/"),
        site=pl.concat_str(pl.col("project_id"), site, separator="/"),
        time=pl.col("timestamp"),
        reason=pl.when(is_blank & has_taxon).then(pl.lit(BLANK_WITH_SPECIES)),
    )
    if not rows["group"].is_not_null().any():
        notes.append("No picture has a sequence_id: pictures are grouped by nothing but their site.")
    return split_rows(tables[0], rows, options, notes)


FORMAT = LabelFormat("wildlife-insights", "Wildlife Insights", is_wildlife_insights, read_wildlife_insights)


def _image_tables(folder: Path) -> list[Path]:
    return sorted(folder.glob("images*.csv"))


def _read_deployments(folder: Path) -> pl.DataFrame:
    """Return project, deployment and place of each deployment; without a table of them, none."""
    keys = ("project_id", "deployment_id")
    tables = sorted(folder.glob("deployments*.csv"))
    frames = [read_text_columns(table, (*keys, "placename")) for table in tables]
    schema = dict.fromkeys((*keys, "placename"), pl.String)
    places = pl.concat([pl.DataFrame(schema=schema), *frames]).unique(maintain_order=True)
    repeated = places.filter(places.select(keys).is_duplicated())
    if repeated.height:
        project, deployment, _ = repeated.row(0)
        raise SourceError(
            f"{tables[0]}: the deployment {deployment} of project {project} has several placenames:"
            f" {', '.join(map(str, repeated.filter(deployment_id=deployment)['placename']))}. Expected one."
        )
    return places.rename({"placename": "deployment_placename"})


def _choose_label(path: Path, options: ReadOptions) -> tuple[pl.Expr, list[str]]:
    choices = {"label": ("scientific_name", COMMON_NAME)}
    name = choose_columns("wildlife-insights", options, choices, source=path).get("label", "scientific_name")
    if name == "scientific_name":
        return scientific_name(), [
            "Labels are genus and species, else the lowest rank that was identified; --columns label=common_name takes"
            " the common names."
        ]
    return pl.col(COMMON_NAME), [f"Labels are of the column {COMMON_NAME}."]
