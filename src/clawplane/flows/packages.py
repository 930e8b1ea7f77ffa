"""Take packages in: check, store, queue the build. A package that is refused leaves nothing behind.

An upload arrives as a file that the HTTP edge has spooled; it is read by the checks in a thread, then copied into the
blobs under its hash. Versions are immutable: what a version number stands for never changes once it has been built.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from clawplane.domain import archives, packages, worker_names
from clawplane.domain.access import Caller, Scope
from clawplane.domain.archives import ArchiveLimits
from clawplane.domain.clock import Clock
from clawplane.domain.errors import Conflict, InvalidArgument, NotFound, Unchanged
from clawplane.domain.ids import JobIds, WorkerSlug, new_ulid
from clawplane.domain.leases import JobKind, NewJob
from clawplane.domain.lifecycle import VersionStatus
from clawplane.domain.packages import PackageReport
from clawplane.domain.ports import Blobs, Workers
from clawplane.domain.wakeups import Wakeups
from clawplane.domain.workers import BuildSpec, Worker, WorkerVersion, build_subject
from clawplane.flows import channels

UNCHANGED: Final = "Script package is unchanged"
_CHUNK: Final = 1 << 18
_BEFORE_FIRST: Final = (1, 0, 0)
_RACES: Final = 8


@dataclass(frozen=True, slots=True)
class Spooled:
    """An upload on disk; sha256 in hexadecimal, size in bytes. Whoever made the file removes it."""

    path: Path
    sha256: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """What an upload says of its Worker; None leaves what is stored."""

    title: str | None = None
    description: str | None = None
    categories: tuple[int, ...] | None = None
    icon: str | None = None


@dataclass(frozen=True, slots=True)
class PackageLimits:
    """What packages and their builds may take."""

    archive: ArchiveLimits = field(default_factory=ArchiveLimits)
    build_seconds: int = 1800


class Packages:
    """Workers and their versions."""

    def __init__(
        self,
        *,
        workers: Workers,
        blobs: Blobs,
        wakeups: Wakeups,
        clock: Clock,
        ids: JobIds,
        limits: PackageLimits | None = None,
    ) -> None:
        self._workers = workers
        self._blobs = blobs
        self._wakeups = wakeups
        self._clock = clock
        self._ids = ids
        self._limits = limits or PackageLimits()

    # Workers

    async def create(self, caller: Caller, name: str, details: Details) -> Worker:
        """Create a Worker without a version; raises Conflict when the caller has one of this name."""
        title = (details.title or name).strip()
        chosen = worker_name(name or title)
        now = self._clock.now_ms()
        worker = Worker(
            slug=WorkerSlug(new_ulid(now)),
            owner=caller.owner,
            name=chosen,
            title=_checked("title", title, 200),
            description=_checked("description", details.description or "", 20_000),
            categories=details.categories or (),
            icon=_checked("icon", details.icon or "", 2048),
            created_at=now,
            updated_at=now,
        )
        await self._workers.create(worker)
        return worker

    async def find(self, worker_id: str) -> Worker:
        """Return the Worker with this slug or owner~name; raises NotFound."""
        worker = await self._workers.find(worker_id)
        if worker is None:
            raise NotFound(f"There is no Worker {worker_id[:80]!r}.", hint="List them with `clawplane workers list`.")
        return worker

    async def own(self, caller: Caller, worker_id: str) -> Worker:
        """Return a Worker that the caller may change; raises NotFound."""
        worker = await self.find(worker_id)
        if worker.owner != caller.owner and not caller.may(Scope.ADMIN):
            raise NotFound(f"There is no Worker {worker_id[:80]!r} of yours.")
        return worker

    async def page(self, *, owner: str | None, keyword: str, limit: int, offset: int) -> tuple[int, list[Worker]]:
        """Return the count and one page of Workers, of one owner or of all."""
        return await self._workers.page(owner=owner, keyword=keyword, limit=limit, offset=offset)

    async def remove(self, caller: Caller, worker_id: str) -> None:
        """Remove a Worker; its runs and their rows stay readable."""
        worker = await self.own(caller, worker_id)
        await self._workers.remove(worker.slug, now=self._clock.now_ms())

    # versions

    async def versions(self, worker: Worker) -> list[WorkerVersion]:
        """Return a Worker's versions, newest first."""
        return await self._workers.versions(worker.slug)

    async def version(self, worker: Worker, number: str) -> WorkerVersion:
        """Return one version; raises NotFound."""
        found = await self._workers.version(worker.slug, number)
        if found is None:
            raise NotFound(f"{worker.path} has no version {number[:40]!r}.")
        return found

    async def wait_built(self, worker: Worker, number: str, seconds: float) -> WorkerVersion:
        """Return a version when its build has ended, or as it stands after `seconds`."""
        until = self._clock.monotonic() + seconds
        wakeup = self._wakeups.listen(channels.version(build_subject(worker.slug, number)))
        try:
            while True:
                found = await self.version(worker, number)
                left = until - self._clock.monotonic()
                if found.status is not VersionStatus.BUILDING or left <= 0:
                    return found
                await wakeup.wait(left)
        finally:
            wakeup.close()

    async def current(self, worker: Worker) -> WorkerVersion | None:
        """Return the version that runs by default, else the newest one, else None."""
        if worker.current_version is not None:
            return await self._workers.version(worker.slug, worker.current_version)
        versions = await self._workers.versions(worker.slug)
        return versions[0] if versions else None

    async def push(
        self, caller: Caller, name: str, upload: Spooled, *, version: str | None, details: Details
    ) -> tuple[Worker, WorkerVersion, bool]:
        """Upload a version of the caller's Worker `name`, which is created when absent.

        The third value tells whether something was stored: bytes that the current version has already are not.
        """
        report = await self._examine(upload)
        worker = await self._workers.find(f"{caller.owner}~{worker_name(name)}")
        if worker is None:
            worker = await self.create(caller, name, details)
        elif version is None:
            same = await self._same_as_newest(worker, upload)
            if same is not None:
                return worker, same, False
        stored = await self._add(worker, upload, report, version)
        return await self._describe(worker, details), stored, True

    async def publish(self, caller: Caller, worker_id: str, upload: Spooled, details: Details) -> WorkerVersion:
        """Upload the next version of a Worker that exists."""
        worker = await self.own(caller, worker_id)
        stored = await self._add(worker, upload, await self._examine(upload), None)
        await self._describe(worker, details)
        return stored

    async def replace(
        self, caller: Caller, worker_id: str, version: str, upload: Spooled, details: Details
    ) -> WorkerVersion:
        """Upload the version `version`; raises Unchanged when these bytes are stored as it already.

        A version that is built, or being built, keeps its bytes: other ones raise Conflict.
        """
        worker = await self.own(caller, worker_id)
        version = canonical_version(version)
        stored = await self._workers.version(worker.slug, version)
        if stored is not None and stored.status is not VersionStatus.FAILED:
            if stored.package_sha256 == upload.sha256:
                raise Unchanged(UNCHANGED)
            raise _taken(worker, version)
        added = await self._add(worker, upload, await self._examine(upload), version)
        await self._describe(worker, details)
        return added

    # pieces

    async def _examine(self, upload: Spooled) -> PackageReport:
        return await asyncio.to_thread(_examine, upload.path, self._limits.archive)

    async def _same_as_newest(self, worker: Worker, upload: Spooled) -> WorkerVersion | None:
        versions = await self._workers.versions(worker.slug)
        newest = versions[0] if versions else None
        if newest is None or newest.package_sha256 != upload.sha256 or newest.status is VersionStatus.FAILED:
            return None
        return newest

    async def _add(self, worker: Worker, upload: Spooled, report: PackageReport, number: str | None) -> WorkerVersion:
        if number is not None:
            number = canonical_version(number)
        key = f"packages/{upload.sha256}"
        await self._blobs.put(key, _chunks(upload.path))
        for _ in range(_RACES):
            chosen = number or next_version([known.version for known in await self._workers.versions(worker.slug)])
            version, job = self._new_version(worker, chosen, upload, report, key)
            try:
                await self._workers.add_version(version, job)
            except Conflict:
                if number is not None:
                    raise _taken(worker, number) from None
                continue  # another upload took the number
            self._wakeups.notify(channels.READY)
            self._wakeups.notify(channels.EVENTS)
            return version
        raise Conflict(f"{worker.path} is being uploaded by several clients at once.", hint="Try again.")

    def _new_version(
        self, worker: Worker, number: str, upload: Spooled, report: PackageReport, key: str
    ) -> tuple[WorkerVersion, NewJob]:
        now = self._clock.now_ms()
        if report.language is None:
            raise AssertionError("an accepted package has a language")
        spec = BuildSpec(
            worker=worker.slug,
            version=number,
            language=report.language,
            package_key=key,
            package_sha256=upload.sha256,
        )
        job = NewJob(
            id=self._ids.next(now),
            kind=JobKind.BUILD,
            subject=build_subject(worker.slug, number),
            caps="builds",
            ready_at=now,
            spec=msgspec.msgpack.encode(spec),
            timeout_ms=self._limits.build_seconds * 1000,
        )
        version = WorkerVersion(
            worker=worker.slug,
            version=number,
            language=report.language,
            status=VersionStatus.BUILDING,
            package_key=key,
            package_sha256=upload.sha256,
            package_size=upload.size,
            input_schema=report.input_schema_json,
            output_schema=report.output_schema_json,
            readme=report.readme,
            diagnostics=report.diagnostics,
            build_job=job.id,
            created_at=now,
        )
        return version, job

    async def _describe(self, worker: Worker, details: Details) -> Worker:
        changed = msgspec.structs.replace(
            worker,
            title=worker.title if not details.title else _checked("title", details.title.strip(), 200),
            description=worker.description
            if details.description is None
            else _checked("description", details.description, 20_000),
            categories=worker.categories if details.categories is None else details.categories,
            icon=worker.icon if details.icon is None else _checked("icon", details.icon, 2048),
        )
        if changed != worker:
            changed = msgspec.structs.replace(changed, updated_at=self._clock.now_ms())
            await self._workers.update(changed)
        return changed


def canonical_version(text: str) -> str:
    """Return a version in its one form, `v1.0.1`; raises InvalidArgument."""
    return worker_names.format_version(worker_names.parse_version(text))


def next_version(numbers: list[str]) -> str:
    """Return the number after the highest of `numbers`."""
    highest = max((worker_names.parse_version(number) for number in numbers), default=_BEFORE_FIRST)
    return worker_names.next_version(worker_names.format_version(highest))


def worker_name(text: str) -> str:
    """Return a Worker's name made from a name or title; raises InvalidArgument when nothing of it is left."""
    if not any(char.isascii() and char.isalnum() for char in text):
        raise InvalidArgument(
            f"name: {text[:80]!r} gives no usable name.", hint="Give a name with Latin letters or digits."
        )
    return worker_names.slugify(text)


def _taken(worker: Worker, version: str) -> Conflict:
    return Conflict(
        f"{worker.path} {version} exists, and a version that is built keeps its package.",
        hint="Upload the change as the next version.",
    )


def _checked(field: str, text: str, most: int) -> str:
    if len(text) > most:
        raise InvalidArgument(f"{field}: it is longer than {most} characters.", hint="Shorten it.")
    return text.encode("utf-8", "replace").decode()


def _examine(path: Path, limits: ArchiveLimits) -> PackageReport:
    with path.open("rb") as file:
        report = packages.examine(archives.inspect(file, limits=limits))
    report.require()
    return report


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk
