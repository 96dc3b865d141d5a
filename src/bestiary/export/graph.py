"""The graph that ships: trunk, head, temperature, softmax, heatmap and familiarity sealed into one ONNX model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import logsumexp

from bestiary.array_types import AnyFloats, Floats
from bestiary.batches.feature_matrix import FeatureMatrix
from bestiary.errors import IntegrityError
from bestiary.models.head import Head
from bestiary.models.ood import PrincipalSubspace

if TYPE_CHECKING:
    import onnx


ENERGY_WEIGHT = 0.25  # beside the share of the features inside the subspace: measured, docs/log.md, 2026-11-25
# Less is what float32 makes of a head that says nearly the same of every picture: it must not be magnified.
MIN_SPREAD = 1e-3
OUTPUTS = ("probabilities", "heatmap", "familiarity", "logits")


@dataclass(frozen=True)
class OutputCalibration:
    """What is fitted on validation pictures and then sealed in.

    temperature: divides the logits before the softmax. familiarity is a logistic function of the energy of the logits
    (their log-sum-exp: Liu et al. 2020, "Energy-based out-of-distribution detection"), centred on `energy_mean`, in
    units of `energy_scale`. Where there is a subspace of training features, the share of a picture's features that
    lies inside it, centred and scaled likewise, is added, and energy counts ENERGY_WEIGHT. Familiarity lies in (0, 1)
    and is near 0.5 for an ordinary picture.
    """

    temperature: float = 1.0
    energy_mean: float = 0.0
    energy_scale: float = 1.0
    subspace: PrincipalSubspace | None = None
    inside_mean: float = 0.0
    inside_scale: float = 1.0

    @classmethod
    def fit(
        cls,
        logits: AnyFloats,
        temperature: float,
        features: FeatureMatrix | None = None,
        subspace: PrincipalSubspace | None = None,
    ) -> OutputCalibration:
        """Return the calibration whose familiarity is centred on these validation logits (n, classes).

        With a subspace also on `features` (n, channels) of the same pictures: both are given, or none.
        """
        middle, spread = _median_and_spread(_energy(logits))
        if subspace is None or features is None:
            return cls(temperature, middle, spread)
        return cls(temperature, middle, spread, subspace, *_median_and_spread(subspace.inside_norm(features)))

    @property
    def familiarity_kind(self) -> str:
        """What familiarity is made of, as the bundle says it."""
        return "energy" if self.subspace is None else "energy and features"

    def familiarity(self, logits: AnyFloats, features: FeatureMatrix | None = None) -> AnyFloats:
        """Return what the sealed graph gives as familiarity, (n,), for logits (n, classes), features (n, channels)."""
        known = (_energy(logits) - self.energy_mean) / self.energy_scale
        if self.subspace is not None:
            if features is None:
                raise ValueError("Familiarity is made of features as well; pass them.")
            known = ENERGY_WEIGHT * known + (self.subspace.inside_norm(features) - self.inside_mean) / self.inside_scale
        shares: AnyFloats = 1 / (1 + np.exp(-np.clip(known, -80, 80)))
        return shares


def build_inference_graph(
    backbone_graph: onnx.ModelProto, head: Head, calibration: OutputCalibration, metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """Return the graph from `images` to `probabilities`, `heatmap`, `familiarity` and `logits`.

    images: uint8 (n, size, size, 3), RGB. probabilities: float32 (n, classes), calibrated. heatmap: float32
    (n, classes, h, w): what each place adds to the logit of each class; summed over all places and the bias it is the
    logit, exactly. familiarity: float32 (n,) in (0, 1). logits: float32 (n, classes), before the temperature.
    Raises IntegrityError if the graph fails ONNX's full check.
    """
    import onnx

    sealed = onnx.ModelProto()
    sealed.CopyFrom(backbone_graph)
    nodes = _GraphBuilder(sealed)
    shape = [dimension.dim_value for dimension in backbone_graph.graph.output[0].type.tensor_type.shape.dim]
    logits, heatmap = _add_linear_head(nodes, head) if head.is_linear else _add_dense_head(nodes, head, shape)
    nodes.add("Identity", [heatmap], "heatmap")
    nodes.add("Softmax", [nodes.add("Div", [logits, nodes.number(calibration.temperature)])], "probabilities", axis=1)
    nodes.add("Identity", [logits], "logits")
    nodes.add("Sigmoid", [_add_familiarity(nodes, logits, calibration)], "familiarity")
    _declare_outputs(sealed, head.classes, shape[2:])
    onnx.helper.set_model_props(sealed, dict(metadata))
    sealed.producer_name = "bestiary"
    try:
        onnx.checker.check_model(sealed, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise IntegrityError(f"The graph fails ONNX's check: {error}") from None
    return sealed


def _energy(logits: AnyFloats) -> Floats:
    return np.asarray(logsumexp(logits.astype(np.float64), axis=1))


def _median_and_spread(values: AnyFloats) -> tuple[float, float]:
    return float(np.median(values)), max(float(values.std()), MIN_SPREAD)


def _add_familiarity(nodes: _GraphBuilder, logits: str, calibration: OutputCalibration) -> str:
    """What the logistic function makes familiarity of: energy, and the share of the features inside the subspace."""
    energy = nodes.add("ReduceLogSumExp", [logits, nodes.axes(1)], keepdims=0)
    known = nodes.scaled(energy, calibration.energy_mean, calibration.energy_scale)
    if calibration.subspace is None:
        return known
    space = calibration.subspace
    features = nodes.add("ReduceMean", ["maps", nodes.axes(2, 3)], keepdims=0)
    centred = nodes.add("Sub", [features, nodes.constant(space.mean)])
    seen = nodes.add("Div", [centred, nodes.constant(space.scale)])
    along = nodes.add("MatMul", [seen, nodes.constant(space.directions)])
    lengths = [nodes.add("ReduceSumSquare", [part, nodes.axes(1)], keepdims=0) for part in (along, seen)]
    inside = nodes.scaled(nodes.add("Div", lengths), calibration.inside_mean, calibration.inside_scale)
    return nodes.add("Add", [nodes.add("Mul", [known, nodes.number(ENERGY_WEIGHT)]), inside])


class _GraphBuilder:
    """Adds nodes and constants to a graph; every method returns the name of what it made."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph, self._count = model.graph, 0

    def add(self, kind: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        import onnx

        name = output or self._name()
        self._graph.node.append(onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, values: Any) -> str:
        import onnx

        name = self._name()
        self._graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.float32(value).reshape(()))

    def scaled(self, value: str, middle: float, spread: float) -> str:
        return self.add("Div", [self.add("Sub", [value, self.number(middle)]), self.number(spread)])

    def axes(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def _name(self) -> str:
        self._count += 1
        return f"seal.{self._count}"


def _add_linear_head(nodes: _GraphBuilder, head: Head) -> tuple[str, str]:
    """Average pooling and one linear layer: every place's part of the logit is the layer applied to that place."""
    kernel = nodes.constant(head.weight[:, :, None, None])
    activation = nodes.add("Conv", ["maps", kernel], kernel_shape=[1, 1])
    mean = nodes.add("ReduceMean", [activation, nodes.axes(2, 3)], keepdims=0)
    logits = nodes.add("Add", [mean, nodes.constant(head.bias)])
    return logits, _per_position(nodes, activation)


def _per_position(nodes: _GraphBuilder, activation: str) -> str:
    """The mean over h x w places becomes a sum when each is divided by their number."""
    shape = nodes.add("Shape", [activation], start=2, end=4)
    places = nodes.add("Cast", [nodes.add("ReduceProd", [shape], keepdims=0)], to=1)
    return nodes.add("Div", [activation, places])


def _add_dense_head(nodes: _GraphBuilder, head: Head, shape: Sequence[int]) -> tuple[str, str]:
    """Flattening, hidden layers with ReLU, and a linear layer.

    Such a head is linear around each picture: with the hidden units that are on, the class's weights lead straight
    back to every value of the maps, and value times weight is what that value adds to the logit.
    """
    if not head.hidden or head.pooling != "flatten":
        raise IntegrityError("A head without average pooling needs flattening and a hidden layer to be sealed.")
    channels, height, width = shape[1:]
    flat = value = nodes.add("Flatten", ["maps"], axis=1)
    masks = []
    for layer in head.hidden:
        before = nodes.add("Gemm", [value, nodes.constant(layer.weight), nodes.constant(layer.bias)], transB=1)
        value = nodes.add("Relu", [before])
        is_on = nodes.add("Cast", [nodes.add("Greater", [before, nodes.number(0)])], to=1)
        masks.append(nodes.add("Unsqueeze", [is_on, nodes.axes(1)]))
    logits = nodes.add("Gemm", [value, nodes.constant(head.weight), nodes.constant(head.bias)], transB=1)
    back = nodes.constant(head.weight[None])  # (1, classes, hidden); after the loop (n, classes, flat)
    for layer, mask in zip(reversed(head.hidden), reversed(masks), strict=True):
        back = nodes.add("MatMul", [nodes.add("Mul", [mask, back]), nodes.constant(layer.weight)])
    parts = nodes.add("Mul", [back, nodes.add("Unsqueeze", [flat, nodes.axes(1)])])
    places = nodes.constant(np.array([-1, head.classes, channels, height * width], np.int64))
    summed = nodes.add("ReduceSum", [nodes.add("Reshape", [parts, places]), nodes.axes(2)], keepdims=0)
    grid = nodes.constant(np.array([-1, head.classes, height, width], np.int64))
    return logits, nodes.add("Reshape", [summed, grid])


def _declare_outputs(model: onnx.ModelProto, classes: int, grid: Sequence[int]) -> None:
    import onnx

    shapes: dict[str, list[Any]] = {
        "probabilities": ["n", classes],
        "heatmap": ["n", classes, *grid],
        "familiarity": ["n"],
        "logits": ["n", classes],
    }
    del model.graph.output[:]
    for name in OUTPUTS:
        info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shapes[name])
        model.graph.output.append(info)
