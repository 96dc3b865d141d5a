"""Predictions, evaluation and training on a device: proven on it, said, and complete; `stand_in_device` is the card."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("sklearn")

from PIL import Image

import bestiary
from bestiary import cli, flow
from bestiary.context import Context
from bestiary.errors import InputError, IntegrityError, MachineError, RecipeError, RunError
from bestiary.files import read_json
from bestiary.inference.bundle import read_bundle
from bestiary.inference.embedder import Embedder
from bestiary.inference.predictor import Predictor
from bestiary.models import accelerators, device_measurement, device_proof
from bestiary.models.device_proof import FOLDER
from bestiary.recipe import Recipe
from bestiary.recipe_arguments import combine_recipe, device_settings, study_device_settings
from bestiary.recipe_sections import FeaturesConfig
from listening import Listening
from stand_in_device import CARD, DRIVER, StandIn, install_stand_in
from tiny_model import COLOURS, RGB, SIZE, write_run

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing is remembered from other tests; measuring is quick."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BESTIARY_CACHE", str(folder))
    monkeypatch.setattr(device_measurement, "BATCH_SIZES", (2, 4))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return install_stand_in(monkeypatch, StandIn())


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Run a command in this process; returns exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bestiary", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Pictures of the three colours, in turns; the fifth cannot be read."""
    folder.mkdir()
    paths = [folder / f"{number:02}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.new("RGB", (SIZE, SIZE), RGB[COLOURS[number % 3]]).save(path)
    paths[4].write_bytes(b"not a picture")
    return paths


def scale(factor: float) -> Any:
    return lambda name, values, is_half: values * np.float32(factor)


# ---- Predictor ------------------------------------------------------------------------------------------------------
def test_predictions_on_a_card_are_proven_once_and_equal_those_of_the_processor(
    card: StandIn, run: Path, tmp_path: Path, own_cache: Path
) -> None:
    paths, notices = write_pictures(tmp_path / "new", 10), Listening()
    expected = list(Predictor(run, device="cpu").predict_many(paths))
    assert card.sessions == 0
    predictor = Predictor(run, device="cuda", reporter=notices)
    assert f"by CUDA on {CARD}" in notices.said[0]
    [path] = (own_cache / FOLDER).iterdir()
    proof = read_json(path)
    assert proof["graph"] == read_bundle(run).graph_sha256
    assert proof["error"] == ""
    assert set(proof["differences"]) == {"probabilities", "familiarity", "logits"}
    assert max(proof["differences"].values()) < 1e-5
    answers = list(predictor.predict_many(paths))
    assert [answer.label for answer in answers] == [answer.label for answer in expected]
    assert [answer.path for answer in answers] == [str(path) for path in paths]
    assert answers[4].error is not None
    sessions = card.sessions
    Predictor(run, device="cuda")
    assert card.sessions == sessions + 1  # for the answers; the proof is remembered


@pytest.mark.parametrize("driver", [DRIVER, replace(DRIVER, version="590.1")])
def test_a_proof_holds_for_one_driver(
    monkeypatch: pytest.MonkeyPatch, card: StandIn, run: Path, own_cache: Path, driver: Any
) -> None:
    Predictor(run, device="cuda")
    install_stand_in(monkeypatch, card, driver)
    Predictor(run, device="cuda")
    assert len(list((own_cache / FOLDER).iterdir())) == (1 if driver == DRIVER else 2)


def test_a_card_that_gives_other_answers_is_refused(card: StandIn, run: Path) -> None:
    card.change = scale(0.98)
    with pytest.raises(RunError, match=r"cannot run this model: probabilities differ from .* more than 0\.001"):
        Predictor(run, device="cuda")
    notices = Listening()
    predictor = Predictor(run, engine="fastest", device="auto", reporter=notices)
    assert f"CUDA on {CARD} (driver 580.65.06) is not used: probabilities differ" in notices.said[0]
    asked = len(card.batches)
    assert predictor.predict(Image.new("RGB", (SIZE, SIZE), RGB["red"])).label == "red"
    assert len(card.batches) == asked


def measure_processor_as(monkeypatch: pytest.MonkeyPatch, pictures_per_second: float) -> None:
    """Make the measured speed of the processor a given one: with a tiny model it depends on what else runs."""
    measure = device_proof._run_on_processor
    monkeypatch.setattr(
        device_proof, "_run_on_processor", lambda engine, images: (measure(engine, images)[0], pictures_per_second)
    )


def test_auto_takes_the_card_for_many_pictures_only(monkeypatch: pytest.MonkeyPatch, card: StandIn, run: Path) -> None:
    measure_processor_as(monkeypatch, 0.5)
    Predictor(run)
    assert card.sessions == 0
    notices = Listening()
    Predictor(run, engine="fastest", reporter=notices)
    assert notices.said
    assert card.sessions == 2


def test_auto_leaves_a_slower_card_alone(monkeypatch: pytest.MonkeyPatch, card: StandIn, run: Path) -> None:
    measure_processor_as(monkeypatch, 1e6)
    card.seconds = 0.05
    notices = Listening()
    Predictor(run, engine="fastest", reporter=notices)
    assert card.sessions == 1  # it was measured
    assert not notices.said


def test_predictions_are_complete_although_the_memory_runs_out(card: StandIn, run: Path, tmp_path: Path) -> None:
    paths, notices = write_pictures(tmp_path / "new", 23), Listening()
    predictor = Predictor(run, device="cuda", reporter=notices)
    card.most_rows = 1
    answers = list(predictor.predict_many(paths))
    assert [answer.path for answer in answers] == [str(path) for path in paths]
    labels = [None if number == 4 else COLOURS[number % 3] for number in range(23)]
    assert [answer.label for answer in answers] == labels
    assert "is full with" in notices.said[1]
    card.most_rows = 0
    assert [answer.label for answer in predictor.predict_many(paths)] == labels
    assert "The processor computes the rest" in notices.said[-1]


def test_devices_that_predict_nothing_are_explained(run: Path) -> None:
    with pytest.raises(InputError, match='"mps" trains networks only'):
        Predictor(run, device=cast("Any", "mps"))
    with pytest.raises(InputError, match='no device "gpu"'):
        bestiary.load(run, device=cast("Any", "gpu"))
    with pytest.raises(InputError, match="mps"):
        bestiary.evaluate(run, device=cast("Any", "mps"))


def test_an_export_in_8_bits_is_for_processors(card: StandIn, run: Path) -> None:
    bundle = json.loads((run / "bundle.json").read_text())
    (run / "bundle.json").write_text(json.dumps(bundle | {"precision": "int8"}))
    with pytest.raises(InputError, match="an export in int8 for processors"):
        Predictor(run, device="cuda")
    Predictor(run, engine="fastest")
    assert card.sessions == 0


# ---- Embeddings, evaluation, training -------------------------------------------------------------------------------
def test_embeddings_on_a_card_equal_those_of_the_processor(card: StandIn, probed: Path, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "new", 9)
    contexts = [Context(threads=1, features=FeaturesConfig(device=device)) for device in ("cpu", "cuda")]
    expected, actual = (next(Embedder(probed, context).iter_rows(paths)) for context in contexts)
    assert card.sessions == 2
    assert actual.errors == expected.errors
    np.testing.assert_allclose(actual.features, expected.features, rtol=1e-4, atol=1e-5)


def test_a_run_on_a_card_is_proven_there_and_on_the_processor(
    card: StandIn, probed: Path, faulty: Any, tmp_path: Path
) -> None:
    recipe = Recipe.read(probed / "asked.toml").override({"features": {"device": "cuda"}})
    done = flow.train(faulty.folder, recipe=recipe, out=tmp_path / "run", threads=1)
    assert card.batches
    recorded = read_json(done.path / "environment.json")["features"]
    assert (recorded["engine"], recorded["device"]) == ("onnxruntime", "cuda")
    parity = read_bundle(done.path).parity["largest_difference"]
    assert parity["the network against calibration"] < 1e-3
    for engine in ("onnxruntime on cuda", "onnxruntime"):
        assert parity[f"{engine} against calibration"] < 1e-3
        assert parity[f"{engine}, familiarity"] < 1e-3
    before = read_json(probed / "metrics.json")["macro_f1"]["value"]
    assert abs(done.metrics["macro_f1"]["value"] - before) < 0.1
    asked = len(card.batches)
    again = bestiary.evaluate(done.path, device="cuda", threads=1, quiet=True)
    assert len(card.batches) > asked
    assert again.metrics["macro_f1"]["value"] == done.metrics["macro_f1"]["value"]


def test_a_run_whose_card_answers_otherwise_is_rejected(
    monkeypatch: pytest.MonkeyPatch, card: StandIn, probed: Path, faulty: Any, tmp_path: Path
) -> None:
    """The proof with drawn pictures passed; the run's own pictures show the fault."""
    from bestiary.models.device_proof import DeviceProof

    card.change = lambda name, values, is_half: values if name == "features" else values * np.float32(0.9)
    proof = DeviceProof("", "", "", "", 9.0, 1.0, 4, {"probabilities": 0.0})
    monkeypatch.setattr(device_proof, "load_or_prove", lambda *_, **__: proof)
    recipe = Recipe.read(probed / "asked.toml").override({"features": {"device": "cuda"}})
    with pytest.raises(IntegrityError, match="run by onnxruntime on cuda, differs from calibration"):
        flow.train(faulty.folder, recipe=recipe, out=tmp_path / "run", threads=1)


def test_a_run_of_a_card_is_not_resumed_without_one(
    monkeypatch: pytest.MonkeyPatch, card: StandIn, probed: Path, faulty: Any, tmp_path: Path
) -> None:
    from bestiary.run_folder import record_features, recorded_features
    from bestiary.training.task import load_task, record_engine

    out = tmp_path / "run"
    out.mkdir()
    for name in ("asked.toml", "resolved.toml", "environment.json", "pictures.parquet"):
        (out / name).write_bytes((probed / name).read_bytes())
    record_features(out, FeaturesConfig(engine="onnxruntime", precision="float16", device="cuda"))
    monkeypatch.setattr(accelerators, "read_cuda_driver", lambda: accelerators.CudaDriver((), "", (0, 0), "no driver"))
    task = load_task(out, Context(threads=1))
    with pytest.raises(RunError, match=r"onnxruntime in float16 on cuda, which this computer cannot do: no driver"):
        record_engine(task)
    environment = json.loads((out / "environment.json").read_text())
    del environment["features"]["device"]  # a run from before there were devices
    environment["features"]["precision"] = "float32"
    (out / "environment.json").write_text(json.dumps(environment))
    assert recorded_features(out).device == "cpu"


# ---- Options --------------------------------------------------------------------------------------------------------
def test_the_device_is_that_of_the_main_work() -> None:
    assert device_settings("cuda", "probe") == {"features": "cuda"}
    assert device_settings("cuda", "scratch") == {"train": "cuda"}
    assert device_settings("cpu", "finetune") == {"features": "cpu", "train": "cpu"}
    with pytest.raises(RecipeError, match='by "coreml"'):
        device_settings("mps", "probe")
    with pytest.raises(RecipeError, match='With --method scratch use "mps"'):
        device_settings("coreml", "scratch")
    with pytest.raises(RecipeError, match='no device "tpu"'):
        device_settings("tpu", "probe")
    assert study_device_settings("auto") == []
    assert study_device_settings("cuda") == ['features.device="cuda"', 'train.device="cuda"']
    recipe = combine_recipe({"model": {"method": "scratch"}}, device="mps")
    assert (recipe.train.device, recipe.features.device) == ("mps", "auto")
    assert combine_recipe(None, method="finetune", device="cpu").train.device == "cpu"
    with pytest.raises(RecipeError, match=r"device='cuda' contradicts the recipe, which has features\.device = 'cpu'"):
        combine_recipe({"features": {"device": "cpu"}}, device="cuda")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("predict", "RUN", "NEW", "--device", "cuda"), "--device cuda is not possible on this computer: there is no"),
        (("embed", "RUN", "NEW", "--out", "a.parquet", "--device", "coreml"), "CoreML is a part of macOS"),
        (("serve", "RUN", "--port", "0", "--device", "cuda"), "there is no NVIDIA driver"),
        (("train", "NEW", "--device", "cuda"), "there is no NVIDIA driver"),
        (("train", "NEW", "--device", "mps"), 'The device "mps" trains networks'),
        (("train", "NEW", "--method", "scratch", "--device", "coreml"), 'use "mps"'),
        (("tune", "NEW", "--device", "cuda"), "there is no NVIDIA driver"),
        (("study", "NEW", "probe", "original-v1", "--device", "cuda"), "there is no NVIDIA driver"),
        (("predict", "RUN", "NEW", "--device", "gpu"), 'Unknown value "gpu" for --device'),
    ],
)
def test_a_device_that_is_missing_is_one_message(
    monkeypatch: pytest.MonkeyPatch,
    command: Call,
    run: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    pytest.importorskip("optuna")
    error = "there is no NVIDIA driver, so no card can be used"
    monkeypatch.setattr(accelerators, "read_cuda_driver", lambda: accelerators.CudaDriver((), "", (0, 0), error))
    write_pictures(tmp_path / "new", 6)
    monkeypatch.chdir(tmp_path)
    names = {"RUN": run, "NEW": tmp_path / "new"}
    code, out, printed = command(*(names.get(argument, argument) for argument in arguments))
    assert (code, out) == (2, "")
    assert expected in printed
    assert len(printed.strip().splitlines()) == 1
    if "cuda" in arguments:
        assert "onnxruntime-gpu[cuda,cudnn]" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "run"]


def test_predict_says_which_device_it_uses(card: StandIn, command: Call, run: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "new", 6)
    code, out, printed = command("predict", run, tmp_path / "new", "--device", "cuda", "--format", "jsonl")
    assert code == 0
    assert f"The model runs by CUDA on {CARD} (driver 580.65.06)" in printed
    assert [json.loads(line)["label"] for line in out.splitlines()] == ["blue", "green", "red", "blue", None, "red"]


# ---- doctor ---------------------------------------------------------------------------------------------------------
def test_doctor_says_why_something_is_not_used(monkeypatch: pytest.MonkeyPatch, command: Call) -> None:
    error = "there is no NVIDIA driver, so no card can be used"
    monkeypatch.setattr(accelerators, "read_cuda_driver", lambda: accelerators.CudaDriver((), "", (0, 0), error))
    code, out, _ = command("doctor", "--no-torch")
    assert code == 0
    for text in (
        error,
        "onnxruntime-gpu[cuda,cudnn]",
        "CoreML is a part of macOS",
        "bfloat16:",
        "tune (search",
        "Cache",
    ):
        assert text in out, text
    assert "none (bestiary doctor says why)" in command("--version")[1]
    assert error in command("--version", "--json")[1]


def test_doctor_names_card_proofs_and_extras(
    monkeypatch: pytest.MonkeyPatch, card: StandIn, command: Call, run: Path
) -> None:
    Predictor(run, device="cuda")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "kagglehub" else find(name))
    facts = json.loads(command("doctor", "--no-torch", "--json")[1])
    device = facts["accelerators"]["features and predictions (ONNX Runtime)"]["cuda"]
    assert device == facts["accelerator"] == f"CUDA on {CARD} (driver 580.65.06)"
    [proof] = facts["accelerators"]["models"]
    assert proof["graph"] == read_bundle(run).graph_sha256
    assert facts["extras"]["fetch"]["missing"] == ["kagglehub"]
    assert "[fetch]" in facts["extras"]["fetch"]["command"]
    assert not facts["extras"]["train"]["missing"]
    text = command("doctor", "--no-torch")[1]
    assert f"cuda: CUDA on {CARD}" in text
    assert "fetch (download collections): missing kagglehub" in text


def test_doctor_names_extras_and_caches_with_their_sizes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Call
) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "one").write_bytes(b"x" * 2_500_000)
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path))
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("torch", "ray") else find(name))
    monkeypatch.setattr(sys, "platform", "linux")
    code, out, err = command("doctor")
    assert (code, err) == (0, "")  # no torch, so that none is loaded
    assert f"  {tmp_path}: 2.5 MB; safe to delete; set by BESTIARY_CACHE" in out
    assert "    features (features of pictures): 2.5 MB" in out
    assert "    mps: MPS is a part of macOS, and this is another system" in out
    assert "bestiary doctor says why" not in out
    assert re.search(r"  cluster \(work on a Ray cluster\): missing ray; .*pip install .*\[cluster\]", out)
    assert re.search(
        r"  torch \(.*\): missing torch.*; .*\[torch\]\"?; about 5 GB with CUDA; without an NVIDIA card", out
    )
    facts = json.loads(command("doctor", "--json")[1])
    assert facts["cache"]["parts"] == {"features": 2.5}
    extras = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    assert facts["extras"].keys() == extras["project"]["optional-dependencies"].keys() - {
        *("all", "test", "dev", "docs", "quality")
    }


def test_doctor_asks_torch(command: Call) -> None:
    pytest.importorskip("torch")
    facts = json.loads(command("doctor", "--json", "--quiet")[1])
    states = facts["accelerators"]["training of networks (torch)"]
    assert set(states) == {"cuda", "mps", "used"}
    assert all(states.values())


# ---- The training loop ----------------------------------------------------------------------------------------------
def test_training_devices_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from bestiary.training import device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device.choose_device().type == device.choose_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(MachineError, match=r"--device cuda is not possible .* is a build for processors"):
        device.choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(device, "read_cuda_driver", lambda: replace(DRIVER, version="450.1", cuda=(11, 0)))
    with pytest.raises(MachineError, match="the driver 450.1 is too old for torch"):
        device.choose_device("cuda")
    monkeypatch.setattr(device, "read_cuda_driver", lambda: DRIVER)
    monkeypatch.setattr(torch.cuda, "init", lambda: (_ for _ in ()).throw(RuntimeError("CUDA unknown error")))
    with pytest.raises(MachineError, match="cannot start CUDA: CUDA unknown error"):
        device.choose_device("cuda")
    with pytest.raises(MachineError, match="MPS is Apple's accelerator"):
        device.choose_device("mps")


@pytest.mark.parametrize("method", ["scratch", "finetune"])
def test_the_device_reaches_the_loop_and_is_no_setting_that_a_resumed_run_must_share(
    method: str, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    from types import SimpleNamespace

    from bestiary.training.control import make_loop_control
    from bestiary.training.distributed import SINGLE_PROCESS
    from bestiary.training.loop_settings import LoopSettings

    recipes = [
        Recipe.of({"model": {"method": method}, "train": {"device": device}}).resolve() for device in ("cpu", "mps")
    ]
    tasks: list[Any] = [
        SimpleNamespace(recipe=recipe, context=Context(threads=1), has_time_for_epoch=bool) for recipe in recipes
    ]
    controls = [make_loop_control(task, SINGLE_PROCESS, resume=False) for task in tasks]
    assert [control.device for control in controls] == ["cpu", "mps"]
    assert LoopSettings.from_recipe(recipes[0], 1) == LoopSettings.from_recipe(recipes[1], 1)


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_training_goes_on_on_the_processor_where_the_memory_of_the_card_is_full(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, has_checkpoint: bool
) -> None:
    """What comes out equals an uninterrupted training."""
    torch = pytest.importorskip("torch")
    from bestiary.training import card_memory, loop
    from test_loop import IMAGES, LABELS, PLAIN_VIEW, SETTINGS, macro_f1_of, reader, small

    settings = replace(SETTINGS, epochs=3)

    def train(folder: Path, *, fails: bool) -> tuple[dict[str, Any], Listening, list[str]]:
        folder.mkdir()
        network, listener, devices, reads = small(), Listening(), list[str](), 0

        def read(rows: Any) -> Any:
            nonlocal reads
            reads += 1
            if fails and reads == (6 if has_checkpoint else 2):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nMore")
            return reader(IMAGES)(rows)

        def fit(control: loop.LoopControl) -> loop.FitResult:
            devices.append(control.device)
            control = replace(control, device="cpu")
            return loop.fit(network, read, LABELS, macro_f1_of, settings, PLAIN_VIEW, folder, control)

        control = loop.LoopControl(listener, device="cuda")
        result = card_memory.fit_with_fallback(fit, network, folder, control)
        assert [record["epoch"] for record in result.history] == [1, 2, 3]
        assert all(math.isfinite(record["train_loss"]) for record in result.history)
        return network.state_dict(), listener, devices

    expected, _, _ = train(tmp_path / "whole", fails=False)
    monkeypatch.setattr(card_memory, "device_type", lambda network: "cuda")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    actual, listener, devices = train(tmp_path / "full", fails=True)
    assert devices == ["cuda", "cpu"]
    where = "at the last checkpoint" if has_checkpoint else "from the start"
    [message] = [line for line in listener.said if "The memory of cuda ran out" in line]
    assert where in message
    assert "smaller train.batch_size" in message
    for name, weights in expected.items():
        torch.testing.assert_close(actual[name], weights)


def test_memory_of_the_processor_that_runs_out_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from bestiary.training import card_memory, loop
    from test_loop import small

    def fit(control: loop.LoopControl) -> loop.FitResult:
        raise MemoryError

    with pytest.raises(MemoryError):
        card_memory.fit_with_fallback(fit, small(), tmp_path, loop.LoopControl())
