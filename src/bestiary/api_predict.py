"""The Python interface of predictions: `predict`, as the command makes them; see `api.py`. Needs no extra."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from bestiary.box import Crop, PictureFile, StoredPicture
from bestiary.errors import InputError
from bestiary.events import Event, choose_reporter
from bestiary.inference.conformal import conformal_threshold, explain_full_set
from bestiary.inference.predict import Pictures, Predictions, list_sources, track_events
from bestiary.inference.predictor import FAST_ENGINE_MIN_PICTURES, Prediction, Predictor
from bestiary.inference.writers import add_prediction_sets, count_progress
from bestiary.machine import FeatureDevice
from bestiary.preprocess import Source
from bestiary.run_location import RunLocation, locate_run


def predict(
    run: RunLocation,
    pictures: Pictures,
    *,
    sets: float | None = None,
    group: str | None = None,
    max_pixels: int | None = None,
    device: FeatureDevice = "auto",
    cluster: str | None = None,
    threads: int | None = None,
    quiet: bool = False,
    on_event: Callable[[Event], object] | None = None,
) -> Predictions:
    """Return a prediction for each picture, in order; a picture that cannot be read has one with `error`.

    pictures: a path, a folder with all its pictures, a pattern such as `new/**/*.jpg`, bytes of a file, a Pillow image,
    uint8 pixels (height, width, 3), or a list of these; for a model of boxes, what `bestiary.read_boxes` returns.
    sets: adds conformal prediction sets with this coverage, such as 0.95. group: a rule of events, "folder",
    "regex:PATTERN" (on paths) or "time:60s" (EXIF); then `events` of the result has an answer for each. max_pixels: of
    a picture in memory; default: as in training. device: as in the command. cluster: as in the command, for files that
    all nodes see; predictions have no heatmaps then, and pass through the cache folder, which all nodes have to see
    too. For a stream, or one picture after another, `bestiary.load` keeps the model loaded. Raises RunError,
    SourceError for a folder without pictures.
    """
    reporter = choose_reporter(quiet=quiet, on_event=on_event)
    sources = list_sources(pictures, reporter)
    files = None if cluster is None else _require_files(sources, device)
    is_bulk = len(sources) >= FAST_ENGINE_MIN_PICTURES
    predictor = Predictor(
        locate_run(run),
        threads=threads,
        engine="fastest" if is_bulk else "onnxruntime",
        device=device if cluster is None else "cpu",
        max_pixels=max_pixels,
        reporter=reporter,
    )
    warning = predictor.bundle.describe_whole_pictures()
    if warning and not any(isinstance(source, Crop) for source in sources):
        reporter.info(warning)
    bound = None if sets is None else conformal_threshold(predictor.bundle.sets, sets)
    tracker = None if group is None else track_events(predictor, group, sources, pictures)
    with ExitStack() as stack:
        if cluster is None or files is None:
            advance = stack.enter_context(reporter.progress("Predicting", len(sources)))
            predictions: Iterable[Prediction] = count_progress(predictor.predict_many(sources), advance)
        else:
            from bestiary.cluster.predict import predict_files

            predictions = stack.enter_context(
                predict_files(predictor, files, cluster, threads=threads, reporter=reporter)
            )
        predictions = predictions if tracker is None else tracker.track(predictions)
        answers = Predictions(predictions if bound is None else add_prediction_sets(predictions, bound))
    if tracker is not None:
        answers.events = list(tracker.answers())
        for message in tracker.describe():
            reporter.info(message)
    if sets and (message := explain_full_set(predictor.bundle.sets, sets)):
        reporter.info(message)
    return answers


def _require_files(sources: Sequence[Source | str], device: FeatureDevice) -> list[PictureFile]:
    """Return the files that a cluster predicts.

    Raises InputError for pictures that only this process has, and for a device that the workers do not compute on.
    """
    if device not in ("auto", "cpu"):
        raise InputError(f'device="{device}": the workers of a cluster compute on processors. Leave it out.')
    files = list[PictureFile]()
    for source in sources:
        if not isinstance(source, str | Path | Crop | StoredPicture):
            raise InputError(
                f"cluster= predicts files that its nodes see; got a picture in memory ({type(source).__name__}). Write"
                " it as a file, or leave cluster= out."
            )
        files.append(Path(source) if isinstance(source, str) else source)
    return files
