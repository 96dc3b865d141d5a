"""Rules of decoding that a model is trained with: their version, and the ranges of deep samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

# Version 1, models without a recorded version: JPEGs at the smallest scale that covers the input, embedded colour
# profiles ignored, 16-bit samples divided by 257, every fourth channel an alpha channel.
FIRST_VERSION, VERSION = 1, 2
INTEGER_TYPES = ("uint16", "int16", "uint32", "int32")
SAMPLE_TYPES = (*INTEGER_TYPES, "float")  # of deep pictures

SampleRange = tuple[float, float]  # the sample values that become 0 and 255


@dataclass(frozen=True)
class DecodeRules:
    """The version of decoding, and the range of deep samples by type, as (type, low, high)."""

    version: int = VERSION
    deep_ranges: tuple[tuple[str, float, float], ...] = ()

    @classmethod
    def of(cls, version: Any, deep_ranges: Any) -> Self:
        """Return the rules that a bundle records; raises ValueError naming an invalid field."""
        if version not in (FIRST_VERSION, VERSION) or isinstance(version, bool):
            raise ValueError(f"decoding is {version!r}; expected {FIRST_VERSION} or {VERSION}")
        message = f'deep_ranges is {deep_ranges!r}; expected a range by sample type, such as {{"uint16": [0, 4095]}}'
        if not isinstance(deep_ranges, Mapping):
            raise ValueError(message)
        for sample_type, ends in deep_ranges.items():
            is_pair = isinstance(ends, list | tuple) and [isinstance(end, int | float) for end in ends] == [True, True]
            if sample_type not in SAMPLE_TYPES or not is_pair or not ends[0] < ends[1]:
                raise ValueError(message)
        return cls(version, tuple((name, float(low), float(high)) for name, (low, high) in sorted(deep_ranges.items())))

    def ranges(self) -> dict[str, list[float]]:
        """Return the ranges by sample type, as a bundle records them."""
        return {name: [low, high] for name, low, high in self.deep_ranges}

    def find_range(self, sample_type: str, *, is_exact_type: bool = True) -> SampleRange | None:
        """Return the range of a sample type, or None.

        is_exact_type: false for an image in memory, whose integers may have been of another type in its file: if there
        is no range of its type and a single one of integers, that one is returned.
        """
        ranges = {name: (low, high) for name, low, high in self.deep_ranges}
        integers = [ends for name, ends in ranges.items() if name in INTEGER_TYPES]
        if sample_type in INTEGER_TYPES and not is_exact_type and len(integers) == 1:
            return ranges.get(sample_type, integers[0])
        return ranges.get(sample_type)

    @property
    def cache_name(self) -> str:
        """The part of a cache's name that tells pictures decoded by other rules apart."""
        if not self.deep_ranges:
            return f"v{self.version}"
        digest = hashlib.sha256(json.dumps(self.deep_ranges).encode()).hexdigest()
        return f"v{self.version}-{digest[:8]}"


RULES = DecodeRules()
