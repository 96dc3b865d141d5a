"""Pictures by URI: an S3-compatible server on this computer, parquet, tar, and outputs that appear in one step."""

from __future__ import annotations

import gc
import io
import itertools
import json
import os
import socket
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from bestiary.errors import InputError, MachineError, PictureError, SourceError, UserError
from s3_server import KEY, SECRET, S3Server, start_s3

pyarrow = pytest.importorskip("pyarrow")

from bestiary.cluster import file_systems, listing, remote_output, tar_pictures  # noqa: E402
from bestiary.cluster.remote_files import RemotePicture, RemoteSource, prefetch, read_bytes  # noqa: E402
from bestiary.cluster.uris import is_uri, parse_uri, redact_uri  # noqa: E402

RED, GREEN = (250, 5, 5), (5, 250, 5)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with start_s3() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_file_system_of_another_test() -> None:
    file_systems._open_file_system.cache_clear()
    file_systems._s3_client.cache_clear()


def png(colour: tuple[int, int, int] = RED) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(content, "PNG")
    return content.getvalue()


def tar(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, value in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(value)
            archive.addfile(header, io.BytesIO(value))
    return content.getvalue()


def parquet(columns: dict[str, Any], rows_in_a_group: int = 40) -> bytes:
    import pyarrow.parquet as pq

    content = io.BytesIO()
    pq.write_table(pyarrow.table(columns), content, row_group_size=rows_in_a_group)
    return content.getvalue()


def rows_of(*uris: str, skipped: Counter[str] | None = None) -> list[Any]:
    return list(RemoteSource(uris).iter_rows(skipped))


def ids_of(*uris: str) -> list[str]:
    return [row["id"] for row in rows_of(*uris)]


def read_all(rows: list[Any]) -> list[bytes | PictureError]:
    """The content of each row, or why it has none, read ahead as for a predictor."""
    contents: list[bytes | PictureError] = []
    for picture in prefetch(map(RemotePicture, rows)):
        try:
            contents.append(picture.read(10**6))
        except PictureError as error:
            contents.append(error)
    return contents


def contents_of(*uris: str) -> dict[str, bytes | PictureError]:
    rows = rows_of(*uris)
    return dict(zip([row["id"] for row in rows], read_all(rows), strict=True))


def message_of(*uris: str, error: type[UserError] = SourceError) -> str:
    with pytest.raises(error) as caught:
        rows_of(*uris)
    message = str(caught.value)
    assert SECRET not in message
    assert KEY not in message
    return message


# URIs


def test_uris_are_told_from_paths_and_come_back_as_they_were() -> None:
    assert is_uri("s3://bucket/new")
    assert not is_uri("s3:/bucket/new")
    assert not is_uri("C:\\new")
    for key in ("a b.jpg", "50%.jpg", "a#b?.jpg", "été/c+d.jpg", "a%20b.jpg"):
        location = parse_uri("s3://bucket/").with_key(key).with_options(region="r")
        assert parse_uri(location.full_uri) == location
        assert "region" not in location.uri


@pytest.mark.parametrize(
    "uri", ["s3://KEY:{}@bucket/a", "s3://KEY:x/{}@bucket/a", "hdfs://me:{}@host/a", "s3://{}@b/a"]
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(InputError, match=r"has credentials.*Leave them out") as caught:
        parse_uri(uri.format(SECRET))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("ftp://u:{}@host/a", r"ftp://, which is not read.*Known: file, gs, hdfs, s3"),
        ("hdsf://host/a", r'Did you mean "hdfs"'),
        ("s3://bucket/a.jpg?X-Amz-Signature={}", r"option X-Amz-Signature; known for s3://: region"),
        ("s3://bucket/a?endpoint_override=http://u:{}@host", r"credentials in endpoint_override"),
        ("s3:///a", r"names no bucket; expected s3://BUCKET"),
        ("file://tmp/a", r"three slashes"),
        ("s3://bucket/a#1.jpg", r"Write # in a name as %23"),
    ],
)
def test_uris_that_are_not_read_are_explained_without_secrets(uri: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        parse_uri(uri.format(SECRET))
    assert SECRET not in str(caught.value)
    assert SECRET not in redact_uri(uri.format(SECRET))


# Prefixes


def test_a_prefix_gives_a_row_for_each_picture_and_counts_the_rest(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    for key in ("new/b.png", "new/a b#1.png", "new/deep/c.PNG", "new/notes.txt", "new/.hidden/d.png", "new2/e.png"):
        s3.put(bucket, key, png())
    skipped = Counter[str]()
    rows = rows_of(f"s3://{bucket}/new", skipped=skipped)
    assert [row["id"] for row in rows] == [f"s3://{bucket}/new/{n}" for n in ("a%20b%231.png", "b.png", "deep/c.PNG")]
    assert dict(skipped) == {"hidden": 1, "not named like a picture": 1}
    assert {row["size"] for row in rows} == {len(png())}
    assert set(contents_of(f"s3://{bucket}/new/").values()) == {png()}
    assert ids_of(rows[0]["id"]) == [rows[0]["id"]]  # an identity is a URI
    assert len(ids_of(f"s3://{bucket}")) == 4


def test_a_prefix_is_listed_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a bucket that is too large to be held in memory: no page is asked for before it is needed."""
    asked: list[int] = []

    class Pages:
        def get_paginator(self, name: str) -> Pages:
            return self

        def paginate(self, **_: Any) -> Iterator[dict[str, Any]]:
            for page in range(1_000_000):
                asked.append(page)
                yield {"Contents": [{"Key": f"new/{page:06d}-{number:03d}.jpg", "Size": 1} for number in range(1000)]}

    def count_files() -> int:
        return sum(type(value) is listing.ListedFile for value in gc.get_objects())

    monkeypatch.setattr(listing, "s3_client", lambda location: Pages())
    files, before = listing.iter_files(parse_uri("s3://bucket/new")), count_files()
    assert next(files).location.key == "new/000000-000.jpg"
    assert asked == [0]
    assert sum(1 for _ in itertools.islice(files, 999)) == 999
    assert asked == [0]
    next(files)
    assert asked == [0, 1]
    assert count_files() <= before + 2


def test_more_than_a_page_of_a_bucket_is_listed(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE_KEYS", 3)
    bucket = s3.make_bucket(**{f"{number}.jpg": b"x" for number in range(7)})
    assert ids_of(f"s3://{bucket}") == [f"s3://{bucket}/{number}.jpg" for number in range(7)]


def test_folders_of_this_computer_are_read_by_uri_too(tmp_path: Path) -> None:
    (tmp_path / "new" / "deep").mkdir(parents=True)
    (tmp_path / "new" / "a b.png").write_bytes(png())
    (tmp_path / "new" / "deep" / "c.png").write_bytes(png(GREEN))
    (tmp_path / "new" / "loop").symlink_to(tmp_path / "new")
    uri = (tmp_path / "new").as_uri()
    assert contents_of(uri) == {f"{uri}/a%20b.png": png(), f"{uri}/deep/c.png": png(GREEN)}


def test_a_picture_that_cannot_be_read_is_its_own_error(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    for name in ("a", "b", "c"):
        s3.put(bucket, f"{name}.png", png())
    rows = rows_of(f"s3://{bucket}")
    s3.client.delete_object(Bucket=bucket, Key="b.png")
    first, second, third = read_all(rows)
    assert (first, third) == (png(), png())
    assert isinstance(second, PictureError)
    assert str(second) == f"There is nothing at s3://{bucket}/b.png. Check the spelling; names are case-sensitive."
    with pytest.raises(PictureError, match=rf"a.png has {len(png())} bytes; at most 10 are read"):
        read_bytes(rows[0], max_bytes=10)


# Parquet and tar


@pytest.mark.parametrize("is_nested", [True, False])
def test_parquet_gives_a_row_for_each_picture(s3: S3Server, is_nested: bool) -> None:
    contents = [png((number, 0, 0)) for number in range(100)]
    column = [{"bytes": content, "path": None} for content in contents] if is_nested else contents
    bucket = s3.make_bucket()
    s3.put(bucket, "data/train.parquet", parquet({"image": column, "label": list(range(100))}))
    uri = f"s3://{bucket}/data/train.parquet"
    rows = rows_of(f"s3://{bucket}/data")
    assert [row["id"] for row in rows] == [f"{uri}#row={number}" for number in range(100)]
    assert read_all(rows) == contents
    assert [read_bytes(rows[number]) for number in (99, 3, 50, 41, 0)] == [contents[n] for n in (99, 3, 50, 41, 0)]


def test_a_damaged_page_of_parquet_costs_its_rows_only(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path, contents = tmp_path / "a.parquet", [bytes([number]) * 3000 for number in range(200)]
    pages = {"use_dictionary": False, "compression": "none", "data_page_size": 30_000, "write_batch_size": 10}
    pq.write_table(pyarrow.table({"image": contents}), path, row_group_size=100, **pages)
    damaged = bytearray(path.read_bytes())
    damaged[150_000:200_000] = b"\xff" * 50_000
    path.write_bytes(damaged)
    read, failed = list[int](), list[int]()
    for number, row in enumerate(rows_of(path.as_uri())):
        try:
            content = read_bytes(row)
        except PictureError:
            failed.append(number)
        else:
            assert content == contents[number]
            read.append(number)
    assert read[:32] == list(range(32))
    assert read[-100:] == list(range(100, 200))
    assert failed
    assert sorted(read + failed) == list(range(200))


def test_columns_of_parquet_are_named_where_they_are_not_the_only_ones(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    table = {"key": ["x", "y"], "image": [png(), None], "mask": [b"m", b"n"]}
    s3.put(bucket, "a.parquet", parquet(table))
    uri = f"s3://{bucket}/a.parquet"
    assert "several columns of bytes: image, mask. Name one, as in" in message_of(uri)
    contents = contents_of(f"{uri}?bytes_column=image&id_column=key")
    assert contents["x"] == png()
    assert "has no bytes in row 1" in str(contents["y"])
    assert 'no column "label" of bytes. Columns with bytes: image, mask.' in message_of(f"{uri}?bytes_column=label")
    assert 'no column "who" of identities. Its columns: key' in message_of(f"{uri}?bytes_column=mask&id_column=who")


def test_parquet_without_pictures_is_refused(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    s3.put(bucket, "a.parquet", parquet({"name": ["x"], "label": [1]}))
    s3.put(bucket, "b.parquet", b"not parquet")
    message = message_of(f"s3://{bucket}/a.parquet")
    assert "no column of bytes: expected one of type binary, or a struct with the field bytes" in message
    assert message.endswith("Its columns: name, label.")
    assert "b.parquet cannot be read or written: ArrowInvalid" in message_of(f"s3://{bucket}/b.parquet")


def test_shards_of_webdataset_give_a_row_for_each_picture(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    first = tar({"0001.jpg": png(), "0001.cls": b"3", "0002.PNG": png(GREEN), "./.0003.jpg": b"", "4.json": b"{}"})
    s3.put(bucket, "shards/0.tar", first)
    s3.put(bucket, "shards/1.tar", tar({"0001.jpg": png(GREEN)}))
    base = f"s3://{bucket}/shards"
    assert contents_of(base) == {
        f"{base}/0.tar#member=0001.jpg": png(),
        f"{base}/0.tar#member=0002.PNG": png(GREEN),
        f"{base}/1.tar#member=0001.jpg": png(GREEN),
    }
    assert ids_of(f"{base}/1.tar") == [f"{base}/1.tar#member=0001.jpg"]


def test_a_tar_file_that_is_damaged_or_compressed_is_refused(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    s3.put(bucket, "a.tar", tar({"0001.jpg": bytes(5000)})[:3000])
    s3.put(bucket, "b.tar", b"no archive" * 100)
    s3.put(bucket, "c.tar.gz", b"\x1f\x8b")
    assert "is no tar file, or is damaged" in message_of(f"s3://{bucket}/a.tar")
    assert "is no tar file, or is damaged" in message_of(f"s3://{bucket}/b.tar")
    assert "Unpack it to .tar" in message_of(f"s3://{bucket}/c.tar.gz")


def test_members_are_listed_without_keeping_their_headers(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar({f"{number:06d}.jpg": b"x" for number in range(1_000)}))
    members = tar_pictures.iter_members(parse_uri((tmp_path / "a.tar").as_uri()))
    assert sum(1 for _ in itertools.islice(members, 900)) == 900
    assert sum(type(value) is tarfile.TarInfo for value in gc.get_objects()) <= 3
    assert sum(1 for _ in members) == 100


# What is replaced


def test_a_replaced_file_has_another_state(s3: S3Server, tmp_path: Path) -> None:
    """Of the same size: S3 lists the ETag, other file systems the time of modification."""
    bucket = s3.make_bucket(**{"new/a.png": b"one", "new/b.png": b"two", "c.tar": tar({"x.jpg": b"one"})})
    (tmp_path / "d.png").write_bytes(b"one")
    uris = [f"s3://{bucket}/new", f"s3://{bucket}/c.tar", (tmp_path / "d.png").as_uri()]

    def states() -> list[list[int | str]]:
        return [RemotePicture(row).state for row in rows_of(*uris)]

    before = states()
    assert before == states()
    assert [size for size, _ in before] == [3, 3, 3, 3]
    assert rows_of(f"s3://{bucket}/new/a.png") == rows_of(f"s3://{bucket}/new")[:1]  # as it is named does not matter
    s3.put(bucket, "new/a.png", b"ONE")
    s3.put(bucket, "c.tar", tar({"x.jpg": b"ONE"}))
    (tmp_path / "d.png").write_bytes(b"ONE")
    os.utime(tmp_path / "d.png", ns=(1, 1))
    after = states()
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True, False, False]
    assert [size for size, _ in after] == [3, 3, 3, 3]
    assert read_all(rows_of(uris[1])) == [b"ONE"]  # not by what was known of the tar file before


# What cannot be read


def test_an_input_that_is_listed_twice_is_refused(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    s3.put(bucket, "a/1.png", png())
    s3.put(bucket, "twice.tar", tar({"x.jpg": png()})[:-9216] + tar({"x.jpg": png()}))
    s3.put(bucket, "ids.parquet", parquet({"key": ["x", "y", "x"], "image": [png()] * 3}))
    base = f"s3://{bucket}"
    for pair in ((f"{base}/a", f"{base}/a/1.png"), (f"{base}/a/1.png", f"{base}/a/1.png"), (base, f"{base}/a/")):
        assert "is listed twice: it is in" in message_of(*pair, error=InputError)
    assert f"The input {base}/twice.tar#member=x.jpg is listed twice" in message_of(f"{base}/twice.tar")
    assert "The input x is listed twice" in message_of(f"{base}/ids.parquet?id_column=key")


def test_a_bucket_or_prefix_that_does_not_exist_is_named(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    s3.put(bucket, "a/notes.txt", b"x")
    s3.put(bucket, "empty/", b"")
    assert f"There is no bucket s3://no-such-bucket at {s3.url}. Check its name" in message_of("s3://no-such-bucket/a")
    assert message_of(f"s3://{bucket}/b").startswith(f"There is nothing at s3://{bucket}/b.")
    expected = f"There are no pictures at s3://{bucket}/a. Skipped: 1 not named like a picture."
    assert message_of(f"s3://{bucket}/a") == expected
    assert message_of(f"s3://{bucket}/empty").startswith(f"There is nothing at s3://{bucket}/empty.")
    assert message_of(f"s3://{bucket}/a/*.jpg").endswith("Patterns are not read in URIs: give the folder.")


@pytest.mark.parametrize("endpoint", ["minio.example:9000", "http://minio:port", "http://"])
def test_an_endpoint_that_is_no_address_is_explained(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    message = message_of("s3://bucket/a", error=MachineError)
    assert message.startswith("s3://bucket/a cannot be opened: ")
    assert endpoint in message
    assert "Expected http://HOST:PORT or https://HOST, in AWS_ENDPOINT_URL" in message


def test_a_bucket_that_may_not_be_read_is_named_with_the_way_on(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    s3.put(bucket, "a.png", png())
    rows = rows_of(f"s3://{bucket}")
    with s3.checked_rights():
        for uri in (f"s3://{bucket}", f"s3://{bucket}/a.png"):
            message = message_of(uri)
            assert f"s3://{bucket}" in message
            assert "may not be read or written" in message
            assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" in message
        with pytest.raises(PictureError, match="may not be read or written"):
            read_bytes(rows[0])
        with (
            pytest.raises(SourceError, match=r"may not be read or written.*AWS_PROFILE"),
            remote_output.open_output(f"s3://{bucket}/out.csv"),
        ):
            raise AssertionError


def test_nothing_answers_within_seconds(monkeypatch: pytest.MonkeyPatch, s3: S3Server) -> None:
    rows = rows_of(f"s3://{s3.make_bucket(**{'a.png': png()})}")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # not listening: connections are refused
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        start = time.monotonic()
        message = message_of("s3://bucket/a", error=MachineError)
        rows[0]["uri"] = f"s3://bucket/a.png?endpoint_override={url}&region=r"
        with pytest.raises(MachineError, match="Nothing answers for s3://bucket/a.png at http"):
            read_all(rows)
    assert "Nothing answers for s3://bucket/a" in message
    assert "Check the network and the endpoint (AWS_ENDPOINT_URL), then run again." in message
    assert time.monotonic() - start < 120  # on a busy machine, too


def test_an_endpoint_with_credentials_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://someone:hidden@127.0.0.1:1")
    message = message_of("s3://bucket/a", error=UserError)
    assert "AWS_ENDPOINT_URL" in message
    assert "hidden" not in message
    assert "someone" not in message


@pytest.mark.slow
def test_a_server_that_stays_silent_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_systems, "SILENT_SECONDS", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(20)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        for _ in range(2):  # boto3, which lists, then pyarrow, which reads
            with pytest.raises(MachineError, match="Nothing answers for"):
                rows_of(f"s3://bucket/a?endpoint_override={url}")
        location = parse_uri(f"s3://bucket/a?endpoint_override={url}&region=r")
        with pytest.raises(MachineError, match="Nothing answers for"):
            listing.find_file(location)
    assert time.monotonic() - start < 120  # boto3's own limits are 60 s, five times


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_hdfs_without_its_libraries_says_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HADOOP_HOME", "JAVA_HOME", "ARROW_LIBHDFS_DIR"):
        monkeypatch.setenv(name, "/nonexistent")
    message = message_of("hdfs://namenode:8020/new", error=MachineError)
    assert message.startswith("hdfs://namenode:8020/new cannot be opened: it needs Hadoop's libhdfs and Java")
    assert "CLASSPATH" in message


# Endpoints


def test_the_endpoint_of_the_environment_is_found_and_travels_with_the_rows(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.make_bucket(**{"a.png": png()})
    host = s3.url.removeprefix("http://")
    for variable, value in (("AWS_ENDPOINT_URL", s3.url), ("AWS_ENDPOINT_URL_S3", s3.url), ("", "")):
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.delenv(name, raising=False)
        if variable:
            monkeypatch.setenv(variable, value)
        options = "" if variable else f"?endpoint_override={host}&scheme=http"
        [row] = rows_of(f"s3://{bucket}/a.png{options}")
        assert row["id"] == f"s3://{bucket}/a.png"
        monkeypatch.delenv(variable or "UNSET", raising=False)  # as on a node that was started without it
        assert read_bytes(row) == png()
        assert SECRET not in json.dumps(row)
        assert KEY not in json.dumps(row)


def test_outputs_behind_two_endpoints_are_written_in_two_places(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []
    for url in ("http://127.0.0.1:9000", "http://127.0.0.1:9001", "http://127.0.0.1:9000/"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        paths.append(remote_output.local_path("s3://bucket/a.csv"))
    assert paths[0] == paths[2] != paths[1]
    assert paths[1] == remote_output.local_path("s3://bucket/a.csv?endpoint_override=http://127.0.0.1:9001")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    own = [remote_output.local_path(f"s3://bucket/a.csv{region}") for region in ("", "?region=eu-west-1")]
    assert own[0] == own[1], "the name of a bucket is that of one bucket in all regions"
    assert remote_output.local_path("gs://bucket/a.csv") != remote_output.local_path(
        "gs://bucket/a.csv?endpoint_override=127.0.0.1:9000"
    )


# Outputs


def test_an_output_appears_when_it_is_complete(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    uri = f"s3://{bucket}/answers/out.csv"
    with remote_output.open_output(uri) as path:
        path.write_text("a,b\n" * 3_000_000)  # 12 MB: several parts
        assert s3.keys(bucket) == ["answers/.out.csv.lock"]
        assert SECRET.encode() not in s3.get(bucket, "answers/.out.csv.lock")
    assert s3.keys(bucket) == ["answers/out.csv"]
    assert s3.get(bucket, "answers/out.csv") == b"a,b\n" * 3_000_000
    assert [file.name for file in path.parent.iterdir()] == ["uploaded.json"]
    assert remote_output.is_uploaded(uri)
    assert not remote_output.is_uploaded(f"s3://{bucket}/answers/other.csv")
    with pytest.raises(UserError, match=r"out.csv exists already. Choose another name"), remote_output.open_output(uri):
        raise AssertionError


def test_a_failed_job_leaves_nothing_in_the_bucket_and_can_go_on(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    uri = f"s3://{bucket}/out.csv"
    with pytest.raises(ZeroDivisionError), remote_output.open_output(uri) as path:
        path.write_text("half")
        raise ZeroDivisionError
    assert s3.keys(bucket) == []
    with (
        pytest.raises(UserError, match=r"has what an interrupted job wrote for .* Add --resume to go on"),
        remote_output.open_output(uri),
    ):
        raise AssertionError
    with remote_output.open_output(uri, resume=True) as path:
        assert path.read_text() == "half"
        path.write_text("whole")
    assert s3.get(bucket, "out.csv") == b"whole"


def test_an_output_that_another_job_writes_is_refused(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    uri = f"s3://{bucket}/out.csv"
    expected = rf"out.csv is being written by process \d+ on .*remove s3://{bucket}/.out.csv.lock"
    with remote_output.open_output(uri) as path:
        with pytest.raises(UserError, match=expected), remote_output.open_output(uri):
            raise AssertionError
        path.write_text("mine")
    assert s3.keys(bucket) == ["out.csv"]
    other = {"token": "t", "process": 1, "host": "another-computer", "since": "2026-11-28 12:00:00 UTC"}
    s3.put(bucket, ".b.csv.lock", json.dumps(other).encode())
    with pytest.raises(UserError, match="process 1 on another-computer, since 2026"):
        remote_output.open_output(f"s3://{bucket}/b.csv").__enter__()
    assert ".b.csv.lock" in s3.keys(bucket)


def test_the_mark_of_a_killed_process_of_this_computer_counts_for_nothing(s3: S3Server) -> None:
    bucket = s3.make_bucket()
    ended = {"token": "t", "process": 2**22 + 1, "host": socket.gethostname(), "since": "before"}
    s3.put(bucket, ".out.csv.lock", json.dumps(ended).encode())
    with remote_output.open_output(f"s3://{bucket}/out.csv") as path:
        path.write_text("new")
    assert s3.keys(bucket) == ["out.csv"]


def test_file_systems_without_conditional_writes_are_locked_by_claims(tmp_path: Path) -> None:
    """HDFS and GCS have these; a folder of this computer is locked in the same way."""
    location = parse_uri((tmp_path / "out.csv").as_uri())
    with remote_output.write_lock(location):
        with pytest.raises(UserError, match=r"out.csv is being written by process \d+"):
            remote_output.write_lock(location).__enter__()
        assert len(list((tmp_path / ".out.csv.lock").iterdir())) == 1
    ended = {"token": "t", "process": 2**22 + 1, "host": socket.gethostname(), "since": "before"}
    (tmp_path / ".out.csv.lock").mkdir()
    (tmp_path / ".out.csv.lock" / "t").write_text(json.dumps(ended))
    with remote_output.write_lock(location):
        pass
    assert list(tmp_path.iterdir()) == []  # the folder of the marks neither
    folder = parse_uri((tmp_path / ".out.csv.lock").as_uri())
    mine, other = ({**ended, "token": token, "process": os.getpid()} for token in "ab")
    assert remote_output._take_claim(folder, mine) is None
    assert (remote_output._take_claim(folder, other) or {}).get("token") == "a"
    remote_output._release_claim(folder, mine)  # another claim is there: the folder stays
    assert [file.name for file in (tmp_path / ".out.csv.lock").iterdir()] == ["b"]
    remote_output._release_claim(folder, other)
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_that_is_not_there_is_no_mark_that_was_just_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_output_stream(path: str) -> None:
        raise FileNotFoundError(path)

    stand_in = SimpleNamespace(open_output_stream=open_output_stream)
    monkeypatch.setattr(remote_output, "open_file_system", lambda _: stand_in)
    with pytest.raises(SourceError, match="gs://missing"), remote_output.write_lock(parse_uri("gs://missing/a.csv")):
        raise AssertionError


def test_an_output_of_this_computer_is_its_own_path(tmp_path: Path) -> None:
    uri = (tmp_path / "a b.csv").as_uri()
    with remote_output.open_output(uri) as path:
        path.write_text("new")
    assert path == tmp_path / "a b.csv"
    assert [file.name for file in tmp_path.iterdir()] == ["a b.csv"]


def test_an_output_needs_a_name_and_a_bucket(s3: S3Server) -> None:
    with pytest.raises(InputError, match="is a folder; expected a name"):
        remote_output.open_output(f"s3://{s3.make_bucket()}/").__enter__()
    with pytest.raises(SourceError, match="There is no bucket s3://no-such-bucket"):
        remote_output.open_output("s3://no-such-bucket/out.csv").__enter__()
