"""A trunk with average pooling on top: the graph that gives one feature vector for each picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def pooled_graph(trunk: Path) -> bytes:
    """Return a serialised graph from `images` to `features`, float32 (n, channels): the maps' mean over all places."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(trunk)
    maps = model.graph.output[0]
    channels = maps.type.tensor_type.shape.dim[1].dim_value
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3], np.int64), "pooling.axes"))
    model.graph.node.append(helper.make_node("ReduceMean", ["maps", "pooling.axes"], ["features"], keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", channels]))
    content: bytes = model.SerializeToString()
    return content
