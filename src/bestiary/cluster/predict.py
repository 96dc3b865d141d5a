"""`predict --cluster`: predictions by Ray Data, exactly one row a picture, equal to those of one process.

Workers read the pictures, and write rows into the work folder beside the output; Ray repeats what is lost with a worker
or a node. Here the rows are merged by id in constant memory. The engine is the one that `predict` would take here, and
each picture has the place in its batch that it would have in one process, so that the last digit is the same on
processors of one kind.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from bestiary.box import Crop, PictureFile, path_of, pop_box
from bestiary.cluster.chunks import choose_chunk_rows
from bestiary.cluster.connection import (
    START_FAILURE,
    check_address,
    connect,
    describe_ray_error,
    import_ray,
    require_shared,
)
from bestiary.cluster.picture_list import ListSummary, iter_list_chunks, parse_picture, write_picture_list
from bestiary.cluster.work_folder import ID, WorkFolder
from bestiary.errors import BestiaryError, InterruptedRun, MachineError
from bestiary.files import cache_folder
from bestiary.inference.bundle import BUNDLE_NAME
from bestiary.inference.predictor import EngineName, Prediction, Predictor
from bestiary.inference.proof import PROOF_NAME
from bestiary.inference.resume_record import SUFFIX as RECORD_SUFFIX
from bestiary.inference.resume_record import PictureState, ResumeRecord, check_unchanged, read_picture_state
from bestiary.progress import Advance, Reporter

ROW_MULTIPLE = 8  # of the rows of a chunk
SAMPLED_PICTURES = 32  # that are looked for on every node
POLL_SECONDS = 2.0
NOT_RESUMABLE = (
    "Nothing is kept. The command `bestiary predict … --out FILE --cluster …` goes on after an interruption."
)
RAY_ADVICE = "\nFailed to apply UDF transform after "


@dataclass(frozen=True)
class PredictionJob:
    """A job, begun or resumed.

    count: of its pictures; is_finished: whether its output is complete already; is_resumable: whether it can go on.
    """

    work: WorkFolder
    count: int
    is_finished: bool
    is_resumable: bool = True


def start_job(output: Path, pictures: Iterable[PictureFile], conditions: Mapping[str, Any]) -> PredictionJob:
    """List the pictures in the work folder of an output, and return the job, which goes on if it was interrupted.

    conditions: what the predictions depend on. Raises UserError as `WorkFolder.start_or_resume`, and if the output is
    complete but pictures were changed since; MachineError.
    """
    work = WorkFolder(output)
    has_job = work.path.exists()
    work.create()
    listed = work.pictures.with_suffix(".new")
    try:
        summary: ListSummary = write_picture_list(listed, pictures)
        is_finished = work.start_or_resume(conditions, listed, summary)
        if is_finished:
            states = enumerate(ResumeRecord(output, conditions).iter_states())
            check_unchanged(output, _iter_compared(work, ((number, *values) for number, values in states)))
            work.finish()  # or it was killed after the output, which comes whole
    except BaseException:
        if not has_job:
            work.remove()
        raise
    return PredictionJob(work, summary.count, is_finished)


@contextlib.contextmanager
def publish_output(job: PredictionJob) -> Iterator[None]:
    """Move what a `with` block puts together in the staging folder to the output, and finish the job.

    If it fails before any row was committed, the work folder is removed.
    """
    try:
        yield
    except BaseException:
        if not job.work.count_committed({}):
            job.work.remove()
        raise
    try:
        whole = job.work.staging / job.work.output.name
        job.work.note_output(whole if whole.exists() else job.work.output)
        for suffix in (RECORD_SUFFIX, ""):  # the output comes last, and complete
            staged = whole.with_name(f"{whole.name}{suffix}")
            if staged.exists():
                staged.replace(job.work.output.with_name(staged.name))
    except OSError as error:
        raise MachineError(f"Cannot write {job.work.output}: {error.strerror or error}.") from None
    job.work.finish()


def run_job(
    job: PredictionJob,
    predictor: Predictor,
    address: str,
    *,
    threads: int | None = None,
    boxes: bool = False,
    reporter: Reporter,
) -> None:
    """Predict on a cluster until every picture has a committed row; what has one already is not predicted again.

    threads: the most workers, None for one on each processor. boxes: whether rows have the fields of boxes. Raises
    UserError if pictures were changed since they were predicted, MachineError as `connect`, if the nodes do not share
    the folders, or if workers die again and again; InterruptedRun on Ctrl-C.
    """
    done = job.work.restore(job.count)
    if done.any():
        rows = job.work.iter_committed()
        states = ((row[ID], row["prediction"]["path"], row["state"]) for row in rows)
        check_unchanged(job.work.output, _iter_compared(job.work, states))
        reporter.info(f"The job goes on: {int(done.sum()):,} of {job.count:,} pictures are predicted.")
    if done.all():
        return
    model = _read_model(predictor, job.count, boxes=boxes)
    engine = "openvino" if predictor.engine_name == "openvino" else "onnxruntime"
    with connect(address, modules=("pyarrow", engine), threads=threads, reporter=reporter) as cluster:
        require_shared(cluster, [job.work.pictures, *sample_pictures(job.work.pictures, job.count)])
        workers = cluster.cpus if threads is None else min(threads, cluster.cpus)
        chunks = list(iter_list_chunks(job.work.pictures, choose_chunk_rows(job.count, workers, ROW_MULTIPLE)))
        with (
            reporter.progress("Predicting", job.count - int(done.sum())) as advance,
            _watch_commits(job.work, advance),
            _explain_errors(job),
        ):
            from bestiary.cluster.prediction_worker import PredictionWorker
            from bestiary.cluster.ray_data import run_rows

            run_rows(job.work, chunks, done, PredictionWorker, [model], workers=workers)


def iter_predictions(job: PredictionJob, note_state: Callable[[str, PictureState], None]) -> Iterator[Prediction]:
    """Yield the predictions in the order of the pictures.

    note_state: is called before each with its path and the state of its file when it was read. Raises IntegrityError if
    one is missing.
    """
    for row in job.work.iter_rows(job.count):
        values = row["prediction"]
        note_state(values["path"], row["state"])
        box = pop_box(values)
        yield Prediction(**{"labels": None, **values, "box": box})


def _read_model(predictor: Predictor, count: int, *, boxes: bool) -> Any:
    """Return what is sent to the workers: the files that the predictor was loaded from."""
    from bestiary.cluster.prediction_worker import SentModel

    graph = Path(predictor.bundle.graph)
    names = [BUNDLE_NAME, graph.name, graph.with_suffix(".bin").name, PROOF_NAME]
    files = {name: (predictor.run / name).read_bytes() for name in names if (predictor.run / name).exists()}
    engine = cast(EngineName, predictor.engine_name)
    return SentModel(files, engine, predictor.bundle.max_pixels, str(Path.cwd()), count, boxes)


@contextlib.contextmanager
def predict_files(
    predictor: Predictor, files: Sequence[PictureFile], address: str, *, threads: int | None, reporter: Reporter
) -> Iterator[Iterator[Prediction]]:
    """Predict files on a cluster, and give the predictions in their order for the length of a `with` block.

    Rows are meanwhile in a folder of the cache folder. Raises as `run_job`.
    """
    check_address(address)
    parent = cache_folder() / "predictions"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as folder:
        job = replace(start_job(Path(folder) / "predictions", files, {}), is_resumable=False)
        boxes = any(isinstance(file, Crop) for file in files)
        run_job(job, predictor, address, threads=threads, boxes=boxes, reporter=reporter)
        yield iter_predictions(job, lambda path, state: None)


def sample_pictures(pictures: Path, count: int) -> list[Path]:
    """Return some pictures of a list that are on this computer, by absolute paths: the first, the last, and between.

    Folders may be mounted one by one: a node that sees the first picture need not see all. count: of the list.
    """
    positions = set(np.linspace(0, count - 1, min(count, SAMPLED_PICTURES)).round().astype(int).tolist())
    with pictures.open(encoding="utf-8") as lines:
        paths = [path_of(parse_picture(line)) for position, line in enumerate(lines) if position in positions]
    return [path.absolute() for path in dict.fromkeys(paths) if path.exists()]


def _iter_compared(
    work: WorkFolder, states: Iterable[tuple[int, str, PictureState]]
) -> Iterator[tuple[str, PictureState, PictureState]]:
    """Yield path, state and state now of pictures, for `check_unchanged`, in constant memory.

    states: with the ids, in ascending order. What is stored elsewhere has now the state of the list.
    """
    with work.pictures.open(encoding="utf-8") as lines:
        listed, position, line = enumerate(lines), -1, ""
        for number, path, state in states:
            while position < number:
                position, line = next(listed, (number, ""))
            if line:
                yield path, state, read_picture_state(parse_picture(line))


@contextlib.contextmanager
def _watch_commits(work: WorkFolder, advance: Advance) -> Iterator[None]:
    """Report the rows that are committed from now on, as they are."""
    counted = dict[str, int]()
    total = work.count_committed(counted)
    ended = threading.Event()

    def count() -> None:
        nonlocal total
        now = work.count_committed(counted)
        advance(now - total)
        total = now

    def watch() -> None:
        while not ended.wait(POLL_SECONDS):
            count()

    watcher = threading.Thread(target=watch, daemon=True, name="bestiary-committed")
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        count()


@contextlib.contextmanager
def _explain_errors(job: PredictionJob) -> Iterator[None]:
    """Raise the errors of workers as they are, and those of the cluster with the way on."""
    ray, output = import_ray(), job.work.output
    from ray.data.exceptions import ExecutionTimeoutError

    way = "What was predicted is kept: the same command goes on." if job.is_resumable else NOT_RESUMABLE
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRun(None, message=f"Interrupted. {way}") from None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BestiaryError):
            raise _remove_advice(error.cause) from None
        if isinstance(error.cause, OSError):
            raise MachineError(f"A worker cannot write beside {output}: {error.cause}. {way}") from None
        if isinstance(
            error.cause, ExecutionTimeoutError
        ):  # through ray://, where a process of the cluster runs the job
            raise _idle_error(way) from None
        raise
    except ExecutionTimeoutError:
        raise _idle_error(way) from None
    except ray.exceptions.RayError as error:
        reason = describe_ray_error(error)
        if START_FAILURE in str(error):
            raise MachineError(f"A worker of the cluster cannot start: {reason}. {way}") from None
        raise MachineError(
            f"Workers of the cluster died again and again ({reason}). A picture may need more memory than a node has:"
            f" see the logs of Ray. {way}"
        ) from None


def _idle_error(way: str) -> MachineError:
    """Return the error of a cluster that has not gone on for Ray Data's longest time; way: how the user can go on."""
    return MachineError(
        "The workers of the cluster have done nothing for too long. Other jobs may have the cluster's processors: see"
        f" `ray status`. {way}"
    )


def _remove_advice(error: BestiaryError) -> BestiaryError:
    """Return an error without what Ray Data 2.60 adds to its message, about its own settings for attempts."""
    text, *others = error.args
    error.args = (str(text).partition(RAY_ADVICE)[0], *others)
    return error
