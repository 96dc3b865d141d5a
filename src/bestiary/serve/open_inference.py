"""Open Inference Protocol v2 (KServe, Triton) with the binary tensor extension.

https://github.com/kserve/open-inference-protocol and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md. A model has two
inputs, of which a request gives one: `pictures` are encoded files (BYTES; base64 in JSON), `images` are pixels at the
model's input size (UINT8, n x size x size x 3).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from bestiary.array_types import Array, Pixels
from bestiary.inference.predictor import Prediction
from bestiary.serve.request_body import from_base64
from bestiary.web.guard import RequestRejectedError

LENGTH_HEADER = "Inference-Header-Content-Length"
EXTENSIONS = ["binary_tensor_data"]
VERSION = "1"
OUTPUTS = ("probabilities", "label", "unknown", "familiarity")


@dataclass(frozen=True)
class RequestedOutput:
    """A requested output: as binary data behind the JSON, or within it."""

    name: str
    binary: bool


@dataclass(frozen=True)
class InferenceRequest:
    """A parsed request: files or pixels, and the requested outputs."""

    id: str | None
    pictures: list[bytes] | list[Pixels]
    outputs: list[RequestedOutput]


def model_metadata(name: str, classes: Sequence[str], size: int) -> dict[str, Any]:
    """Return the model metadata of the protocol: inputs, outputs, classes."""
    return {
        "name": name,
        "versions": [VERSION],
        "platform": "bestiary_onnx",
        "inputs": [
            {"name": "pictures", "datatype": "BYTES", "shape": [-1]},
            {"name": "images", "datatype": "UINT8", "shape": [-1, size, size, 3]},
        ],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(classes)]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            {"name": "unknown", "datatype": "BOOL", "shape": [-1]},
            {"name": "familiarity", "datatype": "FP32", "shape": [-1]},
        ],
        "parameters": {"classes": list(classes)},
    }


def parse_request(body: bytes, header_length: str | None, *, size: int, max_pictures: int) -> InferenceRequest:
    """Return the parsed request. Raises RequestRejectedError (400) if it is malformed or does not fit this model."""
    head, tail = _split_body(body, header_length)
    try:
        request = json.loads(head)
        [tensor] = request["inputs"]
        name, shape, datatype = tensor["name"], [int(side) for side in tensor["shape"]], tensor["datatype"]
        binary_size = _parameters(tensor).get("binary_data_size")
        count = shape[0]
        outputs = _parse_outputs(request)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise _bad_request_error(
            f"it needs one input with name, shape and datatype ({type(error).__name__}: {error})"
        ) from None
    if not 0 < count <= max_pictures:
        raise _bad_request_error(f"expected 1 to {max_pictures} pictures; got {count}")
    if binary_size is not None and binary_size != len(tail):
        raise _bad_request_error(f"binary_data_size is {binary_size}, but {len(tail)} bytes follow the JSON")
    content = tail if binary_size is not None else tensor.get("data")
    pictures: list[bytes] | list[Pixels]
    if (name, datatype, len(shape)) == ("pictures", "BYTES", 1):
        pictures = _parse_files(content)
        if len(pictures) != count:
            raise _bad_request_error(f"the shape expects {count} pictures; the data has {len(pictures)}")
    elif (name, datatype, shape[1:]) == ("images", "UINT8", [size, size, 3]):
        pictures = list(_parse_pixels(content, shape))
    else:
        raise _bad_request_error(
            f"the input is {name} {datatype} {shape}; expected pictures BYTES [n] or images UINT8 [n,{size},{size},3]"
        )
    identifier = request.get("id")
    return InferenceRequest(None if identifier is None else str(identifier), pictures, outputs)


def build_response(
    request: InferenceRequest, predictions: Sequence[Prediction], model: str, classes: Sequence[str]
) -> tuple[bytes, dict[str, str]]:
    """Return the body of the response and its headers."""
    outputs, tails = [], []
    for requested in request.outputs:
        values, datatype = _output_values(requested.name, predictions, classes)
        output: dict[str, Any] = {"name": requested.name, "datatype": datatype, "shape": list(values.shape)}
        if requested.binary:
            tails.append(_pack_tensor(values))
            output["parameters"] = {"binary_data_size": len(tails[-1])}
        else:
            output["data"] = values.ravel().tolist()
        outputs.append(output)
    response = {"model_name": model, "model_version": VERSION, "outputs": outputs}
    head = json.dumps(response if request.id is None else response | {"id": request.id}).encode()
    if not tails:
        return head, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(head))}
    return head + b"".join(tails), headers


def _split_body(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not (header_length.isascii() and header_length.isdecimal()) or int(header_length[:18]) > len(body):
        raise _bad_request_error(f"{LENGTH_HEADER} is {header_length[:40]}, but the body has {len(body)} bytes")
    return body[: int(header_length)], body[int(header_length) :]


def _parse_outputs(request: Mapping[str, Any]) -> list[RequestedOutput]:
    """Return the requested outputs; all of them if none is named."""
    binary = bool(_parameters(request).get("binary_data_output", False))
    outputs = request.get("outputs") or [{"name": name} for name in OUTPUTS]
    for output in outputs:
        if output["name"] not in OUTPUTS:
            raise _bad_request_error(f"unknown output {output['name']}; expected {', '.join(OUTPUTS)}")
        if _parameters(output).get("classification"):
            raise _bad_request_error("the classification extension is not supported; request label and probabilities")
    return [RequestedOutput(output["name"], bool(_parameters(output).get("binary_data", binary))) for output in outputs]


def _parameters(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = holder.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise TypeError("parameters must be an object")
    return parameters


def _parse_files(content: bytes | list[Any] | None) -> list[bytes]:
    """Return the elements of a BYTES tensor: base64 strings, or binary: a length in 4 bytes before each element."""
    if not isinstance(content, bytes):
        if not isinstance(content, list) or not all(isinstance(text, str) for text in content):
            raise _bad_request_error("data must be a list of base64 strings")
        return [from_base64(text) for text in content]
    files, start = [], 0
    while start < len(content):
        if start + 4 > len(content):
            raise _bad_request_error("the binary data ends within a length")
        [length] = struct.unpack_from("<I", content, start)
        start += 4 + length
        if start > len(content):
            raise _bad_request_error("the binary data ends within a picture")
        files.append(content[start - length : start])
    return files


def _parse_pixels(content: bytes | list[Any] | None, shape: Sequence[int]) -> Pixels:
    if isinstance(content, bytes):
        if len(content) != prod(shape):
            raise _bad_request_error(f"the shape {list(shape)} needs {prod(shape)} bytes; got {len(content)}")
        return np.frombuffer(content, np.uint8).reshape(shape)
    try:
        values = np.asarray(content)
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
            raise ValueError("expected integers from 0 to 255")
        return values.astype(np.uint8).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise _bad_request_error(f"data does not fit the shape {list(shape)}: {error}") from None


def _output_values(name: str, predictions: Sequence[Prediction], classes: Sequence[str]) -> tuple[Array, str]:
    if name == "probabilities":
        rows = [[prediction.probabilities[label] for label in classes] for prediction in predictions]
        return np.array(rows, np.float32), "FP32"
    if name == "label":
        return np.array([prediction.label for prediction in predictions], object), "BYTES"
    if name == "unknown":
        return np.array([prediction.unknown for prediction in predictions], bool), "BOOL"
    return np.array([prediction.familiarity for prediction in predictions], np.float32), "FP32"


def _pack_tensor(values: Array) -> bytes:
    if values.dtype != object:
        return values.tobytes()
    texts = [text.encode() for text in values]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _bad_request_error(reason: str) -> RequestRejectedError:
    return RequestRejectedError(400, f"Invalid inference request: {reason}.")
