"""Install Node packages: fetch without running anything, then run install scripts without a network.

Theory of operation
    Fetch step: npm with `--ignore-scripts` and with git switched off, so no package code runs; the shared npm cache
    is writable (npm copies out of it and checks every file's hash), the gate is open, and the operator's registry
    tokens are in a file that exists for this step only. Of the Worker's files npm sees package.json and the lock,
    never an .npmrc. Script step, only when a package has an install script: `npm rebuild`, with the build's own
    directory and nothing else, no network, no token. Native add-ons that compile or select a binary work; a script
    that wants to download fails, which is reported in the log and does not fail the build.

    A package-lock.json names what every platform needs, with the hash of each archive, which npm checks; so a lock of
    another runner's build is installed as it is on any host. The Worker's own lock file wins over both others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from clawplane.builder.access import IndexAccess
from clawplane.builder.errors import BuildFailed
from clawplane.builder.plan import MAXIMUM_LOCK_BYTES, NodePlan
from clawplane.builder.python_steps import TREE
from clawplane.builder.steps import SEARCH_PATH, Build
from clawplane.builder.tools import NodeRuntime
from clawplane.builder.tree import UnusableTree, names_in, read_regular, remove

_NOISE = ("A complete log of this run", "Log files were not written", "code ", "errno ", "syscall ")
_NO_DOWNLOADS = {"PUPPETEER_SKIP_DOWNLOAD": "1", "PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD": "1"}


@dataclass(frozen=True, slots=True)
class NodeInstaller:
    """Fills a build's `tree` with node_modules. `shared` holds npm's cache."""

    runtime: NodeRuntime
    access: IndexAccess
    shared: Path

    async def install(self, build: Build, plan: NodePlan, *, given: str | None, known: str | None) -> str:
        """Install a plan and return its lock, the text of package-lock.json.

        given: the lock of another runner's build; known: of an earlier build here.
        """
        tree = build.directory / TREE
        (tree / "node_modules").mkdir(parents=True)
        if not plan.manifest:
            return ""
        if given and plan.lock is None:
            build.log.say("Installing exactly what the first build of this version locked.")
        earlier = given or known
        locked = plan.lock if plan.lock is not None else earlier.encode() if earlier else None
        if not await self._fetch(build, plan, locked, tree):
            raise BuildFailed(_explain(build), build.log.tail)
        written = _read_lock(tree)
        if '"hasInstallScript": true' in written:
            await self._run_scripts(build, tree)
        _require_modules(tree)
        return written

    async def _fetch(self, build: Build, plan: NodePlan, locked: bytes | None, tree: Path) -> bool:
        (tree / "package.json").write_bytes(plan.manifest)
        if locked is not None:
            (tree / "package-lock.json").write_bytes(locked)
        cache = self.shared / "npm"
        cache.mkdir(exist_ok=True)
        settings = build.directory / "npmrc"
        settings.write_text(self.runtime.settings + "\n", encoding="utf-8")
        environment = self._environment(build, cache, settings) | {
            "npm_config_ignore_scripts": "true",
            "npm_config_prefer_offline": "true",
            "npm_config_replace_registry_host": "always",
        }
        gate = await self.access.node_gate(self.runtime.registries, _names(plan.manifest), build.log.say)
        try:
            return await build.run(
                "downloading",
                self._npm(tree, "ci" if locked is not None else "install", "--omit=dev"),
                environment=environment,
                readable=self.runtime.readable,
                writable=[cache, build.directory],
                gate=gate,
            )
        finally:
            settings.unlink()

    async def _run_scripts(self, build: Build, tree: Path) -> None:
        settings = build.directory / "npmrc"
        settings.touch()
        cache = build.private_directory("npm-cache")
        environment = self._environment(build, cache, settings) | _node_headers() | _NO_DOWNLOADS
        succeeded = await build.run(
            "running install scripts",
            self._npm(tree, "rebuild"),
            environment=environment | {"npm_config_offline": "true", "npm_config_foreground_scripts": "true"},
            readable=[path for path in self.runtime.readable if path.is_dir()],
            writable=[build.directory],
        )
        if not succeeded:
            build.log.say("warning: an install script failed; scripts run without network access. Continuing.")
        remove(cache)

    def _npm(self, tree: Path, *arguments: str) -> list[str]:
        return [str(self.runtime.node), str(self.runtime.npm.resolve()), f"--prefix={tree}", *arguments]

    def _environment(self, build: Build, cache: Path, settings: Path) -> dict[str, str]:
        variables = build.base_environment() | {
            "PATH": f"{self.runtime.node.parent}:{SEARCH_PATH}",
            "npm_config_cache": str(cache),
            "npm_config_userconfig": str(settings),
            "npm_config_globalconfig": "/dev/null",
            "npm_config_git": "/bin/false",
            "npm_config_audit": "false",
            "npm_config_fund": "false",
            "npm_config_progress": "false",
            "npm_config_update_notifier": "false",
            "npm_config_logs_max": "0",
        }
        certificates = [path for path in self.runtime.readable if path.is_file()]
        if certificates:
            variables["NODE_EXTRA_CA_CERTS"] = str(certificates[0])
        return variables


def _names(manifest: bytes) -> list[str]:
    content = json.loads(manifest)
    return [name for key in ("dependencies", "optionalDependencies") for name in content.get(key, {})]


def _read_lock(tree: Path) -> str:
    try:
        return read_regular(tree / "package-lock.json", MAXIMUM_LOCK_BYTES).decode("utf-8", "replace")
    except UnusableTree:
        return ""


def _require_modules(tree: Path) -> None:
    """Refuse a tree whose node_modules a script has replaced: it is mounted by name, and a link would be followed."""
    try:
        names_in(tree, "node_modules", maximum=1)
    except UnusableTree as error:
        raise BuildFailed(f"The installed environment cannot be used: {error}") from None


def _explain(build: Build) -> str:
    """Take npm's own words: its error lines without their prefix and without what only repeats."""
    lines = [line.partition("npm error")[2].strip() for line in build.log.step if line.startswith("npm error")]
    lines = [line for line in lines if line and not line.startswith(_NOISE)]
    return "\n".join(lines[-12:] or list(build.log.step)[-10:]) or "npm failed without a word."


def _node_headers() -> dict[str, str]:
    """Let add-ons compile against the distribution's headers: fetching them needs a network."""
    return {"npm_config_nodedir": "/usr"} if Path("/usr/include/node/node.h").exists() else {}
