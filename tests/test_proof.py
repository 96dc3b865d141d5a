"""8-bit exports on processors of another kind: verified once, remembered, and rejected if the answers differ."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("onnx")

from typer.testing import CliRunner

from bestiary.array_types import Pixels
from bestiary.cli import app
from bestiary.errors import RunError
from bestiary.inference import proof
from bestiary.inference.bundle import read_bundle
from bestiary.inference.predictor import Predictor
from bestiary.inference.proof import PROOF_NAME, describe_proof, write_proof
from bestiary.models.engine import Engine, Outputs, has_openvino
from bestiary.processor import Processor
from bestiary.progress import SilentReporter
from tiny_model import RGB, SIZE, coloured, write_run

EXPORTER = Processor("Fast Chip", "x86_64", ("avx2", "avx512_vnni"))
HASWELL = Processor("Old Chip", "x86_64", ("avx2",))
PI = Processor("Arm 0x41 0xd0b", "aarch64", ("asimd", "asimddp"))
IMAGES = np.stack([np.full((SIZE, SIZE, 3), RGB[name], np.uint8) for name in ("red", "green", "blue")])

SetProcessor = Callable[[Processor], None]


class Notices(SilentReporter):
    """Collects what is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def info(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture
def use_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SetProcessor:
    """A stand-in for the processor, and a cache of its own."""
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path / "cache"))
    return lambda processor: monkeypatch.setattr(proof, "read_processor", lambda: processor)


@pytest.fixture
def folder(tmp_path: Path, use_processor: SetProcessor) -> Path:
    """An export of the tiny model, verified on EXPORTER."""
    folder = write_run(tmp_path / "export")
    use_processor(EXPORTER)
    mark_exported(folder, Predictor(folder).probabilities(IMAGES))
    return folder


def mark_exported(folder: Path, probabilities: NDArray[np.float32], engine: str = "onnxruntime") -> None:
    digest = write_proof(folder, IMAGES, {engine: probabilities})
    replace(read_bundle(folder), precision="int8", exported={"pictures": 3, **describe_proof(digest)}).write(folder)


def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of pictures whenever an export is verified."""
    runs, run_batch = [], proof.run_batch

    def counting(engine: Engine, images: Pixels) -> Outputs:
        runs.append(len(images))
        return run_batch(engine, images)

    monkeypatch.setattr(proof, "run_batch", counting)
    return runs


def load(folder: Path) -> list[str]:
    """Load the model; return the notices."""
    notices = Notices()
    Predictor(folder, reporter=notices)
    return notices.texts


def test_the_same_kind_of_processor_needs_no_proof(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = count_runs(monkeypatch)
    (folder / PROOF_NAME).unlink()
    assert load(folder) == []
    assert runs == []


def test_another_kind_is_verified_once(
    folder: Path, use_processor: SetProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = count_runs(monkeypatch)
    use_processor(HASWELL)
    [text] = load(folder)
    assert "verified on Fast Chip (x86_64 avx2 avx512_vnni)" in text
    assert "Old Chip (x86_64 avx2): its 3 pictures have the same labels" in text
    assert runs == [3]
    assert load(folder) == []
    assert runs == [3]
    use_processor(PI)
    assert len(load(folder)) == 1
    use_processor(HASWELL)
    assert load(folder) == []
    assert runs == [3, 3]


def test_another_version_of_the_engine_is_verified_again(
    folder: Path, use_processor: SetProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_processor(HASWELL)
    assert len(load(folder)) == 1
    monkeypatch.setattr("bestiary.inference.proof.engine_version", lambda _: "99.0")
    assert len(load(folder)) == 1
    assert load(folder) == []


def test_another_graph_is_verified_again(folder: Path, use_processor: SetProcessor) -> None:
    import onnx

    use_processor(HASWELL)
    assert len(load(folder)) == 1
    bundle = read_bundle(folder)
    model = onnx.load(folder / "model.onnx")
    onnx.helper.set_model_props(model, {"changed": "yes"})
    content = model.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    replace(bundle, graph_sha256=hashlib.sha256(content).hexdigest()).write(folder)
    assert len(load(folder)) == 1


@pytest.mark.parametrize(
    ("change", "labels", "difference"),
    [
        (lambda rows: rows[:, ::-1], 2, 0.9),  # red and blue change places
        (lambda rows: rows - np.float32(0.06), 0, 0.06),
        (lambda rows: np.where(rows > 0.5, np.nan, rows), 0, np.nan),
    ],
)
def test_other_answers_are_an_error(
    folder: Path,
    use_processor: SetProcessor,
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    labels: int,
    difference: float,
) -> None:
    mark_exported(folder, change(Predictor(folder).probabilities(IMAGES)))
    use_processor(HASWELL)
    for _ in range(2):  # a failure is not remembered as a success
        with pytest.raises(RunError, match="gives other answers") as error:
            load(folder)
        assert "Old Chip (x86_64 avx2)" in str(error.value)
        assert "Fast Chip (x86_64 avx2 avx512_vnni)" in str(error.value)
        assert f"of its 3 pictures {labels} have" in str(error.value)
        assert f"by up to {str(difference)[:3]}" in str(error.value)
        assert "bestiary export RUN --to onnx" in str(error.value)
    use_processor(EXPORTER)
    assert load(folder) == []


def test_small_differences_are_accepted(folder: Path, use_processor: SetProcessor) -> None:
    mark_exported(folder, Predictor(folder).probabilities(IMAGES) - np.float32(0.04))
    use_processor(HASWELL)
    assert "differ by at most 0.04" in load(folder)[0]


def test_two_tied_labels_may_change_places(folder: Path, use_processor: SetProcessor) -> None:
    rows = Predictor(folder).probabilities(IMAGES)
    actual = np.sort(rows, axis=1)
    actual[:, 1:] = [0.4995, 0.5005]
    expected = actual[:, [0, 2, 1]]
    exported = {"processor": EXPORTER.kind}
    assert proof._require_same_answers(folder, exported, expected, actual) == pytest.approx(0.001, abs=1e-6)
    actual[:, 1:] = [0.49, 0.51]
    with pytest.raises(RunError, match="3 have another label"):
        proof._require_same_answers(folder, exported, actual[:, [0, 2, 1]], actual)


def test_a_cache_that_cannot_be_written_means_that_it_is_verified_again(
    folder: Path, use_processor: SetProcessor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = count_runs(monkeypatch)
    (tmp_path / "file").touch()
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path / "file" / "cache"))
    use_processor(HASWELL)
    assert len(load(folder)) == 1
    assert len(load(folder)) == 1
    assert runs == [3, 3]


def test_a_damaged_memory_means_that_it_is_verified_again(
    folder: Path, use_processor: SetProcessor, tmp_path: Path
) -> None:
    use_processor(HASWELL)
    assert len(load(folder)) == 1
    [memory] = (tmp_path / "cache" / "verified").iterdir()
    for content in ("{", "{}", '{"graph_sha256": "other"}'):
        memory.write_text(content)
        assert len(load(folder)) == 1
        assert load(folder) == []


def test_a_missing_or_damaged_proof_is_an_error(folder: Path, use_processor: SetProcessor) -> None:
    use_processor(HASWELL)
    path = folder / PROOF_NAME
    content = path.read_bytes()
    for damaged in (content[:-1], b"", content[:100] + b"x" + content[101:]):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=r"proof.npz is missing or damaged: it is not the file that its bundle"):
            load(folder)
    path.unlink()
    with pytest.raises(RunError, match=r"proof.npz is missing or damaged: No such file"):
        load(folder)


@pytest.mark.parametrize("content", [b"no archive", b"PK\x03\x04 cut off"])
def test_a_proof_that_was_written_damaged_is_an_error(
    folder: Path, use_processor: SetProcessor, content: bytes
) -> None:
    (folder / PROOF_NAME).write_bytes(content)
    exported = describe_proof(hashlib.sha256(content).hexdigest())
    replace(read_bundle(folder), exported=exported).write(folder)
    use_processor(HASWELL)
    with pytest.raises(RunError, match="missing or damaged"):
        load(folder)


def test_a_proof_of_other_classes_is_an_error(folder: Path, use_processor: SetProcessor) -> None:
    mark_exported(folder, np.ones((3, 7), np.float32))
    use_processor(HASWELL)
    with pytest.raises(RunError, match=r"its probabilities have the shape \(3, 7\)"):
        load(folder)


def test_an_export_of_an_earlier_version_is_said_to_be_unverified(folder: Path, use_processor: SetProcessor) -> None:
    replace(read_bundle(folder), exported={"pictures": 500}).write(folder)
    use_processor(HASWELL)
    [text] = load(folder)
    assert text.startswith("This 8-bit model is not verified for this processor, Old Chip (x86_64 avx2): an earlier")
    assert "Export it again on this computer" in text
    with pytest.warns(UserWarning, match="not verified for this processor"):  # the library has no reporter
        Predictor(folder)


def test_an_export_without_pictures_is_said_to_be_unverified(folder: Path, use_processor: SetProcessor) -> None:
    replace(read_bundle(folder), exported=describe_proof(None)).write(folder)
    assert load(folder) == []
    use_processor(HASWELL)
    [text] = load(folder)
    assert "it carries no pictures" in text


def test_an_engine_without_a_proof_is_said_to_be_unverified(folder: Path, use_processor: SetProcessor) -> None:
    mark_exported(folder, Predictor(folder).probabilities(IMAGES), engine="another")
    use_processor(HASWELL)
    [text] = load(folder)
    assert "it was exported without onnxruntime, which runs it here" in text


@pytest.mark.skipif(not has_openvino(), reason="OpenVINO is not installed")
def test_each_engine_is_verified_by_its_own_probabilities(folder: Path, use_processor: SetProcessor) -> None:
    mark_exported(folder, Predictor(folder, engine="fastest").probabilities(IMAGES), engine="openvino")
    use_processor(HASWELL)
    notices = Notices()
    Predictor(folder, engine="fastest", reporter=notices)
    assert "have the same labels" in notices.texts[0]


def test_float32_needs_no_proof(folder: Path, use_processor: SetProcessor) -> None:
    replace(read_bundle(folder), precision="float32").write(folder)
    (folder / PROOF_NAME).unlink()
    use_processor(HASWELL)
    assert load(folder) == []


def test_predict_says_it_once_and_quiet_hides_it(folder: Path, use_processor: SetProcessor, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(coloured("red"))
    arguments = ["predict", str(folder), str(tmp_path / "red.png")]
    use_processor(HASWELL)
    first, second = (CliRunner().invoke(app, arguments) for _ in range(2))
    assert "Verified again on this processor, Old Chip" in first.stderr
    assert "red" in first.stdout
    assert second.stderr == ""
    use_processor(PI)
    assert CliRunner().invoke(app, [*arguments, "--quiet"]).stderr == ""


def test_predict_does_not_answer_if_the_proof_fails(folder: Path, use_processor: SetProcessor, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(coloured("red"))
    mark_exported(folder, np.roll(Predictor(folder).probabilities(IMAGES), 1, axis=1))
    use_processor(HASWELL)
    result = CliRunner().invoke(app, ["predict", str(folder), str(tmp_path / "red.png")])
    assert isinstance(result.exception, RunError)  # exit code 2
    assert result.stdout == ""
