"""What `bestiary.predict` takes and returns: pictures, folders and patterns; predictions, and answers for events."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from bestiary.box import Crop, path_of
from bestiary.errors import InputError
from bestiary.inference.event_answers import EventAnswer, EventTracker
from bestiary.inference.event_names import event_finder, find_repeated, parse_event_rules
from bestiary.inference.inputs import LIST, find_pictures
from bestiary.inference.predictor import Prediction, Predictor
from bestiary.preprocess import KINDS, Source
from bestiary.progress import Reporter
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


def track_events(predictor: Predictor, group: str, sources: Sequence[Source | str], pictures: Pictures) -> EventTracker:
    """Return the events of these pictures; one in memory has no path, and so none. pictures: as they were named."""
    rule, no_site = parse_event_rules(group)
    pictures_only = [source for source in sources if isinstance(source, str | Path)]
    paths = [path_of(s) if isinstance(s, Crop) else s for s in sources if isinstance(s, str | Path | Crop)]
    folders = [str(Path(named)) for named in _list_named(pictures) if isinstance(named, str | Path)]
    find_name = event_finder(rule, no_site, paths, None, predictor.threads, folders)
    return EventTracker(predictor.bundle, find_name, repeated=find_repeated(pictures_only))


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
