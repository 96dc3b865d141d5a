"""An ONNX graph as someone wrote it: loaded with its weights, and run on pictures as it takes them."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bestiary.array_types import Array, Pixels
from bestiary.errors import RecipeError, import_optional
from bestiary.models.graph_cache import check_graph_bytes, file_sha256
from bestiary.models.onnx_input import UINT8, GraphInput

if TYPE_CHECKING:
    import onnx

NUMPY_TYPES = {1: np.float32, 10: np.float16, 11: np.float64, UINT8: np.uint8}  # by TensorProto's numbers


def check_onnx_file(path: Path) -> None:
    """Raise RecipeError if there is no such file, or if it is too large to be in one file with its weights."""
    if not path.is_file():
        raise RecipeError(f"There is no graph at {path}. Give the path of an .onnx file.")
    check_graph_bytes(path.stat().st_size, path.name)


def load_foreign_graph(path: Path) -> onnx.ModelProto:
    """Return the graph in a file, with weights that lie in files beside it. Raises RecipeError."""
    onnx = import_optional("onnx", extra="train")
    check_onnx_file(path)
    try:
        model = onnx.load(path, load_external_data=False)
        check_graph_bytes(sum((path.parent / name).stat().st_size for name in _external_names(model)), path.name)
        onnx.load_external_data_for_model(model, str(path.parent))
    except RecipeError:
        raise
    except OSError as error:
        raise RecipeError(
            f"The weights of {path} lie in another file, which cannot be read: {error.strerror or error}"
            f" ({error.filename}). Copy it beside the graph."
        ) from None
    except Exception as error:  # protobuf's and onnx's errors share no class
        raise RecipeError(
            f"{path} is no ONNX graph: {summarise_error(error)} Give the path of an .onnx file."
        ) from None
    if not model.graph.output or not model.opset_import:
        raise RecipeError(f"{path} is no ONNX graph: it has no output. Give the path of an .onnx file.")
    return model


@functools.lru_cache(maxsize=16)
def _external_files(path: Path, _sha256: str) -> list[str]:
    import onnx

    try:
        return _external_names(onnx.load(path, load_external_data=False))
    except Exception:  # no graph: `load_foreign_graph` says so
        return []


def _external_names(model: onnx.ModelProto) -> list[str]:
    """Return the names of the files beside a graph that have weights of it."""
    parts = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    return sorted({entry.value for entry in parts if entry.key == "location"})


def graph_sha256(path: Path) -> str:
    """Return the SHA-256 of the file; of a graph with weights in other files, that of all their digests."""
    own = file_sha256(path)
    names = _external_files(path, own)
    if not names:
        return own
    digests = [own, *(file_sha256(path.parent / name) for name in names)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def choose_output(model: onnx.ModelProto, path: Path, wanted: str) -> str:
    """Return the name of the tensor with the features: the wanted one, else the only output. Raises RecipeError."""
    names: list[str] = [value.name for value in model.graph.output]
    inside = [name for node in model.graph.node for name in node.output if name]
    if wanted:
        if wanted not in {*names, *inside}:
            close = ", ".join(dict.fromkeys([*names, *inside[-8:]]))
            raise RecipeError(f'{path} has no tensor "{wanted}" (onnx.output). Some that it has: {close}.')
        return wanted
    if len(names) != 1:
        raise RecipeError(
            f"{path} has {len(names)} outputs: {', '.join(names)}. Set onnx.output to the one with the features."
        )
    return names[0]


class ForeignGraph:
    """A graph as it was written, run picture by picture if its batch size is not free."""

    def __init__(self, model: onnx.ModelProto, path: Path, taken: GraphInput, output: str) -> None:
        """Load the graph with one output, which may be a tensor inside it; raises RecipeError if that fails."""
        import onnx
        import onnxruntime

        self.taken, self.output, self._path = taken, output, path
        whole = onnx.ModelProto()
        whole.CopyFrom(model)
        if output not in {value.name for value in whole.graph.output}:
            whole.graph.output.append(onnx.ValueInfoProto(name=output))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                whole.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no public class
            raise RecipeError(f"{path} cannot be loaded by ONNX Runtime: {summarise_error(error)}") from None

    def run(self, images: Pixels) -> Array:
        """Return its features for images uint8 (n, size, size, 3). Raises RecipeError if they are NaN."""
        at_once = self.taken.batch or 1
        values = normalise_pixels(images, self.taken)
        rows = []
        for start in range(0, len(values), at_once):
            batch = values[start : start + at_once]
            filled = np.concatenate([batch, np.repeat(batch[:1], at_once - len(batch), axis=0)])
            try:
                (answer,) = self._session.run([self.output], {self.taken.name: filled})
            except Exception as error:  # ONNX Runtime's errors share no public class
                size = images.shape[1]
                raise RecipeError(
                    f"{self._path} cannot compute features of a picture of {size} pixels: {summarise_error(error)}"
                ) from None
            rows.append(np.asarray(answer)[: len(batch)])
        features: Array = np.concatenate(rows)
        if not np.issubdtype(features.dtype, np.floating) or len(features) != len(images):
            raise RecipeError(
                f"{self._path}: {self.output} is {features.dtype} {features.shape} for {len(images)} pictures; expected"
                " a row of floating-point features for each. Set onnx.output to another tensor."
            )
        if not np.isfinite(features).all():
            raise RecipeError(
                f"{self._path} gives features that are NaN or infinite for a test picture. Check onnx.white, onnx.mean"
                " and onnx.std, or the graph."
            )
        return features


def normalise_pixels(images: Pixels, taken: GraphInput) -> Array:
    """Return images uint8 (n, size, size, 3), RGB, as the input of a foreign graph, in numpy."""
    values: Array = images[..., ::-1] if taken.is_bgr else images
    if taken.element != UINT8:
        values = (values.astype(np.float32) - np.array(taken.mean, np.float32)) / np.array(taken.std, np.float32)
    values = values.astype(NUMPY_TYPES[taken.element])
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if taken.layout == "nchw" else values)


def summarise_error(error: BaseException) -> str:
    """Return the error as one line of at most 300 characters with a full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text[:300].rstrip('.')}."
