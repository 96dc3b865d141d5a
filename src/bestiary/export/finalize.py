"""From a training task to the final model: train, calibrate on validation, write the ONNX file, verify its parity."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl

from bestiary.array_types import AnyFloats, Float32s, Floats, Ints
from bestiary.batches.feature_matrix import FeatureMatrix
from bestiary.class_thresholds import (
    ClassThreshold,
    as_bundle_values,
    explain_unknown,
    fit_class_thresholds,
    least_probabilities,
    stated_precisions,
    warn_unmet,
)
from bestiary.costs import choose_labels, cost_matrix
from bestiary.export.calibration import choose_threshold, fit_temperature
from bestiary.export.event_choice import choose_combination, group_events
from bestiary.export.graph import OutputCalibration, build_inference_graph
from bestiary.export.parity import SplitProof, sample_proof, verify_parity
from bestiary.files import atomic_path
from bestiary.inference.bundle import GRAPH_NAME, TEACHER, Bundle
from bestiary.inference.conformal import fit_conformal
from bestiary.inference.predictor import Prediction
from bestiary.models.backbones import teacher_backbone
from bestiary.models.head import Head
from bestiary.models.ood import PrincipalSubspace
from bestiary.preprocess import Preprocessing, VerifiedFile
from bestiary.quick_metrics import softmax
from bestiary.training.methods import TRAINERS
from bestiary.training.task import TrainedModel, TrainingTask
from bestiary.version import __version__

if TYPE_CHECKING:
    import onnx


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
    weights: dict[str, str] = field(default_factory=dict)
    no_heatmap: str = ""


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
        model.network if model.method == "scratch" else task.backbone.name,
        fit_conformal(probabilities, val.labels),
        cost_matrix(costs, task.classes).tolist() if (costs := task.recipe.evaluate.costs) else [],
        _fit_events(task, probabilities, val.labels),
        task.recipe.data.crop,
    )
    thresholds = as_bundle_values(_choose_class_thresholds(task, trained, final, familiarity))
    final = replace(final, class_thresholds=thresholds)
    if model.method != "scratch":
        final = replace(final, weights=asdict(task.backbone.facts.weights))
    elif (teacher := teacher_backbone(task.recipe)) is not None:
        final = replace(final, weights=asdict(teacher.facts.weights) | {"use": TEACHER})
    if model.method == "probe":
        final = replace(final, no_heatmap=task.backbone.facts.no_heatmap)
    for warning in warn_unmet(thresholds):
        task.context.reporter.info(warning)
    proofs = _proofs(task, trained, final)
    expected = [entry for proof in proofs for entry in _iter_predictions(final, proof.logits, proof.familiarity)]
    with staging_dir(task.run) as folder:  # nobody can use the run before it is verified
        save_model(final, folder)
        verify_parity(folder, proofs, expected, trained.reference_network, task.context)
    return final


def _proofs(task: TrainingTask, trained: TrainedModel, model: FinalModel) -> list[SplitProof]:
    """Return the pictures that the exported graph is verified on, with the outputs that the run rests on."""

    def proof(split: str, logits: AnyFloats, features: FeatureMatrix | None) -> SplitProof:
        pictures, familiarity = task.split(split), model.calibration.familiarity(logits, features)
        return SplitProof(split, [*map(VerifiedFile.of, pictures.paths, pictures.keys)], logits, familiarity)

    val, test = proof("val", trained.val_logits, trained.val_features), trained.test
    return sample_proof(val, None if test is None else proof("test", test.logits, test.features))


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
    metadata |= {f"weights_{key}": value for key, value in model.weights.items()}
    graph = build_inference_graph(
        *(model.backbone_graph, model.head, model.calibration, metadata), with_heatmap=not model.no_heatmap
    )
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
        weights=model.weights,
        no_heatmap=model.no_heatmap,
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


def predict_from_outputs(
    model: FinalModel, logits: AnyFloats, features: FeatureMatrix | None = None
) -> Iterator[Prediction]:
    """Yield the predictions of the exported graph for pictures, from their logits (n, classes) and features.

    `verify_parity` checks that the graph gives them.
    """
    yield from _iter_predictions(model, logits, model.calibration.familiarity(logits, features))


def _iter_predictions(model: FinalModel, logits: AnyFloats, familiarity: AnyFloats) -> Iterator[Prediction]:
    rows = softmax(logits / model.calibration.temperature)
    labels, least = choose_labels(rows, model.costs), least_probabilities(model.class_thresholds, model.classes)
    for probabilities, score, best in zip(rows, familiarity, labels, strict=True):
        by_class = dict(zip(model.classes, probabilities.tolist(), strict=True))
        probability, is_unfamiliar = float(probabilities[best]), bool(score < model.threshold)
        reason = explain_unknown(is_unfamiliar=is_unfamiliar, probability=probability, least=least[best])
        yield Prediction(None, model.classes[best], probability, bool(reason), float(score), by_class)


def _tensors(head: Head, subspace: PrincipalSubspace | None) -> dict[str, Float32s]:
    tensors = {"head.weight": head.weight, "head.bias": head.bias}
    for number, layer in enumerate(head.hidden):
        tensors |= {f"head.hidden.{number}.weight": layer.weight, f"head.hidden.{number}.bias": layer.bias}
    if subspace is not None:
        tensors |= {f"familiarity.{name}": getattr(subspace, name) for name in ("mean", "scale", "directions")}
    return tensors
