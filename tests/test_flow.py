"""The whole story, end to end, on drawn pictures."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from bestiary.array_types import Float32s, Pixels
from bestiary.report import results

pytest.importorskip("sklearn")

from bestiary import files, flow, run_folder, table
from bestiary.context import Context
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import IntegrityError, InterruptedRun, RecipeError, RunError, SourceError
from bestiary.evaluation.predictions import prediction_table
from bestiary.export import finalize
from bestiary.export.parity import PARITY_LIMIT
from bestiary.inference.predictor import Prediction, Predictor
from bestiary.models import engine_choice
from bestiary.picture import load
from bestiary.preprocess import Preprocessing
from bestiary.recipe import Recipe
from bestiary.recipe_files import write_toml
from bestiary.recipe_sections import FeaturesConfig
from bestiary.training.task import TrainedModel, TrainingTask, load_task, record_engine

FILES = {
    *("asked.toml", "resolved.toml", "environment.json", "pictures.parquet", "findings.parquet", "history.jsonl"),
    *("model.onnx", "model.safetensors", "bundle.json", "predictions.parquet", "metrics.json", "report.html"),
    "classification_report.txt",
}
RATES = ("accuracy", "balanced_accuracy", "macro_f1", "macro_precision", "macro_recall", "ece")
MEASURES = (*RATES, "log_loss", "brier")
OF_THE_MACHINE = ("seconds", "peak_rss_mb")
FEW_CLASSES = ["bird", "fish", "spider"]

TINY_SCRATCH: dict[str, Any] = {
    "data": {"classes": FEW_CLASSES, "suspects": False},  # by the default backbone at its own size
    "picture": {"size": 32},
    "model": {"method": "scratch", "filters": [8, 16]},
    "train": {"epochs": 2, "batch_size": 16, "warmup_epochs": 0.5, "learning_rate": 0.05, "precision": "float32"},
    "evaluate": {"resamples": 100},
}
TINY_FINETUNE = {
    **TINY_SCRATCH,
    "picture": {"size": 64},
    "model": {"method": "finetune", "backbone": "lite0"},
    "probe": {"regularisation": [0.001, 0.01]},
    "train": {"epochs": 2, "batch_size": 16, "unfreeze_stages": 1, "precision": "float32"},
}


def test_a_run_has_the_files_of_the_contract(probed: Path) -> None:
    assert {path.name for path in probed.iterdir()} >= FILES
    assert not [path.name for path in probed.iterdir() if path.name.startswith(".")]
    assert run_folder.load_recipe(probed).resolve().toml() == (probed / "resolved.toml").read_text(encoding="utf-8")
    assert "<html" in (probed / "report.html").read_text(encoding="utf-8")
    environment = files.read_json(probed / "environment.json")
    assert {"split digest", "passed over", "pictures", "threads", "features"} <= environment.keys()


def test_metrics_have_the_keys_of_the_contract(probed: Path) -> None:
    metrics = files.read_json(probed / "metrics.json")
    assert metrics["split"] == "test"
    assert metrics["test_scored"] == 1
    for name in MEASURES:
        _check_measure(metrics[name], at_most=1 if name in RATES else np.inf)
    assert list(metrics["per_class"]) == ["bird", "fish", "rabbit", "spider"]
    for one in metrics["per_class"].values():
        for name in ("precision", "recall", "f1"):
            _check_measure(one[name], at_most=1)
    assert sum(one["support"] for one in metrics["per_class"].values()) == metrics["n"]
    assert metrics["confusion"]["labels"] == ["bird", "fish", "rabbit", "spider"]
    assert np.sum(metrics["confusion"]["counts"]) == metrics["n"]
    assert metrics["unknown"].keys() >= {"threshold", "coverage"}
    assert 0 < metrics["unknown"]["coverage"] <= 1
    assert metrics["seconds"].keys() >= {"audit", "train", "evaluate", "report", "total"}
    assert metrics["seconds"]["total"] >= metrics["seconds"]["train"] > 0
    assert metrics["peak_rss_mb"] > 50


def test_metrics_are_those_of_the_prediction_table(probed: Path) -> None:
    metrics = files.read_json(probed / "metrics.json")
    test = _predictions(probed).filter(pl.col("split") == "test")
    assert test.height == metrics["n"]
    assert (test["predicted"] == test["label"]).mean() == pytest.approx(metrics["accuracy"]["value"])
    names = metrics["confusion"]["labels"]
    counts = [
        [test.filter((pl.col("label") == is_) & (pl.col("predicted") == named)).height for named in names]
        for is_ in names
    ]
    assert metrics["confusion"]["counts"] == counts
    own = [test[f"p_{label}"][row] for row, label in enumerate(test["label"])]
    assert metrics["log_loss"]["value"] == pytest.approx(-np.log(own).mean(), rel=1e-6)
    assert metrics["unknown"]["threshold"] == json.loads((probed / "bundle.json").read_text())["threshold"]


def test_the_prediction_table_has_every_held_back_picture_once(probed: Path) -> None:
    found, pictures = _predictions(probed), table.read(probed / "pictures.parquet", table.PICTURES)
    shares = ["p_bird", "p_fish", "p_rabbit", "p_spider"]
    assert found.columns == [*table.PREDICTIONS, *shares]
    held_back = pictures.filter(pl.col("split").is_in(["val", "test"]))
    assert sorted(found["row_id"]) == sorted(held_back["row_id"])
    same = found.join(pictures, on="row_id", suffix="_of_picture")
    for column in ("path", "split", "label"):
        assert same[column].to_list() == same[f"{column}_of_picture"].to_list()
    np.testing.assert_allclose(found.select(shares).sum_horizontal(), 1, atol=1e-5)
    assert found["probability"].to_list() == pytest.approx(found.select(shares).max_horizontal().to_list())


def test_a_picture_without_its_prediction_is_an_error() -> None:
    """Concatenation would fill the row with nulls under polars 1."""
    pictures = pl.DataFrame({"row_id": [0, 1], "path": ["a", "b"], "split": ["test"] * 2, "label": ["cat", "dog"]})
    answers = [Prediction(path, "cat", 0.75, False, 0.5, {"cat": 0.75, "dog": 0.25}) for path in ("a", "b")]
    assert prediction_table(pictures, answers, ["cat", "dog"])["path"].to_list() == ["a", "b"]
    with pytest.raises(pl.exceptions.ShapeError):
        prediction_table(pictures, answers[:1], ["cat", "dog"])


def test_every_picture_is_used_or_left_out_for_a_reason(probed: Path, faulty: SyntheticDataset) -> None:
    pictures = table.read(probed / "pictures.parquet", table.PICTURES)
    assert (pictures["split"].is_null() == pictures["error"].is_not_null()).all()
    left_out = {Path(path) for path in pictures.filter(pl.col("error").is_not_null())["path"]}
    chosen = {"bird", "fish", "spider", "rabbit"}
    broken = [path for fault in ("truncated", "empty", "text") for path in faulty.faults[fault]]
    assert left_out == {path for path in broken if path.parent.name in chosen}
    assert left_out
    hidden = set(faulty.faults["hidden"])
    inside = {path for name in chosen for path in (faulty.folder / name).iterdir()} - hidden
    assert {Path(path) for path in pictures["path"]} == inside
    for path, error in pictures.filter(pl.col("error").is_not_null())["path", "error"].iter_rows():
        assert path in error


def test_duplicates_stay_on_one_side(probed: Path) -> None:
    used = table.read(probed / "pictures.parquet", table.PICTURES).filter(pl.col("split").is_not_null())
    assert used["group"].n_unique() < used.height  # there are duplicates among them
    assert used.group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1


def test_what_is_scored_is_what_ships(probed: Path) -> None:
    predictor = Predictor(probed, threads=1)
    for split, tolerance in (("test", 1e-4), ("val", PARITY_LIMIT)):
        rows = _predictions(probed).filter(pl.col("split") == split)
        answers = list(predictor.predict_many(Path(path) for path in rows["path"]))
        for row, answer in zip(rows.iter_rows(named=True), answers, strict=True):
            assert answer.label == row["predicted"]
            assert answer.familiarity == pytest.approx(row["familiarity"], abs=tolerance)
            for name, share in answer.probabilities.items():
                assert share == pytest.approx(row[f"p_{name}"], abs=tolerance)
            if abs(row["familiarity"] - predictor.bundle.threshold) > tolerance:
                assert answer.unknown == row["unknown"]


def test_the_parity_of_the_graph_is_on_record(probed: Path) -> None:
    parity = json.loads((probed / "bundle.json").read_text(encoding="utf-8"))["parity"]
    assert parity["pictures"] > 0
    assert parity["largest_difference"]
    assert all(0 <= difference <= parity["limit"] for difference in parity["largest_difference"].values())


def test_the_model_has_learned_something(probed: Path) -> None:
    history = run_folder.read_history(probed)
    assert [line["epoch"] for line in history] == [1, 2]
    assert sum(line.get("chosen", False) for line in history) == 1
    accuracy = files.read_json(probed / "metrics.json")["accuracy"]["value"]
    assert accuracy > 0.4  # of four unequal classes, at a size far below the backbone's own


def test_the_same_seed_gives_the_same_run_and_touches_no_picture(
    probed: Path, faulty: SyntheticDataset, tmp_path: Path
) -> None:
    before = _state_of(faulty.folder)
    again = flow.train(faulty.folder, recipe=run_folder.load_recipe(probed), out=tmp_path / "run", threads=2)
    assert _state_of(faulty.folder) == before
    one, other = (files.read_json(run / "environment.json") for run in (probed, again.path))
    assert one["split digest"] == other["split digest"]
    assert again.metrics == files.read_json(again.path / "metrics.json")
    assert _lasting(again.metrics) == pytest.approx(_lasting(files.read_json(probed / "metrics.json")))
    _same_predictions(again.path, probed)


def test_another_seed_gives_another_split(probed: Path, faulty: SyntheticDataset) -> None:
    recipe = run_folder.load_recipe(probed)
    collection = flow.audit(faulty.folder, recipe=recipe, threads=1)
    digests = [flow.assign_splits(collection, recipe.data, seed=seed)[1] for seed in (0, 1)]
    assert digests[0] == files.read_json(probed / "environment.json")["split digest"]
    assert digests[0] != digests[1]


def test_evaluating_again_is_counted_and_changes_no_score(probed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(probed, tmp_path / "run"))
    for scored in (2, 3):
        found = flow.evaluate(run, Context(threads=1))
        assert found.metrics["test_scored"] == scored
    before, after = (files.read_json(path / "metrics.json") for path in (probed, run))
    assert after == found.metrics
    # First from features, then from files, within the limit that the run was proven to
    scores = _lasting({**after, "test_scored": 1})
    wanted = {
        name: pytest.approx(value, rel=1e-4, abs=1e-4) if isinstance(value, float) else value
        for name, value in _lasting(before).items()
    }
    assert scores == wanted
    _same_predictions(run, probed, 1e-3)
    assert "scored again from their files, by model.onnx" in (run / "README.md").read_text(encoding="utf-8")
    assert "scored again from their files" not in (probed / "README.md").read_text(encoding="utf-8")


def test_evaluating_a_changed_collection_is_refused(probed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(probed, tmp_path / "run"))
    pictures = table.read(run / "pictures.parquet", table.PICTURES)
    table.write(pictures.with_columns(path=pl.col("path") + ".gone"), run / "pictures.parquet")
    with pytest.raises(SourceError, match=r"\.gone.*do not change the pictures"):
        flow.evaluate(run, Context(threads=1))
    assert files.read_json(run / "metrics.json")["test_scored"] == 1


def test_a_run_whose_pictures_have_gone_says_how_to_go_on(probed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(probed, tmp_path / "run"))
    for name in ("report.html", "metrics.json"):
        (run / name).unlink()
    pictures = table.read(run / "pictures.parquet", table.PICTURES)
    table.write(pictures.with_columns(path=pl.col("path") + ".gone"), run / "pictures.parquet")
    with pytest.raises(SourceError, match=r"\.gone.*Restore it.*train --resume .*run"):
        flow.resume(run, threads=1)


def test_resuming_a_finished_run_is_refused(probed: Path) -> None:
    with pytest.raises(RunError, match="finished already"):
        flow.resume(probed)


def test_a_failed_proof_refuses_the_run(
    probed: Path, faulty: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = finalize.TRAINERS["probe"]

    def another_network(task: TrainingTask) -> TrainedModel:
        learned = learn(task)

        def turned(images: Pixels) -> Float32s:
            return np.roll(learned.reference_network(images), 1, axis=1)

        return replace(learned, reference_network=turned)

    monkeypatch.setitem(finalize.TRAINERS, "probe", another_network)
    run = tmp_path / "run"
    with pytest.raises(IntegrityError, match="The trained network differs from calibration"):
        flow.train(faulty.folder, recipe=run_folder.load_recipe(probed), out=run, threads=2)
    assert not (run / "bundle.json").exists()
    assert not (run / "metrics.json").exists()
    with pytest.raises(RunError, match="no finished model"):
        Predictor(run)


def test_a_run_that_left_no_folder_is_started_again(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"There is no folder .*gone\. A run that was stopped before it trained"):
        run_folder.load_recipe(tmp_path / "gone")


def test_a_probe_that_was_interrupted_is_resumed(
    probed: Path, faulty: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(finalize, "verify_parity", _interrupted)
        with pytest.raises(InterruptedRun, match=f"--resume {run}"):
            flow.train(faulty.folder, recipe=run_folder.load_recipe(probed), out=run, threads=2)
    resumed = flow.resume(run, threads=2)
    assert _lasting(resumed.metrics) == pytest.approx(_lasting(files.read_json(probed / "metrics.json")))
    assert {path.name for path in run.iterdir()} >= FILES


def test_a_run_interrupted_while_it_reports_is_resumed(
    probed: Path, faulty: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(results, "write_report", _interrupted)
        with pytest.raises((InterruptedRun, KeyboardInterrupt)):
            flow.train(faulty.folder, recipe=run_folder.load_recipe(probed), out=run, threads=2)
    flow.resume(run, threads=2)
    assert {path.name for path in run.iterdir()} >= FILES


def copy_unfinished(probed: Path, run: Path) -> Path:
    """Copy a finished run without its results, as if it was killed before they were written; return the copy."""
    shutil.copytree(probed, run)
    for name in ("metrics.json", "report.html"):
        (run / name).unlink()
    return run


def test_a_resumed_run_computes_features_by_the_recorded_engine(
    probed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_unfinished(probed, tmp_path / "run")
    recorded = FeaturesConfig(engine="onnxruntime", precision="float32", device="cpu")
    run_folder.record_features(run, recorded)
    monkeypatch.setattr(engine_choice, "measure_engines", lambda *_: pytest.fail("chosen anew"))
    task = record_engine(load_task(run, Context(threads=1), resume=True))
    assert task.context.features == run_folder.recorded_features(run) == recorded
    assert task.engine_choice == engine_choice.REFERENCE


@pytest.mark.parametrize(("openvino", "reason"), [(True, "no instructions for bfloat16"), (False, "not installed")])
def test_a_run_of_another_processor_says_how_to_go_on(
    probed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openvino: bool, reason: str
) -> None:
    run = copy_unfinished(probed, tmp_path / "run")
    run_folder.record_features(run, FeaturesConfig(engine="openvino", precision="bfloat16"))
    monkeypatch.setattr(engine_choice, "has_openvino", lambda: openvino)
    monkeypatch.setattr(engine_choice, "has_bfloat16", lambda: False)
    with pytest.raises(RunError, match=rf"computed with openvino in bfloat16.*{reason}.*train again.*asked\.toml"):
        flow.resume(run, threads=1)


def test_nothing_is_written_before_the_pictures_are_known_to_be_good(tmp_path: Path) -> None:
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    with pytest.raises(SourceError):
        flow.train(tmp_path / "pictures", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_backbone_is_told_before_anything_is_written(faulty: SyntheticDataset, tmp_path: Path) -> None:
    recipe = Recipe.of({"model": {"backbone": "lite9"}, "data": {"classes": FEW_CLASSES}})
    with pytest.raises(RecipeError, match="lite9"):
        flow.train(faulty.folder, recipe=recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- With torch ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scratch(collection: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> flow.Run:
    """A network trained from nothing for two epochs, on one thread, so that its sums are always the same."""
    pytest.importorskip("torch")
    run = tmp_path_factory.mktemp("scratch") / "run"
    return flow.train(collection.folder, recipe=Recipe.of(TINY_SCRATCH), out=run, threads=1)


@pytest.mark.slow
def test_scratch_end_to_end(scratch: flow.Run) -> None:
    _check_trained_run(scratch, method="scratch", epochs=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(TINY_FINETUNE, id="finetune"),
        pytest.param(
            TINY_SCRATCH | {"model": {"method": "scratch", "network": "plain", "filters": [8, 16], "hidden": 32}},
            id="plain",
        ),
    ],
)
def test_other_networks_end_to_end(collection: SyntheticDataset, tmp_path: Path, asked: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    run = flow.train(collection.folder, recipe=Recipe.of(asked), out=tmp_path / "run", threads=2)
    _check_trained_run(run, method=asked["model"]["method"], epochs=2)


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_training_that_was_interrupted_ends_like_one_that_was_not(
    scratch: flow.Run, collection: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    from bestiary.training import epoch_throughput, loop

    run, batches = tmp_path / "run", loop.iter_train_batches
    with monkeypatch.context() as patch:
        patch.setattr(
            epoch_throughput, "measure_epoch_throughput", lambda *_: epoch_throughput.EpochThroughput(100.0, 100.0, 0.0)
        )  # it trains as well
        patch.setattr(loop, "iter_train_batches", _interrupted_in(epoch, batches))
        with pytest.raises(InterruptedRun):
            flow.train(collection.folder, recipe=Recipe.of(TINY_SCRATCH), out=run, threads=1)
    assert len(run_folder.read_history(run)) == epoch - 1
    resumed = flow.resume(run, threads=1)
    assert _lasting(resumed.metrics) == pytest.approx(_lasting(scratch.metrics))
    _same_predictions(run, scratch.path)
    for mine, other in zip(run_folder.read_history(run), run_folder.read_history(scratch.path), strict=True):
        for name in ("epoch", "train_loss", "val_loss", "val_macro_f1", "learning_rate"):
            assert mine[name] == pytest.approx(other[name], rel=1e-6)


KILLED = """
import os, signal, sys
from bestiary import flow
from bestiary.models import engine_choice
from bestiary.picture import load
from bestiary.recipe import Recipe
from bestiary.training import loop

keep = loop.save_checkpoint

def kill_after_saving(path, state):
    keep(path, state)
    in_run = str(path).startswith(sys.argv[3])  # the pace is tried out in a folder of its own
    if in_run and len(state["history"]) == 1 and state["done"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)

loop.save_checkpoint = kill_after_saving
flow.train(sys.argv[1], recipe=Recipe.of(eval(sys.argv[2])), out=sys.argv[3], threads=1)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_a_training_killed_within_an_epoch_ends_bitwise_like_one_that_was_not(
    scratch: flow.Run, collection: SyntheticDataset, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    recipe = {**TINY_SCRATCH, "train": {**TINY_SCRATCH["train"], "checkpoint_seconds": 1e-9}}
    command = [sys.executable, "-c", KILLED, str(collection.folder), repr(recipe), str(run)]
    killed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(run_folder.read_history(run)) == 1
    resumed = flow.resume(run, threads=1)
    assert _lasting(resumed.metrics) == _lasting(scratch.metrics)
    timings = {"seconds", "images_per_second"}
    for mine, other in zip(run_folder.read_history(run), run_folder.read_history(scratch.path), strict=True):
        assert {key: mine[key] for key in mine.keys() - timings} == {key: other[key] for key in other.keys() - timings}


@pytest.mark.slow
def test_two_processes_make_the_run_that_one_makes(
    scratch: flow.Run, collection: SyntheticDataset, tmp_path: Path
) -> None:
    recipe, run = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(write_toml(TINY_SCRATCH), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "bestiary"]
    command += ["train", str(collection.folder), "--recipe", str(recipe), "--out", str(run), "--threads", "2", "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"], "one result, from the first process"
    for mine, other in zip(run_folder.read_history(run), run_folder.read_history(scratch.path), strict=True):
        for name in ("epoch", "train_loss", "train_accuracy", "val_loss", "val_macro_f1", "learning_rate"):
            assert mine[name] == pytest.approx(other[name], abs=1e-5)
    assert _lasting(files.read_json(run / "metrics.json")) == pytest.approx(_lasting(scratch.metrics), abs=1e-4)


@pytest.mark.slow
def test_pixels_are_normalised_by_the_collection_s_own_colours(scratch: flow.Run) -> None:
    told = files.read_json(scratch.path / "environment.json")["normalised by"]
    shown = table.read(scratch.path / "pictures.parquet", table.PICTURES).filter(pl.col("split") == "train")
    pixels = np.stack([load(path, 32) for path in map(Path, shown["path"])]).reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(told["mean"], pixels.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(told["std"], pixels.std(axis=0), rtol=1e-9)


@pytest.mark.slow
def test_a_timm_backbone_without_weights_is_explained(collection: SyntheticDataset, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    recipe = Recipe.of({**TINY_FINETUNE, "model": {"method": "finetune", "backbone": "resnet18"}})
    with pytest.raises(RecipeError, match="not bundled"):
        flow.train(collection.folder, recipe=recipe, out=tmp_path / "run", threads=1)


def _check_trained_run(run: flow.Run, *, method: str, epochs: int) -> None:
    assert {path.name for path in run.path.iterdir()} >= FILES
    bundle = json.loads((run.path / "bundle.json").read_text(encoding="utf-8"))
    assert bundle["method"] == method
    assert max(bundle["parity"]["largest_difference"].values()) <= PARITY_LIMIT
    assert [line["epoch"] for line in run_folder.read_history(run.path)] == list(range(1, epochs + 1))
    test = _predictions(run.path).filter(pl.col("split") == "test")
    answers = Predictor(run.path).predict_many(Path(path) for path in test["path"])
    assert [answer.label for answer in answers] == test["predicted"].to_list()
    heatmap = Predictor(run.path).predict(Path(test["path"][0])).heatmap
    assert heatmap is not None
    assert heatmap.std() > 0
    assert isinstance(Predictor(run.path).bundle.preprocess, Preprocessing)


@pytest.mark.slow
def test_a_run_whose_time_runs_short_is_shortened_recorded_and_resumed(
    tmp_path: Path, collection: SyntheticDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is a stand-in: each look at it costs a second of the twenty that are left."""
    pytest.importorskip("torch")
    from bestiary.training import control
    from bestiary.training.pace import TimeLimit

    run, clock = tmp_path / "run", iter(range(10_000))
    recipe = Recipe.of({**TINY_SCRATCH, "train": {**TINY_SCRATCH["train"], "epochs": 12}})
    limit = TimeLimit(lambda: 20.0 - next(clock), epoch_seconds=2.0, after_seconds=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(control, "make_time_limit", lambda context: limit)
        patch.setattr(finalize, "verify_parity", _interrupted)
        with pytest.raises(InterruptedRun):
            flow.train(collection.folder, recipe=recipe, out=run, threads=1)
    history = run_folder.read_history(run)
    assert len(history) < 12
    assert history[-1]["schedule"] == pytest.approx(1)
    assert history[-1]["learning_rate"] < 0.3 * max(line["learning_rate"] for line in history)

    done = flow.resume(run)
    environment = files.read_json(run / "environment.json")
    assert run_folder.read_history(run) == history  # there was nothing left to train
    assert environment["training threads"] == 1
    assert environment["training ended by"] == "budget"
    assert 0 < environment["epochs trained"] < 12
    assert 0 <= done.metrics["macro_f1"]["value"] <= 1


def _interrupted_in(epoch: int, batches: Callable[..., Any]) -> Callable[..., Any]:
    """Training batches that stop with Ctrl-C after the first batch of an epoch."""

    def stopped(*given: Any, **named: Any) -> Any:
        for number, batch in enumerate(batches(*given, **named)):
            if named["epoch"] == epoch and number == 1:
                raise KeyboardInterrupt
            yield batch

    return stopped


def _interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def _check_measure(measure: dict[str, float], *, at_most: float) -> None:
    assert measure.keys() >= {"value", "low", "high"}
    assert 0 <= measure["low"] <= measure["value"] <= measure["high"] <= at_most


def _predictions(run: Path) -> pl.DataFrame:
    return table.read(run / "predictions.parquet", table.PREDICTIONS)


def _same_predictions(one: Path, other: Path, limit: float = 1e-6) -> None:
    left, right = (_predictions(run).sort("row_id") for run in (one, other))
    for column in left.columns:
        if left[column].dtype == pl.Float64:
            np.testing.assert_allclose(left[column], right[column], atol=limit)
        else:
            assert left[column].to_list() == right[column].to_list()


def _lasting(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics by dotted name, without what the machine decides."""
    found: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{name}.{key}", inner)
        elif isinstance(value, list):
            for place, inner in enumerate(value):
                add(f"{name}.{place}", inner)
        else:
            found[name] = value

    for key, value in metrics.items():
        if key not in OF_THE_MACHINE:
            add(key, value)
    return found


def _state_of(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of change of every file."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_the_number_of_threads_changes_no_score(probed: Path, faulty: SyntheticDataset, tmp_path: Path) -> None:
    again = flow.train(faulty.folder, recipe=run_folder.load_recipe(probed), out=tmp_path / "run", threads=1)
    assert _lasting(again.metrics) == pytest.approx(_lasting(files.read_json(probed / "metrics.json")), abs=1e-6)
    _same_predictions(again.path, probed)
