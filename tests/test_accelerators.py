"""Accelerators: what is missing is named; one is used only if it gives the same features, and is faster.

No GPU is needed: `stand_in_device` is one.
"""

from __future__ import annotations

import ctypes
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("onnx")

from bestiary.context import Context
from bestiary.errors import MachineError, RecipeError
from bestiary.machine import is_out_of_memory_error
from bestiary.models import accelerators, device_measurement, engine_choice
from bestiary.models.accelerators import CudaDriver, explain_unavailable, find_accelerator, require_accelerator
from bestiary.models.backbones import bundled_backbone
from bestiary.models.device_engine import DeviceEngine
from bestiary.models.efficientnet_lite import cached_backbone_graph
from bestiary.models.engine import EngineChoice, OnnxRuntimeEngine, run_batch
from bestiary.models.engine_choice import FOLDER, EngineRecord, choose_engine, iter_records, recorded_batch_size
from bestiary.models.features import FeatureCache, training_feature_cache
from bestiary.models.onnx_surgery import add_global_pool
from bestiary.preprocess import Preprocessing
from bestiary.recipe import Recipe
from bestiary.recipe_sections import FeaturesConfig
from listening import Listening
from stand_in_device import CARD, DRIVER, OUT_OF_MEMORY, StandIn, install_stand_in, runtime_error

SIZE = 64
CUDA, CUDA_HALF = EngineChoice("onnxruntime", "float32", "cuda"), EngineChoice("onnxruntime", "float16", "cuda")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cached_backbone_graph("lite0", tmp_path_factory.mktemp("graphs"), SIZE)


@pytest.fixture(scope="module")
def images() -> Any:
    return np.random.default_rng(0).integers(0, 256, (7, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring is quick."""
    monkeypatch.setattr(device_measurement, "BATCH_SIZES", (4, 16))


def context(cache: Path, listener: Listening | None = None, **features: Any) -> Context:
    return Context(
        threads=1, cache=cache, reporter=listener or Listening(), features=Recipe.of({"features": features}).features
    )


def spoil(what: str, *, half: bool | None = None) -> Any:
    """Features that are wrong: in both precisions, or only in one."""

    def change(name: str, values: np.ndarray, is_half: bool) -> np.ndarray:
        if half is not None and is_half != half:
            return values
        return values * np.float32(1.4) if what == "scaled" else np.full_like(values, np.nan)

    return change


# ---- What is missing ------------------------------------------------------------------------------------------------
NO_DRIVER = CudaDriver((), "", (0, 0), "there is no NVIDIA driver")
NO_CARD = CudaDriver((), "580.65", (13, 0), "the NVIDIA driver finds no card")


@pytest.mark.parametrize(
    ("driver", "providers", "cuda", "missing", "expected", "absent"),
    [
        (NO_DRIVER, ["CPU"], "", (), ["no NVIDIA driver", "onnxruntime-gpu[cuda,cudnn]"], []),
        (NO_DRIVER, ["CUDA"], "13.0", (), ["no NVIDIA driver"], ["onnxruntime-gpu"]),
        (NO_CARD, ["CUDA"], "13.0", (), ["finds no card"], ["no NVIDIA driver", "onnxruntime-gpu"]),
        (DRIVER, ["CPU"], "", (), ["pip uninstall -y onnxruntime", "onnxruntime-gpu[cuda,cudnn]"], ["driver"]),
        (
            replace(DRIVER, cuda=(12, 4)),
            ["CUDA"],
            "13.0",
            (),
            ["needs a driver for CUDA 13.0", "supports CUDA 12.4"],
            [],
        ),
        (DRIVER, ["CUDA"], "13.0", ("libcublasLt.so.13",), ["libcublasLt.so.13", "onnxruntime-gpu[cuda,cudnn]"], []),
    ],
)
def test_what_cuda_lacks_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
    driver: CudaDriver,
    providers: list[str],
    cuda: str,
    missing: tuple[str, ...],
    expected: list[str],
    absent: list[str],
) -> None:
    monkeypatch.setattr(accelerators.sys, "platform", "linux")
    monkeypatch.setattr(accelerators, "read_cuda_driver", lambda: driver)
    monkeypatch.setattr(accelerators, "load_cuda_libraries", lambda: missing)
    monkeypatch.setattr(onnxruntime, "cuda_version", cuda, raising=False)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: [f"{name}ExecutionProvider" for name in providers]
    )
    reason = explain_unavailable("cuda")
    assert all(text in reason for text in expected), reason
    assert not any(text in reason for text in absent), reason
    with pytest.raises(
        MachineError, match=r"--device cuda is not possible on this computer: .*--device auto and cpu work here"
    ):
        require_accelerator("cuda")
    assert find_accelerator() is None


def test_coreml_is_apples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators.sys, "platform", "linux")
    assert "part of macOS" in explain_unavailable("coreml")
    monkeypatch.setattr(accelerators.sys, "platform", "darwin")
    assert "has no CoreML" in explain_unavailable("coreml")
    assert "Apple's accelerator is coreml" in explain_unavailable("cuda")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CoreMLExecutionProvider"])
    accelerator = find_accelerator()
    assert accelerator is not None
    assert accelerator.device == "coreml"


class DriverLibrary:
    """libcuda as ctypes loads it."""

    def __init__(self, status: int = 0, cards: tuple[str, ...] = (CARD, "NVIDIA T4")) -> None:
        self.status, self.cards = status, cards

    def cuInit(self, flags: int) -> int:  # noqa: N802 - CUDA's name
        return self.status

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = 13010
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.cards)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:  # noqa: N802
        name.value = self.cards[device.value].encode()
        return 0

    def nvmlInit_v2(self) -> int:  # noqa: N802 - that of the management library
        return 0

    def nvmlSystemGetDriverVersion(self, version: Any, length: int) -> int:  # noqa: N802
        version.value = b"580.65.06"
        return 0

    def nvmlShutdown(self) -> int:  # noqa: N802
        return 0


@pytest.mark.parametrize(
    ("library", "cards", "error"),
    [
        (DriverLibrary(), (CARD, "NVIDIA T4"), ""),
        (DriverLibrary(status=100), (), "finds no card"),
        (DriverLibrary(cards=()), (), "finds no card"),
        (DriverLibrary(status=803), (), "cannot start: error 803"),
        (None, (), "no NVIDIA driver"),
    ],
)
def test_the_driver_is_asked_by_its_own_library(
    monkeypatch: pytest.MonkeyPatch, library: DriverLibrary | None, cards: tuple[str, ...], error: str
) -> None:
    def load(name: str) -> DriverLibrary:
        if library is None:
            raise OSError(name)
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    driver = accelerators.read_cuda_driver.__wrapped__()
    assert driver.cards == cards
    assert error in driver.error
    assert bool(driver.error) == bool(error)
    if library is not None:
        assert (driver.cuda, driver.version) == ((13, 1), "580.65.06")


def test_what_onnxruntime_prints_about_libraries_is_no_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = (
        "Failed to load libcublasLt.so.13: libcublasLt.so.13: cannot open shared object file: No such file\n"
        "Failed to load /usr/lib/nvidia/libcurand.so.10: no such symbol\nPlease follow https://onnxruntime.ai/docs\n"
    )
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: sys.stdout.write(printed))
    assert accelerators.load_cuda_libraries.__wrapped__() == ("libcublasLt.so.13", "libcurand.so.10")
    assert capsys.readouterr() == ("", "")


def test_out_of_memory_errors_of_onnxruntime_are_recognised() -> None:
    for text in (
        OUT_OF_MEMORY,
        "CUDA failure 2: out of memory ; GPU=0",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
    ):
        assert is_out_of_memory_error(runtime_error(text)), text
    assert not is_out_of_memory_error(runtime_error("CUDA failure 719: unspecified launch failure"))
    assert not is_out_of_memory_error(ValueError(OUT_OF_MEMORY))


# ---- The choice for features ----------------------------------------------------------------------------------------
def test_a_card_that_agrees_and_is_faster_is_chosen_and_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Path
) -> None:
    card, listener = install_stand_in(monkeypatch, StandIn()), Listening()
    choice = choose_engine(graph, SIZE, context(tmp_path, listener))
    assert choice in (CUDA, CUDA_HALF)
    assert str(choice) in listener.said[0]
    assert card.options[0]["use_tf32"] == "0"  # float32 means float32
    [record] = iter_records(tmp_path)
    assert record.accelerator == f"CUDA on {CARD} (driver 580.65.06)"
    by_choice = {entry.choice: entry for entry in record.measurements}
    assert by_choice[CUDA].difference < 1e-5
    assert 1e-4 < by_choice[CUDA_HALF].difference < 0.03
    assert by_choice[CUDA].batch_size in (4, 16)
    assert recorded_batch_size(CUDA, graph, tmp_path) == by_choice[CUDA].batch_size
    sessions = card.sessions
    assert choose_engine(graph, SIZE, context(tmp_path)) == choice
    assert card.sessions == sessions

    install_stand_in(monkeypatch, card, replace(DRIVER, version="590.1"))
    assert not list(iter_records(tmp_path))
    choose_engine(graph, SIZE, context(tmp_path))
    assert card.sessions > sessions


def test_a_card_that_is_slower_is_not_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Path) -> None:
    card = install_stand_in(monkeypatch, StandIn(seconds=0.5))
    assert choose_engine(graph, SIZE, context(tmp_path)).device == "cpu"
    assert card.sessions == 2  # one in each precision
    assert choose_engine(graph, SIZE, context(tmp_path, device="cuda")).device == "cuda"  # as requested


def test_the_device_cpu_touches_no_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Path) -> None:
    card = install_stand_in(monkeypatch, StandIn())
    assert choose_engine(graph, SIZE, context(tmp_path, device="cpu")).device == "cpu"
    assert card.sessions == 0


@pytest.mark.parametrize(
    ("change", "expected", "reason"),
    [
        (spoil("scaled"), None, "features differ from those of the processor in float32 by 0.4"),
        (spoil("nan", half=True), CUDA, "numbers in float16 are not finite"),
        (spoil("scaled", half=True), CUDA, "more than 0.03"),
        (spoil("scaled", half=False), None, "more than 0.001"),
    ],
)
def test_a_card_whose_features_are_wrong_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    graph: Path,
    change: Any,
    expected: EngineChoice | None,
    reason: str,
) -> None:
    install_stand_in(monkeypatch, StandIn(change=change))
    listener = Listening()
    choice = choose_engine(graph, SIZE, context(tmp_path, listener))
    assert choice == expected or (expected is None and choice.device == "cpu")
    assert reason in "\n".join(listener.said)
    [path] = (tmp_path / FOLDER).iterdir()
    assert reason in path.read_text()
    if expected is None:  # a device that is wrong in float32 is not used in float16 either
        with pytest.raises(RecipeError, match=f'features.device = "cuda" fails here: .*{reason}'):
            choose_engine(graph, SIZE, context(tmp_path, device="cuda"))
    else:
        assert choose_engine(graph, SIZE, context(tmp_path, device="cuda")) == expected


def test_a_session_that_silently_stays_on_the_processor_is_no_card(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Path
) -> None:
    install_stand_in(monkeypatch, StandIn(starts=False))
    with pytest.raises(MachineError, match="CUDA cannot be used"):
        DeviceEngine(graph, device="cuda", threads=1)
    assert choose_engine(graph, SIZE, context(tmp_path)).device == "cpu"


def test_without_a_card_a_requested_one_and_float16_are_errors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Path
) -> None:
    monkeypatch.setattr(accelerators, "read_cuda_driver", lambda: NO_DRIVER)
    monkeypatch.setattr(accelerators.sys, "platform", "linux")
    with pytest.raises(MachineError, match="there is no NVIDIA driver"):
        choose_engine(graph, SIZE, context(tmp_path, device="cuda"))
    with pytest.raises(RecipeError, match="float16 is computed on an accelerator, and there is none"):
        choose_engine(graph, SIZE, context(tmp_path, precision="float16"))


@pytest.mark.parametrize(
    "features",
    [
        {"device": "cuda", "engine": "openvino"},
        {"device": "coreml", "precision": "bfloat16"},
        {"device": "cpu", "precision": "float16"},
        {"engine": "openvino", "precision": "float16"},
        {"device": "mps"},
    ],
)
def test_contradicting_settings_are_refused(features: dict[str, str]) -> None:
    with pytest.raises(RecipeError, match="features"):
        Recipe.of({"features": features})


def test_records_and_choices_from_before_devices_are_of_the_processor(tmp_path: Path) -> None:
    entry = {"choice": {"engine": "onnxruntime", "precision": "float32"}, "pictures_per_second": 3.0, "difference": 0.0}
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"processor": "p", "versions": {}, "graph": "g", "measurements": [entry]}))
    record = EngineRecord.read(path)
    assert record is not None
    assert record.measurements[0].choice == engine_choice.REFERENCE
    with pytest.raises(ValueError, match="does not support the device"):
        EngineChoice("openvino", "float32", "cuda")


# ---- The engine: no picture is lost, none counts twice --------------------------------------------------------------
def test_where_the_memory_is_full_batches_become_smaller(
    monkeypatch: pytest.MonkeyPatch, graph: Path, images: Any
) -> None:
    content = add_global_pool(graph)
    expected = run_batch(OnnxRuntimeEngine(content, threads=1), images)["features"]
    card, listener = install_stand_in(monkeypatch, StandIn(most_rows=2)), Listening()
    engine = DeviceEngine(content, device="cuda", threads=1, batch_size=7, reporter=listener)
    outputs = [part["features"] for part in engine.stream([images, images[:1], images[:5]])]
    assert [len(part) for part in outputs] == [7, 1, 5]
    for part in outputs:
        np.testing.assert_allclose(part, expected[: len(part)], rtol=1e-4, atol=1e-5)
    assert card.batches == [7, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    assert [line.partition(":")[0] for line in listener.said] == [
        "The memory of CUDA is full with 7 pictures at once",
        "The memory of CUDA is full with 3 pictures at once",
    ]


@pytest.mark.parametrize(
    ("card", "reason"),
    [(StandIn(most_rows=0), "its memory is full"), (StandIn(fails_after=1), "CUDA failure 719")],
)
def test_a_card_that_fails_leaves_the_rest_to_the_processor(
    monkeypatch: pytest.MonkeyPatch, graph: Path, images: Any, card: StandIn, reason: str
) -> None:
    content = add_global_pool(graph)
    expected = run_batch(OnnxRuntimeEngine(content, threads=1), images)["features"]
    listener = Listening()
    install_stand_in(monkeypatch, card)
    engine = DeviceEngine(content, device="cuda", threads=1, batch_size=2, reporter=listener)
    outputs = list(engine.stream(images[start : start + 2] for start in range(0, 7, 2)))
    features = np.concatenate([part["features"] for part in outputs])
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert [len(part["features"]) for part in outputs] == [2, 2, 2, 1]
    assert reason in listener.said[-1]
    assert "The processor computes the rest" in listener.said[-1]
    asked = len(card.batches)
    run_batch(engine, images)
    assert len(card.batches) == asked  # it is not tried again


def test_numbers_that_are_not_finite_are_computed_again_by_the_processor(
    monkeypatch: pytest.MonkeyPatch, graph: Path, images: Any
) -> None:
    def overflow(name: str, values: np.ndarray, is_half: bool) -> np.ndarray:
        return np.where(np.arange(len(values))[:, None] == 3, np.float32(np.inf), values)

    content = add_global_pool(graph)
    expected = run_batch(OnnxRuntimeEngine(content, threads=1), images)["features"]
    install_stand_in(monkeypatch, StandIn(change=overflow))
    listener = Listening()
    engine = DeviceEngine(content, device="cuda", threads=1, precision="float16", reporter=listener)
    features = run_batch(engine, images)["features"]
    np.testing.assert_allclose(features[3], expected[3], rtol=1e-5, atol=1e-6)
    relative = np.linalg.norm(features - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert relative.max() < 0.03
    assert "not finite for 1 pictures" in listener.said[0]


def test_an_error_of_the_input_is_still_an_error(monkeypatch: pytest.MonkeyPatch, graph: Path) -> None:
    install_stand_in(monkeypatch, StandIn())
    engine = DeviceEngine(add_global_pool(graph), device="cuda", threads=1)
    with pytest.raises(Exception, match="dimension"):
        run_batch(engine, np.zeros((1, SIZE // 2, SIZE, 3), np.uint8))


def test_a_reader_that_stops_early_ends_the_engine(monkeypatch: pytest.MonkeyPatch, graph: Path, images: Any) -> None:
    card = install_stand_in(monkeypatch, StandIn())
    engine = DeviceEngine(add_global_pool(graph), device="cuda", threads=1)
    seen = 0

    def endless() -> Any:
        nonlocal seen
        while True:
            seen += 1
            yield images[:1]

    stream = engine.stream(endless())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert seen == len(card.batches) == 2  # one was prepared while the other ran


# ---- Features of files ----------------------------------------------------------------------------------------------
def test_features_are_complete_although_the_memory_runs_out_in_the_middle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import hashlib

    from PIL import Image

    paths = []
    for number in range(9):
        paths.append(tmp_path / f"{number}.png")
        pixels = np.random.default_rng(number).integers(0, 256, (70, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(paths[-1])
    keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    expected = FeatureCache(
        bundled_backbone("lite0"), Preprocessing(SIZE), "float32", context(tmp_path / "a", device="cpu")
    ).features(paths, keys)[:]
    card, listener = install_stand_in(monkeypatch, StandIn()), Listening()
    on_card = context(tmp_path / "b", listener, device="cuda")
    cache = training_feature_cache(bundled_backbone("lite0"), Preprocessing(SIZE), on_card)
    assert cache.engine_choice.device == "cuda"
    card.most_rows = 2
    exact = replace(cache, precision="float32")
    np.testing.assert_allclose(exact.features(paths, keys)[:], expected, rtol=1e-4, atol=1e-5)
    assert "The memory of CUDA is full with" in "\n".join(listener.said)
    half = replace(cache, precision="float16")
    values = np.asarray(half.features(paths, keys)[:], np.float32)
    difference = np.linalg.norm(values - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert 1e-4 < difference.max() < 0.03
    assert half.store.folder != exact.store.folder


def test_settings_of_the_recipe_say_what_was_recorded() -> None:
    from dataclasses import asdict

    assert FeaturesConfig(**asdict(CUDA_HALF)) == FeaturesConfig(
        engine="onnxruntime", precision="float16", device="cuda"
    )
