"""Workers, their versions, and what a build makes of a version."""

from __future__ import annotations

from typing import Literal

import msgspec

from clawplane.domain.diagnostics import Diagnostic
from clawplane.domain.ids import JobId, WorkerSlug
from clawplane.domain.lifecycle import VersionStatus

Language = Literal["python", "node", "go"]


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """An uploaded script product. Times in milliseconds."""

    slug: WorkerSlug
    owner: str
    name: str
    title: str
    description: str = ""
    categories: tuple[int, ...] = ()
    icon: str = ""
    current_version: str | None = None
    """The newest version that is ready to run."""
    created_at: int
    updated_at: int

    @property
    def path(self) -> str:
        """Return `owner~name`, which stands for the slug wherever an id is asked for."""
        return f"{self.owner}~{self.name}"


class BuildResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a build found out, enough to make the same environment on another host.

    lock is the installer's own lock text with hashes (requirements form, or package-lock.json; empty for Go).
    """

    fingerprint: str
    lock: str
    grpcio: str = ""
    protobuf: str = ""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """A version's environment as it is kept: the lock is a blob."""

    fingerprint: str
    lock_key: str
    grpcio: str = ""
    protobuf: str = ""


class WorkerVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable upload of a Worker. Times in milliseconds."""

    worker: WorkerSlug
    version: str
    language: Language
    status: VersionStatus
    package_key: str
    package_sha256: str
    package_size: int
    input_schema: bytes
    """The input schema object as JSON."""
    output_schema: bytes
    """The output schema array as JSON; `[]` when the package has none."""
    readme: str = ""
    diagnostics: tuple[Diagnostic, ...] = ()
    environment: Environment | None = None
    build_job: JobId
    build_error: str = ""
    created_at: int
    ready_at: int | None = None


class BuildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner needs to build a version's environment."""

    worker: WorkerSlug
    version: str
    language: Language
    package_key: str
    package_sha256: str


def build_subject(worker: str, version: str) -> str:
    """Return the subject under which a build's job and log are kept."""
    return f"{worker}@{version}"
