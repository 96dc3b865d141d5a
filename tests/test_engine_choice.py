"""The engine and the precision of features: measured once, remembered, pinned by settings, recorded by a run."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx")

from bestiary.context import Context
from bestiary.errors import RecipeError, RunError
from bestiary.models import engine_choice
from bestiary.models.backbones import bundled_backbone
from bestiary.models.efficientnet_lite import cached_backbone_graph
from bestiary.models.engine import ISA_LIMITS, EngineChoice, has_bfloat16, has_openvino
from bestiary.models.engine_choice import (
    BFLOAT16,
    FOLDER,
    OPENVINO,
    REFERENCE,
    EngineMeasurement,
    EngineRecord,
    choose_engine,
    fastest_float32_engine,
    iter_records,
    measure_engines,
    select_engine,
)
from bestiary.models.features import FeatureCache, training_feature_cache
from bestiary.models.onnx_surgery import add_global_pool
from bestiary.preprocess import Preprocessing
from bestiary.processor import Processor
from bestiary.progress import SilentReporter
from bestiary.recipe import Recipe
from bestiary.recipe_sections import FeaturesConfig

SIZE = 64
AUTO = FeaturesConfig()
needs_openvino = pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed")
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(), reason="This processor has no bfloat16 instructions")


class Listener(SilentReporter):
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cached_backbone_graph("lite0", tmp_path_factory.mktemp("graphs"), SIZE)


def measured(openvino: float, bfloat16: float, onnxruntime: float) -> list[EngineMeasurement]:
    return [
        EngineMeasurement(choice, speed, 0.0)
        for choice, speed in ((OPENVINO, openvino), (BFLOAT16, bfloat16), (REFERENCE, onnxruntime))
    ]


def test_every_engine_of_this_computer_is_measured_and_agrees(graph: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)
    results = {entry.choice: entry for entry in measure_engines(add_global_pool(graph), images)}
    assert set(results) == {
        REFERENCE,
        *([OPENVINO] if has_openvino() else []),
        *([BFLOAT16] if has_bfloat16() else []),
    }
    assert all(entry.pictures_per_second > 0 and not entry.error for entry in results.values())
    assert results[REFERENCE].difference == 0
    if BFLOAT16 in results:
        assert 1e-3 < results[BFLOAT16].difference < 0.15


@pytest.mark.parametrize(
    ("speeds", "expected"),
    [
        ((118, 74, 110), OPENVINO),  # an Intel Xeon with avx512_bf16 and without AMX
        ((52, 92, 52), BFLOAT16),  # an AMD EPYC
        ((100, 105, 90), OPENVINO),  # within noise: the more exact one
        ((50, 40, 100), REFERENCE),
        ((90, 80, 100), OPENVINO),  # of more threads OpenVINO makes more
    ],
)
def test_the_fastest_is_chosen_and_a_tie_goes_to_float32_in_openvino(
    speeds: tuple[float, float, float], expected: EngineChoice
) -> None:
    assert select_engine(measured(*speeds), AUTO) == expected


def test_an_engine_whose_features_are_wrong_is_not_chosen() -> None:
    entries = measured(50, 90, 40)
    entries[1] = replace(entries[1], error="features differ from float32 by 0.4, more than 0.15")
    assert select_engine(entries, AUTO) == OPENVINO


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"precision": "float32"}, OPENVINO),
        ({"engine": "onnxruntime"}, REFERENCE),
        ({"engine": "openvino"}, BFLOAT16),
        ({"precision": "bfloat16"}, BFLOAT16),
    ],
)
def test_settings_limit_the_choice(settings: dict[str, str], expected: EngineChoice) -> None:
    assert select_engine(measured(50, 90, 40), FeaturesConfig(**settings)) == expected


def test_where_nothing_works_the_reasons_are_named() -> None:
    broken = [replace(entry, error="no such instruction") for entry in measured(1, 1, 1)]
    with pytest.raises(
        RecipeError, match=r'features\.engine = "openvino" fails here: OpenVINO in .*no such instruction'
    ):
        select_engine(broken, FeaturesConfig(engine="openvino"))


def test_an_engine_that_cannot_load_the_graph_is_passed_over(monkeypatch: pytest.MonkeyPatch, graph: Path) -> None:
    make = engine_choice.make_engine

    def refuse(choice: EngineChoice, model: Path | bytes, *, threads: int) -> object:
        if choice == OPENVINO:
            raise RunError("The graph given cannot be loaded: no such instruction")
        return make(choice, model, threads=threads)

    monkeypatch.setattr(engine_choice, "_candidates", lambda: [OPENVINO, REFERENCE])
    monkeypatch.setattr(engine_choice, "make_engine", refuse)
    images = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    entries = measure_engines(add_global_pool(graph), images)
    assert [entry.error for entry in entries] == ["", "The graph given cannot be loaded: no such instruction"]
    assert select_engine(entries, AUTO) == REFERENCE


def test_a_measurement_is_remembered_by_processor_and_versions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Path
) -> None:
    listener = Listener()
    context = Context(threads=1, cache=tmp_path, reporter=listener)
    first = choose_engine(graph, SIZE, context)
    assert len(listener.lines) == 1
    assert str(first) in listener.lines[0]
    with monkeypatch.context() as patch:
        patch.setattr(engine_choice, "measure_engines", lambda *_: pytest.fail("measured again"))
        assert choose_engine(graph, SIZE, context) == first
    [record] = iter_records(tmp_path)
    assert record.graph == graph.stem

    elsewhere = Processor("Arm 0x41 0xd0b", "aarch64", ("asimd",))
    monkeypatch.setattr(engine_choice, "read_processor", lambda: elsewhere)
    assert not list(iter_records(tmp_path))
    monkeypatch.setattr(engine_choice, "measure_engines", lambda *_: (EngineMeasurement(REFERENCE, 3.0, 0.0),))
    assert choose_engine(graph, SIZE, context) == REFERENCE
    assert len(list((tmp_path / FOLDER).iterdir())) == 2


def test_processes_that_measure_at_once_agree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Path) -> None:
    """Each would measure something else; the first result is everybody's."""
    context, both_started, choices = Context(threads=1, cache=tmp_path), threading.Barrier(2), list[EngineChoice]()
    results = [(EngineMeasurement(REFERENCE, 3.0, 0.0),), (EngineMeasurement(BFLOAT16, 3.0, 0.0),)]

    def measure(*_: object) -> tuple[EngineMeasurement, ...]:
        time.sleep(0.3)  # long enough for the other to ask as well
        return results.pop()

    def choose() -> None:
        both_started.wait()
        choices.append(choose_engine(graph, SIZE, context))

    monkeypatch.setattr(engine_choice, "measure_engines", measure)
    threads = [threading.Thread(target=choose) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert choices == [BFLOAT16, BFLOAT16]
    assert choose_engine(graph, SIZE, context) == BFLOAT16


@pytest.mark.parametrize("limit", ISA_LIMITS)
def test_under_a_limit_of_instruction_sets_another_measurement_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Path, limit: str
) -> None:
    """The remembered bfloat16 would end the process under a limit to AVX2."""
    monkeypatch.delenv(limit, raising=False)
    monkeypatch.setattr(engine_choice, "measure_engines", lambda *_: (EngineMeasurement(BFLOAT16, 3.0, 0.0),))
    context = Context(threads=1, cache=tmp_path)
    assert choose_engine(graph, SIZE, context) == BFLOAT16
    monkeypatch.setenv(limit, "AVX2")
    assert not list(iter_records(tmp_path))
    monkeypatch.setattr(engine_choice, "measure_engines", lambda *_: (EngineMeasurement(REFERENCE, 3.0, 0.0),))
    assert choose_engine(graph, SIZE, context) == REFERENCE
    monkeypatch.delenv(limit)
    assert choose_engine(graph, SIZE, context) == BFLOAT16


EMPTY = '{"processor": "", "versions": {}, "graph": "", "measurements": []}'


@pytest.mark.parametrize(
    "damage", ["{", "[]", EMPTY, '{"processor": 1}', '{"measurements": [{"choice": {"engine": "x"}}]}']
)
def test_a_damaged_record_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Path, damage: str
) -> None:
    context = Context(threads=1, cache=tmp_path)
    monkeypatch.setattr(engine_choice, "measure_engines", lambda *_: (EngineMeasurement(REFERENCE, 3.0, 0.0),))
    choose_engine(graph, SIZE, context)
    [path] = (tmp_path / FOLDER).iterdir()
    path.write_text(damage)
    assert EngineRecord.read(path) is None
    assert not list(iter_records(tmp_path))
    assert choose_engine(graph, SIZE, context) == REFERENCE
    assert json.loads(path.read_text())["graph"] == graph.stem


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"engine": "onnxruntime"}, REFERENCE),
        pytest.param({"engine": "openvino", "precision": "float32"}, OPENVINO, marks=needs_openvino),
        pytest.param({"precision": "bfloat16"}, BFLOAT16, marks=needs_bfloat16),
    ],
)
def test_a_pinned_engine_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Path, settings: dict[str, str], expected: EngineChoice
) -> None:
    monkeypatch.setattr(engine_choice, "measure_engines", lambda *_: pytest.fail("measured"))
    context = Context(threads=1, cache=tmp_path, features=Recipe.of({"features": settings}).features)
    assert choose_engine(graph, SIZE, context) == expected


def test_bfloat16_is_refused_on_a_processor_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Path
) -> None:
    monkeypatch.setattr(engine_choice, "import_openvino", lambda: None)
    monkeypatch.setattr(engine_choice, "has_bfloat16", lambda: False)
    context = Context(threads=1, cache=tmp_path, features=FeaturesConfig(precision="bfloat16"))
    with pytest.raises(RecipeError, match="has no instructions for bfloat16"):
        choose_engine(graph, SIZE, context)


def test_onnx_runtime_in_bfloat16_is_refused_by_the_recipe() -> None:
    with pytest.raises(RecipeError, match="only the engine"):
        Recipe.of({"features": {"engine": "onnxruntime", "precision": "bfloat16"}})


def test_training_features_have_the_chosen_precision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for fastest in (REFERENCE, BFLOAT16):
        entries = (EngineMeasurement(fastest, 3.0, 0.0),)
        monkeypatch.setattr(engine_choice, "measure_engines", lambda *_, entries=entries: entries)
        context = Context(threads=1, cache=tmp_path / fastest.engine)
        cache = training_feature_cache(bundled_backbone("lite0"), Preprocessing(SIZE), context)
        assert cache.precision == fastest.precision
        exact = FeatureCache(bundled_backbone("lite0"), Preprocessing(SIZE), "float32", context)
        assert exact.engine_choice.engine == fastest.engine


def test_without_openvino_many_pictures_are_predicted_by_onnx_runtime(
    monkeypatch: pytest.MonkeyPatch, graph: Path
) -> None:
    monkeypatch.setattr(engine_choice, "has_openvino", lambda: False)
    assert fastest_float32_engine(graph, threads=1).name == "onnxruntime"


@needs_openvino
def test_many_pictures_are_predicted_by_the_engine_that_was_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, graph: Path
) -> None:
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path))
    assert fastest_float32_engine(graph, threads=1).name == "openvino"
    monkeypatch.setattr(engine_choice, "measure_engines", lambda *_: tuple(measured(50, 40, 100)))
    choose_engine(graph, SIZE, Context(threads=1, cache=tmp_path))
    assert fastest_float32_engine(graph, threads=1).name == "onnxruntime"
