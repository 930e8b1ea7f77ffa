"""A house of sessions with the real sandbox, and callers who ask without a link between."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clawplane.builder.environments import EnvironmentCache
from clawplane.builder.tools import find_tools
from clawplane.domain.asks import METHODS
from clawplane.domain.clock import SystemClock
from clawplane.domain.errors import ClawplaneError
from clawplane.domain.ids import JobId, RunnerId
from clawplane.domain.leases import JobKind, Offer, Outcome
from clawplane.domain.sessions import ExecEvent, ExecRequest, ExecResult, LiveState, SessionOptions, SessionSpec
from clawplane.link.asking import Asking
from clawplane.link.flow import cost_of
from clawplane.link.frames import Answered, Asked, Failed, Fed, Told
from clawplane.runner.build_launcher import BuildLauncher
from clawplane.runner.egress import Exits
from clawplane.runner.jobs.guest import find_runtimes
from clawplane.runner.jobs.job import CannotPrepare
from clawplane.runner.jobs.session import SessionJob
from clawplane.runner.sessions.house import House
from clawplane.runner.sessions.places import Places
from clawplane.runner.sessions.profiles import Profiles
from clawplane.runner.sessions.residence import Ground
from clawplane.runner.sessions.trial import Trial
from clawplane.runner.sessions.world import World
from clawplane.runner.settings import RunnerSettings
from clawplane.sandbox.launch import Sandbox
from clawplane.sandbox.selftest import Report

TIME_LIMIT = 30.0


class Refused(Exception):
    """The answer was an error."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.failed = failed


class Question:
    """One question as its caller sees it; `reads` False takes nothing of what is streamed."""

    def __init__(self, method: str, question: msgspec.Struct, *, reads: bool = True) -> None:
        self.method = method
        self.told: list[bytes] = []
        self.changed = asyncio.Event()
        self._end: asyncio.Future[Answered | Failed] = asyncio.get_running_loop().create_future()
        self._reads = reads
        asked = Asked(job=JobId(1), fence=1, ask=1, method=method, body=msgspec.msgpack.encode(question))
        self.asking = Asking(asked, self._say, lambda number: None)

    async def answer(self) -> Any:
        """Wait for the answer."""
        async with asyncio.timeout(TIME_LIMIT):
            end = await asyncio.shield(self._end)
        if isinstance(end, Failed):
            raise Refused(end)
        return msgspec.msgpack.decode(end.body, type=METHODS[self.method][2])

    @property
    def events(self) -> list[ExecEvent]:
        """What was streamed so far."""
        return [msgspec.msgpack.decode(body, type=ExecEvent) for body in self.told]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something streamed makes a condition true."""
        async with asyncio.timeout(TIME_LIMIT):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def feed(self, *chunks: bytes) -> Question:
        """Send data with the question."""
        for number, chunk in enumerate(chunks):
            last = number == len(chunks) - 1
            self.asking.fed(Fed(job=JobId(1), fence=1, ask=1, body=chunk, last=last))
        return self

    def _say(self, frame: object) -> None:
        if isinstance(frame, Told):
            self.told.append(frame.body)
            if self._reads:
                asyncio.get_running_loop().call_soon(self.asking.more, cost_of(frame.body))
        elif isinstance(frame, Answered | Failed) and not self._end.done():
            self._end.set_result(frame)
        self.changed.set()


class Stay:
    """One life of a session."""

    def __init__(self, house: House, spec: SessionSpec) -> None:
        self.notes: list[LiveState] = []
        self.noted = asyncio.Event()
        self.spec = spec
        offer = Offer(
            job=JobId(1),
            kind=JobKind.SESSION,
            subject=spec.session,
            runner=RunnerId("r"),
            attempt=1,
            fence=1,
            nonce=1,
            spec=msgspec.msgpack.encode(spec),
            timeout_ms=0,
        )
        self.job = SessionJob(offer, house, self._note)
        self._execs = itertools.count(1)
        self._running: asyncio.Task[Outcome] | None = None

    async def begin(self) -> Stay:
        """Prepare and run."""
        try:
            await self.job.prepare()
        except CannotPrepare:
            await self.job.close()
            raise
        self._running = asyncio.create_task(self._run())
        return self

    async def end(self) -> Outcome:
        """Wait for the end of this life."""
        assert self._running is not None
        async with asyncio.timeout(TIME_LIMIT):
            return await asyncio.shield(self._running)

    async def delete(self) -> Outcome:
        """Delete the session."""
        self.job.stop()
        return await self.end()

    def ask(self, method: str, question: msgspec.Struct, *, reads: bool = True) -> Question:
        """Ask something."""
        asked = Question(method, question, reads=reads)
        try:
            self.job.asked(asked.asking)
        except ClawplaneError as error:
            asked.asking.fail(error)
        return asked

    def start(self, code: str, *, reads: bool = True, **options: Any) -> Question:
        """Begin an exec."""
        request = ExecRequest(**{"id": f"x{next(self._execs)}", "tool": "python", "code": code, **options})
        return self.ask("exec", request, reads=reads)

    async def python(self, code: str, **options: Any) -> ExecResult:
        """Run Python to its end."""
        result: ExecResult = await self.start(code, **options).answer()
        return result

    async def shell(self, code: str, **options: Any) -> ExecResult:
        """Run a shell command to its end."""
        result: ExecResult = await self.start(code, tool="shell", **options).answer()
        return result

    async def until(self, condition: Callable[[LiveState], object]) -> LiveState:
        """Wait until a note makes a condition true."""
        async with asyncio.timeout(TIME_LIMIT):
            while not any(condition(note) for note in self.notes):
                self.noted.clear()
                await self.noted.wait()
        return next(note for note in reversed(self.notes) if condition(note))

    async def _run(self) -> Outcome:
        try:
            return await self.job.run()
        finally:
            await self.job.close()

    def _note(self, state: LiveState) -> None:
        self.notes.append(state)
        self.noted.set()


Attacks = Callable[[Sandbox], Awaitable[Report]]


async def no_attacks(sandbox: Sandbox) -> Report:
    """Find nothing wrong, at once."""
    return Report(user="tests", cgroup_mode=sandbox.cgroup_mode, features=[], results=[])


def options(**changes: Any) -> SessionOptions:
    """Options of a session in the tests: the profile that needs no packages."""
    return SessionOptions(**{"profile": "bare", **changes})


@pytest.fixture
def in_time() -> Callable[..., Awaitable[Any]]:
    """Return a function that makes attempts until one is over in time: a busy machine is late, a wrong limit always."""

    async def made(attempt: Callable[[], Awaitable[Any]], *, seconds: float, attempts: int = 12) -> Any:
        took = []
        for _ in range(attempts):
            began = time.monotonic()
            result = await attempt()
            took.append(time.monotonic() - began)
            if took[-1] < seconds:
                return result
        raise AssertionError(f"never over within {seconds} s: {took}")

    return made


@pytest.fixture(scope="session")
def tools() -> Any:
    """What this host has for builds."""
    return find_tools()


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    """The real sandbox."""
    opened = await Sandbox.open(state_directory=tmp_path / "sandbox")
    yield opened
    await opened.close()


@pytest.fixture
async def open_house(sandbox: Sandbox, tools: Any, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[House]]]:
    """Open houses over the same data directory; they are closed with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened(*, attacks: Attacks = no_attacks, **changes: Any) -> House:
            settings = RunnerSettings(
                url="http://127.0.0.1:1",
                token="t" * 16,
                data=tmp_path / "data",
                name="test",
                **{"session_pool": 0, "session_profiles": ("bare",), "session_ready": ("bare",), **changes},
            )
            settings.data.mkdir(exist_ok=True)
            clock = SystemClock()
            cache = EnvironmentCache(settings.data / "environments", tools)
            profiles = Profiles(
                sandbox,
                cache,
                BuildLauncher(sandbox, seconds=60),
                tools.python,
                offered=settings.session_profiles,
                memory=settings.data / "profiles.json",
                max_age_days=30,
                clock=clock,
            )
            exits = Exits(settings.egress, control_plane=settings.url)
            stack.push_async_callback(exits.close)
            world = World(tools.python, find_runtimes(tools.environ, tools.python), {})
            trial = Trial(sandbox, settings.data / "selftest.json", clock=clock, attacks=attacks)
            house = House(
                Ground(sandbox, world, exits), profiles, Places(settings.data), settings, clock=clock, trial=trial
            )
            await house.start()
            stack.push_async_callback(house.close)
            return house

        yield opened


@pytest.fixture
async def house(open_house: Callable[..., Awaitable[House]]) -> House:
    """A house without a ready pool."""
    return await open_house()


@pytest.fixture
async def begin() -> AsyncIterator[Callable[..., Awaitable[Stay]]]:
    """Begin sessions; they are ended with the test."""
    stays: list[Stay] = []
    numbers = itertools.count(1)

    async def begin(house: House, *, session: str = "", **changes: Any) -> Stay:
        names = ("resume", "branch_of", "owner")
        more = {name: changes.pop(name) for name in names if name in changes}
        number = session or f"s{next(numbers)}"
        spec = SessionSpec(**{"session": number, "owner": "o", "options": options(**changes), **more})
        stay = Stay(house, spec)
        await stay.begin()
        stays.append(stay)
        return stay

    yield begin
    for stay in stays:
        stay.job.kill()
        await stay.end()


@pytest.fixture
def arriving() -> Callable[[House], Stay]:
    """Make a session that has not begun yet."""
    return lambda house: Stay(house, SessionSpec(session="s", owner="o", options=options()))


@pytest.fixture
async def stay(house: House, begin: Callable[..., Awaitable[Stay]]) -> Stay:
    """A session."""
    return await begin(house)
