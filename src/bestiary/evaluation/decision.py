"""What a decision by costs costs on test pictures, and what it saves over the most probable class."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Array, Bools, Floats, Ints
from bestiary.costs import dearest_pairs
from bestiary.evaluation import intervals
from bestiary.evaluation.predictions import class_probabilities
from bestiary.inference.bundle import Bundle
from bestiary.text import format_percent

RULE = "least expected cost"
MAX_PAIRS = 5  # of the most expensive mistakes


def decision_metrics(
    predictions: pl.DataFrame, groups: Array, bundle: Bundle, *, resamples: int, seed: int
) -> dict[str, Any]:
    """Return `{"decision": …}` of metrics.json for a model with costs, else nothing.

    predictions: with `label`, `predicted` and `p_<label>`; groups: equal for duplicates. `cost`, `cost_most_probable`,
    `saved`: the mean of a picture by the model's rule, by the most probable class, and their difference, with bootstrap
    intervals over whole groups; `changed`: the pictures whose label differs; `pairs`: the most expensive mistakes.
    """
    if not bundle.costs:
        return {}
    y_true, y_pred = (table.label_indices(predictions[column], bundle.classes) for column in ("label", "predicted"))
    most_probable = class_probabilities(predictions, bundle.classes).argmax(axis=1)
    costs = np.asarray(bundle.costs, np.float64)
    columns = np.stack([costs[y_true, y_pred], costs[y_true, most_probable]], axis=1)
    members = intervals.group_indices(groups)
    values, draws = _mean_costs(columns, y_true, members, resamples, seed)
    most = float(costs.max())
    span, both = (intervals.single_group_span(members, low, most) for low in (0.0, -most))
    metrics: dict[str, Any] = {
        "rule": RULE,
        "classes": list(bundle.classes),
        "costs": [list(row) for row in bundle.costs],
        "changed": int((y_pred != most_probable).sum()),
        "cost": intervals.bootstrap_metric(float(values[0]), draws[:, 0], span),
        "cost_most_probable": intervals.bootstrap_metric(float(values[1]), draws[:, 1], span),
        "saved": intervals.bootstrap_metric(float(values[1] - values[0]), draws[:, 1] - draws[:, 0], both),
        "pairs": _count_pairs(bundle, y_true, y_pred, most_probable, groups),
    }
    return {"decision": metrics | {"sentence": describe_decision(metrics, len(y_true))}}


def describe_decision(metrics: dict[str, Any], n: int) -> str:
    """Return the rule, what it cost and saved, and how often the most expensive mistakes happened, in words."""
    changed, saved = metrics["changed"], metrics["saved"]
    text = "Labels are chosen by the least expected cost, from the calibrated probabilities and the run's costs."
    if not changed:
        text += (
            f" On these {n:,} pictures no label differs from the most probable class; the mean cost of a picture is"
            f" {_format_cost(metrics['cost'])}."
        )
    else:
        clause = "saved" if saved["value"] >= 0 else "lost"
        amounts = sorted(abs(saved[end]) for end in ("low", "high")) if saved["low"] * saved["high"] >= 0 else []
        interval = (
            f"95 % interval {amounts[0]:.3g} to {amounts[1]:.3g}"
            if amounts
            else f"95 % interval from {abs(saved['low']):.3g} lost to {saved['high']:.3g} saved: not significant"
        )
        text += (
            f" On these {n:,} pictures the mean cost of a picture is {_format_cost(metrics['cost'])}, against"
            f" {_format_cost(metrics['cost_most_probable'])} for the most probable class: {abs(saved['value']):.3g}"
            f" {clause} ({interval}). {changed:,} label{'s differ' if changed > 1 else ' differs'}."
        )
    for pair in metrics["pairs"]:
        if pair["of"]:
            rate = pair["rate"]
            text += (
                f' "{pair["true"]}" predicted as "{pair["predicted"]}" (cost {pair["cost"]:g}): {pair["count"]:,} of'
                f" {pair['of']:,} (95 % interval {format_percent(rate['low'])} to {format_percent(rate['high'])});"
                f" {pair['count_most_probable']:,} by the most probable class."
            )
    return text


def _format_cost(metric: dict[str, float]) -> str:
    return f"{metric['value']:.3g} (95 % interval {metric['low']:.3g} to {metric['high']:.3g})"


def _mean_costs(columns: Floats, y_true: Ints, groups: Ints, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """Return the means of the columns (n, 2), and those of bootstrap resamples of whole groups, (resamples, 2)."""
    from scipy import sparse

    rows = sparse.csr_array(np.column_stack([columns, np.ones(len(columns))]))
    strata = np.zeros_like(y_true) if intervals.has_single_group(y_true, groups) else y_true
    sums = intervals.resampled_sums(rows, strata, groups, resamples=resamples, seed=seed)
    return columns.mean(axis=0), sums[:, :2] / sums[:, 2:]


def _count_pairs(
    bundle: Bundle, y_true: Ints, y_pred: Ints, most_probable: Ints, groups: Array
) -> list[dict[str, Any]]:
    """Return how often the most expensive mistakes happened, with Wilson's interval over groups of duplicates."""
    pairs = []
    for true, predicted, cost in dearest_pairs(bundle.costs, bundle.classes)[:MAX_PAIRS]:
        own: Bools = y_true == bundle.classes.index(true)
        column, n = bundle.classes.index(predicted), int(own.sum())
        count, before = (int((own & (labels == column)).sum()) for labels in (y_pred, most_probable))
        trials = len(np.unique(np.asarray(groups)[own]))
        rate = intervals.rate_metric(count / n if n else 0.0, trials)
        entry = {"true": true, "predicted": predicted, "cost": cost, "count": count, "of": n, "rate": rate}
        pairs.append(entry | {"count_most_probable": before})
    return pairs
