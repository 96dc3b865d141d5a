"""How much of a gain is luck of the choice: the best trials and the default, scored again where no choice was made.

Whoever takes the best of many noisy scores takes the luckiest noise as well. A second score, on pictures that played no
part in the choice and with other random numbers, is free of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

BEST = 5
SEEDS = {"probe": 10, "finetune": 2, "scratch": 2}  # fresh seeds where the user says nothing

Scores = Mapping[int, Mapping[int, float]]  # macro-F1 by trial and fresh seed


def rescoring_order(best: Sequence[int], default: int | None, seeds: int) -> list[tuple[int, int]]:
    """Return which trials to score with which fresh seeds, the most telling first: winner and default lead each round.

    >>> rescoring_order([7, 3], 0, 2)
    [(7, 1), (0, 1), (3, 1), (7, 2), (0, 2), (3, 2)]
    """
    trials = dict.fromkeys([best[0], default, *best[1:]])
    return [(trial, seed) for seed in range(1, seeds + 1) for trial in trials if trial is not None]


def selection_bias_report(
    first: Mapping[int, float], fresh: Scores, winner: int, default: int | None, *, val_train_ratio: float, wanted: int
) -> dict[str, Any]:
    """Return what second scores say, as plain values and in words.

    first: macro-F1 of the trials as the search saw it, the best first. share: validation pictures of a fresh split per
    training picture, by which the interval is widened, since the splits overlap (Nadeau and Bengio 2003). wanted: how
    many fresh splits were asked for.
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
        return {"trials": rows, "sentence": "The default went not to its end: there is no gain to speak of."}
    shared = sorted(fresh.get(winner, {}).keys() & fresh.get(default, {}).keys())
    gains = [fresh[winner][seed] - fresh[default][seed] for seed in shared]
    gain, again = first[winner] - first[default], mean_with_interval(gains, val_train_ratio)
    seeds = len(shared) if wanted else None
    words = describe_gain(gain, again, seeds, is_default=winner == default) + _better_trial_remark(rows, winner)
    return {"gain": gain, "fresh gain": again, "seeds": len(shared), "trials": rows, "sentence": words}


def mean_with_interval(values: Sequence[float], val_train_ratio: float) -> dict[str, float | None] | None:
    """Return the mean with its 95 % interval (ends None if there is one value only), or None without values."""
    if not values:
        return None
    if len(values) < 2:
        return {"value": values[0], "low": None, "high": None}
    from bestiary.evaluation.multi_seed import corrected_resampled_ttest

    found = corrected_resampled_ttest(values, val_train_ratio)
    return {end: found[end] for end in ("value", "low", "high")}


def describe_gain(gain: float, fresh: Mapping[str, float | None] | None, seeds: int | None, *, is_default: bool) -> str:
    """Return what the second scores say, in words that claim no more than they show.

    seeds: fresh splits that both winner and default were scored on, None if nobody asked for any.

    >>> describe_gain(0.012, {"value": 0.004, "low": 0.001, "high": 0.007}, 10, is_default=False).partition("). ")[2]
    'The gain is real, but 0.80 points of the 1.20 points were luck of the choice.'
    """
    if is_default:
        return "No trial was better than the default on validation: there is no gain, and no luck in it."
    if gain == 0:
        return "The winner's macro-F1 is the default's, and only its loss is lower: there is no gain to speak of."
    chosen = f"On the pictures it was chosen by, the winner's macro-F1 is {_format_points(gain)} above the default's."
    if seeds is None:
        return f"{chosen} It was not scored again, as was asked: how much of that is luck of the choice is not known."
    if fresh is None or fresh["value"] is None:
        return f"{chosen} It was not scored again: how much of that is luck of the choice is not known."
    again = f"On {seeds} fresh split{'s' * (seeds > 1)} it is {_format_above_below(fresh['value'])}"
    if fresh["low"] is None or fresh["high"] is None:
        return f"{chosen} {again}: once is too few to tell how much of the gain is luck of the choice."
    interval = f"({_format_signed(fresh['low'])} to {_format_signed(fresh['high'])})"
    return f"{chosen} {again} {interval}. {_describe_verdict(gain, fresh['value'], fresh['low'], fresh['high'])}"


def _describe_verdict(gain: float, value: float, low: float, high: float) -> str:
    lost = gain - value
    if high < 0:
        return "The gain was luck of the choice, and the default is the better recipe."
    if low <= 0:
        return "A gain is not shown: all of it may be luck of the choice."
    if lost <= 0:
        return "The gain holds: no luck of the choice is seen in it."
    return f"The gain is real, but {_format_points(lost)} of the {_format_points(gain)} were luck of the choice."


def _better_trial_remark(rows: Sequence[Mapping[str, Any]], winner: int) -> str:
    """Return a remark if another of the best does better on the fresh splits."""
    known = {row["trial"]: row["fresh"]["value"] for row in rows if row["fresh"]}
    best = max(known, key=lambda trial: known[trial], default=winner)
    if best == winner or known[best] <= known.get(winner, 1.0):
        return ""
    return f" Trial {best} does better there, by {_format_points(known[best] - known[winner])}: the best are hardly told apart."


def _format_points(gain: float) -> str:
    return f"{100 * gain:.2f} points"


def _format_above_below(gain: float) -> str:
    return f"{_format_points(abs(gain))} {'above' if gain >= 0 else 'below'}"


def _format_signed(gain: float) -> str:
    return f"{100 * gain:+.2f}"
