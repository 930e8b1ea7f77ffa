"""What a runner holds that does host tasks: its policy, its directories, its way to start programs, its agents.

Everything lies below `<data>/host`, mode 0700: `output` (whole outputs that were too large for a report), `spool` (ends
that are not acknowledged), `scratch` (what is gone with its task) and `agents`. File tasks may read `output` and touch
nothing else of the runner's own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from clawplane.domain.clock import Clock
from clawplane.domain.errors import ClawplaneError, InvalidArgument
from clawplane.runner.host import private
from clawplane.runner.host.agents.adapter import Adapter, adapters
from clawplane.runner.host.agents.house import AgentHouse
from clawplane.runner.host.agents.turn import settings_from
from clawplane.runner.host.environment import child_environment
from clawplane.runner.host.paths import Places, default_roots, resolved, within
from clawplane.runner.host.policy import CommandPolicy
from clawplane.runner.host.processes import Processes
from clawplane.runner.host.settings import HostSettings
from clawplane.runner.host.shells import find_shell
from clawplane.runner.host.spill import Spills
from clawplane.runner.host.spool import Spool

_LONGEST_FOR_SOCKETS: Final = 60

BY_DIRECTORY: Final = "Directory rejected by policy"


class Refused(ClawplaneError):
    """The runner's policy refuses a task; it is reported with exit code 126."""

    code = "refused_by_policy"


@dataclass(frozen=True, kw_only=True)
class HostHouse:
    """One runner's means for host tasks; see `open_house`."""

    settings: HostSettings
    home: Path
    shell: str
    environment: Mapping[str, str]
    """What every child finds, before a task's own variables."""
    policy: CommandPolicy
    places: Places
    processes: Processes
    spills: Spills
    spool: Spool
    scratch: Path
    clock: Clock
    directories: tuple[Path, ...] = ()
    """Real directories that commands and agents may start in or below; empty: anywhere."""
    agents: Mapping[str, Adapter] = field(default_factory=dict)
    """The agent CLIs by name, those that are not installed included."""
    changing: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    @property
    def groups(self) -> tuple[str, ...]:
        """Return the kinds of tasks that this runner takes."""
        path = self.environment["PATH"]
        here = {"command", "files", *(name for name, adapter in self.agents.items() if not adapter.missing(path))}
        return tuple(group for group in self.settings.policy.groups if group in here)

    def directory_of(self, cwd: str | None) -> Path:
        """Return where a task starts: home, or its own directory; raises InvalidArgument and Refused."""
        if cwd is None:
            allowed = not self.directories or any(within(resolved(self.home), each) for each in self.directories)
            cwd = str(self.home if allowed else self.directories[0])
        try:
            path = self.places.locate(cwd)
        except ValueError as error:
            raise InvalidArgument(f"cwd: {error}") from None
        if not path.is_dir():
            raise InvalidArgument(f"cwd: {path} is no directory on this runner")
        if self.directories and not any(within(resolved(path), each) for each in self.directories):
            raise Refused(BY_DIRECTORY)
        return path

    def file_turn(self, path: str) -> asyncio.Lock:
        """Return the lock of whoever changes a file, so that two edits do not lose one."""
        try:
            name = str(resolved(self.places.locate(path)))
        except ValueError:
            name = ""
        lock = self.changing.get(name)
        if lock is None:
            lock = self.changing[name] = asyncio.Lock()
        return lock


@asynccontextmanager
async def open_house(
    settings: HostSettings,
    *,
    data: Path,
    mark: str,
    environ: Mapping[str, str],
    clock: Clock,
    secrets: Sequence[str] = (),
    protected: Sequence[Path] = (),
) -> AsyncIterator[HostHouse]:
    """Make the directories below `data`, start what starts programs, and end it afterwards.

    `mark` is a text that is this runner's alone (its id); `secrets` are values no child may see; `protected` are
    directories that file tasks do not touch, beside `data`. Raises InvalidArgument when a directory is not this user's.
    """
    home = home_of(environ)
    policy = settings.policy
    try:
        own = await asyncio.to_thread(_prepare, data / "host", settings)
    except OSError as error:
        raise InvalidArgument(f"The runner's own directory cannot be used: {error}.") from error
    roots = default_roots(home, environ) if policy.roots is None else _expanded(policy.roots, home)
    processes = Processes(mark, keep_background=policy.background == "keep")
    agents = AgentHouse(settings_from(environ, home=home, private=own.agents), clock)
    agents.open()
    await processes.open()
    sweeping = asyncio.create_task(agents.keep_swept())
    try:
        yield HostHouse(
            settings=settings,
            home=home,
            shell=find_shell(environ),
            environment=child_environment(environ, home=home, secrets=secrets),
            policy=policy.commands,
            places=Places(home, roots, private=[data, *protected], readable=[own.spills.directory]),
            processes=processes,
            spills=own.spills,
            spool=own.spool,
            scratch=own.scratch,
            clock=clock,
            directories=tuple(resolved(each) for each in _expanded(policy.directories, home) or ()),
            agents=adapters(agents),
        )
    finally:
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)
        await processes.close()
        own.spills.close()
        own.spool.close()
        if own.temporary:
            shutil.rmtree(own.agents, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Own:
    """The runner's own directories."""

    spills: Spills
    spool: Spool
    scratch: Path
    agents: Path
    temporary: bool
    """Whether `agents` goes with this process."""


def _prepare(own: Path, settings: HostSettings) -> _Own:
    scratch = own / "scratch"
    for directory in (own, scratch):
        os.close(private.open_directory(directory))
    for left in scratch.iterdir():
        left.unlink(missing_ok=True)
    spills = Spills(own / "output", most_each=settings.spill_bytes)
    agents, temporary = _agents_directory(own)
    return _Own(spills, Spool(own / "spool"), scratch, agents, temporary)


def home_of(environ: Mapping[str, str]) -> Path:
    """Return this user's home directory."""
    return Path(environ.get("HOME") or Path("~").expanduser())


def _expanded(named: Sequence[str], home: Path) -> list[Path] | None:
    """Return directories of a policy; None when one of them is everything."""
    if "*" in named:
        return None
    return [home if each == "~" else home / each.removeprefix("~/") for each in named]


def _agents_directory(own: Path) -> tuple[Path, bool]:
    """Return where agents keep sockets and settings, and whether it is a temporary one: socket paths are short."""
    wanted = own / "agents"
    if len(os.fsencode(wanted)) <= _LONGEST_FOR_SOCKETS:
        os.close(private.open_directory(wanted))
        return wanted, False
    return Path(tempfile.mkdtemp(prefix="clawplane-")), True
