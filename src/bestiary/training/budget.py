"""What fits into a budget of time, and when it will be done: planned from measurements, before anything is learned.

`planned` tries the ways of learning that the recipe leaves open, the best first, measures on this machine what each
costs, and takes the first that fits. What the recipe sets is never changed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bestiary.batches.pixel_cache import pixel_cache
from bestiary.errors import RecipeError
from bestiary.machine import world_size
from bestiary.models.efficientnet_lite import BACKBONES, cached_backbone_graph
from bestiary.models.engine import Precision
from bestiary.models.onnx_surgery import count_frozen_stages
from bestiary.recipe import Recipe
from bestiary.text import format_duration
from bestiary.training.methods import untrained
from bestiary.training.probe import feature_store, strengths_of, times_shown, training_precision
from bestiary.training.task import Task
from bestiary.training.throughput import Pace, decoding_pace, feature_pace, sample, slowness

RESERVE_SHARE, RESERVE_SECONDS = 0.05, 1.0  # of the budget, for what no measurement foresees
# Tried from left to right. A smaller network sees more than a larger one on pictures far below its own size.
PROBES = (("lite2", 260), ("lite0", 224), ("lite0", 160), ("lite0", 128), ("lite0", 96))
SCRATCH_SIZES = (128, 96, 64)
SECOND_LOOK = "lite2"  # what the audit looks with where the recipe names no backbone
BLENDS_TRIED = 5  # mixtures that fine-tuning judges at its end
FLOAT32_TIMES = 2.0  # the sealed graph and the proof compute in float32, the loop's validation may not
ENOUGH_EPOCHS, MOST_TIMES_DEFAULT = 12, 3  # fewer are tried at a smaller size first; more than so many only overfit

if TYPE_CHECKING:
    from bestiary.training.epoch_throughput import EpochPace

Make = Callable[[Recipe], Task]


@dataclass(frozen=True)
class Costs:
    """Seconds of the work that is the same for everyone, on the machine of reference: two cores of an AMD EPYC.

    Measured by `benchmarks/budget.py`; `slowness` brings them to this machine.
    """

    probe: float = 4.0  # libraries, the sealed graph and its proof
    torch: float = 9.0  # the same, with torch and its export
    head: float = 0.000_018  # a picture, a class and a strength of regularisation; the learning curve takes two
    report: float = 1.5  # metrics, intervals, report
    report_picture: float = 0.000_05


@dataclass(frozen=True)
class Estimate:
    """Seconds before the first epoch, of an epoch, and after the last one; a probe has no epochs."""

    before: float
    epoch: float
    after: float

    def seconds(self, epochs: int) -> float:
        """Return how long all of it takes."""
        return self.before + epochs * self.epoch + self.after


@dataclass(frozen=True)
class Plan:
    """What will be done: the recipe, resolved; in words; and how many seconds it takes from now.

    deadline_seconds: after the start of the whole run, when training must end so that the budget is kept.
    """

    recipe: Recipe
    words: str
    seconds: float
    deadline_seconds: float | None = None


def planned(make: Make, asked: Recipe, budget_seconds: float | None, elapsed: Callable[[], float]) -> Plan:
    """Return the best way to learn that is done in time; without a budget the way that was asked for.

    make: the task that a resolved recipe is. elapsed: seconds since the run began, what was measured here included.
    Raises RecipeError, with the least budget that would do, if none fits.
    """
    if budget_seconds is not None and world_size() > 1:
        raise RecipeError("A budget of time is kept by a single process: start it without torchrun.")
    tried: list[tuple[Recipe, Estimate]] = []
    measure = Measure()
    for recipe in _candidates(asked, budget_seconds is not None):
        estimate = estimated(make(recipe), measure)
        tried.append((recipe, estimate))
        if budget_seconds is None:
            return _plan(recipe, estimate, None, elapsed())
        if _epochs(asked, recipe, estimate, room_of(budget_seconds, elapsed())) >= _enough(asked, recipe):
            break
    assert budget_seconds is not None
    recipe, estimate = tried[-1]
    epochs = _epochs(asked, recipe, estimate, room_of(budget_seconds, elapsed()))
    if epochs < 1:
        recipe, estimate = min(tried, key=lambda one: one[1].seconds(1))
        raise RecipeError(_too_short(asked, recipe, estimate, budget_seconds, elapsed()))
    if recipe.model.method != "probe" and asked.train.epochs is None:
        size, look = {"size": recipe.picture.size}, {"suspects": recipe.data.suspects}
        model = {"backbone": recipe.model.backbone}
        chosen: dict[str, dict[str, Any]] = {"picture": size, "model": model, "data": look, "train": {"epochs": epochs}}
        recipe = with_sections(asked, chosen).resolve()
    return _plan(recipe, estimate, budget_seconds, elapsed())


class Measure:
    """Measurements of this machine, each made once, when it is first needed."""

    def __init__(self) -> None:
        """Measure nothing yet."""
        self._features: dict[tuple[str, int, Precision], Pace] = {}
        self._epochs: dict[tuple[object, ...], EpochPace] = {}
        self.slowness = slowness()

    def features(self, task: Task, precision: Precision) -> Pace:
        """Return how fast the pictures of a task become features."""
        backbone, size = task.recipe.model.backbone, task.view.size
        key = backbone, size, precision
        if key not in self._features:
            trunk = cached_backbone_graph(backbone, task.cache / "trunks", size)
            paths = sample(task.part("train").paths)
            self._features[key] = feature_pace(trunk, task.view, precision, paths, threads=task.threads)
        return self._features[key]

    def epochs(self, task: Task) -> EpochPace:
        """Return how fast the network of a task trains."""
        from bestiary.training.epoch_throughput import epoch_pace

        train = task.recipe.train
        key = task.recipe.model, task.view.size, train.batch_size, train.size_from, train.size_to, train.precision
        if key not in self._epochs:
            one = untrained(task)
            self._epochs[key] = epoch_pace(one.network, one.settings, one.augmentation, one.shape)
        return self._epochs[key]


def estimated(task: Task, measure: Measure) -> Estimate:
    """Return how long a task will take, from a few seconds of each kind of work in it."""
    slow, costs, times = measure.slowness, Costs(), 1 + task.recipe.data.folds
    probed = _as_probe(task)
    second = _second_look(probed, measure) if task.recipe.data.suspects else 0.0
    finish = slow * (costs.report + costs.report_picture * task.pictures.height)
    if task.recipe.model.method == "probe":
        fit = slow * costs.probe + _head(task, slow)
        return Estimate(_features(task, measure) + second + times * fit + _test(task, measure) + finish, 0.0, 0.0)
    estimate = _trained(task, measure)
    return Estimate(estimate.before + second, times * estimate.epoch, times * estimate.after + finish)


def _trained(task: Task, measure: Measure) -> Estimate:
    val, test = (len(task.part(split).keys) for split in ("val", "test"))
    pace = measure.epochs(task)
    if count_frozen_stages(task.recipe) is not None:
        return _trained_above(task, measure, pace)
    before = _decoding(task)
    if task.recipe.model.method == "finetune" and task.recipe.model.backbone in BACKBONES:
        before += _features(task, measure) + _head(task, measure.slowness)
    after = measure.slowness * Costs().torch + (val + test) / pace.validation * FLOAT32_TIMES
    return Estimate(before, pace.epoch_seconds(int(times_shown(task).sum()), val), after)


def _trained_above(task: Task, measure: Measure, pace: EpochPace) -> Estimate:
    """Return the seconds of fine-tuning from kept activations, which cost at most what features cost."""
    train, val, test = (len(task.part(split).keys) for split in ("train", "val", "test"))
    views, slow = task.recipe.train.views, measure.slowness
    fast, exact = measure.features(task, training_precision()), measure.features(task, "float32")
    before = _features(task, measure) + _head(task, slow) + fast.seconds(views * train) + exact.seconds(val)
    blends = BLENDS_TRIED * val / pace.validation * FLOAT32_TIMES
    after = slow * Costs().torch + exact.seconds(val + test) + blends
    return Estimate(before, pace.epoch_seconds(views * int(times_shown(task).sum()), val), after)


def _as_probe(task: Task) -> Task:
    """Return the task as the second look of the audit does it: with the recipe's backbone, or the default one."""
    if task.recipe.model.method != "scratch" and task.recipe.model.backbone in BACKBONES:
        return task
    model = task.recipe.model.model_copy(update={"backbone": SECOND_LOOK})
    view = replace(task.view, size=BACKBONES[SECOND_LOOK].size)
    return replace(task, recipe=task.recipe.model_copy(update={"model": model}), view=view)


def _second_look(task: Task, measure: Measure) -> float:
    """Return the seconds for suspect labels: the features of every picture, and a head for each of five folds."""
    splits = ("train", "val", "test") if task.recipe.model.method != "probe" else ("val", "test")
    missing = sum(len(_missing(task, split, training_precision())) for split in splits)
    pictures = sum(len(task.part(split).keys) for split in ("train", "val", "test"))
    fits = measure.slowness * Costs().head * 5 * pictures * len(task.classes)
    return fits + (measure.features(task, training_precision()).seconds(missing) if missing else 0.0)


def _features(task: Task, measure: Measure) -> float:
    """Return the seconds for the features of a probe that are not kept yet."""
    wanted: tuple[tuple[str, Precision], ...] = (("train", training_precision()), ("val", "float32"))
    counts = [(precision, len(_missing(task, split, precision))) for split, precision in wanted]
    seconds = sum(measure.features(task, precision).seconds(count) for precision, count in counts if count)
    again = int((times_shown(task) > 1).sum())  # shown mirrored as well; kept ones are rare enough not to be looked for
    return seconds + (measure.features(task, training_precision()).seconds(again) if again else 0.0)


def _test(task: Task, measure: Measure) -> float:
    """Return the seconds for the answers to the test pictures: of folds, to every picture."""
    splits = ("train", "val", "test") if task.recipe.data.folds else ("test",)
    return measure.features(task, "float32").seconds(sum(len(task.part(split).keys) for split in splits))


def _missing(task: Task, split: str, precision: Precision) -> list[int]:
    backbone = task.recipe.model.backbone
    trunk = cached_backbone_graph(backbone, task.cache / "trunks", task.view.size)
    store = feature_store(task.cache, trunk, task.view, precision, BACKBONES[backbone].channels)
    return store.missing_keys(task.part(split).keys)


def _head(task: Task, slow: float) -> float:
    pictures = len(task.part("train").keys)
    fits = len(strengths_of(task.recipe, pictures)) + 2 * (task.recipe.evaluate.learning_curve != "off")
    return slow * Costs().head * pictures * len(task.classes) * fits


def _decoding(task: Task) -> float:
    """Return the seconds for the pixels that are not kept yet."""
    parts = [task.part("train"), task.part("val")]
    missing = len(pixel_cache(task.cache, task.view).missing_keys([key for part in parts for key in part.keys]))
    pace = decoding_pace(task.view, sample(parts[0].paths), threads=task.threads) if missing else Pace(0.0, 1.0)
    return pace.seconds(missing)


# ---- What may be chosen --------------------------------------------------------------------------------------------


def _candidates(asked: Recipe, free: bool) -> Iterator[Recipe]:
    """Yield what the recipe leaves open, resolved, the best first; with a budget more than its defaults.

    Before a smaller size or backbone is tried, the search for suspect labels is left out.
    """
    if not free:
        yield asked.resolve()
        return
    suspects = [asked.data.suspects] if "suspects" in asked.overrides().get("data", {}) else [True, False]
    for way in _ways(asked):
        for look in suspects:
            yield with_sections(asked, {**way, "data": {"suspects": look}}).resolve()


def _ways(asked: Recipe) -> Iterator[dict[str, dict[str, Any]]]:
    first, size = asked.resolve(), asked.picture.size
    if first.model.method == "scratch":
        yield from ({"picture": {"size": pixels}} for pixels in ([size] if size else SCRATCH_SIZES))
        return
    backbone = asked.overrides().get("model", {}).get("backbone")
    ways = [way for way in PROBES if backbone in (None, way[0])] or [(first.model.backbone, first.picture.size or 0)]
    for name, pixels in dict.fromkeys((name, size or pixels) for name, pixels in ways):
        yield {"model": {"backbone": name}, "picture": {"size": pixels}}


def with_sections(asked: Recipe, chosen: Mapping[str, Mapping[str, Any]]) -> Recipe:
    """Return the recipe with settings laid over it, by section; raises RecipeError if that is impossible."""
    whole = asked.overrides()
    for section, values in chosen.items():
        whole[section] = {**whole.get(section, {}), **values}
    return Recipe.of(whole)


def _enough(asked: Recipe, recipe: Recipe) -> int:
    """Return how many epochs are enough not to try another way."""
    trains = recipe.model.method != "probe" and asked.train.epochs is None
    return min(ENOUGH_EPOCHS, recipe.train.epochs or 1) if trains else 1


def _epochs(asked: Recipe, recipe: Recipe, estimate: Estimate, room: float) -> int:
    """Return how many epochs fit; where there are none to choose, 1 if all of it fits."""
    asked_for = recipe.train.epochs or 1
    if recipe.model.method == "probe" or asked.train.epochs is not None:
        return int(estimate.seconds(asked_for) <= room)
    fit = math.floor((room - estimate.before - estimate.after) / estimate.epoch)
    return max(0, min(fit, MOST_TIMES_DEFAULT * asked_for))


def room_of(budget_seconds: float, elapsed: float) -> float:
    """Return the seconds that may be planned with: what is left of the budget, less a reserve."""
    return budget_seconds * (1 - RESERVE_SHARE) - RESERVE_SECONDS - elapsed


# ---- What is said --------------------------------------------------------------------------------------------------


def _plan(recipe: Recipe, estimate: Estimate, budget_seconds: float | None, elapsed: float) -> Plan:
    seconds = estimate.seconds(recipe.train.epochs or 1)
    done = time.strftime("%H:%M", time.localtime(time.time() + seconds))
    within = (
        f" Budget {format_duration(budget_seconds)}, of which {format_duration(elapsed)} are over."
        if budget_seconds
        else ""
    )
    words = f"{described(recipe)}; done at about {done} (in {format_duration(seconds)}).{within}"
    deadline = None if budget_seconds is None else budget_seconds - estimate.after
    return Plan(recipe, words, seconds, deadline)


def described(recipe: Recipe) -> str:
    """Return what a resolved recipe does, in a few words.

    >>> described(Recipe().resolved())
    'Probe with lite2 at 260 px'
    """
    model, size = recipe.model, recipe.picture.size
    if model.method == "probe":
        return f"Probe with {model.backbone} at {size} px{_unlooked(recipe)}"
    learner = f"Scratch ({model.network})" if model.method == "scratch" else f"Finetune {model.backbone}"
    return f"{learner} at {size} px for {recipe.train.epochs} epochs{_unlooked(recipe)}"


def _unlooked(recipe: Recipe) -> str:
    return "" if recipe.data.suspects else ", without a search for suspect labels"


def _too_short(asked: Recipe, recipe: Recipe, estimate: Estimate, budget_seconds: float, elapsed: float) -> str:
    epochs = 1 if asked.train.epochs is None else asked.train.epochs
    told = _for_epochs(recipe, epochs)
    takes = elapsed + estimate.seconds(epochs)
    least = math.ceil((takes + RESERVE_SECONDS) / (1 - RESERVE_SHARE))
    return (
        f"--budget {format_duration(budget_seconds)} is too short: {described(told)} is the least that the recipe"
        f" allows, and takes {format_duration(takes)}, of which {format_duration(elapsed)} are over. Give {format_duration(least + 1)} or more,"
        " or leave more open (method, backbone, size, epochs)."
    )


def _for_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """Return the resolved recipe with so many epochs, to be talked about."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": epochs})})
