"""Describe the world of one subtask: what it sees, what it may use, and what its environment says."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clawplane.builder.environments import Environment
from clawplane.builder.tools import PythonRuntime
from clawplane.domain.runs import RunSystem, SubtaskSpec
from clawplane.egress.protocol import Credentials
from clawplane.sandbox.policy import MIB, Limits, Listener, Mount, Overlay, Policy, ReadOnly, Scratch

WORKER: Final = "/worker"
ENVIRONMENT: Final = "/env"
TEMPORARY: Final = "/tmp"  # noqa: S108 - inside the sandbox, the guest's own

SDK: Final = Listener("127.0.0.1", 20086)
PROXY: Final = Listener("127.0.0.1", 6000)
CHROME_WS: Final = "127.0.0.1:6001"
CHROME_HTTP: Final = "127.0.0.1:6002"
CAMOUFOX: Final = "127.0.0.1:6003"
LIGHTPANDA: Final = "127.0.0.1:6004"

GRACE_SECONDS: Final = 10.0
OUTPUT_BYTES: Final = 1024 * MIB
PROCESSES: Final = 512
_TEMPORARY_BYTES: Final = 512 * MIB
_WORKER_BYTES: Final = 512 * MIB

_INNER_NAMES: Final = (
    "proxy-inner",
    "chrome-ws-inner",
    "chrome-http-inner",
    "camoufox-inner",
    "lightpanda-inner",
)
_INNER_DOMAINS: Final = ("coreclaw.com", "cafescraper.com")


@dataclass(frozen=True, slots=True)
class Guest:
    """One subtask's policy, the program it runs, and for Python the environment's site directories inside."""

    policy: Policy
    argv: tuple[str, ...]
    site: tuple[str, ...] = ()

    @property
    def credentials(self) -> Credentials:
        """Return what the proxy asks of this subtask and of nobody else."""
        return Credentials.read(self.policy.environment["PROXY_AUTH"])


@dataclass(frozen=True, slots=True)
class Runtimes:
    """Where this host's interpreters are: node's program, and the trees beyond the system's that each needs."""

    node: str
    node_trees: tuple[Path, ...]
    python_trees: tuple[Path, ...]


def find_runtimes(environ: Mapping[str, str], python: PythonRuntime) -> Runtimes:
    """Find node on the operator's PATH; a host without it runs no Node Workers, and says so when asked to."""
    found = shutil.which("node", path=environ.get("PATH", os.defpath)) or "node"
    program = Path(found)
    trees = {program.parent.parent, program.resolve().parent.parent} if program.is_absolute() else set()
    return Runtimes(
        node=found,
        node_trees=tuple(sorted(tree for tree in trees if not _in_system(tree))),
        python_trees=python.readable,
    )


def _in_system(tree: Path) -> bool:
    return tree == Path("/") or tree == Path("/usr") or tree.is_relative_to("/usr")


def variables(spec: SubtaskSpec) -> dict[str, str]:
    """Return the environment variables of a subtask (see the compatibility notes, section 5.1).

    The proxy's credential is new for every attempt and needs no escaping in a URL.
    """
    credential = f"u{secrets.token_hex(8)}:{secrets.token_urlsafe(24)}"
    gateway = f"ws://{credential}@{CHROME_WS}"
    path = "/usr/local/bin:/usr/bin:/bin"
    found = {
        "PATH": f"{ENVIRONMENT}/bin:{path}" if spec.language == "python" else path,
        "HOME": TEMPORARY,
        "LANG": "C.UTF-8",
        "TMPDIR": TEMPORARY,
        "TMP": TEMPORARY,
        "TEMP": TEMPORARY,
        "PROXY_AUTH": credential,
        "PROXY_DOMAIN": f"{PROXY.host}:{PROXY.port}",
        "ChromeWs": CHROME_WS,
        "ChromeHttp": CHROME_HTTP,
        "CamoufoxDomain": CAMOUFOX,
        "LightpandaDomain": LIGHTPANDA,
        "CDP_ENDPOINT": gateway,
        "BROWSER_WS_ENDPOINT": gateway,
    }
    if spec.language == "python":
        found["PYTHONUNBUFFERED"] = "1"  # what a Worker prints is in its log when it prints it
    return found


def limits(system: RunSystem) -> Limits:
    """Return the bounds that a run's platform parameters ask for."""
    return Limits(
        memory=system.memory * MIB,
        cpus=system.cpus,
        processes=PROCESSES,
        wall=float(system.execute_limit_time_seconds),
        grace=GRACE_SECONDS,
        output=OUTPUT_BYTES,
    )


def names() -> dict[str, str]:
    """Return the host names that published Workers carry in their source; all of them are this loopback."""
    return {f"{name}.{domain}": "127.0.0.1" for domain in _INNER_DOMAINS for name in _INNER_NAMES}


def guest(spec: SubtaskSpec, package: Path, environment: Environment, runtimes: Runtimes) -> Guest:
    """Describe a subtask of a package in its environment."""
    mounts: list[Mount] = [
        Scratch(TEMPORARY, size=_TEMPORARY_BYTES),
        Overlay(str(package), WORKER, size=_WORKER_BYTES),
    ]
    argv: tuple[str, ...]
    site: tuple[str, ...] = ()
    match spec.language:
        case "python":
            mounts += [ReadOnly(str(tree), str(tree)) for tree in runtimes.python_trees]
            mounts.append(ReadOnly(str(environment.path), ENVIRONMENT))
            argv = (f"{ENVIRONMENT}/bin/python", "main.py")
            site = tuple(f"{ENVIRONMENT}/{path.relative_to(environment.path)}" for path in environment.site_directories)
        case "node":
            argv = (runtimes.node, "main.js")
            mounts += [ReadOnly(str(tree), str(tree)) for tree in runtimes.node_trees]
            if environment.node_modules is not None and environment.node_modules.is_dir():
                mounts.append(ReadOnly(str(environment.node_modules), f"{WORKER}/node_modules"))
        case "go":
            argv = ("./main",)
    policy = Policy(
        mounts=tuple(mounts),
        environment=variables(spec),
        working_directory=WORKER,
        limits=limits(spec.system),
        listeners=(SDK, PROXY),
        names=names(),
    )
    return Guest(policy, argv, site)
