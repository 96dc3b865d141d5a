"""Features computed on the nodes of a cluster: by the engine that this computer has chosen, from the same files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bestiary.array_types import Float32s
from bestiary.batches.pixel_cache import iter_pixel_batches
from bestiary.box import Region
from bestiary.context import Context
from bestiary.errors import MachineError, SourceError, UserError
from bestiary.models.engine import Engine, EngineChoice, engine_version, make_engine
from bestiary.models.engine_choice import explain_impossible
from bestiary.models.features import FeatureView, view_images
from bestiary.preprocess import Preprocessing, VerifiedFile
from bestiary.processor import read_processor
from bestiary.recipe_sections import FeaturesConfig
from bestiary.table_map import NODE, TableMap, unshared_file_error

REGION = dict.fromkeys(("left", "top", "width", "height"), pl.Int64)
FILES = {"path": pl.String, "sha256": pl.String} | REGION
RESULTS = {
    "sha256": pl.String,
    "features": pl.Binary,
    "kernels": pl.String,
    "error": pl.String,
    "is_unread": pl.Boolean,
}


@dataclass(frozen=True)
class ComputeFeatures:
    """Computes the features of a table of files, columns `FILES`: what a worker on a node runs.

    graph: serialised, with the output `features`; choice: of this computer, for a processor. The engine is loaded once
    in a process, for one thread.
    """

    graph: bytes
    choice: EngineChoice
    preprocess: Preprocessing
    view: FeatureView

    @cached_property
    def engine(self) -> Engine:
        """The engine; raises MachineError if this computer cannot compute by the choice, RunError if it fails."""
        if reason := explain_impossible(FeaturesConfig(**asdict(self.choice))):
            raise MachineError(f"{self.choice} is not possible there: {reason}.")
        return make_engine(self.choice, self.graph, threads=1)

    def __call__(self, files: pl.DataFrame, /) -> pl.DataFrame:
        """Return the columns `RESULTS`: the features as bytes of float32, or one error for all rows."""
        facts: dict[str, Any] = dict.fromkeys(RESULTS, pl.lit(None)) | {"sha256": files["sha256"]}
        try:
            rows = list(self._compute([_read_row(row) for row in files.iter_rows(named=True)]))
        except UserError as error:
            message = str(error.__cause__ or error)  # the cause names the fault without what to do on this computer
            facts |= {"error": pl.lit(message), "is_unread": pl.lit(isinstance(error, SourceError))}
        else:
            facts |= {"features": pl.Series([row.tobytes() for row in rows], dtype=pl.Binary)}
            facts |= {"kernels": pl.lit(describe_kernels(self.choice))}
        return files.select(**facts).cast(pl.Schema(RESULTS))

    def _compute(self, files: Sequence[VerifiedFile]) -> Iterator[Float32s]:
        """Yield the features of each file, float32 (channels,)."""
        engine = self.engine
        batches = iter_pixel_batches(files, self.preprocess, threads=1, batch_size=engine.batch_size)
        for outputs in engine.stream(view_images(images, **self.view) for images in batches):
            yield from outputs["features"]


def iter_features(
    files: Sequence[VerifiedFile], compute: ComputeFeatures, cluster: TableMap, context: Context
) -> Iterator[tuple[Sequence[VerifiedFile], Float32s]]:
    """Yield some of the files, whose digests differ, with their features, float32 (n, channels).

    A notice names each node whose kind of processor or version of the engine differs from this computer's: its features
    agree but for rounding. Raises SourceError, as in one process, for a file that was changed or cannot be read any
    more; MachineError if a node cannot read one that this computer can, or cannot compute by the choice.
    """
    by_key = {file.sha256: file for file in files}
    noticed = {describe_kernels(compute.choice)}
    for results in cluster.iter_mapped(compute, _make_table(files)):
        failed = results.filter(pl.col("error").is_not_null())
        for error, is_unread, node in failed.select("error", "is_unread", NODE).unique().iter_rows():
            broken = [by_key[key] for key in failed.filter(pl.col("error") == error)["sha256"]]
            raise _explain_failure(broken, error, node, compute, context) if is_unread else _node_error(node, error)
        for kernels, node in results.select("kernels", NODE).unique().iter_rows():
            if kernels not in noticed:
                noticed.add(kernels)
                context.reporter.info(
                    f'The node "{node}" computes features with {kernels}, this computer with'
                    f" {describe_kernels(compute.choice)}: they agree but for rounding."
                )
        values = np.frombuffer(b"".join(results["features"]), np.float32)
        yield [by_key[key] for key in results["sha256"]], values.reshape(results.height, -1)


def describe_kernels(choice: EngineChoice) -> str:
    """Return what decides how features are rounded on this computer: the engine's version, the kind of processor."""
    return f"{choice}, version {engine_version(choice.engine)}, on {read_processor().kind}"


def _explain_failure(
    files: Sequence[VerifiedFile], error: str, node: str, compute: ComputeFeatures, context: Context
) -> MachineError:
    """Return the error for files of which a node cannot read one; raises SourceError if this computer cannot either."""
    for _ in iter_pixel_batches(files, compute.preprocess, threads=context.threads):
        pass
    path = next((str(file.path) for file in files if str(file.path) in error), str(files[0].path))
    return unshared_file_error(node, path, error)


def _node_error(node: str, error: str) -> MachineError:
    return MachineError(
        f'The node "{node}" cannot compute features: {error} This computer has chosen the engine and the precision for'
        " all nodes. Set features.precision=float32, or leave out the nodes that differ."
    )


def _make_table(files: Sequence[VerifiedFile]) -> pl.DataFrame:
    """Return the files as the columns `FILES`."""
    regions = [None if file.region is None else asdict(file.region) for file in files]
    columns: dict[str, list[Any]] = {
        "path": [str(file.path) for file in files],
        "sha256": [file.sha256 for file in files],
        **{name: [region and region[name] for region in regions] for name in REGION},
    }
    return pl.DataFrame(columns, schema=FILES)


def _read_row(row: dict[str, Any]) -> VerifiedFile:
    region = None if row["left"] is None else Region(*(row[name] for name in REGION))
    return VerifiedFile(Path(row["path"]), row["sha256"], region)
