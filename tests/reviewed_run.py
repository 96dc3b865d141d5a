"""A run with every kind of finding that can be reviewed."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl

from bestiary import table


def plant(probed: Path, run: Path, suspects: int = 16) -> Path:
    """Copy a finished run, add `suspects` suspect labels and an outlier to its findings; return the copy."""
    shutil.copytree(probed, run)
    pictures = pl.read_parquet(run / "pictures.parquet")
    sound = pictures.filter(pl.col("split").is_not_null() & (pl.len().over("group") == 1)).sort("row_id")
    labels = sorted(sound["label"].unique())
    rows = []
    for number, (row_id, path, label) in enumerate(sound.select("row_id", "path", "label").head(suspects).iter_rows()):
        other = labels[(labels.index(label) + 1) % len(labels)]
        message = f"Labelled {label}; looks like {other} (90 %)."
        rows.append(("suspect-label", row_id, path, number / 100, True, message, None, other))
    row_id, path = sound.select("row_id", "path").row(-1)
    rows.append(("outlier", row_id, path, 0.1, True, "Unlike the other pictures.", None, None))
    findings = pl.read_parquet(run / "findings.parquet").filter(~pl.col("check").is_in(("suspect-label", "outlier")))
    planted = pl.DataFrame(rows, schema=table.FINDINGS, orient="row")
    table.write(pl.concat([findings, planted], how="diagonal"), run / "findings.parquet")
    return run
