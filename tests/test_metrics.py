"""Metrics equal scikit-learn's, their intervals have the stated coverage, and the text table is aligned."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse
from sklearn import metrics as sk

from bestiary.errors import UserError
from bestiary.evaluation import intervals
from bestiary.evaluation.metrics import MetricSums, compute_metrics, macro_f1_interval, sums_by_picture
from bestiary.quick_metrics import macro_f1
from bestiary.report.classification_report import classification_report
from bestiary.stats import Z_95

stable = settings(derandomize=True, deadline=None, max_examples=60)
SCALARS = ("accuracy", "balanced_accuracy", "macro_f1", "macro_precision", "macro_recall", "log_loss", "brier", "ece")

Predictions = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]  # truth, probabilities, groups


@st.composite
def predictions(draw: st.DrawFn) -> Predictions:
    """Draw small sets in which classes are often absent, never predicted, or the only one predicted."""
    k = draw(st.integers(2, 6))
    n = draw(st.integers(1, 40))
    classes = st.integers(0, draw(st.integers(0, k - 1)))
    truth = np.array(draw(st.lists(classes, min_size=n, max_size=n)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scores = generator.normal(size=(n, k)) * draw(st.sampled_from([0.1, 1.0, 30.0]))
    scores[:, draw(st.integers(0, k - 1))] += draw(st.sampled_from([0.0, 100.0]))
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    groups = generator.integers(0, draw(st.integers(1, n)), size=n) * 7 - 3
    return truth, exponentials / exponentials.sum(axis=1, keepdims=True), groups


def names(k: int) -> list[str]:
    return [f"class {c}" for c in range(k)]


def torchmetrics_ece(truth: NDArray[np.int64], probabilities: NDArray[np.float64], bins: int = 15) -> float:
    """Return the l1 calibration error by the textbook loop; like torchmetrics, 1.0 in a bin of its own, in float32."""
    confidence = probabilities.max(axis=1)
    in_float32 = confidence.astype(np.float32)
    right = probabilities.argmax(axis=1) == truth
    edges = np.append(np.linspace(0, 1, bins + 1, dtype=np.float32), np.float32(2))
    total = 0.0
    for b in range(bins + 1):
        inside = (in_float32 >= edges[b]) & (in_float32 < edges[b + 1])
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def entries(body: dict[str, Any]) -> list[dict[str, float]]:
    rates = [scores[name] for scores in body["per_class"].values() for name in ("precision", "recall", "f1")]
    return [body[name] for name in SCALARS] + rates


@stable
@given(predictions())
def test_values_equal_scikit_learn(drawn: Predictions) -> None:
    truth, probabilities, _ = drawn
    k = probabilities.shape[1]
    classes = list(range(k))
    predicted = probabilities.argmax(axis=1)
    body = compute_metrics(truth, probabilities, names(k), resamples=3)
    kinds: dict[str, Any] = {"labels": classes, "zero_division": 0}
    macro = sk.precision_recall_fscore_support(truth, predicted, average="macro", **kinds)
    each = sk.precision_recall_fscore_support(truth, predicted, average=None, **kinds)
    with warnings.catch_warnings():  # balanced_accuracy_score warns that a class was predicted that has no pictures
        warnings.simplefilter("ignore", UserWarning)
        balanced = sk.balanced_accuracy_score(truth, predicted)
    expected = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced_accuracy": balanced,
        "macro_precision": macro[0],
        "macro_recall": macro[1],
        "macro_f1": macro[2],
        "log_loss": sk.log_loss(truth, probabilities, labels=classes),
        "brier": sk.brier_score_loss(truth, probabilities, labels=classes, scale_by_half=False),
        "ece": torchmetrics_ece(truth, probabilities),
    }
    assert {name: body[name]["value"] for name in SCALARS} == pytest.approx(expected, rel=1e-12, abs=1e-12)
    for column, name in enumerate(("precision", "recall", "f1", "support")):
        ours = [body["per_class"][label][name] for label in names(k)]
        values = ours if name == "support" else [entry["value"] for entry in ours]
        assert values == pytest.approx(list(each[column]), rel=1e-12, abs=1e-12)
    assert body["confusion"]["counts"] == sk.confusion_matrix(truth, predicted, labels=classes).tolist()
    occurring = sk.f1_score(truth, predicted, average="macro", zero_division=0)
    assert macro_f1(truth, predicted, k) == pytest.approx(occurring, rel=1e-12, abs=1e-12)


@stable
@given(predictions())
def test_every_interval_holds_its_value_and_stays_in_range(drawn: Predictions) -> None:
    truth, probabilities, groups = drawn
    body = compute_metrics(truth, probabilities, names(probabilities.shape[1]), groups, resamples=50)
    for entry in entries(body):
        assert 0 <= entry["low"] <= entry["value"] <= entry["high"]
    for name in SCALARS:
        assert name in ("log_loss", "brier") or body[name]["high"] <= 1
    assert json.loads(json.dumps(body, allow_nan=False)) == body


def test_probabilities_of_exactly_zero_and_one() -> None:
    truth = np.array([0, 1, 0, 1])
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    body = compute_metrics(truth, probabilities, ["cat", "dog"])
    assert body["ece"]["value"] == pytest.approx(0.25)  # three right and one wrong, all at confidence 1
    assert body["brier"]["value"] == pytest.approx(0.5)  # the wrong one costs 1 + 1
    eps = np.finfo(np.float64).eps
    assert body["log_loss"]["value"] == pytest.approx((-np.log(eps) - 3 * np.log(1 - eps)) / 4)


def test_ece_by_hand_with_a_confidence_on_an_edge() -> None:
    # 0.6 is the edge between bins 8 and 9 of 15 and belongs to the upper one, together with 0.65.
    probabilities = np.array([[0.6, 0.4], [0.65, 0.35], [0.55, 0.45]])
    body = compute_metrics(np.array([0, 1, 1]), probabilities, ["cat", "dog"])
    assert body["ece"]["value"] == pytest.approx((abs(0.6 + 0.65 - 1) + 0.55) / 3)


def test_brier_by_hand_over_three_classes() -> None:
    body = compute_metrics(np.array([0, 2]), np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]), ["a", "b", "c"])
    assert body["brier"]["value"] == pytest.approx((0.25 + 0.09 + 0.04 + 0.01 + 0.01 + 0.04) / 2)


def test_a_class_without_pictures_counts_in_macro_and_not_in_balanced_accuracy() -> None:
    body = compute_metrics(np.array([0, 0, 1]), np.eye(3)[[0, 0, 1]], ["a", "b", "absent"])
    assert body["macro_recall"]["value"] == pytest.approx(2 / 3)
    assert body["balanced_accuracy"]["value"] == 1.0
    assert body["per_class"]["absent"]["recall"] == {"value": 0.0, "low": 0.0, "high": 1.0}
    assert body["per_class"]["absent"]["support"] == 0


def test_six_of_six_right_claims_no_certainty() -> None:
    truth = np.repeat(np.arange(3), 6)
    body = compute_metrics(truth, np.eye(3)[truth], names(3))
    wilson_low = 6 / (6 + 1.959963984540054**2)  # Wilson's low end, n / (n + z^2), when all are right
    assert body["per_class"]["class 0"]["recall"]["low"] == pytest.approx(wilson_low)
    assert body["per_class"]["class 0"]["f1"]["low"] == pytest.approx(2 * wilson_low / (1 + wilson_low))
    assert body["accuracy"]["low"] == pytest.approx(18 / (18 + 1.959963984540054**2))
    for name in ("macro_f1", "macro_precision", "macro_recall", "balanced_accuracy"):
        assert wilson_low < body[name]["low"] < 0.9
        assert body[name]["high"] == 1.0


def test_one_of_twenty_eight_wrong_is_known_no_better_than_any_other_rate() -> None:
    truth = np.repeat(np.arange(4), 7)
    predicted = truth.copy()
    predicted[0] = 1
    low, high = intervals.wilson_interval(np.array(27 / 28), np.array(28))
    accuracy = compute_metrics(truth, np.eye(4)[predicted], names(4))["accuracy"]
    assert accuracy == pytest.approx({"value": 27 / 28, "low": float(low), "high": float(high)})
    twice = compute_metrics(np.tile(truth, 2), np.eye(4)[np.tile(predicted, 2)], names(4), np.tile(np.arange(28), 2))[
        "accuracy"
    ]
    assert twice == accuracy, "a copy of every picture is no more evidence"


def test_the_losses_of_one_picture_a_class_claim_no_certainty() -> None:
    rows = np.array([[0.9, 0.05, 0.05], [0.3, 0.6, 0.1], [0.2, 0.0, 0.8]])
    scores = compute_metrics(np.arange(3), rows, ["a", "b", "c"])
    for name in ("log_loss", "brier", "ece"):
        assert scores[name]["low"] < scores[name]["value"] < scores[name]["high"]


def test_the_interval_of_f1_counts_pictures_and_false_alarms() -> None:
    truth, predicted = np.repeat([0, 1], [6, 10]), np.repeat([0, 1, 0, 1], [3, 3, 6, 4])
    f1 = compute_metrics(truth, np.eye(2)[predicted], names(2))["per_class"]["class 0"]["f1"]
    low, high = intervals.wilson_interval(np.array(3 / 12), np.array(12))  # 3 found, 3 missed, 6 false alarms
    assert f1 == pytest.approx({"value": 6 / 15, "low": 2 * low / (1 + low), "high": 2 * high / (1 + high)})


def test_all_wrong_claims_no_certainty() -> None:
    truth = np.repeat([0, 1], 5)
    body = compute_metrics(truth, np.eye(2)[1 - truth], names(2))
    assert all(body[name]["low"] == 0 and body[name]["high"] > 0.1 for name in ("accuracy", "macro_f1", "macro_recall"))


def test_wilson_against_its_own_quadratic() -> None:
    # The ends p solve (rate - p)^2 = z^2 p (1 - p) / n.
    rate, trials = np.array([0.1, 0.5, 0.9]), np.array([10, 30, 1000])
    for end in intervals.wilson_interval(rate, trials):
        np.testing.assert_allclose((rate - end) ** 2, Z_95**2 * end * (1 - end) / trials, rtol=1e-9)


def test_duplicates_are_one_piece_of_evidence() -> None:
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(2), 40)
    probabilities = generator.dirichlet((1, 1), size=80)
    once = compute_metrics(truth, probabilities, names(2))
    copies = np.repeat(np.arange(80), 10)
    grouped = compute_metrics(truth[copies], probabilities[copies], names(2), copies)
    naive = compute_metrics(truth[copies], probabilities[copies], names(2))
    assert grouped["accuracy"] == pytest.approx(once["accuracy"])
    for rate in ("precision", "recall", "f1"):
        assert grouped["per_class"]["class 0"][rate] == pytest.approx(once["per_class"]["class 0"][rate])
    assert grouped["log_loss"] == pytest.approx(once["log_loss"])
    width = grouped["accuracy"]["high"] - grouped["accuracy"]["low"]
    assert width > 2.5 * (naive["accuracy"]["high"] - naive["accuracy"]["low"])


def test_ten_copies_of_two_right_pictures_are_two_right_pictures() -> None:
    truth = np.repeat([0, 1], 10)
    grouped = compute_metrics(truth, np.eye(2)[truth], names(2), truth)
    once = compute_metrics(np.array([0, 1]), np.eye(2), names(2))
    assert grouped["accuracy"] == pytest.approx(once["accuracy"])
    assert grouped["macro_f1"] == pytest.approx(once["macro_f1"])


def test_the_same_seed_gives_the_same_intervals_whatever_the_group_numbers() -> None:
    generator = np.random.default_rng(1)
    truth, probabilities = generator.integers(0, 4, 60), generator.dirichlet(np.ones(4), size=60)
    groups = np.arange(60) // 2
    first = compute_metrics(truth, probabilities, names(4), groups, seed=5)
    assert compute_metrics(truth, probabilities, names(4), groups * 1000 - 7, seed=5) == first
    assert compute_metrics(truth, probabilities, names(4), groups, seed=6)["log_loss"] != first["log_loss"]


def test_a_rare_class_is_in_every_resample() -> None:
    truth = np.array([0] * 500 + [1])
    rows = sparse.csr_array(np.eye(2)[truth])
    sums = intervals.resampled_sums(rows, truth, np.arange(501), resamples=200, seed=0)
    np.testing.assert_array_equal(sums, np.tile([500.0, 1.0], (200, 1)))


@pytest.mark.parametrize("draws_at_once", [1, 1000, 500_000])
def test_resampled_means_spread_like_the_standard_error(monkeypatch: pytest.MonkeyPatch, draws_at_once: int) -> None:
    # Groups are drawn whole, so three copies of each value change nothing; nor does the size of the chunks.
    monkeypatch.setattr(intervals, "_DRAWS_AT_ONCE", draws_at_once)
    values = np.random.default_rng(2).normal(size=(400, 1))
    rows = sparse.csr_array(np.repeat(values, 3, axis=0))
    groups, truth = np.repeat(np.arange(400), 3), np.zeros(1200, dtype=np.int64)
    means = intervals.resampled_sums(rows, truth, groups, resamples=4000, seed=0)[:, 0] / 1200
    assert means.mean() == pytest.approx(values.mean(), abs=0.005)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.05)


def test_a_group_of_several_classes_is_drawn_with_its_first() -> None:
    truth = np.array([1, *[0] * 41])
    rows, groups = sparse.csr_array(np.eye(2)[truth]), np.array([0, 0, *range(1, 41)])
    sums = intervals.resampled_sums(rows, truth, groups, resamples=100, seed=0)
    np.testing.assert_array_equal(sums, np.tile([41.0, 1.0], (100, 1)))


def test_groups_of_several_classes_are_drawn_from_one_stratum() -> None:
    """Six sites with two classes each: by the class of their first picture, four would be strata of their own."""
    truth = np.array([0, 1, 0, 1, 0, 1, 1, 0, 2, 0, 3, 1])
    groups = np.arange(12) // 2
    effects = np.arange(6.0)
    sums = intervals.resampled_sums(sparse.csr_array(effects[groups][:, None]), truth, groups, resamples=4000, seed=0)[
        :, 0
    ]
    assert sums.std() == pytest.approx(2 * effects.std() * np.sqrt(6), rel=0.05)
    assert not intervals.has_single_group(truth, groups)


def test_pictures_of_one_group_give_an_interval_of_all_that_is_possible() -> None:
    """Every resample of one camera site is the same, and would give losses an interval without width."""
    truth = np.arange(30) % 3
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 30)
    metrics = compute_metrics(truth, probabilities, list("abc"), groups=np.zeros(30, np.int64))
    for name, highest in {"ece": 1.0, "brier": 2.0, "log_loss": 52 * np.log(2)}.items():
        assert (metrics[name]["low"], metrics[name]["high"]) == (0.0, pytest.approx(highest))
    two = compute_metrics(truth, probabilities, list("abc"), groups=np.arange(30) // 15)
    assert two["ece"]["high"] < 1.0


def test_accuracy_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(3)
    rates = np.array([0.95, 0.8, 0.6])
    truth = np.repeat(np.arange(3), [80, 50, 20])
    covered = {"accuracy": 0, "macro_recall": 0, "balanced_accuracy": 0}
    expected = {"accuracy": rates[truth].mean(), "macro_recall": rates.mean(), "balanced_accuracy": rates.mean()}
    for seed in range(200):
        right = generator.random(len(truth)) < rates[truth]
        predicted = np.where(right, truth, (truth + generator.integers(1, 3, len(truth))) % 3)
        body = compute_metrics(truth, np.eye(3)[predicted], names(3), resamples=500, seed=seed)
        for name in covered:
            covered[name] += body[name]["low"] <= expected[name] <= body[name]["high"]
    assert min(covered.values()) >= 180


def test_unknown_pictures_give_the_coverage() -> None:
    body = compute_metrics(
        np.array([0, 1, 1, 0]),
        np.eye(2)[[0, 1, 1, 0]],
        names(2),
        unknown=np.array([True, False, False, False]),
    )
    assert body["unknown"] == {"coverage": 0.75}
    assert compute_metrics(np.array([0]), np.eye(2)[[0]], names(2))["unknown"] == {"coverage": 1.0}


def test_the_body_is_the_contract() -> None:
    body = compute_metrics(np.array([0, 1]), np.eye(2), ["cat", "dog"])
    assert list(body) == ["n", *SCALARS, "per_class", "confusion", "unknown"]
    assert set(body["per_class"]["dog"]) == {"precision", "recall", "f1", "support"}
    assert all(set(entry) == {"value", "low", "high"} for entry in entries(body))


@pytest.mark.parametrize(
    ("truth", "probabilities", "labels", "message"),
    [
        ([0, 1], [[1.0, 0.0]], ["a", "b"], r"shape \(1, 2\); expected \(2, 2\)"),
        ([0, 2], [[1.0, 0.0]] * 2, ["a", "b"], r"`y_true` is in \[0, 2\]; expected \[0, 1\]"),
        ([0], [[2.0, -1.0]], ["a", "b"], "not in"),
        ([0], [[np.nan, 1.0]], ["a", "b"], "not in"),
        ([0], [[0.3, 0.3]], ["a", "b"], "away from a sum of 1"),
        ([0], [[1.0, 0.0]], ["a", "a"], "a name twice"),
    ],
)
def test_wrong_input_is_refused(truth: list[int], probabilities: Any, labels: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_metrics(np.array(truth), np.array(probabilities), labels)


def test_columns_of_other_lengths_are_refused() -> None:
    truth, probabilities = np.array([0, 1]), np.eye(2)
    with pytest.raises(ValueError, match="`groups` has 3 rows; expected 2"):
        compute_metrics(truth, probabilities, names(2), np.array([0, 1, 2]))
    with pytest.raises(ValueError, match="`unknown` has shape"):
        compute_metrics(truth, probabilities, names(2), unknown=np.array([True]))


def test_nothing_to_score_is_the_users_matter() -> None:
    with pytest.raises(UserError, match="no picture to score"):
        compute_metrics(np.empty(0, dtype=int), np.empty((0, 2)), names(2))


def test_a_class_without_test_pictures_is_told_beside_the_scores() -> None:
    rows = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    body = compute_metrics(np.array([0, 1]), rows, ["ant", "bee", "cat"], resamples=100)
    assert "No test picture shows cat: recall is unknown" in classification_report(body)
    assert "No test picture shows" not in classification_report(
        compute_metrics(np.array([0, 1]), rows[:, :2] / 0.9, ["ant", "bee"])
    )


def test_of_many_classes_the_worst_are_printed_and_the_others_counted() -> None:
    labels = [f"c{at:02}" for at in range(40)]
    said = np.eye(40)[[*range(37), 0, 0, 0]]
    body = compute_metrics(np.arange(40), said, labels)
    short = classification_report(body, short=True)
    lines = short.splitlines()
    assert [line.split()[0] for line in lines[2:7]] == ["c37", "c38", "c39", "c00", "c01"]
    assert len([line for line in lines if line.startswith("c")]) == 20
    assert "20 more classes are not shown" in short
    assert all(label in classification_report(body) for label in labels)


def test_the_table_shows_the_scores_aligned() -> None:
    truth = np.repeat(np.arange(3), 6)
    text = classification_report(compute_metrics(truth, np.eye(3)[truth], ["cat", "dog", "butterfly"]))
    lines = [line for line in text.splitlines() if line]
    assert lines[1].split() == ["cat", "1.000", "1.000", "0.610", "to", "1.000", "1.000", "6"]
    assert lines[4].split() == ["accuracy", "1.000", "0.824", "to", "1.000", "18"]
    assert [line.split()[0] for line in lines[4:]] == ["accuracy", "macro", "macro-F1"]
    assert len({len(line) for line in lines}) == 1


def test_the_table_is_aligned_for_labels_in_any_script() -> None:
    labels = ["蝴蝶" * 20, "e\u0301le\u0301phant", "two\nlines", "кошка"]
    text = classification_report(compute_metrics(np.arange(4), np.eye(4), labels))
    lines = [line for line in text.splitlines() if line]
    assert len(lines) == 1 + 4 + 3
    # A Chinese character takes two columns and a combining accent none.
    assert len(lines[1]) + 40 == len(lines[2]) - 2 == len(lines[3]) == len(lines[4])
    assert "two?lines" in text


def test_a_perfect_prediction_has_the_clipped_log_loss() -> None:
    body = compute_metrics(np.array([0, 1]), np.eye(2), names(2), resamples=3)
    assert body["log_loss"]["value"] == -np.log(1 - np.finfo(np.float64).eps) > 0
    wrong = compute_metrics(np.array([1, 0]), np.eye(2), names(2), resamples=3)
    assert wrong["log_loss"]["value"] == pytest.approx(-np.log(np.finfo(np.float64).eps))


def drawn_metrics(k: int = 3, n: int = 40) -> Predictions:
    rng = np.random.default_rng(7)
    return rng.integers(0, k, n), rng.dirichlet(np.ones(k), n), np.arange(n)


def test_a_label_without_pictures_does_not_widen_balanced_accuracy() -> None:
    truth, probabilities, _ = drawn_metrics()
    wider = np.hstack([probabilities, np.zeros((len(truth), 1))])
    three, four = (compute_metrics(truth, p, names(p.shape[1]), resamples=50) for p in (probabilities, wider))
    assert four["balanced_accuracy"] == three["balanced_accuracy"]
    assert four["macro_recall"]["value"] == pytest.approx(three["macro_recall"]["value"] * 3 / 4)


def test_probabilities_of_float32_are_computed_with_in_float64() -> None:
    truth, probabilities, _ = drawn_metrics()
    single = probabilities.astype(np.float32)
    double = compute_metrics(truth, single.astype(np.float64), names(3), resamples=5)
    assert compute_metrics(truth, single, names(3), resamples=5) == double


@pytest.mark.parametrize("row", [[-0.2, 0.6, 0.6], [1.2, -0.2, 0], [1.5, 0, 0], [np.nan, 0.5, 0.5], [np.inf, 0, 0]])
def test_what_is_no_probability_is_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^`probabilities` contains a value that is not in \[0, 1\]\. Pass softmax"):
        compute_metrics(np.array([0, 1]), np.array([[1, 0, 0], row]), names(3), resamples=3)


@pytest.mark.parametrize(
    ("sum_of_row", "is_refused"), [(1.0009, False), (0.9991, False), (1.0011, True), (0.9989, True)]
)
def test_a_row_may_be_a_thousandth_away_from_a_sum_of_1(sum_of_row: float, is_refused: bool) -> None:
    probabilities = np.array([[0.5, sum_of_row - 0.5]])
    if not is_refused:
        assert compute_metrics(np.array([0]), probabilities, names(2), resamples=3)["n"] == 1
        return
    with pytest.raises(ValueError, match=r"^A row of `probabilities` is 0\.0011 away from a sum of 1\. Pass softmax"):
        compute_metrics(np.array([0]), probabilities, names(2), resamples=3)


def test_the_interval_of_a_mean_f1_is_that_of_its_classes() -> None:
    truth, probabilities, groups = drawn_metrics()
    predicted = probabilities.argmax(axis=1)
    body = compute_metrics(truth, probabilities, names(3), resamples=3)
    sums = MetricSums.total(sums_by_picture(truth, predicted, probabilities), 3)
    for used in ([True, True, True], [True, False, True], [False, True, False]):
        scores = [body["per_class"][name]["f1"] for name, is_used in zip(names(3), used, strict=True) if is_used]
        value, low, high = (np.array([score[end] for score in scores]) for end in ("value", "low", "high"))
        ends = macro_f1_interval(np.array(used), sums, truth, predicted, groups)
        assert ends == pytest.approx(intervals.mover_interval(value, low, high))
    few = macro_f1_interval(np.ones(3, bool), sums, truth, predicted, groups // 10)
    assert few[0] < macro_f1_interval(np.ones(3, bool), sums, truth, predicted, groups)[0]


def test_decided_classes_count_for_rates_and_probabilities_for_losses() -> None:
    """Costs or thresholds may decide against the largest probability."""
    truth, probabilities, _ = drawn_metrics()
    largest = compute_metrics(truth, probabilities, names(3), resamples=20)
    decided = np.where(probabilities[:, 2] > 0.2, 2, probabilities.argmax(axis=1))
    assert (decided != probabilities.argmax(axis=1)).any()
    body = compute_metrics(truth, probabilities, names(3), resamples=20, y_pred=decided.astype(np.float32))
    assert body["accuracy"]["value"] == pytest.approx(sk.accuracy_score(truth, decided))
    assert body["macro_f1"]["value"] == pytest.approx(sk.f1_score(truth, decided, average="macro"))
    assert body["confusion"]["counts"] == sk.confusion_matrix(truth, decided).tolist()
    assert {name: body[name] for name in ("log_loss", "brier", "ece")} == {
        name: largest[name] for name in ("log_loss", "brier", "ece")
    }


def test_intervals_are_of_two_thousand_resamples_with_seed_0() -> None:
    truth, probabilities, _ = drawn_metrics()
    body = compute_metrics(truth, probabilities, names(3))
    assert compute_metrics(truth, probabilities, names(3), resamples=2000, seed=0) == body
    assert compute_metrics(truth, probabilities, names(3), resamples=1999, seed=0) != body
    assert compute_metrics(truth, probabilities, names(3), resamples=2001, seed=0) != body
    assert compute_metrics(truth, probabilities, names(3), resamples=2000, seed=1) != body


def test_a_class_of_a_single_group_has_losses_drawn_without_strata() -> None:
    """The interval of a mean is about 1.96 standard errors wide on either side, and is the same again."""
    _, probabilities, _ = drawn_metrics(n=200)
    truth = np.array([2] + [0, 1] * 99 + [0])
    body = compute_metrics(truth, probabilities, names(3), resamples=4000, seed=3)
    assert compute_metrics(truth, probabilities, names(3), resamples=4000, seed=3) == body
    other = compute_metrics(truth, probabilities, names(3), resamples=4000, seed=4)
    assert other["brier"] != body["brier"]
    for name, losses in {
        "brier": ((probabilities - np.eye(3)[truth]) ** 2).sum(axis=1),
        "log_loss": -np.log(probabilities[np.arange(200), truth]),
    }.items():
        half = 1.96 * losses.std() / np.sqrt(200)
        assert body[name]["high"] - body[name]["low"] == pytest.approx(2 * half, rel=0.08)


def test_averages_have_the_wider_of_the_bootstrap_and_the_intervals_of_their_classes() -> None:
    truth, probabilities, _ = drawn_metrics(k=4, n=60)
    truth %= 3  # the fourth class has predictions and no pictures
    predicted = probabilities.argmax(axis=1)
    body = compute_metrics(truth, probabilities, names(4), resamples=400, seed=1)
    rows = sums_by_picture(truth, predicted, probabilities)
    draws = MetricSums.resample(rows, truth, np.arange(60), 4, resamples=400, seed=1)
    for name, rate, classes in (
        ("macro_f1", "f1", 4),
        ("macro_precision", "precision", 4),
        ("macro_recall", "recall", 4),
        ("balanced_accuracy", "recall", 3),
    ):
        own = [body["per_class"][label][rate] for label in names(classes)]
        values, lows, highs = (np.array([entry[end] for entry in own]) for end in ("value", "low", "high"))
        low, high = intervals.mover_interval(values, lows, highs)
        drawn_low, drawn_high = np.percentile(draws.metric(name), [2.5, 97.5])
        assert body[name] == pytest.approx(
            {"value": values.mean(), "low": min(low, drawn_low), "high": max(high, drawn_high)}
        )


@pytest.mark.parametrize(
    ("truth", "probabilities", "options", "message"),
    [
        ([0, 1], [[1.0, 0.0]], {}, "`probabilities` has shape (1, 2); expected (2, 2): pictures, labels."),
        ([-1, 1], [[1.0, 0.0]] * 2, {}, "`y_true` is in [-1, 1]; expected [0, 1], for 2 labels."),
        ([0, 2], [[1.0, 0.0]] * 2, {}, "`y_true` is in [0, 2]; expected [0, 1], for 2 labels."),
        ([0], [[1.0, 0.0]], {"labels": ["a", "a"]}, "`labels` contains a name twice: ['a', 'a']."),
        ([0], [[1.0, 0.0]], {"groups": [1, 2, 3]}, "`groups` has 3 rows; expected 1, one per picture."),
        (
            [0],
            [[1.0, 0.0]],
            {"unknown": [True, False]},
            "`unknown` has shape (2,); expected (1,), one value per picture.",
        ),
    ],
)
def test_the_messages_about_wrong_input_in_full(
    truth: list[int], probabilities: list[list[float]], options: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"labels": ["a", "b"]} | {
        name: value if name == "labels" else np.array(value) for name, value in options.items()
    }
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - compared in full
        compute_metrics(np.array(truth), np.array(probabilities), resamples=3, **arguments)
    assert str(refused.value) == message
    with pytest.raises(UserError) as empty:
        compute_metrics(np.empty(0, dtype=int), np.empty((0, 2)), names(2))
    assert str(empty.value) == ("There is no picture to score: the table has no readable, labelled row in this split.")


def test_a_rounding_error_above_1_is_clipped_and_more_is_refused() -> None:
    body = compute_metrics(np.array([0]), np.array([[1 + 5e-7, 0.0]]), names(2), resamples=3)
    assert body == compute_metrics(np.array([0]), np.array([[1.0, 0.0]]), names(2), resamples=3)
    with pytest.raises(ValueError, match="not in"):
        compute_metrics(np.array([0]), np.array([[1 + 2e-6, 0.0]]), names(2), resamples=3)
