"""Label issues and outliers: planted ones are found, correct labels are not reported, duplicates stay together."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

pytest.importorskip("sklearn")
pytest.importorskip("cleanlab")

from bestiary import table
from bestiary.data.split import stratified_group_folds
from bestiary.evaluation.label_issues import (
    MIN_PICTURES,
    LabelIssue,
    cross_val_probabilities,
    detect_label_issues,
    find_model_issues,
)
from bestiary.evaluation.outliers import REFERENCES, find_outliers, own_class_similarity

CHANNELS = 120
NAMES = ("bat", "cat", "dog", "emu")


def clouds(counts: list[int], *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features around one centre for each class, and the classes, of unequal scale; every picture is its own group."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(0, 2, (len(counts), CHANNELS))
    labels = np.repeat(np.arange(len(counts)), counts)
    features = (centres[labels] + rng.normal(0, 1, (len(labels), CHANNELS))) * np.logspace(-1, 2, CHANNELS)
    return features.astype(np.float32), labels


def flipped(labels: NDArray[np.int64], share: float, classes: int) -> tuple[NDArray[np.int64], set[int]]:
    rng = np.random.default_rng(5)
    chosen = rng.choice(len(labels), round(share * len(labels)), replace=False)
    wrong = labels.copy()
    wrong[chosen] = (labels[chosen] + rng.integers(1, classes, len(chosen))) % classes
    return wrong, set(chosen.tolist())


def label_issues(*arguments: Any, **settings: Any) -> list[LabelIssue]:
    return detect_label_issues(*arguments, **settings)[0]


def issue_findings(*arguments: Any, **settings: Any) -> pl.DataFrame:
    return find_model_issues(*arguments, **settings).findings


def alone(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.arange(len(labels))


# ---- Folds ---------------------------------------------------------------------------------------------------------


def test_groups_never_straddle_folds() -> None:
    rng = np.random.default_rng(1)
    labels, groups = rng.integers(0, 4, 500), rng.integers(0, 150, 500)  # groups of several labels among them
    folds = stratified_group_folds(labels, groups, folds=5, seed=0)
    assert all(len(set(folds[groups == group].tolist())) == 1 for group in groups)
    assert np.bincount(folds, minlength=5).min() > 80


def test_every_fold_has_its_share_of_every_label() -> None:
    _, labels = clouds([200, 50, 5, 3])
    folds = stratified_group_folds(labels, alone(labels), folds=5, seed=3)
    counts = np.array([np.bincount(folds[labels == label], minlength=5) for label in range(4)])
    assert np.all(counts.max(axis=1) - counts.min(axis=1) <= 1)
    assert counts[2].tolist() == [1] * 5
    assert sorted(counts[3].tolist()) == [0, 0, 1, 1, 1]


def test_the_folds_follow_the_seed() -> None:
    _, labels = clouds([60, 40])
    first, again, other = (stratified_group_folds(labels, alone(labels), folds=5, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


# ---- Probabilities out of fold -------------------------------------------------------------------------------------


def test_probabilities_are_by_a_head_that_did_not_see_the_picture() -> None:
    """Features of noise say nothing: whoever had seen a picture or its copy would know its label."""
    rng = np.random.default_rng(2)
    features = np.repeat(rng.normal(0, 1, (60, 400)), 3, axis=0).astype(np.float32)
    labels, groups = np.repeat(rng.integers(0, 2, 60), 3), np.repeat(np.arange(60), 3)
    apart = cross_val_probabilities(features, labels, groups, 2, seed=0)
    leaking = cross_val_probabilities(features, labels, alone(labels), 2, seed=0)
    assert (apart.argmax(axis=1) == labels).mean() < 0.7
    assert (leaking.argmax(axis=1) == labels).mean() > 0.9


def test_probabilities_are_probabilities() -> None:
    features, labels = clouds([40, 30, 20])
    found = cross_val_probabilities(features, labels, alone(labels), 5, seed=0)  # two of the classes have no picture
    assert found.shape == (90, 5)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert (found[:, 3:] == 0).all()


def test_a_class_that_only_one_group_shows_cannot_be_judged() -> None:
    features, labels = clouds([40, 40, 4])
    groups = alone(labels)
    groups[labels == 2] = 80
    found = cross_val_probabilities(features, labels, groups, 3, seed=0)
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), labels == 2)
    assert not label_issues(found, labels, NAMES[:3])


def test_one_class_alone_cannot_be_judged() -> None:
    features, labels = clouds([30])
    found = cross_val_probabilities(features, labels, alone(labels), 1, seed=0)
    assert np.isnan(found).all()
    assert label_issues(found, labels, NAMES[:1]) == []


# ---- Suspects ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4])
def test_planted_labels_are_found(classes: int) -> None:
    features, right = clouds([120, 100, 90, 80][:classes])
    labels, planted = flipped(right, 0.05, classes)
    found = label_issues(
        cross_val_probabilities(features, labels, alone(labels), classes, seed=0), labels, NAMES[:classes]
    )
    named = {one.position for one in found}
    assert len(named & planted) >= 0.9 * len(planted)
    assert len(named & planted) >= 0.9 * len(named)
    for one in found:
        assert one.current_label == NAMES[labels[one.position]]
        if one.position in planted:
            assert one.suggested == NAMES[right[one.position]]
    assert [one.score for one in found] == sorted(one.score for one in found)
    assert all(0 <= one.score < one.probability <= 1 for one in found)


def test_right_labels_are_left_alone() -> None:
    features, labels = clouds([150, 100, 60, 12])
    assert label_issues(cross_val_probabilities(features, labels, alone(labels), 4, seed=0), labels, NAMES) == []


def test_a_class_of_three_is_not_doubted() -> None:
    """Its probabilities are low because the head hardly knows it: 3 of 203 pictures."""
    features, labels = clouds([100, 100, 3])
    believed = cross_val_probabilities(features, labels, alone(labels), 3, seed=0)
    assert np.isfinite(believed).all()
    assert label_issues(believed, labels, NAMES[:3]) == []
    few = np.tile([0.95, 0.05], (MIN_PICTURES - 1, 1))
    assert label_issues(few, np.ones(len(few), np.int64), NAMES[:2]) == []
    enough = np.tile([0.95, 0.05], (MIN_PICTURES, 1))
    assert len(label_issues(enough, np.ones(len(enough), np.int64), NAMES[:2])) == MIN_PICTURES


def test_a_picture_that_is_taken_for_nothing_else_is_no_suspect() -> None:
    labels = np.zeros(MIN_PICTURES, np.int64)
    unsure = np.tile([0.05, 0.40, 0.30, 0.25], (MIN_PICTURES, 1))
    assert label_issues(unsure, labels, NAMES) == []


# ---- Outliers ------------------------------------------------------------------------------------------------------


def with_strangers(count: int) -> tuple[NDArray[np.float32], NDArray[np.int64], set[int]]:
    """Clouds, of which some pictures are none of the classes: far from all centres in a direction of their own."""
    features, labels = clouds([80, 70, 60, 50])
    rng = np.random.default_rng(8)
    at = rng.choice(len(labels), count, replace=False)
    features[at] = (rng.normal(0, 1, (count, CHANNELS)) * np.logspace(-1, 2, CHANNELS)).astype(np.float32)
    return features, labels, set(at.tolist())


def test_pictures_that_fit_no_class_are_found() -> None:
    features, labels, strangers = with_strangers(8)
    believed = cross_val_probabilities(features, labels, alone(labels), 4, seed=0)
    found = find_outliers(features, labels, alone(labels), believed, seed=0)
    named = {one.position for one in found}
    doubted = {one.position for one in label_issues(believed, labels, NAMES)}
    assert named <= strangers
    assert len(strangers & (named | doubted)) >= 6
    assert [one.score for one in found] == sorted(one.score for one in found)
    assert all(0 <= one.score <= 1 and one.probability < 0.5 for one in found)


def test_duplicates_do_not_vouch_for_each_other() -> None:
    features, labels, _ = with_strangers(0)
    rng = np.random.default_rng(4)
    features[:6] = (rng.normal(0, 1, CHANNELS) * np.logspace(-1, 2, CHANNELS)).astype(np.float32)
    groups = alone(labels)
    vouched = own_class_similarity(features, labels, groups, seed=0)[:6]
    groups[:6] = 0
    apart = own_class_similarity(features, labels, groups, seed=0)[:6]
    np.testing.assert_allclose(vouched, 1, atol=1e-4)
    assert (apart < 0.5).all()


def test_similarity_is_the_mean_cosine_to_the_five_nearest() -> None:
    features, labels = clouds([12, 9, 5])
    seen = (features - features.mean(axis=0)) / features.std(axis=0)
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    cosine = seen @ seen.T
    found = own_class_similarity(features, labels, alone(labels), seed=0)
    for at in range(21):
        others = [cosine[at, other] for other in range(26) if other != at and labels[other] == labels[at]]
        assert found[at] == pytest.approx(np.mean(sorted(others)[-5:]), abs=1e-4)
    assert np.isnan(found[labels == 2]).all()  # four others are too few


def test_a_large_class_is_compared_with_some_of_its_pictures() -> None:
    features, labels = clouds([REFERENCES + 300, 40])
    found = own_class_similarity(features, labels, alone(labels), seed=0)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, own_class_similarity(features, labels, alone(labels), seed=0))


# ---- Findings ------------------------------------------------------------------------------------------------------


def collection_of(labels: NDArray[np.int64]) -> pl.DataFrame:
    rows = np.arange(len(labels))
    return pl.DataFrame(
        {
            "row_id": rows + 1000,
            "path": [f"pictures/{row}.jpg" for row in rows],
            "label": [NAMES[label] for label in labels],
            "group": rows,
        }
    )


def test_findings_name_the_pictures_and_the_better_label() -> None:
    features, right, strangers = with_strangers(8)
    labels = right.copy()
    planted = next(at for at in range(len(labels)) if at not in strangers)
    labels[planted] = (right[planted] + 1) % 4
    found = issue_findings(collection_of(labels), features, seed=0)
    assert dict(found.schema) == table.FINDINGS
    one = found.filter((pl.col("check") == "suspect-label") & (pl.col("row_id") == planted + 1000)).row(0, named=True)
    given, better = NAMES[labels[planted]], NAMES[right[planted]]
    assert one["suggested_label"] == better
    assert one["path"] == f"pictures/{planted}.jpg"
    assert one["message"].startswith(f"Labelled {given}; looks like {better} (")
    assert one["message"].endswith(" %).")
    strange = found.filter(pl.col("check") == "outlier")
    assert strange.height > 0
    assert strange["suggested_label"].null_count() == strange.height
    assert strange["message"].str.starts_with("Unlike the other pictures of ").all()
    assert found["row_id"].is_unique().all()  # one picture, one finding
    assert found["score"].is_between(0, 1).all()
    assert found["is_issue"].all()


def test_findings_are_the_same_for_the_same_seed() -> None:
    features, labels, _ = with_strangers(6)
    wrong, _ = flipped(labels, 0.05, 4)
    first, again = (issue_findings(collection_of(wrong), features, seed=2) for _ in range(2))
    assert first.height > 0
    assert first.equals(again)


def test_nothing_found_is_an_empty_table() -> None:
    features, labels = clouds([30, 30])
    found = issue_findings(collection_of(labels), features, seed=0)
    assert found.height == 0
    assert dict(found.schema) == table.FINDINGS


# ---- Borderline findings -------------------------------------------------------------------------------------------


def near_limits(own: list[float]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities of two classes: of twelve sound labels, then of labels with these probabilities."""
    labels = np.zeros(12 + len(own), np.int64)
    first = np.array([0.9] * 12 + own)
    return np.column_stack([first, 1 - first]), labels


def test_labels_close_to_the_limit_are_told_apart_by_their_margin() -> None:
    believed, labels = near_limits([0.02, 0.09, 0.11, 0.2])
    [clear, close] = label_issues(believed, labels, NAMES[:2])
    assert (clear.position, close.position) == (12, 13)
    assert clear.margin >= 1 > close.margin >= 0
    *both, outside = label_issues(believed, labels, NAMES[:2], reach=1.0)
    assert both == [clear, close]
    assert outside.position == 14
    assert -1 < outside.margin < 0


def test_a_probability_exactly_at_the_limit_is_no_issue() -> None:
    believed, labels = near_limits([0.1])
    assert label_issues(believed, labels, NAMES[:2]) == []
    [noted] = label_issues(believed, labels, NAMES[:2], reach=1.0)
    assert -1e-6 < noted.margin < 0


def test_the_current_label_is_never_suggested() -> None:
    believed, labels = near_limits([0.45, 0.52])
    assert label_issues(believed, labels, NAMES[:2], reach=20.0) != []
    assert all(
        issue.suggested != issue.current_label for issue in label_issues(believed, labels, NAMES[:2], reach=20.0)
    )


def test_outliers_have_margins_too() -> None:
    features, labels, _ = with_strangers(8)
    believed = cross_val_probabilities(features, labels, alone(labels), 4, seed=0)
    named = find_outliers(features, labels, alone(labels), believed, seed=0)
    more = find_outliers(features, labels, alone(labels), believed, seed=0, reach=1000.0)
    assert [one for one in more if one.margin >= 0] == named
    assert len(more) > len(named)
    assert all(one.margin > -1000 for one in more)


def test_findings_in_bfloat16_say_which_are_borderline() -> None:
    features, right, _ = with_strangers(8)
    labels, _ = flipped(right, 0.1, 4)
    exact = issue_findings(collection_of(labels), features, seed=0)
    found = issue_findings(collection_of(labels), features, seed=0, precision="bfloat16")
    assert not exact["message"].str.contains("Borderline").any()
    issues = found.filter("is_issue")
    assert issues.drop("message").equals(exact.drop("message"))
    marked = found.filter(pl.col("message").str.contains("Borderline: computed in float32 it may "))
    assert marked.filter("is_issue")["message"].str.contains("may not be ").all()
    noted = found.filter(~pl.col("is_issue"))
    assert noted.height > 0
    assert noted["message"].str.contains(r"Borderline: computed in float32 it may be (suspect|an outlier)\.$").all()
