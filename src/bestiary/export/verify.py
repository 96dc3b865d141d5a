"""Export of a run's model, verified: its predictions for real picture files are compared with those of the run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Bools, Floats, Pixels
from bestiary.batches.pixel_cache import iter_pixel_batches
from bestiary.costs import choose_labels
from bestiary.errors import IntegrityError, MachineError, SourceError, UserError
from bestiary.export.formats import PRECISIONS, Kind, write_export
from bestiary.export.parity import PARITY_LIMIT, evenly_spaced_rows, outputs_match
from bestiary.inference.bundle import Bundle, read_bundle
from bestiary.inference.predictor import Predictor
from bestiary.inference.proof import PROOF_PICTURES, describe_proof, write_proof
from bestiary.locks import output_lock
from bestiary.models.engine import has_openvino, make_engine, run_batch
from bestiary.models.engine_choice import OPENVINO, REFERENCE
from bestiary.progress import Advance, Reporter
from bestiary.stats import Z_95
from bestiary.text import format_points

VERIFICATION_PICTURES = 500
CALIBRATION_PICTURES = 128
MAX_ACCURACY_DROP = 0.01  # of accuracy: one point


@dataclass(frozen=True)
class ParityReport:
    """Differences between an exported model and its run.

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
        loss = {end: f"{100 * value:.2f}" for end, value in self.loss.items()}
        return (
            f"Compared with the run on {self.pictures:,} picture files: probabilities differ by at most"
            f" {self.largest_difference:.2g}, {self.labels_changed:,} labels differ. Accuracy on the"
            f" {self.validation_pictures:,} validation pictures: {format_points(self.accuracy_before, 1)} % before,"
            f" {format_points(self.accuracy, 1)} % after; lost {loss['value']} points (95 % confidence interval"
            f" {loss['low']} to {loss['high']})."
        )


def export(
    run: Path,
    kind: Kind,
    *,
    out: Path | None,
    force: bool,
    with_pictures: bool = True,
    threads: int,
    reporter: Reporter,
) -> tuple[Path, ParityReport]:
    """Write the exported model; return its path and the report of its verification.

    out: a new folder for `predict` and `serve`, or a new file ending in .onnx, for other programs; by default
    RUN/export/KIND. with_pictures: an 8-bit model's folder carries ten verification pictures, which verify it on other
    processors. Raises IntegrityError if a model in float32 differs from its run, or another loses more than one
    point of accuracy without `force`; UserError if `out` exists.
    """
    bundle = read_bundle(run)
    if bundle.exported:
        raise SourceError(f"{run} has already been exported. Export the run that it came from.")
    target = out or run / "export" / kind
    is_file = _check_target(target, kind, must_be_new=out is not None)
    pictures = table.read(run / "pictures.parquet", table.PICTURES)
    training = pictures.filter(pl.col("split") == "train").sort("label", "row_id")
    validation = pictures.filter(pl.col("split") == "val").sort("row_id")
    n_more = max(0, VERIFICATION_PICTURES - validation.height)  # filled up with training pictures of all classes
    sample = pl.concat([validation, training[evenly_spaced_rows(training.height, n_more)]])
    _require_files(sample)
    if sample.height < VERIFICATION_PICTURES:
        reporter.info(f"The run has {sample.height:,} pictures for verification; {VERIFICATION_PICTURES} are better.")
    with output_lock(target), _staging_folder(target) as folder:
        _check_target(target, kind, must_be_new=out is not None)  # again: another process may have written it
        reporter.info(f"Writing {kind}.")
        exported = write_export(run, bundle, kind, folder, _iter_calibration_images(training, bundle, threads))
        # The run by the fastest engine, the export by ONNX Runtime: two engines are compared if there are two.
        predictors = (
            Predictor(run, threads=threads, engine="fastest", device="cpu"),
            Predictor(folder, threads=threads, device="cpu"),
        )
        with reporter.progress("Verifying", 2 * sample.height) as advance:
            expected, actual = (_probabilities(predictor, sample, advance) for predictor in predictors)
        report = compare_outputs(expected, actual, sample, bundle.classes, bundle.costs)
        require_no_regression(report, kind, force=force)
        digest = None
        if exported.precision == "int8" and with_pictures and not is_file:
            digest = _write_proof(folder, exported, sample, threads)
        replace(exported, exported=asdict(report) | describe_proof(digest)).write(folder)
        if target.is_dir():  # an earlier export at the default path
            shutil.rmtree(target)
        (folder / exported.graph if is_file else folder).replace(target)
    return target, report


def _write_proof(folder: Path, bundle: Bundle, sample: pl.DataFrame, threads: int) -> str:
    """Write evenly spaced verification pictures with their probabilities by every engine; return the digest."""
    paths = table.list_files(sample[evenly_spaced_rows(sample.height, PROOF_PICTURES)])
    images = np.stack([bundle.preprocess.load_pixels(path) for path in paths])
    graph = folder / bundle.graph
    choices = [] if graph.suffix == ".xml" else [REFERENCE]  # OpenVINO's own format runs in OpenVINO only
    choices += [OPENVINO] if has_openvino() else []
    engines = [make_engine(choice, graph, threads=threads) for choice in choices]
    return write_proof(folder, images, {engine.name: run_batch(engine, images)["probabilities"] for engine in engines})


def paired_accuracy_drop(before: Bools, after: Bools) -> dict[str, float]:
    """Return the accuracy before minus the accuracy after, with the ends of its 95 % interval.

    Both bool (n,), of the same pictures in order: whether the prediction is correct. Agresti and Min, "Simple improved
    confidence intervals for comparing matched proportions", Statistics in Medicine 24 (2005): half a picture is added
    to each of the four cells, so that the interval has a width even without any difference.
    """
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    n, b, c = len(before) + 2, lost + 0.5, won + 0.5
    centre, half = (b - c) / n, Z_95 * float(np.sqrt(b + c - (b - c) ** 2 / n)) / n
    value = (lost - won) / max(len(before), 1)
    return {"value": value, "low": min(centre - half, value), "high": max(centre + half, value)}


def require_no_regression(report: ParityReport, kind: Kind, *, force: bool) -> None:
    """Raise IntegrityError if a float32 model does not agree with its run, or another loses more than one point."""
    if PRECISIONS[kind] == "float32" and (report.largest_difference > PARITY_LIMIT or report.labels_changed):
        raise IntegrityError(
            f"The export is rejected: probabilities must agree to {PARITY_LIMIT:g}. {report.summary()}"
        )
    if report.loss["value"] > MAX_ACCURACY_DROP and not force:
        raise IntegrityError(
            f"The export is rejected: accuracy drops by more than one point. {report.summary()} Pass --force to export"
            " it all the same."
        )


def compare_outputs(
    expected: Floats,
    actual: Floats,
    pictures: pl.DataFrame,
    classes: Sequence[str],
    costs: Sequence[Sequence[float]] = (),
) -> ParityReport:
    """Return the differences between the probabilities (n, classes) of run and export for rows of the picture table."""
    is_val = (pictures["split"] == "val").to_numpy().astype(bool)
    y_true = table.label_indices(pictures["label"], classes)
    labels_before, labels_after = choose_labels(expected, costs), choose_labels(actual, costs)
    before, after = (labels_before == y_true)[is_val], (labels_after == y_true)[is_val]
    return ParityReport(
        pictures=len(expected),
        largest_difference=float(np.abs(expected - actual).max()),
        # If two classes are tied, either label is accepted.
        labels_changed=0 if outputs_match(actual, expected) else int((labels_before != labels_after).sum()),
        validation_pictures=int(is_val.sum()),
        accuracy_before=float(before.mean()),
        accuracy=float(after.mean()),
        loss=paired_accuracy_drop(before, after),
    )


def _iter_calibration_images(training: pl.DataFrame, bundle: Bundle, threads: int) -> Iterator[Pixels]:
    """Yield training pictures of all classes as input images."""
    paths = table.list_files(training[evenly_spaced_rows(training.height, CALIBRATION_PICTURES)])
    for batch in iter_pixel_batches(paths, bundle.preprocess, threads=threads):
        yield from batch


def _require_files(pictures: pl.DataFrame) -> None:
    missing = [path for path in pictures["path"] if not Path(path).is_file()]
    if missing:
        raise SourceError(
            f"{len(missing):,} of the run's pictures are not where they were, for example {missing[0]}. An export is"
            " verified on them: restore them."
        )


def _probabilities(predictor: Predictor, pictures: pl.DataFrame, advance: Advance) -> Floats:
    rows = []
    for prediction in predictor.predict_many(table.list_files(pictures)):
        if prediction.error is not None:
            raise SourceError(f"{prediction.error} It was readable when the run was trained.")
        rows.append([prediction.probabilities[name] for name in predictor.classes])
        advance(1)
    return np.array(rows, np.float64)


def _check_target(target: Path, kind: Kind, *, must_be_new: bool) -> bool:
    """Return whether the export is a single file; raises UserError if that is impossible, or the target exists."""
    is_file = target.suffix == ".onnx"
    if is_file and kind == "openvino":
        raise UserError(f"OpenVINO's format is two files: give a folder, not {target}.")
    if must_be_new and target.exists():
        raise UserError(f"{target} exists already, and is not overwritten. Choose another name.")
    return is_file


@contextmanager
def _staging_folder(target: Path) -> Iterator[Path]:
    """Yield a folder beside the target, so that moving it there is one step; it is removed at the end."""
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
