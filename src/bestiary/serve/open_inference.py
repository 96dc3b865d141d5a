"""The Open Inference Protocol v2, with the binary tensor extension: what KServe, Triton's clients and others speak.

https://github.com/kserve/open-inference-protocol and
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md. A model has two
inputs, of which a request gives one: `pictures` are files as they are (BYTES; base64 in JSON), `images` are pixels as
the model sees them (UINT8, n x size x size x 3).
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


@dataclass(frozen=True)
class RequestedOutput:
    """An output that was asked for, as bytes behind the JSON or in it."""

    name: str
    binary: bool


@dataclass(frozen=True)
class InferenceRequest:
    """A request that was read: files or pixels, and the outputs wanted."""

    id: str | None
    pictures: list[bytes] | list[Pixels]
    outputs: list[RequestedOutput]


def model_metadata(name: str, classes: Sequence[str], size: int) -> dict[str, Any]:
    """Return the description of the model that the protocol asks for."""
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


OUTPUTS = ("probabilities", "label", "unknown", "familiarity")


def parse_request(body: bytes, header_length: str | None, *, size: int, max_pictures: int) -> InferenceRequest:
    """Return what a request asks. Raises RefusedError (400) for what is not the protocol or not this model's."""
    head, tail = _split_body(body, header_length)
    try:
        asked = json.loads(head)
        [tensor] = asked["inputs"]
        name, shape, kind = tensor["name"], [int(side) for side in tensor["shape"]], tensor["datatype"]
        binary = _parameters(tensor).get("binary_data_size")
        count = shape[0]
        outputs = _parse_outputs(asked)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise _bad_request_error(
            f"it needs one input with name, shape and datatype ({type(error).__name__}: {error})"
        ) from None
    if not 0 < count <= max_pictures:
        raise _bad_request_error(f"a request may have 1 to {max_pictures} pictures; this has {count}")
    if binary is not None and binary != len(tail):
        raise _bad_request_error(f"binary_data_size is {binary}, but {len(tail)} bytes follow the JSON")
    content = tail if binary is not None else tensor.get("data")
    if (name, kind, len(shape)) == ("pictures", "BYTES", 1):
        files = _parse_files(content)
        if len(files) != count:
            raise _bad_request_error(f"the shape says {count} pictures; {len(files)} are there")
        return InferenceRequest(_request_id(asked), files, outputs)
    if (name, kind, shape[1:]) == ("images", "UINT8", [size, size, 3]):
        return InferenceRequest(_request_id(asked), list(_parse_pixels(content, shape)), outputs)
    raise _bad_request_error(
        f"the input is {name} {kind} {shape}; expected pictures BYTES [n] or images UINT8 [n,{size},{size},3]"
    )


def build_response(
    request: InferenceRequest, predictions: Sequence[Prediction], model: str, classes: Sequence[str]
) -> tuple[bytes, dict[str, str]]:
    """Return the body of the answer, and its headers."""
    described, tails = [], []
    for output in request.outputs:
        values, kind = _output_values(output.name, predictions, classes)
        one: dict[str, Any] = {"name": output.name, "datatype": kind, "shape": list(values.shape)}
        if output.binary:
            tails.append(_pack_tensor(values))
            one["parameters"] = {"binary_data_size": len(tails[-1])}
        else:
            one["data"] = values.ravel().tolist()
        described.append(one)
    answer = {"model_name": model, "model_version": VERSION, "outputs": described}
    head = json.dumps(answer if request.id is None else answer | {"id": request.id}).encode()
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
    """Return the outputs asked for; all of them if none is named."""
    binary = bool(_parameters(request).get("binary_data_output", False))
    named = request.get("outputs") or [{"name": name} for name in OUTPUTS]
    for one in named:
        if one["name"] not in OUTPUTS:
            raise _bad_request_error(f"the output {one['name']} is not known; there are {', '.join(OUTPUTS)}")
        if _parameters(one).get("classification"):
            raise _bad_request_error("the classification extension is not spoken; ask for label and probabilities")
    return [RequestedOutput(one["name"], bool(_parameters(one).get("binary_data", binary))) for one in named]


def _parameters(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    found = holder.get("parameters") or {}
    if not isinstance(found, dict):
        raise TypeError("parameters must be an object")
    return found


def _request_id(request: Mapping[str, Any]) -> str | None:
    found = request.get("id")
    return None if found is None else str(found)


def _parse_files(content: bytes | list[Any] | None) -> list[bytes]:
    """Return the elements of a BYTES tensor: each 4 bytes of length and then so many bytes; or a list of base64."""
    if not isinstance(content, bytes):
        if not isinstance(content, list) or not all(isinstance(one, str) for one in content):
            raise _bad_request_error("data must be a list of base64 texts")
        return [from_base64(one) for one in content]
    files, place = [], 0
    while place < len(content):
        if place + 4 > len(content):
            raise _bad_request_error("the binary data ends within a length")
        [length] = struct.unpack_from("<I", content, place)
        if place + 4 + length > len(content):
            raise _bad_request_error("the binary data ends within a picture")
        files.append(content[place + 4 : place + 4 + length])
        place += 4 + length
    return files


def _parse_pixels(content: bytes | list[Any] | None, shape: Sequence[int]) -> Pixels:
    if isinstance(content, bytes):
        if len(content) != prod(shape):
            raise _bad_request_error(f"the shape {list(shape)} needs {prod(shape)} bytes; {len(content)} are there")
        return np.frombuffer(content, np.uint8).reshape(shape)
    try:
        values = np.asarray(content)
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
            raise ValueError("expected whole numbers from 0 to 255")
        return values.astype(np.uint8).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise _bad_request_error(f"data does not fit the shape {list(shape)}: {error}") from None


def _output_values(name: str, predictions: Sequence[Prediction], classes: Sequence[str]) -> tuple[Array, str]:
    if name == "probabilities":
        return np.array([[one.probabilities[label] for label in classes] for one in predictions], np.float32), "FP32"
    if name == "label":
        return np.array([one.label for one in predictions], object), "BYTES"
    if name == "unknown":
        return np.array([one.unknown for one in predictions], bool), "BOOL"
    return np.array([one.familiarity for one in predictions], np.float32), "FP32"


def _pack_tensor(values: Array) -> bytes:
    if values.dtype != object:
        return values.tobytes()
    texts = [text.encode() for text in values]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _bad_request_error(reason: str) -> RequestRejectedError:
    return RequestRejectedError(400, f"The inference request is not right: {reason}.")
