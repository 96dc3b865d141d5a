"""Selection bias of a search: the best trials and the default are scored again on fresh splits.

The best of many noisy scores is too high on average (Cawley and Talbot 2010). A second score, with another random seed
and on pictures that played no part in the choice, is free of that bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bestiary.evaluation.multi_seed import corrected_resampled_ttest

BEST = 5
SEEDS = {"probe": 10, "finetune": 2, "scratch": 2}  # fresh seeds where none are requested

Scores = Mapping[int, Mapping[int, float]]  # macro-F1 by trial and fresh seed


def rescoring_order(best: Sequence[int], default: int | None, seeds: int) -> list[tuple[int, int]]:
    """Return pairs of trial and fresh seed in the order of scoring: in each round first the winner and the default.

    >>> rescoring_order([7, 3], 0, 2)
    [(7, 1), (0, 1), (3, 1), (7, 2), (0, 2), (3, 2)]
    """
    trials = dict.fromkeys([best[0], default, *best[1:]])
    return [(trial, seed) for seed in range(1, seeds + 1) for trial in trials if trial is not None]


def selection_bias_report(
    first: Mapping[int, float], fresh: Scores, winner: int, default: int | None, *, val_train_ratio: float, wanted: int
) -> dict[str, Any]:
    """Return the second scores and the gain without selection bias, as plain values and as a sentence.

    first: macro-F1 of the trials in the search, the best first. val_train_ratio: validation pictures of a fresh split
    per training picture; it widens the interval, since the splits overlap (Nadeau and Bengio 2003). wanted: the number
    of fresh splits that were requested.
    """
    rows = [
        {
            "trial": trial,
            "default": trial == default,
            "first": score,
            "fresh": mean_with_interval(list(fresh.get(trial, {}).values()), val_train_ratio),
        }
        for trial, score in first.items()
    ]
    if default is None:
        return {"trials": rows, "sentence": "The default trial did not finish, so no gain can be computed."}
    shared = sorted(fresh.get(winner, {}).keys() & fresh.get(default, {}).keys())
    gains = [fresh[winner][seed] - fresh[default][seed] for seed in shared]
    gain, fresh_gain = first[winner] - first[default], mean_with_interval(gains, val_train_ratio)
    seeds = len(shared) if wanted else None
    sentence = describe_gain(gain, fresh_gain, seeds, is_default=winner == default) + _better_trial_remark(rows, winner)
    return {"gain": gain, "fresh gain": fresh_gain, "seeds": len(shared), "trials": rows, "sentence": sentence}


def mean_with_interval(values: Sequence[float], val_train_ratio: float) -> dict[str, float | None] | None:
    """Return the mean with its 95 % interval (ends None for a single value), or None without values."""
    if not values:
        return None
    if len(values) < 2:
        return {"value": values[0], "low": None, "high": None}
    test = corrected_resampled_ttest(values, val_train_ratio)
    return {end: test[end] for end in ("value", "low", "high")}


def describe_gain(gain: float, fresh: Mapping[str, float | None] | None, seeds: int | None, *, is_default: bool) -> str:
    """Return the gain of the winner and its selection bias as text, claiming no more than the scores show.

    seeds: fresh splits that both winner and default were scored on, None if none were requested.

    >>> describe_gain(0.012, {"value": 0.004, "low": 0.001, "high": 0.007}, 10, is_default=False).partition("). ")[2]
    'The gain is significant, but 0.80 points of the 1.20 points were selection bias.'
    """
    if is_default:
        return "No trial was better than the default on validation: no gain, and no selection bias."
    if gain == 0:
        return "The winner has the macro-F1 of the default and only a lower loss: there is no gain to estimate."
    above = _format_points(gain)
    first = f"On the validation pictures that selected it, the winner's macro-F1 is {above} above the default's."
    if seeds is None:
        return f"{first} It was not scored again (--fresh-seeds 0): the selection bias in it is unknown."
    if fresh is None or fresh["value"] is None:
        return f"{first} It was not scored again: the selection bias in it is unknown."
    value, low, high = fresh["value"], fresh["low"], fresh["high"]
    side = "above" if value >= 0 else "below"
    second = f"{first} On {seeds} fresh split{'s' * (seeds > 1)} it is {_format_points(abs(value))} {side}"
    if low is None or high is None:
        return f"{second}: one fresh split is too few to estimate the selection bias."
    return f"{second} ({100 * low:+.2f} to {100 * high:+.2f}). {_describe_verdict(gain, value, low, high)}"


def _describe_verdict(gain: float, value: float, low: float, high: float) -> str:
    if high < 0:
        return "The gain was selection bias, and the default is the better recipe."
    if low <= 0:
        return "The gain is not significant: all of it may be selection bias."
    if value >= gain:
        return "The gain is confirmed: no selection bias was detected."
    bias = _format_points(gain - value)
    return f"The gain is significant, but {bias} of the {_format_points(gain)} were selection bias."


def _better_trial_remark(rows: Sequence[Mapping[str, Any]], winner: int) -> str:
    """Return a remark if another trial has a higher mean on the fresh splits."""
    fresh = {row["trial"]: row["fresh"]["value"] for row in rows if row["fresh"]}
    best = max(fresh, key=lambda trial: fresh[trial], default=winner)
    if best == winner or fresh[best] <= fresh.get(winner, 1.0):
        return ""
    points = _format_points(fresh[best] - fresh[winner])
    return f" Trial {best} scores {points} higher there: the difference was not tested."


def _format_points(gain: float) -> str:
    return f"{100 * gain:.2f} points"
