"""The states of runs, subtasks and versions, and which may follow which."""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    """A run's state as API v2 shows it."""

    READY = "ready"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABORTING = "aborting"

    @property
    def ended(self) -> bool:
        """Tell whether no further transition is possible; `aborting` is final on this wire."""
        return self in _ENDED_RUNS


class SubtaskStatus(StrEnum):
    """A subtask's state."""

    READY = "ready"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def ended(self) -> bool:
        """Tell whether no further transition is possible."""
        return self in _ENDED_SUBTASKS


class VersionStatus(StrEnum):
    """A version's state."""

    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


_ENDED_RUNS = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.ABORTING})
_ENDED_SUBTASKS = frozenset({SubtaskStatus.SUCCEEDED, SubtaskStatus.FAILED, SubtaskStatus.ABORTED})

RUN_TRANSITIONS: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.READY: frozenset({RunStatus.RUNNING, RunStatus.FAILED, RunStatus.ABORTING}),
    RunStatus.RUNNING: frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.ABORTING}),
    RunStatus.SUCCEEDED: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.ABORTING: frozenset(),
}

SUBTASK_TRANSITIONS: dict[SubtaskStatus, frozenset[SubtaskStatus]] = {
    SubtaskStatus.READY: frozenset({SubtaskStatus.RUNNING, SubtaskStatus.FAILED, SubtaskStatus.ABORTED}),
    SubtaskStatus.RUNNING: frozenset(
        {SubtaskStatus.READY, SubtaskStatus.SUCCEEDED, SubtaskStatus.FAILED, SubtaskStatus.ABORTED}
    ),
    SubtaskStatus.SUCCEEDED: frozenset(),
    SubtaskStatus.FAILED: frozenset(),
    SubtaskStatus.ABORTED: frozenset(),
}


def run_outcome(subtasks: list[SubtaskStatus]) -> RunStatus:
    """Return how a run ends whose subtasks have all ended: one success is enough."""
    return RunStatus.SUCCEEDED if SubtaskStatus.SUCCEEDED in subtasks else RunStatus.FAILED
