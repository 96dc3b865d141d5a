"""What changed between compared runs: pictures whose answer became right or wrong, and settings that differ."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bestiary.array_types import Bools, Floats
from bestiary.box import parse_reference, path_of
from bestiary.evaluation.comparison import RunPredictions, probabilities_over
from bestiary.files import read_json
from bestiary.report.format import ABSENT
from bestiary.report.gallery import strip_common_folder, thumbnails

MAX_PICTURES = 40  # of all pairs of runs
PICTURE_PIXELS, PICTURE_BYTES = 280, 14 * 1024
RECORDED = ("pictures", "labels", "reading", "corrections", "bestiary")  # facts of environment.json beside the recipe


@dataclass(frozen=True)
class ChangedPicture:
    """A picture with the two answers and their probabilities. `image` is a data address, None if it is missing."""

    image: str | None
    name: str
    path: str
    label: str
    before: str
    before_probability: float
    after: str
    after_probability: float


@dataclass(frozen=True)
class ChangedAnswers:
    """The pictures that exactly one of two runs predicts correctly: how many, and the most confident of them.

    lost: from right to wrong; gained: from wrong to right; n_wrong_both: pictures that both predict wrongly, but as
    different classes.
    """

    first: str
    run: str
    n_lost: int
    n_gained: int
    n_wrong_both: int
    lost: Sequence[ChangedPicture]
    gained: Sequence[ChangedPicture]


def changed_answers(runs: Sequence[RunPredictions]) -> list[ChangedAnswers]:
    """Return for each run after the first the pictures whose answer changed; runs: from `align_runs`."""
    limit = max(2, MAX_PICTURES // max(1, len(runs) - 1))
    return [_compare_answers(runs[0], run, limit) for run in runs[1:]]


def differing_settings(runs: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the settings that differ between run folders: name, and the value in each run, `–` where it has none."""
    settings = [_read_settings(Path(run)) for run in runs]
    names = list(dict.fromkeys(name for own in settings for name in own))
    rows = [(name, [_format_setting(own.get(name)) for own in settings]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _compare_answers(first: RunPredictions, run: RunPredictions, limit: int) -> ChangedAnswers:
    labels = first.predictions["label"]
    correct_before = (first.predictions["predicted"] == labels).to_numpy().astype(bool)
    correct_after = (run.predictions["predicted"] == labels).to_numpy().astype(bool)
    lost, gained = correct_before & ~correct_after, ~correct_before & correct_after
    differs = (first.predictions["predicted"] != run.predictions["predicted"]).to_numpy().astype(bool)
    half = limit // 2
    n_wrong = min(int(lost.sum()), max(half, limit - int(gained.sum())))
    return ChangedAnswers(
        first.name,
        run.name,
        int(lost.sum()),
        int(gained.sum()),
        int((differs & ~correct_before & ~correct_after).sum()),
        _changed_pictures(first, run, lost, n_wrong),
        _changed_pictures(first, run, gained, limit - n_wrong),
    )


def _changed_pictures(
    first: RunPredictions, run: RunPredictions, is_changed: Bools, limit: int
) -> list[ChangedPicture]:
    """Return the pictures of these rows whose two answers are the most confident, the most confident first."""
    before, after = _answer_probabilities(first), _answer_probabilities(run)
    rows = np.flatnonzero(is_changed)
    rows = rows[np.argsort(-(before + after)[rows], kind="stable")][:limit].tolist()
    # The folder of the first run's pictures may be gone, or that of this run.
    paths = [_choose_existing(run.predictions["path"][row], first.predictions["path"][row]) for row in rows]
    names = strip_common_folder(run.predictions["path"].to_list() + first.predictions["path"].to_list())
    images = thumbnails(paths, PICTURE_PIXELS, largest_bytes=PICTURE_BYTES)
    return [
        ChangedPicture(
            image,
            names[path],
            path,
            first.predictions["label"][row],
            first.predictions["predicted"][row],
            float(before[row]),
            run.predictions["predicted"][row],
            float(after[row]),
        )
        for row, path, image in zip(rows, paths, images, strict=True)
    ]


def _choose_existing(path: str, fallback: str) -> str:
    has_path, has_fallback = (path_of(parse_reference(name)).exists() for name in (path, fallback))
    return fallback if has_fallback and not has_path else path


def _answer_probabilities(run: RunPredictions) -> Floats:
    """Return the probability of each predicted class, (n,)."""
    index = {label: at for at, label in enumerate(run.classes)}
    predicted = np.array([index[label] for label in run.predictions["predicted"]], np.int64)
    probabilities = probabilities_over(run, run.classes)
    return np.asarray(probabilities[np.arange(len(predicted)), predicted], np.float64)


def _read_settings(run: Path) -> dict[str, Any]:
    """Return the recipe of a run with all defaults, its keys joined by dots, and the pictures it was trained on."""
    recipe, environment = run / "resolved.toml", run / "environment.json"
    facts = read_json(environment) if environment.exists() else {}
    settings = _flatten({name: facts[name] for name in RECORDED if facts.get(name)})
    return settings | (_flatten(tomllib.loads(recipe.read_text(encoding="utf-8"))) if recipe.exists() else {})


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _format_setting(value: Any) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
