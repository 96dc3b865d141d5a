"""timm models as backbones of a probe: exported once to a graph, after which nothing needs torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bestiary.errors import RecipeError
from bestiary.models.backbone import UNKNOWN, Backbone, BackboneFacts, Weights
from bestiary.models.graph_cache import check_graph_bytes, file_sha256, read_description, write_description

if TYPE_CHECKING:
    import onnx

    from bestiary.models.timm_backbone import TimmBackbone

PREFIX = "timm:"
GRAPH_VERSION = 1  # raise it when the exported graph changes: cached graphs of other versions are ignored
PACKAGES = ("timm", "torch")  # their versions decide the graph
HUB = "hub"


def timm_backbone(name: str, weights: str, folder: Path) -> Backbone:
    """Return a timm model as a backbone that pools as timm does.

    name: "timm:NAME". weights: the path of a file, or "hub". folder: of cached graphs, where its description is kept:
    with that, neither torch nor timm is imported. Raises as `create_timm_model` does.
    """
    short = name.removeprefix(PREFIX)
    if weights == "bundled":
        raise RecipeError(
            f'"{name}" has no weights on this computer. Set model.weights to a file of weights, or to "hub" to'
            " download them."
        )
    if weights != HUB and not Path(weights).is_file():
        raise RecipeError(f'model.weights = "{weights}" is neither "hub" nor a file.')
    slug = PREFIX.replace(":", ".") + re.sub(r"[^A-Za-z0-9._]", "_", short)
    key = HUB if weights == HUB else file_sha256(Path(weights))[:16]
    path, facts = _find_description(folder, slug, key)
    if facts is None:
        facts = _describe(_create(short, weights, None), weights)
        write_description(path, facts.to_json())
    return Backbone(name, facts, slug, path.stem.rsplit("-", 2)[1], partial(build_timm_graph, short, weights))


def build_timm_graph(name: str, weights: str, size: int) -> onnx.ModelProto:
    """Return the graph of a timm model from `images` to `maps`: see `Backbone.build`. Imports torch."""
    backbone = _create(name, weights, size)
    from bestiary.models.networks import from_timm
    from bestiary.models.torch_export import export_backbone

    check_graph_bytes(sum(4 * values.numel() for values in backbone.network.state_dict().values()), name)
    return export_backbone(from_timm(backbone, 2).eval(), size)


def _create(name: str, weights: str, size: int | None) -> TimmBackbone:
    from bestiary.models.timm_backbone import create_timm_model

    file = None if weights == HUB else Path(weights)
    return create_timm_model(name, file, from_hub=file is None, size=size, pooling="own")


def _find_description(folder: Path, slug: str, key: str) -> tuple[Path, BackboneFacts | None]:
    """Return the path of a description, and what is in it; without torch, one that any version of it has written."""
    versions = [_installed_version(package) for package in PACKAGES]
    digest = hashlib.sha256(repr(versions).encode()).hexdigest()[:8]
    paths = [folder / f"facts-{slug}-v{GRAPH_VERSION}.{digest}-{key}.json"]
    if None in versions:
        paths += sorted(folder.glob(f"facts-{slug}-v{GRAPH_VERSION}.*-{key}.json"))
    for path in paths:
        try:
            return path, BackboneFacts.of(read_description(path) or {})
        except (KeyError, TypeError, ValueError):
            continue
    return paths[0], None


def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _describe(backbone: TimmBackbone, weights: str) -> BackboneFacts:
    licence = _read_licence(backbone.weights)
    if not licence:
        licence = backbone.licence
        if weights != HUB and licence != UNKNOWN:  # the file may hold other weights than timm's
            licence = f"{licence} for timm's own weights of {backbone.pretrained}; this file names none"
    source = f"timm {backbone.pretrained}, from the Hugging Face hub"
    if weights != HUB:
        source = f"the file {backbone.weights.name}, read as weights of timm's {backbone.pretrained.partition('.')[0]}"
    record = Weights(file_sha256(backbone.weights), source, licence)
    return BackboneFacts(backbone.size, backbone.channels, backbone.kind, backbone.no_heatmap, record)


def _read_licence(path: Path) -> str:
    """Return the licence in the metadata of a .safetensors file, empty if there is none."""
    if path.suffix != ".safetensors":
        return ""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        metadata = {key.lower(): value for key, value in (file.metadata() or {}).items()}
    return str(metadata.get("license") or metadata.get("licence") or "")
