#!/bin/sh
# onnxruntime-gpu 1.31.1 on a computer without an NVIDIA driver: CUDAExecutionProvider is listed as available, and a session
# that asks for it alone, with enable_fallback=0, raises nothing and computes on the processor. A line of the log on stderr
# and the session's own get_providers() tell. Whoever trusts the list of available providers, or waits for an exception, measures the
# processor and calls it the card.
set -eu
if [ -e /dev/nvidia0 ]; then echo "This computer has an NVIDIA card: nothing to show here."; exit 0; fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check "onnxruntime-gpu==1.31.1" "onnx==1.23.2" >/dev/null 2>&1
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

assert onnxruntime.__version__ == "1.31.1"
numbers = helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [2])
doubled = helper.make_tensor_value_info("doubled", TensorProto.FLOAT, [2])
graph = helper.make_graph([helper.make_node("Add", ["numbers", "numbers"], ["doubled"])], "double", [numbers], [doubled])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()

available = onnxruntime.get_available_providers()
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
session = onnxruntime.InferenceSession(model, options, providers=["CUDAExecutionProvider"], enable_fallback=0)
[answer] = session.run(None, {"numbers": np.float32([1, 2])})
print("available:", available)
print("asked for: ['CUDAExecutionProvider'], used:", session.get_providers(), "answer:", answer.tolist())
assert "CUDAExecutionProvider" in available
assert session.get_providers() == ["CPUExecutionProvider"]
assert answer.tolist() == [2.0, 4.0]
PYTHON
echo "As described: asked for CUDA alone, computed on the processor, no exception."
