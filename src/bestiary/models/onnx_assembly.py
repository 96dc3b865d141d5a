"""Builds the graph of a backbone around a foreign one: normalisation before it, the layout of maps after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bestiary.array_types import Array
from bestiary.errors import RecipeError
from bestiary.models.efficientnet_lite import IR_VERSION, OPSET
from bestiary.models.feature_tensor import FeatureTensor
from bestiary.models.foreign_graph import summarise_error
from bestiary.models.onnx_input import UINT8, GraphInput

if TYPE_CHECKING:
    import onnx

PART = "backbone/"  # before the names of the foreign graph
FLOAT = 1  # TensorProto.FLOAT


def assemble_backbone(
    model: onnx.ModelProto, taken: GraphInput, tensor: FeatureTensor, size: int, path: Path
) -> onnx.ModelProto:
    """Return the graph from `images` to `maps`: normalisation, what the features need of the foreign graph, layout."""
    import onnx

    model = _as_current_opset(model, path)
    foreign = onnx.compose.add_prefix(model, PART)
    graph, make = onnx.GraphProto(), onnx.helper
    graph.name = "backbone"
    graph.initializer.extend(foreign.graph.initializer)
    graph.sparse_initializer.extend(foreign.graph.sparse_initializer)
    for node, values in _iter_input_nodes(taken, PART + taken.name):
        graph.node.append(node)
        graph.initializer.extend(values)
    graph.node.extend(_needed_nodes(foreign.graph.node, PART + tensor.name))
    for node, values in _iter_output_nodes(tensor, PART + tensor.name):
        graph.node.append(node)
        graph.initializer.extend(values)
    used = {name for node in graph.node for name in _read_names(node)}
    weights = [value for value in graph.initializer if value.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    graph.input.append(make.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["n", size, size, 3]))
    graph.output.append(make.make_tensor_value_info("maps", FLOAT, ["n", *tensor.maps_shape]))
    imports = [make.make_opsetid(entry.domain, entry.version) for entry in foreign.opset_import]
    built: onnx.ModelProto = make.make_model(
        graph,
        opset_imports=imports,
        functions=list(foreign.functions),
        ir_version=max(IR_VERSION, model.ir_version),
        producer_name="bestiary",
    )
    try:
        onnx.checker.check_model(built)
    except onnx.checker.ValidationError as error:
        raise RecipeError(f"{path} fails ONNX's check: {summarise_error(error)}") from None
    return built


def _as_current_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return the graph in the opset that the head needs, or in a later one."""
    import onnx

    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), OPSET)
    if version >= OPSET:
        return model
    try:
        converted: onnx.ModelProto = onnx.version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter's errors share no class
        raise RecipeError(
            f"{path} is written for opset {version}, and cannot be converted to {OPSET}: {summarise_error(error)}"
            f" Export it with opset {OPSET} or later."
        ) from None
    return converted


def _iter_input_nodes(taken: GraphInput, target: str) -> Iterator[tuple[onnx.NodeProto, list[onnx.TensorProto]]]:
    """Yield the nodes from `images` to the input of the foreign graph, each with its constants."""
    from onnx import helper, numpy_helper

    steps: list[tuple[str, list[tuple[str, Array]], dict[str, Any]]] = []
    if taken.is_bgr:
        steps.append(("Gather", [("images.order", np.array([2, 1, 0], np.int64))], {"axis": 3}))
    if taken.element != UINT8:
        steps.append(("Cast", [], {"to": FLOAT}))
        steps.append(("Sub", [("images.mean", np.array(taken.mean, np.float32))], {}))
        steps.append(("Div", [("images.std", np.array(taken.std, np.float32))], {}))
    if taken.element not in (FLOAT, UINT8):
        steps.append(("Cast", [], {"to": taken.element}))
    steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}) if taken.layout == "nchw" else ("Identity", [], {}))
    value = "images"
    for number, (kind, constants, attributes) in enumerate(steps, start=1):
        name = target if number == len(steps) else f"images.{number}"
        inputs = [value, *(constant for constant, _ in constants)]
        tensors = [numpy_helper.from_array(numbers, constant) for constant, numbers in constants]
        yield helper.make_node(kind, inputs, [name], name=f"images.step{number}", **attributes), tensors
        value = name


def _iter_output_nodes(tensor: FeatureTensor, source: str) -> Iterator[tuple[onnx.NodeProto, list[onnx.TensorProto]]]:
    """Yield the nodes from the features of the foreign graph to `maps`, each with its constants."""
    from onnx import helper, numpy_helper

    def constant(name: str, *numbers: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(numbers, np.int64), name)

    yield helper.make_node("Cast", [source], ["features.float"], name="features.float", to=FLOAT), []
    if tensor.layout in ("nchw", "nhwc"):
        kind, attributes = ("Identity", {}) if tensor.layout == "nchw" else ("Transpose", {"perm": [0, 3, 1, 2]})
        yield helper.make_node(kind, ["features.float"], ["maps"], name="maps", **attributes), []
        return
    value = "features.float"
    if tensor.layout == "tokens":
        first, end = (0, 1) if tensor.class_token else (tensor.prefix, tensor.shape[1])
        bounds = [constant("patches.first", first), constant("patches.end", end), constant("patches.axis", 1)]
        yield helper.make_node("Slice", [value, *(bound.name for bound in bounds)], ["patches"], name="patches"), bounds
        yield helper.make_node("Transpose", ["patches"], ["patches.last"], name="patches.last", perm=[0, 2, 1]), []
        value = "patches.last"
    shape = constant("maps.shape", 0, *tensor.maps_shape)
    yield helper.make_node("Reshape", [value, shape.name], ["maps"], name="maps"), [shape]


def _needed_nodes(nodes: Any, output: str) -> list[onnx.NodeProto]:
    """Return the nodes that the output depends on, in their order."""
    needed, chosen = {output}, []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(_read_names(node))
            chosen.append(node)
    return chosen[::-1]


def _read_names(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of the tensors that a node reads, in its inner graphs too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for part in inner.node:
                yield from _read_names(part)
            yield from (value.name for value in inner.output)
