"""Loss curves of a training run: overfitting, instability or underfitting, in one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bestiary.array_types import Floats
from bestiary.recipe import ResolvedRecipe

Verdict = Literal["overfitting", "unstable", "improving", "settled", "flat", "broken", "too-short"]

_ENOUGH_EPOCHS = 3
# A change of loss counts above twice the epoch-to-epoch noise and above 2 % of the whole movement of the curve.
_NOISE_FACTOR, _FRACTION_OF_MOVEMENT = 2.0, 0.02
# A curve is flat if it moves by less than noise alone would make it, or by less than 1 % of the loss itself.
_NOISE_FACTOR_FLAT, _FRACTION_OF_LOSS = 3.5, 0.01
_ZIGZAG_OF_NOISE = 0.565


@dataclass(frozen=True)
class Overfitting:
    """The verdict on the loss curves, for programs and as a sentence.

    `best_epoch`: the epoch of the lowest validation loss, as numbered in the history; None if there is none.
    """

    verdict: Verdict
    best_epoch: int | None
    last_epoch: int | None
    sentence: str


def overfitting_point(history: Sequence[Mapping[str, Any]]) -> Overfitting:
    """Return whether, and from which epoch on, the training overfitted.

    `history`: one mapping an epoch, in order, as in history.jsonl, with `epoch`, `train_loss` and `val_loss`; a
    missing or null loss counts as NaN. Both curves are smoothed over three epochs, and only changes beyond their own
    noise count, so that one atypical epoch decides nothing.
    """
    if not history:
        return Overfitting("too-short", None, None, "No epoch was finished, so there are no loss curves.")
    epochs = [int(record["epoch"]) for record in history]
    train, val = _losses(history, "train_loss"), _losses(history, "val_loss")
    broken = np.flatnonzero(~np.isfinite(train) | ~np.isfinite(val))
    if len(broken):
        return _non_finite_result(epochs, val, int(broken[0]))
    best, last = epochs[int(val.argmin())], epochs[-1]
    if len(epochs) < _ENOUGH_EPOCHS:
        count = "One epoch is" if len(epochs) == 1 else "Two epochs are"
        return Overfitting("too-short", best, last, f"{count} too few to detect overfitting; train for more epochs.")
    verdict = _verdict(train, val)
    return Overfitting(verdict, best, last, _sentence(verdict, best, last))


def _losses(history: Sequence[Mapping[str, Any]], name: str) -> Floats:
    values = [record.get(name) for record in history]
    return np.array([math.nan if value is None else float(value) for value in values])


def _non_finite_result(epochs: list[int], val: Floats, index: int) -> Overfitting:
    finite = np.flatnonzero(np.isfinite(val))
    best = epochs[int(finite[val[finite].argmin()])] if len(finite) else None
    sentence = f"The loss is NaN or infinite at epoch {epochs[index]} of {epochs[-1]}: lower the learning rate."
    return Overfitting("broken", best, epochs[-1], sentence)


def _verdict(train: Floats, val: Floats) -> Verdict:
    """Return the verdict on at least three epochs of finite losses."""
    smooth, smooth_train = _smooth(val), _smooth(train)
    best, movement = int(smooth.argmin()), float(np.ptp(smooth))
    if movement <= max(_NOISE_FACTOR_FLAT * _noise(val), _FRACTION_OF_LOSS * float(np.abs(val).mean())):
        return "flat"
    threshold = max(_NOISE_FACTOR * _noise(val), _FRACTION_OF_MOVEMENT * movement)
    # The end is the last quarter of the epochs, three at least if there are four: a single bad epoch, which the
    # smoothing spreads over two, must not look like a rise. A loss has risen if it is above the turning point in all.
    end = max(min(3, len(val) - 1), len(val) // 4)
    if smooth[-end:].min() - smooth[best] > threshold:
        train_rise = smooth_train[-end:].min() - smooth_train[best]
        return "unstable" if train_rise > _NOISE_FACTOR * _noise(train) else "overfitting"
    return "improving" if smooth[-1 - end] - smooth[-1] > threshold else "settled"


def _sentence(verdict: Verdict, best: int, last: int) -> str:
    lowest = f"Validation loss is lowest at epoch {best} of {last}"
    return {
        "overfitting": f"{lowest}; training loss keeps falling: overfitting from there on.",
        "unstable": f"{lowest}; training loss rises again as well: lower the learning rate.",
        "improving": f"Validation loss is still falling at epoch {last}, the last: more epochs would help.",
        "settled": f"{lowest} and has settled: no overfitting, and more epochs would hardly help.",
        "flat": f"Validation loss hardly moved in {last} epochs: try another learning rate, or fewer epochs.",
    }[verdict]


def _smooth(losses: Floats) -> Floats:
    """Return the running mean over three epochs; the first and the last epoch are averaged with their one neighbour."""
    window = np.ones(3)
    return np.convolve(losses, window, mode="same") / np.convolve(np.ones_like(losses), window, mode="same")


def _noise(losses: Floats) -> float:
    """Return the standard deviation of the epoch-to-epoch noise, from the zigzag of the curve.

    Only a change of direction shows noise: a falling curve has none however steep or bent it is, which matters for
    histories of a few epochs. The smaller of the two steps around each turn, averaged over all epochs, is 0.565
    standard deviations for independent normal noise (by simulation).
    """
    steps = np.diff(losses)
    turns = steps[1:] * steps[:-1] < 0
    zigzag = np.where(turns, np.minimum(np.abs(steps[1:]), np.abs(steps[:-1])), 0.0)
    return float(zigzag.mean()) / _ZIGZAG_OF_NOISE


def regularisation_path_sentence(history: Sequence[Mapping[str, Any]]) -> str:
    """Describe a regularisation path: each line of `history` is one C, from strong to weak regularisation."""
    best = min(range(len(history)), key=lambda step: history[step]["val_loss"])
    c_value, last = history[best]["regularisation"], len(history) - 1
    if last == 0:
        end = ", the only value tried."
    elif best == last:
        end = ", the weakest regularisation tried: the head does not overfit here."
    elif best == 0:
        end = ", the strongest regularisation tried; with weaker regularisation the head overfits."
    else:
        end = "; with weaker regularisation training loss keeps falling and validation loss rises: overfitting."
    return f"Validation loss is lowest at C = {c_value:.3g}{end}"


def describe_fit(recipe: ResolvedRecipe, history: Sequence[Mapping[str, Any]]) -> str:
    """Describe over- and underfitting: by the regularisation path of a probe, by the loss curve of a network."""
    if recipe.model.method == "probe":
        return regularisation_path_sentence(history)
    return overfitting_point(history).sentence
