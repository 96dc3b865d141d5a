"""A study as one page, as a table on a terminal, and in words: what helped, by how much, how sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from markupsafe import Markup

from bestiary.evaluation.comparison import COMPARED, LOWER_IS_BETTER
from bestiary.files import write_text
from bestiary.report.comparison_page import NAMES, print_text_table
from bestiary.report.render import render_page
from bestiary.study.plots import differences_plot, scores_plot, seconds_plot
from bestiary.text import format_duration
from bestiary.version import __version__

METRIC = "macro_f1"  # by which a recipe is called better
COLUMNS = ("recipe", "seeds", *NAMES.values(), "training", "against", "difference in macro-F1", "p (Holm)", "that is")


def write_page(results: Mapping[str, Any], out: Path) -> None:
    """Write the results of a study (`search.study_results`) as a page that needs nothing from outside itself."""
    write_text(out, render_page("study.html", _template_values(results)))


def print_study(results: Mapping[str, Any]) -> None:
    """Print the results as a table, with how they are to be read below it."""
    print_text_table(COLUMNS, study_rows(results), f"{describe_result(results)}\n{describe_method(results)}")


def study_rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the lines of the table under COLUMNS: a recipe each, with its difference to the one it is held against."""
    differences = {one["recipe"]: one for one in results["differences"]}
    lines = []
    for one in results["recipes"]:
        told = differences.get(one["recipe"])
        scores = [format_mean(one[metric], metric) for metric in COMPARED]
        line = (one["recipe"], str(len(one["seeds"])), *scores, format_duration(one["train_seconds"]))
        if told is None:
            lines.append((*line, "", "", "", ""))
            continue
        p = f"{told[METRIC]['p_holm']:.3g}"
        lines.append((*line, told["against"], format_difference(told[METRIC], METRIC), p, told[METRIC]["verdict"]))
    return lines


def format_mean(score: Mapping[str, Any], metric: str) -> str:
    """Return a mean over seeds with its spread, rates in per cent."""
    factor, digits = (1, 3) if metric in LOWER_IS_BETTER else (100, 1)
    spread = "" if score["sd"] is None else f" ± {factor * score['sd']:.{digits}f}"
    return f"{factor * score['mean']:.{digits}f}{spread}"


def format_difference(difference: Mapping[str, float], metric: str) -> str:
    """Return a difference with its interval, of rates in points."""
    factor, digits = (1, 3) if metric in LOWER_IS_BETTER else (100, 1)
    value, low, high = (f"{factor * difference[key]:+.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def describe_result(results: Mapping[str, Any]) -> str:
    """Return which recipe has the highest mean over the seeds that all have, and what was told apart at all."""
    return f"{_describe_highest(results)} {_describe_verdicts([one[METRIC]['verdict'] for one in results['differences']])}".strip()


def _describe_verdicts(verdicts: Sequence[str]) -> str:
    """Return how many differences are more than chance, in words."""
    apart = sum(verdict != "not told apart" for verdict in verdicts)
    if len(verdicts) < 2:
        only = "more than chance would make" if apart else "no more than chance may make"
        return f"The difference is {only}." if verdicts else ""
    return f"{apart or 'None'} of {len(verdicts)} differences {'is' if apart < 2 else 'are'} told apart from chance."


def _describe_highest(results: Mapping[str, Any]) -> str:
    """Return the recipe with the highest mean in words; recipes are ranked only where they had the same seeds."""
    common = results["common"]
    if not common:
        return "No recipe is called the highest yet: there is no seed under which all of them are finished."
    means = {one["recipe"]: mean_over_seeds(one, METRIC, common) for one in results["recipes"]}
    top = max(means.values())
    best = " and ".join(name for name, value in means.items() if value == top)
    only = " that all recipes have" if has_missing_seeds(results) else ""
    seeds = f"the {len(common)} seeds" if len(common) > 1 else "the one seed"
    return f"Highest mean: {best}, macro-F1 {100 * top:.1f} % over {seeds}{only}."


def mean_over_seeds(recipe_scores: Mapping[str, Any], metric: str, seeds: Sequence[int]) -> float:
    """Return the mean of a recipe's scores over some of its seeds."""
    return mean(
        float(value)
        for seed, value in zip(recipe_scores["seeds"], recipe_scores[metric]["values"], strict=True)
        if seed in seeds
    )


def has_missing_seeds(results: Mapping[str, Any]) -> bool:
    """Return whether some recipes are finished under seeds under which others are not."""
    return any(len(one["seeds"]) > len(results["common"]) for one in results["recipes"])


def describe_difference(difference: Mapping[str, Any]) -> str:
    """Return one difference in words."""
    told = difference[METRIC]
    return (
        f"{difference['recipe']} against {difference['against']}: {told['verdict']},"
        f" {format_difference(told, METRIC)} points of macro-F1, p\u00a0=\u00a0{told['p_holm']:.3g}."
    )


def describe_method(results: Mapping[str, Any]) -> str:
    """Return how intervals and p were made."""
    seeds = max(len(one["seeds"]) for one in results["recipes"])
    pictures = (
        "Every recipe of a seed answers to the same test pictures. 95 % intervals of differences: over pictures, from"
        f" {results['resamples']:,} resamples of groups of duplicates, the same for both recipes and for all seeds"
    )
    over = (
        "; and over the seeds that both have, from Student's t with the variance of overlapping splits (Nadeau and"
        " Bengio 2003); the wider of both on either side, the larger p."
        if seeds > 1
        else ". There is one seed: how much another split or training would change is not in them."
    )
    return (
        f"{pictures}{over} p is corrected for the number of differences, {len(results['differences'])} (Holm). ±:"
        " standard deviation over seeds. The highest of several means is a little too high: part of what made it the"
        " highest is luck."
    )


def _template_values(results: Mapping[str, Any]) -> dict[str, Any]:
    differences, recipes = results["differences"], results["recipes"]
    told = {one["recipe"]: one for one in differences}
    return {
        "version": __version__,
        "found": results,
        "headline": describe_result(results),
        "unequal": has_missing_seeds(results),
        "to_come": [cell for cell in results["missing"] if cell not in results["failed"]],
        "method": describe_method(results),
        "sentences": [(one[METRIC]["verdict"], describe_difference(one)) for one in differences],
        "scores": scores_plot(recipes, METRIC, "Macro-F1 on test pictures"),
        "gaps": differences_plot(differences, METRIC, "Difference in macro-F1, points") if differences else Markup(""),
        "times": seconds_plot(recipes, METRIC, "Macro-F1, mean over seeds"),
        "names": NAMES,
        "lines": [(one, [format_mean(one[metric], metric) for metric in COMPARED]) for one in recipes],
        "gap_lines": [
            (one, [(format_difference(one[metric], metric), one[metric]) for metric in COMPARED])
            for one in told.values()
        ],
        "spoken": format_duration,
    }
