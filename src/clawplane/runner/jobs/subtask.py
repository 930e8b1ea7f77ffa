"""Run one subtask of a Worker: package, environment, sandbox, SDK, proxy, output, verdict.

Theory of operation. With the offer the package and the environment are looked up, or fetched and built. After the
confirmation the process tree is started; its SDK and proxy listeners already listen when the first line of user code
runs, and whatever connects early waits in their backlogs. Two things then carry the guest's words to the shipper: the
SDK server, and a reader of stdout and stderr. Both wait when the shipper has no room, and thereby hold the guest back.
At the end the process tree is gone first, then the SDK server answers what had arrived, then the output is read to its
end. What passes through the proxy is counted; a guest that wants more than the run's traffic limit is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final, Literal

import msgspec

from clawplane.builder.environments import Environment
from clawplane.builder.errors import BuilderError
from clawplane.domain.batches import ERROR, INFO, WARN
from clawplane.domain.errors import ClawplaneError
from clawplane.domain.leases import Offer, Outcome
from clawplane.domain.runs import SubtaskSpec
from clawplane.runner.jobs.guest import PROXY, SDK, Guest, guest
from clawplane.runner.jobs.job import CannotPrepare
from clawplane.runner.jobs.outcomes import LastWords, outcome
from clawplane.runner.jobs.sdk import SubtaskVoice
from clawplane.runner.launch import started
from clawplane.runner.lines import LineReader
from clawplane.runner.shipping import LeaseLost, Shipper
from clawplane.runner.workshop import Workshop
from clawplane.sandbox.launch import SandboxUnavailable
from clawplane.sandbox.policy import Verdict
from clawplane.sandbox.process import Process
from clawplane.sdk.server import SdkServer

_OUTPUT_SECONDS: Final = 5.0
"""How long the output of a tree that is gone is read on, at most."""


class SubtaskJob:
    """One attempt at a subtask; implements `Job`."""

    def __init__(self, offer: Offer, shipper: Shipper, workshop: Workshop) -> None:
        self._spec = msgspec.msgpack.decode(offer.spec, type=SubtaskSpec)
        self._id = offer.job
        self._shipper = shipper
        self._workshop = workshop
        self._relay = workshop.exits.for_worker(
            self._spec.system, on_refusal=self._refused, on_exhausted=self._exhausted
        )
        self._held = AsyncExitStack()
        self._guest: Guest | None = None
        self._environment: Environment | None = None
        self._process: Process | None = None
        self._stopping: asyncio.Task[Verdict] | None = None
        self._unwanted = False

    async def prepare(self) -> None:
        """Have the package unpacked and its environment installed."""
        spec, shop = self._spec, self._workshop
        self._shipper.say(f"SYSTEM: Subtask-[{self._id}] - Preparing the execution environment.")
        try:
            self._held.enter_context(shop.packages.using(spec.package_sha256))
            package = await shop.packages.ensure(spec.package_key, spec.package_sha256)
            self._environment = await shop.environments.ensure(
                package,
                spec.package_sha256,
                spec.language,
                lock_key=spec.environment.lock_key,
                on_log=self._installing,
            )
            self._held.enter_context(shop.environments.using(self._environment))
            self._guest = guest(spec, package, self._environment, shop.runtimes)
        except (ClawplaneError, BuilderError, OSError) as error:
            raise CannotPrepare(f"The execution environment could not be prepared: {error}") from error

    async def run(self) -> Outcome:
        """Run the Worker to its end."""
        if self._guest is None or self._environment is None:
            raise CannotPrepare("A subtask was run before it was prepared.")
        words = LastWords()
        if self._unwanted:
            return outcome(Verdict("aborted"), self._guest.policy.limits, words)
        try:
            async with self._started(self._guest, self._environment) as process:
                self._process = process
                if self._ended_meanwhile():
                    process.kill()
                verdict = await process.ready() or await self._serve(process, self._guest, words)
        except (SandboxUnavailable, OSError) as error:
            verdict = Verdict("setup", detail=f"The sandbox could not be started: {error}")
        ended = self._with_traffic(outcome(verdict, self._guest.policy.limits, words))
        if not ended.succeeded:
            self._shipper.say(f"SYSTEM: Subtask-[{self._id}] - Failed: {ended.message}.", ERROR)
        return ended

    def stop(self) -> None:
        """Terminate, and kill after the grace period."""
        self._unwanted = True
        if self._process is not None and self._stopping is None:
            self._stopping = asyncio.ensure_future(self._process.stop(reason="aborted"))

    def kill(self) -> None:
        """Kill at once."""
        self._unwanted = True
        if self._process is not None:
            self._process.kill()

    async def close(self) -> None:
        """Let go of the package and the environment."""
        if self._stopping is not None:
            await asyncio.gather(self._stopping, return_exceptions=True)
        await self._held.aclose()

    def _started(self, made: Guest, environment: Environment) -> AbstractAsyncContextManager[Process]:
        shop = self._workshop
        if self._spec.language == "python":
            return shop.warm.started(made.policy, environment, made.argv, site=made.site)
        return started(shop.isolation, made.policy, made.argv)

    async def _serve(self, process: Process, made: Guest, words: LastWords) -> Verdict:
        self._shipper.say(f"SYSTEM: Subtask-[{self._id}] - Running...")
        server = SdkServer(SubtaskVoice(self._spec.input, self._shipper))
        await server.start(process.listeners[SDK])
        await self._relay.serve_socks(process.listeners[PROXY], made.credentials)
        reading = asyncio.create_task(self._read(process, words))
        try:
            verdict = await process.wait()
            await server.stop()
            await asyncio.wait([reading], timeout=_OUTPUT_SECONDS)
            return verdict
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await self._relay.close()
            await server.stop()

    async def _read(self, process: Process, words: LastWords) -> None:
        """Turn stdout into information and stderr into errors, line by line."""
        out, err = LineReader(), LineReader()
        async for stream, block in process.output():
            await self._tell(stream, (out if stream == "stdout" else err).feed(block), words)
        await self._tell("stdout", out.end(), words)
        await self._tell("stderr", err.end(), words)

    async def _tell(self, stream: Literal["stdout", "stderr"], lines: list[str], words: LastWords) -> None:
        kind = ERROR if stream == "stderr" else INFO
        for line in lines:
            if stream == "stderr":
                words.hear(line)
            with contextlib.suppress(LeaseLost):  # the guest is being killed; what it still says is read and dropped
                await self._shipper.output(kind, line, stream)

    def _refused(self, sentence: str) -> None:
        """Let the Worker's author see why a connection did not come about."""
        self._shipper.say(f"SYSTEM: Network: {sentence}", WARN)

    def _exhausted(self) -> None:
        """End the Worker: it has used up the run's traffic."""
        if self._process is not None and self._stopping is None:
            self._stopping = asyncio.ensure_future(self._process.stop(reason="aborted"))

    def _with_traffic(self, ended: Outcome) -> Outcome:
        """Add what passed through the proxy; a Worker that wanted more than the run may have has failed by that."""
        counted = msgspec.structs.replace(ended, traffic=self._relay.ledger.total)
        if not self._relay.exhausted or self._unwanted:
            return counted
        message = f"reached the run's limit of {self._spec.system.max_total_traffic} MB of network traffic"
        return msgspec.structs.replace(counted, succeeded=False, reason="traffic", message=message)

    def _ended_meanwhile(self) -> bool:
        return self._unwanted

    def _installing(self, line: str) -> None:
        self._shipper.line(INFO, f"SYSTEM: {line}", "system")
