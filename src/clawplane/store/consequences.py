"""What the queue's steps mean for what the jobs are for: a table by kind of job.

Each entry is told of whole batches, in the transaction of the queue's own statement, so that a subtask, its run, a
version and the queue can never disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from clawplane.domain.leases import JobKind
from clawplane.store.endings import Consequences
from clawplane.store.host_ends import HostConsequences
from clawplane.store.run_ends import SubtaskConsequences
from clawplane.store.session_ends import SessionConsequences
from clawplane.store.version_ends import BuildConsequences

CONSEQUENCES: Mapping[str, Consequences] = MappingProxyType(
    {
        JobKind.SUBTASK.value: SubtaskConsequences(),
        JobKind.BUILD.value: BuildConsequences(),
        JobKind.SESSION.value: SessionConsequences(),
        JobKind.HOST.value: HostConsequences(),
    }
)
