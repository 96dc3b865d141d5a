"""Test pictures that a model has seen before: what a split that came with the pictures lets through."""

from __future__ import annotations

from typing import Any

import polars as pl


def leaks_beside(predictions: pl.DataFrame, shown: pl.DataFrame) -> dict[str, Any]:
    """Return `{"leaks": …}` for metrics.json if test pictures have duplicates in training or validation, else nothing.

    predictions: of the test pictures, `row_id, label, predicted`; shown: the pictures with `group` and `split`.
    """
    seen = shown.filter(pl.col("split").is_in(["train", "val"]))["group"].unique()
    tested = predictions.join(shown.select("row_id", "group"), on="row_id", how="left", maintain_order="left")
    leaked, right = tested["group"].is_in(seen.implode()), tested["label"] == tested["predicted"]
    if not leaked.any() or "fold" in shown.columns:  # with folds, training pictures of one model are tested by another
        return {}
    count, clean = int(leaked.sum()), tested.height - int(leaked.sum())
    accuracy = int((right & ~leaked).sum()) / clean if clean else None
    note = (
        f"The split that came with the pictures leaks: {count:,} of {tested.height:,} test pictures"
        f" ({100 * count / tested.height:.1f} %) show the same as a picture in training or validation, so these scores"
        " are too good."
    )
    if accuracy is not None:
        note += f" Accuracy over the other {clean:,}: {accuracy:.3f}."
    return {"leaks": {"test pictures": count, "accuracy without them": accuracy, "note": note}}
