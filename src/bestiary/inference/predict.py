"""`bestiary.predict`: predictions for pictures, folders and patterns, as the command `predict` makes them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from bestiary.box import Crop, path_of
from bestiary.errors import InputError
from bestiary.events import Event, choose_reporter
from bestiary.inference.conformal import conformal_threshold, explain_full_set
from bestiary.inference.event_answers import EventAnswer, EventTracker
from bestiary.inference.event_names import event_finder, find_repeated, parse_event_rules
from bestiary.inference.inputs import LIST, find_pictures
from bestiary.inference.predictor import FAST_ENGINE_MIN_PICTURES, Prediction, Predictor
from bestiary.inference.writers import add_prediction_sets, count_progress
from bestiary.machine import FeatureDevice
from bestiary.preprocess import KINDS, Source
from bestiary.progress import Reporter
from bestiary.run_location import RunLocation, locate_run
from bestiary.summary import Row, Summary, SummaryRepr
from bestiary.text import describe_skipped

MAX_ROWS = 10  # predictions that a summary lists

Pictures = Source | str | Sequence[Source | str]


class Predictions(SummaryRepr, list[Prediction]):
    """A list of predictions, in the order of the pictures; with `group`, `events` has an answer for each event."""

    events: Sequence[EventAnswer] = ()

    def summary(self) -> Summary:
        """Return the first predictions, and how many are unknown or could not be read."""
        failed = sum(prediction.error is not None for prediction in self)
        unknown = sum(prediction.unknown and prediction.error is None for prediction in self)
        rows = [prediction.row(prediction.path or "picture") for prediction in self[:MAX_ROWS]]
        rows += [Row("…", f"{len(self) - MAX_ROWS:,} more")] if len(self) > MAX_ROWS else []
        counts = f"{len(self):,} predictions, {unknown:,} unknown, {failed:,} could not be read"
        return Summary(counts, tuple(rows))


def predict(
    run: RunLocation,
    pictures: Pictures,
    *,
    sets: float | None = None,
    group: str | None = None,
    max_pixels: int | None = None,
    device: FeatureDevice = "auto",
    threads: int | None = None,
    quiet: bool = False,
    on_event: Callable[[Event], object] | None = None,
) -> Predictions:
    """Return a prediction for each picture, in order; a picture that cannot be read has one with `error`.

    pictures: a path, a folder with all its pictures, a pattern such as `new/**/*.jpg`, bytes of a file, a Pillow image,
    uint8 pixels (height, width, 3), or a list of these; for a model of boxes, what `bestiary.read_boxes` returns.
    sets: adds conformal prediction sets with this coverage, such as 0.95. group: a rule of events, "folder",
    "regex:PATTERN" (on paths) or "time:60s" (EXIF); then `events` of the result has an answer for each. max_pixels: of
    a picture in memory; default: as in training. device: as in the command. For a stream, or one picture after another,
    `bestiary.load` keeps the model loaded. Raises RunError, SourceError for a folder without pictures.
    """
    reporter = choose_reporter(quiet=quiet, on_event=on_event)
    sources = list_sources(pictures, reporter)
    is_bulk = len(sources) >= FAST_ENGINE_MIN_PICTURES
    engine = Predictor(
        locate_run(run),
        threads=threads,
        engine="fastest" if is_bulk else "onnxruntime",
        device=device,
        max_pixels=max_pixels,
        reporter=reporter,
    )
    if not any(isinstance(source, Crop) for source in sources) and (warning := engine.bundle.describe_whole_pictures()):
        reporter.info(warning)
    bound = None if sets is None else conformal_threshold(engine.bundle.sets, sets)
    tracker = None if group is None else _event_tracker(engine, group, sources, pictures)
    with reporter.progress("Predicting", len(sources)) as advance:
        predictions: Iterable[Prediction] = count_progress(engine.predict_many(sources), advance)
        predictions = predictions if tracker is None else tracker.track(predictions)
        answers = Predictions(predictions if bound is None else add_prediction_sets(predictions, bound))
    if tracker is not None:
        answers.events = list(tracker.answers())
        for message in tracker.describe():
            reporter.info(message)
    if sets and (message := explain_full_set(engine.bundle.sets, sets)):
        reporter.info(message)
    return answers


def _event_tracker(engine: Predictor, group: str, sources: Sequence[Source | str], pictures: Pictures) -> EventTracker:
    """Return the events of these pictures; one in memory has no path, and so none. pictures: as they were named."""
    rule, no_site = parse_event_rules(group)
    pictures_only = [source for source in sources if isinstance(source, str | Path)]
    paths = [path_of(s) if isinstance(s, Crop) else s for s in sources if isinstance(s, str | Path | Crop)]
    folders = [str(Path(named)) for named in _list_named(pictures) if isinstance(named, str | Path)]
    find_name = event_finder(rule, no_site, paths, None, engine.threads, folders)
    return EventTracker(engine.bundle, find_name, repeated=find_repeated(pictures_only))


def list_sources(pictures: Pictures, reporter: Reporter) -> list[Source | str]:
    """Return the pictures of paths, folders and patterns, and pictures in memory; report what a folder skips."""
    skipped = Counter[str]()
    sources = list(_iter_sources(pictures, skipped))
    if message := describe_skipped(skipped):
        reporter.info(message)
    return sources


def _iter_sources(pictures: Pictures, skipped: Counter[str]) -> Iterator[Source | str]:
    """Yield the pictures of paths, folders and patterns, and pictures in memory as they are."""
    for picture in _list_named(pictures):
        if not isinstance(picture, str | Path):
            yield picture
        elif Path(picture) == LIST:
            raise InputError('"-" is standard input only for the command. Pass the paths as a list.')
        else:
            yield from find_pictures([Path(picture)], io.BytesIO(), skipped)


def _list_named(pictures: Pictures) -> Sequence[Source | str]:
    return [pictures] if isinstance(pictures, (str, *KINDS)) else pictures
