"""Run the builder's commands in the sandbox: without a run's limits, with its one guarded way to the package index."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from clawplane.builder.launcher import Door, Outcome, proxy_variables
from clawplane.runner.isolation import Isolation
from clawplane.sandbox.policy import MIB, Limits, Listener, Policy, ReadOnly, Scratch, Verdict, Writable

_GATE: Final = Listener("127.0.0.1", 3128)
_TEMPORARY: Final = Scratch("/tmp", size=4096 * MIB, inodes=1 << 20)  # noqa: S108 - the guest's own
_FAREWELL_SECONDS: Final = 2.0


class BuildLauncher:
    """Runs one command at a time per call; any number of calls at once."""

    def __init__(self, isolation: Isolation, *, seconds: float, memory: int = 8192 * MIB) -> None:
        """Bound each command by `seconds` of wall time and `memory` bytes."""
        self._isolation = isolation
        self._limits = Limits(
            memory=memory,
            cpus=None,
            processes=2048,
            wall=seconds,
            grace=_FAREWELL_SECONDS,
            output=None,
            open_files=65_536,
        )

    async def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        readable: Sequence[Path],
        writable: Sequence[Path],
        gate: Door | None,
        on_output: Callable[[bytes], Awaitable[None]],
    ) -> Outcome:
        """Run `argv` to its end, handing over stdout and stderr in the order they arrive."""
        variables = dict(environment)
        if gate is not None:
            variables |= proxy_variables(_GATE.port)
        policy = Policy(
            mounts=(
                _TEMPORARY,
                *(ReadOnly(str(path), str(path)) for path in readable),
                *(Writable(str(path), str(path)) for path in writable),
            ),
            environment=variables,
            working_directory=str(cwd),
            limits=self._limits,
            listeners=() if gate is None else (_GATE,),
            host_name="build",
        )
        process = await self._isolation.run(policy, argv)
        try:
            async with AsyncExitStack() as stack:
                if gate is not None and _GATE in process.listeners:
                    await stack.enter_async_context(gate.serving(process.listeners[_GATE]))
                async for _, block in process.output():
                    await on_output(block)
                return _outcome(await process.wait(), self._limits)
        finally:
            if process.alive:
                process.kill()
                await process.wait()


def _outcome(verdict: Verdict, limits: Limits) -> Outcome:
    match verdict.reason:
        case "exit":
            return Outcome(verdict.exit_code)
        case "timeout":
            return Outcome(None, f"killed after {limits.wall:g} s")
        case "memory":
            return Outcome(None, f"killed: it used more than {(limits.memory or 0) // MIB} MB of memory")
        case "signal":
            return Outcome(None, f"killed by signal {verdict.signal}")
        case "setup":
            return Outcome(None, f"it could not be started: {verdict.detail}")
        case _:
            return Outcome(None, f"killed: {verdict.reason}")
