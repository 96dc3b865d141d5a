"""Outputs by URI: written on this computer first, and visible under their name only when they are complete.

A bucket shows an object when its upload is complete; other file systems get a temporary name that is then changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bestiary.cluster.file_systems import EXTRA, file_errors, find_endpoint, open_file_system, resolve, s3_client
from bestiary.cluster.listing import find_file
from bestiary.cluster.uris import FILE, GS, S3, Location, parse_uri
from bestiary.errors import InputError, MachineError, SourceError, UserError, import_optional
from bestiary.files import atomic_path, cache_folder, read_json, write_json
from bestiary.inference.resume_record import SUFFIX as RECORD_SUFFIX
from bestiary.locks import is_output_lock

UPLOADS = "uploads"  # folder in the cache folder
NOTE = "uploaded.json"  # beside the local path: the state of the output as it was uploaded
ATTEMPTS = 5  # to write a mark, while others are removed
WAIT_SECONDS = 0.2
Holder = dict[str, Any]


def local_path(uri: str) -> Path:
    """Return the path on this computer that is written before it is uploaded; of file:// that of the file itself.

    Another endpoint has another path. Raises InputError for a URI that is not valid or names a folder, MachineError for
    an endpoint that is no address.
    """
    location = parse_uri(uri)
    if not location.name or location.key.endswith("/"):
        raise InputError(f"{location.uri} is a folder; expected a name with a suffix, such as predictions.parquet.")
    if location.scheme == FILE:
        return Path(location.path)
    names = f"{find_endpoint(location)}\n{location.uri}".encode()
    return cache_folder() / UPLOADS / hashlib.sha256(names).hexdigest()[:16] / location.name


@contextmanager
def open_output(uri: str, *, resume: bool = False) -> Iterator[Path]:
    """Give the `local_path` to write, which is uploaded to the URI and then removed if the `with` block succeeds.

    What is left are the record of its pictures, and a note by which `is_uploaded` knows it again. If the block fails,
    the path stays, for `resume`. Raises UserError if the output exists, if another job writes it, or if an
    interrupted job has left its part here, unless `resume`; SourceError if the bucket does not exist or may not be
    written, MachineError if nothing answers. A file of this computer is only named: whoever writes it locks it.
    """
    path, location = local_path(uri), parse_uri(uri)
    if location.scheme == FILE:
        yield path
        return
    location = resolve(location)
    with write_lock(location):
        _require_free(location, path, resume=resume)
        yield path
        write_json(path.parent / NOTE, {"state": upload(path, location)})
        _keep_record(path)


def is_uploaded(uri: str) -> bool:
    """Return whether there is an output at a URI, and it is as this computer uploaded it.

    Raises SourceError if there is no such bucket, MachineError if nothing answers.
    """
    path, location = local_path(uri), parse_uri(uri)
    if location.scheme == FILE or not (note := path.parent / NOTE).exists():
        return False
    state = _read_state(resolve(location))
    return state is not None and state == read_json(note).get("state")


def _read_state(location: Location) -> list[int | str] | None:
    """Return size and version of the file of a resolved location, None if there is none."""
    file = find_file(location)
    return None if file is None else [file.size, file.version]


def _keep_record(path: Path) -> None:
    """Remove what is in the folder of a finished output but for the note and the record of its pictures."""
    for entry in path.parent.iterdir():
        if entry.name in (NOTE, path.name + RECORD_SUFFIX):
            continue
        shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)


def upload(path: Path, location: Location) -> list[int | str] | None:
    """Copy a file to a resolved location, where it appears in one step; raises as `open_output` does.

    Returns size and version of the copy, None for a file of this computer.
    """
    fs = import_optional("pyarrow.fs", extra=EXTRA)
    if location.scheme == FILE:
        with atomic_path(Path(location.path)) as temporary:
            shutil.copyfile(path, temporary)
        return None
    target = location
    if location.scheme not in (S3, GS):
        folder = location.key.removesuffix(location.name)
        target = location.with_key(f"{folder}.{location.name}.{secrets.token_hex(4)}.part")
    with file_errors(location):
        fs.copy_files(str(path), target.path, fs.LocalFileSystem(), open_file_system(location))
        if target is not location:
            open_file_system(location).move(target.path, location.path)
    state = _read_state(location)
    if state is None or state[0] != path.stat().st_size:
        size = "nothing" if state is None else f"{state[0]:,} bytes"
        raise MachineError(
            f"{location.uri} has {size} after an upload of {path.stat().st_size:,} bytes. Remove it, and run again with"
            " --resume."
        )
    return state


@contextmanager
def write_lock(location: Location) -> Iterator[None]:
    """Mark a resolved location as being written, for jobs on any computer; raises UserError if another job writes it.

    The mark `.NAME.lock` lies beside it. That of a process of this computer which no longer runs counts for nothing.
    """
    folder = location.key.removesuffix(location.name)
    mark = location.with_key(f"{folder}.{location.name}.lock")
    holder = {"token": secrets.token_hex(8), "process": os.getpid(), "host": socket.gethostname()}
    holder["since"] = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    take, release = (_take_object, _release_object) if location.scheme == S3 else (_take_claim, _release_claim)
    for _ in range(ATTEMPTS):
        if (before := take(mark, holder)) is None:
            break
        if before and not _has_ended(before):
            release(mark, holder)
            raise _being_written_error(location, mark, before)
        if before:
            release(mark, before)
        else:
            time.sleep(WAIT_SECONDS)  # it is being written or removed
    else:
        release(mark, holder)
        raise _being_written_error(location, mark, {})
    try:
        yield
    finally:
        with contextlib.suppress(UserError):  # nothing answers any more: the error of the work says so
            release(mark, holder)


def _require_free(location: Location, path: Path, *, resume: bool) -> None:
    """Raise UserError if the output exists, or if an interrupted job has left its part on this computer."""
    if find_file(location) is not None:
        raise UserError(f"{location.uri} exists already. Choose another name, or remove it.")
    if (path.parent / NOTE).exists():  # of an output that was removed since
        shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not resume and any(not is_output_lock(file) for file in path.parent.iterdir()):
        raise UserError(
            f"{path.parent} has what an interrupted job wrote for {location.uri}. Add --resume to go on with it, or"
            " remove that folder."
        )


def _being_written_error(location: Location, mark: Location, holder: Holder) -> UserError:
    process = f"process {holder['process']} on {holder['host']}, since {holder['since']}" if holder else "another job"
    return UserError(
        f"{location.uri} is being written by {process}. Wait until it has finished, or choose another name. If that job"
        f" no longer runs, remove {mark.uri}."
    )


def _take_object(mark: Location, holder: Holder) -> Holder | None:
    """Create the mark by a conditional write; return the holder of one that exists already."""
    client = s3_client(mark)
    exceptions = import_optional("botocore.exceptions", extra=EXTRA)
    with file_errors(mark):
        try:
            client.put_object(Bucket=mark.host, Key=mark.key, Body=json.dumps(holder).encode(), IfNoneMatch="*")
        except exceptions.ClientError as error:
            if error.response.get("Error", {}).get("Code") not in ("PreconditionFailed", "ConditionalRequestConflict"):
                raise
    written = _read_holder(mark)  # a server that knows no conditions keeps the last of two
    return None if written.get("token") == holder["token"] else written


def _release_object(mark: Location, holder: Holder) -> None:
    with file_errors(mark):
        if _read_holder(mark).get("token") == holder["token"]:
            s3_client(mark).delete_object(Bucket=mark.host, Key=mark.key)


def _take_claim(mark: Location, holder: Holder) -> Holder | None:
    """Write a claim into the folder of the mark; return the holder of another claim. Of two at once, both see another.

    Needs no conditional writes, but that a file which was written is listed at once. Empty values: the folder has just
    been removed with the claim in it, by who had the mark.
    """
    fs = import_optional("pyarrow.fs", extra=EXTRA)
    file_system = open_file_system(mark)
    # GCS has no folders: a name with a slash is enough, and what is not there is the bucket.
    with file_errors(mark), contextlib.suppress(*([] if mark.scheme == GS else [FileNotFoundError])):
        if mark.scheme != GS:
            file_system.create_dir(mark.path, recursive=True)
        with file_system.open_output_stream(f"{mark.path}/{holder['token']}") as out:
            out.write(json.dumps(holder).encode())
        entries = file_system.get_file_info(fs.FileSelector(mark.path))
        claims = {entry.base_name for entry in entries if entry.type == fs.FileType.File}
        if others := sorted(claims - {holder["token"]}):
            return _read_holder(mark.with_key(f"{mark.key}/{others[0]}"))
        if holder["token"] in claims:
            return None
    return {}


def _release_claim(mark: Location, holder: Holder) -> None:
    """Remove a claim; the last one with the folder, in one step: who writes a claim meanwhile sees that it is gone."""
    fs = import_optional("pyarrow.fs", extra=EXTRA)
    file_system = open_file_system(mark)
    with file_errors(mark), contextlib.suppress(FileNotFoundError):
        entries = file_system.get_file_info(fs.FileSelector(mark.path))
        if mark.scheme != GS and [entry.base_name for entry in entries] == [holder["token"]]:
            file_system.delete_dir(mark.path)
        else:
            file_system.delete_file(f"{mark.path}/{holder['token']}")


def _read_holder(mark: Location) -> Holder:
    """Return who wrote a mark; empty values if it has just been removed or is being written."""
    try:
        with file_errors(mark), open_file_system(mark).open_input_stream(mark.path) as stream:
            holder = json.loads(stream.read())
    except (SourceError, ValueError):
        return {}
    has_fields = isinstance(holder, dict) and {"token", "process", "host", "since"} <= holder.keys()
    return holder if has_fields else {}


def _has_ended(holder: Holder) -> bool:
    """Return whether the holder is a process of this computer that no longer runs."""
    if holder.get("host") != socket.gethostname() or os.name == "nt":
        return False
    try:
        os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError):
        return False
    return False
