"""The predictor: one prediction for each input, in order, whatever the input; damaged models are rejected."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx")

from bestiary.decode_rules import DecodeRules
from bestiary.errors import InputError, RunError
from bestiary.inference.bundle import read_bundle, require_run_first
from bestiary.inference.predictor import EngineName, Prediction, Predictor, load
from bestiary.models.engine import has_openvino
from bestiary.quick_metrics import softmax
from tiny_model import BY_CHANNEL, CALIBRATION, COLOURS, RGB, SIZE, THRESHOLD, coloured, maps_of, write_run

ENGINES = [
    "onnxruntime",
    pytest.param("fastest", marks=pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed")),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("model"))


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A run of its own, to be damaged."""
    return write_run(tmp_path / "run")


def solid(name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.full((SIZE, SIZE, 3), RGB[name], np.uint8)


def test_an_answer_has_all_that_can_be_computed_by_hand(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(coloured("red"))
    answer = Predictor(run).predict(path)
    logits = BY_CHANNEL.logits(maps_of(solid("red")[None]))
    expected = softmax(logits / CALIBRATION.temperature)[0]
    assert answer.path == str(path)
    assert answer.label == "red"
    assert answer.error is None
    assert not answer.unknown
    assert list(answer.probabilities) == list(COLOURS)
    np.testing.assert_allclose(list(answer.probabilities.values()), expected, atol=1e-6)
    assert answer.probability == max(answer.probabilities.values())
    assert answer.familiarity == pytest.approx(CALIBRATION.familiarity(logits)[0], abs=1e-6)
    assert answer.heatmap is not None
    np.testing.assert_allclose(answer.heatmap, maps_of(solid("red")[None])[0, 0] * 4 / SIZE**2, atol=1e-6)


def test_every_kind_of_source_gets_the_same_answer(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "blue.png"
    path.write_bytes(coloured("blue"))
    predictor = Predictor(str(run))
    sources = (path, str(path), path.read_bytes(), Image.open(path), Image.open(path).convert("RGBA"), solid("blue"))
    answers = [predictor.predict(source) for source in sources]
    assert [answer.path for answer in answers] == [str(path), str(path), None, None, None, None]
    for answer in answers:
        assert _without_path(answer) == _without_path(answers[0])
    assert answers[0].label == "blue"


def test_what_is_no_picture_is_refused_with_what_would_be_one(run: Path, tmp_path: Path) -> None:
    predictor, wrong = Predictor(run), cast("Any", [tmp_path / "one.png"])
    with pytest.raises(InputError, match=r"A picture is a path, .*; got list\. For several .* predict_many"):
        predictor.predict(wrong)
    with pytest.raises(InputError, match="takes several pictures"):
        next(predictor.predict_many("one.png"))
    (tmp_path / "cut.png").write_bytes(coloured("red")[:-30])
    with Image.open(tmp_path / "cut.png") as cut:
        answer = predictor.predict(cut)
    assert (answer.label, answer.error) == (None, "the image cannot be decoded: image file is truncated.")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bad", [{0}, {20}, {40}, {0, 1, 40}, set(range(16, 32)), set(range(41))])
def test_unreadable_pictures_keep_their_place(run: Path, tmp_path: Path, engine: EngineName, bad: set[int]) -> None:
    names = [COLOURS[number % 3] for number in range(41)]
    paths = [tmp_path / f"{number}.png" for number in range(41)]
    for number, path in enumerate(paths):
        path.write_bytes(b"no picture" if number in bad else coloured(names[number]))
    answers = list(Predictor(run, engine=engine).predict_many(paths))
    assert [answer.path for answer in answers] == [str(path) for path in paths]
    for number, answer in enumerate(answers):
        if number in bad:
            assert answer.label is None
            assert answer.unknown
            assert answer.probabilities == {}
            assert answer.heatmap is None
            assert answer.error is not None
            assert str(paths[number]) in answer.error
        else:
            assert (answer.label, answer.error) == (names[number], None)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_cannot_be_read_takes_no_time_of_the_engine(
    run: Path, tmp_path: Path, engine: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, seen = Predictor(run, engine=engine), list[int]()
    stream = predictor._engine.stream

    def counting(batches: Iterable[Any]) -> Iterator[Any]:
        return stream(noted(batch) for batch in batches)

    def noted(batch: Any) -> Any:
        seen.append(len(batch))
        return batch

    monkeypatch.setattr(predictor._engine, "stream", counting)
    (tmp_path / "red.png").write_bytes(coloured("red"))
    paths = [tmp_path / ("red.png" if number == 150 else f"{number}.png") for number in range(300)]
    answers = list(predictor.predict_many(paths, batch_size=1))
    assert [answer.path for answer in answers] == [str(path) for path in paths]
    assert [number for number, answer in enumerate(answers) if answer.error is None] == [150]
    assert len(seen) == 2 + 1 + 2  # now and then a blank one, so that answers are not held back


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_many_are_answered_as_each_alone(run: Path, engine: EngineName, batch_size: int) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(20)]
    predictor = Predictor(run, engine=engine)
    together = list(predictor.predict_many(images, batch_size=batch_size))
    for answer, alone in zip(together, map(predictor.predict, images), strict=True):
        assert answer.label == alone.label
        assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-6)
        assert answer.heatmap is not None
        assert alone.heatmap is not None
        assert answer.heatmap is not None
        assert alone.heatmap is not None
        np.testing.assert_allclose(answer.heatmap, alone.heatmap, atol=1e-6)


def test_the_engines_give_the_same_answers(run: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE, 3), dtype=np.uint8)
    one, other = (list(Predictor(run, engine=engine).predict_many(images)) for engine in ("onnxruntime", "fastest"))
    for left, right in zip(one, other, strict=True):
        assert left.label == right.label
        assert left.probabilities == pytest.approx(right.probabilities, abs=1e-5)
        assert left.familiarity == pytest.approx(right.familiarity, abs=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_endless_source_is_read_only_a_little_ahead(run: Path, engine: EngineName) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield coloured(COLOURS[taken % 3])

    stream = Predictor(run, threads=2, engine=engine).predict_many(endless())
    most = 0
    for seen in range(1, 601):
        assert next(stream).label == COLOURS[seen % 3]
        most = max(most, taken - seen)
    assert most <= 64 + 16 * 16
    stream.close()  # type: ignore[attr-defined]


def test_no_pictures_give_no_answers(run: Path) -> None:
    assert list(Predictor(run).predict_many([])) == []


def test_a_picture_unlike_all_classes_is_unknown(run: Path) -> None:
    predictor = Predictor(run)
    grey, red = predictor.predict(coloured("grey")), predictor.predict(coloured("red"))
    assert grey.familiarity < THRESHOLD < red.familiarity
    assert (grey.unknown, red.unknown) == (True, False)
    assert grey.label in COLOURS  # the likeliest is still told


@pytest.mark.parametrize(("threshold", "unknown"), [(0.0, False), (1.0, True)])
def test_unknown_follows_the_threshold(broken: Path, threshold: float, unknown: bool) -> None:
    _edit(broken, threshold=threshold)
    predictor = Predictor(broken)
    assert [predictor.predict(coloured(name)).unknown for name in RGB] == [unknown] * len(RGB)


def test_probabilities_of_arrays(run: Path) -> None:
    found = Predictor(run).probabilities(np.stack([solid(name) for name in COLOURS]))
    assert found.shape == (3, 3)
    assert found.argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("engine", ENGINES)
def test_one_predictor_serves_several_threads(run: Path, engine: EngineName) -> None:
    predictor = Predictor(run, threads=2, engine=engine)
    wrong: list[str | None] = []

    def ask(name: str) -> None:
        for _ in range(20):
            wrong.extend(one.label for one in predictor.predict_many([coloured(name)] * 5) if one.label != name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in COLOURS * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_predictor_fits_on_a_page(run: Path) -> None:
    public = [name for name in vars(Predictor) if not name.startswith("_")]
    assert public == ["classes", "engine_name", "batch_size", "predict", "predict_many", "probabilities"]


def test_an_array_of_any_size_is_seen_as_its_file_is(run: Path) -> None:
    predictor, pixels = Predictor(run), np.random.default_rng(0).integers(0, 256, (31, 17, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    assert _without_path(predictor.predict(pixels)) == _without_path(predictor.predict(stream.getvalue()))


def test_a_line_has_the_keys_of_the_contract(run: Path) -> None:
    keys = ["path", "label", "probability", "unknown", "familiarity", "probabilities", "error"]
    for source in (coloured("red"), b"no picture"):
        line = json.loads(json.dumps(Predictor(run).predict(source).line()))
        assert list(line) == keys


def test_load_is_the_predictor(run: Path) -> None:
    assert load(run, threads=1).predict(coloured("green")).label == "green"


def test_a_run_and_pictures_in_the_wrong_order_are_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("a")
    with pytest.raises(RunError, match=r"a\.jpg is no run, but .* is: RUN comes first, then the pictures"):
        require_run_first(tmp_path / "a.jpg", [str(tmp_path), str(run)])
    require_run_first(run, [str(run)])  # a run is given twice: its pictures are looked for
    require_run_first(tmp_path / "missing", [str(tmp_path)])  # the message about the run is another one's
    with pytest.raises(RunError, match=r"is no run: it has no finished model, bundle\.json\. Give the folder"):
        read_bundle(tmp_path)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda run: run.rename(run.with_name("gone")), "There is no run at"),
    "no bundle": (lambda run: (run / "bundle.json").unlink(), "no finished model"),
    "no graph": (lambda run: (run / "model.onnx").unlink(), "model.onnx cannot be read"),
    "half a bundle": (lambda run: _cut(run / "bundle.json"), "damaged"),
    "nested too deeply": (lambda run: (run / "bundle.json").write_text("[" * 100_000), "damaged"),
    "no object": (lambda run: (run / "bundle.json").write_text("[]"), "damaged"),
    "not text": (lambda run: (run / "bundle.json").write_bytes(b"\xff\xfe\x00"), "damaged"),
    "a key missing": (lambda run: _edit(run, threshold=...), "threshold"),
    "a key unknown": (lambda run: _edit(run, colour="red"), "colour"),
    "threshold of no use": (lambda run: _edit(run, threshold=None), "threshold is None"),
    "size of no use": (lambda run: _edit(run, size="6"), "size is '6'"),
    "unknown fit": (lambda run: _edit(run, fit="stretch"), "stretch"),
    "no classes": (lambda run: _edit(run, classes=[]), "classes"),
    "too few classes": (lambda run: _edit(run, classes=["a", "b"]), "3 classes; its bundle names 2"),
    "another size": (lambda run: _edit(run, size=9), "does not fit its bundle"),
    "a graph elsewhere": (lambda run: _edit(run, graph="../model.onnx"), "beside the bundle"),
    "a precision of no use": (lambda run: _edit(run, precision="int3"), "precision"),
    "another format": (lambda run: _edit(run, format=99), "bundle format 99"),
    "graph damaged": (lambda run: _cut(run / "model.onnx"), "is not the graph"),
    "graph swapped": (lambda run: (run / "model.onnx").write_bytes(b"another"), "is not the graph"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_damaged_run_is_refused_with_one_message(
    broken: Path, engine: EngineName, damage: Callable[[Path], object], says: str
) -> None:
    damage(broken)
    with pytest.raises(RunError) as told:
        Predictor(broken, engine=engine)
    assert says in str(told.value)
    assert str(broken) in str(told.value)


def test_a_bundle_comes_back_as_it_was_written(broken: Path) -> None:
    bundle = read_bundle(broken)
    bundle.write(broken)
    assert read_bundle(broken) == bundle
    assert bundle.classes == COLOURS
    assert (bundle.preprocess.size, bundle.preprocess.fit) == (SIZE, "squash")


def test_the_head_is_kept_beside_the_graph(run: Path) -> None:
    tensors = pytest.importorskip("safetensors.numpy").load_file(run / "model.safetensors")
    np.testing.assert_array_equal(tensors["head.weight"], BY_CHANNEL.weight)
    np.testing.assert_array_equal(tensors["head.bias"], BY_CHANNEL.bias)


NOT_IN_THE_BASE = (
    *("torch", "torchvision", "timm", "polars", "sklearn", "scipy", "onnx", "onnxscript", "joblib", "pandas"),
    *("openvino", "cleanlab", "matplotlib", "jinja2", "psutil", "safetensors"),
)
BASE_INSTALL = f"""
import sys
from pathlib import Path

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] in {NOT_IN_THE_BASE!r}
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""


def test_prediction_needs_the_base_install_only(run: Path, tmp_path: Path) -> None:
    (tmp_path / "green.png").write_bytes(coloured("green"))
    program = f"""{BASE_INSTALL}
import bestiary
answers = bestiary.load({str(run)!r}).predict_many([Path({str(tmp_path)!r}) / "green.png", b"no picture"])
print([answer.label for answer in answers])
print(bestiary.Predictor({str(run)!r}, engine="fastest").predict({str(tmp_path / "green.png")!r}).label)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["['green', None]", "green"]


@pytest.mark.parametrize("form", ["table", "jsonl", "csv"])
def test_the_predict_command_needs_the_base_install_only(run: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / "green.png").write_bytes(coloured("green"))
    arguments = ["bestiary", "predict", str(run), str(tmp_path / "green.png"), "--format", form]
    heatmaps = ["--heatmaps", str(tmp_path / "evidence")]
    program = f"{BASE_INSTALL}\nfrom bestiary.cli import main\nsys.argv = {arguments + heatmaps!r}\nmain()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "green" in done.stdout.splitlines()[-1]
    assert len(list((tmp_path / "evidence").glob("green-green-*.heatmap.png"))) == 1


def test_a_missing_extra_is_told_with_the_command_that_adds_it(run: Path, tmp_path: Path) -> None:
    arguments = ["bestiary", "train", str(tmp_path)]
    program = f"{BASE_INSTALL}\nfrom bestiary.cli import main\nsys.argv = {arguments!r}\nmain()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(r'Add it with: .*pip install .*\[train\]"$', done.stderr.rstrip())
    assert "Traceback" not in done.stderr


def _without_path(answer: Prediction) -> dict[str, Any]:
    return {key: value for key, value in answer.line().items() if key != "path"}


def _edit(run: Path, **changes: Any) -> None:
    """Change keys of the bundle; `...` takes one out."""
    values = {**json.loads((run / "bundle.json").read_text(encoding="utf-8")), **changes}
    kept = {key: value for key, value in values.items() if value is not ...}
    (run / "bundle.json").write_text(json.dumps(kept), encoding="utf-8")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def test_a_bundle_without_a_version_of_decoding_is_read_with_the_first(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    bundle = json.loads((run / "bundle.json").read_text())
    assert (bundle["decoding"], bundle["deep_ranges"]) == (2, {})
    for name in ("decoding", "deep_ranges"):
        del bundle[name]
    (run / "bundle.json").write_text(json.dumps(bundle))
    assert Predictor(run).bundle.preprocess.rules == DecodeRules(1)


def test_a_bundle_keeps_the_range_of_deep_pictures(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    bundle = json.loads((run / "bundle.json").read_text())
    deep = np.zeros((SIZE, SIZE), np.uint16) + 1000
    image = Image.fromarray(deep)
    assert Predictor(run).predict(image).probabilities.keys() == set(COLOURS)
    (run / "bundle.json").write_text(json.dumps(bundle | {"deep_ranges": {"uint16": [0, 4000]}}))
    preprocess = Predictor(run).bundle.preprocess
    assert preprocess.load_pixels(image)[0, 0].tolist() == [64, 64, 64]
    (run / "bundle.json").write_text(json.dumps(bundle | {"deep_ranges": {"uint16": [4, 1]}}))
    with pytest.raises(RunError, match="deep_ranges"):
        Predictor(run)


def test_max_pixels_is_that_of_the_run_unless_another_is_passed(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    assert Predictor(run).bundle.preprocess.limits.max_pixels == 80_000_000
    error = Predictor(run, max_pixels=10).predict(Image.new("RGB", (4, 3))).error
    assert error is not None
    assert "--max-pixels" in error
