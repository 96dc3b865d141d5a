"""The exported inference graph: backbone, head, temperature, softmax, heatmap and OOD score in one ONNX model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bestiary.array_types import AnyFloats, Floats
from bestiary.batches.feature_matrix import FeatureMatrix
from bestiary.errors import IntegrityError
from bestiary.models.head import Head
from bestiary.models.ood import PrincipalSubspace

if TYPE_CHECKING:
    import onnx

ENERGY_WEIGHT = 0.25  # the feature term has weight 1: measured, docs/log.md, 2026-11-25
# A smaller spread is rounding noise of float32, of a head with nearly equal outputs: it must not be magnified.
MIN_SPREAD = 1e-3
OUTPUTS = ("probabilities", "heatmap", "familiarity", "logits")


@dataclass(frozen=True)
class OutputCalibration:
    """Parameters fitted on validation pictures that become part of the graph.

    temperature: divides the logits before the softmax. Familiarity is the in-distribution score (1 - OOD score): a
    logistic function of the energy of the logits (their log-sum-exp: Liu et al. 2020, "Energy-based out-of-distribution
    detection"), centred on `energy_mean`, in units of `energy_scale`. With a subspace of training features, energy has
    the weight ENERGY_WEIGHT, and the fraction of a picture's features inside the subspace, centred and scaled likewise,
    is added. Familiarity is in (0, 1), and near 0.5 for an ordinary picture.
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

        The subspace term needs both: the subspace, and `features` (n, channels) of the same pictures.
        """
        median, spread = _median_and_spread(_energy(logits))
        if subspace is None or features is None:
            return cls(temperature, median, spread)
        return cls(temperature, median, spread, subspace, *_median_and_spread(subspace.inside_norm(features)))

    @property
    def familiarity_kind(self) -> str:
        """The terms of familiarity, as named in the bundle."""
        return "energy" if self.subspace is None else "energy and features"

    def familiarity(self, logits: AnyFloats, features: FeatureMatrix | None = None) -> AnyFloats:
        """Return the graph's familiarity, (n,), for logits (n, classes) and features (n, channels)."""
        score = (_energy(logits) - self.energy_mean) / self.energy_scale
        if self.subspace is not None:
            if features is None:
                raise ValueError("Familiarity uses features as well; pass them.")
            score = ENERGY_WEIGHT * score + (self.subspace.inside_norm(features) - self.inside_mean) / self.inside_scale
        familiarity: AnyFloats = 1 / (1 + np.exp(-np.clip(score, -80, 80)))
        return familiarity


def _energy(logits: AnyFloats) -> Floats:
    from scipy.special import logsumexp

    return np.asarray(logsumexp(logits.astype(np.float64), axis=1))


def _median_and_spread(values: AnyFloats) -> tuple[float, float]:
    return float(np.median(values)), max(float(values.std()), MIN_SPREAD)


def build_inference_graph(
    backbone_graph: onnx.ModelProto,
    head: Head,
    calibration: OutputCalibration,
    metadata: Mapping[str, str],
    *,
    with_heatmap: bool = True,
) -> onnx.ModelProto:
    """Return the graph from `images` to `probabilities`, `heatmap` (if it is exact), `familiarity` and `logits`.

    images: uint8 (n, size, size, 3), RGB. probabilities: float32 (n, classes), calibrated. heatmap: float32
    (n, classes, h, w): what each position adds to the logit of each class; the sum over all positions and the bias is
    exactly the logit. familiarity: float32 (n,) in (0, 1), the in-distribution score. logits: float32 (n, classes),
    before the temperature. Raises IntegrityError if the graph fails ONNX's full check.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(backbone_graph)
    nodes = _GraphBuilder(model)
    shape = [dimension.dim_value for dimension in backbone_graph.graph.output[0].type.tensor_type.shape.dim]
    if head.is_linear:
        logits, heatmap = _add_linear_head(nodes, head, with_heatmap=with_heatmap)
    else:
        logits, heatmap = _add_dense_head(nodes, head, shape)
    if with_heatmap:
        nodes.add("Identity", [heatmap], "heatmap")
    nodes.add("Softmax", [nodes.add("Div", [logits, nodes.number(calibration.temperature)])], "probabilities", axis=1)
    nodes.add("Identity", [logits], "logits")
    nodes.add("Sigmoid", [_add_familiarity(nodes, logits, calibration)], "familiarity")
    _declare_outputs(model, head.classes, shape[2:] if with_heatmap else None)
    onnx.helper.set_model_props(model, dict(metadata))
    model.producer_name = "bestiary"
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise IntegrityError(f"The graph fails ONNX's check: {error}") from None
    return model


def _add_familiarity(nodes: _GraphBuilder, logits: str, calibration: OutputCalibration) -> str:
    """Add the argument of familiarity's logistic function: energy, and the feature norm inside the subspace."""
    energy = nodes.add("ReduceLogSumExp", [logits, nodes.axes(1)], keepdims=0)
    energy = nodes.standardise(energy, calibration.energy_mean, calibration.energy_scale)
    if calibration.subspace is None:
        return energy
    space = calibration.subspace
    features = nodes.add("ReduceMean", ["maps", nodes.axes(2, 3)], keepdims=0)
    centred = nodes.add("Sub", [features, nodes.constant(space.mean)])
    standardised = nodes.add("Div", [centred, nodes.constant(space.scale)])
    projected = nodes.add("MatMul", [standardised, nodes.constant(space.directions)])
    norms = [nodes.add("ReduceSumSquare", [rows, nodes.axes(1)], keepdims=0) for rows in (projected, standardised)]
    inside = nodes.standardise(nodes.add("Div", norms), calibration.inside_mean, calibration.inside_scale)
    return nodes.add("Add", [nodes.add("Mul", [energy, nodes.number(ENERGY_WEIGHT)]), inside])


class _GraphBuilder:
    """Adds nodes and constants to a graph; every method returns the name of its output."""

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

    def standardise(self, value: str, centre: float, scale: float) -> str:
        return self.add("Div", [self.add("Sub", [value, self.number(centre)]), self.number(scale)])

    def axes(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def _name(self) -> str:
        self._count += 1
        return f"seal.{self._count}"


def _add_linear_head(nodes: _GraphBuilder, head: Head, *, with_heatmap: bool) -> tuple[str, str]:
    """Add average pooling and one linear layer: a position's part of the logit is the layer applied there."""
    kernel = nodes.constant(head.weight[:, :, None, None])
    activation = nodes.add("Conv", ["maps", kernel], kernel_shape=[1, 1])
    mean = nodes.add("ReduceMean", [activation, nodes.axes(2, 3)], keepdims=0)
    logits = nodes.add("Add", [mean, nodes.constant(head.bias)])
    if not with_heatmap:
        return logits, ""
    # The mean over h x w positions becomes a sum when each is divided by their number.
    shape = nodes.add("Shape", [activation], start=2, end=4)
    positions = nodes.add("Cast", [nodes.add("ReduceProd", [shape], keepdims=0)], to=1)
    return logits, nodes.add("Div", [activation, positions])


def _add_dense_head(nodes: _GraphBuilder, head: Head, shape: Sequence[int]) -> tuple[str, str]:
    """Add flattening, hidden layers with ReLU, and a linear layer.

    Such a head is linear around each picture: through the active hidden units, the weights of a class lead back to
    every value of the maps; value times weight is what that value adds to the logit.
    """
    if not head.hidden or head.pooling != "flatten":
        raise IntegrityError("A head without average pooling must flatten and have a hidden layer to be exported.")
    channels, height, width = shape[1:]
    flat = value = nodes.add("Flatten", ["maps"], axis=1)
    masks = []
    for layer in head.hidden:
        before = nodes.add("Gemm", [value, nodes.constant(layer.weight), nodes.constant(layer.bias)], transB=1)
        value = nodes.add("Relu", [before])
        is_active = nodes.add("Cast", [nodes.add("Greater", [before, nodes.number(0)])], to=1)
        masks.append(nodes.add("Unsqueeze", [is_active, nodes.axes(1)]))
    logits = nodes.add("Gemm", [value, nodes.constant(head.weight), nodes.constant(head.bias)], transB=1)
    back = nodes.constant(head.weight[None])  # (1, classes, hidden); after the loop (n, classes, flat)
    for layer, mask in zip(reversed(head.hidden), reversed(masks), strict=True):
        back = nodes.add("MatMul", [nodes.add("Mul", [mask, back]), nodes.constant(layer.weight)])
    parts = nodes.add("Mul", [back, nodes.add("Unsqueeze", [flat, nodes.axes(1)])])
    by_channel = nodes.constant(np.array([-1, head.classes, channels, height * width], np.int64))
    summed = nodes.add("ReduceSum", [nodes.add("Reshape", [parts, by_channel]), nodes.axes(2)], keepdims=0)
    grid = nodes.constant(np.array([-1, head.classes, height, width], np.int64))
    return logits, nodes.add("Reshape", [summed, grid])


def _declare_outputs(model: onnx.ModelProto, classes: int, grid: Sequence[int] | None) -> None:
    import onnx

    shapes = {
        "probabilities": ["n", classes],
        "heatmap": ["n", classes, *(grid or ())],
        "familiarity": ["n"],
        "logits": ["n", classes],
    }
    del model.graph.output[:]
    make_info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    model.graph.output.extend(make_info(name, kind, shapes[name]) for name in OUTPUTS if name != "heatmap" or grid)
