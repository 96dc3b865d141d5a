"""Export: metadata is complete, predictions equal the run's, and a worse model is rejected."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("onnx")

import onnx

from bestiary import table
from bestiary.errors import IntegrityError, RunError, SourceError, UserError
from bestiary.export.formats import Kind, model_metadata
from bestiary.export.verify import ParityReport, compare_outputs, export, paired_accuracy_drop, require_no_regression
from bestiary.inference.bundle import read_bundle
from bestiary.inference.predictor import EngineName, Predictor
from bestiary.inference.proof import PROOF_NAME
from bestiary.locks import output_lock
from bestiary.models.engine import has_openvino
from bestiary.processor import Processor, read_processor
from bestiary.progress import SilentReporter

OPENVINO = pytest.param("openvino", marks=pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed"))

INT8 = onnx.TensorProto.INT8


class Notices(SilentReporter):
    """Collects what is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def info(self, text: str) -> None:
        self.texts.append(text)


def exported(run: Path, kind: Kind, out: Path, *, force: bool = True) -> tuple[Path, ParityReport]:
    return export(run, kind, out=out, force=force, threads=2, reporter=SilentReporter())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "onnx-int8", OPENVINO])
def test_an_exported_model_is_used_as_a_run_is(
    probed: Path, tmp_path: Path, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    place, proof = exported(probed, kind, tmp_path / "model")
    assert caplog.records == []
    assert logging.getLogger().handlers == logging.root.handlers
    bundle = read_bundle(place)
    assert bundle.exported["pictures"] == proof.pictures
    assert bundle.exported["processor"] == read_processor().kind
    assert (place / PROOF_NAME).exists() == (kind != "onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]  # nothing half-written is left
    shown = table.read(probed / "pictures.parquet", table.PICTURES)
    assert proof.pictures == shown.filter(pl.col("split").is_in(["train", "val"])).height  # it has fewer than 500
    assert proof.validation_pictures == shown.filter(pl.col("split") == "val").height
    paths = [Path(path) for path in shown.filter(pl.col("split") == "test")["path"]]
    before, after = (list(Predictor(run, threads=2).predict_many(paths)) for run in (probed, place))
    same = np.mean([one.label == other.label for one, other in zip(before, after, strict=True)])
    if kind == "onnx":
        assert same == 1.0
        assert proof.largest_difference <= 1e-4
        assert proof.loss["value"] == 0.0
    else:
        assert same >= 0.8
        assert 0 < proof.largest_difference < 1
    assert proof.loss["low"] < proof.loss["high"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx-int8", OPENVINO])
def test_an_8_bit_model_travels_with_ten_pictures(
    probed: Path, tmp_path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _ = exported(probed, kind, tmp_path / "model")
    bundle = read_bundle(place)
    with np.load(place / PROOF_NAME) as proof:
        assert proof["images"].shape == (10, bundle.size, bundle.size, 3)
        assert proof["images"].dtype == np.uint8
        engines = {"images", "onnxruntime", "openvino"} if kind == "onnx-int8" else {"images", "openvino"}
        assert set(proof) == (engines if has_openvino() else {"images", "onnxruntime"})
        assert all(proof[name].shape == (10, len(bundle.classes)) for name in set(proof) - {"images"})
    other = Processor("Other Chip", "aarch64", ("asimd",))
    monkeypatch.setattr("bestiary.inference.proof.read_processor", lambda: other)
    names: tuple[EngineName, ...] = ("onnxruntime", "fastest")
    verified = set[str]()
    for name in names:  # the real graph, on this processor, gives the answers in its proof
        predictor = Predictor(place, engine=name, reporter=(notices := Notices()))
        assert len(notices.texts) == (predictor._engine.name not in verified)
        assert all("have the same labels" in text for text in notices.texts)
        verified.add(predictor._engine.name)


@pytest.mark.slow
def test_the_pictures_can_be_left_out(probed: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    export(probed, "onnx-int8", out=out, force=True, with_pictures=False, threads=2, reporter=SilentReporter())
    assert sorted(path.name for path in out.iterdir()) == ["bundle.json", "model.onnx"]
    assert "proof_sha256" not in read_bundle(out).exported


@pytest.mark.slow
def test_weights_leave_room_for_the_sum_of_two_products(probed: Path, tmp_path: Path) -> None:
    model = onnx.load(exported(probed, "onnx-int8", tmp_path / "model.onnx")[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]
    weights = [onnx.numpy_helper.to_array(item) for item in model.graph.initializer if item.data_type == INT8]
    largest = max(int(np.abs(values.astype(int)).max()) for values in weights if values.ndim == 4)
    assert largest == 64
    assert 2 * 255 * largest < 2**15  # or x86-64 without VNNI would saturate


@pytest.mark.slow
def test_what_leaves_as_onnx_says_all_about_itself(probed: Path, tmp_path: Path) -> None:
    place, _ = exported(probed, "onnx", tmp_path / "model.onnx")
    model, bundle = onnx.load(place), read_bundle(probed)
    onnx.checker.check_model(model, full_check=True)
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(told["classes"]) == list(bundle.classes)
    assert json.loads(told["preprocessing"])["fit"] == bundle.fit
    assert float(told["temperature"]) == bundle.temperature
    assert float(told["threshold"]) == bundle.threshold
    assert told["bundle_sha256"] == hashlib.sha256((probed / "bundle.json").read_bytes()).hexdigest()
    assert told["precision"] == "float32"


@pytest.mark.slow
def test_int8_is_smaller_and_says_so(probed: Path, tmp_path: Path) -> None:
    place, _ = exported(probed, "onnx-int8", tmp_path / "model")
    assert (place / "model.onnx").stat().st_size < 0.4 * (probed / "model.onnx").stat().st_size
    kinds = {node.op_type for node in onnx.load(place / "model.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    with pytest.raises(SourceError, match="already been exported"):
        exported(place, "onnx", tmp_path / "again")


def test_what_is_there_is_not_written_over(probed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="exists already"):
        exported(probed, "onnx", tmp_path / "mine")
    with pytest.raises(UserError, match="two files"):
        exported(probed, "openvino", tmp_path / "x.onnx")
    with pytest.raises(RunError):
        exported(tmp_path / "gone", "onnx", tmp_path / "out")


def test_two_exports_to_one_place_do_not_meet(probed: Path, tmp_path: Path) -> None:
    with output_lock(tmp_path / "out"), pytest.raises(UserError, match="out is being written by process"):
        exported(probed, "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_are_gone_are_told(probed: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(probed, run)
    shown = table.read(run / "pictures.parquet", table.PICTURES)
    table.write(shown.with_columns(path=pl.lit("/gone/") + pl.col("row_id").cast(pl.String)), run / "pictures.parquet")
    with pytest.raises(SourceError, match="not where they were"):
        exported(run, "onnx", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_the_metadata_is_text(probed: Path) -> None:
    assert all(isinstance(value, str) for value in model_metadata(probed, read_bundle(probed), "int8").values())


# ---- The proof -------------------------------------------------------------------------------------------------------


def flags(*, lost: int, won: int, both: int, none: int) -> tuple[Any, Any]:
    before = [True] * lost + [False] * won + [True] * both + [False] * none
    after = [False] * lost + [True] * won + [True] * both + [False] * none
    return np.array(before), np.array(after)


def test_the_loss_and_its_interval() -> None:
    # Agresti and Min's formula by hand: lost 10, won 4, n = 100: (10 - 4) / 102 +- 1.96 * sqrt(15 - 36/102) / 102
    found = paired_accuracy_drop(*flags(lost=10, won=4, both=80, none=6))
    assert found["value"] == pytest.approx(0.06)
    assert found["low"] == pytest.approx(6 / 102 - 1.959964 * np.sqrt(15 - 36 / 102) / 102, abs=1e-6)
    assert found["high"] == pytest.approx(6 / 102 + 1.959964 * np.sqrt(15 - 36 / 102) / 102, abs=1e-6)
    nothing = paired_accuracy_drop(*flags(lost=0, won=0, both=100, none=0))
    assert nothing["value"] == 0.0
    assert nothing["low"] < 0 < nothing["high"]  # no difference seen is not no difference


@pytest.mark.parametrize(("n", "lost", "won"), [(100, 0.03, 0.03), (800, 0.02, 0.005), (800, 0.004, 0.004)])
def test_the_interval_holds_the_truth_often_enough(n: int, lost: float, won: float) -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        kinds = rng.choice(3, n, p=[lost, won, 1 - lost - won])
        found = paired_accuracy_drop(kinds != 1, kinds != 0)
        held += found["low"] <= lost - won <= found["high"]
    assert held / 400 >= 0.93


def proof_of(*, changed: int, lost: int) -> ParityReport:
    """200 validation pictures of two classes; so many differ a little, so many are lost."""
    pictures = pl.DataFrame({"split": ["val"] * 200, "label": ["a", "b"] * 100})
    before = np.tile([[0.9, 0.1], [0.1, 0.9]], (100, 1))
    after = before.copy()
    after[:changed] = after[:changed] * 0.8 + 0.1
    after[:lost] = after[:lost, ::-1]
    return compare_outputs(before, after, pictures, ["a", "b"])


def test_float32_must_agree_and_int8_may_lose_a_point() -> None:
    same, other, worse = proof_of(changed=0, lost=0), proof_of(changed=2, lost=0), proof_of(changed=0, lost=4)
    assert (worse.labels_changed, worse.accuracy_before, worse.accuracy) == (4, 1.0, 0.98)
    require_no_regression(same, "onnx", force=False)
    for force in (False, True):
        with pytest.raises(IntegrityError, match="must agree to 0.001"):
            require_no_regression(other, "onnx", force=force)
    require_no_regression(other, "onnx-int8", force=False)
    require_no_regression(proof_of(changed=0, lost=2), "onnx-int8", force=False)  # one point exactly
    with pytest.raises(IntegrityError, match="lost 2.00 points") as told:
        require_no_regression(worse, "onnx-int8", force=False)
    assert "--force" in str(told.value)
    require_no_regression(worse, "onnx-int8", force=True)
