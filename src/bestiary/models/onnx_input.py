"""How a foreign ONNX graph takes pictures: layout, size, channel order and normalisation, read or given.

Read from, in this order: the recipe's section `onnx`; the graph's metadata, by the settings' names or by those of ONNX
itself (https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md); the `preprocessor_config.json` of Hugging Face's
image processors beside the graph.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bestiary.errors import RecipeError
from bestiary.recipe_sections import OnnxConfig

if TYPE_CHECKING:
    import onnx

CONFIG_NAME = "preprocessor_config.json"
ELEMENT_TYPES = {1: "float32", 10: "float16", 11: "float64", 2: "uint8"}  # TensorProto's numbers
UINT8 = 2
Colour = tuple[float, ...]
# ONNX's own metadata: value of white, then mean and deviation of that.
PIXEL_RANGES: dict[str, tuple[float, Colour, Colour]] = {
    "NominalRange_0_255": (255.0, (0.0,), (1.0,)),
    "Normalized_0_1": (1.0, (0.0,), (1.0,)),
    "Normalized_1_1": (1.0, (0.5,), (0.5,)),
}
PIXEL_FORMATS = {"Rgb8": "rgb", "Bgr8": "bgr"}


@dataclass(frozen=True)
class GraphInput:
    """The input of a graph. element: TensorProto's number of its type; size: in pixels, None if it is free.

    It is (pixel - mean) / std with pixels of 0 to 255, in the graph's order of channels; batch: None if it is free.
    """

    name: str
    element: int
    layout: Literal["nchw", "nhwc"]
    size: int | None
    batch: int | None
    is_bgr: bool
    mean: Colour
    std: Colour


def read_graph_input(model: onnx.ModelProto, path: Path, settings: OnnxConfig) -> GraphInput:
    """Return how the graph takes pictures. Raises RecipeError, with the setting to give, where that is unknown."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise RecipeError(f"{path} has {len(inputs)} inputs ({names}); expected one, for pictures.")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type not in ELEMENT_TYPES:
        raise RecipeError(f"{path}: the input {inputs[0].name} takes no pictures of {' or '.join(_type_names())}.")
    dimensions = [part.dim_value or None for part in tensor.shape.dim]
    layout = _read_layout(dimensions, settings, path)
    sides = dimensions[2:] if layout == "nchw" else dimensions[1:3]
    if None not in sides and sides[0] != sides[1]:
        raise RecipeError(f"{path} takes pictures of {sides[0]} x {sides[1]}; expected a square input.")
    stated = {key.lower(): value for key, value in _metadata(model).items()}
    config = {} if stated.get("white") or settings.white else _read_config(path)
    mean, std = _read_normalisation(tensor.elem_type, settings, stated, config, path)
    return GraphInput(
        name=inputs[0].name,
        element=tensor.elem_type,
        layout=layout,
        size=next((side for side in sides if side is not None), None),
        batch=dimensions[0],
        is_bgr=_is_bgr(settings, stated),
        mean=mean,
        std=std,
    )


def _type_names() -> list[str]:
    return list(ELEMENT_TYPES.values())


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _read_layout(dimensions: Sequence[int | None], settings: OnnxConfig, path: Path) -> Literal["nchw", "nhwc"]:
    if len(dimensions) != 4:
        raise RecipeError(f"{path} takes an input of {len(dimensions)} dimensions; expected 4: batch, channels, sides.")
    first, last = dimensions[1] == 3, dimensions[3] == 3
    if settings.layout != "auto":
        channels = dimensions[1 if settings.layout == "nchw" else 3]
        if channels not in (3, None):
            raise RecipeError(f"{path} has {channels} channels if onnx.layout is {settings.layout}; expected 3.")
        return settings.layout
    if first == last:
        text = " x ".join("?" if part is None else str(part) for part in dimensions)
        what = "does not say where its 3 channels are" if first or None in dimensions else "has no 3 channels"
        raise RecipeError(f'{path} takes {text}, which {what}. Set onnx.layout to "nchw" or "nhwc".')
    return "nchw" if first else "nhwc"


def _is_bgr(settings: OnnxConfig, stated: Mapping[str, str]) -> bool:
    if settings.channel_order != "auto":
        return settings.channel_order == "bgr"
    named = stated.get("channel_order", PIXEL_FORMATS.get(stated.get("image.bitmappixelformat", ""), "rgb"))
    return named.lower() == "bgr"


def read_config_text(path: Path) -> str:
    """Return the image processor's configuration beside a graph, or in the folder above; empty without one."""
    for folder in (path.absolute().parent, path.absolute().parent.parent):
        if (folder / CONFIG_NAME).is_file():
            return (folder / CONFIG_NAME).read_text(encoding="utf-8", errors="replace")
    return ""


def _read_config(path: Path) -> dict[str, Any]:
    text = read_config_text(path)
    try:
        values = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"The {CONFIG_NAME} beside {path} is no JSON: {error}. Mend it, or set onnx.white.") from None
    return values if isinstance(values, dict) else {}


def _read_normalisation(
    element: int, settings: OnnxConfig, stated: Mapping[str, str], config: Mapping[str, Any], path: Path
) -> tuple[Colour, Colour]:
    """Return mean and deviation of pixels of 0 to 255."""
    if element == UINT8:
        if settings.white or settings.mean or settings.std:
            raise RecipeError(
                f"{path} takes pixels as uint8, and normalises them itself. Leave out onnx.white, onnx.mean, onnx.std."
            )
        return (0.0,), (1.0,)
    if settings.white:
        return _scale_to_bytes(settings.white, settings.mean or (0.0,), settings.std or (1.0,))
    try:
        if "white" in stated:
            mean, std = _parse_colour(stated.get("mean", "[0]")), _parse_colour(stated.get("std", "[1]"))
            return _scale_to_bytes(float(stated["white"]), settings.mean or mean, settings.std or std)
        if (pixels := stated.get("image.nominalpixelrange")) in PIXEL_RANGES:
            white, mean, std = PIXEL_RANGES[pixels]
            return _scale_to_bytes(white, settings.mean or mean, settings.std or std)
        if config:
            return _from_config(config, settings)
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"{path}: how its pixels are normalised cannot be read ({error}). Set onnx.white.") from None
    raise RecipeError(
        f"{path} takes {ELEMENT_TYPES[element]}, and nothing says how pixels become that. Set onnx.white, the value of"
        " a white pixel before mean and std (1 or 255), and onnx.mean and onnx.std if it was trained with them, in the"
        " order of its channels; for pixels as torchvision normalises them: --set onnx.white=1 --set"
        " onnx.mean=[0.485,0.456,0.406] --set onnx.std=[0.229,0.224,0.225]"
    )


def _from_config(config: Mapping[str, Any], settings: OnnxConfig) -> tuple[Colour, Colour]:
    white = 255.0 * float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 255.0
    is_normalised = config.get("do_normalize", True)
    mean = tuple(map(float, config["image_mean"])) if is_normalised else (0.0,)
    std = tuple(map(float, config["image_std"])) if is_normalised else (1.0,)
    return _scale_to_bytes(white, settings.mean or mean, settings.std or std)


def _scale_to_bytes(white: float, mean: Colour, std: Colour) -> tuple[Colour, Colour]:
    scaled = tuple(255 * value / white for value in mean), tuple(255 * value / white for value in std)
    if len(mean) not in (1, 3) or len(std) not in (1, 3) or min(std) <= 0 or white <= 0:
        raise ValueError(f"mean is {mean}, std is {std}, white is {white}")
    return scaled


def _parse_colour(text: str) -> Colour:
    values = json.loads(text if text.strip().startswith("[") else f"[{text}]")
    return tuple(map(float, values))
