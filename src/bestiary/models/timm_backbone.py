"""Pretrained torch backbones that end in feature maps: the Lite ones, and any timm model by name.

The functions import torch and timm, so that a missing one is reported with the command that installs it.
"""

from __future__ import annotations

import copy
import difflib
import io
import math
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bestiary.errors import RecipeError, import_optional
from bestiary.models.backbone import UNKNOWN, OutputKind
from bestiary.models.efficientnet_lite import lite_backbone
from bestiary.models.hub_download import download_weights
from bestiary.models.pretrained_weights import lite_weights_path, verified_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME_LIST = re.compile(r'((?:"[^"]+", ){3})((?:"[^"]+", )*"[^"]+")')  # of more than three names
# Key prefixes of the packaged weights -> timm's.
OUTER_KEYS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FIRST_STAGE_KEYS = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
STAGE_KEYS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}

Triple = tuple[float, ...]
Pooling = Literal["maps", "own"]
MEANS = {"avg", "fast", "fastavg", ""}  # timm's names of the mean over all positions
POOLS = {"token": "its class token", "map": "pooled by attention"}


@dataclass(frozen=True)
class TimmBackbone:
    """A network from float32 (n, 3, size, size), normalised by `mean` and `std` of [0, 1], to maps (n, channels, h, w).

    The network is in evaluation mode, in fp32, on the CPU. kind: what the maps are; a vector is maps of 1 x 1.
    no_heatmap: why a heatmap would not be exact, empty if it is. pretrained: timm's name with the tag of its weights;
    licence: that timm states for them. weights: the file that they were read from.
    """

    name: str
    network: nn.Module
    channels: int
    size: int
    mean: Triple
    std: Triple
    kind: OutputKind = "maps"
    no_heatmap: str = ""
    pretrained: str = ""
    licence: str = UNKNOWN
    weights: Path = Path()


def create_timm_lite(name: str) -> nn.Module:
    """Return timm's network for a Lite backbone with the packaged weights; equal to `build_backbone_graph`.

    From float32 (n, 3, height, width) in [-1, 1] to maps float32 (n, 1280, h, w), in evaluation mode. Nothing is
    downloaded. Raises RecipeError for an unknown name, IntegrityError if the weights are damaged, MissingExtraError
    if torch, timm or the weights are not installed.
    """
    backbone = lite_backbone(name)
    torch, timm = import_optional("torch", extra="torch"), import_optional("timm", extra="torch")
    content = io.BytesIO(verified_bytes(lite_weights_path(name), backbone.weights.sha256))
    stored = torch.load(content, map_location="cpu", weights_only=True)
    # "tf_": TensorFlow's padding and epsilon; timm's plain efficientnet_lite loads too, but computes other values.
    network: nn.Module = timm.create_model(f"tf_efficientnet_{name}", pretrained=False, num_classes=0, global_pool="")
    network.load_state_dict(to_timm_state_dict(stored, backbone.blocks), strict=True)
    return network.eval()


def create_timm_model(
    name: str,
    weights_file: Path | None = None,
    *,
    from_hub: bool = False,
    size: int | None = None,
    pooling: Pooling = "maps",
) -> TimmBackbone:
    """Return a pretrained timm backbone that ends in feature maps, with its input configuration.

    The weights come from `weights_file` (.safetensors, or torch's format read with weights_only; timm's own key names)
    or, if `from_hub`, from the Hugging Face hub; they must match exactly. Patch tokens of transformers become maps.
    size: of the input in pixels, by default the network's own; position embeddings are resampled to it. pooling: "own"
    gives the vector that timm itself pools by, as maps of 1 x 1, where that is not the mean of the maps: the class
    token, or attention pooling.
    Raises RecipeError if timm has no such name, if there are no weights or they do not match, if the network has no
    maps, or only its own size; MissingExtraError if torch or timm is not installed.
    """
    import_optional("torch", extra="torch")
    timm = import_optional("timm", extra="torch")
    check_model_name(name)
    if weights_file is not None and from_hub:
        raise RecipeError(f'"{name}" was given both the file {weights_file} and the hub. Choose one in model.weights.')
    if weights_file is None and not from_hub:
        raise RecipeError(
            f'"{name}" has no weights on this computer. Set model.weights = "hub" to download them, or model.weights to'
            " the path of a file."
        )
    file = _hub_file(timm, name) if weights_file is None else weights_file
    network = _from_file(timm, name, file, size)
    mean, std = (tuple(timm.data.resolve_model_data_config(network)[key]) for key in ("mean", "std"))
    own = vars(network)["pretrained_cfg"]
    pixels = size or own["input_size"][-1]
    network, output = _end_in_maps(name, network, pixels, pooling)
    if not bool(output.maps.isfinite().all()):
        raise RecipeError(
            f'"{name}" with the weights {file} gives features that are NaN or infinite. Check the file of weights.'
        )
    return TimmBackbone(
        *(name, network, output.maps.shape[1], own["input_size"][-1], mean, std),
        kind=output.kind,
        no_heatmap=output.no_heatmap,
        pretrained=".".join(filter(None, [own["architecture"], own.get("tag")])),
        licence=str(own.get("license") or UNKNOWN),
        weights=file,
    )


def to_timm_state_dict(stored: Mapping[str, Tensor], blocks: tuple[int, ...]) -> dict[str, Tensor]:
    """Return the packaged weights under timm's names, without the classifier; `blocks`: their number per stage."""
    block_names = [f"blocks.{stage}.{block}" for stage, count in enumerate(blocks) for block in range(count)]
    renamed = {_timm_key(key, block_names): tensor for key, tensor in stored.items()}
    return {key: tensor for key, tensor in renamed.items() if not key.startswith("classifier.")}


def _timm_key(key: str, block_names: list[str]) -> str:
    """Translate one key: stored blocks are numbered consecutively, timm's by stage."""
    inner = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key)
    if inner is None:
        module, _, field = key.partition(".")
        return f"{OUTER_KEYS.get(module, module)}.{field}"
    number, module, field = inner.groups()
    block = block_names[int(number)]
    names = FIRST_STAGE_KEYS if block.startswith("blocks.0.") else STAGE_KEYS
    return f"{block}.{names.get(module, module)}.{field}"


def check_model_name(name: str) -> None:
    """Raise RecipeError, with the nearest names, for a name that timm does not know."""
    timm = import_optional("timm", extra="torch")
    valid_names = {*timm.list_models(), *timm.list_pretrained()}
    if name not in valid_names:
        close = ", ".join(difflib.get_close_matches(name, valid_names, n=5)) or "none"
        raise RecipeError(
            f'timm {timm.__version__} has no model "{name}". Similar names: {close}. '
            'List all: python -c "import timm; print(timm.list_models())"'
        )


def _hub_file(timm: Any, name: str) -> Path:
    """Return the path of downloaded weights: from the Hugging Face hub, else from the address that timm has."""
    expected = timm.get_pretrained_cfg(name)
    if not expected.has_weights:
        raise RecipeError(f'timm has no pretrained weights of "{name}". Set model.weights to the path of a file.')
    try:
        if not expected.hf_hub_id:
            return Path(timm.models._hub.download_cached_file(expected.url))
        return download_weights(expected.hf_hub_id, expected.hf_hub_filename)
    except Exception as error:  # the hub's client, its transport and timm raise different errors
        raise RecipeError(
            f'The weights of "{name}" could not be downloaded from the hub: {_summarise_error(error)} '
            "Check the connection, or set model.weights to the path of a file."
        ) from error


def _from_file(timm: Any, name: str, path: Path, size: int | None) -> nn.Module:
    """Return the network with exactly the weights of the file, with as many classes as the file has."""
    if not path.is_file():
        raise RecipeError(f"model.weights is {path}, which is not a file. Give the path of weights for {name}.")
    expected = timm.get_pretrained_cfg(name)
    own, is_fixed = expected.input_size[-1], expected.fixed_input_size
    resized = {"img_size": size} if is_fixed and size not in (None, own) else {}
    try:
        stored = timm.models.load_state_dict(str(path), weights_only=True)
        classes = _classes(timm, name, stored)
        network: nn.Module = timm.create_model(
            name,
            pretrained=True,
            num_classes=classes,
            # The same number of classes in both: otherwise timm loads non-strictly, and missing layers stay random.
            pretrained_cfg_overlay={"state_dict": stored, "num_classes": classes, "label_offset": 0},
            **resized,
        )
        vars(network)["pretrained_cfg"].pop("state_dict")  # timm would keep a second copy of the weights
    except Exception as error:  # torch, safetensors, pickle and timm raise different errors
        if resized and (isinstance(error, TypeError) or "img_size" in str(error)):
            raise RecipeError(
                f'"{name}" takes pictures of {own} pixels only; picture.size is {size}. Leave it out.'
            ) from error
        raise RecipeError(
            f"{path} does not hold the weights of {name}: {_summarise_error(error)} "
            "Expected a .safetensors file, or one of torch.save(model.state_dict()), with timm's key names."
        ) from error
    return network


def _classes(timm: Any, name: str, stored: Mapping[str, Tensor]) -> int:
    """Return the number of classes of the stored classifier; 0 if the file has none."""
    classifier = timm.get_pretrained_cfg(name).classifier
    first = classifier if isinstance(classifier, str) or classifier is None else classifier[0]
    weight = stored.get(f"{first}.weight")
    return 0 if weight is None else len(weight)


class _Output(NamedTuple):
    """The maps (1, channels, h, w) of one empty picture; kind, no_heatmap: as in TimmBackbone."""

    maps: Tensor
    kind: OutputKind
    no_heatmap: str = ""


def _end_in_maps(name: str, network: nn.Module, pixels: int, pooling: Pooling) -> tuple[nn.Module, _Output]:
    """Return the network without its classifier, and what it gives then.

    The mean of maps, or of patch tokens, is preferred; else, for its own pooling, the vector that it gives.
    """
    _check_size(name, network, pixels)
    no_heatmap = _explain_own_pooling(network) if pooling == "own" else ""
    if not no_heatmap:
        without = copy.deepcopy(network) if pooling == "own" else network
        try:
            return without, _remove_pooling(name, without, pixels)
        except RecipeError:
            if pooling == "maps":
                raise
            no_heatmap = "its features have no maps before the pooling"
    return network, _keep_pooling(name, network, pixels, no_heatmap)


def _remove_pooling(name: str, network: nn.Module, pixels: int) -> _Output:
    try:
        network.reset_classifier(0, "")  # type: ignore[operator]
        output = _run_empty_picture(network, pixels)
    except (AssertionError, TypeError) as error:
        raise _no_feature_maps_error(name, f"timm cannot remove its pooling ({_summarise_error(error)})") from error
    to_maps = _to_maps(name, network, output)
    if to_maps is None:
        return _Output(output, "maps")
    # A hook, not a wrapper: it keeps timm's parameter names, which weights files and layer groups need.
    network.register_forward_hook(to_maps)
    return _Output(to_maps(network, (), output), "tokens" if to_maps is _patches_as_maps else "maps")


def _keep_pooling(name: str, network: nn.Module, pixels: int, no_heatmap: str) -> _Output:
    network.reset_classifier(0)  # type: ignore[operator]
    output = _run_empty_picture(network, pixels)
    if getattr(output, "ndim", None) != 2:
        shape = tuple(output.shape) if hasattr(output, "shape") else type(output).__name__
        raise RecipeError(
            f'"{name}" gives no features: {shape} for one picture, where maps, tokens or a vector were expected.'
            " Choose another backbone."
        )
    network.register_forward_hook(_vector_as_maps)
    return _Output(_vector_as_maps(network, (), output), "vector", no_heatmap)


def _check_size(name: str, network: nn.Module, pixels: int) -> None:
    """Raise RecipeError if the network, as timm made it, cannot take pictures of this size."""
    try:
        _run_empty_picture(network, pixels)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise RecipeError(
            f'"{name}" does not take pictures of {pixels} pixels: {_summarise_error(error)} Set picture.size to'
            " another size, or leave it out."
        ) from error


def _run_empty_picture(network: nn.Module, pixels: int) -> Tensor:
    import torch

    with torch.no_grad():
        output: Tensor = network.eval()(torch.zeros(1, 3, pixels, pixels))
    return output


def _explain_own_pooling(network: nn.Module) -> str:
    """Return why the features that timm pools are not the mean of maps; empty if they are, but for its last norm."""
    pool = getattr(network, "global_pool", None)
    kinds = {str(part.pool_type) for part in network.modules() if hasattr(part, "pool_type")}
    if any("Attention" in type(part).__name__ and "Pool" in type(part).__name__ for part in network.modules()):
        return "its features come from attention pooling"
    if isinstance(pool, str) and pool not in MEANS:
        return f"its features are {POOLS.get(pool, f'pooled by {pool}')}"
    if kinds - MEANS:
        return f"its features are pooled by {', '.join(sorted(kinds - MEANS))}"
    return ""


def _to_maps(name: str, network: nn.Module, output: Tensor) -> Callable[..., Tensor] | None:
    """Return the hook that converts the output to maps; None if the output is maps already."""
    if output.ndim == 4:
        return _channels_first if getattr(network, "output_fmt", "NCHW") == "NHWC" else None
    if output.ndim != 3:
        raise _no_feature_maps_error(name, f"it gives {tuple(output.shape)} for one picture")
    patches = output.shape[1] - _prefix_tokens(network)
    if math.isqrt(patches) ** 2 != patches:
        raise _no_feature_maps_error(name, f"its {patches} patches do not form a square")
    return _patches_as_maps


def _vector_as_maps(_network: nn.Module, _inputs: object, vector: Tensor) -> Tensor:
    return vector[:, :, None, None]


def _channels_first(_network: nn.Module, _inputs: object, maps: Tensor) -> Tensor:
    return maps.permute(0, 3, 1, 2)


def _patches_as_maps(network: nn.Module, _inputs: object, tokens: Tensor) -> Tensor:
    """(n, tokens, channels) -> (n, channels, h, w), without prefix tokens."""
    patches = tokens[:, _prefix_tokens(network) :]
    side = math.isqrt(patches.shape[1])
    return patches.transpose(1, 2).reshape(-1, patches.shape[2], side, side)


def _prefix_tokens(network: nn.Module) -> int:
    return int(getattr(network, "num_prefix_tokens", 0))  # the class token and registers


def _no_feature_maps_error(name: str, reason: str) -> RecipeError:
    return RecipeError(
        f'"{name}" gives no feature maps before its pooling: {reason}. Choose a convolutional backbone or a plain '
        "vision transformer, such as resnet50 or vit_small_patch16_224."
    )


def _summarise_error(error: BaseException) -> str:
    """Return the error as one line of at most 300 characters with a full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = NAME_LIST.sub(lambda names: f"{names[1]}and {names[2].count(chr(44)) + 1} more", text)
    return f"{textwrap.shorten(text, 300, placeholder=' …').rstrip('.')}."
