"""Recipes over several seeds: scikit-learn's metrics, each picture one piece of evidence, corrected p values."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from scipy.stats import ttest_rel

from bestiary.errors import UserError
from bestiary.evaluation.comparison import RunPredictions
from bestiary.evaluation.multi_seed import RecipePair, compare_over_seeds, corrected_resampled_ttest
from bestiary.stats import holm
from bestiary.study.page import describe_result

COLOURS = ("blue", "green", "red")
N = 200


def answers(accuracy: float, *, seed: int, chance: int, n: int = N, first: int = 0) -> RunPredictions:
    """Answers to n test pictures of a seed, so many of which are right; `chance` decides which."""
    rng = np.random.default_rng([seed, chance])
    truth = np.arange(first, first + n) % 3
    predicted = np.where(rng.random(n) < accuracy, truth, (truth + 1) % 3)
    shares = 0.1 + 0.7 * np.eye(3)[predicted]
    keys = [f"{row:05d} 0" for row in range(first, first + n)]
    frame = pl.DataFrame(
        {
            "key": keys,
            "path": keys,
            "label": [COLOURS[at] for at in truth],
            "group": list(range(first, first + n)),
            "predicted": [COLOURS[at] for at in predicted],
            **{f"p_{label}": shares[:, at] for at, label in enumerate(COLOURS)},
        }
    )
    return RunPredictions(f"{chance}/{seed}", COLOURS, frame)


def of_recipes(
    accuracies: dict[str, float], seeds: tuple[int, ...], n: int = N
) -> dict[str, dict[int, RunPredictions]]:
    return {
        name: {seed: answers(value, seed=seed, chance=at, n=n, first=1000 * seed) for seed in seeds}
        for at, (name, value) in enumerate(accuracies.items())
    }


def test_means_and_spreads_are_those_of_the_single_seeds() -> None:
    from sklearn.metrics import f1_score

    given = of_recipes({"one": 0.7, "other": 0.8}, (0, 1, 2))
    found = compare_over_seeds(given, [RecipePair("other", "one")], dict.fromkeys((0, 1, 2), 0.2), resamples=100)
    for told in found["recipes"]:
        tables = [run.predictions for run in given[told["recipe"]].values()]
        values = [f1_score(one["label"], one["predicted"], average="macro") for one in tables]
        assert told["macro_f1"]["values"] == pytest.approx(values)
        assert told["macro_f1"]["mean"] == pytest.approx(np.mean(values))
        assert told["macro_f1"]["sd"] == pytest.approx(np.std(values, ddof=1))
        assert told["macro_f1"]["low"] < told["macro_f1"]["mean"] < told["macro_f1"]["high"]
    (difference,) = found["differences"]
    means = {told["recipe"]: told["macro_f1"]["mean"] for told in found["recipes"]}
    assert difference["macro_f1"]["value"] == pytest.approx(means["other"] - means["one"])
    assert [told["seed"] for told in difference["macro_f1"]["by_seed"]] == [0, 1, 2]


def test_a_better_recipe_is_found_better_and_equal_ones_are_not_told_apart() -> None:
    given = of_recipes({"plain": 0.6, "twin": 0.6, "better": 0.9}, (0, 1, 2))
    given["copy"] = given["plain"]
    pairs = [RecipePair(name, "plain") for name in ("twin", "better", "copy")]
    found = compare_over_seeds(given, pairs, dict.fromkeys((0, 1, 2), 0.2), resamples=500)
    verdicts = {one["recipe"]: one["macro_f1"]["verdict"] for one in found["differences"]}
    assert verdicts == {"twin": "no significant difference", "better": "better", "copy": "no significant difference"}
    losses = {one["recipe"]: one["log_loss"]["verdict"] for one in found["differences"]}
    assert losses["better"] == "better"
    turned = compare_over_seeds(given, [RecipePair("plain", "better")], dict.fromkeys((0, 1, 2), 0.2), resamples=500)
    assert turned["differences"][0]["accuracy"]["verdict"] == "worse"


def test_p_values_of_a_metric_are_corrected_together() -> None:
    given = of_recipes({"a": 0.6, "b": 0.65, "c": 0.7, "d": 0.62}, (0, 1))
    pairs = [RecipePair(name, "a") for name in "bcd"]
    found = compare_over_seeds(given, pairs, dict.fromkeys((0, 1), 0.2), resamples=200)["differences"]
    for metric in ("accuracy", "macro_f1", "log_loss"):
        assert [one[metric]["p_holm"] for one in found] == holm([one[metric]["p"] for one in found])


def test_few_equal_recipes_are_called_different() -> None:
    """Of 120 pairs of recipes without a difference, three seeds each, at most one in twenty may be told apart."""
    told = 0
    for trial in range(120):
        given = {
            name: {seed: answers(0.7, seed=seed, chance=2 * trial + at, n=60, first=100 * seed) for seed in range(3)}
            for at, name in enumerate(("one", "other"))
        }
        found = compare_over_seeds(given, [RecipePair("other", "one")], dict.fromkeys(range(3), 0.2), resamples=100)
        told += found["differences"][0]["accuracy"]["verdict"] != "no significant difference"
    assert told <= 6


def test_one_seed_has_the_interval_of_its_pictures_and_no_spread() -> None:
    given = of_recipes({"one": 0.6, "other": 0.9}, (4,))
    found = compare_over_seeds(given, [RecipePair("other", "one")], {4: 0.2}, resamples=200)
    assert [one["accuracy"]["sd"] for one in found["recipes"]] == [None, None]
    (difference,) = found["differences"]
    own = difference["accuracy"]["by_seed"][0]
    assert {key: difference["accuracy"][key] for key in ("value", "low", "high", "p")} == {
        key: own[key] for key in ("value", "low", "high", "p")
    }


def test_a_picture_that_every_seed_tests_is_one_piece_of_evidence() -> None:
    """The same answers under four seeds say no more than under one; other pictures under each say more."""
    same = {name: answers(value, seed=0, chance=at) for at, (name, value) in enumerate((("a", 0.6), ("b", 0.7)))}
    alone = compare_over_seeds(
        {name: {0: run} for name, run in same.items()}, [RecipePair("b", "a")], {0: 0.2}, resamples=500
    )
    often = compare_over_seeds(
        {name: dict.fromkeys(range(4), run) for name, run in same.items()},
        [RecipePair("b", "a")],
        dict.fromkeys(range(4), 0.2),
        resamples=500,
    )
    apart = compare_over_seeds(
        of_recipes({"a": 0.6, "b": 0.7}, (0, 1, 2, 3)), [RecipePair("b", "a")], dict.fromkeys(range(4), 0.2)
    )

    def width(found: dict[str, list[dict[str, dict[str, float]]]]) -> float:
        score = found["recipes"][0]["accuracy"]
        return score["high"] - score["low"]

    assert width(often) == pytest.approx(width(alone))
    assert width(apart) < 0.6 * width(alone)


def test_without_shared_pictures_the_interval_over_seeds_is_student_s() -> None:
    first, this = np.array([0.7, 0.72, 0.69, 0.75]), np.array([0.74, 0.75, 0.74, 0.76])
    found = corrected_resampled_ttest(list(this - first), 0.0)
    expected = ttest_rel(this, first)
    assert found["p"] == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert [found["low"], found["high"]] == pytest.approx([low, high])
    wider = corrected_resampled_ttest(list(this - first), 0.25)
    assert wider["high"] - wider["low"] == pytest.approx((high - low) * (1 + 4 * 0.25) ** 0.5)


def test_differences_that_are_all_the_same() -> None:
    assert corrected_resampled_ttest([0.0, 0.0], 0.2) == {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    assert corrected_resampled_ttest([0.1, 0.1], 0.2)["p"] == 0.0


def test_a_recipe_without_some_seeds_is_compared_over_those_that_both_have() -> None:
    given = of_recipes({"one": 0.6, "other": 0.9}, (0, 1, 2))
    del given["other"][1]
    found = compare_over_seeds(given, [RecipePair("other", "one")], dict.fromkeys((0, 1, 2), 0.2), resamples=100)
    assert found["differences"][0]["seeds"] == [0, 2]
    assert {one["recipe"]: one["seeds"] for one in found["recipes"]} == {"one": [0, 1, 2], "other": [0, 2]}
    given["other"] = {5: answers(0.9, seed=5, chance=9)}
    assert (
        compare_over_seeds(given, [RecipePair("other", "one")], dict.fromkeys(range(6), 0.2), resamples=100)[
            "differences"
        ]
        == []
    )


def test_recipes_are_ranked_over_the_seeds_that_all_have() -> None:
    """The one that failed under the difficult seed has the higher mean of its own, and is not called the highest."""
    easy, difficult = 0.9, 0.3
    given = {
        name: {seed: answers(score + more, seed=seed, chance=at) for seed, score in ((0, difficult), (1, easy))}
        for at, (name, more) in enumerate((("whole", 0.05), ("failed", 0.0)))
    }
    del given["failed"][0]
    found = compare_over_seeds(given, [RecipePair("failed", "whole")], dict.fromkeys((0, 1), 0.2), resamples=50)
    means = {one["recipe"]: one["macro_f1"]["mean"] for one in found["recipes"]}
    assert means["failed"] > means["whole"]
    assert found["common"] == [1]
    assert describe_result(found).startswith("Highest mean: whole,")
    assert "over the one seed that all recipes have. The difference is" in describe_result(found)
    given["failed"] = {2: answers(easy, seed=2, chance=1)}
    apart = compare_over_seeds(given, [RecipePair("failed", "whole")], dict.fromkeys(range(3), 0.2), resamples=50)
    assert describe_result(apart).startswith("The recipes cannot be ranked yet")


def test_other_test_pictures_under_the_same_seed_are_refused() -> None:
    given = of_recipes({"one": 0.6, "other": 0.9}, (0, 1))
    given["other"][1] = answers(0.9, seed=1, chance=1, first=1001)
    with pytest.raises(UserError, match="The test pictures differ"):
        compare_over_seeds(given, [RecipePair("other", "one")], dict.fromkeys((0, 1), 0.2), resamples=100)


def test_the_draw_is_the_same_for_every_recipe() -> None:
    """A recipe that is right where another is, and on ten pictures more, is better in every resample."""
    one = {seed: answers(0.6, seed=seed, chance=0, first=1000 * seed) for seed in range(3)}
    more = {}
    for seed, run in one.items():
        wrong = np.flatnonzero((run.predictions["label"] != run.predictions["predicted"]).to_numpy())[:10].tolist()
        righted = pl.when(pl.int_range(pl.len()).is_in(wrong)).then("label").otherwise("predicted")
        shares = [
            pl.when(pl.int_range(pl.len()).is_in(wrong)).then(pl.col("label") == label).otherwise(f"p_{label}")
            for label in COLOURS
        ]
        named = [share.cast(pl.Float64).alias(f"p_{label}") for share, label in zip(shares, COLOURS, strict=True)]
        more[seed] = RunPredictions("more", COLOURS, run.predictions.with_columns(righted.alias("predicted"), *named))
    found = compare_over_seeds(
        {"one": one, "more": more}, [RecipePair("more", "one")], dict.fromkeys(range(3), 0.2), resamples=300
    )
    told = found["differences"][0]["accuracy"]
    assert told["value"] == pytest.approx(10 / N)
    assert all(seed["low"] >= 0 for seed in told["by_seed"])
    assert told["high"] - told["low"] < 0.1


def test_pairs_in_any_order_give_turned_signs() -> None:
    given = of_recipes({"one": 0.6, "other": 0.9}, (0, 1))
    for one, other in itertools.permutations(given):
        (told,) = compare_over_seeds(given, [RecipePair(one, other)], dict.fromkeys((0, 1), 0.2), resamples=100)[
            "differences"
        ]
        assert (told["accuracy"]["value"] > 0) == (one == "other")


def right_everywhere(sizes: dict[str, int], *, seed: int) -> RunPredictions:
    """Answers that are all right and sure: so many pictures of each class, none of which another seed tests."""
    labels = [label for label, size in sizes.items() for _ in range(size)]
    keys = [f"{seed} {row:03d} 0" for row in range(len(labels))]
    columns = {"key": keys, "path": keys, "label": labels, "predicted": labels}
    shares = {f"p_{label}": [float(one == label) for one in labels] for label in sizes}
    frame = pl.DataFrame({**columns, "group": [1000 * seed + row for row in range(len(labels))], **shares})
    return RunPredictions(str(seed), tuple(sizes), frame)


@pytest.mark.parametrize("rare", [1, 4])
def test_a_rare_class_that_a_draw_misses_under_a_seed_is_not_counted_as_wrong(rare: int) -> None:
    runs = {seed: right_everywhere({"common": 40, "rare": rare, "seldom": rare}, seed=seed) for seed in range(5)}
    found = compare_over_seeds(
        {"one": runs, "same": runs}, [RecipePair("same", "one")], dict.fromkeys(runs, 0.2), resamples=300
    )
    for told in found["recipes"]:
        assert [told["macro_f1"][key] for key in ("mean", "low", "high")] == [1.0, 1.0, 1.0]
    assert found["differences"][0]["macro_f1"]["low"] == found["differences"][0]["macro_f1"]["high"] == 0.0


def test_a_seed_of_which_a_draw_has_no_picture_is_left_out_of_it() -> None:
    """Of two seeds with a picture of each class, a draw of two and two misses one in an eighth of the cases."""
    runs = {seed: right_everywhere({"one": 1, "other": 1}, seed=seed) for seed in range(2)}
    found = compare_over_seeds({"a": runs, "b": runs}, [RecipePair("b", "a")], dict.fromkeys(runs, 0.2), resamples=300)
    for metric in ("accuracy", "macro_f1"):
        assert [found["recipes"][0][metric][key] for key in ("low", "high")] == [1.0, 1.0]
        assert [one["low"] for one in found["differences"][0][metric]["by_seed"]] == [0.0, 0.0]
