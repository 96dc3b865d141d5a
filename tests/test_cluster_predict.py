"""`predict --cluster`: one row a picture, equal to one process, also where workers, nodes or the command die."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

pytest.importorskip("ray")

import ray
from ray.data import DataContext
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError, RayTaskError

import ray_cluster
from bestiary import api_predict
from bestiary.array_types import Pixels
from bestiary.box import Box, Crop, PictureFile, Region
from bestiary.cluster import predict as cluster_predict
from bestiary.cluster import prediction_worker, ray_data
from bestiary.cluster.picture_list import (
    format_picture,
    iter_list_chunks,
    parse_picture,
    read_list_chunk,
    write_picture_list,
)
from bestiary.cluster.predict import PredictionJob, publish_output, run_job, start_job
from bestiary.cluster.prediction_worker import PredictionWorker, SentModel, iter_slots
from bestiary.cluster.remote_files import RemotePicture
from bestiary.cluster.work_folder import WorkFolder
from bestiary.errors import InputError, IntegrityError, MachineError, UserError
from bestiary.inference.predictor import Predictor
from bestiary.inference.resume_record import ResumeRecord, write_picture_state
from bestiary.locks import output_lock
from bestiary.progress import SilentReporter
from commands import Call, Done
from ray_cluster import TwoNodes, client_server
from tiny_model import COLOURS, coloured, write_run

PICTURES = 150  # under the number from which the engine is chosen by speed
DEADLY = 77  # the id of a picture in the middle
FIRST, RELEASE = "first", "release"  # files in the folder of the job: a held worker has gone on; all should go on


class DeadlyWorker(PredictionWorker):
    """Is killed by a picture in the middle, once."""

    def _predict(self, ids: list[int], lines: list[str]) -> list[dict[str, Any]]:
        mark = Path(self._model.folder) / "killed"
        if DEADLY in ids and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._predict(ids, lines)


class UnansweredWorker(PredictionWorker):
    """Finds that nothing answers for a picture in the middle."""

    def _predict(self, ids: list[int], lines: list[str]) -> list[dict[str, Any]]:
        if DEADLY in ids:
            raise MachineError("Nothing answers for s3://bucket/new.")
        return super()._predict(ids, lines)


class HeldWorker(PredictionWorker):
    """Computes the first chunk that is taken, and holds the others until a file is there: so long lasts the middle."""

    def _predict(self, ids: list[int], lines: list[str]) -> list[dict[str, Any]]:
        folder = Path(self._model.folder)
        try:
            (folder / FIRST).touch(exist_ok=False)  # whichever it is: Ray Data promises no order
        except FileExistsError:
            (folder / mark_of(ray.get_runtime_context().get_node_id())).touch()
            ray_cluster.wait_for(folder / RELEASE)
        return super()._predict(ids, lines)


def mark_of(node: str) -> str:
    """The name of the file that says that a worker of a node holds a chunk."""
    return f"held-{node}"


COMMAND = """
import sys
from bestiary.cluster import prediction_worker
import test_cluster_predict
prediction_worker.PredictionWorker = test_cluster_predict.HeldWorker
from bestiary.cli import main
sys.argv = ["bestiary", *sys.argv[1:]]
main()
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and a list of pictures: sound, broken and missing ones, and some twice."""
    folder = tmp_path_factory.mktemp("job")
    write_run(folder / "run")
    (folder / "new").mkdir()
    names = []
    for number in range(PICTURES - 4):
        name = f"new/{number:03}.png"
        (folder / name).write_bytes(coloured((*COLOURS, "grey")[number % 4], (20 + number % 7, 12)))
        names.append(name)
    (folder / "new/broken.jpg").write_bytes(b"no picture")
    names[50:50] = ["new/broken.jpg", "new/missing.jpg", names[3], names[3]]
    (folder / "list.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


@pytest.fixture
def predict(bestiary: Call, job: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run `predict` on the list of the job, in its folder."""
    monkeypatch.chdir(job)

    def call(out: Path, *options: object, listed: str = "list.txt") -> Done:
        content = (job / listed).read_bytes()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return bestiary("predict", "run", "-", "--out", out, *options)

    return call


@pytest.fixture
def alone(predict: Callable[..., Done], tmp_path: Path) -> Path:
    """The CSV of one process."""
    assert predict(tmp_path / "alone.csv").code == 0
    return tmp_path / "alone.csv"


def assert_same(out: Path, alone: Path) -> None:
    assert out.read_bytes() == alone.read_bytes()
    record = f"{out.name}.resume"
    assert out.with_name(record).read_text() == alone.with_name(f"{alone.name}.resume").read_text()
    assert not (out.parent / f"{out.name}.cluster/chunks").exists()


@pytest.mark.slow
def test_equal_to_one_process(
    local_ray: Any, predict: Callable[..., Done], alone: Path, tmp_path: Path, job: Path
) -> None:
    out = tmp_path / "cluster.csv"
    done = predict(out, "--cluster", "local")
    assert (done.code, done.out) == (0, f"{out}\n")
    assert "150 pictures: " in done.err
    assert "2 could not be read" in done.err
    assert "Predicting: 150 in" in done.err
    assert_same(out, alone)
    before = out.stat()
    again = predict(out, "--cluster", "local", "--json")
    assert (again.code, json.loads(again.out)) == (0, {"answers": str(out)})
    assert "is complete, with 150 pictures. Nothing was changed." in again.err
    assert out.stat() == before

    other = predict(out, "--cluster", "local", "--unknown-label", "nothing")
    assert other.code == 2
    assert "label of unknown pictures none before, nothing now" in other.err
    (job / "fewer.txt").write_text("new/000.png\n")
    fewer = predict(out, "--cluster", "local", listed="fewer.txt")
    assert fewer.code == 2
    assert "number of pictures 150 before, 1 now" in fewer.err
    assert out.stat() == before
    picture = job / "new/000.png"
    content, status = picture.read_bytes(), picture.stat()
    picture.write_bytes(coloured("red", (9, 9)))
    changed = predict(out, "--cluster", "local")
    picture.write_bytes(content)
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert changed.code == 2
    assert "changed since: 1 picture has another size" in changed.err
    assert out.stat() == before
    here = predict(out, "--resume")  # one process goes on with what a cluster wrote
    assert here.code == 0
    assert "nothing left to do" in here.err
    assert_same(out, alone)


@pytest.mark.slow
def test_from_python(local_ray: Any, job: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BESTIARY_CACHE", str(tmp_path / "cache"))
    names: list[Any] = [job / line for line in (job / "list.txt").read_text().splitlines()[40:60]]
    alone, there = (
        api_predict.predict(job / "run", names, group="folder", cluster=cluster, quiet=True)
        for cluster in (None, "local")
    )
    assert [answer.line() for answer in there] == [answer.line() for answer in alone]
    assert [answer.path for answer in there] == [str(name) for name in names]
    assert there.events == alone.events
    assert len(there.events) == 1
    assert list((tmp_path / "cache" / "predictions").iterdir()) == []


def test_from_python_only_files_are_predicted_on_a_cluster(job: Path) -> None:
    with pytest.raises(InputError, match=r"got a picture in memory \(bytes\)"):
        api_predict.predict(job / "run", [job / "new/000.png", b"x"], cluster="local")
    with pytest.raises(InputError, match="workers of a cluster compute on processors"):
        api_predict.predict(job / "run", job / "new/000.png", cluster="local", device="cuda")
    with pytest.raises(InputError, match="is no address of a cluster"):
        api_predict.predict(job / "run", job / "new/000.png", cluster="somewhere")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["answers.jsonl", "answers.parquet", "timelapse.csv"])
def test_other_formats(local_ray: Any, predict: Callable[..., Done], tmp_path: Path, name: str) -> None:
    options = ["--unknown-label", "nothing", *(["--format", "timelapse"] if name.startswith("timelapse") else [])]
    for folder, cluster in (("alone", []), ("cluster", ["--cluster", "local"])):
        done = predict(tmp_path / folder / name, *options, *cluster)
        assert done.code == 0, done.err
    assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "cluster" / name).read_bytes()


@pytest.mark.slow
def test_a_worker_is_killed(
    local_ray: Any,
    predict: Callable[..., Done],
    alone: Path,
    tmp_path: Path,
    job: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prediction_worker, "PredictionWorker", DeadlyWorker)
    out = tmp_path / "killed.csv"
    done = predict(out, "--cluster", "local")
    assert done.code == 0, done.err
    assert (job / "killed").exists()
    assert_same(out, alone)


@pytest.mark.slow
def test_what_a_worker_raises_is_the_message_of_the_command(
    local_ray: Any, predict: Callable[..., Done], alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "unanswered.csv"
    with monkeypatch.context() as patch:
        patch.setattr(prediction_worker, "PredictionWorker", UnansweredWorker)
        done = predict(out, "--cluster", "local")
    assert done.code == 2
    assert done.err.endswith("Nothing answers for s3://bucket/new.\n")
    assert not out.exists()
    assert predict(out, "--cluster", "local").code == 0
    assert_same(out, alone)


@pytest.mark.slow
def test_workers_of_a_failed_job_free_their_processors_while_its_error_is_kept(
    local_ray: Any, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_worker, "PredictionWorker", UnansweredWorker)
    predictor = Predictor(job / "run")
    pictures = [job / line for line in (job / "list.txt").read_text().splitlines()]
    started = start_job(tmp_path / "out.csv", pictures, {})
    with pytest.raises(MachineError, match="Nothing answers") as kept:
        run_job(started, predictor, "local", reporter=SilentReporter())
    assert ray_cluster.wait_for_processors(local_ray)
    assert str(kept.value) == "Nothing answers for s3://bucket/new."


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data's context, of its own settings
def test_a_cluster_whose_processors_another_job_has(
    local_ray: Any, predict: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(DataContext.get_current()), "execution_no_progress_timeout_s", 3)
    other = ray.remote(num_cpus=2)(threading.Barrier).remote(1)
    ray.get(other.wait.remote())
    done = predict(tmp_path / "out.csv", "--cluster", "local")
    ray.kill(other)
    assert done.code == 2
    assert "Other jobs may have the cluster's processors: see `ray status`. What was predicted is kept" in done.err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data's context, of its own settings
def test_a_failed_job_leaves_the_traceback_of_what_its_caller_handles(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        try:
            raise RayError("a worker")
        except RayError:
            raise RayError("the job") from None

    monkeypatch.setattr(ray_data, "_map_rows", fail)
    monkeypatch.setattr(ray_data, "_job_settings", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(ray_data, "ChunkSource", lambda *_: SimpleNamespace(count=1))
    handled = None
    try:
        raise ValueError("of the user")
    except ValueError as error:
        handled = error
        with pytest.raises(RayError) as raised:
            ray_data.run_rows(WorkFolder(Path("a.csv")), [], np.zeros(0, bool), PredictionWorker, [], workers=1)
    first = raised.value.__context__
    assert first is not None
    assert handled.__traceback__ is not None
    assert (first.__traceback__, first.__context__) == (None, handled)


@pytest.mark.parametrize("is_remote", [False, True])
def test_a_cluster_that_does_not_go_on_is_named_also_through_its_client_port(tmp_path: Path, is_remote: bool) -> None:
    """A process of the cluster runs the job there, and wraps what it raises."""
    error: Exception = ExecutionTimeoutError("1,800 s")
    error = RayTaskError("run_rows", "a traceback", error) if is_remote else error
    job = PredictionJob(WorkFolder(tmp_path / "a.csv"), 1, is_finished=False)
    with pytest.raises(MachineError, match="have done nothing"), cluster_predict._explain_errors(job):
        raise error


def wait_for_commits(out: Path) -> int:
    """Return how many chunks are committed, once there are some."""
    checkpoint = WorkFolder(out).checkpoint
    end = time.monotonic() + ray_cluster.DEADLINE_SECONDS
    while not (count := len([path for path in checkpoint.glob("*.parquet") if ".pending." not in path.name])):
        assert time.monotonic() < end, "nothing was committed"
        time.sleep(0.02)
    return count


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows kills in another way")
def test_the_command_is_killed_and_goes_on(
    predict: Callable[..., Done], alone: Path, tmp_path: Path, job: Path
) -> None:
    out = tmp_path / "resumed.csv"
    words = [sys.executable, "-c", COMMAND, "predict", "run", "-", "--out", str(out), "--cluster", "local"]
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    words += ["--threads", "1"]
    with (job / "list.txt").open("rb") as listed:
        command = subprocess.Popen(
            words, stdin=listed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=job, env=environment
        )
    try:
        wait_for_commits(out)
    finally:
        command.kill()
        command.wait()
        (job / FIRST).unlink(missing_ok=True)
    assert not out.exists()
    other = predict(out, "--cluster", "local", "--unknown-label", "nothing")
    assert other.code == 2
    done = predict(out, "--cluster", "local", "--threads", "1")  # one processor is enough
    assert done.code == 0, done.err
    assert "The job goes on: " in done.err
    assert_same(out, alone)


@pytest.mark.slow
def test_a_node_is_lost(
    two_nodes: TwoNodes,
    predict: Callable[..., Done],
    alone: Path,
    tmp_path: Path,
    job: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prediction_worker, "PredictionWorker", HeldWorker)
    out, lost = tmp_path / "lost.csv", list[int]()

    def remove() -> None:
        try:
            lost.append(wait_for_commits(out))
            ray_cluster.wait_for(job / mark_of(two_nodes.second.node_id))
            two_nodes.remove_second()
        finally:
            (job / RELEASE).touch()

    remover = threading.Thread(target=remove)
    remover.start()
    done = predict(out, "--cluster", two_nodes.address)
    remover.join()
    for name in (FIRST, RELEASE):
        (job / name).unlink()
    assert done.code == 0, done.err
    assert done.out == f"{out}\n"  # what Ray says of the lost node is not among the results
    assert lost == [1]
    assert "on 2 nodes with 2 processors" in done.err
    assert_same(out, alone)


@pytest.mark.slow
def test_a_cluster_that_is_joined_through_its_client_port(
    two_nodes: TwoNodes, predict: Callable[..., Done], alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Data itself fails through ray:// (Ray 2.60): a process of the cluster runs it."""
    out = tmp_path / "client.csv"
    with client_server(two_nodes.address) as address:
        with monkeypatch.context() as patch:
            patch.setattr(prediction_worker, "PredictionWorker", UnansweredWorker)
            failed = predict(out, "--cluster", address)
        assert failed.code == 2
        assert failed.err.endswith("Nothing answers for s3://bucket/new.\n")
        done = predict(out, "--cluster", address)
    assert done.code == 0, done.err
    assert_same(out, alone)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--out", "a.csv", "--group", "folder"], "with --resume and --group: it predicts nothing again"),
        (["--out", "a.csv", "--heatmaps", "maps"], "--heatmaps writes files on this computer"),
        (["--out", "a.csv", "--link-into", "links"], "--link-into writes files on this computer"),
        (["--out", "a.csv", "--device", "cuda"], "the workers of a cluster compute on processors"),
        ([], "--cluster writes a file. Add --out"),
    ],
)
def test_options_without_a_meaning(bestiary: Call, job: Path, options: list[str], reason: str) -> None:
    done = bestiary("predict", job / "run", job / "new", "--cluster", "local", *options)
    assert done.code == 2
    assert reason in done.err


def test_nothing_is_left_where_a_job_cannot_begin(predict: Callable[..., Done], tmp_path: Path) -> None:
    out = tmp_path / "out" / "a.csv"
    for address, reason in (("somewhere", "is no address of a cluster"), ("127.0.0.1:1", "Nothing answers at")):
        done = predict(out, "--cluster", address)
        assert done.code == 2
        assert reason in done.err
    assert "expected one of" in predict(out.with_suffix(".doc"), "--cluster", "127.0.0.1:1").err
    assert not out.parent.exists() or not list(out.parent.iterdir())
    with output_lock(out):
        assert "is being written by process" in predict(out, "--cluster", "local").err
    out.parent.mkdir(exist_ok=True)
    out.write_text("mine")
    assert "exists already, and no job on a cluster wrote it" in predict(out, "--cluster", "local").err
    assert [path.name for path in out.parent.iterdir()] == ["a.csv"]
    assert out.read_text() == "mine"


def test_pictures_come_back_as_they_were_listed(tmp_path: Path) -> None:
    pictures: list[PictureFile] = [
        Path("a.jpg"),
        Path("caf\udce9 \n.jpg"),
        Crop(Path("b.jpg"), Box(0.1, 0.2, 0.3, 1 / 3, confidence=0.7)),
        Crop(Path("b.jpg"), Box(1, 2, 30, 40, "pixels", (640, 480))),
        Crop(Path("b.jpg"), Region(1, 2, 3, 4)),
    ]
    path = tmp_path / "list"
    summary = write_picture_list(path, pictures)
    chunks = list(iter_list_chunks(path, 2))
    assert summary.count == 5
    assert [(chunk.start, chunk.stop) for chunk in chunks] == [(0, 2), (2, 4), (4, 5)]
    lines = [line for chunk in chunks for line in read_list_chunk(str(path), chunk)]
    back = [parse_picture(line) for line in lines]
    assert back == pictures
    assert isinstance(back[2], Crop)
    assert isinstance(back[2].part, Box)
    assert back[2].part.confidence == 0.7
    assert [format_picture(picture) for picture in back] == lines
    assert write_picture_list(path, reversed(pictures)).digest != summary.digest
    assert write_picture_list(path, []).count == 0
    assert list(iter_list_chunks(path, 2)) == []


def test_a_picture_has_its_slot_of_one_process(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [job / line for line in (job / "list.txt").read_text().splitlines()][40:61]

    def record(predictor: Predictor, batches: list[Pixels]) -> None:
        stream = predictor._engine.stream

        def recorded(images: Iterator[Pixels]) -> Iterator[Any]:
            return stream(batches.append(batch) or batch for batch in images)  # type: ignore[func-returns-value]

        monkeypatch.setattr(predictor._engine, "stream", recorded)

    alone, expected = Predictor(job / "run", threads=1), list[Pixels]()
    record(alone, expected)
    answers = list(alone.predict_many(paths))
    files = {path.name: path.read_bytes() for path in (job / "run").iterdir() if path.is_file()}
    worker, actual = (
        PredictionWorker(SentModel(files, "onnxruntime", 10**7, str(job), len(paths), False)),
        list[Pixels](),
    )
    record(worker._predictor, actual)
    ids = [3, 4, 9, 20]
    rows = worker._predict(ids, [format_picture(paths[number]) for number in ids])
    assert [row["prediction"] for row in rows] == [answers[number].line() for number in ids]
    assert [len(batch) for batch in actual] == [len(batch) for batch in expected] == [8, 8, 5]
    for number in ids:
        assert np.array_equal(actual[number // 8][number % 8], expected[number // 8][number % 8])
    assert list(iter_slots(range(5), 1, 5)) == list(range(5))


def test_pictures_from_all_over_the_list_are_looked_for_on_nodes(tmp_path: Path) -> None:
    """Class folders may be mounted one by one, and the first picture be the only one that a node sees."""
    files: list[PictureFile] = [tmp_path / f"{number // 100}" / f"{number}.png" for number in range(1000)]
    for file in files:
        assert isinstance(file, Path)
        file.parent.mkdir(exist_ok=True)
        file.touch()
    listed = tmp_path / "list"
    count = write_picture_list(listed, [files[0], stored(0, "v1"), *files[1:], tmp_path / "gone"]).count
    sample = cluster_predict.sample_pictures(listed, count)
    assert sample[0] == files[0]
    assert len(sample) == 31
    assert {path.parent.name for path in sample} == {str(number) for number in range(10)}
    assert cluster_predict.sample_pictures(listed, write_picture_list(listed, files[:2]).count) == files[:2]
    assert cluster_predict.sample_pictures(listed, write_picture_list(listed, [files[0], files[0]]).count) == files[:1]
    assert cluster_predict.sample_pictures(listed, write_picture_list(listed, [stored(0, "v1")]).count) == []


def test_a_node_without_the_folder_of_the_command(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = {path.name: path.read_bytes() for path in (job / "run").iterdir() if path.is_file()}
    worker = PredictionWorker(SentModel(files, "onnxruntime", 10**7, str(tmp_path / "gone"), 1, False))
    [row] = worker._predict([0], [format_picture(job / "new/000.png")])
    assert row["prediction"]["error"] is None
    with pytest.raises(MachineError, match=r"has no folder .*gone, from which the path new/000.png starts"):
        worker._predict([0], [format_picture(Path("new/000.png"))])


def test_a_worker_that_cannot_load_the_model_says_why(job: Path) -> None:
    """The constructor does not: Ray reports what it raises as a worker that has died."""
    files = {path.name: path.read_bytes() for path in (job / "run").iterdir() if path.is_file()}
    damaged = files | {"model.onnx": files["model.onnx"][:100]}
    worker = PredictionWorker(SentModel(damaged, "onnxruntime", 10**7, str(job), 1, False))
    with pytest.raises(MachineError, match=r'The node ".+" cannot load the model: .*model\.onnx'):
        worker._predict([0], [format_picture(job / "new/000.png")])


def commit(work: WorkFolder, name: str, ids: list[int], *, pending: bool = False, rows: bool = True) -> None:
    """Write a chunk as a worker does, and Ray's file for it."""
    for folder in (work.chunks, work.checkpoint):
        folder.mkdir(parents=True, exist_ok=True)
    if rows:
        lines = [json.dumps({"id": number, "prediction": f"{name}{number}"}) for number in ids]
        (work.chunks / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    parquet.write_table(pa.table({"id": ids}), work.checkpoint / f"{name}{'.pending' * pending}.parquet")


def test_only_what_was_committed_is_done(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "a.csv")
    assert not work.restore(3).any()
    commit(work, "a", [0, 1, 7])
    commit(work, "b", [2], pending=True)  # killed before it was committed
    commit(work, "c", [3])
    commit(work, "c", [3], pending=True)  # killed when it was written again
    commit(work, "d", [4], rows=False)
    (work.chunks / "e.jsonl").write_text('{"id": 5')
    commit(work, "f", [6])
    assert work.restore(8).nonzero()[0].tolist() == [0, 1, 6, 7]
    assert sorted(path.name for path in work.chunks.iterdir()) == ["a.jsonl", "f.jsonl"]
    assert sorted(path.name for path in work.checkpoint.iterdir()) == ["a.parquet", "f.parquet"]
    assert work.count_committed({}) == 4
    assert [row["prediction"] for row in work.iter_committed()] == ["a0", "a1", "f6", "a7"]
    with pytest.raises(IntegrityError, match="no row for picture 3 of 8"):
        list(work.iter_rows(8))
    commit(work, "g", [2, 3, 4, 5, 6])  # id 6 for a second time
    assert [row["id"] for row in work.iter_rows(8)] == list(range(8))


def test_an_output_of_another_command_is_not_that_of_the_job(tmp_path: Path) -> None:
    """It may be half of one; the committed rows must stay."""
    work, listed = WorkFolder(tmp_path / "a.csv"), tmp_path / "a.csv.cluster/pictures.new"

    def start() -> PredictionJob:
        return start_job(work.output, [Path("a.jpg")], {"model": "m"})

    assert not start().is_finished
    commit(work, "a", [0])
    work.output.write_text("half")
    for _ in range(2):
        with pytest.raises(UserError, match=r"another command wrote or changed it\. Remove it, .*: what this job"):
            start()
        assert work.count_committed({}) == 1
    work.output.unlink()
    job = start()
    assert not job.is_finished
    (work.staging / "a.csv").write_text("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkFolder, "finish", lambda _: None)  # it is killed before
        with publish_output(job):
            pass
    assert work.output.read_text() == "whole"
    assert start().is_finished
    assert not listed.exists()
    assert not work.chunks.exists()
    assert start().is_finished
    work.output.write_text("that of another model")
    with pytest.raises(UserError, match=r"another command wrote or changed it\. Remove it, or choose another name\."):
        start()


def stored(number: int, version: str) -> RemotePicture:
    uri = f"s3://bucket/{number}.png"
    return RemotePicture({"id": uri, "uri": f"{uri}?region=r", "offset": 0, "size": 9, "version": version})


def test_a_replaced_object_of_the_same_size_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is predicted already; another one is read as it is now."""
    output, conditions = tmp_path / "a.csv", {"model": "m"}

    def start(*versions: str) -> PredictionJob:
        return start_job(output, [stored(number, version) for number, version in enumerate(versions)], conditions)

    def go_on(job: PredictionJob) -> None:
        run_job(job, cast("Predictor", None), "127.0.0.1:1", reporter=SilentReporter())

    def read_model(*_: object, boxes: bool) -> None:
        raise InterruptedError("it would begin")

    monkeypatch.setattr(cluster_predict, "_read_model", read_model)
    job = start("v1", "v1", "v1")
    commit(job.work, "a", [0])
    rows = [{"id": n, "prediction": {"path": stored(n, "").name}, "state": stored(n, "v1").state} for n in (0, 1)]
    commit(job.work, "a", [0, 1])
    (job.work.chunks / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(InterruptedError):
        go_on(start("v1", "v1", "v2"))
    with pytest.raises(UserError, match=r"changed since: 1 picture has another .* \(s3://bucket/1.png\)"):
        go_on(start("v1", "v2", "v2"))
    job = start("v1", "v1", "v2")
    for name in ("a.csv", "a.csv.resume"):
        (job.work.staging / name).touch()
    record = ResumeRecord(job.work.staging / "a.csv", conditions)
    record.start()
    with record.open() as file:
        for number, version in enumerate(("v1", "v1", "v2")):
            write_picture_state(file, stored(number, "").name, stored(number, version).state)
    with publish_output(job):
        pass
    assert start("v1", "v1", "v2").is_finished
    with pytest.raises(
        UserError, match=r"changed since: 2 pictures have another .* \(s3://bucket/0.png, s3://bucket/2"
    ):
        start("v2", "v1", "v1")
    assert start("v1", "v1", "v2").is_finished


def test_changed_pictures_are_named(tmp_path: Path) -> None:
    from bestiary.inference.resume_record import check_unchanged, read_file_state

    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"1")
    before = read_file_state(picture)
    check_unchanged(tmp_path / "a.csv", [(str(picture), before, read_file_state(picture))])
    picture.write_bytes(b"12")
    with pytest.raises(UserError, match="changed since: 1 picture has another size"):
        check_unchanged(tmp_path / "a.csv", [(str(picture), before, read_file_state(picture))])
    check_unchanged(tmp_path / "a.csv", [(str(picture), before, None)])  # removed: nothing to compare with
