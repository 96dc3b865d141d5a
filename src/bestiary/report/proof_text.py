"""The proof that a run's model file gives what its scores were computed from, as a sentence."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any


def describe_model_proof(bundle: Mapping[str, Any], metrics: Mapping[str, Any], resolved: str) -> str:
    """Return how many test pictures the exported graph predicted again from their files; empty for older runs.

    A network's test pictures are all predicted so. resolved: the text of the run's `resolved.toml`.
    """
    parity = bundle.get("parity") or {}
    if metrics.get("folds") or "test_pictures" not in parity:
        return ""
    if metrics.get("test_scored", 1) > 1:
        return f"All {metrics['n']:,} test pictures were scored again from their files, by model.onnx."
    proven, tested, ties = parity["test_pictures"], metrics["n"], parity.get("ties", 0)
    largest = max(value for name, value in parity["largest_difference"].items() if "familiarity" not in name)
    if tomllib.loads(resolved).get("evaluate", {}).get("prove") == "all":
        return (
            f"The scores are of the files: all {tested:,} test pictures were predicted from them, by model.onnx. A"
            f" run is refused if a probability differs by more than {parity['limit']:g} from that of the features."
        )
    answers = "no answer differs" if not ties else f"{ties:,} differ{'s' * (ties == 1)}, as two answers are tied"
    return (
        f"The scores are computed from features of the pictures. {proven:,} of {tested:,} test pictures were predicted"
        f" again from their files, by model.onnx: {answers}, and no probability by more than {largest:.1g}."
        f" A run with a difference above {parity['limit']:g} is refused."
    )
