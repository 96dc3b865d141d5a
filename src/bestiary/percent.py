"""Shares as percentages, as people read them: what is not quite certain is never rounded up to 100 %."""

from __future__ import annotations


def whole_percent(share: float) -> str:
    """Return a share as a whole percentage.

    >>> whole_percent(0.996)
    '99\\xa0%'
    """
    return f"{points_text(share, 0)}\u00a0%"


def points_text(share: float, digits: int) -> str:
    """Return a share times 100 with so many digits, without a unit."""
    if share == 1:
        return "100"
    most = 100 - 10**-digits
    return f"{min(100 * share, most) if share < 1 else 100 * share:.{digits}f}"
