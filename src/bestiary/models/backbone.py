"""The value that describes a backbone, whatever it was read from: bundled, timm's, or an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from bestiary.errors import RecipeError
from bestiary.models.graph_cache import cached_graph, graph_folder

if TYPE_CHECKING:
    import onnx

UNKNOWN = "unknown"
OutputKind = Literal["maps", "tokens", "vector"]


@dataclass(frozen=True)
class Weights:
    """Where the weights of a backbone come from: SHA-256 of their file, source and licence, in words."""

    sha256: str
    source: str
    licence: str = UNKNOWN

    def __post_init__(self) -> None:
        """Raise ValueError for values that are no text: they may come from a file."""
        if not all(isinstance(value, str) for value in (self.sha256, self.source, self.licence)):
            raise ValueError(f"weights are {self!r}; expected texts")


@dataclass(frozen=True)
class BackboneFacts:
    """What is known of a backbone without building it.

    size: its own input size, in pixels; channels: the length of a feature vector. kind: what its features are the mean
    of: maps (n, channels, h, w), patch tokens, or nothing, as they are one vector. no_heatmap: why a heatmap would not
    be exact, as "its features are …"; empty if it is.
    """

    size: int
    channels: int
    kind: OutputKind
    no_heatmap: str
    weights: Weights

    def __post_init__(self) -> None:
        """Raise ValueError for values of another kind: they may come from a file."""
        numbers = isinstance(self.size, int) and isinstance(self.channels, int) and min(self.size, self.channels) > 0
        if not numbers or self.kind not in get_args(OutputKind) or not isinstance(self.no_heatmap, str):
            raise ValueError(f"the backbone's description is {self!r}")

    @classmethod
    def of(cls, values: dict[str, Any]) -> BackboneFacts:
        """Return the facts in plain values; raises TypeError, KeyError or ValueError for others."""
        return cls(**{**values, "weights": Weights(**values["weights"])})

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `of`."""
        return asdict(self)


@dataclass(frozen=True)
class Backbone:
    """A frozen, pretrained backbone.

    name: "lite2", "timm:resnet18" or the file name of a graph. slug, version: parts of the names of its cached graphs;
    the version changes with everything that decides the graph's values, but for weights and input size.
    build: returns the graph for an input size in pixels, from `images`, uint8 (n, size, size, 3), RGB, any n, to
    `maps`, float32 (n, channels, h, w); a vector is maps of 1 x 1. smallest: input size in pixels.
    """

    name: str
    facts: BackboneFacts
    slug: str
    version: str
    build: Callable[[int], onnx.ModelProto] = field(compare=False, repr=False)
    smallest: int = 1

    @property
    def size(self) -> int:
        """Its own input size, in pixels."""
        return self.facts.size

    @property
    def channels(self) -> int:
        """The length of a feature vector."""
        return self.facts.channels

    def cached_graph(self, cache: Path, size: int | None = None) -> Path:
        """Return the path of its graph for this input size in the cache folder, built if it is missing.

        The file name contains the input size, the version, the digest of the weights and that of the file itself.
        Raises RecipeError for a size that is too small, and what `build` raises.
        """
        pixels = size or self.size
        if pixels < self.smallest:
            raise RecipeError(
                f'"{self.name}" does not accept an input size of {pixels} pixels; the minimum is {self.smallest}, its'
                f" own {self.size}. Set a larger size, or leave it out."
            )
        stem = f"trunk-{self.slug}-{pixels}px-{self.version}-{self.facts.weights.sha256[:8]}"
        return cached_graph(graph_folder(cache), stem, lambda: self.build(pixels))
