"""Count what happens at the HTTP edge, and show it with the queue's state to Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from clawplane.domain.leases import RunnerRecord
from clawplane.domain.ports import QueueDepth

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One registry per app; nothing is global."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "clawplane_http_requests", "Requests answered", ["operation", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "clawplane_http_request_seconds",
            "Time until the last byte of the answer",
            ["operation"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30, 300),
            registry=self._registry,
        )
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._jobs = Gauge("clawplane_jobs", "Jobs by state and capability", ["state", "caps"], registry=self._registry)
        self._runners = Gauge("clawplane_runners_connected", "Runners with an open link", registry=self._registry)

    def observe(self, operation: str, status: int, seconds: float) -> None:
        """Count one request."""
        found = self._children.get((operation, status))
        if found is None:
            found = self._requests.labels(operation, str(status)), self._seconds.labels(operation)
            self._children[operation, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def render(self, depth: QueueDepth, runners: list[RunnerRecord]) -> bytes:
        """Return everything in Prometheus' text form."""
        self._jobs.clear()
        for state, counts in (("ready", depth.ready), ("offered", depth.offered), ("leased", depth.leased)):
            for caps, count in counts.items():
                self._jobs.labels(state, caps).set(count)
        self._runners.set(sum(runner.connected for runner in runners))
        return generate_latest(self._registry)
