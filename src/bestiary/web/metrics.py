"""What Prometheus reads: how many requests and pictures, how long, how full."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServerMetrics:
    """The figures of one server."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """Begin at nought; `waiting` tells how many pictures wait now."""
        self._registry = CollectorRegistry()
        self.requests = Counter("bestiary_requests", "Requests answered.", ["path", "status"], registry=self._registry)
        self.seconds = Histogram(
            "bestiary_request_seconds", "From the first byte of a request to its answer.", ["path"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self.pictures = Counter(
            "bestiary_pictures",
            "Pictures by outcome: named, unknown, unreadable.",
            ["outcome"],
            registry=self._registry,
        )
        self.batches = Histogram(
            "bestiary_batch_pictures", "Pictures computed together.", buckets=SIZES, registry=self._registry
        )
        gauge = Gauge("bestiary_waiting_pictures", "Pictures taken and not yet answered.", registry=self._registry)
        gauge.set_function(waiting)

    def text(self) -> bytes:
        """Return all figures in the format that Prometheus reads."""
        return generate_latest(self._registry)
