"""Find the installers and runtimes of this host and learn what each of them needs to be shown."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clawplane.builder.errors import BuildFailed
from clawplane.builder.indexes import PackageIndexes, read_indexes

_ASK_PYTHON = """
import json, os, sys, sysconfig
print(json.dumps([sys.implementation.name, "%d.%d.%d" % sys.version_info[:3], "%d.%d" % sys.version_info[:2],
  sys.base_prefix, os.path.realpath(getattr(sys, "_base_executable", sys.executable)),
  sysconfig.get_path("stdlib"), sysconfig.get_config_var("LIBDIR") or ""]))
"""
_SYSTEM = (Path("/usr"), Path("/bin"), Path("/lib"), Path("/lib64"))


@dataclass(frozen=True, slots=True)
class PythonRuntime:
    """The base interpreter of Python Workers; `readable` is what it needs beyond the system directories."""

    executable: Path
    implementation: str
    version: str
    readable: tuple[Path, ...] = ()

    @property
    def short_version(self) -> str:
        """Major and minor, as in "3.11"."""
        return ".".join(self.version.split(".")[:2])


@dataclass(frozen=True, slots=True)
class NodeRuntime:
    """Node and npm; `settings` are the npmrc lines that say where packages come from, tokens included."""

    node: Path
    npm: Path
    version: str
    registries: tuple[str, ...]
    readable: tuple[Path, ...]
    settings: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tools:
    """What builds use on this host."""

    uv: Path
    python: PythonRuntime
    indexes: PackageIndexes
    environ: Mapping[str, str] = field(repr=False)
    platform: str = ""


def find_tools(environ: Mapping[str, str] | None = None, *, python: Path | None = None) -> Tools:
    """Look at this host: uv, the base interpreter (default: the one under this process) and the package indexes.

    Starts two or three short processes. Raises ValueError when a configuration file cannot be parsed.
    """
    from uv import find_uv_bin  # noqa: PLC0415 - looks for its binary at import time on some versions

    environ = dict(os.environ if environ is None else environ)
    uv = Path(find_uv_bin())
    runtime = _ask_python(python or Path(getattr(sys, "_base_executable", sys.executable)))
    libc = "-".join(platform.libc_ver()) or "libc"
    return Tools(
        uv=uv,
        python=runtime,
        indexes=read_indexes(environ, uv=uv),
        environ=environ,
        platform=f"{sys.platform}-{platform.machine()}-{libc}",
    )


async def find_node(environ: Mapping[str, str]) -> NodeRuntime:
    """Look for node and npm and read npm's own configuration; raise BuildFailed with the way out when one is absent."""
    path = environ.get("PATH", os.defpath)
    node, npm = shutil.which("node", path=path), shutil.which("npm", path=path)
    if node is None or npm is None:
        missing = "node" if node is None else "npm"
        raise BuildFailed(f"This runner has no {missing}: install Node.js 20 or newer with npm, for example with apt.")
    version = (await _ask(environ, node, "--version")).strip()
    settings = json.loads(await _ask(environ, npm, "config", "ls", "--json"))
    registries = [str(settings.get("registry") or "")]
    registries += [str(value) for key, value in settings.items() if key.startswith("@") and key.endswith(":registry")]
    files = [Path(str(settings[name])) for name in ("globalconfig", "userconfig") if settings.get(name)]
    readable = [*_outside_system(Path(node)), *_outside_system(Path(npm))]
    readable += _existing_files(settings.get("cafile"), environ.get("NODE_EXTRA_CA_CERTS"))
    return NodeRuntime(
        node=Path(node),
        npm=Path(npm),
        version=version,
        registries=tuple(dict.fromkeys(registry for registry in registries if registry)),
        readable=tuple(dict.fromkeys(readable)),
        settings="\n".join(line for file in files for line in _registry_lines(file, environ)),
    )


def _existing_files(*names: object) -> list[Path]:
    return [path for name in names if name and (path := Path(str(name))).is_file()]


def _registry_lines(file: Path, environ: Mapping[str, str]) -> list[str]:
    """Keep what says where packages come from and how to be let in; drop what names programs and directories."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    kept = []
    for line in lines:
        key = line.partition("=")[0].strip()
        if key in {"registry", "cafile", "strict-ssl"} or key.startswith("//") or key.endswith(":registry"):
            for name, value in environ.items():
                line = line.replace(f"${{{name}}}", value)  # noqa: PLW2901 - npm's own expansion, done outside
            kept.append(line.replace("\0", ""))
    return kept


def _ask_python(executable: Path) -> PythonRuntime:
    asked = subprocess.run(
        [str(executable), "-I", "-S", "-c", _ASK_PYTHON], capture_output=True, text=True, check=True, timeout=30
    )
    implementation, version, _, prefix, real, stdlib, libraries = json.loads(asked.stdout)
    wanted = [Path(prefix), Path(real).parent, Path(stdlib), *([Path(libraries)] if libraries else [])]
    readable = [path for path in dict.fromkeys(wanted) if path.is_dir() and not _in_system(path)]
    return PythonRuntime(Path(real), implementation, version, tuple(readable))


async def _ask(environ: Mapping[str, str], *argv: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=dict(environ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd="/",
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    if process.returncode:
        raise BuildFailed(
            f"`{Path(argv[0]).name} {' '.join(argv[1:])}` failed on this runner: is Node.js installed whole?"
        )
    return output.decode("utf-8", "replace")


def _outside_system(program: Path) -> list[Path]:
    """Name the installation directories of a program that the system directories do not cover."""
    directories = {program.parent.parent, program.resolve().parent.parent}
    return sorted(path for path in directories if not _in_system(path) and path != Path("/"))


def _in_system(path: Path) -> bool:
    return path == Path("/") or any(path == top or path.is_relative_to(top) for top in _SYSTEM)
