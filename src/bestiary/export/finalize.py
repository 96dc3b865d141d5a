"""From what was learned to the model that ships: calibrated on validation, sealed, written, and held against itself."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bestiary.array_types import AnyFloats, Float32s, Pixels
from bestiary.batches.feature_matrix import FeatureMatrix
from bestiary.errors import IntegrityError
from bestiary.export.calibration import choose_threshold, fit_temperature
from bestiary.export.graph import OutputCalibration, build_inference_graph
from bestiary.files import atomic_path
from bestiary.inference.bundle import GRAPH_NAME, Bundle, read_bundle
from bestiary.inference.conformal import fit_conformal
from bestiary.inference.predictor import EngineName, Prediction, Predictor
from bestiary.models.engine import has_openvino
from bestiary.models.head import Head
from bestiary.preprocess import Preprocessing
from bestiary.quick_metrics import softmax
from bestiary.training.methods import TRAINERS
from bestiary.training.task import TrainedModel, TrainingTask
from bestiary.version import __version__

if TYPE_CHECKING:
    import onnx

PARITY_PICTURES = 96
PARITY_LIMIT = 1e-3


@dataclass(frozen=True)
class FinalModel:
    """All that becomes the sealed graph and its bundle."""

    backbone_graph: onnx.ModelProto
    head: Head
    calibration: OutputCalibration
    threshold: float
    coverage: float
    classes: tuple[str, ...]
    preprocess: Preprocessing
    method: str
    backbone: str
    sets: dict[str, Any] = field(default_factory=dict)


def save_model(model: FinalModel, run: Path) -> None:
    """Write `model.onnx`, `model.safetensors` (head and subspace) and `bundle.json` into the run folder."""
    from safetensors.numpy import save_file

    metadata = {
        "classes": json.dumps(model.classes, ensure_ascii=False),
        "fit": model.preprocess.fit,
        "temperature": repr(model.calibration.temperature),
        "threshold": repr(model.threshold),
        "bestiary": __version__,
    }
    content = build_inference_graph(model.backbone_graph, model.head, model.calibration, metadata).SerializeToString(
        deterministic=True
    )
    with atomic_path(run / GRAPH_NAME) as temporary:
        temporary.write_bytes(content)
    with atomic_path(run / "model.safetensors") as temporary:
        save_file(_head_tensors(model.head) | _subspace_tensors(model.calibration), temporary)
    Bundle(
        classes=model.classes,
        size=model.preprocess.size,
        fit=model.preprocess.fit,
        max_pixels=model.preprocess.limits.max_pixels,
        max_bytes=model.preprocess.limits.max_bytes,
        temperature=model.calibration.temperature,
        threshold=model.threshold,
        coverage=model.coverage,
        method=model.method,
        backbone=model.backbone,
        graph_sha256=hashlib.sha256(content).hexdigest(),
        bestiary=__version__,
        sets=model.sets,
        familiarity=model.calibration.familiarity_kind,
    ).write(run)


@contextlib.contextmanager
def staging_dir(run: Path) -> Iterator[Path]:
    """Give a folder inside the run for a model that is yet to be proven; its files move into the run on success."""
    place = run / "unproven"
    shutil.rmtree(place, ignore_errors=True)
    try:
        yield place
        for file in sorted(place.iterdir(), reverse=True):  # the graph before the bundle that makes it a model
            file.replace(run / file.name)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def verify_parity(
    run: Path,
    paths: Sequence[Path],
    reference: Callable[[Pixels], AnyFloats],
    val_logits: AnyFloats,
    *,
    threads: int,
    familiarity: AnyFloats | None = None,
) -> None:
    """Hold the written graph, from file bytes to probabilities, against the network in float32; record the figures.

    paths and val_logits: validation pictures, and their logits as the calibration saw them. Every engine that may
    serve is tried. familiarity: that of the same pictures, where it is to be held against the graph's as well. Raises
    IntegrityError if a probability or a familiarity differs by more than 0.001, or a label changes.
    """
    bundle = read_bundle(run)
    chosen = np.linspace(0, len(paths) - 1, min(PARITY_PICTURES, len(paths))).astype(int)
    sources = [paths[position] for position in chosen]
    network = np.concatenate([reference(bundle.preprocess.load_pixels(source)[None]) for source in sources])
    expected = {
        "the network": softmax(network / bundle.temperature),
        "calibration": softmax(val_logits[chosen] / bundle.temperature),
    }
    engines: tuple[EngineName, ...] = ("onnxruntime", "fastest") if has_openvino() else ("onnxruntime",)
    differences: dict[str, float] = {}
    for engine in engines:
        shipped, known = _predict_outputs(Predictor(run, threads=threads, engine=engine), sources)
        for name, probabilities in expected.items():
            differences[f"{engine} against {name}"] = float(np.abs(shipped - probabilities).max())
            if not outputs_match(shipped, probabilities):
                raise IntegrityError(
                    f"The exported graph, run by {engine}, differs from {name} by"
                    f" {differences[f'{engine} against {name}']:.2g} in probability on validation pictures; at most"
                    f" {PARITY_LIMIT:g} is accepted. The model is refused. Please report this."
                )
        if familiarity is not None:
            differences[f"{engine}, familiarity"] = _check_familiarity(engine, known, familiarity[chosen])
    parity = {"pictures": len(sources), "limit": PARITY_LIMIT, "largest_difference": differences}
    replace(bundle, parity=parity).write(run)


def predict_validation(
    model: FinalModel, val_logits: AnyFloats, val_features: FeatureMatrix | None = None
) -> Iterator[Prediction]:
    """Yield what the sealed graph answers to the validation pictures, from their logits and features.

    `verify_parity` checks that it does.
    """
    shares = softmax(val_logits / model.calibration.temperature)
    familiarity = model.calibration.familiarity(val_logits, val_features)
    for row, known in zip(shares, familiarity, strict=True):
        best = int(row.argmax())
        probabilities = dict(zip(model.classes, row.tolist(), strict=True))
        yield Prediction(
            None, model.classes[best], float(row[best]), bool(known < model.threshold), float(known), probabilities
        )


def outputs_match(actual: AnyFloats, expected: AnyFloats) -> bool:
    """Return whether no probability differs by more than the limit, and every label is the same.

    Where two classes are tied to within the limit, either label may win.
    """
    if np.abs(actual - expected).max() > PARITY_LIMIT:
        return False
    rows, winner = np.arange(len(expected)), actual.argmax(axis=1)
    return bool((expected.max(axis=1) - expected[rows, winner] <= 2 * PARITY_LIMIT).all())


def _check_familiarity(engine: str, actual: AnyFloats, expected: AnyFloats) -> float:
    difference = float(np.abs(actual - expected).max())
    if difference > PARITY_LIMIT:
        raise IntegrityError(
            f"The familiarity of the exported graph, run by {engine}, differs from calibration by {difference:.2g}; at"
            f" most {PARITY_LIMIT:g} is accepted. The model is refused. Please report this."
        )
    return difference


def _predict_outputs(predictor: Predictor, sources: Sequence[Path]) -> tuple[AnyFloats, AnyFloats]:
    """Return what users get: probabilities (n, classes) and familiarity (n,)."""
    answers = list(predictor.predict_many(sources))
    shares = np.array([[answer.probabilities[name] for name in predictor.classes] for answer in answers])
    return shares, np.array([answer.familiarity for answer in answers])


def _head_tensors(head: Head) -> dict[str, Float32s]:
    tensors = {"head.weight": head.weight, "head.bias": head.bias}
    for number, layer in enumerate(head.hidden):
        tensors |= {f"head.hidden.{number}.weight": layer.weight, f"head.hidden.{number}.bias": layer.bias}
    return tensors


def _subspace_tensors(calibration: OutputCalibration) -> dict[str, Float32s]:
    space = calibration.subspace
    if space is None:
        return {}
    return {f"familiarity.{name}": getattr(space, name) for name in ("mean", "scale", "directions")}


def train_and_finalize(task: TrainingTask) -> tuple[TrainedModel, FinalModel]:
    """Train the model of a run folder, or of a fold in it, and seal it."""
    with task.context.timer.stage("train"):
        learned = TRAINERS[task.recipe.model.method](task)
        return learned, _finalize(task, learned)


def _finalize(task: TrainingTask, learned: TrainedModel) -> FinalModel:
    """Fit temperature and threshold on validation, write the graph that holds them, prove that it agrees; return it."""
    val, coverage, model = task.split("val"), task.recipe.evaluate.coverage, task.recipe.model
    temperature = fit_temperature(learned.val_logits, val.labels)
    calibration = OutputCalibration.fit(learned.val_logits, temperature, learned.val_features, learned.subspace)
    familiarity = calibration.familiarity(learned.val_logits, learned.val_features)
    threshold = choose_threshold(familiarity, coverage)
    sets = fit_conformal(softmax(learned.val_logits / temperature), val.labels)
    backbone = model.network if model.method == "scratch" else model.backbone
    sealed = FinalModel(
        learned.backbone_graph,
        learned.head,
        calibration,
        threshold,
        coverage,
        task.classes,
        task.preprocess,
        model.method,
        backbone,
        sets,
    )
    with staging_dir(task.run) as place:  # nobody can use the run before the proof
        save_model(sealed, place)
        given = val.paths, learned.reference_network, learned.val_logits
        verify_parity(place, *given, threads=task.context.threads, familiarity=familiarity)
    return sealed
