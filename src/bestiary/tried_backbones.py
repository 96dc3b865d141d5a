"""The backbones that a run chose from, with their scores on the validation pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

TRIED = "backbones tried"  # in `environment.json`


@dataclass(frozen=True)
class TriedBackbone:
    """A backbone that a run chose from. val_loss, val_macro_f1: of its best head; None if it was not fitted.

    skipped: why it was not; chosen: whether it has the lowest loss on the validation pictures.
    """

    backbone: str
    size: int
    val_loss: float | None = None
    val_macro_f1: float | None = None
    skipped: str = ""
    chosen: bool = False

    def describe(self) -> str:
        """Return the backbone with its validation scores, or why it has none."""
        name = f"{self.backbone} at {self.size} px"
        if self.val_loss is None or self.val_macro_f1 is None:
            return f"{name}: {self.skipped}"
        return f"{name}: loss {self.val_loss:.4f}, macro-F1 {self.val_macro_f1:.4f}"


def describe_tried_backbones(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for each backbone that a run has recorded under TRIED."""
    tried = [TriedBackbone(**entry) for entry in entries]
    return [f"{entry.describe()}{' (chosen)' if entry.chosen else ''}" for entry in tried]
