"""Build the environment of one version: fetch the package, read what it depends on, install it, report the lock."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import Final

import msgspec

from clawplane.builder.environments import Environment
from clawplane.builder.errors import BuilderError
from clawplane.domain.batches import ERROR, INFO
from clawplane.domain.errors import ClawplaneError
from clawplane.domain.leases import Offer, Outcome
from clawplane.domain.workers import BuildResult, BuildSpec
from clawplane.runner.shipping import Shipper
from clawplane.runner.workshop import Workshop

_REPORT_SECONDS: Final = 10.0
"""How long before the lease's deadline an installation is given up, so that the end can still be reported."""


class BuildJob:
    """One attempt at a build; implements `Job`."""

    def __init__(self, offer: Offer, shipper: Shipper, workshop: Workshop) -> None:
        self._spec = msgspec.msgpack.decode(offer.spec, type=BuildSpec)
        self._seconds = max(1.0, offer.timeout_ms / 1000 - _REPORT_SECONDS)
        self._shipper = shipper
        self._workshop = workshop
        self._held = ExitStack()
        self._building: asyncio.Task[Environment] | None = None
        self._unwanted = False

    async def prepare(self) -> None:
        """Nothing: an installation is worth starting only when the lease is ours."""

    async def run(self) -> Outcome:
        """Install, and report the lock or the installer's own words."""
        began = time.monotonic()
        try:
            environment = await self._build()
        except asyncio.CancelledError:
            if not self._unwanted:
                raise
            return _failed("aborted", "was aborted", began)
        except TimeoutError:
            return _failed("timeout", f"The installation was given up after {self._seconds:g} s.", began)
        except BuilderError as error:
            self._shipper.line(ERROR, f"SYSTEM: {error}", "system")
            return _failed("exit", str(error), began)
        except (ClawplaneError, OSError) as error:
            return _failed("setup", f"The package could not be fetched: {error}", began)
        self._workshop.warm.begin(environment)
        found = "was there already" if environment.reused else f"takes {environment.size / 1e6:.1f} MB"
        self._shipper.say(f"SYSTEM: The environment is ready; it {found}.")
        result = BuildResult(
            fingerprint=environment.fingerprint,
            lock=environment.lock,
            grpcio=environment.warm.get("grpcio", ""),
            protobuf=environment.warm.get("protobuf", ""),
        )
        return Outcome(
            succeeded=True,
            reason="exit",
            exit_code=0,
            wall_ms=_since(began),
            result=msgspec.msgpack.encode(result),
        )

    def stop(self) -> None:
        """Give up; an installer needs no farewell."""
        self.kill()

    def kill(self) -> None:
        """Give up at once."""
        self._unwanted = True
        if self._building is not None:
            self._building.cancel()

    async def close(self) -> None:
        """Let go of the package."""
        self._held.close()

    async def _build(self) -> Environment:
        if self._unwanted:
            raise asyncio.CancelledError
        self._building = asyncio.create_task(self._install())
        async with asyncio.timeout(self._seconds):
            return await self._building

    async def _install(self) -> Environment:
        spec, shop = self._spec, self._workshop
        self._held.enter_context(shop.packages.using(spec.package_sha256))
        self._shipper.say(f"SYSTEM: Building the environment of version {spec.version}.")
        package = await shop.packages.ensure(spec.package_key, spec.package_sha256)
        return await shop.environments.ensure(
            package, spec.package_sha256, spec.language, on_log=self._log, on_progress=self._progress
        )

    def _log(self, line: str) -> None:
        self._shipper.line(INFO, line, "stdout")

    def _progress(self, phase: str) -> None:
        # set-up code may print what looks like progress for ever, so this counts towards the log's limit
        self._shipper.line(INFO, f"SYSTEM: {phase[:1].upper()}{phase[1:]}.", "system")


def _failed(reason: str, message: str, began: float) -> Outcome:
    return Outcome(succeeded=False, reason=reason, message=message, wall_ms=_since(began))


def _since(began: float) -> int:
    return round((time.monotonic() - began) * 1000)
