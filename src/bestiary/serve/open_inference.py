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
import numpy.typing as npt

from bestiary.inference.predictor import Prediction
from bestiary.serve.request_body import from_base64
from bestiary.web.guard import RequestRejectedError

LENGTH_HEADER = "Inference-Header-Content-Length"
EXTENSIONS = ["binary_tensor_data"]
VERSION = "1"
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Output:
    """An output that was asked for, as bytes behind the JSON or in it."""

    name: str
    binary: bool


@dataclass(frozen=True)
class Inference:
    """A request that was read: files or pixels, and the outputs wanted."""

    id: str | None
    pictures: list[bytes] | list[npt.NDArray[np.uint8]]
    outputs: list[Output]


def metadata(name: str, classes: Sequence[str], size: int) -> dict[str, Any]:
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


def read(body: bytes, header_length: str | None, *, size: int, at_most: int) -> Inference:
    """Return what a request asks. Raises RefusedError (400) for what is not the protocol or not this model's."""
    head, tail = _divided(body, header_length)
    try:
        asked = json.loads(head)
        [tensor] = asked["inputs"]
        name, shape, kind = tensor["name"], [int(side) for side in tensor["shape"]], tensor["datatype"]
        binary = _parameters(tensor).get("binary_data_size")
        count = shape[0]
        outputs = _outputs(asked)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError) as error:
        raise _wrong(f"it needs one input with name, shape and datatype ({type(error).__name__}: {error})") from None
    if not 0 < count <= at_most:
        raise _wrong(f"a request may have 1 to {at_most} pictures; this has {count}")
    if binary is not None and binary != len(tail):
        raise _wrong(f"binary_data_size is {binary}, but {len(tail)} bytes follow the JSON")
    content = tail if binary is not None else tensor.get("data")
    if (name, kind, len(shape)) == ("pictures", "BYTES", 1):
        files = _files(content)
        if len(files) != count:
            raise _wrong(f"the shape says {count} pictures; {len(files)} are there")
        return Inference(_id(asked), files, outputs)
    if (name, kind, shape[1:]) == ("images", "UINT8", [size, size, 3]):
        return Inference(_id(asked), list(_pixels(content, shape)), outputs)
    raise _wrong(f"the input is {name} {kind} {shape}; expected pictures BYTES [n] or images UINT8 [n,{size},{size},3]")


def respond(
    asked: Inference, answers: Sequence[Prediction], model: str, classes: Sequence[str]
) -> tuple[bytes, dict[str, str]]:
    """Return the body of the answer, and its headers."""
    described, tails = [], []
    for output in asked.outputs:
        values, kind = _values(output.name, answers, classes)
        one: dict[str, Any] = {"name": output.name, "datatype": kind, "shape": list(values.shape)}
        if output.binary:
            tails.append(_packed(values))
            one["parameters"] = {"binary_data_size": len(tails[-1])}
        else:
            one["data"] = values.ravel().tolist()
        described.append(one)
    answer = {"model_name": model, "model_version": VERSION, "outputs": described}
    head = json.dumps(answer if asked.id is None else answer | {"id": asked.id}).encode()
    if not tails:
        return head, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", LENGTH_HEADER: str(len(head))}
    return head + b"".join(tails), headers


def _divided(body: bytes, header_length: str | None) -> tuple[bytes, bytes]:
    if header_length is None:
        return body, b""
    if not (header_length.isascii() and header_length.isdecimal()) or int(header_length[:18]) > len(body):
        raise _wrong(f"{LENGTH_HEADER} is {header_length[:40]}, but the body has {len(body)} bytes")
    return body[: int(header_length)], body[int(header_length) :]


def _outputs(asked: Mapping[str, Any]) -> list[Output]:
    """Return the outputs asked for; all of them if none is named."""
    binary = bool(_parameters(asked).get("binary_data_output", False))
    named = asked.get("outputs") or [{"name": name} for name in OUTPUTS]
    for one in named:
        if one["name"] not in OUTPUTS:
            raise _wrong(f"the output {one['name']} is not known; there are {', '.join(OUTPUTS)}")
        if _parameters(one).get("classification"):
            raise _wrong("the classification extension is not spoken; ask for label and probabilities")
    return [Output(one["name"], bool(_parameters(one).get("binary_data", binary))) for one in named]


def _parameters(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    found = holder.get("parameters") or {}
    if not isinstance(found, dict):
        raise TypeError("parameters must be an object")
    return found


def _id(asked: Mapping[str, Any]) -> str | None:
    found = asked.get("id")
    return None if found is None else str(found)


def _files(content: bytes | list[Any] | None) -> list[bytes]:
    """Return the elements of a BYTES tensor: each 4 bytes of length and then so many bytes; or a list of base64."""
    if not isinstance(content, bytes):
        if not isinstance(content, list) or not all(isinstance(one, str) for one in content):
            raise _wrong("data must be a list of base64 texts")
        return [from_base64(one) for one in content]
    files, place = [], 0
    while place < len(content):
        if place + 4 > len(content):
            raise _wrong("the binary data ends within a length")
        [length] = struct.unpack_from("<I", content, place)
        if place + 4 + length > len(content):
            raise _wrong("the binary data ends within a picture")
        files.append(content[place + 4 : place + 4 + length])
        place += 4 + length
    return files


def _pixels(content: bytes | list[Any] | None, shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    if isinstance(content, bytes):
        if len(content) != prod(shape):
            raise _wrong(f"the shape {list(shape)} needs {prod(shape)} bytes; {len(content)} are there")
        return np.frombuffer(content, np.uint8).reshape(shape)
    try:
        values = np.asarray(content)
        if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
            raise ValueError("expected whole numbers from 0 to 255")
        return values.astype(np.uint8).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise _wrong(f"data does not fit the shape {list(shape)}: {error}") from None


def _values(name: str, answers: Sequence[Prediction], classes: Sequence[str]) -> tuple[Array, str]:
    if name == "probabilities":
        return np.array([[one.probabilities[label] for label in classes] for one in answers], np.float32), "FP32"
    if name == "label":
        return np.array([one.label for one in answers], object), "BYTES"
    if name == "unknown":
        return np.array([one.unknown for one in answers], bool), "BOOL"
    return np.array([one.familiarity for one in answers], np.float32), "FP32"


def _packed(values: Array) -> bytes:
    if values.dtype != object:
        return values.tobytes()
    texts = [text.encode() for text in values]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _wrong(why: str) -> RequestRejectedError:
    return RequestRejectedError(400, f"The inference request is not right: {why}.")
