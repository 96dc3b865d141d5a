"""The processor: its name, and the instruction sets that decide which kernels an inference engine takes."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

CPUINFO = Path("/proc/cpuinfo")
# As Linux names them. Vector widths, 8-bit dot products, bfloat16 and float16: x86-64 first, then 64-bit Arm.
RELEVANT_FEATURES = (
    *("avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"),
)


@dataclass(frozen=True)
class Processor:
    """A processor. name: as the operating system gives it; features: those of `RELEVANT_FEATURES`, in that order."""

    name: str
    architecture: str
    features: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Architecture and features: processors of one kind compute with the same kernels.

        >>> Processor("Intel Core i7-4770", "x86_64", ("avx", "avx2", "fma")).kind
        'x86_64 avx avx2 fma'
        """
        return " ".join([self.architecture, *self.features])

    def __str__(self) -> str:
        """Return name and kind."""
        return f"{self.name} ({self.kind})"


@cache
def read_processor() -> Processor:
    """Return the processor of this computer: from `/proc/cpuinfo` on Linux, elsewhere as Python and numpy know it."""
    architecture = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    if CPUINFO.is_file():
        return parse_cpuinfo(CPUINFO.read_text(encoding="utf-8", errors="replace"), architecture)
    extensions = np.show_config(mode="dicts").get("SIMD Extensions", {})  # compiled for, and detected
    features = [*extensions.get("baseline", []), *extensions.get("found", [])]
    return Processor(platform.processor() or "unknown", architecture, tuple(name.lower() for name in features))


def parse_cpuinfo(text: str, architecture: str) -> Processor:
    """Return the first processor of Linux's `/proc/cpuinfo`; on Arm, which names none, by implementer and part."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    features = set((fields.get("flags") or fields.get("Features") or "").split())
    codes = [fields[name] for name in ("CPU implementer", "CPU part") if name in fields]
    name = fields.get("model name") or (f"Arm {' '.join(codes)}" if codes else "unknown")
    return Processor(name, architecture, tuple(feature for feature in RELEVANT_FEATURES if feature in features))
