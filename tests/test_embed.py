"""`bestiary embed`: features, nearest training pictures, and the map."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from numpy.typing import NDArray

pytest.importorskip("sklearn")

from sklearn.decomposition import PCA

import bestiary
from bestiary import table
from bestiary.context import Context
from bestiary.errors import InputError, RunError, SourceError
from bestiary.export.graph import OutputCalibration, build_inference_graph
from bestiary.inference import embedder, embedding_file
from bestiary.inference.bundle import read_bundle
from bestiary.inference.embedding_file import EmbeddingOptions, write_embeddings
from bestiary.models.engine import OnnxRuntimeEngine, run_batch
from bestiary.models.head import Dense, Head
from bestiary.models.onnx_surgery import add_features_output
from commands import Call
from test_cli import one_message
from tiny_model import CHANNELS, COLOURS, RGB, SIZE, coloured, maps_of, trunk, write_run


def expected(*names: str) -> NDArray[np.float64]:
    """The tiny network's maps are the pixels from -1 to 1, and its features their means."""
    return np.array([[(value - 127.5) / 127.5 for value in RGB[name]] for name in names])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a training picture of each colour."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_run(folder)
    rows: list[dict[str, Any]] = []
    for name in COLOURS:
        path = tmp_path / "training" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(coloured(name))
        digest = hashlib.sha256(coloured(name)).hexdigest()
        rows.append({"row_id": len(rows), "path": str(path), "label": name, "sha256": digest, "split": "train"})
    rows.append({**rows[0], "row_id": 3, "path": "in the test split", "split": "test"})
    table.write(pl.DataFrame(rows, schema=table.PICTURES), folder / "pictures.parquet")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "new"
    folder.mkdir()
    for name in ("red", "grey", "blue"):
        (folder / f"{name}.png").write_bytes(coloured(name))
    (folder / "broken.jpg").write_text("no picture")
    return folder


def test_features_are_the_input_of_the_last_layer(run: Path, pictures: Path) -> None:
    frame = bestiary.embed(run, pictures)
    assert frame.columns == ["path", "error", "features"]
    assert frame["features"].dtype == pl.Array(pl.Float32, CHANNELS)
    assert [Path(path).name for path in frame["path"]] == ["blue.png", "broken.jpg", "grey.png", "red.png"]
    read = frame.filter(pl.col("error").is_null())
    assert read["features"].to_numpy() == pytest.approx(expected("blue", "grey", "red"), abs=1e-4)
    [broken] = frame.filter(pl.col("error").is_not_null()).to_dicts()
    assert broken["features"] is None
    assert "broken.jpg" in broken["error"]


def test_features_of_a_network_with_hidden_layers_are_the_last_hidden_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    flat = CHANNELS * SIZE * SIZE
    hidden = Dense(rng.normal(size=(7, flat)).astype(np.float32), rng.normal(size=7).astype(np.float32))
    head = Head(rng.normal(size=(3, 7)).astype(np.float32), np.zeros(3, np.float32), "flatten", (hidden,))
    onnx.save(build_inference_graph(trunk(), head, OutputCalibration(), {}), tmp_path / "model.onnx")
    images = rng.integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    engine = OnnxRuntimeEngine(add_features_output(tmp_path / "model.onnx"), threads=1)
    assert run_batch(engine, images)["features"] == pytest.approx(head.features(maps_of(images)), abs=1e-4)


def test_the_features_times_the_head_are_the_logits(probed: Path) -> None:
    """Of a real backbone, to which the inference graph applies the layer before it pools."""
    from safetensors.numpy import load_file

    bundle = read_bundle(probed)
    images = np.random.default_rng(0).integers(0, 256, (3, bundle.size, bundle.size, 3), dtype=np.uint8)
    features = run_batch(OnnxRuntimeEngine(add_features_output(probed / bundle.graph), threads=1), images)["features"]
    logits = run_batch(OnnxRuntimeEngine(probed / bundle.graph, threads=1), images)["logits"]
    head = load_file(probed / "model.safetensors")
    assert features @ head["head.weight"].T + head["head.bias"] == pytest.approx(logits, abs=1e-3)


def test_nearest_training_pictures_come_with_label_and_similarity(run: Path, pictures: Path) -> None:
    frame = bestiary.embed(run, [pictures / "red.png", pictures / "broken.jpg"], nearest=2)
    red, broken = frame["nearest"].to_list()
    assert (Path(red[0]["path"]).name, red[0]["label"]) == ("red.png", "red")
    assert red[0]["similarity"] == pytest.approx(1, abs=1e-3)
    assert red[1]["similarity"] < 0.5
    assert broken is None
    [row] = bestiary.embed(run, pictures / "red.png", nearest=9)["nearest"].to_list()
    assert sorted(near["label"] for near in row) == list(COLOURS)  # all three training pictures, and not the test one


def test_features_of_training_pictures_are_computed_once(run: Path, pictures: Path) -> None:
    first: list[bestiary.Event] = []
    again: list[bestiary.Event] = []
    bestiary.embed(run, pictures / "red.png", nearest=1, on_event=first.append)
    bestiary.embed(run, pictures / "red.png", nearest=1, on_event=again.append)
    stage = "Computing features of training pictures"
    assert stage not in {event.stage for event in again}
    (run.parent / "training" / "red.png").write_bytes(coloured("grey"))
    assert bestiary.embed(run, pictures / "red.png", nearest=1).height == 1


def test_a_training_picture_that_is_gone_is_named(run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BESTIARY_CACHE", str(run.parent / "empty"))
    (run.parent / "training" / "red.png").unlink()
    with pytest.raises(SourceError, match=r"red\.png"):
        bestiary.embed(run, pictures / "red.png", nearest=1)


@pytest.mark.parametrize(("rows", "sample"), [(1_024, 4_096), (4, 4_096), (4, 5)])
def test_the_map_is_a_pca_of_the_features_in_any_number_of_pieces(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, sample: int
) -> None:
    monkeypatch.setattr(embedder, "ROWS_AT_ONCE", rows)
    monkeypatch.setattr(embedding_file, "MAP_SAMPLE", sample)
    images = list(np.random.default_rng(0).integers(0, 256, (19, SIZE, SIZE, 3), dtype=np.uint8))
    sources = [*images[:3], b"no picture", *images[3:]]
    out = tmp_path / "features.parquet"
    counts = write_embeddings(run, sources, out, EmbeddingOptions(with_map=True), Context(1))
    frame = pl.read_parquet(out)
    assert (counts.pictures, counts.unreadable, counts.channels) == (20, 1, CHANNELS)
    assert frame["x"].null_count() == frame["y"].null_count() == frame["features"].null_count() == 1
    features = frame.drop_nulls("features")["features"].to_numpy().astype(np.float64)
    every = -(-19 // sample)
    fitted = PCA(2).fit(features[::every])
    assert frame.drop_nulls("x").select("x", "y").to_numpy() == pytest.approx(fitted.transform(features), abs=1e-4)
    assert counts.explained_variance == pytest.approx(fitted.explained_variance_ratio_.sum())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_pieces_are_joined_in_order(run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bestiary.embed(run, [pictures] * 3, nearest=1)
    monkeypatch.setattr(embedder, "ROWS_AT_ONCE", 2)
    assert bestiary.embed(run, [pictures] * 3, nearest=1).equals(whole)


def test_an_export_in_8_bits_has_no_features(run: Path, pictures: Path) -> None:
    replace(read_bundle(run), precision="int8").write(run)
    with pytest.raises(RunError, match="an export in int8.* Give the run that it was exported from"):
        bestiary.embed(run, pictures)


def test_a_graph_without_a_linear_layer_is_refused(tmp_path: Path) -> None:
    onnx.save(trunk(), tmp_path / "model.onnx")
    with pytest.raises(RunError, match="has no features"):
        add_features_output(tmp_path / "model.onnx")


def test_what_cannot_be_done_is_said(run: Path, pictures: Path) -> None:
    with pytest.raises(InputError, match="is -1; expected 0 or more"):
        bestiary.embed(run, pictures, nearest=-1)
    with pytest.raises(SourceError, match="A map needs two readable pictures"):
        bestiary.embed(run, pictures / "red.png", with_map=True)
    with pytest.raises(SourceError, match=r"None of the 1 pictures could be read. The first: .*broken\.jpg"):
        bestiary.embed(run, pictures / "broken.jpg")


# ---- The command -----------------------------------------------------------------------------------------------------


def test_the_command_writes_a_file(bestiary: Call, run: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "features.parquet"
    done = bestiary("embed", run, pictures, "--out", out, "--nearest", 1, "--map", "--json")
    assert done.code == 0
    values = json.loads(done.out)
    explained = values.pop("explained_variance")
    assert values == {"features": str(out), "pictures": 4, "unreadable": 1, "channels": CHANNELS}
    assert 0.9 < explained <= 1.000001
    assert "1 of 4 pictures could not be read: see the column error." in done.err
    assert pl.read_parquet(out).columns == ["path", "error", "features", "nearest", "x", "y"]
    assert "exists already" in one_message(bestiary("embed", run, pictures, "--out", out))


def test_the_command_refuses_other_files_and_pictures_that_cannot_be_read(
    bestiary: Call, run: Path, pictures: Path, tmp_path: Path
) -> None:
    assert "ends in .parquet" in one_message(bestiary("embed", run, pictures, "--out", tmp_path / "f.npy"))
    done = bestiary("embed", run, pictures / "broken.jpg", "--out", tmp_path / "f.parquet", "--quiet")
    assert one_message(done).startswith("None of the 1 pictures could be read.")
    assert not (tmp_path / "f.parquet").exists()
