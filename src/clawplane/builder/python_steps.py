"""Install Python requirements: resolve and link wheels, build sources only when there is no other way, compile.

Theory of operation, with the attacker in mind
    Two trees live side by side: the *shared* directory with uv's cache, from which every environment is hard-linked
    and which the trusted warm layer also comes from, and the *build's own* directory. The one rule that must never
    break:

        **While the shared directory is writable, no code of a package runs.**

    * Wheels step: the shared directory is writable, the gate is open, and uv runs with `--only-binary :all:`. A wheel
      is unpacked as data. uv also starts the environment's interpreter to ask for its paths, which would execute
      `.pth` files of wheels already installed: so every attempt starts from an empty environment.
    * Compile step: uv's own `--compile-bytecode` starts the environment's interpreter *after* installing, and with it
      every `.pth` file of every wheel. So it is not used. The base interpreter compiles (`-I -S`: no site, no .pth),
      without network, with this one environment writable only. An existing file there may share its inode with the
      cache; the compiler only creates files, each by a rename, so Workers may already be using the environment.
    * Sources step: set-up code is hostile and runs here. The shared directory is not even visible: uv gets an empty
      cache in the build's directory, which is deleted with it. Nothing of it is ever copied to the shared side; the
      result is an environment that only Workers with the very same requirements use. The gate stays open for build
      requirements, to the indexes only, read-only where credentials are involved, and no credential is inside.
    * Lock step: the installer is asked, from its own cache and without network, for the hashes of what is installed.
      With wheels it is asked as soon as it has resolved, beside the downloads, so that nobody waits for it; the answer
      counts for the versions that were installed and no other. After set-up code has run it is asked at the end, gets
      that build's private cache, and may run set-up code again, so it is confined like the sources step; what it is
      given lies in a file whose name no set-up code could know.
    * Reading the result happens from outside, in `tree`, which follows no link.

    A lock of another runner's build takes the place of the requirements: the same steps, its versions, no resolution.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clawplane.builder.access import IndexAccess
from clawplane.builder.build_log import BuildLog
from clawplane.builder.errors import BuildFailed
from clawplane.builder.gate import Gate
from clawplane.builder.plan import MAXIMUM_LOCK_BYTES, PythonPlan
from clawplane.builder.python_lock import PythonLock, read_python_lock
from clawplane.builder.question import Question
from clawplane.builder.requirements import Requirement, canonical_name
from clawplane.builder.steps import Build
from clawplane.builder.tools import Tools
from clawplane.builder.tree import UnusableTree, names_in, read_regular, remove

TREE = "tree"
_NO_WHEELS = re.compile(r"no usable wheels|[Ww]heels are required|building from source is disabled")
_INSTALLED = re.compile(r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._]*[A-Za-z0-9])?)-(?P<version>[A-Za-z0-9.!+_]+)\.dist-info")
_MAXIMUM_NAMES = 100_000


@dataclass(frozen=True, slots=True)
class _Come:
    """Requirements that came: through which of uv's caches, and the hashes that are known of them already."""

    cache: Path
    hashes: PythonLock | None = None


@dataclass(frozen=True, slots=True)
class PythonInstaller:
    """Fills a build's `tree` with a virtual environment. `shared` holds uv's cache; see above who may write it."""

    tools: Tools
    access: IndexAccess
    shared: Path
    mount_point: str

    @property
    def site_packages(self) -> str:
        """Where packages are, relative to the tree."""
        return f"lib/python{self.tools.python.short_version}/site-packages"

    @property
    def host(self) -> str:
        """Name the hosts on which a lock made here holds: same Python but for bug fixes, same platform."""
        runtime = self.tools.python
        return f"{runtime.implementation}-{runtime.short_version} on {self.tools.platform}"

    async def install(
        self, build: Build, plan: PythonPlan, *, given: str | None, known: str | None, sources: bool
    ) -> str:
        """Install a plan and return its lock, see `python_lock`.

        given: the lock of another runner's build, installed exactly when it was made for hosts like this one; known:
        of an earlier build of the same plan here, tried first and without network; sources: whether source
        distributions may be built when there are no wheels (and then the lock gets its hashes, too).
        """
        lock = read_python_lock(given) if given else None
        if lock is not None and lock.made_for == self.host:
            await self._install_locked(build, plan, lock, sources=sources)
            remove(build.directory / "cache")
            return lock.text
        if lock is not None:
            made_for = lock.made_for or "unknown hosts"
            build.log.say(f"The lock was made for {made_for}, this runner is {self.host}: resolving here.")
        come = await self._installed(build, plan, known=known, sources=sources)
        if come is None:
            raise BuildFailed(_explain(build, plan), build.log.tail)
        found = self._look(build.directory / TREE)
        if sources:
            found = await self._add_hashes(build, found, come)
        remove(build.directory / "cache")
        return found.text

    async def _install_locked(self, build: Build, plan: PythonPlan, lock: PythonLock, *, sources: bool) -> None:
        build.log.say("Installing exactly what the first build of this version locked.")
        lock = lock.demanded(plan)
        if lock.unchecked:
            build.log.say(f"The lock has no hash of {', '.join(lock.unchecked)}: only versions are compared there.")
        flags = ["--no-deps", *([] if lock.unchecked else ["--require-hashes"])]
        wanted = "".join(f"{pin}\n" for pin in lock.pins)
        if await self._fetched(build, wanted, [*lock.versions], sources=sources, flags=flags) is None:
            raise BuildFailed(f"What the lock names cannot be installed: {_own_words(build)}", build.log.tail)

    async def _installed(self, build: Build, plan: PythonPlan, *, known: str | None, sources: bool) -> _Come | None:
        """Install what the plan asks for, see `_fetched`."""
        if known:
            lock = read_python_lock(known)
            if await self._attempt(build, lock.bare, gate=None, flags=["--offline", "--no-deps"]):
                return _Come(self.shared / "uv", lock)
        return await self._fetched(build, plan.text, [each.name for each in plan.requirements], sources=sources)

    async def _fetched(
        self, build: Build, wanted: str, names: Sequence[str], *, sources: bool, flags: Sequence[str] = ()
    ) -> _Come | None:
        """Install requirements from the index; return None when they did not come."""
        gate = await self.access.python_gate(names, build.log.say)
        if come := await self._attempt(build, wanted, gate=gate, flags=flags):
            return come
        lacking = any(_NO_WHEELS.search(line) for line in build.log.step)
        if lacking and sources:
            build.log.say("There is no wheel for everything; building from source, isolated.")
            gate = await self.access.python_gate(names, build.log.say)
            return await self._attempt(build, wanted, gate=gate, from_source=True, flags=flags)
        if lacking or gate.reached:
            return None
        build.log.say("The package index cannot be reached; trying what is cached on this runner.")
        failed = list(build.log.step)
        if come := await self._attempt(build, wanted, gate=None, flags=["--offline", *flags]):
            return come
        build.log.step.clear()
        build.log.step.extend(failed)
        return None

    async def _add_hashes(self, build: Build, lock: PythonLock, come: _Come) -> PythonLock:
        """Return the lock with the hashes the index names, as far as it does."""
        if come.hashes is not None:
            lock = lock.with_hashes(come.hashes)
        if lock.unchecked:
            found = await self._ask_for_hashes(build, lock.bare, come.cache, ["--no-deps"])
            lock = lock if found is None else lock.with_hashes(found)
        if lock.unchecked:
            build.log.say(f"warning: the index names no hash of {', '.join(lock.unchecked)}; the lock has its version.")
        return lock

    async def _ask_for_hashes(
        self, build: Build, wanted: str, cache: Path, flags: Sequence[str] = ()
    ) -> PythonLock | None:
        """Ask uv, without network, for the versions and hashes of requirements that it has just resolved."""
        private = cache != self.shared / "uv"
        name = uuid.uuid4().hex
        pins, answer = build.directory / f"{name}.in", build.directory / f"{name}.out"
        with pins.open("x", encoding="utf-8") as file:
            file.write(wanted)
        only = [] if private else ["--only-binary", ":all:"]
        options = ["--generate-hashes", "--no-header", "--no-annotate", "--offline", *only, *flags]
        python = str(self.tools.python.executable)
        succeeded = await build.run(
            "locking",
            [str(self.tools.uv), "pip", "compile", "-q", "--python", python, *options, "-o", str(answer), str(pins)],
            environment=build.base_environment() | self.variables(cache),
            readable=self._readable(),
            writable=[build.directory if private else self.shared],
        )
        try:
            return read_python_lock(read_regular(answer, MAXIMUM_LOCK_BYTES).decode()) if succeeded else None
        except (UnusableTree, UnicodeDecodeError, BuildFailed) as error:
            build.log.say(f"warning: {error}")
            return None

    def _look(self, tree: Path) -> PythonLock:
        """Derive the lock from the names of the installed metadata directories."""
        try:
            names = names_in(tree, *self.site_packages.split("/"), maximum=_MAXIMUM_NAMES)
        except UnusableTree as error:
            raise BuildFailed(f"The installed environment cannot be used: {error}") from None
        matches = [match for name in names if (match := _INSTALLED.fullmatch(name))]
        pins = {Requirement(canonical_name(each["name"]), versions=(f"=={each['version']}",)) for each in matches}
        return PythonLock(self.host, tuple(sorted(pins, key=str)))

    async def _attempt(
        self, build: Build, wanted: str, *, gate: Gate | None, from_source: bool = False, flags: Sequence[str] = ()
    ) -> _Come | None:
        """Install into a new tree; return None when the installer failed."""
        tree = build.directory / TREE
        remove(tree)
        self._make_environment(tree)
        file = build.directory / "requirements.txt"
        file.write_text(wanted, encoding="utf-8")
        cache = build.private_directory("cache") if from_source else self.shared / "uv"
        only = [] if from_source else ["--only-binary", ":all:"]
        python = tree / "bin" / "python"
        quiet = replace(build, log=BuildLog(lambda line: None, lambda phase: None))
        hashes = Question(lambda: self._ask_for_hashes(quiet, wanted, cache))
        early = gate is not None and not from_source and "--no-deps" not in flags
        try:
            succeeded = await build.run(
                "resolving",
                [str(self.tools.uv), "pip", "install", "--python", str(python), "-r", str(file), *only, *flags],
                environment=build.base_environment() | self.variables(cache),
                readable=self._readable(),
                writable=[build.directory if from_source else self.shared],
                gate=gate,
                on_phase=lambda phase: hashes.ask() if early and phase == "downloading" else None,
            )
            return _Come(cache, await hashes.answer()) if succeeded else None
        finally:
            await hashes.close()

    def _make_environment(self, tree: Path) -> None:
        """Lay out an empty, relocatable virtual environment: three links and a file, quicker than asking a program."""
        runtime = self.tools.python
        (tree / self.site_packages).mkdir(parents=True)
        (tree / "lib64").symlink_to("lib")
        (tree / "bin").mkdir()
        (tree / "bin" / "python").symlink_to(runtime.executable)
        for name in ("python3", f"python{runtime.short_version}"):
            (tree / "bin" / name).symlink_to("python")
        settings = {
            "home": str(runtime.executable.parent),
            "implementation": runtime.implementation,
            "version_info": runtime.version,
            "include-system-site-packages": "false",
            "relocatable": "true",
        }
        (tree / "pyvenv.cfg").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))

    def variables(self, cache: Path) -> dict[str, str]:
        """Tell uv where packages come from and where its cache is."""
        indexes = self.tools.indexes
        variables = {
            **indexes.settings,
            "UV_CACHE_DIR": str(cache),
            "UV_NO_CONFIG": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",
            "UV_LINK_MODE": "hardlink",
        }
        if indexes.default:
            variables["UV_DEFAULT_INDEX"] = self.access.for_installer(indexes.default)
        else:
            variables["UV_NO_INDEX"] = "1"
        if indexes.extra:
            variables["UV_INDEX"] = " ".join(self.access.for_installer(address) for address in indexes.extra)
        if indexes.links:
            variables["UV_FIND_LINKS"] = ",".join(self.access.for_installer(link) for link in indexes.links)
        if indexes.insecure_hosts:
            variables["UV_INSECURE_HOST"] = " ".join(indexes.insecure_hosts)
        if indexes.certificates:
            variables["SSL_CERT_FILE"] = str(indexes.certificates)
        return variables

    def _readable(self) -> list[Path]:
        indexes = self.tools.indexes
        certificates = [indexes.certificates] if indexes.certificates else []
        return [self.tools.uv, *self.tools.python.readable, *indexes.directories, *certificates]

    async def compile(self, build: Build, tree: Path) -> None:
        """Add byte-code that never needs checking to a tree, naming the files as the Worker will see them.

        A file that does not compile, such as a template or a test for other versions, is no reason to fail.
        """
        options = ["-qq", "-j", "0", "--invalidation-mode", "unchecked-hash"]
        options += ["-s", str(tree), "-p", self.mount_point]
        await build.run(
            "compiling",
            [str(self.tools.python.executable), "-I", "-S", "-m", "compileall", *options, str(tree / "lib")],
            environment=build.base_environment(),
            readable=self.tools.python.readable,
            writable=[build.directory, tree],
        )


def _explain(build: Build, plan: PythonPlan) -> str:
    """Give the installer's own words, and say when one of our own additions is in the way."""
    message = _own_words(build)
    ours = [name for name in plan.added if re.search(rf"\b{name}\b", message)]
    if ours:
        message += f"\nclawplane adds {' and '.join(ours)} for the SDK; pin it in requirements.txt to choose a version."
    return message


def _own_words(build: Build) -> str:
    """Take the installer's last error, from its first line on."""
    lines = list(build.log.step)
    starts = [number for number, line in enumerate(lines) if line.startswith("error:")]
    message = "\n".join(lines[starts[-1] :] if starts else lines[-10:])
    return message.removeprefix("error:").strip() or "The installer failed without a word."
