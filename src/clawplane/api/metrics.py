"""Count what happens at the HTTP edge, and show it with the queue's state to Prometheus."""

from __future__ import annotations

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from clawplane.domain.host_ports import TaskCounts
from clawplane.domain.host_tasks import TaskStatus
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
        self._runners = Gauge("clawplane_runners_connected", "Runners that are there", registry=self._registry)
        self._host = HostGauges(self._registry)

    def observe(self, operation: str, status: int, seconds: float) -> None:
        """Count one request."""
        found = self._children.get((operation, status))
        if found is None:
            found = self._requests.labels(operation, str(status)), self._seconds.labels(operation)
            self._children[operation, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def render(self, depth: QueueDepth, runners: list[RunnerRecord], host: HostState | None = None) -> bytes:
        """Return everything in Prometheus' text form."""
        self._jobs.clear()
        for state, counts in (("ready", depth.ready), ("offered", depth.offered), ("leased", depth.leased)):
            for caps, count in counts.items():
                self._jobs.labels(state, caps).set(count)
        self._runners.set(sum(runner.connected for runner in runners))
        if host is not None:
            self._host.show(host)
        return generate_latest(self._registry)


class HostState(Struct, frozen=True, kw_only=True):
    """How host tasks stand: counts, what waits by capability with since when (ms), polls that wait, the time now."""

    counts: TaskCounts
    waits: dict[str, tuple[int, int]]
    parked: int
    now: int


class HostGauges:
    """What is shown of host tasks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tasks = Gauge("clawplane_host_tasks", "Host tasks by status", ["status"], registry=registry)
        self._results = Gauge("clawplane_host_results", "Results of host tasks not fetched yet", registry=registry)
        self._waiting = Gauge("clawplane_host_waiting", "Host tasks in the queue", ["caps"], registry=registry)
        self._oldest = Gauge(
            "clawplane_host_oldest_wait_seconds",
            "Age of the oldest host task in the queue",
            ["caps"],
            registry=registry,
        )
        self._parked = Gauge("clawplane_host_parked_polls", "Polls that wait for a host task", registry=registry)

    def show(self, state: HostState) -> None:
        """Set everything."""
        for status in TaskStatus:
            self._tasks.labels(status.value).set(state.counts.by_status.get(status.value, 0))
        self._results.set(state.counts.results)
        self._waiting.clear()
        self._oldest.clear()
        for caps, (count, since) in state.waits.items():
            self._waiting.labels(caps).set(count)
            self._oldest.labels(caps).set(max(state.now - since, 0) / 1000)
        self._parked.set(state.parked)
