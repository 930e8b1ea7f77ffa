"""Adapters with real processes: stub CLIs on a private PATH, or the real ones where they are installed."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from clawplane.domain.clock import ManualClock
from clawplane.domain.host_tasks import HostSpec, Prompt, TaskId, TaskReport, TaskType
from clawplane.runner.host.agents.adapter import adapters
from clawplane.runner.host.agents.events import AgentEvent
from clawplane.runner.host.agents.house import AgentHouse
from clawplane.runner.host.agents.spawning import spawn_with
from clawplane.runner.host.agents.turn import AgentContext, AskPerson, Ended, Heard, Launch, Spawn, settings_from
from clawplane.runner.host.processes import Processes
from clawplane.runner.host.stopping import Stop

STUBS = Path(__file__).parent / "stubs"
API = "11111111-2222-4333-8444-555555555555"
TYPES = {"claude": TaskType.CLAUDE, "codex": TaskType.CODEX, "gemini": TaskType.GEMINI}


@dataclass
class Runner:
    """One runner's agents; `ask` takes a turn and remembers what was told."""

    processes: Processes
    home: Path
    bin: Path
    calls_at: Path
    private: Path
    clock: Any = field(default_factory=ManualClock)
    env: dict[str, str] = field(default_factory=dict)
    """Of the children."""
    operator: dict[str, str] = field(default_factory=dict)
    """Of the runner: CLAUDE_PATH, CC_MODELS and so on."""
    may_start_in: Callable[[str], bool] = lambda cwd: True
    house: AgentHouse | None = None
    told: list[AgentEvent] = field(default_factory=list)
    live: list[tuple[str, str]] = field(default_factory=list)
    bound: list[str] = field(default_factory=list)

    def install(self, *names: str) -> None:
        """Put stub programs on the PATH."""
        for name in names:
            program = self.bin / name
            program.write_text(f"#!{sys.executable} -IS\n{(STUBS / f'{name}.py').read_text()}")
            program.chmod(0o755)

    def start(self) -> AgentHouse:
        """Start the runner, or start it anew: nothing is left of it but its files."""
        known = {"CC_LOG_PATH": str(self.home / "live.log"), "RUNNER_SESSION_CACHE_FILE": str(self.home / "cache.json")}
        settings = settings_from(known | self.operator, home=self.home, private=self.private)
        self.house = AgentHouse(settings, self.clock)
        self.house.open()
        return self.house

    async def ask(
        self,
        cli: str,
        text: str = "hello",
        *,
        session: str = API,
        cwd: str | None = None,
        provider: str | None = None,
        stop: Stop | None = None,
        ask: AskPerson | None = None,
        channel: str | None = None,
        within: float | None = None,
        wrap: Callable[[Spawn], Spawn] = lambda spawn: spawn,
        **more: Any,
    ) -> TaskReport:
        """Take one turn; `within` gives programs less time than the contract's grace does."""
        house = self.house or self.start()
        prompt = Prompt(**{"cli": cli, "prompt": text, "timeout": 60_000, "session_id": session, **more})
        spec = HostSpec(
            task=TaskId("t"), type=TYPES[cli], work=prompt, created_at=0, cwd=cwd, provider_session=provider
        )
        stop = stop or Stop()
        spawn = spawn_with(self.processes, stop)
        context = AgentContext(
            spec=spec,
            cwd=cwd or str(self.home),
            env={
                "HOME": str(self.home),
                "PATH": f"{self.bin}:/usr/bin:/bin",
                "STUB_CALLS": str(self.calls_at),
                "IS_SANDBOX": "1",
                **self.env,
            },
            spawn=wrap(spawn if within is None else _within(within, spawn)),
            clock=self.clock,
            tell=lambda stream, said: self.live.append((stream, said)),
            told=self.told.append,
            bind=self.bound.append,
            stop=stop,
            ask=ask,
            may_start_in=self.may_start_in,
            channel=channel,
        )
        return await adapters(house)[cli].run(prompt, context)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Return what the stubs were started with, helps left out."""
        return [json.loads(file.read_text()) for file in sorted(self.calls_at.iterdir())]


def _within(seconds: float, spawn: Spawn) -> Spawn:
    async def shorter(launch: Launch, heard: Heard) -> Ended:
        return await spawn(replace(launch, seconds=min(seconds, launch.seconds)), heard)

    return shorter


@pytest.fixture
async def runner(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Runner]:
    """A runner with all three stubs; its clock stands still."""
    for name in ("home", "bin", "calls"):
        (tmp_path / name).mkdir()
    made = Runner(
        processes=Processes(f"test-{tmp_path.name}"),
        home=tmp_path / "home",
        bin=tmp_path / "bin",
        calls_at=tmp_path / "calls",
        private=tmp_path_factory.mktemp("p"),
    )
    made.install("claude", "codex", "gemini")
    await made.processes.open()
    yield made
    await made.processes.close()
