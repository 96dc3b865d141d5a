"""A group of workers on a cluster: how many threads each of them has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bestiary.cluster.connection import import_ray, list_working_nodes
from bestiary.errors import InputError


@dataclass(frozen=True)
class WorkerGroup:
    """So many workers with so many threads each, which are as many processors of the cluster."""

    workers: int
    threads: int


def split_processors(workers: int, threads: int | None) -> WorkerGroup:
    """Return so many workers that split the threads of all together, by default the processors of the whole cluster.

    A worker is on one node, so that its threads are at most those of a node. Raises InputError if there are fewer
    processors than workers.
    """
    nodes = node_processors()
    total = sum(nodes) if threads is None else min(threads, sum(nodes))
    if workers > total:
        limit = "" if total == sum(nodes) else f", of which --threads allows {total}"
        raise InputError(
            f"{workers} workers need as many processors; the cluster has {sum(nodes)}{limit}. Use --workers {total}."
        )
    return WorkerGroup(workers, threads_of_each(nodes, workers, total))


def threads_of_each(nodes: Sequence[int], workers: int, total: int) -> int:
    """Return the most threads that each of the workers can have on nodes with so many processors.

    >>> threads_of_each([2], 2, 2), threads_of_each([4, 4], 2, 8), threads_of_each([6, 2], 3, 8)
    (1, 4, 2)
    """
    largest = max(1, total // workers)
    fits = (size for size in range(largest, 0, -1) if sum(node // size for node in nodes) >= workers)
    return next(fits, 1)


def node_processors() -> list[int]:
    """Return the number of processors of each node that has any."""
    return [int(node["Resources"]["CPU"]) for node in list_working_nodes(import_ray())]
