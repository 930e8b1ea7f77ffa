"""Start runs, wait for them, abort them, start them again. Nothing is stored of a start that is refused."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import msgspec

from clawplane.domain import inputs, json_text, splitting
from clawplane.domain.access import Caller, Scope
from clawplane.domain.clock import Clock
from clawplane.domain.errors import (
    InvalidArgument,
    NotAbortable,
    NotFound,
    RunNotFound,
    TooLarge,
    VersionUnavailable,
    WorkerNotFound,
)
from clawplane.domain.ids import JobIds, RunSlug, new_ulid
from clawplane.domain.leases import Attempt, JobKind, NewJob
from clawplane.domain.lifecycle import RunStatus, VersionStatus
from clawplane.domain.ports import Queue, Runs, Workers
from clawplane.domain.runs import EndedRun, NewRun, Origin, Run, RunFilter, RunSystem, Subtask, SubtaskSpec
from clawplane.domain.schemas import load_input_schema
from clawplane.domain.wakeups import Wakeups
from clawplane.domain.workers import Environment, Worker, WorkerVersion
from clawplane.flows import channels, closing
from clawplane.flows.leases import Leases

MAX_WAIT_SECONDS: Final = 300.0
KILL_GRACE_MS: Final = 10_000
"""Between TERM and KILL at a subtask's time limit (section 5.5 of the wire's specification)."""
ATTEMPT_MARGIN_MS: Final = 60_000
"""What an attempt may take beside its code: fetching the package, making the environment, shipping the last rows."""
_SPREAD_MS: Final = 250
_LARGE_INPUT: Final = 256 * 1024
_MAX_URL: Final = 2048


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What one installation allows. `usd_per_cpu_second` prices a run's CPU time."""

    max_running: int = 1000
    max_subtasks: int = 1000
    max_input_bytes: int = 64 << 20
    """All subtask inputs of one run together: a large field is copied into every one of them."""
    usd_per_cpu_second: float = 0.00002


class RunStarts:
    """The life of runs as their owners see it."""

    def __init__(
        self,
        *,
        workers: Workers,
        runs: Runs,
        queue: Queue,
        leases: Leases,
        wakeups: Wakeups,
        clock: Clock,
        ids: JobIds,
        limits: RunLimits | None = None,
    ) -> None:
        self._workers = workers
        self._runs = runs
        self._queue = queue
        self._leases = leases
        self._wakeups = wakeups
        self._clock = clock
        self._ids = ids
        self._limits = limits or RunLimits()

    async def start(
        self,
        caller: Caller,
        worker_id: str,
        input_text: bytes,
        *,
        version: str | None = None,
        callback_url: str = "",
        origin: Origin = "api_v2",
    ) -> Run:
        """Start a run of a Worker with `{"parameters": {"custom": ..., "system": ...}}` as JSON text."""
        worker = await self._runnable(worker_id)
        chosen = await self._version(worker, version)
        if len(input_text) > _LARGE_INPUT:
            prepared = await asyncio.to_thread(self._prepare, chosen, input_text)
        else:
            prepared = self._prepare(chosen, input_text)
        url = _checked_url(callback_url)
        return await self._store(caller, worker, chosen, prepared, callback_url=url, origin=origin, rerun_of=None)

    async def rerun(self, caller: Caller, slug: str, *, callback_url: str = "", origin: Origin = "api_v2") -> Run:
        """Start a new run of the same Worker, version and input; the state of the old one does not matter."""
        old = await self.find(caller, slug)
        worker = await self._runnable(old.worker)
        chosen = await self._version(worker, old.version)
        prepared = await asyncio.to_thread(self._split, chosen, json_text.parse(old.input), old.system)
        url = _checked_url(callback_url)
        return await self._store(caller, worker, chosen, prepared, callback_url=url, origin=origin, rerun_of=old.slug)

    async def find(self, caller: Caller, slug: str) -> Run:
        """Return a run that the caller may see; raises NotFound."""
        run = await self._runs.find(slug)
        if run is None or not (run.owner == caller.owner or caller.may(Scope.ADMIN)):
            raise RunNotFound(f"There is no run {slug[:80]!r}.")
        return run

    async def last(self, caller: Caller, worker_id: str | None = None) -> Run:
        """Return the caller's most recently created run, of one Worker or of all; raises NotFound."""
        worker = None
        if worker_id is not None:
            worker = await self._workers.find(worker_id)
            if worker is None:
                raise NotFound(f"There is no Worker {worker_id[:80]!r}.")
        run = await self._runs.last(owner=caller.owner, worker=worker.slug if worker else None)
        if run is None:
            raise RunNotFound("There is no run yet.", hint="Start one.")
        return run

    async def page(
        self,
        caller: Caller,
        *,
        worker_id: str | None,
        status: RunStatus | None,
        created_from: int | None,
        created_before: int | None,
        limit: int,
        offset: int,
    ) -> tuple[int, list[Run]]:
        """Return the count and one page of the caller's runs, newest first; `offset` in rows, times in milliseconds."""
        worker = None
        if worker_id:
            worker = await self._workers.find(worker_id)
            if worker is None:
                return 0, []
        filter_ = RunFilter(
            owner=caller.owner,
            worker=worker.slug if worker else None,
            status=status,
            created_from=created_from,
            created_before=created_before,
        )
        return await self._runs.page(filter_, limit=limit, offset=offset)

    async def wait(self, slug: RunSlug, seconds: float = MAX_WAIT_SECONDS) -> Run:
        """Return the run when it has ended, or as it stands after `seconds`."""
        until = self._clock.monotonic() + min(seconds, MAX_WAIT_SECONDS)
        wakeup = self._wakeups.listen(channels.run(slug))
        try:
            while True:
                run = await self._runs.find(slug)
                if run is None:
                    raise RunNotFound(f"There is no run {slug[:80]!r}.")
                left = until - self._clock.monotonic()
                if run.status.ended or left <= 0 or not await wakeup.wait(left):
                    return run if run.status.ended else await self._runs.find(slug) or run
        finally:
            wakeup.close()

    async def abort(self, caller: Caller, slug: str) -> None:
        """Stop a run; raises NotAbortable when it has ended."""
        run = await self.find(caller, slug)
        now = self._clock.now_ms()
        leases = await self._runs.abort(run.slug, now=now)
        if leases is None:
            raise NotAbortable(f"The run has ended already: it is {run.status}.")
        self._leases.cancel(leases, "aborted")
        if not any(lease.confirmed for lease in leases):  # nothing runs that could report the last end
            ended = EndedRun(
                slug=run.slug,
                status=RunStatus.ABORTING,
                totals=closing.count(await self._runs.subtasks(run.slug)),
            )
            await closing.announce(self._runs, self._wakeups, ended, now)
        self._wakeups.notify(channels.run(run.slug))
        self._wakeups.notify(channels.log(run.slug))
        self._wakeups.notify(channels.EVENTS)

    async def subtasks(self, caller: Caller, slug: str) -> list[tuple[Subtask, list[Attempt]]]:
        """Return a run's subtasks in order, each with its custody timeline."""
        run = await self.find(caller, slug)
        return [(subtask, await self._queue.attempts(subtask.id)) for subtask in await self._runs.subtasks(run.slug)]

    def usage(self, run: Run) -> str:
        """Return what a run has cost, as a decimal string in USD; failed runs are free."""
        if run.status is RunStatus.FAILED or not run.cpu_ms:
            return "0.00"
        digits = f"{run.cpu_ms / 1000 * self._limits.usd_per_cpu_second:.6f}".rstrip("0")
        return digits + "0" * (2 - len(digits.partition(".")[2]))

    # pieces

    async def _runnable(self, worker_id: str) -> Worker:
        worker = await self._workers.find(worker_id)
        if worker is None:
            raise WorkerNotFound(f"There is no Worker {worker_id[:80]!r} to run.")
        return worker

    async def _version(self, worker: Worker, number: str | None) -> WorkerVersion:
        wanted = number or worker.current_version
        if wanted is None:
            raise VersionUnavailable(
                f"{worker.path} has no version that is ready.", hint="Push one, or wait for its build to end."
            )
        found = await self._workers.version(worker.slug, wanted)
        if found is None:
            hint = "Leave `version` out to run the newest one." if wanted == "latest" else "List the Worker's versions."
            raise VersionUnavailable(f"{worker.path} has no version {wanted[:40]!r}.", hint=hint)
        if found.status is VersionStatus.BUILDING:
            raise VersionUnavailable(f"{worker.path} {found.version} is still being built.", hint="Try again soon.")
        if found.status is VersionStatus.FAILED or found.environment is None:
            raise VersionUnavailable(
                f"The build of {worker.path} {found.version} failed.", hint="Read its build log and push again."
            )
        return found

    def _prepare(self, version: WorkerVersion, text: bytes) -> _Prepared:
        try:
            value = json_text.parse(text)
        except json_text.JsonError as error:
            raise InvalidArgument(f"input is no JSON: {error}") from None
        custom, system = inputs.parse_parameters(value)
        schema = load_input_schema(version.input_schema)
        return self._split(version, inputs.validate_input(schema, custom), system)

    def _split(self, version: WorkerVersion, custom: object, system: RunSystem) -> _Prepared:
        schema = load_input_schema(version.input_schema)
        parts = splitting.split(schema, inputs.as_custom(custom), limit=self._limits.max_subtasks)
        encoded, total = [], 0
        for part in parts:
            encoded.append(_json(part))
            total += len(encoded[-1])
            if total > self._limits.max_input_bytes:
                raise TooLarge(
                    f"The inputs of the {len(parts)} subtasks exceed {self._limits.max_input_bytes} bytes together.",
                    hint="Send fewer items per run, or shorter fields beside them.",
                )
        return _Prepared(_json(custom), encoded, system)

    async def _store(
        self,
        caller: Caller,
        worker: Worker,
        version: WorkerVersion,
        prepared: _Prepared,
        *,
        callback_url: str,
        origin: Origin,
        rerun_of: RunSlug | None,
    ) -> Run:
        now = self._clock.now_ms()
        run = Run(
            slug=RunSlug(new_ulid(now)),
            worker=worker.slug,
            worker_title=worker.title,
            version=version.version,
            owner=caller.owner,
            status=RunStatus.READY,
            input=prepared.custom,
            system=prepared.system,
            origin=origin,
            callback_url=callback_url,
            rerun_of=rerun_of,
            subtask_count=len(prepared.parts),
            created_at=now,
        )
        if version.environment is None:
            raise VersionUnavailable(f"{worker.path} {version.version} has no environment.")
        jobs = tuple(
            self._job(run, version, version.environment, index, part) for index, part in enumerate(prepared.parts)
        )
        await self._runs.start(NewRun(run=run, jobs=jobs), max_running=self._limits.max_running)
        self._wakeups.notify(channels.READY)
        self._wakeups.notify(channels.EVENTS)
        return run

    def _job(self, run: Run, version: WorkerVersion, environment: Environment, index: int, part: bytes) -> NewJob:
        spec = SubtaskSpec(
            run=run.slug,
            index=index,
            worker=run.worker,
            version=run.version,
            language=version.language,
            package_key=version.package_key,
            package_sha256=version.package_sha256,
            environment=environment,
            input=part,
            system=run.system,
        )
        return NewJob(
            id=self._ids.next(run.created_at),
            kind=JobKind.SUBTASK,
            subject=run.slug,
            caps="workers",
            # a large run steps back for runs that come after it: its later subtasks queue behind them
            ready_at=run.created_at + index * _SPREAD_MS,
            spec=msgspec.msgpack.encode(spec),
            timeout_ms=run.system.execute_limit_time_seconds * 1000 + KILL_GRACE_MS + ATTEMPT_MARGIN_MS,
        )


@dataclass(frozen=True, slots=True)
class _Prepared:
    custom: bytes
    parts: list[bytes]
    system: RunSystem


def _json(value: object) -> bytes:
    """Return compact JSON; integers of any size survive, characters stay as they are unless UTF-8 cannot hold them."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate; its \uXXXX escape is plain ASCII
        return json.dumps(value, separators=(",", ":")).encode()


def _checked_url(url: str) -> str:
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and len(url) <= _MAX_URL and url.isprintable()
    except ValueError:
        fine = False
    if not fine:
        raise InvalidArgument("callback_url must be an http or https URL.", hint="Leave it out, or correct it.")
    return url
