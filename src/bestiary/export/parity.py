"""Parity: the exported graph, from file bytes to probabilities, gives what calibration and scores rest on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bestiary.array_types import AnyFloats, Ints, Pixels
from bestiary.box import PictureFile
from bestiary.context import Context
from bestiary.errors import IntegrityError
from bestiary.inference.bundle import read_bundle
from bestiary.inference.predictor import EngineName, Predictor
from bestiary.machine import FeatureDevice
from bestiary.models.engine import has_openvino
from bestiary.progress import Advance, iter_counted
from bestiary.quick_metrics import softmax

PARITY_LIMIT = 1e-3  # of a probability, and of an in-distribution score
VAL_PICTURES = 96  # of a network, whose test pictures are all predicted from their files
# Of a probe, whose scores rest on features: the engine for many pictures predicts these, and at least 200 test pictures
# where there are so many. The other engine and the float32 network predict a sample of them.
PROBE_TEST_PICTURES, PROBE_VAL_PICTURES = 200, 24
ENGINE_SAMPLE, NETWORK_SAMPLE = 48, 16


@dataclass(frozen=True)
class SplitProof:
    """Pictures of one split, with what calibration or the scores take the model's outputs for them to be.

    paths: files or crops; logits float32 (n, classes); familiarity float (n,), the in-distribution scores.
    """

    split: str
    paths: Sequence[PictureFile]
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
    run: Path, proofs: Sequence[SplitProof], reference: Callable[[Pixels], AnyFloats], context: Context
) -> None:
    """Compare the exported graph of a run with the outputs of its proofs, and record the largest differences.

    reference: the float32 network, from images uint8 (n, size, size, 3) to logits (n, classes). Each engine that may
    run the graph is tested. Raises IntegrityError if a probability or an in-distribution score differs by more than
    0.001, or a label changes.
    """
    bundle = read_bundle(run)
    paths = [path for proof in proofs for path in proof.paths]
    expected = softmax(np.concatenate([proof.logits for proof in proofs]) / bundle.temperature)
    familiarity = np.concatenate([proof.familiarity for proof in proofs])
    is_sampled = any(proof.split == "test" for proof in proofs)
    engines: dict[str, tuple[EngineName, FeatureDevice]] = {"fastest": ("fastest", "cpu")} if has_openvino() else {}
    engines["onnxruntime"] = ("onnxruntime", "cpu")
    rows = {title: evenly_spaced_rows(len(paths), ENGINE_SAMPLE if is_sampled else len(paths)) for title in engines}
    rows[next(iter(engines))] = np.arange(len(paths))
    if (device := context.features.device) not in ("auto", "cpu"):  # it was used for features
        engines[title := f"onnxruntime on {device}"] = ("onnxruntime", device)
        rows[title] = np.arange(len(paths))
    network_rows = evenly_spaced_rows(len(paths), NETWORK_SAMPLE if is_sampled else len(paths))
    differences: dict[str, float] = {}
    steps = len(network_rows) + sum(map(len, rows.values()))
    with context.reporter.progress("Verifying the model", steps) as advance:
        pixels = (bundle.preprocess.load_pixels(paths[row])[None] for row in network_rows)
        logits = np.concatenate(list(iter_counted(map(reference, pixels), advance)))
        network = softmax(logits / bundle.temperature)
        differences["the network against calibration"] = check_probabilities(
            network, expected[network_rows], "the network", "calibration"
        )
        for title, (engine, device) in engines.items():
            predictor = Predictor(run, threads=context.training_threads, engine=engine, device=device)
            actual, scores = _predict_outputs(predictor, [paths[row] for row in rows[title]], advance)
            differences[f"{title} against calibration"] = check_probabilities(
                actual, expected[rows[title]], title, "calibration"
            )
            difference = differences[f"{title}, familiarity"] = float(np.abs(scores - familiarity[rows[title]]).max())
            if difference > PARITY_LIMIT:
                raise _parity_error("in-distribution score", title, "calibration", difference)
    counts = {f"{proof.split}_pictures": len(proof.paths) for proof in proofs}
    parity = {"pictures": len(paths), **counts, "limit": PARITY_LIMIT, "largest_difference": differences}
    replace(bundle, parity=parity).write(run)


def outputs_match(actual: AnyFloats, expected: AnyFloats) -> bool:
    """Return whether no probability differs by more than the limit, and every label is the same.

    Where two classes are tied to within the limit, either label may win.
    """
    if np.abs(actual - expected).max() > PARITY_LIMIT:
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


def _predict_outputs(
    predictor: Predictor, sources: Iterable[PictureFile], advance: Advance
) -> tuple[AnyFloats, AnyFloats]:
    """Return probabilities (n, classes) and familiarity (n,) as users get them."""
    predictions = list(iter_counted(predictor.predict_many(sources), advance))
    probabilities = [[prediction.probabilities[name] for name in predictor.classes] for prediction in predictions]
    return np.array(probabilities), np.array([prediction.familiarity for prediction in predictions])


def _parity_error(output: str, engine: str, reference: str, difference: float) -> IntegrityError:
    return IntegrityError(
        f"The exported graph, run by {engine}, differs from {reference} by {difference:.2g} in {output} on validation"
        f" or test pictures; at most {PARITY_LIMIT:g} is accepted. The model is rejected. Please report this."
    )
