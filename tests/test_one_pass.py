"""Each picture goes through the backbone once: test scores come from features, and files prove them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
from PIL import Image

pytest.importorskip("sklearn")

from bestiary import flow, run_folder, table
from bestiary.array_types import Float32s, Pixels
from bestiary.class_thresholds import ClassThreshold
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import IntegrityError, SourceError
from bestiary.evaluation import evaluate
from bestiary.export import finalize, parity
from bestiary.export.finalize import FinalModel
from bestiary.export.parity import SplitProof, compare_predictions, evenly_spaced_rows, sample_proof
from bestiary.inference.bundle import Bundle, read_bundle
from bestiary.inference.predictor import Prediction
from bestiary.models import engine_choice
from bestiary.models.engine import Outputs, has_bfloat16
from bestiary.models.engine_choice import BFLOAT16, OPENVINO, REFERENCE, EngineMeasurement
from bestiary.models.features import FeatureCache
from bestiary.preprocess import VerifiedFile
from bestiary.report.results import Run
from bestiary.training import methods
from bestiary.training.task import SplitOutputs, TrainingTask

needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(), reason="This processor has no bfloat16 instructions")
SMALL: dict[str, dict[str, Any]] = {
    "picture": {"size": 32},
    "model": {"backbone": "lite0"},
    "data": {"classes": ["bird", "fish"]},
    "evaluate": {"resamples": 200, "learning_curve": "off"},
}


class CountedEngine:
    """An engine that counts the pictures that go through it, by precision."""

    counts: ClassVar[dict[str, int]] = {}

    def __init__(self, engine: Any, precision: str) -> None:
        self.name, self.batch_size, self._engine, self._precision = engine.name, engine.batch_size, engine, precision

    def stream(self, batches: Iterable[Pixels]) -> Iterator[Outputs]:
        for outputs in self._engine.stream(batches):
            self.counts[self._precision] = self.counts.get(self._precision, 0) + len(outputs["features"])
            yield outputs


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, int]:
    """The pictures that went through the backbone for features, by precision, with an empty cache."""
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path / "cache"))
    counted = dict[str, int]()
    monkeypatch.setattr(CountedEngine, "counts", counted)
    load = FeatureCache.load_engine
    monkeypatch.setattr(FeatureCache, "load_engine", lambda cache: CountedEngine(load(cache), cache.precision))
    return counted


def train(collection: SyntheticDataset, out: Path, **sections: dict[str, Any]) -> Run:
    recipe = SMALL | {name: SMALL.get(name, {}) | values for name, values in sections.items()}
    return flow.train(collection.folder, recipe=recipe, out=out, threads=1)


def test_each_picture_goes_through_the_backbone_once(
    collection: SyntheticDataset, tmp_path: Path, counts: dict[str, int]
) -> None:
    """Label check, training, validation, familiarity and scores use the same features; an audit before, too."""
    run = train(collection, tmp_path / "run")
    pictures = run_folder.read_pictures(run.path).filter(pl.col("split").is_not_null())
    assert sum(counts.values()) == pictures["sha256"].n_unique()
    counts.clear()
    flow.audit(collection.folder, recipe=SMALL, threads=1)
    again = train(collection, tmp_path / "again")
    assert counts == {}
    assert again.metrics["accuracy"] == run.metrics["accuracy"]


def test_a_deep_picture_of_the_test_split_costs_no_second_pass(
    collection: SyntheticDataset, tmp_path: Path, counts: dict[str, int]
) -> None:
    """Its samples are scaled by its own range, which is no rule of the features of the other pictures."""
    folder, bits = tmp_path / "pictures", np.random.default_rng(0).integers(0, 3000, (40, 40)).astype(np.uint16)
    for label in ("bird", "fish"):
        for number, picture in enumerate(sorted((collection.folder / label).iterdir())):
            split = folder / ("test", "val", "train", "train", "train")[number % 5] / label
            split.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, split)
    Image.fromarray(bits).save(folder / "test" / "bird" / "deep.png")
    run = flow.train(folder, recipe=SMALL, out=tmp_path / "run", threads=1)
    pictures = run_folder.read_pictures(run.path)
    assert pictures.filter(pl.col("deep_low").is_not_null())["split"].to_list() == ["test"]
    assert sum(counts.values()) == pictures["sha256"].n_unique()


def test_cross_validation_computes_every_picture_in_float32_once(
    collection: SyntheticDataset, tmp_path: Path, counts: dict[str, int]
) -> None:
    run = train(collection, tmp_path / "run", data={"folds": 2})
    pictures = run_folder.read_pictures(run.path).filter(pl.col("split").is_not_null())
    assert counts == {"float32": pictures["sha256"].n_unique()}


def test_audit_and_training_name_the_same_pictures(collection: SyntheticDataset, tmp_path: Path) -> None:
    run = train(collection, tmp_path / "run")
    audited = flow.audit(collection.folder, recipe=SMALL, threads=1).findings
    trained = table.read(run.path / "findings.parquet", table.FINDINGS)
    columns = ["check", "row_id", "is_issue", "message"]
    assert audited.select(columns).rows() == trained.select(columns).rows()


def test_scores_are_those_of_the_files(collection: SyntheticDataset, tmp_path: Path) -> None:
    sampled = train(collection, tmp_path / "sampled")
    proven = train(collection, tmp_path / "proven", evaluate={"prove": "all"})
    both = [table.read(run.path / "predictions.parquet", table.PREDICTIONS) for run in (sampled, proven)]
    test = [predictions.filter(pl.col("split") == "test") for predictions in both]
    assert test[0]["row_id"].to_list() == test[1]["row_id"].to_list()
    assert test[0]["predicted"].to_list() == test[1]["predicted"].to_list()
    assert test[0]["unknown"].to_list() == test[1]["unknown"].to_list()
    for name in ("probability", "familiarity", "p_bird", "p_fish"):
        np.testing.assert_allclose(test[0][name], test[1][name], atol=1e-3)
    recorded = read_bundle(sampled.path).parity
    assert recorded["test_pictures"] == test[0].height
    assert recorded["pictures"] == recorded["test_pictures"] + recorded["val_pictures"]
    sentence = f"{recorded['test_pictures']} of {test[0].height} test pictures were predicted again from their files"
    for name in ("report.html", "README.md"):
        assert sentence in (sampled.path / name).read_text(encoding="utf-8")
        text = (proven.path / name).read_text(encoding="utf-8")
        assert f"all {test[0].height} test pictures were predicted from them, by model.onnx" in text
        assert "predicted again from their files" not in text


def shift_test_features(monkeypatch: pytest.MonkeyPatch, rows: Sequence[int] | None = None) -> None:
    """Let a run rest on wrong outputs for some test pictures, or for all."""
    original = methods._apply_to_test_split

    def shifted(task: TrainingTask, head: Any) -> SplitOutputs | None:
        outputs = original(task, head)
        assert outputs is not None
        logits: Float32s = outputs.logits.copy()
        logits[slice(None) if rows is None else list(rows), 0] += 1.0
        return replace(outputs, logits=logits)

    monkeypatch.setattr(methods, "_apply_to_test_split", shifted)


def test_scores_that_the_exported_graph_does_not_give_are_refused(
    collection: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift_test_features(monkeypatch)
    with pytest.raises(IntegrityError, match="differs from calibration by .* in probability on validation or test"):
        train(collection, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()
    assert not (tmp_path / "run" / "model.onnx").exists()


def test_every_test_picture_is_proven_on_request(
    collection: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One wrong picture beside the sample is not noticed by it."""
    monkeypatch.setattr(parity, "PROBE_TEST_PICTURES", 2)  # the first and the last
    proven = train(collection, tmp_path / "right", evaluate={"prove": "all"})
    tested = proven.metrics["n"]
    assert read_bundle(proven.path).parity["test_pictures"] == tested > 2
    assert f"all {tested} test pictures were predicted from them" in (proven.path / "README.md").read_text("utf-8")
    shift_test_features(monkeypatch, [1])
    train(collection, tmp_path / "sampled")
    with pytest.raises(IntegrityError, match="differs from the scores by"):
        train(collection, tmp_path / "all", evaluate={"prove": "all"})
    assert not (tmp_path / "all" / "metrics.json").exists()


def test_a_network_is_tested_from_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    class Outputless:
        test = None

    called: list[Path] = []
    monkeypatch.setattr(evaluate, "predict_test_split", lambda run, context: called.append(run))
    task: Any = type("Task", (), {"run": Path("run"), "context": None})
    model: Any = None
    trained: Any = Outputless()
    evaluate.test_predictions(task, trained, model)
    assert called == [Path("run")]


def proof(split: str, count: int) -> SplitProof:
    paths = [VerifiedFile(Path(f"{split}-{number}.png"), "") for number in range(count)]
    rows = np.arange(count, dtype=np.float32)
    return SplitProof(split, paths, np.stack([rows, -rows], axis=1), rows / max(count, 1))


@pytest.mark.parametrize(
    ("val", "test", "expected"),
    [
        (500, 826, {"test": 200, "val": 24}),
        (500, 50, {"test": 50, "val": 174}),
        (30, 50, {"test": 50, "val": 30}),
        (500, None, {"val": 96}),
    ],
)
def test_at_least_200_test_pictures_prove_a_probe(val: int, test: int | None, expected: dict[str, int]) -> None:
    sampled = sample_proof(proof("val", val), None if test is None else proof("test", test))
    assert {part.split: len(part.paths) for part in sampled} == expected
    for part in sampled:
        numbers = [int(file.path.stem.partition("-")[2]) for file in part.paths]
        assert part.logits[:, 0].tolist() == numbers
        assert len(part.familiarity) == len(numbers)
    assert evenly_spaced_rows(5, 3).tolist() == [0, 2, 4]


@needs_bfloat16
def test_cross_validation_trains_on_the_features_that_its_audit_computed(
    collection: SyntheticDataset, tmp_path: Path, counts: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where bfloat16 is the faster one, a run that leaves the precision open is in float32 from audit to folds."""
    speeds = ((OPENVINO, 1.0), (BFLOAT16, 2.0), (REFERENCE, 1.0))
    measurements = tuple(EngineMeasurement(choice, speed, 0.0) for choice, speed in speeds)
    monkeypatch.setattr(engine_choice, "measure_engines", lambda graph, images: measurements)
    run = train(collection, tmp_path / "run", data={"folds": 2})
    pictures = run_folder.read_pictures(run.path).filter(pl.col("split").is_not_null())
    assert counts == {"float32": pictures["sha256"].n_unique()}
    assert run_folder.recorded_features(run.path).precision == "float32"
    counts.clear()
    train(collection, tmp_path / "open", data={"folds": 0})
    assert counts["bfloat16"] > 0, "the stand-in for the measurement decides"


def threshold(least: float) -> dict[str, Any]:
    return asdict(ClassThreshold(0.9, least, True, 9, 9, 9, 0.5, 1.0, 9))


def test_the_answers_of_the_files_are_proven_as_well(
    collection: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle whose rules give other answers than the scores rest on: costs, the threshold, one of a class."""
    save = finalize.save_model
    changes: list[dict[str, Any]] = [
        {"costs": [[0.0, 1.0], [1e6, 0.0]]},
        {"threshold": 2.0},
        {"class_thresholds": {name: threshold(1.0) for name in ("bird", "fish")}},
    ]
    for number, change in enumerate(changes):

        def save_wrongly(model: FinalModel, run: Path, change: dict[str, Any] = change) -> None:
            save(replace(model, **change), run)

        monkeypatch.setattr(finalize, "save_model", save_wrongly)
        with pytest.raises(IntegrityError, match=r"answers .* for .*, and its scores rest on the answer .* no tie"):
            train(collection, tmp_path / str(number))
        assert not (tmp_path / str(number) / "model.onnx").exists()


def prediction(probability: float, familiarity: float = 0.9, **fields: Any) -> Prediction:
    label = "a" if probability >= 0.5 else "b"
    values: dict[str, Any] = {"label": label, "unknown": familiarity < 0.5} | fields
    probabilities = {"a": probability, "b": 1 - probability}
    own = probabilities[str(values["label"])]
    return Prediction("x.png", values["label"], own, values["unknown"], familiarity, probabilities)


def two_classes(**fields: Any) -> Bundle:
    needed: dict[str, Any] = {
        "size": 32,
        "fit": "squash",
        "max_pixels": 1,
        "max_bytes": 1,
        "temperature": 1.0,
        "threshold": 0.5,
    }
    needed |= {"coverage": 0.95, "method": "probe", "backbone": "lite0", "graph_sha256": "", "bestiary": "0"}
    return Bundle(classes=("a", "b"), **(needed | fields))


@pytest.mark.parametrize(
    ("actual", "expected", "fields", "is_tie"),
    [
        (prediction(0.4998), prediction(0.5002), {}, True),
        (prediction(0.9, 0.4998), prediction(0.9, 0.5002), {}, True),
        (prediction(0.7, label="b"), prediction(0.7), {}, False),
        (prediction(0.9, unknown=True), prediction(0.9), {}, False),
        # a is 9 times as dear to miss: the labels are tied at 0.1, and the costs of 0.9 and 1 differ by 0.001 there
        (prediction(0.0999, label="b"), prediction(0.1001, label="a"), {"costs": [[0.0, 9.0], [1.0, 0.0]]}, True),
        (prediction(0.103, label="b"), prediction(0.103, label="a"), {"costs": [[0.0, 9.0], [1.0, 0.0]]}, False),
        (
            prediction(0.6, unknown=True),
            prediction(0.6),
            {"class_thresholds": {"a": threshold(0.6)}},
            True,
        ),
    ],
)
def test_only_ties_may_be_answered_otherwise(
    actual: Prediction, expected: Prediction, fields: dict[str, Any], is_tie: bool
) -> None:
    sure = prediction(0.9)
    if is_tie:
        measured, ties = compare_predictions([sure, actual], [sure, expected], two_classes(**fields), "it")
        assert ties == [1]
        assert max(measured) < 1e-3
    else:
        with pytest.raises(IntegrityError, match=r"for x\.png"):
            compare_predictions([sure, actual], [sure, expected], two_classes(**fields), "it")


@pytest.mark.parametrize("is_deleted", [True, False])
def test_a_picture_that_is_gone_before_the_proof_is_named(
    collection: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_deleted: bool
) -> None:
    """All features are cached, so that nothing else opens the files."""
    train(collection, tmp_path / "first")
    folder = shutil.copytree(collection.folder, tmp_path / "pictures")
    save = finalize.save_model

    def save_and_change(model: FinalModel, run: Path) -> None:
        save(model, run)
        pictures = run_folder.read_pictures(run.parent).filter(pl.col("split") == "test")
        path = Path(pictures["path"][0])
        path.unlink() if is_deleted else path.write_bytes(path.read_bytes() + b"\0")

    monkeypatch.setattr(finalize, "save_model", save_and_change)
    with pytest.raises(SourceError, match=r"train --resume"):
        flow.train(folder, recipe=SMALL, out=tmp_path / "run", threads=1)
