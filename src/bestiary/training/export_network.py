"""Exports a trained torch network: backbone graph, head, and the validation logits of the exported graph."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from bestiary.array_types import Float32s
from bestiary.batches.pixel_cache import iter_pixel_batches
from bestiary.models.engine import OnnxRuntimeEngine
from bestiary.models.head import Head
from bestiary.models.networks import Network, export_head, reference_logits
from bestiary.models.torch_export import export_backbone
from bestiary.preprocess import VerifiedFile
from bestiary.training.loop import FitResult
from bestiary.training.task import TrainedModel, TrainingTask


def export_network(task: TrainingTask, network: Network, result: FitResult, notes: Mapping[str, Any]) -> TrainedModel:
    """Return the trained network as a backbone graph and a head, with its validation logits.

    The logits are those of the exported graph, from the pictures' files. They depend on the weights alone, not on the
    process that trained them, so that a resumed run equals an uninterrupted one to the last digit.
    """
    graph, head = export_backbone(network.eval(), task.preprocess.size), export_head(network)
    notes = {
        "trained on": result.device,
        "precision of training": result.precision,
        "training ended by": result.stop_reason,
        "epochs trained": result.epochs,
        **notes,
    }
    val_logits = _predict_graph_logits(task, graph.SerializeToString(), head)
    return TrainedModel(graph, head, list(result.history), val_logits, partial(reference_logits, network), notes)


def _predict_graph_logits(task: TrainingTask, graph: bytes, head: Head) -> Float32s:
    """Return the validation logits (n, classes) of an exported backbone and its head, in float32."""
    val, threads = task.split("val"), task.context.training_threads
    engine = OnnxRuntimeEngine(graph, threads=threads)
    files = [VerifiedFile.of(path, key) for path, key in zip(val.paths, val.keys, strict=True)]
    batches = iter_pixel_batches(files, task.preprocess, threads=threads, batch_size=engine.batch_size)
    return np.concatenate([head.logits(outputs["maps"]) for outputs in engine.stream(batches)])
