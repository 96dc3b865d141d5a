"""`predict` on URIs: pictures of a bucket, outputs in one, in this process and on a cluster."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pyarrow = pytest.importorskip("pyarrow")

from bestiary.cluster import file_systems  # noqa: E402
from bestiary.cluster.remote_output import local_path  # noqa: E402
from commands import Call  # noqa: E402
from ray_cluster import start_local  # noqa: E402
from s3_server import KEY, SECRET, S3Server, start_s3  # noqa: E402
from tiny_model import coloured, write_run  # noqa: E402

COLOURS = ("blue", "green", "red", "grey")
COUNT = 60


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with start_s3() as server:
        yield server


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("model") / "run")


@pytest.fixture(autouse=True)
def _no_file_system_of_another_test() -> None:
    file_systems._open_file_system.cache_clear()
    file_systems._s3_client.cache_clear()


def pictures() -> dict[str, bytes]:
    names = {f"{number:03}.png": coloured(COLOURS[number % 4], (20 + number % 7, 12)) for number in range(COUNT)}
    return names | {"030-broken.png": b"no picture"}


def put_pictures(s3: S3Server) -> str:
    bucket = s3.make_bucket()
    for name, content in pictures().items():
        s3.put(bucket, f"new/{name}", content)
    return bucket


def answers_of(content: bytes) -> dict[str, list[str]]:
    """The cells of each row by the name of its picture."""
    rows = list(csv.reader(io.StringIO(content.decode())))
    return {path.rsplit("/", 1)[-1].rsplit("=", 1)[-1]: cells for path, *cells in rows[1:]}


def without_paths(answers: dict[str, list[str]]) -> dict[str, list[str]]:
    """The cells without the error, which names the picture as the command did."""
    return {name: cells[:-1] for name, cells in answers.items()}


@pytest.fixture
def local(bestiary: Call, run: Path, tmp_path: Path) -> dict[str, list[str]]:
    """The answers for the same pictures in a folder of this computer."""
    (tmp_path / "new").mkdir()
    for name, content in pictures().items():
        (tmp_path / "new" / name).write_bytes(content)
    assert bestiary("predict", run, "new", "--out", "local.csv").code == 0
    return answers_of((tmp_path / "local.csv").read_bytes())


def test_pictures_of_a_bucket_are_predicted_as_those_of_a_folder(
    s3: S3Server, bestiary: Call, run: Path, tmp_path: Path, local: dict[str, list[str]]
) -> None:
    bucket = put_pictures(s3)
    done = bestiary("predict", run, f"s3://{bucket}/new", "--out", f"s3://{bucket}/answers/a.csv")
    assert (done.code, done.out.strip()) == (0, f"s3://{bucket}/answers/a.csv")
    content = s3.get(bucket, "answers/a.csv")
    assert without_paths(answers_of(content)) == without_paths(local)
    assert f"s3://{bucket}/new/000.png".encode() in content
    assert "030-broken.png" in answers_of(content)["030-broken.png"][-1]
    assert s3.keys(bucket)[0] == "answers/a.csv"
    assert not any("lock" in key or "part" in key for key in s3.keys(bucket))
    left = [file.name for file in local_path(f"s3://{bucket}/answers/a.csv").parent.iterdir()]
    assert sorted(left) == ["a.csv.resume", "uploaded.json"]
    for text in (done.out, done.err, content.decode()):
        assert SECRET not in text
        assert KEY not in text
    words = ("predict", run, f"s3://{bucket}/new", "--out", f"s3://{bucket}/answers/a.csv")
    again = bestiary(*words)
    assert again.code == 2
    assert "exists already" in again.err
    for options in (("--resume",), ("--cluster", "local")):  # nothing is left to do: Ray is not started
        complete = bestiary(*words, *options)
        assert (complete.code, complete.out) == (0, f"s3://{bucket}/answers/a.csv\n")
        assert f"s3://{bucket}/answers/a.csv is complete, with 61 pictures. Nothing was changed." in complete.err
    other = bestiary(*words, "--resume", "--unknown-label", "nothing")
    assert other.code == 2
    assert f"s3://{bucket}/answers/a.csv has predictions of another model or with other options: label of" in other.err
    s3.put(bucket, "new/000.png", coloured("red", (20, 12)))
    s3.put(bucket, "new/more.png", coloured("red", (20, 12)))
    for options in (("--resume",), ("--cluster", "local")):
        changed = bestiary(*words, *options)
        assert changed.code == 2
        assert (
            f"changed since: 1 picture has another size, ETag or time of modification now (s3://{bucket}" in changed.err
        )
    s3.put(bucket, "answers/a.csv", b"that of another")
    assert "exists already" in bestiary(*words, "--resume").err
    s3.client.delete_object(Bucket=bucket, Key="answers/a.csv")
    anew = bestiary(*words)
    assert anew.code == 0
    assert len(answers_of(s3.get(bucket, "answers/a.csv"))) == 62


def test_pictures_in_parquet_and_tar_are_predicted_on_the_terminal_too(s3: S3Server, bestiary: Call, run: Path) -> None:
    import pyarrow.parquet as pq

    content = io.BytesIO()
    table = {"key": ["x", "y"], "image": [{"bytes": coloured("red"), "path": "r"}, {"bytes": None, "path": "gone"}]}
    pq.write_table(pyarrow.table(table), content)
    bucket = s3.make_bucket(**{"a.parquet": content.getvalue()})
    done = bestiary("predict", run, f"s3://{bucket}/a.parquet?id_column=key", "--format", "jsonl")
    assert done.code == 0
    first, second = map(json.loads, done.out.splitlines())
    assert (first["path"], first["label"], first["error"]) == ("x", "red", None)
    assert second["path"] == "y"
    assert "has no bytes in row 1" in second["error"]


def test_a_killed_job_goes_on_and_is_uploaded_as_a_whole(
    s3: S3Server, bestiary: Call, run: Path, monkeypatch: pytest.MonkeyPatch, local: dict[str, list[str]]
) -> None:
    bucket = put_pictures(s3)
    uri = f"s3://{bucket}/a.csv"
    original = file_systems.file_errors

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bestiary.cluster.remote_output.upload", fail)
        assert bestiary("predict", run, f"s3://{bucket}/new", "--out", uri).code == 130
    assert original is file_systems.file_errors
    assert "a.csv" not in s3.keys(bucket)
    refused = bestiary("predict", run, f"s3://{bucket}/new", "--out", uri)
    assert refused.code == 2
    assert "what an interrupted job wrote" in refused.err
    first, second = (s3.get(bucket, f"new/{name}.png") for name in ("000", "028"))  # of the same size
    assert len(first) == len(second)
    s3.put(bucket, "new/000.png", second[:-1] + b"!")
    replaced = bestiary("predict", run, f"s3://{bucket}/new", "--out", uri, "--resume")
    assert replaced.code == 2
    assert f"1 picture has another size, ETag or time of modification now (s3://{bucket}/new/000.png)" in replaced.err
    s3.put(bucket, "new/000.png", first)
    assert bestiary("predict", run, f"s3://{bucket}/new", "--out", uri, "--resume").code == 0
    assert without_paths(answers_of(s3.get(bucket, "a.csv"))) == without_paths(local)


def test_what_does_not_go_with_uris_is_refused(s3: S3Server, bestiary: Call, run: Path) -> None:
    bucket = put_pictures(s3)
    for options, expected in (
        ((f"s3://{bucket}/new", "new"), "Paths and URIs are not read by one command"),
        ((f"s3://{bucket}/new", "--group", "folder"), "--group needs files of this computer"),
        ((f"s3://{bucket}/new", "--heatmaps", "maps"), "--heatmaps needs files of this computer"),
        (("new", "--out", "s3://no-such-bucket/a.csv"), "There is no bucket s3://no-such-bucket"),
        (("new", "--out", f"s3://{bucket}/"), "is a folder; expected a name"),
        (("ftp://host/a",), "has the scheme ftp://, which is not read"),
    ):
        Path("new").mkdir(exist_ok=True)
        Path("new/a.png").write_bytes(coloured("red"))
        done = bestiary("predict", run, *options)
        assert done.code == 2
        assert expected in done.err
        assert "Traceback" not in done.err


@pytest.mark.slow
def test_workers_of_a_cluster_read_the_bytes_themselves(
    s3: S3Server, bestiary: Call, run: Path, local: dict[str, list[str]]
) -> None:
    pytest.importorskip("ray")
    bucket = put_pictures(s3)
    uri = f"s3://{bucket}/answers/a.csv"
    with start_local():  # after the environment has the keys
        done = bestiary("predict", run, f"s3://{bucket}/new", "--cluster", "local", "--out", uri)
        assert (done.code, done.out.strip()) == (0, uri)
        content = s3.get(bucket, "answers/a.csv")
        assert without_paths(answers_of(content)) == without_paths(local)
        assert "030-broken.png" in answers_of(content)["030-broken.png"][-1]
        for text in (done.out, done.err, content.decode()):
            assert SECRET not in text
            assert KEY not in text
    assert [key for key in s3.keys(bucket) if not key.startswith("new/")] == ["answers/a.csv"]


@pytest.mark.parametrize("command", ["audit", "train", "embed"])
def test_commands_that_read_files_of_this_computer_refuse_uris(
    bestiary: Call, run: Path, command: str, tmp_path: Path
) -> None:
    model = [str(run)] if command == "embed" else []
    out = ["--out", tmp_path / "features.parquet"] if command == "embed" else []
    done = bestiary(command, *model, f"s3://key:{SECRET}@bucket/new", *out)
    assert done.code == 2
    assert "named by a URI (s3://…); expected a folder, an archive or a table of this computer. Copy them" in done.err
    assert "(aws s3 sync s3://BUCKET/FOLDER FOLDER), or mount" in done.err
    assert "Only the command `bestiary predict` reads URIs" in done.err
    assert SECRET not in done.err
