"""Say what the builder needs from whoever can run a command in isolation; it never starts one itself.

The contract of a Launcher, which every step relies on:

* The command sees the host's read-only system directories (/usr, /lib, /bin, the dynamic linker's cache), a private
  /tmp and /dev/shm, and every path of `readable` and `writable` under the very path it has on the host.
* Each `writable` directory, with everything in it, can be written by the user the command runs as, on one mount: hard
  links inside one entry must work.
* Without a gate there is no network at all. With one, the launcher opens a listener on the tree's own loopback,
  serves it with `gate.serving(listener)` for as long as the command lives, and adds `proxy_variables(port)` to the
  environment.
* Nothing but `environment` (and those variables) is in the command's environment.
* When the call is cancelled, the whole process tree is gone before it returns.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Door(Protocol):
    """The only way out of an isolated command: a proxy served on a socket that the command can reach."""

    def serving(self, listener: socket.socket) -> AbstractAsyncContextManager[None]:
        """Serve the listening TCP socket until the context ends; the socket is closed then."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended, as seen from outside.

    exit_code is None when it did not end by itself; reason is then one short sentence such as "killed after 900 s".
    """

    exit_code: int | None
    reason: str = ""


class Launcher(Protocol):
    """Runs one command isolated."""

    async def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        cwd: Path,
        readable: Sequence[Path],
        writable: Sequence[Path],
        gate: Door | None,
        on_output: Callable[[bytes], Awaitable[None]],
    ) -> Outcome:
        """Run `argv` to its end, handing over stdout and stderr in the order they arrive."""
        ...


def proxy_variables(port: int) -> dict[str, str]:
    """Name a gate on 127.0.0.1:`port` to every tool that an installer starts."""
    address = f"http://127.0.0.1:{port}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    variables = {spelling: address for name in names for spelling in (name, name.lower())}
    return variables | {"NO_PROXY": "", "no_proxy": ""}
