"""The folder of a job on a cluster, beside its output: the list of pictures, the rows of the workers, the checkpoint.

`NAME.cluster` beside `NAME` has `job.json`, what the rows depend on; `pictures.jsonl`; `chunks`, files of rows that
workers write; and `checkpoint`, in which Ray Data commits a chunk by a file of the same name that has its ids. A chunk
without a committed checkpoint may be incomplete, and is computed again. All nodes have to see the folder.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bestiary.cluster.picture_list import ListSummary
from bestiary.errors import IntegrityError, MachineError, UserError, import_optional
from bestiary.files import read_json, write_json
from bestiary.inference.resume_record import iter_differences, read_file_state
from bestiary.text import printable

SUFFIX = ".cluster"
CHUNK_SUFFIX = ".jsonl"
PENDING, COMMITTED = ".pending.parquet", ".parquet"  # ends of Ray's files for a chunk, before and after it is complete
ID = "id"

Done = NDArray[np.bool_]


@dataclass(frozen=True)
class WorkFolder:
    """The folder of the job that writes `output`."""

    output: Path

    @property
    def path(self) -> Path:
        """The folder."""
        return self.output.with_name(self.output.name + SUFFIX).absolute()

    @property
    def pictures(self) -> Path:
        """The list of pictures."""
        return self.path / "pictures.jsonl"

    @property
    def chunks(self) -> Path:
        """The folder of the workers' rows."""
        return self.path / "chunks"

    @property
    def checkpoint(self) -> Path:
        """The folder in which Ray Data commits the chunks."""
        return self.path / "checkpoint"

    @property
    def staging(self) -> Path:
        """The folder in which the output is put together."""
        return self.path / "staging"

    @property
    def _job(self) -> Path:
        return self.path / "job.json"

    def create(self) -> None:
        """Create the folder, without a job; raises MachineError if it cannot be written, UserError for its name."""
        if printable(str(self.path)) != str(self.path):
            raise UserError(
                f"The path {printable(str(self.path))} is not UTF-8, as --cluster needs. Choose another name."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self.staging, ignore_errors=True)
            self.staging.mkdir()
        except OSError as error:
            raise MachineError(f"Cannot write {self.path}: {error.strerror or error}.") from None

    def start_or_resume(self, conditions: Mapping[str, Any], listed: Path, summary: ListSummary) -> bool:
        """Begin the job or go on with it; return whether it is complete already.

        listed: a new list of its pictures, with their states now.

        Raises UserError, naming what differs, if the folder is of a job with another model, options or pictures, or if
        the output is of another command.
        """
        values = {**conditions, "number of pictures": summary.count, "list of pictures": summary.digest}
        job = read_json(self._job) if self._job.exists() else None
        if job is None and self.output.exists():
            raise UserError(f"{self.output} exists already, and no job on a cluster wrote it. Choose another name.")
        if job is not None and job.get("finished") and not self.output.exists():
            job = None  # its output was removed
        if job is None:
            self._clear()
            self.staging.mkdir()
            listed.replace(self.pictures)
            write_json(self._job, {"conditions": values, "finished": False})
            return False
        if differences := list(iter_differences(job["conditions"], values)):
            raise UserError(
                f"{self.output} is the output of a job with another model, options or pictures:"
                f" {'; '.join(differences)}. Go on with the same ones, predict into a new file, or remove {self.path}."
            )
        listed.replace(self.pictures)
        if not self.output.exists():
            return False
        if job.get("output") != read_file_state(self.output):
            ending = "" if job["finished"] else ": what this job has predicted is kept"
            raise UserError(
                f"{self.output} is not as this job wrote it: another command wrote or changed it. Remove it, or choose"
                f" another name{ending}."
            )
        return True

    def restore(self, count: int) -> Done:
        """Return which ids have a committed row, bool (count,); what was not committed is removed.

        A chunk that has both files, pending and committed, was being written again when the job was killed.
        """
        parquet = import_optional("pyarrow.parquet", extra="cluster")
        done = np.zeros(count, np.bool_)
        for pending in self.checkpoint.glob(f"*{PENDING}"):
            pending.with_name(pending.name.removesuffix(PENDING) + COMMITTED).unlink(missing_ok=True)
            pending.unlink()
        chunks = {chunk.name.removesuffix(CHUNK_SUFFIX): chunk for chunk in self.chunks.glob(f"*{CHUNK_SUFFIX}")}
        for committed in self.checkpoint.glob(f"*{COMMITTED}"):
            if chunks.pop(committed.name.removesuffix(COMMITTED), None) is None:
                committed.unlink()
            else:
                done[parquet.read_table(committed)[ID].to_numpy()] = True
        for chunk in chunks.values():
            chunk.unlink()
        return done

    def iter_rows(self, count: int) -> Iterator[dict[str, Any]]:
        """Yield the row of each id from 0 to `count` - 1 once, in order; raises IntegrityError if one is missing."""
        expected = 0
        for row in self.iter_committed():
            if row[ID] < expected:  # written twice: by a worker that was taken for lost, for example
                continue
            if row[ID] > expected:
                break
            expected += 1
            yield row
        if expected < count:
            raise IntegrityError(f"{self.chunks} has no row for picture {expected + 1:,} of {count:,}. Predict again.")

    def iter_committed(self) -> Iterator[dict[str, Any]]:
        """Yield the committed rows in the order of their ids.

        Chunks are opened when their first id comes, so that few are open at a time.
        """
        waiting = sorted(self._iter_first_ids(), reverse=True)
        heads: list[tuple[int, int, dict[str, Any], Iterator[dict[str, Any]]]] = []
        while waiting or heads:
            while waiting and (not heads or waiting[-1][0] <= heads[0][0]):
                _, chunk = waiting.pop()
                _push(heads, len(waiting), _read_rows(chunk))
            _, number, row, rows = heapq.heappop(heads)
            yield row
            _push(heads, number, rows)

    def count_committed(self, counted: dict[str, int]) -> int:
        """Return how many rows are committed; counted: what is known by the name of the chunk, and is added to."""
        parquet = import_optional("pyarrow.parquet", extra="cluster")
        for path in self.checkpoint.glob(f"*{COMMITTED}"):
            if path.name not in counted and not path.name.endswith(PENDING):
                with contextlib.suppress(OSError):
                    counted[path.name] = parquet.read_metadata(path).num_rows
        return sum(counted.values())

    def note_output(self, file: Path) -> None:
        """Record the output as it will be when it is moved to its place: another command may write one meanwhile."""
        write_json(self._job, {**read_json(self._job), "output": read_file_state(file)})

    def finish(self) -> None:
        """Record that the output is complete, and remove the rows."""
        write_json(self._job, {**read_json(self._job), "finished": True})
        self._clear()

    def remove(self) -> None:
        """Remove the folder of a job that could not begin."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _clear(self) -> None:
        for folder in (self.chunks, self.checkpoint, self.staging):
            shutil.rmtree(folder, ignore_errors=True)
        self.pictures.unlink(missing_ok=True)

    def _iter_first_ids(self) -> Iterator[tuple[int, Path]]:
        """Yield the lowest id of each chunk, and the chunk."""
        parquet = import_optional("pyarrow.parquet", extra="cluster")
        for committed in self.checkpoint.glob(f"*{COMMITTED}"):
            metadata = parquet.read_metadata(committed)
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            first = min(group.column(0).statistics.min for group in groups)
            yield first, self.chunks / (committed.name.removesuffix(COMMITTED) + CHUNK_SUFFIX)


def _push(
    heads: list[tuple[int, int, dict[str, Any], Iterator[dict[str, Any]]]], number: int, rows: Iterator[dict[str, Any]]
) -> None:
    """Add the next row of a chunk, which has its own number among the heads, unless it is at its end."""
    if (row := next(rows, None)) is not None:
        heapq.heappush(heads, (row[ID], number, row, rows))


def _read_rows(chunk: Path) -> Iterator[dict[str, Any]]:
    with chunk.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
