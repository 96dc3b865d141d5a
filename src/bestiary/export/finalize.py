"""From a training task to the final model: train, calibrate on validation, write the ONNX file, verify its parity."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from bestiary.array_types import AnyFloats, Float32s, Floats, Ints, Pixels
from bestiary.batches.feature_matrix import FeatureMatrix
from bestiary.box import PictureFile
from bestiary.class_thresholds import (
    ClassThreshold,
    as_bundle_values,
    explain_unknown,
    fit_class_thresholds,
    least_probabilities,
    stated_precisions,
    warn_unmet,
)
from bestiary.context import Context
from bestiary.costs import choose_labels, cost_matrix
from bestiary.errors import IntegrityError
from bestiary.export.calibration import choose_threshold, fit_temperature
from bestiary.export.event_choice import choose_combination, group_events
from bestiary.export.graph import OutputCalibration, build_inference_graph
from bestiary.files import atomic_path
from bestiary.inference.bundle import GRAPH_NAME, Bundle, read_bundle
from bestiary.inference.conformal import fit_conformal
from bestiary.inference.predictor import EngineName, Prediction, Predictor
from bestiary.machine import FeatureDevice
from bestiary.models.engine import has_openvino
from bestiary.models.head import Head
from bestiary.models.ood import PrincipalSubspace
from bestiary.preprocess import Preprocessing
from bestiary.progress import Advance, iter_counted
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
    """The content of the exported graph and its bundle."""

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
    costs: list[list[float]] = field(default_factory=list)
    events: dict[str, Any] = field(default_factory=dict)
    crop: Literal["none", "boxes"] = "none"
    class_thresholds: dict[str, dict[str, Any]] = field(default_factory=dict)


def train_and_finalize(task: TrainingTask) -> tuple[TrainedModel, FinalModel]:
    """Train the model of a run folder, or of a fold in it; calibrate, export and verify it."""
    with task.context.timer.stage("train"):
        trained = TRAINERS[task.recipe.model.method](task)
        return trained, _finalize(task, trained)


def _finalize(task: TrainingTask, trained: TrainedModel) -> FinalModel:
    """Fit temperature, threshold and prediction sets on validation, write the graph, verify it; return the model."""
    val, coverage, model = task.split("val"), task.recipe.evaluate.coverage, task.recipe.model
    temperature = fit_temperature(trained.val_logits, val.labels)
    calibration = OutputCalibration.fit(trained.val_logits, temperature, trained.val_features, trained.subspace)
    familiarity = calibration.familiarity(trained.val_logits, trained.val_features)
    probabilities = softmax(trained.val_logits / temperature)
    final = FinalModel(
        trained.backbone_graph,
        trained.head,
        calibration,
        choose_threshold(familiarity, coverage),
        coverage,
        task.classes,
        task.preprocess,
        model.method,
        model.network if model.method == "scratch" else model.backbone,
        fit_conformal(probabilities, val.labels),
        cost_matrix(costs, task.classes).tolist() if (costs := task.recipe.evaluate.costs) else [],
        _fit_events(task, probabilities, val.labels),
        task.recipe.data.crop,
    )
    thresholds = as_bundle_values(_choose_class_thresholds(task, trained, final, familiarity))
    final = replace(final, class_thresholds=thresholds)
    for warning in warn_unmet(thresholds):
        task.context.reporter.info(warning)
    with staging_dir(task.run) as folder:  # nobody can use the run before it is verified
        save_model(final, folder)
        reference = trained.reference_network, trained.val_logits
        verify_parity(folder, val.paths, *reference, familiarity=familiarity, context=task.context)
    return final


def _fit_events(task: TrainingTask, probabilities: Floats, labels: Ints) -> dict[str, Any]:
    """Return how the pictures of an event are combined, chosen on validation; empty for a run without given groups."""
    val = task.pictures.filter(pl.col("split") == "val")
    if "given_group" not in val.columns or not task.pictures["given_group"].count():
        return {}
    events, *_ = group_events(probabilities, labels, val["given_group"].to_list())
    combination = choose_combination(events)
    task.context.reporter.info(combination.describe())
    return combination.to_json()


def _choose_class_thresholds(
    task: TrainingTask, trained: TrainedModel, model: FinalModel, familiarity: AnyFloats
) -> dict[str, ClassThreshold]:
    """Return the thresholds of the classes with a stated precision, by the familiar validation pictures."""
    stated = stated_precisions(task.recipe.evaluate.thresholds, task.classes)
    if not stated:
        return {}
    familiar = np.flatnonzero(familiarity >= model.threshold)
    probabilities = softmax(trained.val_logits / model.calibration.temperature)[familiar]
    y_pred = choose_labels(probabilities, model.costs)
    groups = task.pictures.filter(pl.col("split") == "val")["group"].to_numpy()
    return fit_class_thresholds(
        stated,
        task.classes,
        y_true=task.split("val").labels[familiar],
        y_pred=y_pred,
        probability=probabilities[np.arange(len(familiar)), y_pred].astype(np.float64),
        groups=groups[familiar],
    )


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
    if model.costs:
        metadata["costs"] = json.dumps(model.costs)
    if model.class_thresholds:
        metadata["class_thresholds"] = json.dumps(
            {name: value["threshold"] for name, value in model.class_thresholds.items()}, ensure_ascii=False
        )
    graph = build_inference_graph(model.backbone_graph, model.head, model.calibration, metadata)
    content = graph.SerializeToString(deterministic=True)
    with atomic_path(run / GRAPH_NAME) as temporary:
        temporary.write_bytes(content)
    with atomic_path(run / "model.safetensors") as temporary:
        # save_file of safetensors 0.8.0 writes an array in Fortran order as if it were in C order.
        tensors = _tensors(model.head, model.calibration.subspace)
        save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, temporary)
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
        decoding=model.preprocess.rules.version,
        deep_ranges=model.preprocess.rules.ranges(),
        costs=model.costs,
        crop=model.crop,
        events=model.events,
        class_thresholds=model.class_thresholds,
    ).write(run)


@contextlib.contextmanager
def staging_dir(run: Path) -> Iterator[Path]:
    """Yield a folder inside the run for an unverified model; its files move into the run on success."""
    folder = run / "unproven"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
        for file in sorted(folder.iterdir(), reverse=True):  # the graph before the bundle that makes it a model
            file.replace(run / file.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def verify_parity(
    run: Path,
    paths: Sequence[PictureFile],
    reference: Callable[[Pixels], AnyFloats],
    val_logits: AnyFloats,
    *,
    familiarity: AnyFloats,
    context: Context,
) -> None:
    """Compare the exported graph, from file bytes to probabilities, with the float32 network; record the differences.

    paths, val_logits, familiarity: of the validation pictures, as calibration used them. Every engine that may run the
    graph is tested. Raises IntegrityError if a probability or an in-distribution score differs by more than 0.001, or a
    label changes.
    """
    bundle = read_bundle(run)
    rows = np.linspace(0, len(paths) - 1, min(PARITY_PICTURES, len(paths))).astype(int)
    sources = [paths[row] for row in rows]
    engines: dict[str, tuple[EngineName, FeatureDevice]] = {"onnxruntime": ("onnxruntime", "cpu")}
    engines |= {"fastest": ("fastest", "cpu")} if has_openvino() else {}
    if (device := context.features.device) not in ("auto", "cpu"):  # it was used for features
        engines[f"onnxruntime on {device}"] = ("onnxruntime", device)
    outputs = dict[str, tuple[AnyFloats, AnyFloats]]()
    with context.reporter.progress("Verifying the model", (1 + len(engines)) * len(sources)) as advance:
        pixels = (bundle.preprocess.load_pixels(source)[None] for source in sources)
        network = np.concatenate(list(iter_counted(map(reference, pixels), advance)))
        for title, (engine, device) in engines.items():
            predictor = Predictor(run, threads=context.training_threads, engine=engine, device=device)
            outputs[title] = _predict_outputs(predictor, sources, advance)
    expected = {
        "the network": softmax(network / bundle.temperature),
        "calibration": softmax(val_logits[rows] / bundle.temperature),
    }
    differences: dict[str, float] = {}
    for title, (actual, scores) in outputs.items():
        for name, probabilities in expected.items():
            difference = differences[f"{title} against {name}"] = float(np.abs(actual - probabilities).max())
            if not outputs_match(actual, probabilities):
                raise _parity_error("probability", title, name, difference)
        difference = differences[f"{title}, familiarity"] = float(np.abs(scores - familiarity[rows]).max())
        if difference > PARITY_LIMIT:
            raise _parity_error("in-distribution score", title, "calibration", difference)
    parity = {"pictures": len(sources), "limit": PARITY_LIMIT, "largest_difference": differences}
    replace(bundle, parity=parity).write(run)


def predict_validation(
    model: FinalModel, val_logits: AnyFloats, val_features: FeatureMatrix | None = None
) -> Iterator[Prediction]:
    """Yield the predictions of the exported graph for the validation pictures, from their logits and features.

    `verify_parity` checks that the graph gives them.
    """
    rows = softmax(val_logits / model.calibration.temperature)
    familiarity = model.calibration.familiarity(val_logits, val_features)
    labels, least = choose_labels(rows, model.costs), least_probabilities(model.class_thresholds, model.classes)
    for probabilities, score, best in zip(rows, familiarity, labels, strict=True):
        by_class = dict(zip(model.classes, probabilities.tolist(), strict=True))
        probability, is_unfamiliar = float(probabilities[best]), bool(score < model.threshold)
        reason = explain_unknown(is_unfamiliar=is_unfamiliar, probability=probability, least=least[best])
        yield Prediction(None, model.classes[best], probability, bool(reason), float(score), by_class)


def outputs_match(actual: AnyFloats, expected: AnyFloats) -> bool:
    """Return whether no probability differs by more than the limit, and every label is the same.

    Where two classes are tied to within the limit, either label may win.
    """
    if np.abs(actual - expected).max() > PARITY_LIMIT:
        return False
    rows, winner = np.arange(len(expected)), actual.argmax(axis=1)
    return bool((expected.max(axis=1) - expected[rows, winner] <= 2 * PARITY_LIMIT).all())


def _parity_error(output: str, engine: str, reference: str, difference: float) -> IntegrityError:
    return IntegrityError(
        f"The exported graph, run by {engine}, differs from {reference} by {difference:.2g} in {output} on validation"
        f" pictures; at most {PARITY_LIMIT:g} is accepted. The model is rejected. Please report this."
    )


def _predict_outputs(
    predictor: Predictor, sources: Sequence[PictureFile], advance: Advance
) -> tuple[AnyFloats, AnyFloats]:
    """Return probabilities (n, classes) and familiarity (n,) as users get them."""
    predictions = list(iter_counted(predictor.predict_many(sources), advance))
    probabilities = [[prediction.probabilities[name] for name in predictor.classes] for prediction in predictions]
    return np.array(probabilities), np.array([prediction.familiarity for prediction in predictions])


def _tensors(head: Head, subspace: PrincipalSubspace | None) -> dict[str, Float32s]:
    tensors = {"head.weight": head.weight, "head.bias": head.bias}
    for number, layer in enumerate(head.hidden):
        tensors |= {f"head.hidden.{number}.weight": layer.weight, f"head.hidden.{number}.bias": layer.bias}
    if subspace is not None:
        tensors |= {f"familiarity.{name}": getattr(subspace, name) for name in ("mean", "scale", "directions")}
    return tensors
