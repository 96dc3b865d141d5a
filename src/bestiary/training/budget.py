"""What fits into a budget of time, and when it will be done: planned from measurements, before anything is learned.

`plan_training` tries the ways of learning that the recipe leaves open, the best first, measures on this machine what each
costs, and takes the first that fits. What the recipe sets is never changed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from bestiary.batches.pixel_cache import pixel_cache
from bestiary.context import Context
from bestiary.errors import RecipeError
from bestiary.machine import world_size
from bestiary.models.efficientnet_lite import BACKBONES
from bestiary.models.engine import Precision
from bestiary.models.features import split_precisions, training_precision
from bestiary.models.onnx_surgery import count_frozen_stages
from bestiary.recipe import Recipe, ResolvedRecipe
from bestiary.text import format_duration
from bestiary.training.methods import build_training_setup
from bestiary.training.probe import candidate_c_values, sample_counts
from bestiary.training.task import TrainingTask, make_task
from bestiary.training.throughput import (
    Throughput,
    evenly_spaced,
    machine_slowdown,
    measure_decode_throughput,
    measure_feature_throughput,
)

RESERVE_FRACTION, RESERVE_SECONDS = 0.05, 1.0  # of the budget, for what no measurement foresees
# Tried from left to right. A smaller network sees more than a larger one on pictures far below its own size.
PROBES = (("lite2", 260), ("lite0", 224), ("lite0", 160), ("lite0", 128), ("lite0", 96))
SCRATCH_SIZES = (128, 96, 64)
AUDIT_BACKBONE = "lite2"  # what the audit looks with where the recipe names no backbone
INTERPOLATIONS_TRIED = 5  # mixtures that fine-tuning judges at its end
FLOAT32_SLOWDOWN = 2.0  # the sealed graph and the proof compute in float32, the loop's validation may not
SUFFICIENT_EPOCHS, MAX_TIMES_DEFAULT = 12, 3  # fewer are tried at a smaller size first; more than so many only overfit

if TYPE_CHECKING:
    from bestiary.training.epoch_throughput import EpochThroughput

MakeTask = Callable[[ResolvedRecipe], TrainingTask]


@dataclass(frozen=True)
class FixedCosts:
    """Seconds of the work that is the same for everyone, on the machine of reference: two cores of an AMD EPYC.

    Measured by `benchmarks/budget.py`; `machine_slowdown` brings them to this machine.
    """

    probe: float = 4.0  # libraries, the sealed graph and its proof
    torch: float = 9.0  # the same, with torch and its export
    head: float = 0.000_018  # a picture, a class and a strength of regularisation; the learning curve takes two
    report: float = 1.5  # metrics, intervals, report
    report_picture: float = 0.000_05


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds before the first epoch, of an epoch, and after the last one; a probe has no epochs."""

    before: float
    epoch: float
    after: float

    def seconds(self, epochs: int) -> float:
        """Return how long all of it takes."""
        return self.before + epochs * self.epoch + self.after


@dataclass(frozen=True)
class TrainingPlan:
    """What will be done: the recipe, resolved; in words; and how many seconds it takes from now.

    deadline_seconds: after the start of the whole run, when training must end so that the budget is kept.
    """

    recipe: ResolvedRecipe
    words: str
    seconds: float
    deadline_seconds: float | None = None

    def facts(self) -> dict[str, Any]:
        """Return what a run records of its plan."""
        return {"plan": self.words, "planned seconds": round(self.seconds, 1)}


def plan_training(
    requested: Recipe, pictures: pl.DataFrame, budget_seconds: float | None, context: Context
) -> TrainingPlan:
    """Return the best resolved recipe that ends within the budget; without a budget the requested one.

    pictures: with their `split`. Raises RecipeError, with the shortest possible budget, if no recipe fits.
    """
    if budget_seconds is not None and world_size() > 1:
        raise RecipeError("A time budget works in a single process: start it without torchrun.")
    timer, machine = context.timer, MachineProfile()
    tried: list[tuple[ResolvedRecipe, TimeEstimate]] = []
    for recipe in _iter_candidates(requested, budget_seconds is not None):
        estimate = estimate_seconds(make_task(Path(), recipe, pictures, context), machine)
        tried.append((recipe, estimate))
        if budget_seconds is None:
            return _make_plan(recipe, estimate, None, timer.total)
        epochs = _affordable_epochs(requested, recipe, estimate, usable_seconds(budget_seconds, timer.total))
        if epochs >= _sufficient_epochs(requested, recipe):
            break
    assert budget_seconds is not None
    if epochs < 1:
        recipe, estimate = min(tried, key=lambda candidate: candidate[1].seconds(1))
        raise RecipeError(_budget_too_short_message(requested, recipe, estimate, budget_seconds, timer.total))
    if recipe.model.method != "probe" and requested.train.epochs is None:
        settings: dict[str, dict[str, Any]] = {
            "picture": {"size": recipe.picture.size},
            "model": {"backbone": recipe.model.backbone},
            "data": {"suspects": recipe.data.suspects},
            "train": {"epochs": epochs},
        }
        recipe = override_sections(requested, settings).resolve()
    return _make_plan(recipe, estimate, budget_seconds, timer.total)


class MachineProfile:
    """Measurements of this machine, each made once, when it is first needed."""

    def __init__(self) -> None:
        """Measure nothing yet."""
        self._feature_throughput: dict[tuple[str, int, Precision], Throughput] = {}
        self._epoch_throughput: dict[tuple[object, ...], EpochThroughput] = {}
        self.slowdown = machine_slowdown()

    def feature_throughput(self, task: TrainingTask, precision: Precision) -> Throughput:
        """Return how fast the pictures of a task become features."""
        key = task.recipe.model.backbone, task.preprocess.size, precision
        if key not in self._feature_throughput:
            paths = evenly_spaced(task.split("train").paths)
            self._feature_throughput[key] = measure_feature_throughput(task.feature_cache(precision), paths)
        return self._feature_throughput[key]

    def epoch_throughput(self, task: TrainingTask) -> EpochThroughput:
        """Return how fast the network of a task trains."""
        from bestiary.training.epoch_throughput import measure_epoch_throughput

        train = task.recipe.train
        key = task.recipe.model, task.preprocess.size, train.batch_size, train.size_from, train.size_to, train.precision
        if key not in self._epoch_throughput:
            one = build_training_setup(task)
            self._epoch_throughput[key] = measure_epoch_throughput(
                one.network, one.settings, one.augmentation, one.shape
            )
        return self._epoch_throughput[key]


def estimate_seconds(task: TrainingTask, machine: MachineProfile) -> TimeEstimate:
    """Return how long a task will take, from a few seconds of each kind of work in it."""
    slow, costs, times = machine.slowdown, FixedCosts(), 1 + task.recipe.data.folds
    probed = _as_probe(task)
    second = _estimate_label_search(probed, machine) if task.recipe.data.suspects else 0.0
    finish = slow * (costs.report + costs.report_picture * task.pictures.height)
    if task.recipe.model.method == "probe":
        fit = slow * costs.probe + _estimate_head_fits(task, slow)
        return TimeEstimate(
            _estimate_features(task, machine) + second + times * fit + _estimate_test_answers(task, machine) + finish,
            0.0,
            0.0,
        )
    estimate = _estimate_training(task, machine)
    return TimeEstimate(estimate.before + second, times * estimate.epoch, times * estimate.after + finish)


def _estimate_training(task: TrainingTask, machine: MachineProfile) -> TimeEstimate:
    val, test = (len(task.split(split).keys) for split in ("val", "test"))
    pace = machine.epoch_throughput(task)
    if count_frozen_stages(task.recipe) is not None:
        return _estimate_upper_stages(task, machine, pace)
    before = _estimate_decoding(task)
    if task.recipe.model.method == "finetune" and task.recipe.model.backbone in BACKBONES:
        before += _estimate_features(task, machine) + _estimate_head_fits(task, machine.slowdown)
    after = machine.slowdown * FixedCosts().torch + (val + test) / pace.validation * FLOAT32_SLOWDOWN
    return TimeEstimate(before, pace.epoch_seconds(int(sample_counts(task).sum()), val), after)


def _estimate_upper_stages(task: TrainingTask, machine: MachineProfile, throughput: EpochThroughput) -> TimeEstimate:
    """Return the seconds of fine-tuning from kept activations, which cost at most what features cost."""
    train, val, test = (len(task.split(split).keys) for split in ("train", "val", "test"))
    views, slow = task.recipe.train.views, machine.slowdown
    fast, exact = machine.feature_throughput(task, training_precision()), machine.feature_throughput(task, "float32")
    before = (
        _estimate_features(task, machine)
        + _estimate_head_fits(task, slow)
        + fast.seconds(views * train)
        + exact.seconds(val)
    )
    blends = INTERPOLATIONS_TRIED * val / throughput.validation * FLOAT32_SLOWDOWN
    after = slow * FixedCosts().torch + exact.seconds(val + test) + blends
    return TimeEstimate(before, throughput.epoch_seconds(views * int(sample_counts(task).sum()), val), after)


def _as_probe(task: TrainingTask) -> TrainingTask:
    """Return the task as the second look of the audit does it: with the recipe's backbone, or the default one."""
    if task.recipe.model.method != "scratch" and task.recipe.model.backbone in BACKBONES:
        return task
    model = task.recipe.model.model_copy(update={"backbone": AUDIT_BACKBONE})
    view = replace(task.preprocess, size=BACKBONES[AUDIT_BACKBONE].size)
    return replace(task, recipe=task.recipe.model_copy(update={"model": model}), preprocess=view)


def _estimate_label_search(task: TrainingTask, machine: MachineProfile) -> float:
    """Return the seconds for suspect labels: the features of every picture, and a head for each of five folds."""
    splits = ("train", "val", "test") if task.recipe.model.method != "probe" else ("val", "test")
    cache = task.feature_cache(training_precision())
    missing = sum(len(cache.missing(task.split(split).keys)) for split in splits)
    pictures = sum(len(task.split(split).keys) for split in ("train", "val", "test"))
    fits = machine.slowdown * FixedCosts().head * 5 * pictures * len(task.classes)
    return fits + (machine.feature_throughput(task, training_precision()).seconds(missing) if missing else 0.0)


def _estimate_features(task: TrainingTask, machine: MachineProfile) -> float:
    """Return the seconds for the features of a probe that are not kept yet."""
    seconds = 0.0
    for split, precision in split_precisions().items():
        if missing := len(task.feature_cache(precision).missing(task.split(split).keys)):
            seconds += machine.feature_throughput(task, precision).seconds(missing)
    again = int(
        (sample_counts(task) > 1).sum()
    )  # shown mirrored as well; kept ones are rare enough not to be looked for
    return seconds + (machine.feature_throughput(task, training_precision()).seconds(again) if again else 0.0)


def _estimate_test_answers(task: TrainingTask, machine: MachineProfile) -> float:
    """Return the seconds for the answers to the test pictures: of folds, to every picture."""
    splits = ("train", "val", "test") if task.recipe.data.folds else ("test",)
    return machine.feature_throughput(task, "float32").seconds(sum(len(task.split(split).keys) for split in splits))


def _estimate_head_fits(task: TrainingTask, slowdown: float) -> float:
    pictures = len(task.split("train").keys)
    fits = len(candidate_c_values(task.recipe, pictures)) + 2 * (task.recipe.evaluate.learning_curve != "off")
    return slowdown * FixedCosts().head * pictures * len(task.classes) * fits


def _estimate_decoding(task: TrainingTask) -> float:
    """Return the seconds for the pixels that are not kept yet."""
    parts = [task.split("train"), task.split("val")]
    missing = len(pixel_cache(task.cache, task.preprocess).missing_keys([key for part in parts for key in part.keys]))
    pace = (
        measure_decode_throughput(task.preprocess, evenly_spaced(parts[0].paths), threads=task.context.threads)
        if missing
        else Throughput(0.0, 1.0)
    )
    return pace.seconds(missing)


# ---- What may be chosen --------------------------------------------------------------------------------------------


def _iter_candidates(requested: Recipe, has_budget: bool) -> Iterator[ResolvedRecipe]:
    """Yield what the recipe leaves open, resolved, the best first; with a budget more than its defaults.

    Before a smaller size or backbone is tried, the search for suspect labels is left out.
    """
    if not has_budget:
        yield requested.resolve()
        return
    suspects = [requested.data.suspects] if "suspects" in requested.overrides().get("data", {}) else [True, False]
    for way in _iter_alternatives(requested):
        for look in suspects:
            yield override_sections(requested, {**way, "data": {"suspects": look}}).resolve()


def _iter_alternatives(requested: Recipe) -> Iterator[dict[str, dict[str, Any]]]:
    first, size = requested.resolve(), requested.picture.size
    if first.model.method == "scratch":
        yield from ({"picture": {"size": pixels}} for pixels in ([size] if size else SCRATCH_SIZES))
        return
    backbone = requested.overrides().get("model", {}).get("backbone")
    ways = [way for way in PROBES if backbone in (None, way[0])] or [(first.model.backbone, first.picture.size)]
    for name, pixels in dict.fromkeys((name, size or pixels) for name, pixels in ways):
        yield {"model": {"backbone": name}, "picture": {"size": pixels}}


def override_sections(requested: Recipe, chosen: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """Return the recipe with settings laid over it, by section; raises RecipeError if that is impossible."""
    whole = requested.overrides()
    for section, values in chosen.items():
        whole[section] = {**whole.get(section, {}), **values}
    return Recipe.of(whole)


def _sufficient_epochs(requested: Recipe, recipe: ResolvedRecipe) -> int:
    """Return how many epochs are enough not to try another way."""
    trains = recipe.model.method != "probe" and requested.train.epochs is None
    return min(SUFFICIENT_EPOCHS, recipe.train.epochs) if trains else 1


def _affordable_epochs(requested: Recipe, recipe: ResolvedRecipe, estimate: TimeEstimate, seconds: float) -> int:
    """Return how many epochs fit; where there are none to choose, 1 if all of it fits."""
    asked_for = recipe.train.epochs
    if recipe.model.method == "probe" or requested.train.epochs is not None:
        return int(estimate.seconds(asked_for) <= seconds)
    fit = math.floor((seconds - estimate.before - estimate.after) / estimate.epoch)
    return max(0, min(fit, MAX_TIMES_DEFAULT * asked_for))


def usable_seconds(budget_seconds: float, elapsed: float) -> float:
    """Return the seconds that may be planned with: what is left of the budget, less a reserve."""
    return budget_seconds * (1 - RESERVE_FRACTION) - RESERVE_SECONDS - elapsed


# ---- What is said --------------------------------------------------------------------------------------------------


def _make_plan(recipe: ResolvedRecipe, estimate: TimeEstimate, budget: float | None, elapsed: float) -> TrainingPlan:
    seconds = estimate.seconds(recipe.train.epochs)
    done = time.strftime("%H:%M", time.localtime(time.time() + seconds))
    within = f" Budget {format_duration(budget)}, of which {format_duration(elapsed)} are over." if budget else ""
    words = f"{describe_recipe(recipe)}; done at about {done} (in {format_duration(seconds)}).{within}"
    deadline = None if budget is None else budget - estimate.after
    return TrainingPlan(recipe, words, seconds, deadline)


def describe_recipe(recipe: ResolvedRecipe) -> str:
    """Return what a resolved recipe does, in a few words.

    >>> describe_recipe(Recipe().resolve())
    'Probe with lite2 at 260 px'
    """
    model, size = recipe.model, recipe.picture.size
    if model.method == "probe":
        return f"Probe with {model.backbone} at {size} px{_describe_skipped_search(recipe)}"
    learner = f"Scratch ({model.network})" if model.method == "scratch" else f"Finetune {model.backbone}"
    return f"{learner} at {size} px for {recipe.train.epochs} epochs{_describe_skipped_search(recipe)}"


def _describe_skipped_search(recipe: ResolvedRecipe) -> str:
    return "" if recipe.data.suspects else ", without a search for suspect labels"


def _budget_too_short_message(
    requested: Recipe, recipe: ResolvedRecipe, estimate: TimeEstimate, budget_seconds: float, elapsed: float
) -> str:
    epochs = 1 if requested.train.epochs is None else requested.train.epochs
    takes = elapsed + estimate.seconds(epochs)
    least = math.ceil((takes + RESERVE_SECONDS) / (1 - RESERVE_FRACTION))
    return (
        f"--budget {format_duration(budget_seconds)} is too short: {describe_recipe(recipe.with_epochs(epochs).resolve())} is the least that the recipe"
        f" allows, and takes {format_duration(takes)}, of which {format_duration(elapsed)} are over. Give {format_duration(least + 1)} or more,"
        " or leave more open (method, backbone, size, epochs)."
    )
