"""What programs of host tasks find in their environment: the runner's own, less its secrets (10.10 of the contract)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Final

from clawplane.domain.errors import InvalidArgument

SECRETS: Final = frozenset(
    {"WORKER_TOKEN", "CALLBACK_BOT_TOKEN", "DISCORD_BOT_TOKEN", "OPENCLAW_HOOKS_TOKEN", "MAC_WORKER_TOKEN"}
)
_OURS: Final = ("CLAWPLANE_", "WORKER_TOKEN_", "WORKER_CLIENT_TOKEN", "WORKER_RUNNER_TOKEN", "WORKER_ADMIN_TOKEN")
_NOT_INHERITED: Final = frozenset({"CLAUDECODE", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"})
"""The nesting guard of Claude Code, and what a supervisor told the runner alone."""
_SECRET_WORDS: Final = ("TOKEN", "KEY", "SECRET", "UPSTREAMS")
PLATFORM_PATH: Final = ("/usr/local/bin", "/opt/homebrew/bin")
_BARE_PATH: Final = ("/usr/bin", "/bin")
_SHORTEST_SECRET: Final = 8


def child_environment(base: Mapping[str, str], *, home: Path, secrets: Iterable[str] = ()) -> dict[str, str]:
    """Return the environment of every child: `base` less secrets, with PATH, HOME and TERM.

    A variable goes by its name, or because its value is one of `secrets`, under whatever name.
    """
    values = {each for each in secrets if len(each) >= _SHORTEST_SECRET}
    kept = {
        name: value
        for name, value in base.items()
        if name not in SECRETS
        and name not in _NOT_INHERITED
        and not name.startswith(_OURS)
        and not any(secret in value for secret in values)
    }
    kept["HOME"] = str(home)
    kept["PATH"] = extended_path(kept.get("PATH", ""))
    kept.setdefault("TERM", "xterm-256color")
    return kept


def wipe_secrets(environ: MutableMapping[str, str] = os.environ) -> None:
    """Forget this process's own secret variables, also where /proc/PID/environ shows how it was started.

    Every process of the same user can read that; a host task is one. Call it when the values have been read.
    """
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    for name in [name for name in environ if is_secret(name)]:
        address = libc.getenv(os.fsencode(name))
        if address:
            ctypes.memset(address, 0, len(ctypes.string_at(address)))
        del environ[name]


def is_secret(name: str) -> bool:
    """Tell whether a variable of this name holds a secret of the runner's."""
    return name in SECRETS or (name.startswith(_OURS) and any(word in name for word in _SECRET_WORDS))


def extended_path(path: str) -> str:
    """Return PATH with the platform's directories behind its own, each once, no empty one (which means "here")."""
    own = [each for each in path.split(os.pathsep) if each]
    return os.pathsep.join(dict.fromkeys([*(own or _BARE_PATH), *PLATFORM_PATH]))


def with_task_variables(environment: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    """Return an environment with a task's own variables; raises InvalidArgument for what no environment can hold."""
    for name, value in added.items():
        if not name or "=" in name or "\0" in name:
            raise InvalidArgument(f"env: {name[:80]!r} is no name of a variable.")
        if "\0" in value:
            raise InvalidArgument(f"env: the value of {name[:80]} holds a NUL character.")
    return {**environment, **added}
