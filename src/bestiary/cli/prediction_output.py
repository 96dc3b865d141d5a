"""The files that `predict` writes into: of its predictions, in any format, and of the answers of events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bestiary.cli.options import Format
from bestiary.errors import UserError
from bestiary.text import format_count, printable

if TYPE_CHECKING:
    from bestiary.box import PictureFile
    from bestiary.inference.converted_file import ConvertedFile
    from bestiary.inference.event_answers import EventTracker
    from bestiary.inference.output_file import PredictionFile
    from bestiary.inference.output_formats.conversion import Conversion
    from bestiary.inference.predictor import Predictor


def open_output(
    out: Path | None,
    form: Format | None,
    conversion: Conversion,
    conditions: Mapping[str, Any],
    *,
    resume: bool,
    staging: Path | None = None,
) -> PredictionFile | ConvertedFile | None:
    """Return the file to write, None for the terminal; conditions: what its predictions depend on.

    staging: a folder in which rows are put together before the file is moved to `out`, instead of beside it.
    """
    from bestiary.inference.converted_file import WRITERS, ConvertedFile
    from bestiary.inference.output_file import PredictionFile
    from bestiary.inference.resume_record import THRESHOLDS

    if conversion.package is not None and form != Format.camtrap_dp:
        raise UserError("--package is for --format camtrap-dp.")
    if out is None:
        if form is not None and form.value in WRITERS:
            raise UserError(f"The format {form.value} is written as a whole. Add --out.")
        if conversion.table is not None and form == Format.csv:
            raise UserError("A table with its own columns is written as a whole. Add --out.")
        return None
    has_sets, has_reasons = conditions["level of prediction sets"] is not None, THRESHOLDS in conditions
    output_format, is_converted = _choose_format(out, form, conversion)
    if is_converted:
        extra = {"sets": has_sets, "reasons": has_reasons}
        collected = None if staging is None else staging / f"{out.name}.jsonl"
        return ConvertedFile(out, output_format, conversion, conditions, resume=resume, **extra, collected=collected)
    return PredictionFile(
        out if staging is None else staging / out.name,
        output_format,
        conversion.classes,
        resume=resume,
        sets=has_sets,
        reasons=has_reasons,
        boxes=conversion.boxes,
        conditions=conditions,
    )


def count_complete(
    out: Path,
    form: Format | None,
    conversion: Conversion,
    conditions: Mapping[str, Any],
    pictures: Iterable[PictureFile],
    *,
    name: str,
    is_uploaded: bool,
) -> int | None:
    """Return the number of the pictures if an output that cannot be appended to has all of them; None without one.

    That is one of another program's format, and one at a URI. name: of it for the user; is_uploaded: whether it is at
    its URI. Raises UserError if it is of other pictures, another model or other options.
    """
    from bestiary.inference import converted_file
    from bestiary.inference.output_file import list_facts
    from bestiary.inference.resume_record import ResumeRecord

    output_format, is_converted = _choose_format(out, form, conversion)
    if not is_uploaded:
        arguments = (out, output_format, conversion, conditions, pictures)
        return converted_file.count_complete(*arguments) if is_converted else None
    facts = converted_file.list_facts(output_format, conversion, conditions)
    facts = facts if is_converted else list_facts(output_format, conditions)
    return ResumeRecord(out, facts, name).count_complete(pictures)


def describe_complete(name: str, count: int) -> str:
    """Return the notice that an output needs no more predictions."""
    return f"{name} is complete, with {format_count(count, 'picture')}. Nothing was changed."


def _choose_format(out: Path, form: Format | None, conversion: Conversion) -> tuple[str, bool]:
    """Return the format of an output, and whether it is that of another program or table, written as a whole."""
    from bestiary.inference.converted_file import TABLE, WRITERS
    from bestiary.inference.output_file import format_from_suffix

    output_format = form.value if form else format_from_suffix(out)
    if output_format == "csv" and conversion.table is not None:
        output_format = TABLE
    return output_format, output_format == TABLE or output_format in WRITERS


def choose_event_file(
    events: Path | None, out: Path | None, form: Format | None, *, as_json: bool, resume: bool
) -> Path | None:
    """Return the file of event answers, None if they follow the predictions on the terminal."""
    from bestiary.inference.event_answers import SUFFIXES, default_event_file

    if events is None and out is None:
        if not as_json and form not in (None, Format.table):
            raise UserError(f"--group: events are no rows of {form}. Add --events FILE.csv, or --out.")
        return None
    path = events or default_event_file(out or Path())
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--events {path} has the suffix {path.suffix!r}; expected one of {', '.join(SUFFIXES)}.")
    if path == out:
        raise UserError(f"--events and --out are one file, {path}. Choose another name.")
    if path.exists() and not resume:
        raise UserError(f"{path} exists already. Choose another name with --events, or remove it.")
    return path


def track_events(
    predictor: Predictor,
    rules: tuple[str, str | None],
    sources: Iterable[PictureFile],
    conversion: Conversion,
    named: Sequence[Path],
    file: PredictionFile | ConvertedFile | None,
) -> EventTracker:
    """Return the events of the predictions, with those that the file has already. named: the paths of the command."""
    from bestiary.box import path_of
    from bestiary.group_rules import TIME
    from bestiary.inference.event_answers import EventTracker
    from bestiary.inference.event_names import event_finder, find_repeated, parse_event_rules

    group, site = parse_event_rules(*rules)
    paths: list[Path] = []
    if group.kind == TIME:  # it compares all pictures, those of an earlier command included
        earlier = () if file is None else file.iter_predictions()
        paths = [*map(path_of, sources), *(Path(str(prediction.path)) for prediction in earlier)]
    folders = [printable(str(path)) for path in (conversion.folder, *named) if path is not None]
    finder = event_finder(group, site, paths, conversion.table, predictor.threads, folders)
    repeated: set[str] = set()
    if conversion.table is not None:
        repeated = find_repeated(file for file in conversion.table.iter_files() if isinstance(file, Path))
    elif isinstance(sources, list):
        repeated = find_repeated(source for source in sources if isinstance(source, Path))
    tracker = EventTracker(predictor.bundle, finder, conversion.unknown_label, repeated)
    for prediction in () if file is None else file.iter_predictions():
        tracker.add(prediction)
    return tracker


def list_job_conditions(
    conditions: Mapping[str, Any], conversion: Conversion, form: Format | None, engine: str
) -> dict[str, Any]:
    """Return what the output of a job on a cluster depends on, beside its pictures."""
    table = None if conversion.table is None else conversion.table.digest
    return {**conditions, "format": None if form is None else form.value, "table": table, "engine": engine}
