"""A model so small that it can be checked by hand: it names the colour of a picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from bestiary.export.finalize import FinalModel, save_model
from bestiary.export.graph import OutputCalibration
from bestiary.models.head import Head
from bestiary.preprocess import Preprocessing

SIZE, CHANNELS = 6, 3
COLOURS = ("blue", "green", "red")  # in the order of the alphabet, as classes are
RGB = {"red": (250, 5, 5), "green": (5, 250, 5), "blue": (5, 5, 250), "grey": (128, 128, 128)}
BY_CHANNEL = Head(np.eye(3, dtype=np.float32)[::-1] * 4, np.zeros(3, np.float32), "average")
CALIBRATION = OutputCalibration(temperature=1.5, energy_mean=2.5, energy_scale=1.0)
THRESHOLD = 0.3  # grey pictures lie below it, coloured ones above


def trunk() -> onnx.ModelProto:
    """Pictures with channels first, from -1 to 1: maps float32 (n, 3, 6, 6)."""
    nodes = [
        helper.make_node("Transpose", ["images"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["first"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels", "half"], ["centred"]),
        helper.make_node("Div", ["centred", "half"], ["maps"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", SIZE, SIZE, 3])
    maps = helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["n", CHANNELS, SIZE, SIZE])
    half = numpy_helper.from_array(np.array(127.5, np.float32), "half")
    graph = helper.make_graph(nodes, "pixels", [images], [maps], [half])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def maps_of(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the trunk computes."""
    maps: NDArray[np.float32] = ((images.astype(np.float32) - 127.5) / 127.5).transpose(0, 3, 1, 2)
    return maps


def write_run(run: Path) -> Path:
    """A run folder with all that prediction needs."""
    model = FinalModel(
        backbone_graph=trunk(),
        head=BY_CHANNEL,
        calibration=CALIBRATION,
        threshold=THRESHOLD,
        coverage=0.95,
        classes=COLOURS,
        preprocess=Preprocessing(SIZE),
        method="probe",
        backbone="tiny",
    )
    save_model(model, run)
    return run


def coloured(name: str, size: tuple[int, int] = (20, 12)) -> bytes:
    """A PNG of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", size, RGB[name]).save(stream, "PNG")
    return stream.getvalue()
