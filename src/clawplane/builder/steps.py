"""Run the steps of one build: isolated commands that share a work directory, a log and a way to the index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clawplane.builder.build_log import BuildLog
from clawplane.builder.errors import BuildFailed
from clawplane.builder.launcher import Door, Launcher

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Build:
    """One build under way: `directory` is its own, empty at first, and gone or renamed when it ends."""

    directory: Path
    launcher: Launcher
    log: BuildLog

    async def run(
        self,
        phase: str,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        readable: Sequence[Path],
        writable: Sequence[Path],
        gate: Door | None = None,
        on_phase: Callable[[str], None] = lambda phase: None,
    ) -> bool:
        """Run a step and tell whether it succeeded; raise BuildFailed when it was ended from outside.

        on_phase is told of each phase the command enters by what it prints.
        """
        self.log.begin(phase, on_phase)
        outcome = await self.launcher.run(
            argv,
            environment=environment,
            cwd=self.directory,
            readable=readable,
            writable=writable,
            gate=gate,
            on_output=self.log.feed,
        )
        self.log.end()
        if outcome.exit_code is None:
            raise BuildFailed(f"The installer was ended while {phase}: {outcome.reason or 'killed'}.", self.log.tail)
        return outcome.exit_code == 0

    def private_directory(self, name: str) -> Path:
        """Make a directory of this build's own."""
        path = self.directory / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def base_environment(self) -> dict[str, str]:
        """Give every step the same small environment; nothing of the runner's own is inherited."""
        return {
            "HOME": str(self.private_directory("home")),
            "TMPDIR": str(self.private_directory("tmp")),
            "PATH": SEARCH_PATH,
            "LANG": "C.UTF-8",
            "NO_COLOR": "1",
        }
