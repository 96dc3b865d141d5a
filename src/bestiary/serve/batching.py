"""Dynamic batching: pictures of concurrent requests are decoded in threads and predicted in batches.

A batch does not wait to fill: while one is computed the next one gathers. A single request is predicted at once, and
batches grow with the load.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from bestiary.array_types import Pixels
from bestiary.errors import PictureError
from bestiary.inference.predictor import Prediction, Predictor
from bestiary.preprocess import Preprocessing

MAX_BATCH_PICTURES = 16

Picture = bytes | Pixels
Outcome = Prediction | PictureError


class QueueFullError(Exception):
    """The request queue is full; `seconds` is when to retry."""

    def __init__(self, seconds: int) -> None:
        """Keep the seconds."""
        super().__init__(f"The request queue is full. Retry after {seconds} s.")
        self.seconds = seconds


@dataclass
class _QueuedPicture:
    picture: Picture
    outcome: Future[Outcome] = field(default_factory=Future)


class Batcher:
    """Predicts pictures in batches in one thread; its queue is bounded."""

    def __init__(
        self, predictor: Predictor, preprocess: Preprocessing, *, max_waiting: int, on_batch: Callable[[int], object]
    ) -> None:
        """Start the threads. `on_batch` is called with the size of each batch."""
        self._predictor, self._preprocess = predictor, preprocess
        self._max_waiting, self._on_batch = max_waiting, on_batch
        self._lock, self._waiting, self._seconds_each = threading.Lock(), 0, 0.05
        self._decoded: queue.SimpleQueue[tuple[_QueuedPicture, Pixels] | None] = queue.SimpleQueue()
        self._decoders = ThreadPoolExecutor(predictor.threads, thread_name_prefix="bestiary-decode")
        self._thread = threading.Thread(target=self._run, name="bestiary-predict", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many pictures are accepted and not yet answered."""
        return self._waiting

    async def predict(self, pictures: Sequence[Picture]) -> list[Outcome]:
        """Return a prediction for each picture, or why it cannot be read.

        Raises QueueFullError if there is no room for all of them.
        """
        jobs = [_QueuedPicture(picture) for picture in pictures]
        with self._lock:
            if self._waiting + len(jobs) > self._max_waiting:
                raise QueueFullError(max(1, round(self._waiting * self._seconds_each)))
            self._waiting += len(jobs)
        for job in jobs:
            job.outcome.add_done_callback(self._release_slot)
            self._decoders.submit(self._decode, job)
        return await asyncio.gather(*(asyncio.wrap_future(job.outcome) for job in jobs))

    def close(self) -> None:
        """Finish all accepted pictures, then stop the threads."""
        self._decoders.shutdown(wait=True)
        self._decoded.put(None)
        self._thread.join()

    def _release_slot(self, _: Future[Outcome]) -> None:
        with self._lock:
            self._waiting -= 1

    def _decode(self, job: _QueuedPicture) -> None:
        if not job.outcome.set_running_or_notify_cancel():  # the request was cancelled
            return
        try:
            self._decoded.put((job, self._preprocess.load_pixels(job.picture)))
        except PictureError as error:
            job.outcome.set_result(error)
        except BaseException as error:
            job.outcome.set_exception(error)

    def _run(self) -> None:
        while (first := self._decoded.get()) is not None:
            batch = [first]
            while len(batch) < MAX_BATCH_PICTURES and not self._decoded.empty():
                following = self._decoded.get()
                if following is None:
                    self._decoded.put(None)
                    break
                batch.append(following)
            self._predict_batch([job for job, _ in batch], [pixels for _, pixels in batch])

    def _predict_batch(self, jobs: Sequence[_QueuedPicture], images: Sequence[Pixels]) -> None:
        started = time.monotonic()
        self._on_batch(len(jobs))
        try:
            for job, prediction in zip(jobs, self._predictor.predict_many(images), strict=True):
                job.outcome.set_result(prediction)
        except Exception as error:  # the engine failed: these requests get the error, the server keeps running
            for job in jobs:
                if not job.outcome.done():
                    job.outcome.set_exception(error)
        self._seconds_each = 0.9 * self._seconds_each + 0.1 * (time.monotonic() - started) / len(jobs)
