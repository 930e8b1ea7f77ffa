"""End a build: keep its lock, settle its version."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import msgspec

from clawplane.domain.clock import Clock
from clawplane.domain.leases import Finish
from clawplane.domain.lifecycle import VersionStatus
from clawplane.domain.ports import Blobs, FinishResult, Workers
from clawplane.domain.wakeups import Wakeups
from clawplane.domain.workers import BuildResult, Environment
from clawplane.flows import channels

_MAX_ERROR = 16_000


class Environments:
    """Turn a build's outcome into an environment that every runner can make again from its lock."""

    def __init__(self, workers: Workers, blobs: Blobs, wakeups: Wakeups, clock: Clock) -> None:
        self._workers = workers
        self._blobs = blobs
        self._wakeups = wakeups
        self._clock = clock

    async def finish(self, subject: str, finish: Finish) -> FinishResult:
        """Store the end of the build `subject`: ready with an environment, or failed with the installer's words."""
        status, environment, error = VersionStatus.FAILED, None, finish.outcome.message[:_MAX_ERROR]
        if finish.outcome.succeeded:
            try:
                result = msgspec.msgpack.decode(finish.outcome.result, type=BuildResult)
            except msgspec.MsgspecError as fault:
                error = f"The runner reported a build that cannot be read: {fault}"
            else:
                status, environment, error = VersionStatus.READY, await self._keep(result), ""
        ended = await self._workers.finish_build(
            finish,
            status=status,
            environment=environment,
            error=error or ("" if status is VersionStatus.READY else f"The build ended: {finish.outcome.reason}."),
            now=self._clock.now_ms(),
        )
        if ended.accepted:
            self._wakeups.notify(channels.version(subject))
            self._wakeups.notify(channels.log(subject))
        return ended

    async def _keep(self, result: BuildResult) -> Environment:
        lock = result.lock.encode()
        key = f"locks/{hashlib.sha256(lock).hexdigest()}"
        await self._blobs.put(key, _once(lock))
        return Environment(fingerprint=result.fingerprint, lock_key=key, grpcio=result.grpcio, protobuf=result.protobuf)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
