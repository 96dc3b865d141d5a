"""Export formats: the run's ONNX graph in float32, quantised to 8-bit integers, or the latter in OpenVINO's format.

Each carries its metadata: classes, preprocessing, temperature, thresholds, costs, and the digest of the bundle it came
from. `export.verify` checks that the result is accurate enough.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bestiary.array_types import Pixels
from bestiary.box import MARGIN_FRACTION, MIN_SIDE, ROUNDING
from bestiary.decode_rules import FIRST_VERSION
from bestiary.errors import IntegrityError, import_optional
from bestiary.export.graph import OUTPUTS
from bestiary.inference.bundle import BUNDLE_NAME, GRAPH_NAME, Bundle, Precision, graph_digest
from bestiary.jpeg import FULL_PIXELS, REDUCED_SIDES, STEADY_INPUT
from bestiary.picture import LETTERBOX_GREY, Fit
from bestiary.telemetry import import_openvino
from bestiary.version import __version__

if TYPE_CHECKING:
    import onnx

Kind = Literal["onnx", "onnx-int8", "openvino"]
PRECISIONS: dict[Kind, Precision] = {"onnx": "float32", "onnx-int8": "int8", "openvino": "int8"}
OPENVINO_NAME = "model.xml"
QUANTISED = [
    "Conv",
    "Gemm",
    "Add",
    "Clip",
    "Relu",
    "MaxPool",
]  # the backbone; the head and what follows stay in float32
PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")  # metadata for the quantiser: shapes are inferred already
# Code that reproduces `bestiary predict` with Pillow and ONNX Runtime alone; metadata `recipe` of a model. A JPEG must
# be decoded at the same scale: see `_draft_side`. It leaves out what takes more than a line; LIMITS names that, and
# `_describe_decoding` says how such pictures are decoded.
RECIPE = """\
LIMITS
import json, numpy, onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(model)
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
with Image.open(picture) as file:
DRAFT    image = ImageOps.exif_transpose(file)
if image.has_transparency_data:
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
image = image.convert("RGB")
FITTED
[probabilities] = session.run(["probabilities"], {"images": numpy.asarray(image)[None]})
answer = dict(zip(classes, probabilities[0].tolist()))
DECIDED"""
LIMITS = """\
# The answer of `bestiary predict`, except for pictures with an embedded colour profile (ICC), with more than 8 bits a
# sample, with an alpha channel that is zero everywhere or that a TIFF or TGA does not declare, and for JPEGs of more
# than FULL_MILLIONS million pixels. Metadata `preprocessing` says how to decode those."""
FIRST_LIMITS = """\
# The answer of `bestiary predict`, except for grey pictures with more than 8 bits a sample: integers are divided by
# 257, floating-point samples multiplied by 255 unless the largest exceeds 1."""
FITTED: dict[Fit, str] = {
    "squash": "image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)",
    "crop": "image = ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.BICUBIC)",
    "letterbox": f"""\
inner = [max(1, round(side * SIZE / max(image.size))) for side in image.size]
canvas = Image.new("RGB", (SIZE, SIZE), ({LETTERBOX_GREY},) * 3)
corner = [(SIZE - side) // 2 for side in inner]
canvas.paste(image.resize(inner, Image.Resampling.BICUBIC), corner)
image = canvas""",
}

CROPPED = f"""\
import math

# The model looks at boxes: `box` has left, top, width and height in pixels of the upright picture. What it looks at is
# the box with a margin, at least {MIN_SIDE} pixels wide and high, cut off at the edge of the picture.
def span(start, length, limit):
    margin, least = {MARGIN_FRACTION} * max(box[2:]), min({MIN_SIDE}, limit)
    first, last = math.floor(start - margin + {ROUNDING}), math.ceil(start + length + margin - {ROUNDING})
    first, last = max(0, first), min(limit, last)
    if last - first < least:
        first = min(max(0, round(start + (length - least) / 2)), limit - least)
    return first, max(last, first + least)

left, right = span(box[0], box[2], image.width)
top, bottom = span(box[1], box[3], image.height)
image = image.crop((left, top, right, bottom))
"""
MOST_PROBABLE = "label = max(answer, key=answer.get)\n"
BY_COST = """\
costs = numpy.array(json.loads(session.get_modelmeta().custom_metadata_map["costs"]))  # by true and predicted class
label = classes[int((probabilities[0].astype(float) @ costs).argmin())]  # the least expected cost
"""

BY_CLASS = """\
least = json.loads(session.get_modelmeta().custom_metadata_map["class_thresholds"])  # probability, by class
unknown = answer[label] < least.get(label, 0)  # also if the output "familiarity" is below metadata `threshold`
"""

Images = Iterable[Pixels]


def write_export(run: Path, bundle: Bundle, kind: Kind, folder: Path, calibration: Images) -> Bundle:
    """Write the model of a run into `folder` in another format, with its own bundle; return that bundle.

    calibration: images uint8 (size, size, 3) that set the ranges of 8-bit integers.
    Raises IntegrityError if the graph fails ONNX's full check.
    """
    folder.mkdir(parents=True, exist_ok=True)
    precision, graph = PRECISIONS[kind], folder / GRAPH_NAME
    metadata = model_metadata(run, bundle, precision)
    if precision == "int8":
        _quantise(run / bundle.graph, graph, calibration)
    _write_onnx(graph if graph.exists() else run / bundle.graph, graph, metadata)
    if kind == "openvino":
        graph = _convert_to_openvino(graph, metadata)
    digest = graph_digest(graph)
    exported = replace(bundle, graph=graph.name, graph_sha256=digest, precision=precision, parity={}, exported={})
    exported.write(folder)
    return exported


def model_metadata(run: Path, bundle: Bundle, precision: Precision) -> dict[str, str]:
    """Return the metadata of an exported model, as text."""
    side, is_cropped = _draft_side(bundle), bundle.crop == "boxes"
    draft = f"    file.draft(None, ({side}, {side}))\n" if side and not is_cropped else ""
    limits = FIRST_LIMITS if bundle.decoding == FIRST_VERSION else LIMITS
    if side and is_cropped:
        reduced = f"boxes of {2 * side} pixels a side or more allow a reduced scale"
        limits += f" A JPEG is decoded in full\n# here, where {reduced}."
    recipe = RECIPE.replace("LIMITS", limits.replace("FULL_MILLIONS", str(FULL_PIXELS // 1_000_000)))
    recipe = recipe.replace("FITTED", (CROPPED if is_cropped else "") + FITTED[bundle.fit]).replace("DRAFT", draft)
    decided = BY_COST if bundle.costs else MOST_PROBABLE
    recipe = recipe.replace("DECIDED", decided + (BY_CLASS if bundle.class_thresholds else ""))
    preprocessing = {
        "input": f"uint8 (n, {bundle.size}, {bundle.size}, 3), RGB, upright by EXIF, transparency on white",
        "crop": bundle.crop,
        "fit": bundle.fit,
        "decoding": _describe_decoding(bundle, side),
        "deep_ranges": bundle.deep_ranges,
        "resize": f"to {bundle.size} x {bundle.size} pixels, bicubic with antialiasing, as Pillow does it",
        "normalisation": "in the graph",
    }
    decision = {"decision": "least expected cost", "costs": json.dumps(bundle.costs)} if bundle.costs else {}
    if bundle.class_thresholds:
        least = {name: value["threshold"] for name, value in bundle.class_thresholds.items()}
        decision["class_thresholds"] = json.dumps(least, ensure_ascii=False)
    return decision | {
        "classes": json.dumps(bundle.classes, ensure_ascii=False),
        "preprocessing": json.dumps(preprocessing),
        "recipe": recipe.replace("SIZE", str(bundle.size)),
        "size": str(bundle.size),
        "fit": bundle.fit,
        "temperature": repr(bundle.temperature),
        "threshold": repr(bundle.threshold),
        "coverage": repr(bundle.coverage),
        "precision": precision,
        "bundle_sha256": hashlib.sha256((run / BUNDLE_NAME).read_bytes()).hexdigest(),
        "graph_sha256": bundle.graph_sha256,
        "bestiary": __version__,
    }


def _draft_side(bundle: Bundle) -> int | None:
    """Return the side, in pixels, below which a JPEG is not reduced; None: it is decoded in full."""
    if bundle.decoding == FIRST_VERSION:
        return bundle.size
    return REDUCED_SIDES * bundle.size if bundle.size >= STEADY_INPUT else None


def _describe_decoding(bundle: Bundle, side: int | None) -> str:
    where, jpeg = " in the box with its margin" if bundle.crop == "boxes" else "", "JPEG in full"
    if side:
        jpeg = f"JPEG at the smallest of its scales that has {side} pixels a side{where} (Pillow: draft)"
    if bundle.decoding == FIRST_VERSION:
        return jpeg
    large = f"JPEG of more than {FULL_PIXELS // 1_000_000} million pixels at a reduced scale"
    deep = "more than 8 bits a sample scaled linearly from the file's range, else from deep_ranges"
    alpha = "alpha ignored if it is zero everywhere or not declared in a TIFF or TGA"
    return f"{jpeg}; {large}; colours converted to sRGB from an embedded profile; {deep}; {alpha}"


def _write_onnx(source: Path, graph: Path, metadata: dict[str, str]) -> None:
    onnx = import_optional("onnx", extra="train")
    model = onnx.load(source)
    old = {entry.key: entry.value for entry in model.metadata_props if entry.key != PREPARED[0]}
    onnx.helper.set_model_props(model, old | metadata)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise IntegrityError(f"The exported graph fails ONNX's check: {error}") from None
    graph.write_bytes(model.SerializeToString(deterministic=True))


def _convert_to_openvino(source: Path, metadata: dict[str, str]) -> Path:
    """Replace an ONNX file by OpenVINO's two files, .xml and .bin; return the first."""
    openvino = import_openvino()
    model, graph = openvino.convert_model(source), source.with_name(OPENVINO_NAME)
    for key, value in metadata.items():
        model.set_rt_info(value, ["bestiary", key])
    openvino.save_model(model, graph, compress_to_fp16=False)
    source.unlink()
    return graph


def _quantise(source: Path, graph: Path, images: Images) -> None:
    """Write the graph with its backbone in 8-bit integers: weights by channel, activations by their observed ranges.

    Static quantisation with QuantizeLinear/DequantizeLinear pairs (Jacob et al. 2018), by ONNX Runtime's quantiser.
    Weights use 7 of their 8 bits: x86-64 without VNNI adds two products in 16 bits, and 2 x 255 x 127 would saturate.
    """
    onnx = import_optional("onnx", extra="train")
    from onnxruntime import quantization

    prepared = graph.with_name("prepared.onnx")
    model = onnx.shape_inference.infer_shapes(onnx.load(source))
    onnx.helper.set_model_props(model, dict([PREPARED]))
    onnx.save(model, prepared)
    try:
        quantization.quantize_static(
            os.fspath(prepared),
            os.fspath(graph),
            _make_calibration_reader(images),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=QUANTISED,
            nodes_to_exclude=_added_node_names(model),
        )
    finally:
        prepared.unlink(missing_ok=True)


def _added_node_names(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that `build_inference_graph` added: head, temperature, softmax, familiarity."""
    return [node.name for node in model.graph.node if node.name.startswith("seal.") or node.name in OUTPUTS]


def _make_calibration_reader(images: Images) -> Any:
    """Return the images as the quantiser's data reader."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, images: Iterator[Pixels]) -> None:
            self._images = images

        def get_next(self) -> dict[str, Pixels] | None:
            image = next(self._images, None)
            return None if image is None else {"images": image[None]}

    return Reader(iter(images))
