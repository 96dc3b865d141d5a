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

from bestiary.cluster.file_systems import EXTRA, file_errors, open_file_system, resolve, s3_client
from bestiary.cluster.listing import find_file
from bestiary.cluster.uris import FILE, GS, S3, Location, parse_uri
from bestiary.errors import InputError, MachineError, SourceError, UserError, import_optional
from bestiary.files import atomic_path, cache_folder
from bestiary.locks import is_output_lock

UPLOADS = "uploads"  # folder in the cache folder
ATTEMPTS = 5  # to write a mark, while others are removed
WAIT_SECONDS = 0.2
Holder = dict[str, Any]


def local_path(uri: str) -> Path:
    """Return the path on this computer that is written before it is uploaded; of file:// that of the file itself.

    Raises InputError for a URI that is not valid or names a folder.
    """
    location = parse_uri(uri)
    if not location.name or location.key.endswith("/"):
        raise InputError(f"{location.uri} is a folder; expected a name with a suffix, such as predictions.parquet.")
    if location.scheme == FILE:
        return Path(location.path)
    return cache_folder() / UPLOADS / hashlib.sha256(location.uri.encode()).hexdigest()[:16] / location.name


@contextmanager
def open_output(uri: str, *, resume: bool = False) -> Iterator[Path]:
    """Give the `local_path` to write, which is uploaded to the URI and then removed if the `with` block succeeds.

    If it fails, the path stays, for `resume`. Raises UserError if the output exists, if another job writes it, or if an
    interrupted job has left its part here, unless `resume`; SourceError if the bucket does not exist or may not be
    written, MachineError if nothing answers. A file of this computer is only named: whoever writes it locks it.
    """
    path, location = local_path(uri), parse_uri(uri)
    if location.scheme == FILE:
        yield path
        return
    location = resolve(location)
    with write_lock(location):
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_free(location, path, resume=resume)
        yield path
        upload(path, location)
        shutil.rmtree(path.parent, ignore_errors=True)


def upload(path: Path, location: Location) -> None:
    """Copy a file to a resolved location, where it appears in one step; raises as `open_output` does."""
    fs = import_optional("pyarrow.fs", extra=EXTRA)
    if location.scheme == FILE:
        with atomic_path(Path(location.path)) as temporary:
            shutil.copyfile(path, temporary)
        return
    target = location
    if location.scheme not in (S3, GS):
        folder = location.key.removesuffix(location.name)
        target = location.with_key(f"{folder}.{location.name}.{secrets.token_hex(4)}.part")
    with file_errors(location):
        fs.copy_files(str(path), target.path, fs.LocalFileSystem(), open_file_system(location))
        if target is not location:
            open_file_system(location).move(target.path, location.path)
    if (file := find_file(location)) is None or file.size != path.stat().st_size:
        size = "nothing" if file is None else f"{file.size:,} bytes"
        raise MachineError(
            f"{location.uri} has {size} after an upload of {path.stat().st_size:,} bytes. Remove it, and run again with"
            " --resume."
        )


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

    Needs no conditional writes, but that a file which was written is listed at once.
    """
    fs = import_optional("pyarrow.fs", extra=EXTRA)
    file_system = open_file_system(mark)
    with file_errors(mark):
        file_system.create_dir(mark.path, recursive=True)
        with file_system.open_output_stream(f"{mark.path}/{holder['token']}") as out:
            out.write(json.dumps(holder).encode())
        entries = file_system.get_file_info(fs.FileSelector(mark.path))
    claims = [entry.path for entry in entries if entry.type == fs.FileType.File and entry.base_name != holder["token"]]
    return _read_holder(mark.with_key(f"{mark.key}/{Path(claims[0]).name}")) if claims else None


def _release_claim(mark: Location, holder: Holder) -> None:
    with file_errors(mark), contextlib.suppress(FileNotFoundError):
        open_file_system(mark).delete_file(f"{mark.path}/{holder['token']}")


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
