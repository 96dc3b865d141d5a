"""How many suspect labels are expected to be wrong: true on drawn labels, and little where a weak model doubts."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("cleanlab")

from bestiary.evaluation.label_issues import DOUBTFUL_FRACTION, detect_label_issues
from bestiary.evaluation.label_noise import MAX_FITTED, WrongLabels, estimate_wrong_labels, fit_label_noise
from bestiary.label_issue_summary import LabelIssueSummary
from bestiary.quick_metrics import softmax
from bestiary.report.next_steps import next_steps
from bestiary.report.run_summary import RunSummary
from bestiary.report.verdict import run_verdict

CLASSES = [f"class {number}" for number in range(10)]
Labels = NDArray[np.int64]


def draw(
    pictures: int, *, noise: float, sharpness: float, temperature: float = 2.0, seed: int = 0
) -> tuple[NDArray[np.float64], Labels, NDArray[np.bool_]]:
    """Probabilities of a model that errs as it says, labels of which a fraction is wrong, and which they are.

    The model's logits are divided by `temperature`: it is underconfident, as a head is that was regularised strongly.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, sharpness, (pictures, len(CLASSES)))
    drawn = rng.random(pictures)[:, None] < softmax(logits).cumsum(axis=1)
    true = drawn.argmax(axis=1)
    wrong = rng.random(pictures) < noise
    labels = np.where(wrong, (true + rng.integers(1, len(CLASSES), pictures)) % len(CLASSES), true)
    return softmax(logits / temperature), labels, wrong


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_the_noise_is_estimated(noise: float) -> None:
    probabilities, labels, _ = draw(6_000, noise=noise, sharpness=4.0)
    fitted = fit_label_noise(probabilities, labels)
    assert fitted.weights.sum() == pytest.approx(1)
    assert fitted.fraction * 0.9 == pytest.approx(noise, abs=0.006)  # one of ten random labels is the true one


def test_the_stated_precision_holds_within_its_interval() -> None:
    inside = 0
    for seed in range(10):
        probabilities, labels, wrong = draw(3_000, noise=0.05, sharpness=4.0, seed=seed)
        issues, summary = detect_label_issues(probabilities, labels, CLASSES)
        assert summary is not None
        assert summary.count == len(issues) > 20
        precision = wrong[[issue.position for issue in issues]].mean()
        inside += summary.low <= precision <= summary.high
    assert inside >= 9


@pytest.mark.parametrize("sharpness", [1.5, 2.5, 4.0])
def test_a_model_that_errs_often_does_not_doubt_correct_labels(sharpness: float) -> None:
    probabilities, labels, _ = draw(4_000, noise=0.0, sharpness=sharpness, temperature=1.0)
    by_rule = (probabilities[np.arange(4_000), labels] < 0.1) & (probabilities.max(axis=1) >= 0.5)
    issues, summary = detect_label_issues(probabilities, labels, CLASSES)
    assert by_rule.mean() > 2 * DOUBTFUL_FRACTION  # as all that the rule alone would name
    assert len(issues) <= DOUBTFUL_FRACTION * 4_000
    assert summary is not None
    assert summary.is_doubtful
    assert summary.low < 0.05


def test_of_a_weak_model_the_most_doubtful_labels_are_kept() -> None:
    probabilities, labels, wrong = draw(4_000, noise=0.05, sharpness=2.0, temperature=1.0)
    rule = (probabilities[np.arange(4_000), labels] < 0.1) & (probabilities.max(axis=1) >= 0.5)
    issues, summary = detect_label_issues(probabilities, labels, CLASSES)
    positions = [issue.position for issue in issues]
    assert len(issues) < rule.sum() / 2
    assert wrong[positions].mean() > 1.5 * wrong[rule].mean()
    assert [issue.score for issue in issues] == sorted(issue.score for issue in issues)
    assert summary is not None


def test_many_pictures_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities, labels, _ = draw(6_000, noise=0.05, sharpness=4.0)
    everything = fit_label_noise(probabilities, labels).fraction
    monkeypatch.setattr("bestiary.evaluation.label_noise.MAX_FITTED", 2_000)
    assert MAX_FITTED > 2_000
    assert fit_label_noise(probabilities, labels).fraction == pytest.approx(everything, abs=0.02)


def test_without_pictures_nothing_is_estimated() -> None:
    with pytest.raises(ValueError, match="two classes"):
        fit_label_noise(np.ones((3, 1)), np.zeros(3, np.int64))


def test_the_interval_is_that_of_the_draws() -> None:
    certain = WrongLabels(np.ones((1, 20)), np.ones(1))
    assert certain.precision_interval() == (1.0, 1.0)
    even = WrongLabels(np.full((1, 400), 0.5), np.ones(1))
    low, high = even.precision_interval()
    assert low == pytest.approx(0.45, abs=0.01)
    assert high == pytest.approx(0.55, abs=0.01)


def test_a_label_that_the_model_finds_likely_is_not_wrong() -> None:
    probabilities, labels, _ = draw(2_000, noise=0.05, sharpness=4.0)
    noise = fit_label_noise(probabilities, labels)
    rows = np.array([[0.97, *[0.03 / 9] * 9], [0.0001, 0.9, *[0.0999 / 8] * 8]])
    likely, unlikely = estimate_wrong_labels(noise, rows, np.zeros(2, np.int64)).probability
    assert likely < 0.01
    assert unlikely > 0.9


def test_doubtful_labels_are_no_headline_and_say_what_is_expected() -> None:
    confusion = {"labels": ["cat", "dog"], "counts": [[90, 10], [8, 92]]}
    figure = {"value": 0.9, "low": 0.88, "high": 0.93}
    metrics = {"accuracy": figure, "macro_f1": figure, "n": 200, "confusion": confusion}
    metrics["per_class"] = {label: {"f1": figure, "support": 100} for label in ("cat", "dog")}
    doubtful = LabelIssueSummary(40, 0.77, 0.04, 0.0, 0.1)
    summary = RunSummary(metrics, {"cat": 500, "dog": 500}, suspects={"train": 40}, label_issues=doubtful)
    assert "label" not in run_verdict(summary)
    [step] = [step for step in next_steps(summary) if "doubtful" in step.what]
    assert step.gain is None
    assert "Probably about 2 of the 40 doubtful labels are wrong (95 % interval 0 to 4)" in step.why
    sound = RunSummary(
        metrics,
        {"cat": 500, "dog": 500},
        suspects={"train": 40},
        label_issues=LabelIssueSummary(40, 0.97, 0.9, 0.8, 1.0),
    )
    expected = "about 36 of the 40 suspect labels"
    assert f"Wrong labels: probably {expected} (95 % interval 32 to 40), perhaps more." in run_verdict(sound)
    assert any(f"Probably {expected} are wrong (95 % interval 32 to 40)" in step.why for step in next_steps(sound))


@pytest.mark.parametrize(
    ("count", "precision", "low", "high", "sentence"),
    [
        (2, 0.1, 0.0, 0.5, "Probably neither of the 2 doubtful labels is wrong (95 % interval 0 to 1). They may be"),
        (2, 0.1, 0.0, 0.2, "Probably neither of the 2 doubtful labels is wrong. They may be"),
        (3, 0.1, 0.0, 0.2, "Probably none of the 3 doubtful labels is wrong (95 % interval 0 to 1). They may be"),
        (
            2,
            0.4,
            0.0,
            0.7,
            "Probably about 1 of the 2 doubtful labels is wrong (95 % interval 0 to 1), perhaps more. The other may",
        ),
        (
            2,
            0.4,
            0.0,
            1.0,
            "Perhaps about 1 of the 2 doubtful labels is wrong; any number from 0 to 2 is possible, as they are few.",
        ),
        (2, 0.9, 0.5, 1.0, "Probably both suspect labels are wrong (95 % interval 1 to 2)."),
        (3, 0.95, 0.7, 1.0, "Probably all 3 suspect labels are wrong (95 % interval 2 to 3)."),
        (
            3,
            0.3,
            0.0,
            0.7,
            "Probably about 1 of the 3 doubtful labels is wrong (95 % interval 0 to 2), perhaps more. The others may",
        ),
        (
            1,
            0.9,
            0.8,
            0.97,
            "The suspect label is probably wrong, with a probability of 90 % (95 % interval 80 to 97 %).",
        ),
        (1, 0.02, 0.0, 1.0, "The doubtful label may be wrong or correct: one is too few for an estimate."),
        (
            9_000,
            0.6,
            0.5,
            0.7,
            "Probably about 5,400 of the 9,000 suspect labels are wrong (95 % interval 4,500 to 6,300),",
        ),
    ],
)
def test_the_sentence_about_wrong_labels_fits_small_and_large_counts(
    count: int, precision: float, low: float, high: float, sentence: str
) -> None:
    assert LabelIssueSummary(count, 0.9, precision, low, high).describe().startswith(sentence)
