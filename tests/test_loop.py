from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

import torch
from torch import nn

from bestiary.array_types import Ints
from bestiary.batches.loader import Read
from bestiary.errors import RecipeError, RunError, SourceError
from bestiary.models.networks import Network, PlainArchitecture, plain_cnn, small_resnet, with_linear_head
from bestiary.progress import SilentReporter
from bestiary.recipe_sections import AugmentConfig, Balance
from bestiary.training import loop
from bestiary.training.balance import BALANCES, class_weights, logit_adjustment, sample_epoch_order
from bestiary.training.checkpoint import load_checkpoint
from bestiary.training.device import seed_for_step
from bestiary.training.loop import (
    FitResult,
    LoopControl,
    LoopSettings,
    ValidationMetrics,
    build_optimiser,
    choose_precision,
    fit,
    lr_factor,
    predict_logits,
)
from bestiary.training.optimiser import MUON_RATE
from bestiary.training.pace import TimeLimit
from bestiary.training.schedule import mean_progressive_size, progressive_size
from listening import Listening

SIZE, CLASSES = 16, 3
PLAIN_VIEW = AugmentConfig(mirror=0, crop_min_area=1, colour_jitter=0, erasing=0)
SETTINGS = LoopSettings(
    epochs=5,
    batch_size=8,
    learning_rate=0.1,
    weight_decay=5e-4,
    momentum=0.9,
    label_smoothing=0.0,
    schedule="one-cycle",
    warmup_epochs=1,
    patience_epochs=100,
    seed=0,
    threads=1,
    precision="float32",
)


def drawn(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noise in which the class decides the brightest channel."""
    rng = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int64) % CLASSES
    images = rng.integers(0, 120, (count, SIZE, SIZE, 3), dtype=np.uint8)
    images[np.arange(count), :, :, labels] += 100
    return images, labels


IMAGES, LABELS = drawn(36)


def reader(images: NDArray[np.uint8]) -> Read:
    def read(positions: Ints) -> NDArray[np.uint8]:
        return images[positions]

    return read


def macro_f1_of(network: Network) -> ValidationMetrics:
    """Accuracy stands in for macro-F1: the classes are equally large here."""
    logits = predict_logits(network, reader(IMAGES), len(IMAGES), batch_size=10, precision="float32")
    loss = float(nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(LABELS)))
    return ValidationMetrics(loss, float((logits.argmax(axis=1) == LABELS).mean()))


def scores(*values: float, losses: float = 1.0) -> Callable[[Network], ValidationMetrics]:
    """A validation that gives these macro-F1 values, one an epoch."""
    left = iter(values)
    return lambda network: ValidationMetrics(losses, next(left))


def small(seed: int = 0) -> Network:
    return small_resnet(CLASSES, filters=(8, 16), blocks=1, dropout=0.2, seed=seed)


def small_plain() -> Network:
    return plain_cnn(CLASSES, SIZE, PlainArchitecture(filters=(8, 16), hidden=(16,), dropout=0.0))


def train(
    folder: Path,
    network: Network,
    settings: LoopSettings = SETTINGS,
    *,
    evaluate: Callable[[Network], ValidationMetrics] = macro_f1_of,
    augmentation: AugmentConfig | None = None,
    read: Read | None = None,
    resume: bool = False,
    reporter: SilentReporter | None = None,
) -> FitResult:
    return fit(
        network,
        read or reader(IMAGES),
        LABELS,
        evaluate,
        settings,
        AugmentConfig() if augmentation is None else augmentation,
        folder,
        LoopControl(reporter or SilentReporter(), resume),
    )


def same_weights(one: Network, other: Network) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Any:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("build", [small, small_plain])
def test_one_batch_can_be_overfitted(tmp_path: Path, build: Callable[[], Network], precision: Any) -> None:
    network = build()
    settings = replace(SETTINGS, epochs=30, batch_size=36, precision=precision, learning_rate=0.05, warmup_epochs=3)
    result = train(tmp_path, network, settings, augmentation=PLAIN_VIEW)
    assert result.history[0]["train_loss"] == pytest.approx(math.log(CLASSES), abs=0.3)
    assert result.history[-1]["train_loss"] < 0.1
    assert result.history[-1]["train_accuracy"] == 1.0
    assert macro_f1_of(network).val_macro_f1 == 1.0


def test_history_has_one_line_an_epoch_with_all_its_keys(tmp_path: Path) -> None:
    result = train(tmp_path, small())
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert lines == list(result.history)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert set(lines[0]) == {
        "epoch", "train_loss", "val_loss", "train_accuracy", "val_macro_f1", "learning_rate", "seconds",
        "images_per_second",
    }  # fmt: skip
    assert (result.stop_reason, result.device in {"cpu", "cuda", "mps"}, result.precision) == (
        "finished",
        True,
        "float32",
    )


def test_the_same_seed_gives_the_same_first_batch_and_the_same_weights(tmp_path: Path) -> None:
    first_batches = []

    def noting(positions: Ints) -> NDArray[np.uint8]:
        first_batches.append(positions.tolist())
        return IMAGES[positions]

    networks = [small(), small(), small()]
    for number, (network, seed) in enumerate(zip(networks, (5, 5, 6), strict=True)):
        train(tmp_path / str(number), network, replace(SETTINGS, epochs=2, seed=seed), read=noting)
    steps = len(first_batches) // 3
    assert first_batches[0] == first_batches[steps] != first_batches[2 * steps]
    assert same_weights(networks[0], networks[1])
    assert not same_weights(networks[0], networks[2])


@pytest.mark.parametrize("optimiser", ["sgd", "muon", "adamw"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_killed_and_resumed_equals_the_uninterrupted_one(tmp_path: Path, optimiser: Any, precision: Any) -> None:
    rate = 0.003 if optimiser == "adamw" else 0.1
    settings = replace(
        SETTINGS, optimiser=optimiser, precision=precision, learning_rate=rate, balance="balanced-sampler"
    )
    whole, killed, resumed = small(), small(), small(seed=9)
    expected = train(tmp_path / "whole", whole, settings)
    left = [0, 0, 0]

    def interrupted(network: Network) -> ValidationMetrics:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return macro_f1_of(network)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", killed, settings, evaluate=interrupted)
    with (tmp_path / "killed" / "history.jsonl").open("a") as lines:
        lines.write('{"epoch": 4, "torn')  # as if the log had been ahead of the checkpoint
    torch.manual_seed(123)
    result = train(tmp_path / "killed", resumed, settings, resume=True)

    assert same_weights(whole, resumed)
    assert result.best_epoch == expected.best_epoch
    timings = {"seconds", "images_per_second"}
    for one, other in zip(result.history, expected.history, strict=True):
        assert {key: one[key] for key in one.keys() - timings} == {key: other[key] for key in other.keys() - timings}
    assert len((tmp_path / "killed" / "history.jsonl").read_text().splitlines()) == settings.epochs


EVERYTHING = AugmentConfig(vertical_mirror=0.5, turn="any", policy="trivial", erasing=0.3)


@pytest.mark.parametrize("augmentation", [EVERYTHING, EVERYTHING.model_copy(update={"turn": "quarters"})])
def test_turns_and_policies_are_drawn_alike_by_a_run_that_is_resumed_within_an_epoch(
    tmp_path: Path, augmentation: AugmentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision")
    settings, whole, resumed = replace(SETTINGS, epochs=2, checkpoint_seconds=1e-9), small(), small(seed=9)
    expected = train(tmp_path / "whole", whole, settings, augmentation=augmentation)
    seeds = list[tuple[int, int]]()

    def dying(seed: int, epoch: int, step: int) -> torch.Generator:
        seeds.append((epoch, step))
        if (epoch, step) == (2, 2):
            raise KeyboardInterrupt
        return seed_for_step(seed, epoch, step)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "seed_for_step", dying)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed", small(), settings, augmentation=augmentation)
    assert seeds[-1] == (2, 2)
    torch.manual_seed(123)
    result = train(tmp_path / "killed", resumed, settings, augmentation=augmentation, resume=True)
    assert same_weights(whole, resumed)
    losses = [[line["train_loss"] for line in run.history] for run in (result, expected)]
    assert losses[0] == losses[1]
    other = train(tmp_path / "other", small(), settings)
    assert other.history[0]["train_loss"] != expected.history[0]["train_loss"]


def test_a_checkpoint_from_before_some_settings_is_resumed(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=2)
    train(tmp_path, small(), settings)
    path = tmp_path / "checkpoints" / "last.pt"
    state = torch.load(path, weights_only=True)
    for name in ("vertical_mirror", "turn", "policy"):
        del state["asked"]["augment"][name]
    del state["asked"]["sync_batch_norm"]
    torch.save(state, path)
    train(tmp_path, small(), settings, resume=True)
    with pytest.raises(RunError, match="was trained with augment = .*'turn': 'none'"):
        train(tmp_path, small(), settings, augmentation=AugmentConfig(turn="any"), resume=True)
    with pytest.raises(RunError, match="was trained with sync_batch_norm = auto; now it is on"):
        train(tmp_path, small(), replace(settings, sync_batch_norm="on"), resume=True)


def test_a_finished_run_resumes_to_its_best_weights(tmp_path: Path) -> None:
    first, again = small(), small(seed=9)
    expected = train(tmp_path, first)
    result = train(tmp_path, again, resume=True)
    assert same_weights(first, again)
    assert (result.best_epoch, result.history) == (expected.best_epoch, expected.history)


def test_the_best_weights_are_kept_and_patience_ends_the_run(tmp_path: Path) -> None:
    kept: list[Network] = []

    def evaluate(network: Network) -> ValidationMetrics:
        twin = small()
        twin.load_state_dict(network.state_dict())
        kept.append(twin)
        return ValidationMetrics(1.0, [0.3, 0.8, 0.5, 0.7, 0.6][len(kept) - 1])

    network = small()
    settings = replace(SETTINGS, patience_epochs=2)
    result = train(tmp_path, network, settings, evaluate=evaluate)
    assert (result.best_epoch, result.stop_reason, len(result.history)) == (2, "patience", 4)
    assert same_weights(network, kept[1])
    assert not same_weights(network, kept[3])
    again = train(tmp_path, small(), settings, evaluate=evaluate, resume=True)
    assert (again.best_epoch, again.stop_reason, len(again.history)) == (2, "patience", 4)


def test_equal_macro_f1_is_decided_by_the_loss(tmp_path: Path) -> None:
    losses = iter([1.0, 0.9, 0.95])
    result = train(
        tmp_path, small(), replace(SETTINGS, epochs=3), evaluate=lambda network: ValidationMetrics(next(losses), 0.5)
    )
    assert result.best_epoch == 2


def test_a_loss_that_is_no_number_ends_the_run_with_the_last_good_weights(tmp_path: Path) -> None:
    network, told = small(), Listening()
    validations = iter([ValidationMetrics(1.0, 0.5), ValidationMetrics(1.0, 0.6), ValidationMetrics(math.nan, 0.9)])
    result = train(tmp_path, network, evaluate=lambda network: next(validations), reporter=told)
    assert (result.stop_reason, result.best_epoch, len(result.history)) == ("diverged", 2, 2)
    assert any("epoch 3" in line and "weights of epoch 2" in line for line in told.said)
    assert all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values())


def test_a_rate_that_is_far_too_high_is_named_when_nothing_good_was_kept(tmp_path: Path) -> None:
    network = small_plain()
    settings = replace(SETTINGS, learning_rate=1e9, warmup_epochs=0)
    with pytest.raises(RecipeError, match=r"epoch 1\. train\.learning_rate is 1e\+09"):
        train(tmp_path, network, settings, augmentation=PLAIN_VIEW)


def test_a_checkpoint_from_before_the_renaming_can_be_resumed(tmp_path: Path) -> None:
    train(tmp_path, small(), replace(SETTINGS, epochs=2, warmup_epochs=1))
    path = tmp_path / "checkpoints" / "last.pt"
    state = torch.load(path, weights_only=True)
    names = list(state["network"])
    assert any(name.startswith("backbone.") for name in names)
    for weights in ("network", "best_weights"):
        state[weights] = {name.replace("backbone.", "trunk.", 1): tensor for name, tensor in state[weights].items()}
    torch.save(state, path)
    assert list(load_checkpoint(path, state["asked"])["network"]) == names


def test_resuming_says_what_is_wrong_with_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="There is no checkpoint"):
        train(tmp_path, small(), resume=True)
    train(tmp_path, small(), replace(SETTINGS, epochs=2), evaluate=scores(0.5, 0.6))
    with pytest.raises(RunError, match=r"learning_rate = 0\.1; now it is 0\.2"):
        train(tmp_path, small(), replace(SETTINGS, epochs=2, learning_rate=0.2), resume=True)
    checkpoint = tmp_path / "checkpoints" / "last.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(RunError, match="damaged"):
        train(tmp_path, small(), replace(SETTINGS, epochs=2), resume=True)


def test_only_the_asked_stages_learn(tmp_path: Path) -> None:
    trunk = nn.Sequential(*(nn.Sequential(nn.Conv2d(size, 4, 3), nn.ReLU()) for size in (3, 4, 4)))
    network = with_linear_head(trunk, CLASSES, channels=4)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    settings = replace(SETTINGS, optimiser="adamw", learning_rate=0.01, unfreeze_stages=1, stage_decay=0.5)
    train(tmp_path, network, settings, evaluate=scores(*np.linspace(0.1, 0.5, 5)))
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"backbone.2.0.weight", "backbone.2.0.bias", "head.linear.weight", "head.linear.bias"}


def test_the_head_alone_learns_with_no_stage_unfrozen() -> None:
    network = small()
    optimiser = build_optimiser(network, replace(SETTINGS, unfreeze_stages=0))
    learning = [weight for group in optimiser.param_groups for weight in group["params"]]
    assert {id(weight) for weight in learning} == {id(weight) for weight in network.head.parameters()}


def test_lower_stages_learn_more_slowly_and_vectors_do_not_decay() -> None:
    groups = build_optimiser(small(), replace(SETTINGS, stage_decay=0.5)).param_groups
    assert [group["peak"] for group in groups[::2]] == pytest.approx([0.1, 0.05, 0.025, 0.0125])
    assert all(weight.ndim > 1 for group in groups[::2] for weight in group["params"])
    assert all(group["weight_decay"] == 0 for group in groups[1::2])


def test_muon_moves_the_filters_by_orthogonal_steps_and_the_rest_as_sgd() -> None:
    network = small()
    settings = replace(SETTINGS, optimiser="muon", learning_rate=0.1, weight_decay=0.0)
    optimiser = build_optimiser(network, settings)
    filters = [weight for weight in network.parameters() if weight.ndim == 4]
    orthogonal_ones = [weight for group in optimiser.param_groups if group["orthogonal"] for weight in group["params"]]
    assert {id(weight) for weight in orthogonal_ones} == {id(weight) for weight in filters[1:]}
    learning = [weight for group in optimiser.param_groups for weight in group["params"]]
    assert sorted(map(id, learning)) == sorted(map(id, network.parameters()))
    before = [weight.detach().clone() for weight in filters]
    for weight in learning:
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    optimiser.step()
    for weight, old in zip(filters[1:], before[1:], strict=True):
        step = (weight.detach() - old).flatten(1) / (0.1 * MUON_RATE)
        singular = torch.linalg.svdvals(step) / max(1, step.shape[0] / step.shape[1]) ** 0.5
        assert 0.5 < float(singular.min()) <= float(singular.max()) < 1.4
    expected = before[0] - 0.1 * 1.9 * filters[0].grad  # type: ignore[operator]
    assert torch.allclose(filters[0].detach(), expected, atol=1e-6)


def test_pictures_grow_with_the_epochs(tmp_path: Path) -> None:
    sizes = []
    settings = replace(SETTINGS, epochs=6, size_from=32, size_to=64)
    assert [progressive_size(epoch, settings) for epoch in range(1, 7)] == [32, 32, 48, 48, 64, 64]
    assert progressive_size(3, SETTINGS) is None
    network = small()
    network.register_forward_pre_hook(lambda module, given: sizes.append((module.training, given[0].shape[-1])))
    train(tmp_path, network, replace(SETTINGS, epochs=2, size_from=8, size_to=12))
    assert sorted({size for training, size in sizes if training}) == [8, 12]
    assert {size for training, size in sizes if not training} == {SIZE}


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine"])
def test_the_rate_rises_to_its_peak_once_and_ends_near_zero(schedule: Any) -> None:
    rates = [lr_factor(step, total_steps=100, warmup_steps=20, schedule=schedule) for step in range(100)]
    assert rates[20] == max(rates) == 1
    assert (np.diff(rates[:21]) > 0).all()
    assert (np.diff(rates[20:]) < 0).all()
    assert 0 < rates[-1] < 0.02
    assert 0 < rates[0] < 0.06


def test_a_warm_up_that_leaves_no_training_is_refused() -> None:
    with pytest.raises(RecipeError, match="warmup_epochs is 5 of 5 epochs"):
        replace(SETTINGS, warmup_epochs=5)


def test_precision_follows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert choose_precision("bfloat16", cpu) == "bfloat16"
    for has, expected in (({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({}, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: has, raising=False)
        assert choose_precision("auto", cpu) == expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_precision("auto", cpu) == "float32"


def test_logits_come_for_every_row_in_order() -> None:
    network = small()
    whole = predict_logits(network, reader(IMAGES), 35, batch_size=35, precision="float32")
    parts = predict_logits(network, reader(IMAGES), 35, batch_size=8, precision="float32")
    assert whole.shape == (35, CLASSES)
    np.testing.assert_allclose(parts, whole, atol=1e-5)


# ---- Balance ---------------------------------------------------------------------------------------------------------

UNEQUAL = np.repeat(np.arange(3), [12, 6, 2]).astype(np.int64)


def shown(balance: Balance, epoch: int = 1) -> NDArray[np.int64]:
    return np.bincount(UNEQUAL[sample_epoch_order(UNEQUAL, 3, balance, seed=0, epoch=epoch)], minlength=3)


def test_the_recipe_and_the_balances_agree() -> None:
    assert get_args(Balance) == BALANCES


@pytest.mark.parametrize("balance", ["none", "class-weights", "logit-adjusted"])
def test_an_epoch_shows_every_picture_once(balance: Balance) -> None:
    assert sorted(sample_epoch_order(UNEQUAL, 3, balance, seed=0, epoch=1)) == list(range(20))


def test_oversampling_shows_all_classes_as_often_as_the_largest_and_drops_no_picture() -> None:
    assert shown("oversample").tolist() == [12, 12, 12]
    assert set(sample_epoch_order(UNEQUAL, 3, "oversample", seed=0, epoch=1)) == set(range(20))


def test_the_balanced_sampler_keeps_the_epoch_s_length_and_takes_turns_with_the_rest() -> None:
    assert [sum(shown("balanced-sampler", epoch)) for epoch in (1, 2, 3)] == [20, 20, 20]
    assert sum(shown("balanced-sampler", epoch) for epoch in (1, 2, 3)).tolist() == [20, 20, 20]  # type: ignore[union-attr]
    first, again, other = (
        sample_epoch_order(UNEQUAL, 3, "balanced-sampler", seed=0, epoch=epoch).tolist() for epoch in (1, 1, 2)
    )
    assert first == again != other


def test_weights_are_the_inverse_share_with_mean_one_over_the_pictures() -> None:
    weights = class_weights(UNEQUAL, 3, "class-weights")
    assert weights[UNEQUAL].mean() == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(2)
    assert class_weights(UNEQUAL, 3, "oversample").tolist() == [1, 1, 1]


def test_offsets_are_the_log_of_the_share() -> None:
    assert np.exp(logit_adjustment(UNEQUAL, 3, "logit-adjusted")) == pytest.approx([0.6, 0.3, 0.1])
    assert logit_adjustment(UNEQUAL, 3, "none").tolist() == [0, 0, 0]


def test_an_unknown_balance_and_an_empty_class_are_named() -> None:
    with pytest.raises(RecipeError, match=r'"oversampel".*Did you mean "oversample"\?'):
        class_weights(UNEQUAL, 3, "oversampel")  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"classes \[0, 1, 2\]; expected every class from 0 to 3"):
        sample_epoch_order(UNEQUAL, 4, "none", seed=0, epoch=1)


@pytest.mark.parametrize("balance", BALANCES)
def test_every_balance_trains(tmp_path: Path, balance: Balance) -> None:
    settings = replace(SETTINGS, epochs=2, balance=balance, label_smoothing=0.1)
    assert len(train(tmp_path, small(), settings).history) == 2


def test_training_ends_when_no_further_epoch_fits_into_the_time(tmp_path: Path) -> None:
    told, asked = Listening(), list[float]()

    def may_go_on(epoch_seconds: float) -> bool:
        asked.append(epoch_seconds)
        return len(asked) < 2

    network = small()
    result = fit(
        network,
        reader(IMAGES),
        LABELS,
        scores(0.5, 0.4),
        SETTINGS,
        PLAIN_VIEW,
        tmp_path,
        LoopControl(told, should_continue=may_go_on),
    )
    assert (result.stop_reason, len(result.history), result.best_epoch) == ("budget", 2, 1)
    assert asked == [record["seconds"] for record in result.history]
    assert any("Time budget used up after epoch 2 of 5; the best was epoch 1." in line for line in told.said)


class SlowClock:
    """Seconds left of 30, on a clock that a step moves by half a second, three from the third epoch on."""

    def __init__(self) -> None:
        self.left, self.batches = 30.0, 0

    def read(self, positions: Ints) -> NDArray[np.uint8]:
        return IMAGES[positions]

    def step(self, *_: object) -> None:
        self.batches += 1
        self.left -= 0.5 if self.batches <= 8 else 3.0


def within_time(
    folder: Path, network: Network, *, resume: bool = False, evaluate: Callable[..., ValidationMetrics] = macro_f1_of
) -> tuple[FitResult, list[str]]:
    told, clock, settings = Listening(), SlowClock(), replace(SETTINGS, epochs=10, checkpoint_seconds=1e-9)
    limit = None if resume else TimeLimit(lambda: clock.left, epoch_seconds=2.0, after_seconds=2.0)
    handle = network.register_forward_hook(lambda module, *_: clock.step() if module.training else None)
    control = LoopControl(told, resume, limit=limit)
    result = fit(network, clock.read, LABELS, evaluate, settings, PLAIN_VIEW, folder, control)
    handle.remove()
    return result, told.said


def test_a_schedule_within_a_time_limit_is_shortened_and_ends_cooled_down(tmp_path: Path) -> None:
    result, said = within_time(tmp_path, small())
    last = result.history[-1]
    assert result.stop_reason == "budget"
    assert len(result.history) < 10
    assert last["steps"] < 40
    assert last["schedule"] == pytest.approx(1)
    assert last["learning_rate"] < 0.2 * max(line["learning_rate"] for line in result.history)
    assert any("The schedule was shortened to" in line and "of 10 epochs" in line for line in said)
    replans = [replan for line in result.history for replan in line["replans"]]
    assert replans[-1][1] == last["steps"]
    assert 0 < last["train_accuracy"] <= 1  # of an epoch that is not whole
    assert (tmp_path / "history.jsonl").read_text().splitlines() == [json.dumps(line) for line in result.history]


def test_a_shortened_schedule_is_resumed_to_its_end_without_a_clock(tmp_path: Path) -> None:
    left = [0, 0, 0]

    def interrupted(network: Network) -> ValidationMetrics:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return macro_f1_of(network)

    with pytest.raises(KeyboardInterrupt):
        within_time(tmp_path, small(), evaluate=interrupted)
    pace = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["pace"]
    assert pace["step"] < pace["end_step"] < 40
    network = small(seed=9)
    result, _ = within_time(tmp_path, network, resume=True)
    assert result.stop_reason == "budget"
    assert (result.history[-1]["steps"], result.history[-1]["schedule"]) == (pace["end_step"], pytest.approx(1))
    again, same = small(seed=9), small(seed=8)
    for other in (again, same):  # a finished one changes no more
        assert within_time(tmp_path, other, resume=True)[0].history == result.history
    assert same_weights(network, again)
    assert same_weights(network, same)


@pytest.mark.parametrize("shortened", [True, False])
def test_a_run_killed_before_its_last_validation_is_validated(tmp_path: Path, shortened: bool) -> None:
    """A checkpoint within an epoch may come after the last step of all."""
    settings = replace(SETTINGS, epochs=2, checkpoint_seconds=1e-9)

    def run(folder: Path, network: Network, *, resume: bool, dies_in: int = 0) -> FitResult:
        validated = [0]

        def validate(network: Network) -> ValidationMetrics:
            validated[0] += 1
            if validated[0] == dies_in:
                raise KeyboardInterrupt
            return macro_f1_of(network)

        if shortened:
            return within_time(folder, network, resume=resume, evaluate=validate)[0]
        return train(folder, network, settings, evaluate=validate, resume=resume)

    whole, resumed = small(), small(seed=9)
    expected = run(tmp_path / "whole", whole, resume=False)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", small(), resume=False, dies_in=len(expected.history))
    result = run(tmp_path / "killed", resumed, resume=True)
    assert same_weights(whole, resumed)
    timings = {"seconds", "images_per_second"}
    for line, wanted in zip(result.history, expected.history, strict=True):
        assert {key: line[key] for key in line.keys() - timings} == {
            key: wanted[key] for key in wanted.keys() - timings
        }


def test_threads_are_chosen_as_training_goes_on_and_recorded(tmp_path: Path) -> None:
    before, steps = torch.get_num_threads(), [0]

    def choose() -> int:
        steps[0] += 1
        return 1 if steps[0] <= 4 else 2

    try:
        control = LoopControl(choose_threads=choose)
        settings = replace(SETTINGS, epochs=2)
        result = fit(small(), reader(IMAGES), LABELS, scores(0.5, 0.6), settings, PLAIN_VIEW, tmp_path, control)
        assert [line["threads"] for line in result.history] == [1, 2]
    finally:
        torch.set_num_threads(before)


def test_a_checkpoint_from_before_schedules_were_stored_is_resumed(tmp_path: Path) -> None:
    whole, resumed = small(), small(seed=9)
    train(tmp_path / "whole", whole)
    left = [0, 0]

    def interrupted(network: Network) -> ValidationMetrics:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return macro_f1_of(network)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, small(), evaluate=interrupted)
    path = tmp_path / "checkpoints" / "last.pt"
    state = torch.load(path, weights_only=True)
    del state["pace"]
    torch.save(state, path)
    train(tmp_path, resumed, resume=True)
    assert same_weights(whole, resumed)


def test_without_a_time_limit_the_history_has_its_old_keys(tmp_path: Path) -> None:
    keys = {"epoch", "train_loss", "val_loss", "train_accuracy", "val_macro_f1", "learning_rate", "seconds"}
    assert train(tmp_path, small()).history[0].keys() == keys | {"images_per_second"}


def test_the_typical_size_costs_what_growing_pictures_cost_on_average() -> None:
    growing = replace(SETTINGS, epochs=48, size_from=64, size_to=112)
    sides = [progressive_size(epoch, growing) or 0 for epoch in range(1, 49)]
    assert mean_progressive_size(growing) == round(math.sqrt(sum(side**2 for side in sides) / 48))
    assert 64 < (mean_progressive_size(growing) or 0) < 112
    assert mean_progressive_size(replace(SETTINGS, size_from=None, size_to=None)) is None
