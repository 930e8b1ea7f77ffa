"""Which shell runs commands here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

_LOGIN: Final = frozenset({"bash", "fish", "ksh", "sh", "zsh"})


def find_shell(environment: Mapping[str, str], there: Callable[[str], bool] | None = None) -> str:
    """Return the shell: WORKER_SHELL, zsh, $SHELL, bash, sh, the first that exists."""
    is_there = there or (lambda path: os.access(path, os.X_OK) and Path(path).is_file())
    wanted = environment.get("WORKER_SHELL", "")
    for shell in (wanted, "/bin/zsh", environment.get("SHELL", ""), "/bin/bash"):
        if shell and is_there(shell):
            return shell
    return "/bin/sh"


def shell_argv(shell: str, command: str) -> list[str]:
    """Return the arguments that let a shell run a command: `-l -c` for those that know it, else `-c`."""
    name = os.path.basename(shell)  # noqa: PTH119 - a name, not a file
    return [shell, "-l", "-c", command] if name in _LOGIN else [shell, "-c", command]
