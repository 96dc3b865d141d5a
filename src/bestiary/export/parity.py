"""Parity: the exported graph, from file bytes to probabilities, gives what calibration and scores rest on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bestiary.array_types import AnyFloats, Ints, Pixels
from bestiary.batches.decoding import missing_picture_error
from bestiary.class_thresholds import least_probabilities
from bestiary.context import Context
from bestiary.errors import IntegrityError, PictureError
from bestiary.inference.bundle import Bundle, read_bundle
from bestiary.inference.predictor import EngineName, Prediction, Predictor
from bestiary.machine import FeatureDevice
from bestiary.models.engine import has_openvino
from bestiary.preprocess import VerifiedFile
from bestiary.progress import Advance, iter_counted
from bestiary.quick_metrics import softmax

PARITY_LIMIT = 1e-3  # of a probability, and of an in-distribution score
VAL_PICTURES = 96  # of a network, whose test pictures are all predicted from their files
# Of a probe, whose scores rest on features: the engine for many pictures predicts these, and at least 200 test pictures
# where there are so many. The other engine and the float32 network predict a sample of them.
PROBE_TEST_PICTURES, PROBE_VAL_PICTURES = 200, 24
ENGINE_SAMPLE, NETWORK_SAMPLE = 48, 16
NETWORK = "the network"


@dataclass(frozen=True)
class SplitProof:
    """Pictures of one split, with what calibration or the scores take the model's outputs for them to be.

    paths: files or crops, of known content; logits float32 (n, classes); familiarity float (n,), the in-distribution
    scores.
    """

    split: str
    paths: Sequence[VerifiedFile]
    logits: AnyFloats
    familiarity: AnyFloats

    def sample(self, count: int) -> SplitProof:
        """Return at most `count` of the pictures, evenly spaced."""
        rows = evenly_spaced_rows(len(self.paths), count)
        paths = [self.paths[row] for row in rows]
        return SplitProof(self.split, paths, self.logits[rows], self.familiarity[rows])


def evenly_spaced_rows(count: int, n_rows: int) -> Ints:
    """Return at most `n_rows` of `count` indices, int64, evenly spaced, the first and the last among them."""
    rows: Ints = np.unique(np.linspace(0, count - 1, min(n_rows, count)).astype(np.int64))
    return rows


def sample_proof(val: SplitProof, test: SplitProof | None) -> list[SplitProof]:
    """Return the pictures to verify a model on. test: None if the test pictures are predicted from their files anyway.

    Where there are fewer than 200 test pictures, more of validation are taken.
    """
    if test is None:
        return [val.sample(VAL_PICTURES)]
    n_test = min(PROBE_TEST_PICTURES, len(test.paths))
    return [test.sample(n_test), val.sample(PROBE_VAL_PICTURES + PROBE_TEST_PICTURES - n_test)]


def verify_parity(
    run: Path,
    proofs: Sequence[SplitProof],
    expected: Sequence[Prediction],
    reference: Callable[[Pixels], AnyFloats],
    context: Context,
) -> None:
    """Compare the exported graph of a run with what its calibration and scores rest on, and record the differences.

    expected: the predictions of all pictures of the proofs, in their order, as they are scored. reference: the float32
    network, from images uint8 (n, size, size, 3) to logits (n, classes). Each engine that may run the graph is tested.
    Raises IntegrityError if a probability or an in-distribution score differs by more than 0.001, or a label or an
    "unknown" that is not a tie within that; SourceError if a picture is missing or was changed.
    """
    bundle = read_bundle(run)
    paths = [path for proof in proofs for path in proof.paths]
    wanted = softmax(np.concatenate([proof.logits for proof in proofs]) / bundle.temperature)
    is_test = [proof.split == "test" for proof in proofs for _ in proof.paths]
    is_sampled = any(is_test)
    engines: dict[str, tuple[EngineName, FeatureDevice]] = {"fastest": ("fastest", "cpu")} if has_openvino() else {}
    engines["onnxruntime"] = ("onnxruntime", "cpu")
    rows = {title: evenly_spaced_rows(len(paths), ENGINE_SAMPLE if is_sampled else len(paths)) for title in engines}
    rows[next(iter(engines))] = np.arange(len(paths))
    if (device := context.features.device) not in ("auto", "cpu"):  # it was used for features
        engines[title := f"onnxruntime on {device}"] = ("onnxruntime", device)
        rows[title] = np.arange(len(paths))
    network_rows = evenly_spaced_rows(len(paths), NETWORK_SAMPLE if is_sampled else len(paths))
    differences, ties = dict[str, float](), 0
    steps = len(network_rows) + sum(map(len, rows.values()))
    with context.reporter.progress("Verifying the model", steps) as advance:
        pixels = (_load_pixels(bundle, paths[row]) for row in network_rows)
        logits = np.concatenate(list(iter_counted(map(reference, pixels), advance)))
        network = softmax(logits / bundle.temperature)
        differences["the network against calibration"] = check_probabilities(
            network, wanted[network_rows], NETWORK, "calibration"
        )
        for title, (engine, device) in engines.items():
            predictor = Predictor(run, threads=context.training_threads, engine=engine, device=device)
            actual = _predict_files(predictor, [paths[row] for row in rows[title]], advance)
            measured, tied = compare_predictions(actual, [expected[row] for row in rows[title]], bundle, title)
            differences[f"{title} against calibration"], differences[f"{title}, familiarity"] = measured
            # The threshold is the in-distribution score of a validation picture, which is tied by its nature.
            ties = max(ties, sum(is_test[rows[title][row]] for row in tied))
    counts = {f"{proof.split}_pictures": len(proof.paths) for proof in proofs}
    parity = {"pictures": len(paths), **counts, "limit": PARITY_LIMIT, "largest_difference": differences, "ties": ties}
    replace(bundle, parity=parity).write(run)


def compare_predictions(
    actual: Sequence[Prediction], expected: Sequence[Prediction], bundle: Bundle, engine: str
) -> tuple[tuple[float, float], list[int]]:
    """Return the largest differences, of a probability and of an in-distribution score, and the indices of ties.

    A tie is a picture whose label or "unknown" differs, but by no more than the limit of 0.001: of two classes that are
    equally probable or expensive, or at a threshold, either may win. Raises IntegrityError for larger differences;
    engine names what gave `actual`.
    """
    tables = [
        np.array([[entry.probabilities[name] for name in bundle.classes] for entry in part])
        for part in (actual, expected)
    ]
    probability = check_probabilities(tables[0], tables[1], engine, "calibration")
    scores = [np.array([entry.familiarity for entry in part]) for part in (actual, expected)]
    familiarity = float(np.abs(scores[0] - scores[1]).max())
    if not familiarity <= PARITY_LIMIT:  # nor a number that is none
        raise _parity_error("in-distribution score", engine, "calibration", familiarity)
    least = dict(zip(bundle.classes, least_probabilities(bundle.class_thresholds, bundle.classes), strict=True))
    ties = list[int]()
    for row, (first, second, probabilities) in enumerate(zip(actual, expected, tables[1], strict=True)):
        if (first.label, first.unknown) == (second.label, second.unknown):
            continue
        ties.append(row)
        if first.label != second.label:
            if not _are_tied(probabilities, bundle, str(first.label), str(second.label)):
                raise _answer_error(engine, first, second)
            continue
        gaps = second.familiarity - bundle.threshold, second.probability - least[str(second.label)]
        if min(map(abs, gaps)) > PARITY_LIMIT:
            raise _answer_error(engine, first, second)
    return (probability, familiarity), ties


def _are_tied(probabilities: AnyFloats, bundle: Bundle, *labels: str) -> bool:
    """Return whether two labels are equally probable, or equally expensive, but for the limit."""
    costs = np.asarray(bundle.costs or 1 - np.eye(len(bundle.classes)), np.float64)
    columns = costs[:, [bundle.classes.index(label) for label in labels]]
    difference = columns[:, 0] - columns[:, 1]  # of the costs; each probability may differ by the limit
    return bool(abs(probabilities @ difference) <= PARITY_LIMIT * np.abs(difference).sum())


def record_all_proven(run: Path, pictures: int, differences: Mapping[str, float], ties: int) -> None:
    """Record that every test picture was predicted from its file, with what differed from its features' outputs."""
    bundle = read_bundle(run)
    largest = {**bundle.parity["largest_difference"], **differences}
    update = {"test_pictures": pictures, "largest_difference": largest, "ties": max(ties, bundle.parity["ties"])}
    replace(bundle, parity=bundle.parity | update).write(run)


def outputs_match(actual: AnyFloats, expected: AnyFloats) -> bool:
    """Return whether no probability differs by more than the limit, and every label is the same.

    Where two classes are tied to within the limit, either label may win.
    """
    if not np.abs(actual - expected).max() <= PARITY_LIMIT:  # nor a number that is none
        return False
    rows, winner = np.arange(len(expected)), actual.argmax(axis=1)
    return bool((expected.max(axis=1) - expected[rows, winner] <= 2 * PARITY_LIMIT).all())


def check_probabilities(actual: AnyFloats, expected: AnyFloats, engine: str, reference: str) -> float:
    """Return the largest difference of two tables of probabilities (n, classes).

    Raises IntegrityError if it exceeds the limit, or if a label differs; engine and reference name them in the message.
    """
    difference = float(np.abs(actual - expected).max())
    if not outputs_match(actual, expected):
        raise _parity_error("probability", engine, reference, difference)
    return difference


def _predict_files(predictor: Predictor, files: Sequence[VerifiedFile], advance: Advance) -> list[Prediction]:
    """Return predictions as users get them. Raises SourceError for a file that is missing or was changed."""
    predictions = []
    for file, prediction in zip(files, iter_counted(predictor.predict_many(files), advance), strict=True):
        if prediction.error is not None:
            raise missing_picture_error(prediction.error)
        predictions.append(replace(prediction, path=str(file.path)))
    return predictions


def _load_pixels(bundle: Bundle, file: VerifiedFile) -> Pixels:
    """Return the pixels of a file as a batch, uint8 (1, size, size, 3). Raises as `_predict_files` does."""
    try:
        return bundle.preprocess.load_pixels(file)[None]
    except PictureError as error:
        raise missing_picture_error(error) from None


def _answer_error(engine: str, actual: Prediction, expected: Prediction) -> IntegrityError:
    answers = [f"{entry.label}{' (unknown)' if entry.unknown else ''}" for entry in (actual, expected)]
    return IntegrityError(
        f"The exported graph, run by {engine}, answers {answers[0]} for {actual.path}, and its scores rest on the"
        f" answer {answers[1]}, which is no tie. The model is rejected. Please report this."
    )


def _parity_error(output: str, engine: str, reference: str, difference: float) -> IntegrityError:
    subject = "The trained network" if engine == NETWORK else f"The exported graph, run by {engine},"
    return IntegrityError(
        f"{subject} differs from {reference} by {difference:.2g} in {output} on validation"
        f" or test pictures; at most {PARITY_LIMIT:g} is accepted. The model is rejected. Please report this."
    )
