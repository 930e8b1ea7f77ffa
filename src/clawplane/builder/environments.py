"""Keep installed dependencies on disk, each set built once, shared read-only, and thrown away by age and size.

Theory of operation
    root/environments/FINGERPRINT/  environment.json (ours) and tree/ (what a Worker sees); `used`: touched on use
    root/work/                      what install steps may write: uv/ and npm/ (caches), building/ (builds under way)
    root/locks/FINGERPRINT          the lock an environment was built with, for building it again without the network
    root/busy/                      flock files: FINGERPRINT (one builder at a time), cache (builders share it)

    An environment appears by one rename of a complete directory, so a crash at any point leaves either nothing or all
    of it. What a dead builder left under building/ is removed at the next opening, unless its flock is still held.
    After a reboot the size of a tree is compared with its record once: a machine that lost power may have lost file
    contents. environment.json is written by us, after the build's processes are gone, into a directory they never
    saw. tree/ may have been written by hostile set-up code; see `tree` for how it is handled and `python_steps` for
    why it can only harm those who asked for it. The trusted warm layer is kept under fingerprints of its own, which
    no Worker's plan can produce, and is built from wheels only.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never
from weakref import WeakValueDictionary

from clawplane.builder import collecting
from clawplane.builder.access import IndexAccess
from clawplane.builder.build_log import BuildLog
from clawplane.builder.errors import BuildFailed
from clawplane.builder.file_locks import locked
from clawplane.builder.gate import Destination
from clawplane.builder.launcher import Launcher
from clawplane.builder.node_steps import NodeInstaller
from clawplane.builder.plan import GoPlan, Language, NodePlan, Plan, PythonPlan, fingerprint
from clawplane.builder.python_lock import read_python_lock
from clawplane.builder.python_steps import TREE, PythonInstaller
from clawplane.builder.requirements import Requirement
from clawplane.builder.steps import Build
from clawplane.builder.tools import NodeRuntime, Tools, find_node
from clawplane.builder.tree import UnusableTree, measure, remove, seal

WARM_PACKAGES = ("grpcio", "protobuf", "typing-extensions")
"""What importing the SDK loads; typing-extensions is grpcio's own dependency."""

_RECORD = "environment.json"
_USED = "used"


@dataclass(frozen=True, slots=True)
class Environment:
    """One installed set of dependencies.

    path: the tree, to be shown read-only at the cache's mount point; the other paths are inside it. lock: what was
    installed, exact versions with hashes for Python (see `python_lock`), package-lock.json for Node. warm: versions of
    grpcio, protobuf and typing-extensions, as far as installed. size in bytes; compiled: byte-code is there, see
    EnvironmentCache.compile; reused: it was there already.
    """

    fingerprint: str
    language: Language
    path: Path
    interpreter: Path | None
    site_directories: tuple[Path, ...]
    node_modules: Path | None
    lock: str
    warm: dict[str, str]
    size: int
    compiled: bool
    reused: bool


@dataclass(frozen=True, slots=True)
class _Order:
    """What to build: a plan, the lock of another runner's build if there is one, and whether set-up code may run."""

    plan: Plan
    lock: str | None
    sources: bool


class EnvironmentCache:
    """Environments below one directory, which belongs to this cache alone; several processes may share it.

    mount_point: where runners show an environment's tree to Workers, written into byte-code; further: destinations
    builds may reach besides the configured indexes.
    """

    def __init__(
        self, root: Path, tools: Tools, *, mount_point: str = "/env", further: Iterable[Destination] = ()
    ) -> None:
        self._root = root
        self._tools = tools
        self._access = IndexAccess(tools.indexes, tools.environ, further=further)
        self._environments = root / "environments"
        self._work = root / "work"
        self._building = self._work / "building"
        self._busy = root / "busy"
        self._locks = root / "locks"
        self._node: NodeRuntime | None = None
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        for directory in (self._environments, self._building, self._busy, self._locks):
            directory.mkdir(parents=True, exist_ok=True)
        self._python = PythonInstaller(tools, self._access, self._work, mount_point)
        collecting.remove_left_overs(self._building, self._busy)

    async def ensure(
        self,
        plan: Plan,
        *,
        lock: str | None = None,
        launcher: Launcher,
        on_log: Callable[[str], None],
        on_progress: Callable[[str], None] = lambda phase: None,
    ) -> Environment:
        """Return the environment of a plan, building it first when it is not there.

        lock: what another runner's build of the plan locked; the environment is built exactly from it, its hashes
        checked, and never resolved anew, unless it was made for another platform or Python, which the log then says.
        An environment that is there already is returned whatever it was built from.

        Raises BuildFailed with the installer's own message. However many callers ask for one plan at once, in any
        number of processes, it is built once; callers that wait get no log.
        """
        name = await self._name(plan)
        return await self._ensure(name, _Order(plan, lock, sources=True), launcher, BuildLog(on_log, on_progress))

    async def find(self, plan: Plan) -> Environment | None:
        """Return the environment of a plan when it is there; nothing is built or fetched."""
        return await self._open(await self._name(plan), reused=True)

    async def ensure_warm_layer(
        self, warm: dict[str, str], *, launcher: Launcher, on_log: Callable[[str], None] = lambda line: None
    ) -> Path:
        """Return a site directory with exactly these versions of WARM_PACKAGES, for a trusted process to import from.

        Only wheels are accepted, so no set-up code had a part in it. Raises BuildFailed when there are none.
        """
        pins = tuple(Requirement(name, versions=(f"=={warm[name]}",)) for name in WARM_PACKAGES if name in warm)
        layer = await self.ensure_trusted("warm layer", PythonPlan(pins), launcher=launcher, on_log=on_log)
        return layer.site_directories[0]

    async def ensure_trusted(
        self, edition: str, plan: PythonPlan, *, launcher: Launcher, on_log: Callable[[str], None] = lambda line: None
    ) -> Environment:
        """Return an environment for a trusted process to import from: wheels only, byte-code included.

        Another `edition` is another environment of the same plan, with the versions that the index then gives. Raises
        BuildFailed with the installer's own message.
        """
        configuration = hashlib.sha256(f"{edition} {self._tools.indexes.digest}".encode()).hexdigest()
        name = fingerprint(
            plan, runtime=self._python_runtime, platform=self._tools.platform, configuration=configuration
        )
        log = BuildLog(on_log, lambda phase: None)
        built = await self._ensure(name, _Order(plan, None, sources=False), launcher, log)
        return await self.compile(built, launcher=launcher, on_log=on_log)

    async def compile(
        self, environment: Environment, *, launcher: Launcher, on_log: Callable[[str], None] = lambda line: None
    ) -> Environment:
        """Add byte-code to a Python environment that has none yet; it can be used before and meanwhile.

        Call it after `ensure`, when whoever waits for the environment has been told that it is ready: compiling takes
        about half as long as installing. Does nothing when there is nothing to do.
        """
        if environment.compiled:
            return environment
        name = environment.fingerprint
        async with self._one_builder(name), locked(self._busy / name):
            current = await self._open(name, reused=True)
            if current is None or current.compiled:
                return current or environment
            directory = self._building / f"{name}.{uuid.uuid4().hex}"
            directory.mkdir()
            try:
                log = BuildLog(on_log, lambda phase: None)
                await self._python.compile(Build(directory, launcher, log), current.path)
                await asyncio.to_thread(self._record_compiled, self._environments / name)
            finally:
                await asyncio.shield(asyncio.to_thread(remove, directory))
            return await self._open(name, reused=True) or environment

    async def collect(self, *, max_age: float, max_bytes: int, in_use: set[str]) -> collecting.Collected:
        """Remove environments unused for `max_age` seconds, then the longest unused until `max_bytes` are kept.

        in_use: fingerprints that stay in any case; so do those used in the last ten minutes. The installers' caches are
        emptied when they alone are larger than half of `max_bytes` and no build runs.
        """
        return await asyncio.to_thread(
            collecting.collect, self._root, max_age=max_age, max_bytes=max_bytes, in_use=in_use, now=time.time()
        )

    @property
    def _python_runtime(self) -> str:
        return f"{self._tools.python.implementation}-{self._tools.python.version}"

    async def _find_node(self) -> NodeRuntime:
        if self._node is None:
            self._node = await find_node(self._tools.environ)
        return self._node

    async def _name(self, plan: Plan) -> str:
        runtime = (await self._find_node()).version if isinstance(plan, NodePlan) else self._python_runtime
        return fingerprint(
            plan, runtime=runtime, platform=self._tools.platform, configuration=self._tools.indexes.digest
        )

    async def _ensure(self, name: str, order: _Order, launcher: Launcher, log: BuildLog) -> Environment:
        if (found := await self._open(name, reused=True)) is not None:
            return found
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._one_builder(name))
            await stack.enter_async_context(locked(self._busy / name))
            if (found := await self._open(name, reused=True)) is not None:
                return found
            await stack.enter_async_context(locked(self._busy / "cache", shared=True))
            await self._build(name, order, launcher, log)
            built = await self._open(name, reused=False)
        if built is None:
            raise BuildFailed("The environment vanished while it was built: is the disk full or failing?", log.tail)
        return built

    @asynccontextmanager
    async def _one_builder(self, name: str) -> AsyncIterator[None]:
        """Let one task of this process at a time build a name; the others wait without polling."""
        turn = self._turns.setdefault(name, asyncio.Lock())
        async with turn:
            yield

    async def _build(self, name: str, order: _Order, launcher: Launcher, log: BuildLog) -> None:
        directory = self._building / f"{name}.{uuid.uuid4().hex}"
        staging = self._building / f"{name}.{uuid.uuid4().hex}"
        directory.mkdir()
        try:
            lock = await self._install(Build(directory, launcher, log), order, self._known_lock(name))
            await asyncio.to_thread(self._publish, name, order.plan.language, directory / TREE, staging, lock)
        except (OSError, UnusableTree) as error:
            raise BuildFailed(f"The environment cannot be kept: {error}", log.tail) from error
        finally:
            await asyncio.shield(asyncio.to_thread(_remove_both, directory, staging))

    async def _install(self, build: Build, order: _Order, known: str | None) -> str:
        match plan := order.plan:
            case PythonPlan():
                return await self._python.install(build, plan, given=order.lock, known=known, sources=order.sources)
            case NodePlan():
                installer = NodeInstaller(await self._find_node(), self._access, self._work)
                return await installer.install(build, plan, given=order.lock, known=known)
            case GoPlan():
                build.private_directory(TREE)
                return ""
            case _:
                assert_never(plan)

    def _publish(self, name: str, language: Language, tree: Path, staging: Path, lock: str) -> None:
        """Make a finished tree an environment."""
        staging.mkdir()
        tree.rename(staging / TREE)
        size = seal(staging / TREE)
        versions = read_python_lock(lock).versions if language == "python" else {}
        record = {
            "fingerprint": name,
            "language": language,
            "lock": lock,
            "warm": {package: versions[package] for package in WARM_PACKAGES if package in versions},
            "size": size.size,
            "entries": size.entries,
            "created": int(time.time()),
            "compiled": language != "python",
            "boot": _boot(),
        }
        _write_record(staging, record)
        (staging / _USED).touch()
        new_lock = self._locks / f"{name}.new"
        new_lock.write_text(lock, encoding="utf-8")
        new_lock.rename(self._locks / name)
        self._discard(name)
        staging.rename(self._environments / name)

    def _known_lock(self, name: str) -> str | None:
        try:
            return (self._locks / name).read_text(encoding="utf-8") or None
        except (FileNotFoundError, UnicodeDecodeError):
            return None

    async def _open(self, name: str, *, reused: bool) -> Environment | None:
        """Read an environment and mark it used; None when it is not there or was damaged by a crash of the machine."""
        directory = self._environments / name
        try:
            os.utime(directory / _USED)
            record = json.loads((directory / _RECORD).read_bytes())
        except (OSError, ValueError):
            return None
        if record["boot"] != _boot() and not await asyncio.to_thread(self._survived, directory, record):
            return None
        tree = directory / TREE
        python = record["language"] == "python"
        return Environment(
            fingerprint=name,
            language=record["language"],
            path=tree,
            interpreter=tree / "bin" / "python" if python else None,
            site_directories=(tree / self._python.site_packages,) if python else (),
            node_modules=tree / "node_modules" if record["language"] == "node" else None,
            lock=record["lock"],
            warm=record["warm"],
            size=record["size"],
            compiled=record["compiled"],
            reused=reused,
        )

    def _record_compiled(self, directory: Path) -> None:
        record = json.loads((directory / _RECORD).read_bytes())
        size = seal(directory / TREE)
        _write_record(directory, record | {"compiled": True, "size": size.size, "entries": size.entries})

    def _survived(self, directory: Path, record: dict[str, object]) -> bool:
        """Compare a tree with its record after a reboot, once; a damaged one is built again."""
        with suppress(OSError, UnusableTree):
            found = measure(directory / TREE)
            if (found.size, found.entries) == (record["size"], record["entries"]):
                _write_record(directory, record | {"boot": _boot()})
                return True
        return False

    def _discard(self, name: str) -> None:
        """Make room for a new build where a damaged one stands."""
        trash = self._building / f"{name}.{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):
            (self._environments / name).rename(trash)
            remove(trash)


def _write_record(directory: Path, record: Mapping[str, object]) -> None:
    """Replace a record in one step."""
    renewed = directory / f"{_RECORD}.{uuid.uuid4().hex}"
    renewed.write_text(json.dumps(dict(record)), encoding="utf-8")
    renewed.rename(directory / _RECORD)


def _remove_both(*directories: Path) -> None:
    for directory in directories:
        remove(directory)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
