"""The results of a study as a page, as a table for the terminal, and in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from markupsafe import Markup

from bestiary.evaluation.comparison import COMPARED, LOWER_IS_BETTER, NO_DIFFERENCE
from bestiary.files import write_text
from bestiary.report.comparison_page import NAMES, print_text_table
from bestiary.report.render import render_page
from bestiary.study.plots import differences_plot, scores_plot, seconds_plot
from bestiary.text import format_count, format_duration
from bestiary.version import __version__

METRIC = "macro_f1"  # decides which recipe is better
COLUMNS = ("recipe", "seeds", *NAMES.values(), "training", "against", "difference in macro-F1", "p (Holm)", "that is")


def write_page(results: Mapping[str, Any], out: Path) -> None:
    """Write the results of a study as one self-contained page."""
    write_text(out, render_page("study.html", _template_values(results)))


def print_study(results: Mapping[str, Any]) -> None:
    """Print the results as a table, with the method below it."""
    print_text_table(COLUMNS, study_rows(results), f"{describe_result(results)}\n{describe_method(results)}")


def study_rows(results: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of the table with the header COLUMNS: a recipe each, with its difference to its reference."""
    differences = {difference["recipe"]: difference for difference in results["differences"]}
    lines = []
    for recipe in results["recipes"]:
        difference = differences.get(recipe["recipe"])
        scores = [format_mean(recipe[metric], metric) for metric in COMPARED]
        line = (recipe["recipe"], str(len(recipe["seeds"])), *scores, format_duration(recipe["train_seconds"]))
        if difference is None:
            lines.append((*line, "", "", "", ""))
            continue
        f1 = difference[METRIC]
        estimate, p = format_difference(f1, METRIC), f"{f1['p_holm']:.3g}"
        lines.append((*line, difference["against"], estimate, p, f1["verdict"]))
    return lines


def format_mean(score: Mapping[str, Any], metric: str) -> str:
    """Format a mean over seeds with its standard deviation, rates in per cent."""
    factor, digits = (1, 3) if metric in LOWER_IS_BETTER else (100, 1)
    spread = "" if score["sd"] is None else f" ± {factor * score['sd']:.{digits}f}"
    return f"{factor * score['mean']:.{digits}f}{spread}"


def format_difference(difference: Mapping[str, float], metric: str) -> str:
    """Format a difference with its interval, of rates in percentage points."""
    factor, digits = (1, 3) if metric in LOWER_IS_BETTER else (100, 1)
    value, low, high = (f"{factor * difference[key]:+.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def describe_result(results: Mapping[str, Any]) -> str:
    """Describe the recipe with the highest mean over the common seeds, and how many differences are significant."""
    verdicts = [difference[METRIC]["verdict"] for difference in results["differences"]]
    return f"{_describe_highest(results)} {_describe_verdicts(verdicts)}".strip()


def _describe_verdicts(verdicts: Sequence[str]) -> str:
    """Describe how many differences are significant."""
    significant = sum(verdict != NO_DIFFERENCE for verdict in verdicts)
    if len(verdicts) < 2:
        return f"The difference is {'' if significant else 'not '}significant." if verdicts else ""
    return f"{significant or 'None'} of {len(verdicts)} differences {'is' if significant < 2 else 'are'} significant."


def _describe_highest(results: Mapping[str, Any]) -> str:
    """Describe the recipe with the highest mean over the seeds that all recipes share."""
    common = results["common"]
    if not common:
        return "The recipes cannot be ranked yet: no seed is finished for all of them."
    means = {recipe["recipe"]: mean_over_seeds(recipe, METRIC, common) for recipe in results["recipes"]}
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
    """Return whether some recipes are finished with seeds with which others are not."""
    return any(len(recipe["seeds"]) > len(results["common"]) for recipe in results["recipes"])


def describe_difference(difference: Mapping[str, Any]) -> str:
    """Describe one difference."""
    estimate = difference[METRIC]
    return (
        f"{difference['recipe']} against {difference['against']}: {estimate['verdict']},"
        f" {format_difference(estimate, METRIC)} points of macro-F1, p\u00a0=\u00a0{estimate['p_holm']:.3g}."
    )


def describe_method(results: Mapping[str, Any]) -> str:
    """Describe how intervals and p values are computed."""
    seeds = max(len(recipe["seeds"]) for recipe in results["recipes"])
    pictures = (
        "With each seed all recipes are tested on the same pictures. 95 % intervals of differences: over pictures,"
        f" from {results['resamples']:,} bootstrap resamples of duplicate groups, the same for all recipes and seeds"
    )
    over = (
        "; and over the common seeds, from the corrected resampled t-test (Nadeau and Bengio 2003); the wider interval"
        " and the larger p are given."
        if seeds > 1
        else ". There is one seed: the variance between splits and training runs is not included."
    )
    corrected = format_count(len(results["differences"]), "difference")
    return (
        f"{pictures}{over} p values are corrected for {corrected} (Holm). ±: standard"
        " deviation over seeds. The highest of several means is biased upwards (selection bias)."
    )


def _template_values(results: Mapping[str, Any]) -> dict[str, Any]:
    differences, recipes = results["differences"], results["recipes"]
    return {
        "version": __version__,
        "found": results,
        "headline": describe_result(results),
        "unequal": has_missing_seeds(results),
        "to_come": [cell for cell in results["missing"] if cell not in results["failed"]],
        "method": describe_method(results),
        "sentences": [(row[METRIC]["verdict"], describe_difference(row)) for row in differences],
        "scores": scores_plot(recipes, METRIC, "Macro-F1 on test pictures"),
        "gaps": differences_plot(differences, METRIC, "Difference in macro-F1, points") if differences else Markup(""),
        "times": seconds_plot(recipes, METRIC, "Macro-F1, mean over seeds"),
        "names": NAMES,
        "lines": [(recipe, [format_mean(recipe[metric], metric) for metric in COMPARED]) for recipe in recipes],
        "gap_lines": [
            (row, [(format_difference(row[metric], metric), row[metric]) for metric in COMPARED]) for row in differences
        ],
        "spoken": format_duration,
    }
