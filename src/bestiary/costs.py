"""Costs of mistakes: a cost matrix from a CSV, and the label with the least expected cost.

The expected cost of a label is the sum over the true classes of their calibrated probability times the cost (Elkan,
"The foundations of cost-sensitive learning", IJCAI 2001). Probabilities stay as they are; only the label changes.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from bestiary.array_types import AnyFloats, Floats, Ints
from bestiary.errors import RecipeError, did_you_mean

CostEntry = tuple[str, str, float]  # true label, predicted label, cost
ANY = "*"  # in an entry: every class that no other entry names
DEFAULT_COST = 1.0  # of a mistake that no entry names
HEADER = ["true", "predicted", "cost"]


def read_costs(path: Path) -> list[CostEntry]:
    """Return the entries of a CSV: a list with the header `true,predicted,cost`, or a table.

    A table has a row for each true label and a column for each predicted one; an empty cell costs 1, on the diagonal 0.
    Raises RecipeError that names the file and the row.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecipeError(f"The costs {path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    numbered = [(number, row) for number, row in enumerate(rows, start=1) if any(row)]
    if len(numbered) < 2:
        raise RecipeError(f"The costs {path} have no row. Expected true,predicted,cost and, for example, wolf,dog,20.")
    (_, header), *body = numbered
    is_list = [cell.lower() for cell in header] == HEADER
    entries = []
    for number, row in body:
        where = f"{path}, row {number}"
        if len(row) != len(header):
            expected = ",".join(header)
            raise RecipeError(f"{where}: expected {len(header)} cells, as in the header {expected}; got {len(row)}.")
        if is_list:
            entries.append((row[0], row[1], _parse_cost(row[2], where)))
            continue
        for predicted, cell in zip(header[1:], row[1:], strict=True):
            if cell and (predicted != row[0] or _parse_cost(cell, where)):
                entries.append((row[0], predicted, _parse_cost(cell, where)))
    try:
        check_entries(entries)
    except ValueError as error:
        raise RecipeError(f"The costs {path}: {error}.") from None
    return entries


def check_entries(entries: Sequence[CostEntry]) -> Sequence[CostEntry]:
    """Return the entries.

    Raises ValueError for a correct prediction that costs, a cost below 0, an empty name, and a pair named twice.
    """
    pairs: set[tuple[str, str]] = set()
    for true, predicted, cost in entries:
        if not true or not predicted:
            raise ValueError(f"a label is empty; expected a class or {ANY}, got {true!r} and {predicted!r}")
        if true == predicted != ANY:
            raise ValueError(f'"{true}" predicted as "{true}" is correct and costs nothing; leave that row out')
        if not (math.isfinite(cost) and cost >= 0):
            raise ValueError(f'the cost of "{true}" predicted as "{predicted}" is {cost}; expected a number from 0')
        if (true, predicted) in pairs:
            raise ValueError(f'"{true}" predicted as "{predicted}" has two costs; keep one of them')
        pairs.add((true, predicted))
    return entries


def cost_matrix(entries: Sequence[CostEntry], classes: Sequence[str]) -> Floats:
    """Return the costs, float64 (true class, predicted class): 0 on the diagonal, 1 where no entry says otherwise.

    An entry with `*` holds for every class; one that names both labels comes first. Raises RecipeError for a label that
    is not a class, and for a pair with two costs.

    >>> cost_matrix([("wolf", "dog", 20.0), ("*", "dog", 2.0)], ["cat", "dog", "wolf"]).tolist()
    [[0.0, 2.0, 1.0], [1.0, 0.0, 1.0], [1.0, 20.0, 0.0]]
    """
    check_cost_labels(entries, classes)
    costs = np.full((len(classes), len(classes)), np.nan)
    for names_both in (True, False):
        before = costs.copy()
        for true, predicted, cost in entries:
            if (ANY not in (true, predicted)) != names_both:
                continue
            rows = np.array([true in (ANY, name) for name in classes])
            columns = np.array([predicted in (ANY, name) for name in classes])
            cells = np.outer(rows, columns) & np.isnan(before)
            if (clash := cells & ~np.isnan(costs) & (costs != cost) & ~np.eye(len(classes), dtype=bool)).any():
                row, column = np.argwhere(clash)[0]
                raise RecipeError(
                    f'Two costs for "{classes[row]}" predicted as "{classes[column]}": {costs[row, column]:g} and'
                    f" {cost:g}. Add a row that names both labels."
                )
            costs[cells] = cost
    costs[np.isnan(costs)] = DEFAULT_COST
    np.fill_diagonal(costs, 0.0)
    return costs


def check_cost_labels(entries: Iterable[CostEntry], classes: Collection[str]) -> None:
    """Raise RecipeError for the first label of an entry that is not a class."""
    for entry in entries:
        for label in entry[:2]:
            if label != ANY and label not in classes:
                hint = did_you_mean(label, classes)
                raise RecipeError(f'The costs name "{label}", which is not a class of these pictures. {hint}')


def choose_labels(probabilities: AnyFloats, costs: Sequence[Sequence[float]] | Floats) -> Ints:
    """Return the index of the predicted class of each row of probabilities (n, classes), int64 (n,).

    It is the most probable class, or with costs (classes, classes) that with the least expected cost; the first of
    equals.

    >>> choose_labels(np.array([[0.8, 0.2], [0.99, 0.01]]), []).tolist()
    [0, 0]
    >>> choose_labels(np.array([[0.8, 0.2], [0.99, 0.01]]), [[0, 1], [20, 0]]).tolist()
    [1, 0]
    """
    rows = np.asarray(probabilities)
    labels: Ints = rows.argmax(axis=1)
    if len(costs):
        labels = (rows.astype(np.float64) @ np.asarray(costs, np.float64)).argmin(axis=1)
    return labels


def dearest_pairs(costs: Sequence[Sequence[float]], classes: Sequence[str]) -> list[CostEntry]:
    """Return the mistakes that cost more than the cheapest one, the most expensive first."""
    pairs = [
        (true, predicted, float(costs[row][column]))
        for row, true in enumerate(classes)
        for column, predicted in enumerate(classes)
        if row != column
    ]
    cheapest = min((cost for *_, cost in pairs), default=0.0)
    return sorted((pair for pair in pairs if pair[2] > cheapest), key=lambda pair: -pair[2])


def _parse_cost(cell: str, where: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise RecipeError(f"{where}: {cell!r} is not a cost; expected a number.") from None
