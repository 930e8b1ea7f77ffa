"""Name the channels over which flows wake each other and whoever waits at the edge.

A notification only says "look again"; what has happened is read from the store.
"""

from __future__ import annotations

from typing import Final, assert_never

from clawplane.domain.leases import JobKind

READY: Final = "ready"
"""Jobs wait that were not waiting before."""

EVENTS: Final = "events"
"""The event log has grown."""

CALLBACKS: Final = "callbacks"
"""The outbox may hold callbacks that were not there before."""


def of_job(kind: JobKind, subject: str) -> tuple[str, ...]:
    """Return the channels on which a change of such a job is told."""
    match kind:
        case JobKind.SUBTASK:
            return run(subject), log(subject), EVENTS
        case JobKind.BUILD:
            return version(subject), log(subject), EVENTS
        case JobKind.SESSION:
            return (EVENTS,)
        case JobKind.HOST:
            return host_task(subject), log(subject), EVENTS, CALLBACKS
        case _:
            assert_never(kind)


def run(slug: str) -> str:
    """Return the channel of a run's state, rows and end."""
    return f"run:{slug}"


def host_task(task: str) -> str:
    """Return the channel of a host task's end."""
    return f"host:{task}"


def log(subject: str) -> str:
    """Return the channel of a run's or a build's log."""
    return f"log:{subject}"


def version(subject: str) -> str:
    """Return the channel of a build's end; `subject` as of domain.workers.build_subject."""
    return f"version:{subject}"
