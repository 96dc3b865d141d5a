"""A stand-in for a GPU: sessions of ONNX Runtime that compute on the processor and say that they compute on CUDA."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state

from bestiary.models import accelerators
from bestiary.models.accelerators import CudaDriver

CARD = "NVIDIA H100 PCIe"
DRIVER = CudaDriver((CARD,), "580.65.06", (13, 0))
OUT_OF_MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. Name:'stem'"
    " Status Message: bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to"
    " allocate memory for requested buffer of size 939524096"
)
REAL_SESSION = onnxruntime.InferenceSession
Change = Callable[[str, np.ndarray, bool], np.ndarray]


def runtime_error(text: str) -> Exception:
    """The error that ONNX Runtime raises."""
    error: Exception = onnxruntime_pybind11_state.RuntimeException(text)
    return error


@dataclass
class StandIn:
    """How the card behaves, and what it was asked.

    most_rows: that its memory holds; None: any. fails_after: runs until it fails for good. change: what it makes of an
    output, by name, values, and whether the graph is float16. seconds: of a run; with 0 it is faster than a processor,
    because what it has computed once is not computed again.
    """

    most_rows: int | None = None
    fails_after: int | None = None
    change: Change = field(default=lambda name, values, is_half: values)
    seconds: float = 0.0
    starts: bool = True
    sessions: int = 0
    batches: list[int] = field(default_factory=list)
    options: list[Any] = field(default_factory=list)


class StandInSession:
    """A session on the card."""

    def __init__(self, stand_in: StandIn, model: str | bytes, options: Any) -> None:
        self._card, self._known = stand_in, dict[str, list[np.ndarray]]()
        self._session = REAL_SESSION(model, options, providers=["CPUExecutionProvider"])
        content = model if isinstance(model, bytes) else Path(model).read_bytes()
        self._is_half = b"graph_output_cast" in content  # as the conversion to float16 names its last nodes

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"] if self._card.starts else ["CPUExecutionProvider"]

    def get_outputs(self) -> Any:
        return self._session.get_outputs()

    def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        images = feed["images"]
        self._card.batches.append(len(images))
        if self._card.fails_after is not None and len(self._card.batches) > self._card.fails_after:
            raise runtime_error("[ONNXRuntimeError] : 1 : FAIL : CUDA failure 719: unspecified launch failure")
        if self._card.most_rows is not None and len(images) > self._card.most_rows:
            raise runtime_error(OUT_OF_MEMORY)
        key = hashlib.sha256(images.tobytes()).hexdigest()
        if key not in self._known:
            values = self._session.run(names, feed)
            self._known[key] = [
                self._card.change(name, value, self._is_half) for name, value in zip(names, values, strict=True)
            ]
        time.sleep(self._card.seconds)
        return [value.copy() for value in self._known[key]]


def install_stand_in(monkeypatch: pytest.MonkeyPatch, stand_in: StandIn, driver: CudaDriver = DRIVER) -> StandIn:
    """Make this computer one with a card, ONNX Runtime's build for CUDA, and its libraries."""

    def open_session(
        model: str | bytes, options: Any = None, *, providers: Sequence[Any] = (), enable_fallback: int = 1
    ) -> Any:
        names = [provider[0] if isinstance(provider, tuple) else provider for provider in providers]
        if "CUDAExecutionProvider" not in names:
            return REAL_SESSION(model, options, providers=names)
        assert not enable_fallback  # with it ONNX Runtime goes over to the processor by itself
        stand_in.sessions += 1
        stand_in.options.append(providers[0][1])
        return StandInSession(stand_in, model, options)

    monkeypatch.setattr(accelerators, "read_cuda_driver", lambda: driver)
    monkeypatch.setattr(accelerators, "load_cuda_libraries", tuple)
    monkeypatch.setattr(accelerators.sys, "platform", "linux")
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    return stand_in
