"""Pretrained torch backbones that end in feature maps: the Lite ones, and any timm model by name.

The functions import torch and timm, so that a missing one is reported with the command that installs it.
"""

from __future__ import annotations

import difflib
import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bestiary.errors import RecipeError, import_optional
from bestiary.models.efficientnet_lite import lite_backbone
from bestiary.models.pretrained_weights import lite_weights_path, verified_bytes

if TYPE_CHECKING:
    from torch import Tensor, nn

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

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class TimmBackbone:
    """A network from float32 (n, 3, size, size), normalised by `mean` and `std` of [0, 1], to maps (n, channels, h, w).

    The network is in evaluation mode, in fp32, on the CPU.
    """

    name: str
    network: nn.Module
    channels: int
    size: int
    mean: Triple
    std: Triple


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


def create_timm_model(name: str, weights_file: Path | None = None, *, from_hub: bool = False) -> TimmBackbone:
    """Return a pretrained timm backbone that ends in feature maps, with its input configuration.

    The weights come from `weights_file` (.safetensors, or torch's format read with weights_only; timm's own key names)
    or, if `from_hub`, from the Hugging Face hub; they must match exactly. Patch tokens of transformers become maps.
    Raises RecipeError if timm has no such name, if there are no weights or they do not match, or if the network has no
    maps; MissingExtraError if torch or timm is not installed.
    """
    import_optional("torch", extra="torch")
    timm = import_optional("timm", extra="torch")
    _check_model_name(timm, name)
    if weights_file is not None and from_hub:
        raise RecipeError(f'"{name}" was given both the file {weights_file} and the hub. Choose one in model.weights.')
    if weights_file is None and not from_hub:
        raise RecipeError(
            f'"{name}" has no weights on this computer. Set model.weights = "hub" to download them, or model.weights to'
            " the path of a file."
        )
    network = _from_hub(timm, name) if weights_file is None else _from_file(timm, name, weights_file)
    return _as_map_backbone(timm, name, network)


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


def _check_model_name(timm: Any, name: str) -> None:
    valid_names = {*timm.list_models(), *timm.list_pretrained()}
    if name not in valid_names:
        close = ", ".join(difflib.get_close_matches(name, valid_names, n=5)) or "none"
        raise RecipeError(
            f'timm {timm.__version__} has no model "{name}". Similar names: {close}. '
            'List all: python -c "import timm; print(timm.list_models())"'
        )


def _from_hub(timm: Any, name: str) -> nn.Module:
    try:
        network: nn.Module = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub's client, its transport and timm raise different errors
        raise RecipeError(
            f'The weights of "{name}" could not be downloaded from the hub: {_summarise_error(error)} '
            "Check the connection, or set model.weights to the path of a file."
        ) from error
    return network


def _from_file(timm: Any, name: str, path: Path) -> nn.Module:
    """Return the network with exactly the weights of the file, with as many classes as the file has."""
    if not path.is_file():
        raise RecipeError(f"model.weights is {path}, which is not a file. Give the path of weights for {name}.")
    try:
        stored = timm.models.load_state_dict(str(path), weights_only=True)
        classes = _classes(timm, name, stored)
        network: nn.Module = timm.create_model(
            name,
            pretrained=True,
            num_classes=classes,
            # The same number of classes in both: otherwise timm loads non-strictly, and missing layers stay random.
            pretrained_cfg_overlay={"state_dict": stored, "num_classes": classes, "label_offset": 0},
        )
        vars(network)["pretrained_cfg"].pop("state_dict")  # timm would keep a second copy of the weights
    except Exception as error:  # torch, safetensors, pickle and timm raise different errors
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


def _as_map_backbone(timm: Any, name: str, network: nn.Module) -> TimmBackbone:
    """Remove classifier and pooling; the output of one empty picture gives the shape of the maps."""
    import torch

    expected = timm.data.resolve_model_data_config(network)
    _, height, width = expected["input_size"]
    try:
        network.reset_classifier(0, "")  # type: ignore[operator]
        with torch.no_grad():
            output = network.eval()(torch.zeros(1, 3, height, width))
    except (AssertionError, TypeError) as error:
        raise _no_feature_maps_error(name, f"timm cannot remove its pooling ({_summarise_error(error)})") from error
    to_maps = _to_maps(name, network, output)
    if to_maps is not None:
        # A hook, not a wrapper: it keeps timm's parameter names, which weights files and layer groups need.
        network.register_forward_hook(to_maps)
        output = to_maps(network, (), output)
    mean, std = tuple(expected["mean"]), tuple(expected["std"])
    return TimmBackbone(name, network, channels=output.shape[1], size=height, mean=mean, std=std)


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
    return f"{text[:300].rstrip('.')}."
