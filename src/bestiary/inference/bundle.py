"""`bundle.json`: the metadata of a model beside its graph, and a check that the two belong together."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from bestiary.class_thresholds import check_bundle_values
from bestiary.decode_rules import FIRST_VERSION, DecodeRules
from bestiary.errors import RunError
from bestiary.files import write_text
from bestiary.inference.event_combination import EventCombination
from bestiary.picture import DecodeLimits, Fit
from bestiary.preprocess import Preprocessing

BUNDLE_FORMAT = 1
GRAPH_NAME, BUNDLE_NAME = "model.onnx", "bundle.json"
TEACHER = "teacher"  # the use of weights that a network was distilled from
MAX_RUNS = 5  # named in a message

Precision = Literal["float32", "int8"]


@dataclass(frozen=True)
class Bundle:
    """Classes in the order of the graph's output, input preprocessing, and the calibration fitted on validation.

    `threshold`: a picture with less familiarity, the in-distribution score (1 - OOD score), is predicted "unknown";
    `familiarity`: the terms of that score. `sets`: bounds of conformal prediction sets (`inference.conformal`).
    `decoding`: version of the rules that its pictures were decoded by; `deep_ranges`: by sample type, the values that
    become black and white in pictures of more than 8 bits (`bestiary.decode_rules`).
    `costs`: by true and predicted class, if labels are chosen by the least expected cost (`bestiary.costs`); empty: the
    label is the most probable class. `class_thresholds`: by class, the least probability with which it is answered, and
    what it was chosen by (`bestiary.class_thresholds`); below it the picture is "unknown" too.
    `crop`: whether it was trained on boxes, so that it looks at boxes, with the margin of `bestiary.box`.
    `weights`: of the pretrained backbone, their `sha256`, `source` and `licence`; empty without one; with
    `use` "teacher" those of the backbone that the network was distilled from.
    `no_heatmap`: why heatmaps would not be exact, so that the graph has none; empty if it has.
    `events`: how pictures of an event are combined (`inference.event_combination`); empty: not chosen.
    `graph_sha256`: digest of the file `graph` beside the bundle. An exported model has its own `precision`, and the
    report of its verification in `exported`, with the processor (`inference.proof`).
    """

    classes: tuple[str, ...]
    size: int
    fit: Fit
    max_pixels: int
    max_bytes: int
    temperature: float
    threshold: float
    coverage: float
    method: str
    backbone: str
    graph_sha256: str
    bestiary: str
    parity: dict[str, Any] = field(default_factory=dict)
    graph: str = GRAPH_NAME
    precision: Precision = "float32"
    exported: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, Any] = field(default_factory=dict)
    familiarity: str = "energy"
    decoding: int = FIRST_VERSION
    deep_ranges: dict[str, list[float]] = field(default_factory=dict)
    costs: list[list[float]] = field(default_factory=list)
    events: dict[str, Any] = field(default_factory=dict)
    class_thresholds: dict[str, dict[str, Any]] = field(default_factory=dict)
    crop: Literal["none", "boxes"] = "none"
    weights: dict[str, str] = field(default_factory=dict)
    no_heatmap: str = ""
    format: int = BUNDLE_FORMAT

    def __post_init__(self) -> None:
        """Raise ValueError, naming the field, for an invalid value: the file may have been edited by hand."""
        if not self.classes or not all(isinstance(name, str) for name in self.classes):
            raise ValueError(f"classes is {self.classes}; expected one or more names")
        if self.fit not in get_args(Fit):
            raise ValueError(f'fit is "{self.fit}"; expected one of {", ".join(get_args(Fit))}')
        if self.precision not in get_args(Precision):
            raise ValueError(f'precision is "{self.precision}"; expected one of {", ".join(get_args(Precision))}')
        if not isinstance(self.graph, str) or not self.graph or Path(self.graph).name != self.graph:
            raise ValueError(f"graph is {self.graph!r}; expected the name of a file beside the bundle")
        for name in ("size", "max_pixels", "max_bytes", "temperature", "threshold"):
            if not isinstance(value := getattr(self, name), int | float):
                raise ValueError(f"{name} is {value!r}; expected a number")
        if self.crop not in ("none", "boxes"):
            raise ValueError(f'crop is "{self.crop}"; expected none or boxes')
        if not isinstance(self.weights, dict) or not isinstance(self.no_heatmap, str):
            raise ValueError(f"weights is {self.weights!r}, no_heatmap is {self.no_heatmap!r}")
        DecodeRules.of(self.decoding, self.deep_ranges)
        self._check_costs()
        try:
            combination = EventCombination.of(self.events)
        except TypeError as error:
            raise ValueError(f"events is {self.events!r}: {error}") from None
        if combination.prior and len(combination.prior) != len(self.classes):
            raise ValueError(f"events.prior has {len(combination.prior)} numbers; expected {len(self.classes)}")
        check_bundle_values(self.class_thresholds, self.classes)

    def _check_costs(self) -> None:
        k = len(self.classes)
        is_square = isinstance(self.costs, list) and all(isinstance(row, list) and len(row) == k for row in self.costs)
        if self.costs and not (is_square and len(self.costs) == k):
            raise ValueError(f"costs is {self.costs!r}; expected {k} rows of {k} numbers, as there are classes")
        for cost in (cost for row in self.costs for cost in row):
            if not isinstance(cost, int | float) or not 0 <= cost < math.inf:
                raise ValueError(f"costs has {cost!r}; expected numbers from 0")

    @property
    def preprocess(self) -> Preprocessing:
        """The preprocessing of this model's input."""
        rules = DecodeRules.of(self.decoding, self.deep_ranges)
        return Preprocessing(self.size, self.fit, DecodeLimits(self.max_bytes, self.max_pixels), rules)

    def describe_whole_pictures(self) -> str:
        """Return a warning for whole pictures if the model was trained on boxes, else an empty text."""
        if self.crop == "none":
            return ""
        return (
            "This model was trained on boxes, and looks at whole pictures here: its labels and probabilities are less"
            " reliable. Give it boxes: bestiary predict RUN detections.json, for example of MegaDetector, or"
            ' bestiary.read_boxes("detections.json") in Python.'
        )

    def explain_no_heatmap(self) -> str:
        """Return that the model has no heatmaps, and why, as a sentence; empty if it has."""
        return (
            self.no_heatmap and f"No heatmaps: an exact one is not possible for {self.backbone}, as {self.no_heatmap}."
        )

    def write(self, run: Path) -> None:
        """Write `bundle.json` into the run folder."""
        values = asdict(self)
        for name in ("costs", "class_thresholds", "events", "crop", "weights", "no_heatmap"):
            if not values[name] or values[name] == "none":  # an older bestiary refuses a field that it does not know,
                del values[name]  # and so ignores no decision
        write_text(run / BUNDLE_NAME, _json(values) + "\n")


def _json(values: dict[str, Any]) -> str:
    """Return an object with one line for each list of numbers, however long."""
    text = json.dumps(values, indent=2, ensure_ascii=False)
    return re.sub(r"\[[-+\d.eE,\s]+\]", lambda match: " ".join(match.group().split()), text)


def require_run_first(run: Path, paths: Iterable[str | Path]) -> None:
    """Raise RunError if a run is among the paths of pictures, and the path of the run is none: they are swapped."""
    if not os.path.exists(run / BUNDLE_NAME):  # noqa: PTH110 - unlike Path.exists, it does not raise for long names
        for path in paths:
            if os.path.isfile(os.path.join(path, BUNDLE_NAME)):  # noqa: PTH113, PTH118 - the same
                raise RunError(f"{run} is no run, but {path} is: RUN comes first, then the pictures.")


def read_bundle(run: Path) -> Bundle:
    """Return the bundle of a finished run, after checking that it is complete and that its graph has its digest.

    Raises RunError that names what is missing or damaged, and what to do.
    """
    if not os.path.isdir(run):  # noqa: PTH112 - unlike Path.is_dir, it does not raise for names that are too long
        raise RunError(f"There is no run at {run}. Give the folder that `bestiary train` printed, or runs/latest.")
    try:
        values = json.loads((run / BUNDLE_NAME).read_text(encoding="utf-8"))
        bundle = Bundle(**{**values, "classes": tuple(values["classes"])})
    except FileNotFoundError:
        if inside := sorted(path.parent for path in run.glob(f"*/{BUNDLE_NAME}")):
            names = ", ".join(map(str, inside[:MAX_RUNS]))
            raise RunError(f"{run} is a folder of runs, and no run itself. Give one of them: {names}.") from None
        if not (run / "asked.toml").exists():
            raise RunError(
                f"{run} is no run: it has no finished model, {BUNDLE_NAME}. Give the folder that `bestiary train`"
                " printed, or runs/latest."
            ) from None
        raise RunError(f"{run} has no finished model: {BUNDLE_NAME} is missing. Train again, or resume it.") from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(f"{run / BUNDLE_NAME} is damaged or of another version of bestiary: {error}.") from None
    if bundle.format != BUNDLE_FORMAT:
        raise RunError(
            f"{run} has bundle format {bundle.format}; this bestiary reads {BUNDLE_FORMAT}. Update bestiary."
        )
    graph = run / bundle.graph
    if (digest := graph_digest(graph)) != bundle.graph_sha256:
        raise RunError(f"{graph} is not the graph that {BUNDLE_NAME} names ({digest[:12]}…). Train again.")
    return bundle


def graph_digest(graph: Path) -> str:
    """Return the SHA-256 of a graph, with its separate weights if it has any; raises RunError if a file is missing."""
    digest = hashlib.sha256()
    for file in (graph, graph.with_suffix(".bin")) if graph.suffix == ".xml" else (graph,):
        try:
            digest.update(file.read_bytes())
        except OSError as error:
            raise RunError(f"{file} cannot be read: {error.strerror}.") from None
    return digest.hexdigest()
