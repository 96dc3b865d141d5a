"""Export with its proof: the model that leaves is held against the run, from the bytes of real pictures to answers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Bools, Floats, Pixels
from bestiary.batches.pixel_cache import iter_pixel_batches
from bestiary.errors import IntegrityError, MachineError, SourceError, UserError
from bestiary.export.finalize import PARITY_LIMIT, outputs_match
from bestiary.export.formats import PRECISIONS, Kind, write_export
from bestiary.inference.bundle import Bundle, read_bundle
from bestiary.inference.predictor import Predictor
from bestiary.progress import Reporter
from bestiary.stats import Z_95
from bestiary.text import format_points

VERIFICATION_PICTURES = 500
CALIBRATION_PICTURES = 128
MAX_ACCURACY_DROP = 0.01  # of accuracy: one point


@dataclass(frozen=True)
class ParityReport:
    """How an exported model compares with its run.

    largest_difference: of any probability, over `pictures`. Accuracies are over `validation_pictures`; the loss is the
    run's accuracy minus the export's, with its 95 % interval.
    """

    pictures: int
    largest_difference: float
    labels_changed: int
    validation_pictures: int
    accuracy_before: float
    accuracy: float
    loss: dict[str, float]

    def summary(self) -> str:
        """Return the figures in words."""
        loss = self.loss
        return (
            f"Held against the run on {self.pictures:,} pictures, from their files: probabilities differ by at most"
            f" {self.largest_difference:.2g}, {self.labels_changed:,} labels differ. Accuracy on the"
            f" {self.validation_pictures:,} validation pictures: {format_points(self.accuracy_before, 1)} % before,"
            f" {format_points(self.accuracy, 1)} % after; lost {100 * loss['value']:.2f} points (95 % interval"
            f" {100 * loss['low']:.2f} to {100 * loss['high']:.2f})."
        )


def export(
    run: Path, kind: Kind, *, out: Path | None, force: bool, threads: int, reporter: Reporter
) -> tuple[Path, ParityReport]:
    """Return where the exported model was written, and the proof that it may be used.

    out: a new folder that `predict` and `serve` take; or a new file ending in .onnx, for other programs. Without it
    the model goes to RUN/export/KIND. Raises IntegrityError if a model in float32 differs from its run, or another
    loses more than one point of accuracy and is not forced; UserError if `out` exists.
    """
    bundle = read_bundle(run)
    if bundle.exported:
        raise SourceError(f"{run} has already been exported. Export the run that it came from.")
    target = out or run / "export" / kind
    is_file = _check_target(target, kind, must_be_new=out is not None)
    pictures = table.read(run / "pictures.parquet", table.PICTURES)
    training = pictures.filter(pl.col("split") == "train").sort("label", "row_id")
    proving = _select_pictures(pictures.filter(pl.col("split") == "val").sort("row_id"), training)
    _require_files(proving)
    if proving.height < VERIFICATION_PICTURES:
        reporter.info(f"The run has {proving.height:,} pictures to prove with; {VERIFICATION_PICTURES} are better.")
    with _staging_folder(target) as place:
        reporter.info(f"Writing {kind}.")
        exported = write_export(run, bundle, kind, place, _iter_calibration_images(training, bundle, threads))
        proof = _verify_export(run, place, proving, bundle, threads, reporter)
        require_no_regression(proof, kind, force=force)
        replace(exported, exported=asdict(proof)).write(place)
        _move(place / exported.graph if is_file else place, target)
    return target, proof


def paired_accuracy_drop(before: Bools, after: Bools) -> dict[str, float]:
    """Return by how much the share of True falls from `before` to `after`, with the ends of its 95 % interval.

    Both (n,), of the same pictures in order. Agresti and Min, "Simple improved confidence intervals for comparing
    matched proportions", Statistics in Medicine 24 (2005): half a picture is added to each of the four cells, so that
    no difference seen is not taken for no difference.
    """
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    n, b, c = len(before) + 2, lost + 0.5, won + 0.5
    centre, half = (b - c) / n, Z_95 * float(np.sqrt(b + c - (b - c) ** 2 / n)) / n
    value = (lost - won) / max(len(before), 1)
    return {"value": value, "low": min(centre - half, value), "high": max(centre + half, value)}


def require_no_regression(report: ParityReport, kind: Kind, *, force: bool) -> None:
    """Raise IntegrityError for a model that answers otherwise: float32 must agree, others may lose one point."""
    if PRECISIONS[kind] == "float32" and (report.largest_difference > PARITY_LIMIT or report.labels_changed):
        raise IntegrityError(f"The export is refused: it must agree to {PARITY_LIMIT:g}. {report.summary()}")
    if report.loss["value"] > MAX_ACCURACY_DROP and not force:
        raise IntegrityError(f"The export is refused: it loses more than one point. {report.summary()} Or: --force.")


def _select_pictures(validation: pl.DataFrame, training: pl.DataFrame) -> pl.DataFrame:
    """Return the validation pictures, and training pictures of all classes after them to fill up."""
    more = max(0, VERIFICATION_PICTURES - validation.height)
    return pl.concat([validation, training[_evenly_spaced_rows(training.height, more)]])


def _evenly_spaced_rows(count: int, wanted: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).astype(int)).tolist() if wanted and count else []


def _iter_calibration_images(training: pl.DataFrame, bundle: Bundle, threads: int) -> Iterator[Pixels]:
    """Yield training pictures of all classes, as the model sees them."""
    paths = [Path(path) for path in training[_evenly_spaced_rows(training.height, CALIBRATION_PICTURES)]["path"]]
    for batch in iter_pixel_batches(paths, bundle.preprocess, threads=threads):
        yield from batch


def _require_files(pictures: pl.DataFrame) -> None:
    gone = [path for path in pictures["path"] if not Path(path).is_file()]
    if gone:
        raise SourceError(
            f"{len(gone):,} of the run's pictures are not where they were, for example {gone[0]}. An export is proven"
            " on them: bring them back."
        )


def _verify_export(
    run: Path, folder: Path, pictures: pl.DataFrame, bundle: Bundle, threads: int, reporter: Reporter
) -> ParityReport:
    """Answer the pictures with the run and, with another engine where there is one, with the export."""
    before, after = Predictor(run, threads=threads, engine="fastest"), Predictor(folder, threads=threads)
    with reporter.progress("Proving", 2 * pictures.height) as advance:
        expected = _probabilities(before, pictures, advance)
        found = _probabilities(after, pictures, advance)
    return compare_outputs(expected, found, pictures, bundle.classes)


def compare_outputs(expected: Floats, actual: Floats, pictures: pl.DataFrame, classes: Sequence[str]) -> ParityReport:
    """Return the proof from the probabilities (n, classes) of run and export for these rows of the picture table."""
    validating = (pictures["split"] == "val").to_numpy().astype(bool)
    truth = np.array([classes.index(label) for label in pictures["label"]])
    right, still = (expected.argmax(axis=1) == truth)[validating], (actual.argmax(axis=1) == truth)[validating]
    tied = outputs_match(actual, expected)  # where two classes are tied, either may win
    changed = 0 if tied else int((expected.argmax(axis=1) != actual.argmax(axis=1)).sum())
    return ParityReport(
        pictures=len(expected),
        largest_difference=float(np.abs(expected - actual).max()),
        labels_changed=changed,
        validation_pictures=int(validating.sum()),
        accuracy_before=float(right.mean()),
        accuracy=float(still.mean()),
        loss=paired_accuracy_drop(right, still),
    )


def _probabilities(predictor: Predictor, pictures: pl.DataFrame, advance: Any) -> Floats:
    rows = []
    for answer in predictor.predict_many(Path(path) for path in pictures["path"]):
        if answer.error is not None:
            raise SourceError(f"{answer.error} It could be read when the run was made.")
        rows.append([answer.probabilities[name] for name in predictor.classes])
        advance(1)
    return np.array(rows, np.float64)


def _check_target(target: Path, kind: Kind, *, must_be_new: bool) -> bool:
    """Return whether a single file is asked for; raises UserError if it cannot be, or is there already."""
    is_file = target.suffix == ".onnx"
    if is_file and kind == "openvino":
        raise UserError(f"OpenVINO's format is two files: give a folder, not {target}.")
    if must_be_new and target.exists():
        raise UserError(f"{target} exists already, and is not written over. Choose another name.")
    return is_file


@contextmanager
def _staging_folder(target: Path) -> Iterator[Path]:
    """Give a folder beside the target, so that moving there is one step; it is removed at the end."""
    parent = target.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".export-", dir=parent))
    except OSError as error:
        raise MachineError(f"Cannot write into {parent}: {error.strerror or error}.") from None
    try:
        yield folder / "model"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    if target.is_dir():  # an earlier export in its usual place
        shutil.rmtree(target)
    source.replace(target)
