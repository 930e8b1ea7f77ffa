"""Decide which files a file task may touch: real paths below real roots, whatever symbolic links say on the way.

`Places.locate` names the file that a task means; `admit` judges a real path. Because a link can be exchanged between
the look and the use, whoever opens something asks `real_path_of` what was really opened and has that judged again.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

BLOCKED: Final = "Path traversal blocked"
_F_GETPATH: Final = 50


class Blocked(Exception):
    """A path lies outside of what this runner allows; `told` is the longer text."""

    def __init__(self, told: str) -> None:
        super().__init__(BLOCKED)
        self.told = told


class Places:
    """Where file tasks may read and write."""

    def __init__(
        self,
        home: Path,
        roots: Sequence[Path] | None,
        *,
        private: Sequence[Path] = (),
        readable: Sequence[Path] = (),
    ) -> None:
        """`roots` None: anywhere. Nothing below `private` is touched, but what lies below `readable` may be read."""
        self.home = home
        self._roots = None if roots is None else [resolved(root) for root in roots]
        self._private = [resolved(each) for each in private]
        self._readable = [resolved(each) for each in readable]

    def locate(self, path: str) -> Path:
        """Return the absolute path a task means: `~/` is the home directory, what is relative begins there."""
        text = path.strip()
        if "\0" in text:
            raise ValueError("path holds a NUL character")
        if text.startswith("~/"):
            text = text[2:].lstrip("/")
        return Path(os.path.normpath(os.path.join(self.home, text)))  # noqa: PTH118 - as text, nothing is looked up

    def admit(self, path: Path, *, writing: bool) -> None:
        """Raise Blocked unless a real path may be used."""
        if any(within(path, each) for each in self._private) and (
            writing or not any(within(path, each) for each in self._readable)
        ):
            raise Blocked(f"{BLOCKED}: {path} belongs to the runner itself")
        if self._roots is not None and not any(within(path, root) for root in self._roots):
            named = ", ".join(str(root) for root in self._roots)
            raise Blocked(f"{BLOCKED}: {path} is outside of {named}")

    def real(self, path: Path, *, writing: bool) -> Path:
        """Return the real path of a file that need not exist; raises Blocked when it may not be used."""
        real = resolved(path)
        self.admit(real, writing=writing)
        return real


def default_roots(home: Path, environment: Mapping[str, str]) -> list[Path]:
    """Return the roots of the contract: home, the system's temporary directory, $TMP, $TEMP, /tmp and /var/tmp."""
    named = [environment.get("TMPDIR"), environment.get("TMP"), environment.get("TEMP")]
    found = [home, Path(tempfile.gettempdir()), *(Path(each) for each in named if each and os.path.isabs(each))]  # noqa: PTH117
    return list(dict.fromkeys([*found, Path("/tmp"), Path("/var/tmp")]))  # noqa: S108 - the contract's own roots


def resolved(path: Path) -> Path:
    """Return a real path: absolute and without symbolic links, as far as it exists."""
    return Path(os.path.realpath(path))


def within(path: Path, root: Path) -> bool:
    """Tell whether a path is a root or lies below it; both are real paths."""
    return path == root or root in path.parents


def real_path_of(descriptor: int, *, platform: str = sys.platform) -> Path | None:
    """Return the path of what is open under a descriptor, as the kernel knows it; None when it does not tell."""
    if platform.startswith("linux"):
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115 - a system call is the subject
    if platform == "darwin":
        return Path(os.fsdecode(fcntl.fcntl(descriptor, _F_GETPATH, bytes(1024)).rstrip(b"\0")))
    return None
