"""Which shell runs commands here, and how programs are found and started on Windows: pure functions."""

from __future__ import annotations

import ntpath
import os
from collections.abc import Callable, Mapping, Sequence
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


def find_windows_shell(environment: Mapping[str, str]) -> str:
    """Return the shell on Windows: WORKER_SHELL, else ComSpec."""
    return environment.get("WORKER_SHELL") or environment.get("ComSpec") or r"C:\Windows\System32\cmd.exe"


def windows_argv(shell: str, command: str) -> list[str]:
    """Return the arguments for a command on Windows, for PowerShell or cmd."""
    name = ntpath.splitext(ntpath.basename(shell))[0].lower()
    if name in ("powershell", "pwsh"):
        return [shell, "-NoLogo", "-NoProfile", "-Command", command]
    return [shell, "/d", "/s", "/c", command]


def find_on_windows(
    name: str, path: Sequence[str], there: Callable[[str], bool], extensions: str = ".COM;.EXE;.BAT;.CMD"
) -> str | None:
    """Return the file that a name means on Windows, npm's `.cmd` shims included; None when there is none."""
    endings = [ending.lower() for ending in extensions.split(";") if ending]
    directories = [""] if ntpath.dirname(name) else [each for each in path if each]
    has_ending = ntpath.splitext(name)[1].lower() in endings
    for directory in directories:
        for ending in [""] if has_ending else endings:
            candidate = ntpath.join(directory, name + ending)
            if there(candidate):
                return candidate
    return None


def windows_program(file: str, arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return argv for a file found on Windows: a batch file is run by cmd, with every argument quoted for it.

    Raises ValueError for arguments that cmd would interpret even within quotes.
    """
    if ntpath.splitext(file)[1].lower() not in (".cmd", ".bat"):
        return [file, *arguments]
    for each in arguments:
        if any(character in each for character in '"%!\r\n\0'):
            raise ValueError("an argument holds a character that a batch file cannot be given safely")
    line = " ".join(f'"{each}"' for each in (file, *arguments))
    return [environment.get("ComSpec") or r"C:\Windows\System32\cmd.exe", "/d", "/s", "/c", f'"{line}"']
