"""Runs a graph with ONNX Runtime on one thread, and prints probabilities and processor seconds as one JSON object.

    python run_graph.py GRAPH PICTURES.npz COUNT

Needs numpy and ONNX Runtime alone, so that it starts on an emulated processor too. PICTURES.npz: `images`, uint8
(n, size, size, 3); the first COUNT are run, one at a time. The seconds are those of the processor for each picture,
after one picture that warms up.
"""

import json
import sys
import time

import numpy as np
import onnxruntime

graph, pictures, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
images = np.load(pictures)["images"][:count]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
session.run(["probabilities"], {"images": images[:1]})
probabilities, seconds = [], []
for image in images:
    start = time.process_time()
    [rows] = session.run(["probabilities"], {"images": image[None]})
    seconds.append(time.process_time() - start)
    probabilities.append(rows[0].tolist())
print(json.dumps({"probabilities": probabilities, "seconds": seconds, "onnxruntime": onnxruntime.__version__}))
