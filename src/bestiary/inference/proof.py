"""Verification of an 8-bit export on the processor that runs it.

Integer kernels differ between processors: without VNNI, x86-64 may saturate where others do not (docs/processors.md).
An export names the kind of processor that it was verified on, and carries ten pictures with the probabilities that it
gave there. On another kind the pictures are run once, and the result is remembered in the cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bestiary.array_types import Float32s, Pixels
from bestiary.errors import MachineError, RunError
from bestiary.files import atomic_path, cache_folder, read_json, write_json
from bestiary.inference.bundle import Bundle
from bestiary.models.engine import Engine, engine_version, run_batch
from bestiary.processor import read_processor
from bestiary.progress import Reporter

PROOF_NAME = "proof.npz"
PROOF_PICTURES = 10
MAX_DIFFERENCE = 0.05  # of a probability
TIE = 2e-3  # labels whose probabilities differ by less may change places
ADVICE = "Export it again on this computer, or use the float32 export (`bestiary export RUN --to onnx`)."


def describe_proof(proof_digest: str | None) -> dict[str, Any]:
    """Return the entries of the bundle's `exported`: the processor, and the digest of the proof if there is one."""
    processor = read_processor()
    entries = {"processor": processor.kind, "processor_name": processor.name}
    return entries if proof_digest is None else entries | {"proof_sha256": proof_digest}


def write_proof(folder: Path, images: Pixels, probabilities: Mapping[str, Float32s]) -> str:
    """Write the pictures and their probabilities by engine beside the bundle; return the digest of the file.

    images: uint8 (n, size, size, 3); probabilities: float32 (n, classes) as each engine gives them on this processor.
    """
    stream, by_name = io.BytesIO(), dict[str, Any](probabilities)
    np.savez_compressed(stream, images=images, **by_name)
    with atomic_path(folder / PROOF_NAME) as temporary:
        temporary.write_bytes(stream.getvalue())
    return hashlib.sha256(stream.getvalue()).hexdigest()


def check_processor(folder: Path, bundle: Bundle, engine: Engine, reporter: Reporter | None) -> None:
    """Verify an 8-bit export again if this processor is of another kind than the one that it was verified on.

    What was done is told to the reporter; without one, only a model that cannot be verified is told, as a warning.
    Raises RunError if a label changes, a probability differs by more than 0.05, or the proof is missing or damaged.
    """
    exported = bundle.exported
    if bundle.precision == "float32" or not exported or exported.get("processor") == read_processor().kind:
        return  # an empty `exported`: it is being verified right now
    if "proof_sha256" not in exported:
        is_new = "processor" in exported
        reason = "it carries no pictures" if is_new else "an earlier version of bestiary exported it, without pictures"
        _notify_unverified(reason, reporter)
        return
    record = {
        "graph_sha256": bundle.graph_sha256,
        "processor": read_processor().kind,
        "engine": f"{engine.name} {engine_version(engine.name)}",
    }
    memory = _record_path(record)
    if _is_remembered(memory, record):
        return
    images, expected = _read_proof(folder / PROOF_NAME, exported["proof_sha256"], engine.name)
    if expected is None:
        _notify_unverified(f"it was exported without {engine.name}, which runs it here", reporter)
        return
    actual = run_batch(engine, images)["probabilities"]
    difference = _require_same_answers(folder, exported, expected, actual)
    with contextlib.suppress(MachineError):  # a cache that cannot be written: it is verified again next time
        write_json(memory, {**record, "largest_difference": difference})
    if reporter is not None:
        reporter.info(
            f"This 8-bit model was verified on {_processor_title(exported)}. Verified again on this processor,"
            f" {read_processor()}: its {len(images)} pictures have the same labels, and probabilities differ by at most"
            f" {difference:.2g}."
        )


def _require_same_answers(folder: Path, exported: Mapping[str, Any], expected: Float32s, actual: Float32s) -> float:
    """Return the largest difference of a probability; raises RunError if it, or a label, differs too much."""
    if actual.shape != expected.shape:
        raise _damaged_error(folder / PROOF_NAME, f"its probabilities have the shape {expected.shape}")
    difference = float(np.abs(actual - expected).max())
    rows, winner = np.arange(len(expected)), actual.argmax(axis=1)
    changed = int((expected.max(axis=1) - expected[rows, winner] > TIE).sum())
    # Written so that a probability that is not a number fails.
    if not (difference <= MAX_DIFFERENCE and changed == 0):
        raise RunError(
            f"The 8-bit model in {folder} gives other answers on this processor, {read_processor()}, than on the one"
            f" that it was verified on, {_processor_title(exported)}: of its {len(expected)} pictures {changed} have"
            f" another label, and probabilities differ by up to {difference:.2g} ({MAX_DIFFERENCE:g} is accepted)."
            f" {ADVICE}"
        )
    return difference


def _read_proof(path: Path, digest: str, engine: str) -> tuple[Pixels, Float32s | None]:
    """Return the pictures, and their probabilities by an engine, None if it gave none; raises RunError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _damaged_error(path, error.strerror or str(error)) from None
    if hashlib.sha256(content).hexdigest() != digest:
        raise _damaged_error(path, "it is not the file that its bundle names")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as proof:
            return proof["images"], proof.get(engine)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise _damaged_error(path, str(error)) from None


def _record_path(record: Mapping[str, str]) -> Path:
    name = hashlib.sha256("\n".join(record.values()).encode()).hexdigest()
    return cache_folder() / "verified" / f"{name[:32]}.json"


def _is_remembered(memory: Path, record: Mapping[str, str]) -> bool:
    try:
        return record.items() <= read_json(memory).items()
    except RunError:  # there is none, or it is damaged: verify
        return False


def _processor_title(exported: Mapping[str, Any]) -> str:
    return f"{exported.get('processor_name', 'unknown')} ({exported['processor']})"


def _notify_unverified(reason: str, reporter: Reporter | None) -> None:
    text = f"This 8-bit model is not verified for this processor, {read_processor()}: {reason}. {ADVICE}"
    if reporter is None:
        warnings.warn(text, UserWarning, stacklevel=4)  # of the caller of Predictor
    else:
        reporter.info(text)


def _damaged_error(path: Path, reason: str) -> RunError:
    return RunError(
        f"{path} is missing or damaged: {reason}. Without it the 8-bit model beside it cannot be verified on this"
        " processor. Copy the export again."
    )
