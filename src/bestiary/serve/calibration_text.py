"""What the probabilities of a served model mean: a sentence from the calibration that its run measured."""

from __future__ import annotations

from pathlib import Path

from bestiary.errors import RunError
from bestiary.files import read_json

FEW_PICTURES = 100
NOT_MEASURED = (
    "Probabilities were calibrated on validation pictures. How well that worked is not known here: there are no test"
    " scores beside this model."
)


def describe_probabilities(run: Path) -> str:
    """Return how the mean probability compares with the fraction of correct answers on the run's test pictures.

    From `reliability` and `ece` in metrics.json; an export has none, and the sentence says so. Of a cross-validation
    they are the answers of the models of the folds.
    """
    try:
        metrics = read_json(run / "metrics.json")
        bins = [row for row in metrics["reliability"]["after"] if row["count"]]
        tested = sum(row["count"] for row in bins)
        mean, accuracy = (sum(row[key] * row["count"] for row in bins) / tested for key in ("confidence", "accuracy"))
        error = float(metrics["ece"]["value"])
        by_folds = metrics.get("split") == "folds"
    except (RunError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return NOT_MEASURED
    few = " These are few pictures: treat probabilities as estimates." if tested < FEW_PICTURES else ""
    pictures = f"the {tested:,} test pictures of this model"
    if by_folds:
        pictures = f"{tested:,} pictures, each tested by a model that was not trained on it"
    return (
        f"On {pictures}, answers had a mean probability of {100 * mean:.1f} %, and"
        f" {100 * accuracy:.1f} % of them were right; the calibration error is {100 * error:.1f} %. On other kinds of"
        f" pictures probabilities may be too high.{few}"
    )
