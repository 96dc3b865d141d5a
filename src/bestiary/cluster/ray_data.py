"""Ray Data for jobs on rows: a source that reads chunks of a list, and a sink whose chunks a checkpoint commits.

Imports Ray, so it is imported where a job runs and on its workers only.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from gc import collect as collect_garbage
from pathlib import Path
from typing import Any

import pyarrow
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.checkpoint import CheckpointConfig
from ray.data.checkpoint.checkpoint_filter import CheckpointManager
from ray.data.datasource import BlockBasedFileDatasink
from ray.data.exceptions import ExecutionTimeoutError

from bestiary.cluster.picture_list import ListChunk, read_list_chunk
from bestiary.cluster.quiet import quiet_data
from bestiary.cluster.work_folder import ID, Done, WorkFolder

PICTURE, ROW = "picture", "row"  # columns: a line of the list, and the JSON object of its row
MAX_RETRIES = 8  # of a chunk whose worker died: more often, it is the chunks that kill workers
HELPERS_PER_WORKER = 1 / 16  # processes that read the list, and that write: both take a hundredth of a worker's time


class ChunkSource(Datasource):
    """The rows of a list that have no committed row yet: a block for each chunk."""

    def __init__(self, path: Path, chunks: Sequence[ListChunk], done: Done) -> None:
        """Take the chunks of a list. done: bool (ids,)."""
        super().__init__()
        self._path, self._done = str(path), done
        self._chunks = [chunk for chunk in chunks if not done[chunk.start : chunk.stop].all()]

    @property
    def count(self) -> int:
        """The number of chunks with something left to do."""
        return len(self._chunks)

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: it is not known, and small."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Return a task for each chunk."""
        return [self._make_task(chunk) for chunk in self._chunks]

    def _make_task(self, chunk: ListChunk) -> ReadTask:
        path, left = self._path, (~self._done[chunk.start : chunk.stop]).nonzero()[0].tolist()
        metadata = BlockMetadata(num_rows=len(left), size_bytes=None, input_files=None, exec_stats=None)

        def read() -> list[pyarrow.Table]:
            lines = read_list_chunk(path, chunk)
            return [pyarrow.table({ID: [chunk.start + row for row in left], PICTURE: [lines[row] for row in left]})]

        return ReadTask(read, metadata)


class RowSink(BlockBasedFileDatasink):
    """Writes the rows of a block as JSON lines, in the order of their ids."""

    def __init__(self, folder: Path) -> None:
        """Take the folder of the chunks."""
        super().__init__(str(folder), file_format="jsonl")

    def write_block_to_file(self, block: Any, file: Any) -> None:
        """Write a chunk."""
        table = block.to_arrow().sort_by(ID)
        file.write("".join(f"{row}\n" for row in table[ROW].to_pylist()).encode())


class NothingToFilter(CheckpointManager):
    """Tells Ray that the source has no rows with a checkpoint: `ChunkSource` leaves them out.

    Ray's own filter is an actor that takes a processor as long as the job runs, beside the tasks that read: where there
    are one or two, none is left for the workers and the job waits for ever (Ray 2.60).
    """

    def load_checkpoint(self, data_file_dir: Any = None, data_file_filesystem: Any = None) -> tuple[None, int]:
        """Return no ids."""
        return None, 0


def run_rows(
    work: WorkFolder,
    chunks: Sequence[ListChunk],
    done: Done,
    worker: type,
    arguments: Sequence[Any],
    *,
    workers: int,
) -> None:
    """Let workers make the rows that are not done: tables of `ID` and `PICTURE` in, tables of `ID` and `ROW` out.

    worker: a class that is made once in each of at most `workers` processes with the arguments, and called with tables.
    Raises RayTaskError with what a worker raises as its cause, ExecutionTimeoutError if nothing has moved for the
    time that Ray Data's context sets, which is half an hour. All processors are free again after these.
    """
    if ray.util.client.ray.is_connected():  # Ray Data cannot work through ray:// (2.60): a process of the cluster does
        shared = WorkFolder(work.output.absolute())
        task = ray.remote(num_cpus=0, max_retries=0)(run_rows)
        ray.get(task.remote(shared, chunks, done, worker, arguments, workers=workers))
        return
    source = ChunkSource(work.pictures, chunks, done)
    if not source.count:
        return
    handled = sys.exception()  # by the caller, whose traceback is none of this job
    try:
        with _job_settings(work):
            _map_rows(source, RowSink(work.chunks), worker, arguments, workers)
    except (ray.exceptions.RayError, ExecutionTimeoutError, KeyboardInterrupt) as error:
        _release_workers(error, handled)
        raise


def _map_rows(source: ChunkSource, sink: RowSink, worker: type, arguments: Sequence[Any], workers: int) -> None:
    helpers = max(1, int(workers * HELPERS_PER_WORKER))
    # Tasks that read would wait for ever where workers have all processors (Ray 2.60).
    rows = ray.data.read_datasource(source, override_num_blocks=source.count, num_cpus=0, concurrency=helpers)
    rows = rows.map_batches(
        worker,
        fn_constructor_args=tuple(arguments),
        batch_size=None,  # a block, so that a chunk is computed and committed as a whole
        batch_format="pyarrow",
        num_cpus=1,
        compute=ActorPoolStrategy(min_size=1, initial_size=min(workers, source.count), max_size=workers),
        max_task_retries=MAX_RETRIES,
    )
    rows.write_datasink(sink, ray_remote_args={"num_cpus": 0}, concurrency=helpers)


def _release_workers(error: BaseException, handled: BaseException | None) -> None:
    """Let the workers of a failed job end, by forgetting where the error and those before it came from.

    Ray Data 2.60 ends workers when nothing refers to them any more, and frames in the tracebacks do, also in cycles.
    Until then they keep their processors, so that the next job on this connection could wait for ever.
    handled: the exception that the caller was handling when the job began, which keeps its traceback.
    """
    errors: list[BaseException] = [error]
    for raised in errors:
        raised.__traceback__ = None
        causes = raised.__cause__, raised.__context__
        errors += [cause for cause in causes if cause is not None and cause not in (handled, *errors)]
    collect_garbage()


@contextlib.contextmanager
def _job_settings(work: WorkFolder) -> Iterator[None]:
    """Set Ray Data's context for a job, and keep what it says out of the command's output."""
    with quiet_data():
        context = DataContext.get_current().copy()
        context.max_errored_blocks = 0
        context.raise_original_map_exception = True  # or what a worker raises arrives as a text within another error
        context.checkpoint_config = CheckpointConfig(
            id_column=ID,
            checkpoint_path=str(work.checkpoint),
            delete_checkpoint_on_success=False,
            checkpoint_manager_cls=NothingToFilter,
        )
        with DataContext.current(context):
            yield


def make_rows(table: pyarrow.Table, compute: Callable[[list[int], list[str]], list[dict[str, Any]]]) -> pyarrow.Table:
    """Return the table of rows for a table of a chunk; compute: takes ids, ascending, and lines of the list."""
    table = table.sort_by(ID)
    ids, lines = table[ID].to_pylist(), table[PICTURE].to_pylist()
    rows = compute(ids, lines)
    return pyarrow.table(
        {ID: ids, ROW: [json.dumps({ID: number, **row}) for number, row in zip(ids, rows, strict=True)]}
    )
