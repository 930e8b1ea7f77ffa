"""Describe the world of a session: what it sees, what it may use, and what its environment says.

The home directory is the workspace under another name, because programs written for other sandboxes expect it there.
Caches go to the temporary directory, so that they do not count as files of the workspace.
Packages that `pip` installs go below /workspace/.local, where they outlive the sandbox: the interpreter is no virtual
environment, its own site directory is read-only, and pip then installs for the user, whose base is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clawplane.builder.indexes import PackageIndexes
from clawplane.builder.tools import PythonRuntime
from clawplane.domain.sessions import SessionOptions
from clawplane.runner.jobs.guest import Runtimes
from clawplane.sandbox.policy import MIB, Limits, Link, Listener, Mount, Policy, ReadOnly, Scratch, Writable

WORKSPACE: Final = "/workspace"
HOME: Final = "/home/user"
SOCKS: Final = Listener("127.0.0.1", 1080)
HTTP: Final = Listener("127.0.0.1", 3128)
USER_BASE: Final = f"{WORKSPACE}/.local"
_TEMPORARY: Final = "/tmp"  # noqa: S108 - inside the sandbox, the guest's own
_TEMPORARY_BYTES: Final = 512 * MIB
_GRACE_SECONDS: Final = 1.0
_OPEN_FILES: Final = 4096
_LEAST_MEMORY: Final = 64
_MOST_MEMORY: Final = 65_536


@dataclass(frozen=True, slots=True)
class World:
    """What all sessions of one runner have in common.

    indexes: pip's variables for the configured indexes; certificates: files that those name.
    """

    python: PythonRuntime
    runtimes: Runtimes
    indexes: Mapping[str, str]
    certificates: tuple[Path, ...] = ()

    def policy(self, options: SessionOptions, site: Sequence[str], workspace: Path) -> Policy:
        """Return what isolates a session with these options."""
        mounts: list[Mount] = [
            Scratch(_TEMPORARY, size=_TEMPORARY_BYTES),
            Writable(str(workspace), WORKSPACE),
            Link(WORKSPACE, HOME),
        ]
        trees = dict.fromkeys((*self.python.readable, *self.runtimes.node_trees, *self.certificates))
        mounts += [ReadOnly(str(tree), str(tree)) for tree in trees]
        return Policy(
            mounts=tuple(mounts),
            environment=self.environment(options, site),
            working_directory=WORKSPACE,
            limits=limits(options),
            listeners=(SOCKS, HTTP),
            host_name="session",
        )

    def environment(self, options: SessionOptions, site: Sequence[str]) -> dict[str, str]:
        """Return the environment variables of everything in a session, the caller's own last."""
        socks, http = f"socks5h://{SOCKS.host}:{SOCKS.port}", f"http://{HTTP.host}:{HTTP.port}"
        # ALL_PROXY is no SOCKS proxy: clients such as httpx read it whatever they fetch, and fail when they lack SOCKS
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), http)
        proxies |= {"FTP_PROXY": socks, "NO_PROXY": "localhost,127.0.0.1"}
        own = f"{USER_BASE}/bin"
        path = dict.fromkeys([own, str(self.python.executable.parent), "/usr/local/bin", "/usr/bin", "/bin"])
        found = {
            "PATH": ":".join(path),
            "HOME": HOME,
            "LANG": "C.UTF-8",
            "TMPDIR": _TEMPORARY,
            "XDG_CACHE_HOME": f"{_TEMPORARY}/.cache",
            "npm_config_cache": f"{_TEMPORARY}/.npm",
            "PYTHONUSERBASE": USER_BASE,
            "PIP_BREAK_SYSTEM_PACKAGES": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
            "PIP_NO_CACHE_DIR": "1",
            "PIP_USER": "1",
            "MPLBACKEND": "agg",
            "MPLCONFIGDIR": f"{_TEMPORARY}/matplotlib",
            "NODE_USE_ENV_PROXY": "1",
            "GIT_TERMINAL_PROMPT": "0",
            **proxies,
            **{name.lower(): value for name, value in proxies.items()},
            **self.indexes,
        }
        found["PYTHONPATH"] = ":".join((self.user_site, *site))
        return found | options.environment

    @property
    def user_site(self) -> str:
        """Where pip installs to, as the guest sees it."""
        return f"{USER_BASE}/lib/python{self.python.short_version}/site-packages"


def index_variables(indexes: PackageIndexes) -> dict[str, str]:
    """Return what tells pip where packages come from; addresses carry no credentials."""
    found: dict[str, str] = {}
    if indexes.default:
        found["PIP_INDEX_URL"] = indexes.default
    if indexes.extra:
        found["PIP_EXTRA_INDEX_URL"] = " ".join(indexes.extra)
    if indexes.insecure_hosts:
        found["PIP_TRUSTED_HOST"] = " ".join(indexes.insecure_hosts)
    if indexes.certificates:
        found["PIP_CERT"] = str(indexes.certificates)
    return found


def certificates_of(indexes: PackageIndexes) -> tuple[Path, ...]:
    """Return the files of certificates that a session needs to speak to the configured indexes."""
    return (indexes.certificates,) if indexes.certificates else ()


def limits(options: SessionOptions) -> Limits:
    """Return the bounds that a session's options ask for."""
    return Limits(
        memory=min(max(options.memory, _LEAST_MEMORY), _MOST_MEMORY) * MIB,
        cpus=options.cpus or None,
        processes=options.processes or None,
        wall=None,
        grace=_GRACE_SECONDS,
        output=None,
        open_files=_OPEN_FILES,
        file_size=options.disk * MIB or None,
    )


def stands_in(wanted: SessionOptions, ready: SessionOptions) -> bool:
    """Tell whether a sandbox made for `ready` can be given to a session that wants `wanted`."""
    return wanted.workspace is None and all(
        getattr(wanted, name) == getattr(ready, name)
        for name in ("profile", "memory", "cpus", "processes", "disk", "environment")
    )
