#!/usr/bin/env python3
"""Print how many mutants of a target the tests kill, and the names of the others: scripts/mutate runs it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

LEAST = 0.85
# Exit codes of pytest for a mutant, as mutmut records them in its .meta files; 33: no test reaches it.
KILLED, TIMED_OUT = (1, 3), (-24, 24, 36, 152, 255)


def read_outcomes(folder: Path) -> dict[str, str]:
    """Return the outcome of each mutant below the folder that mutmut has written."""
    outcomes = {}
    for path in sorted(folder.rglob("*.meta")):
        codes = json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]
        outcomes |= {name: describe_exit_code(code) for name, code in codes.items()}
    return outcomes


def describe_exit_code(code: int | None) -> str:
    """Return the outcome of a mutant.

    >>> [describe_exit_code(code) for code in (1, 0, 33, -24, None)]
    ['killed', 'survived', 'without a test', 'timed out', 'not tried']
    """
    if code is None:
        return "not tried"
    if code in TIMED_OUT:
        return "timed out"
    return (
        "killed" if code in KILLED else {0: "survived", 5: "without a test", 33: "without a test"}.get(code, "unclear")
    )


def main() -> int:
    """Print the numbers of the first argument, a target whose mutants are in the second; return 1 below `LEAST`."""
    target, folder = sys.argv[1], Path(sys.argv[2])
    outcomes = read_outcomes(folder)
    counts = Counter(outcomes.values())
    tried = sum(counts.values()) - counts["not tried"]
    killed = counts["killed"] + counts["timed out"]  # a mutant that never ends is noticed
    if not tried:
        print(f"{target}: no mutant was tried.")
        return 1
    for name, outcome in outcomes.items():
        if outcome not in ("killed", "timed out", "not tried"):
            print(f"    {name}: {outcome}")
    listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    print(f"{target}: {killed / tried:.1%} of {tried} mutants killed ({listed}).", flush=True)
    return int(killed < LEAST * tried)


if __name__ == "__main__":
    sys.exit(main())
