"""Scores of event answers: one label for each event, such as a burst, from the probabilities of its pictures.

The combination was chosen on validation events; majority vote and the most confident picture are the baselines. All
intervals are over sites, or without sites over the groups that share no event and no duplicate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import AnyFloats, Bools, Floats, Ints
from bestiary.costs import choose_labels
from bestiary.evaluation.calibration import ece_bin_index
from bestiary.evaluation.cluster_intervals import cluster_mean, cluster_rate
from bestiary.evaluation.intervals import group_indices
from bestiary.evaluation.predictions import class_probabilities, join_pictures
from bestiary.export.event_choice import PictureEvents, choose_combination, group_events
from bestiary.inference.bundle import Bundle
from bestiary.inference.event_combination import EventCombination, combine_events, majority_vote, most_confident
from bestiary.recipe_sections import DataConfig
from bestiary.text import format_percent

ECE_BINS = 15
MIN_TEST_EVENTS = 2
ANSWERS, VOTE, CONFIDENT = "events", "majority_vote", "most_confident"
NAMES = {ANSWERS: "Event answer", VOTE: "Majority vote", CONFIDENT: "Most confident picture"}


def score_events(predictions: pl.DataFrame, pictures: pl.DataFrame, bundle: Bundle, data: DataConfig) -> dict[str, Any]:
    """Return `{"events": …}` for metrics.json: accuracy and ECE over test events; nothing without given groups.

    predictions: of test pictures; pictures: with `given_group`, `site`, `group`, and `fold` in cross-validation. There
    the events of each fold are combined as is best for those of the other folds, as the models of the folds are gone.
    data: with the rules of groups and sites.
    """
    if "given_group" not in pictures.columns or not pictures["given_group"].count():
        return {}
    columns = ["given_group", "site", "group", *(["fold"] if "fold" in pictures.columns else [])]
    joined = join_pictures(predictions, pictures, *columns)
    probabilities = class_probabilities(joined, bundle.classes)
    labels = table.label_indices(joined["label"], bundle.classes)
    events, rows, _ = group_events(probabilities, labels, joined["given_group"].to_list())
    if len(events.labels) < MIN_TEST_EVENTS:
        return {}
    own = joined[rows.tolist()]
    combination = EventCombination.of(bundle.events)
    if "fold" in joined.columns:
        combined = _combine_folds(events, own["fold"].to_numpy())
    else:
        combined = combine_events(combination, events.probabilities, events.events)
    clusters = _event_clusters(own, events.events)
    by, units = "site" if own["site"].count() else "group", int(clusters.max()) + 1
    # Of sites, Wilson's interval is over their events, whose dependence the other part of the interval measures; events
    # in one group without sites share pictures.
    scores = compare_event_answers(events, combined, clusters, bundle, None if by == "site" else units)
    facts: dict[str, Any] = {"rule": data.group, "site": data.site, "by": by, "units": units}
    facts |= {"combination": combination.to_json()}
    how = (
        "In each fold, the combination is chosen on the events of the other folds."
        if "fold" in joined.columns
        else combination.describe()
    )
    result = facts | scores | {"how": how}
    return {"events": result | {"sentence": describe_event_scores(result)}}


def compare_event_answers(
    events: PictureEvents, combined: Floats, clusters: Ints, bundle: Bundle | None = None, trials: int | None = None
) -> dict[str, Any]:
    """Return accuracy of the answers and both baselines, paired differences, and the ECE of the answers.

    combined: (events, classes); clusters: of the events, int64 (events,) from 0, which the intervals are over. trials:
    independent pieces of evidence, for Wilson's interval; None: as many as events.
    """
    costs = [] if bundle is None else bundle.costs
    chosen = choose_labels(events.probabilities, costs)
    answers = {
        ANSWERS: choose_labels(combined, costs),
        VOTE: majority_vote(chosen, events.probabilities, events.events),
        CONFIDENT: chosen[most_confident(events.probabilities, events.events)],
    }
    hits = {name: (labels == events.labels).astype(np.float64) for name, labels in answers.items()}
    sizes = events.sizes()
    trials = len(sizes) if trials is None else trials
    by_picture = (chosen == events.labels[events.events]).astype(np.float64)
    return {
        "n": len(sizes),
        "pictures": int(sizes.sum()),
        "several": int((sizes > 1).sum()),
        "largest": int(sizes.max()),
        "mixed": events.mixed,
        "ungrouped": events.ungrouped,
        "accuracy": {name: cluster_rate(values, clusters, trials=trials) for name, values in hits.items()},
        "differences": {name: cluster_mean(hits[ANSWERS] - hits[name], clusters) for name in (VOTE, CONFIDENT)},
        "picture_accuracy": cluster_rate(by_picture, clusters[events.events], trials=trials),
        "ece": event_ece(combined, events.labels),
        "ece_if_calibrated": calibrated_ece(combined),
    }


def event_ece(probabilities: AnyFloats, labels: Ints) -> float:
    """Return the expected calibration error, 15 bins, of probabilities (n, classes) with labels (n,)."""
    rows = np.asarray(probabilities, np.float64)
    confidence, correct = rows.max(axis=1), rows.argmax(axis=1) == labels
    gaps = np.bincount(ece_bin_index(confidence, ECE_BINS), weights=confidence - correct)
    return float(np.abs(gaps).sum() / len(rows))


def calibrated_ece(probabilities: AnyFloats, *, draws: int = 100, seed: int = 0) -> float:
    """Return the mean ECE that answers with these probabilities (n, classes) would show if they were calibrated.

    Chance alone makes the gaps of the bins positive: the ECE of few events is to be read against this value.
    """
    rng, confidence = np.random.default_rng(seed), np.asarray(probabilities, np.float64).max(axis=1)
    bins, errors = ece_bin_index(confidence, ECE_BINS), []
    for _ in range(draws):
        gaps = np.bincount(bins, weights=confidence - (rng.random(len(confidence)) < confidence))
        errors.append(float(np.abs(gaps).sum()) / len(confidence))
    return float(np.mean(errors))


def describe_event_scores(scores: Mapping[str, Any]) -> str:
    """Return the scores in a few sentences."""
    accuracy = scores["accuracy"]
    rival = max((VOTE, CONFIDENT), key=lambda name: float(accuracy[name]["value"]))
    difference = scores["differences"][rival]
    points = " to ".join(f"{100 * difference[end]:+.1f}" for end in ("low", "high"))
    text = (
        f"Events: {_format_rate(accuracy[ANSWERS])} of {scores['n']:,} test events are named correctly, from"
        f" {scores['pictures']:,} pictures, of which {format_percent(scores['picture_accuracy']['value'])} are. By the"
        f" better baseline, {NAMES[rival].lower()}: {_format_rate(accuracy[rival])}; the difference is"
        f" {100 * difference['value']:+.1f} points ({points})."
    )
    if scores["mixed"]:
        text += f" {scores['mixed']:,} events have pictures of several labels, and are left out."
    return text


def _format_rate(metric: Mapping[str, float]) -> str:
    ends = f"{format_percent(metric['low'])} to {format_percent(metric['high'])}"
    return f"{format_percent(metric['value'])} ({ends})"


def _combine_folds(events: PictureEvents, folds: Ints) -> Floats:
    """Return the probabilities of events (events, classes); folds: of the pictures, int (n,)."""
    own = np.zeros(len(events.labels), np.int64)
    own[events.events] = folds
    combined = np.zeros((len(own), np.asarray(events.probabilities).shape[1]))
    for fold in np.unique(own):
        combination = choose_combination(_select_events(events, own != fold))
        tested = _select_events(events, own == fold)
        combined[own == fold] = combine_events(combination, tested.probabilities, tested.events)
    return combined


def _select_events(events: PictureEvents, selected: Bools) -> PictureEvents:
    """Return these events, selected: bool (events,), numbered anew."""
    rows = selected[events.events]
    numbers = np.cumsum(selected) - 1
    return replace(
        events,
        probabilities=np.asarray(events.probabilities)[rows],
        events=numbers[events.events[rows]],
        labels=events.labels[selected],
    )


def _event_clusters(own: pl.DataFrame, events: Ints) -> Ints:
    """Return the cluster of each event, int64 (events,) from 0: its site, else the group of the split."""
    names = own.select(pl.coalesce("site", pl.format("\0{}", "group"))).to_series().to_numpy()
    clusters = np.zeros(int(events.max()) + 1, np.int64)
    clusters[events] = group_indices(names)
    return np.unique(clusters, return_inverse=True)[1].astype(np.int64)
