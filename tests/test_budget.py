"""A budget of time: what is chosen, what is respected, what is said. The measurements are stand-ins: no timed test."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

pytest.importorskip("sklearn")

from bestiary import files, flow, run_folder
from bestiary.cli.options import parse_duration
from bestiary.context import Context
from bestiary.data.sources import PictureEntry, PictureList
from bestiary.demo.dataset import SyntheticDataset
from bestiary.errors import RecipeError, UserError
from bestiary.evaluation import learning_curve
from bestiary.export import parity
from bestiary.models.engine import Precision
from bestiary.recipe import Recipe, ResolvedRecipe
from bestiary.training import budget, quick_estimate, throughput, time_estimate
from bestiary.training.budget import TrainingPlan, describe_recipe, plan_training
from bestiary.training.pace import make_time_limit
from bestiary.training.task import TrainingTask, make_task
from bestiary.training.time_estimate import TimeEstimate
from listening import Listening

SECONDS = {("lite2", 260): 60.0, ("lite0", 224): 30.0, ("lite0", 160): 18.0, ("lite0", 128): 12.0, ("lite0", 96): 8.0}
FEW = ["bird", "fish", "spider"]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainingPlan]:
    """`plan_training` where times are known: of a probe as above; scratch 20 + an epoch of size / 16 + 10 s."""

    def estimate(recipe: Recipe, measure: object) -> TimeEstimate:
        size = recipe.picture.size or 0
        if recipe.model.method == "probe":
            return TimeEstimate(SECONDS.get((recipe.model.backbone, size), 100.0), 0.0, 0.0)
        return TimeEstimate(20.0, size / 16, 10.0)

    monkeypatch.setattr(budget, "estimate_seconds", estimate)
    monkeypatch.setattr(budget, "make_task", lambda run, recipe, pictures, context: recipe)
    monkeypatch.setattr(budget, "has_cached_features", lambda recipe: False)

    def plan(asked: dict[str, object], seconds: float | None, elapsed: float = 5.0) -> TrainingPlan:
        timer = SimpleNamespace(total=elapsed)
        return plan_training(Recipe.of(asked), pl.DataFrame(), seconds, Context(1, timer=timer))  # type: ignore[arg-type]

    return plan


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("10min", 600), ("2h", 7200), ("1h30m", 5400), ("1h 30m", 5400), ("0.5h", 1800)],
)
def test_spans_of_time_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "10", "ten minutes", "m10", "-5m", "0s", "5m5m", "30m1h", "5d", "1h30", "nan", "1e3s"]
)
def test_nonsense_is_refused_with_examples(text: str) -> None:
    with pytest.raises(UserError, match=re.escape(f'"{text}" is not a duration. Write 90s, 10m')):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "backbone", "size"),
    [(600, "lite2", 260), (75, "lite2", 260), (60, "lite0", 224), (30, "lite0", 160), (20, "lite0", 128)],
)
def test_the_best_probe_that_fits_is_chosen(
    plan: Callable[..., TrainingPlan], seconds: float, backbone: str, size: int
) -> None:
    chosen = plan({}, seconds)
    assert (chosen.recipe.model.backbone, chosen.recipe.picture.size) == (backbone, size)
    assert 5 + chosen.seconds <= seconds
    assert f"probe with {backbone} at {size} px" in chosen.words.lower()


def test_what_is_set_is_respected(plan: Callable[..., TrainingPlan]) -> None:
    assert plan({"model": {"backbone": "lite0"}}, 600).recipe.model.backbone == "lite0"
    assert plan({"picture": {"size": 224}}, 50).recipe.picture.size == 224
    with pytest.raises(
        RecipeError, match=r"--budget 60 s is too short: Probe with lite2 at 260 px.*takes 1 min 5 s|65 s"
    ):
        plan({"model": {"backbone": "lite2"}, "picture": {"size": 260}}, 60)


def test_too_short_a_budget_is_told_what_would_do(plan: Callable[..., TrainingPlan]) -> None:
    with pytest.raises(RecipeError, match="too short: Probe with lite0 at 96 px") as told:
        plan({}, 10)
    found = re.search(r"Give (\d+) s or more", str(told.value))
    assert found is not None
    plan({}, float(found[1]))  # and it does
    with pytest.raises(RecipeError):
        plan({}, float(found[1]) - 4)


@pytest.mark.parametrize(
    ("seconds", "size", "epochs"), [(2000, 128, 144), (1000, 128, 114), (300, 128, 31), (130, 96, 14), (90, 64, 12)]
)
def test_epochs_and_size_from_scratch(
    plan: Callable[..., TrainingPlan], seconds: float, size: int, epochs: int
) -> None:
    """A smaller size is taken where fewer epochs than enough would fit; more than three times the default never are."""
    chosen = plan({"model": {"method": "scratch"}}, seconds)
    assert (chosen.recipe.picture.size, chosen.recipe.train.epochs) == (size, epochs)
    assert chosen.recipe.train.warmup_epochs == pytest.approx(epochs / 5)  # the schedule is planned for so many epochs
    assert chosen.deadline_seconds == seconds - 10
    assert 5 + chosen.seconds <= seconds


def test_epochs_that_are_set_stay(plan: Callable[..., TrainingPlan]) -> None:
    asked = {"model": {"method": "scratch"}, "train": {"epochs": 7}}
    assert plan(asked, 600).recipe.train.epochs == 7
    assert plan(asked, 80).recipe.picture.size == 64
    with pytest.raises(RecipeError, match="for 7 epochs"):
        plan({**asked, "picture": {"size": 128}}, 80)


def test_without_a_budget_nothing_is_changed_but_the_end_is_said(plan: Callable[..., TrainingPlan]) -> None:
    for asked in ({}, {"model": {"method": "scratch"}}, {"model": {"backbone": "lite0"}, "seed": 3}):
        chosen = plan(asked, None)
        assert chosen.recipe == Recipe.of(asked).resolve()
        assert chosen.deadline_seconds is None
        assert re.search(r"finished at about \d\d:\d\d \(in .+\)", chosen.words)


def test_a_hopeless_budget_is_refused_before_the_pictures_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(1, cache=tmp_path)
    listing = PictureList([PictureEntry(tmp_path / f"{number}.png", "cat") for number in range(60_000)])
    read = list[Path]()

    def measure(path: Path, limits: object) -> None:
        read.append(path)
        time.sleep(0.002)

    monkeypatch.setattr(quick_estimate, "measure_file", measure)
    check = quick_estimate.budget_check([Recipe()], 30.0, context)
    assert check is not None
    with pytest.raises(RecipeError, match="--budget 30 s is too short: reading 60,000 pictures"):
        check(listing)
    assert 1 <= len(read) <= quick_estimate.SAMPLED_FILES
    enough = quick_estimate.budget_check([Recipe()], 36_000.0, context)
    assert enough is not None
    enough(listing)
    assert quick_estimate.budget_check([Recipe()], None, context) is None


def test_an_early_refusal_knows_what_is_cached_and_how_many_runs_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(1, cache=tmp_path)
    listing = PictureList([PictureEntry(tmp_path / f"{number}.png", "cat") for number in range(30_000)])
    monkeypatch.setattr(quick_estimate, "unmeasured_paths", lambda *_: [])
    monkeypatch.setattr(quick_estimate, "machine_slowdown", lambda: 1.0)

    def is_refused(runs: list[Recipe], seconds: float) -> bool:
        check = quick_estimate.budget_check(runs, seconds, context)
        assert check is not None
        try:
            check(listing)
        except RecipeError:
            return True
        return False

    assert is_refused([Recipe()], 36.0)  # features of 30,000 pictures
    (tmp_path / "features").mkdir()
    assert not is_refused([Recipe()], 36.0)
    assert is_refused([Recipe()] * 12, 36.0)
    assert not is_refused([Recipe()] * 12, 120.0)
    assert is_refused([Recipe.of({"model": {"method": "scratch"}})] * 8, 60.0)  # torch takes longer to start


def test_the_fastest_recipe_is_measured_second_and_ends_the_search(
    plan: Callable[..., TrainingPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate, measured = budget.estimate_seconds, []

    def count(recipe: ResolvedRecipe, machine: object) -> TimeEstimate:
        measured.append((recipe.model.backbone, recipe.picture.size, recipe.data.suspects))
        return estimate(recipe, machine)  # type: ignore[arg-type]

    monkeypatch.setattr(budget, "estimate_seconds", count)
    with pytest.raises(RecipeError, match="too short: Probe with lite0 at 96 px"):
        plan({}, 10)
    assert measured == [("lite2", 260, True), ("lite0", 96, False)]
    measured.clear()
    assert plan({}, 20).recipe.picture.size == 128
    assert len(measured) == len(set(measured)) == 8  # none twice
    # The features of one in the middle are cached, so that it may be faster than the last.
    monkeypatch.setitem(SECONDS, ("lite0", 224), 2.0)
    monkeypatch.setattr(budget, "has_cached_features", lambda recipe: recipe.picture.size == 224)
    measured.clear()
    assert plan({}, 10).recipe.picture.size == 224
    assert measured == [("lite2", 260, True), ("lite0", 96, False), ("lite0", 224, True)]


def test_the_estimate_knows_the_largest_learning_curve() -> None:
    assert time_estimate.LEARNING_CURVE_PICTURES == learning_curve.MAX_PICTURES


def test_training_goes_on_while_an_epoch_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TrainingTask(Recipe(), None, (), None, Path(), Context(deadline_seconds=100.0))  # type: ignore[arg-type]
    assert task.has_time_for_epoch(90)
    assert not task.has_time_for_epoch(101)
    now = time.perf_counter()
    monkeypatch.setattr(time, "perf_counter", lambda: now + 50)
    assert task.has_time_for_epoch(45)
    assert not task.has_time_for_epoch(55)


def test_the_schedule_has_the_time_that_the_budget_leaves(
    plan: Callable[..., TrainingPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = plan({"model": {"method": "scratch"}}, 300)
    assert chosen.planned is not None
    assert (chosen.planned.epoch, chosen.planned.after, chosen.planned.reserve) == (8.0, 10.0, 16.0)
    timer = SimpleNamespace(total=100.0)
    context = chosen.run_context(Context(2, timer=timer))  # type: ignore[arg-type]
    limit = make_time_limit(context)
    assert limit is not None
    assert limit.seconds_left() == 300 - 16 - 100  # to the end of the job, less the reserve
    timer.total = 250.0
    assert limit.seconds_left() == 34
    for other in (plan({}, 300), plan({"model": {"method": "scratch"}}, None)):
        context = other.run_context(Context(2))
        assert make_time_limit(context) is None


def test_folds_and_the_final_model_share_the_time(plan: Callable[..., TrainingPlan]) -> None:
    chosen = plan({"model": {"method": "scratch"}, "data": {"folds": 3}, "train": {"epochs": 4}}, 400)
    assert chosen.planned is not None
    assert (chosen.planned.epoch, chosen.planned.after) == (8.0 / 4, 10.0 / 4)
    timer = SimpleNamespace(total=40.0)
    context = chosen.run_context(Context(2, timer=timer))  # type: ignore[arg-type]
    ends = []
    for models in (4, 3, 2):  # each is trained, exported and tested until its time is up
        limit = make_time_limit(context.split_deadline(models))
        assert limit is not None
        ends.append(timer.total + limit.seconds_left())
        timer.total = ends[-1]
    assert ends == pytest.approx([40 + 90, 40 + 180, 40 + 270])
    last = context.split_deadline(1)
    assert last.deadline_seconds == chosen.deadline_seconds == 400 - 2.5
    assert Context(2).split_deadline(4).deadline_seconds is None


def test_a_busy_machine_is_noticed_and_recorded(
    plan: Callable[..., TrainingPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Listening()
    monkeypatch.setattr(budget, "measure_training_threads", lambda context: (1, 1.0))
    busy = plan_training(Recipe.of({"model": {"method": "scratch"}}), pl.DataFrame(), 300, Context(2, told))
    assert told.said == ["Other programs use 1.0 of 2 cores: training with 1 thread. Set --threads for a fixed number."]
    assert busy.facts()["training threads"] == 1
    assert busy.facts()["cores in use by others"] == 1.0
    assert busy.run_context(Context(2)).training_threads == 1
    assert "training threads" not in plan({}, 300).facts()  # a probe trains no network


def test_requested_threads_stay(plan: Callable[..., TrainingPlan]) -> None:
    chosen = plan({"model": {"method": "scratch"}}, 300)  # with Context(1)
    assert chosen.network_threads == 1


def test_a_run_within_a_budget_says_what_was_chosen(
    collection: SyntheticDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real measurements, on a few pictures; the budget is one that any machine keeps."""
    monkeypatch.setattr(throughput, "MEASURE_SECONDS", 0.1)
    recipe = Recipe.of({"data": {"classes": FEW}, "picture": {"size": 64}, "evaluate": {"resamples": 100}})
    run = flow.train(collection.folder, recipe=recipe, out=tmp_path / "run", threads=1, budget_seconds=3600).path
    words = files.read_json(run / "environment.json")["plan"]
    assert words.startswith("Probe with lite2 at 64 px; finished at about")
    assert run_folder.load_recipe(run) == recipe
    assert run_folder.load_resolved_recipe(run).picture.size == 64
    assert "plan" in files.read_json(run / "metrics.json")["seconds"]
    with pytest.raises(RecipeError, match=r"--budget 1 s is too short: reading \d+ pictures"):
        flow.train(collection.folder, recipe=recipe, out=tmp_path / "other", threads=1, budget_seconds=1)
    assert not (tmp_path / "other").exists()


def test_a_recipe_in_words() -> None:
    asked = {"model": {"method": "scratch"}, "train": {"epochs": 9}}
    assert describe_recipe(Recipe.of(asked).resolve()) == "Scratch (resnet) at 128 px for 9 epochs"


class SlowMachine(time_estimate.MachineProfile):
    """A machine as fast as the reference, on which the backbone takes a second a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.slowdown = 1.0

    def feature_throughput(self, task: TrainingTask, precision: Precision) -> throughput.Throughput:
        return throughput.Throughput(0.0, 1.0)

    def file_throughput(self, task: TrainingTask) -> throughput.Throughput:
        return self.feature_throughput(task, "float32")


@pytest.mark.parametrize("folds", [0, 4])
def test_pictures_that_are_predicted_from_their_files_count(tmp_path: Path, folds: int) -> None:
    """With a slow backbone the proof takes minutes, and that of all test pictures more."""
    parts = ["train"] * 300 + ["val"] * 50 + ["test"] * (0 if folds else 400)
    rows = {"sha256": [str(row) for row in range(len(parts))], "split": parts, "label": ["a", "b"] * (len(parts) // 2)}
    pictures = pl.DataFrame(rows | {"path": [f"{row}.png" for row in range(len(parts))]})

    def estimate(prove: str) -> float:
        recipe = {"data": {"folds": folds}, "evaluate": {"prove": prove}, "features": {"engine": "onnxruntime"}}
        recipe |= {"picture": {"size": 32}, "model": {"backbone": "lite0"}}
        task = make_task(Path(), Recipe.of(recipe).resolve(), pictures, Context(1, cache=tmp_path))
        return time_estimate.estimate_seconds(task, SlowMachine()).seconds(1)

    sample, every = estimate("sample"), estimate("all")
    proven = 5 * (50 + 350 // 4 + 64) if folds else 224 + 64
    assert sample == pytest.approx(len(parts) + proven, rel=0.1)
    assert every - sample == pytest.approx(5 * (350 // 5) if folds else 400)
    assert parity.PROBE_TEST_PICTURES + parity.PROBE_VAL_PICTURES == time_estimate.PROVEN_PICTURES
    assert parity.ENGINE_SAMPLE + parity.NETWORK_SAMPLE == time_estimate.PROVEN_TWICE


class SteadyEpochs:
    """Epochs that take ten seconds."""

    validation = 1.0

    def epoch_seconds(self, *_: int) -> float:
        return 10.0


@pytest.mark.parametrize(
    ("teacher", "suspects", "folds", "counted"),
    [("lite0", False, 0, 300), ("lite0", True, 0, 300), ("lite0", False, 5, 400), ("lite2", True, 0, 0)],
)
def test_the_features_of_a_teacher_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: str, suspects: bool, folds: int, counted: int
) -> None:
    """The label check computes those of lite2 for a network anyway; folds train on all pictures."""
    pytest.importorskip("torch")
    monkeypatch.setattr(time_estimate, "_decode_seconds", lambda _: 0.0)
    monkeypatch.setattr(SlowMachine, "epoch_throughput", lambda *_: SteadyEpochs())
    parts = ["train"] * 300 + ["val"] * 50 + ["test"] * 50
    rows = {"sha256": [str(row) for row in range(len(parts))], "split": parts, "label": ["a", "b"] * (len(parts) // 2)}
    pictures = pl.DataFrame(rows | {"path": [f"{row}.png" for row in range(len(parts))]})

    def estimate(distill: str) -> float:
        recipe = {
            "model": {"method": "scratch"},
            "train": {"distill": distill},
            "features": {"engine": "onnxruntime"},
            "data": {"suspects": suspects, "folds": folds},
        }
        task = make_task(Path(), Recipe.of(recipe).resolve(), pictures, Context(1, cache=tmp_path))
        return time_estimate.estimate_seconds(task, SlowMachine()).seconds(1)

    assert estimate(teacher) - estimate("none") == pytest.approx(counted)


def test_a_search_that_may_be_remembered_refuses_no_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """60,000 pictures are searched in 42 s, or not at all where the pairs are in the cache."""
    monkeypatch.setattr(quick_estimate, "unmeasured_paths", lambda *_: [])
    monkeypatch.setattr(quick_estimate, "machine_slowdown", lambda: 1.0)
    (tmp_path / "features").mkdir()
    listing = PictureList([PictureEntry(Path(f"{row}.png"), "a") for row in range(60_000)])
    check = quick_estimate.budget_check([Recipe()], 45.0, Context(1, cache=tmp_path))
    assert check is not None
    with pytest.raises(RecipeError, match="searching them for duplicates"):
        check(listing)
    (tmp_path / "duplicates").mkdir()
    check(listing)
