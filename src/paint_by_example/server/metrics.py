"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
EDITS = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The counts of one server."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # when each was first counted, which nobody asks
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.edits = Counter("pbe_edits", "Edits that ended, by how", ["state"], registry=self.registry)
        self.refused = Counter("pbe_refused", "Requests that were refused, by why", ["reason"], registry=self.registry)
        self.queued = Gauge("pbe_queued", "Edits that wait", registry=self.registry)
        self.running = Gauge("pbe_running", "Edits under way", registry=self.registry)
        self.seconds = Histogram("pbe_edit_seconds", "From start to result", buckets=SECONDS, registry=self.registry)
        self.waited = Histogram("pbe_wait_seconds", "From upload to start", buckets=SECONDS, registry=self.registry)
        self.batch = Histogram("pbe_batch_size", "Edits in a network call", buckets=EDITS, registry=self.registry)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)
