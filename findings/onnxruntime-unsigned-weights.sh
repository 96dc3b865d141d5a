#!/bin/sh
# ONNX Runtime 1.32.0 on x86-64 with VNNI: a network of small inverted bottlenecks in 8 bits loses most of its speed if
# its weights are unsigned instead of signed with 7 bits, both by channel. Its documentation names the two as equal remedies
# for sums that saturate on processors without VNNI; a model that was made safe for old processors by unsigned weights is
# slow on the new ones.
#
# Seen on an AMD EPYC (avx512_vnni): signed with 7 bits 2.9 times the speed of float32, unsigned 1.2 times. A pretrained
# EfficientNet-Lite2 had 0.15 of the speed of signed weights, and was slower than float32.
set -eu
grep -q -E "avx512_vnni|avx_vnni" /proc/cpuinfo || { echo "This processor has no VNNI: nothing to see here."; exit 0; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "onnxruntime==1.32.0" "onnx==1.23.2" "numpy==2.4.6" \
    >/dev/null 2>&1
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import statistics
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

rng = np.random.default_rng(0)
CHANNELS, BLOCKS, SIDE = 96, 6, 28


def draw(name, *shape, fan):
    return numpy_helper.from_array(rng.normal(0, (2 / fan) ** 0.5, shape).astype(np.float32), name)


def build_network():
    nodes, weights, last = [], [numpy_helper.from_array(np.float32(v), n) for n, v in (("zero", 0), ("six", 6))], "x"
    for block in range(BLOCKS):  # the inverted bottlenecks of small networks: 1 x 1, depthwise 3 x 3, 1 x 1
        wide = 4 * CHANNELS
        for part, (shape, groups) in enumerate((((wide, CHANNELS, 1, 1), 1), ((wide, 1, 3, 3), wide), ((CHANNELS, wide, 1, 1), 1))):
            name = f"{block}.{part}"
            weights.append(draw(f"w{name}", *shape, fan=shape[1] * shape[2] * shape[3]))
            weights.append(draw(f"b{name}", shape[0], fan=200))
            pads = [shape[2] // 2] * 4
            nodes.append(helper.make_node("Conv", [last, f"w{name}", f"b{name}"], [f"c{name}"], group=groups, pads=pads, kernel_shape=shape[2:]))
            nodes.append(helper.make_node("Clip", [f"c{name}", "zero", "six"], [f"r{name}"]))
            last = f"r{name}"
    tensor = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, CHANNELS, SIDE, SIDE])
    graph = helper.make_graph(nodes, "net", [tensor("x")], [tensor(last)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), last


class Reader(quantization.CalibrationDataReader):
    def __init__(self):
        self.rest = iter(images[:8])

    def get_next(self):
        image = next(self.rest, None)
        return None if image is None else {"x": image}


images = rng.normal(0, 1, (16, 1, CHANNELS, SIDE, SIDE)).astype(np.float32)
model, output = build_network()
onnx.save(model, "float32.onnx")
kinds = {"signed, 7 bits": (quantization.QuantType.QInt8, True), "unsigned": (quantization.QuantType.QUInt8, False)}
for name, (kind, reduce) in kinds.items():
    quantization.quantize_static("float32.onnx", f"{name}.onnx", Reader(), activation_type=quantization.QuantType.QUInt8,
        weight_type=kind, reduce_range=reduce, per_channel=True, op_types_to_quantize=["Conv", "Clip"])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 3
sessions = {name: onnxruntime.InferenceSession(f"{name}.onnx", options, providers=["CPUExecutionProvider"]) for name in ("float32", *kinds)}
seconds = {name: [] for name in sessions}
for _ in range(15):
    for name, session in sessions.items():
        began = time.process_time()
        for image in images[:4]:
            session.run(None, {"x": image})
        seconds[name].append(time.process_time() - began)
medians = {name: statistics.median(times) for name, times in seconds.items()}
print(f"onnxruntime {onnxruntime.__version__}, processor seconds of an image on one thread, medians of 15")
for name, value in medians.items():
    print(f"{name:16} {1000 * value / 4:7.2f} ms, {medians['float32'] / value:.2f} of the speed of float32")
kept = medians["signed, 7 bits"] / medians["unsigned"]
print(f"unsigned weights: {kept:.2f} of the speed of signed ones")
assert kept < 0.65, "unsigned weights are no longer slow"
PYTHON
