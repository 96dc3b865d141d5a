"""An ONNX graph of anyone as a backbone: its normalisation goes inside, and its features become maps."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bestiary.array_types import Array, Pixels
from bestiary.errors import RecipeError
from bestiary.models.backbone import UNKNOWN, Backbone, BackboneFacts, Weights
from bestiary.models.engine import OnnxRuntimeEngine, run_batch
from bestiary.models.feature_tensor import FeatureTensor, as_maps, read_feature_tensor
from bestiary.models.foreign_graph import (
    ForeignGraph,
    check_onnx_file,
    choose_output,
    graph_sha256,
    load_foreign_graph,
    summarise_error,
)
from bestiary.models.graph_cache import read_description, write_description
from bestiary.models.onnx_assembly import assemble_backbone
from bestiary.models.onnx_input import GraphInput, read_config_text, read_graph_input
from bestiary.recipe_sections import OnnxConfig

if TYPE_CHECKING:
    import onnx

GRAPH_VERSION = 1  # raise it when the written graph changes: cached graphs of other versions are ignored
TOLERANCE = 1e-3  # relative to the largest value of the features, or absolute if that is below 1
BATCHES = (1, 5)  # the second tests that the batch size is free


def onnx_backbone(path: Path, settings: OnnxConfig, size: int | None, folder: Path) -> Backbone:
    """Return a graph as a backbone.

    size: of the input in pixels, needed where the graph takes any. folder: of cached graphs, where its description is
    kept. Raises RecipeError, with what to do, if the file is no graph of a feature extractor: another number of inputs,
    several outputs and no setting that chooses one, an unknown normalisation, features that are NaN, more than 2 GB.
    """
    check_onnx_file(path)
    digest, chosen = graph_sha256(path), settings.model_dump_json()
    version = hashlib.sha256(repr([chosen, read_config_text(path)]).encode()).hexdigest()
    slug = f"onnx.{re.sub(r'[^A-Za-z0-9._]', '_', path.stem)[:60]}"
    version = f"v{GRAPH_VERSION}.{version[:8]}"
    description = folder / f"facts-{slug}-{version}-{size or 0}-{digest[:16]}.json"
    try:
        facts = BackboneFacts.of(read_description(description) or {})
    except (KeyError, TypeError, ValueError):
        facts = _describe(path, settings, size)
        write_description(description, facts.to_json())
    return Backbone(path.name, facts, slug, version, partial(build_onnx_graph, path, settings))


def build_onnx_graph(path: Path, settings: OnnxConfig, size: int) -> onnx.ModelProto:
    """Return the graph from `images` to `maps`: see `Backbone.build`. It is compared with the foreign one."""
    model = load_foreign_graph(path)
    taken = read_graph_input(model, path, settings)
    _input_pixels(taken, size, path)
    original = ForeignGraph(model, path, taken, choose_output(model, path, settings.output))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (max(BATCHES), size, size, 3), dtype=np.uint8)
    expected = original.run(images)
    tensor = read_feature_tensor(original.output, expected, settings, path)
    built = assemble_backbone(model, taken, tensor, size, path)
    _check_equal(built, images, expected, tensor, path)
    return built


def _input_pixels(taken: GraphInput, size: int | None, path: Path) -> int:
    """Return the input size; raises RecipeError if the graph takes another, or any and none is set."""
    if taken.size is None and size is None:
        raise RecipeError(f"{path} takes pictures of any size. Set picture.size to the one that it was trained with.")
    if taken.size is not None and size not in (None, taken.size):
        raise RecipeError(f"{path} takes pictures of {taken.size} pixels only; picture.size is {size}. Leave it out.")
    return taken.size or size or 0


def _describe(path: Path, settings: OnnxConfig, size: int | None) -> BackboneFacts:
    model = load_foreign_graph(path)
    taken = read_graph_input(model, path, settings)
    pixels = _input_pixels(taken, size, path)
    original = ForeignGraph(model, path, taken, choose_output(model, path, settings.output))
    images = np.random.default_rng(0).integers(0, 256, (1, pixels, pixels, 3), dtype=np.uint8)
    tensor = read_feature_tensor(original.output, original.run(images), settings, path)
    metadata = {entry.key.lower(): entry.value for entry in model.metadata_props}
    licence = metadata.get("license") or metadata.get("licence") or UNKNOWN
    record = Weights(graph_sha256(path), f"the graph {path.name}", licence)
    return BackboneFacts(pixels, tensor.maps_shape[0], tensor.kind, tensor.no_heatmap, record)


def _check_equal(built: onnx.ModelProto, images: Pixels, expected: Array, tensor: FeatureTensor, path: Path) -> None:
    """Compare the features of the written graph with those of the foreign one, for one picture and for five."""
    try:
        engine = OnnxRuntimeEngine(built.SerializeToString(), threads=1)
        answers = [run_batch(engine, images[:count])["maps"] for count in BATCHES]
    except Exception as error:  # ONNX Runtime's errors share no public class
        raise RecipeError(
            f"{path} cannot be used with several pictures at a time: {summarise_error(error)} Export it with a"
            " free batch size (dynamic axes)."
        ) from None
    for count, maps in zip(BATCHES, answers, strict=True):
        wanted = as_maps(expected[:count], tensor)
        limit = TOLERANCE * max(1.0, float(np.abs(wanted).max()))
        if maps.shape != wanted.shape or not float(np.abs(maps - wanted).max()) <= limit:
            raise RecipeError(
                f"{path} gives other features for {count} picture(s) at a time than for each of them. Export it with a"
                " free batch size (dynamic axes), in evaluation mode."
            )
