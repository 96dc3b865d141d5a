"""Scores on other pictures, limited to the classes that occur: absent ones have no recall, and count as 0 in means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def present_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of an evaluation over the classes that have pictures; their macro averages replace the others.

    The rows and columns of the confusion matrix are the classes that have pictures or are predicted.
    """
    labels, counts = metrics["confusion"]["labels"], np.array(metrics["confusion"]["counts"], np.int64)
    occurs = np.flatnonzero(counts.any(axis=1) | counts.any(axis=0))
    confusion = {"labels": [labels[at] for at in occurs], "counts": counts[np.ix_(occurs, occurs)].tolist()}
    per_class = {label: scores for label, scores in metrics["per_class"].items() if scores["support"]}
    return {**metrics, **metrics["present"], "per_class": per_class, "confusion": confusion}
