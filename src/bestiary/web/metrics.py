"""Prometheus metrics of a server: requests, latency, pictures, batch sizes, queue length."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServerMetrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        """Start all counters at zero."""
        self._registry = own = CollectorRegistry()
        self.requests = Counter("bestiary_requests", "Requests answered.", ["path", "status"], registry=own)
        seconds = "Seconds from the start of a request to the end of its response."
        self.seconds = Histogram("bestiary_request_seconds", seconds, ["path"], buckets=SECONDS, registry=own)
        outcomes = "Pictures by outcome: named, unknown, unreadable."
        self.pictures = Counter("bestiary_pictures", outcomes, ["outcome"], registry=own)
        self.batches = Histogram("bestiary_batch_pictures", "Pictures in a batch.", buckets=SIZES, registry=own)
        self.waiting = Gauge("bestiary_waiting_pictures", "Pictures accepted and not yet answered.", registry=own)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)
