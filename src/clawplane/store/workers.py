"""Keep Workers and their versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from clawplane.domain.diagnostics import Diagnostic
from clawplane.domain.errors import ClawplaneError, Conflict, WorkerNotFound
from clawplane.domain.ids import JobId, WorkerSlug
from clawplane.domain.leases import Finish, NewJob
from clawplane.domain.lifecycle import VersionStatus
from clawplane.domain.ports import FinishResult
from clawplane.domain.workers import Environment, Worker, WorkerVersion, build_subject
from clawplane.store import lease_ends
from clawplane.store.database import Database, Row, Transaction, first
from clawplane.store.endings import BuildVerdict
from clawplane.store.enqueue import enqueue
from clawplane.store.events import NewEvent, append_events

_to_json = msgspec.json.Encoder().encode
_categories = msgspec.json.Decoder(tuple[int, ...]).decode
_diagnostics = msgspec.json.Decoder(tuple[Diagnostic, ...]).decode
_environment = msgspec.json.Decoder(Environment).decode


class _NewVersion(NamedTuple):
    version: WorkerVersion
    job: NewJob | None


class _Removal(NamedTuple):
    slug: WorkerSlug
    now: int


def _place(worker_id: str) -> dict[str, object]:
    owner, _, name = worker_id.partition("~")
    return {"slug": worker_id, "owner": owner, "name": name}


async def create(tx: Transaction, items: Sequence[Worker]) -> list[ClawplaneError | None]:
    """Store new Workers."""
    results: list[ClawplaneError | None] = []
    for worker in items:
        if await tx.fetch("find_worker", _place(worker.path)):
            results.append(Conflict(f"The Worker {worker.path} exists already.", hint="Upload a new version of it."))
            continue
        await tx.execute(
            "insert_worker",
            msgspec.structs.asdict(worker) | {"categories": _to_json(worker.categories).decode()},
        )
        results.append(None)
    return results


async def update(tx: Transaction, items: Sequence[Worker]) -> list[ClawplaneError | None]:
    """Replace what may change of Workers."""
    results: list[ClawplaneError | None] = []
    for worker in items:
        values = msgspec.structs.asdict(worker) | {"categories": _to_json(worker.categories).decode()}
        changed = await tx.execute("update_worker", values)
        results.append(None if changed else WorkerNotFound(f"There is no Worker {worker.slug}."))
    return results


async def remove(tx: Transaction, items: Sequence[_Removal]) -> list[None]:
    """Hide Workers."""
    for slug, now in items:
        await tx.execute("remove_worker", {"slug": slug, "now": now})
    return [None] * len(items)


async def add_version(tx: Transaction, items: Sequence[_NewVersion]) -> list[ClawplaneError | None]:
    """Store versions and queue their builds."""
    return [await _add_version(tx, item) for item in items]


async def _add_version(tx: Transaction, item: _NewVersion) -> ClawplaneError | None:
    version, job = item
    place = {"worker": version.worker, "version": version.version}
    stored = await first(tx.fetch("version_status", place))
    if stored is not None and stored[0] != VersionStatus.FAILED:
        return Conflict(f"Version {version.version} exists and is {stored[0]}.", hint="Upload it under a new number.")
    await tx.execute("delete_version", place)
    await tx.execute("insert_version", _version_values(version))
    if job is not None:
        await enqueue(tx, [job])
    if version.status is VersionStatus.READY:
        await tx.execute("set_current_version", {"worker": version.worker})
    subject = build_subject(version.worker, version.version)
    await append_events(tx, [NewEvent(version.created_at, f"version.{version.status.value}", subject, {})])
    return None


class SqlWorkers:
    """Workers and versions; see ports.Workers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, worker: Worker) -> None:
        """Store a new Worker; raises Conflict when owner~name exists."""
        await self._database.write(create, worker)

    async def find(self, worker_id: str) -> Worker | None:
        """Return the Worker with this slug or `owner~name` path, or None."""

        async def view(tx: Transaction) -> Worker | None:
            row = await first(tx.fetch("find_worker", _place(worker_id)))
            return None if row is None else _worker(row)

        return await self._database.read(view)

    async def page(self, *, owner: str | None, keyword: str, limit: int, offset: int) -> tuple[int, list[Worker]]:
        """Return the count and one page, newest first; letters of the keyword match in either case (ASCII)."""
        wanted = {"owner": owner, "pattern": f"%{_literally(keyword)}%"}

        async def view(tx: Transaction) -> tuple[int, list[Worker]]:
            ((count,),) = await tx.fetch("count_workers", wanted)
            rows = await tx.fetch("page_workers", {**wanted, "limit": limit, "offset": offset})
            return count, [_worker(row) for row in rows]

        return await self._database.read(view)

    async def update(self, worker: Worker) -> None:
        """Replace title, description, categories and icon; raises WorkerNotFound."""
        await self._database.write(update, worker)

    async def remove(self, slug: WorkerSlug, *, now: int) -> None:
        """Hide a Worker from every listing and look-up; absent is fine."""
        await self._database.write(remove, _Removal(slug, now))

    async def add_version(self, version: WorkerVersion, job: NewJob | None) -> None:
        """Store a version with its build job; raises Conflict when it exists and has not failed."""
        await self._database.write(add_version, _NewVersion(version, job))

    async def version(self, slug: WorkerSlug, version: str) -> WorkerVersion | None:
        """Return one version."""

        async def view(tx: Transaction) -> WorkerVersion | None:
            row = await first(tx.fetch("find_version", {"worker": slug, "version": version}))
            return None if row is None else _version(row)

        return await self._database.read(view)

    async def versions(self, slug: WorkerSlug) -> list[WorkerVersion]:
        """Return all versions, newest first."""

        async def view(tx: Transaction) -> list[WorkerVersion]:
            return [_version(row) for row in await tx.fetch("versions_of_worker", {"worker": slug})]

        return await self._database.read(view)

    async def finish_build(
        self,
        finish: Finish,
        *,
        status: VersionStatus,
        environment: Environment | None,
        error: str,
        now: int,
    ) -> FinishResult:
        """End a build's attempt and settle its version in one transaction."""
        verdict = BuildVerdict(status, environment, error)
        return await self._database.write(lease_ends.finish, lease_ends.Finished(finish, now, verdict))


def _literally(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _worker(row: Row) -> Worker:
    slug, owner, name, title, description, categories, icon, current_version, created_at, updated_at = row
    return Worker(
        slug=WorkerSlug(slug),
        owner=owner,
        name=name,
        title=title,
        description=description,
        categories=_categories(categories),
        icon=icon,
        current_version=current_version,
        created_at=created_at,
        updated_at=updated_at,
    )


def _version_values(version: WorkerVersion) -> dict[str, object]:
    environment = version.environment
    return msgspec.structs.asdict(version) | {
        "status": version.status.value,
        "diagnostics": _to_json(version.diagnostics).decode(),
        "environment": None if environment is None else _to_json(environment).decode(),
    }


def _version(row: Row) -> WorkerVersion:
    (worker, version, language, status, package_key, package_sha256, package_size, input_schema) = row[:8]
    (output_schema, readme, diagnostics, environment, build_job, build_error, created_at, ready_at) = row[8:]
    return WorkerVersion(
        worker=WorkerSlug(worker),
        version=version,
        language=language,
        status=VersionStatus(status),
        package_key=package_key,
        package_sha256=package_sha256,
        package_size=package_size,
        input_schema=input_schema,
        output_schema=output_schema,
        readme=readme,
        diagnostics=_diagnostics(diagnostics),
        environment=None if environment is None else _environment(environment),
        build_job=JobId(build_job),
        build_error=build_error,
        created_at=created_at,
        ready_at=ready_at,
    )
