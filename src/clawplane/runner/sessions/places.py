"""Where sessions are on the runner's disk, and what is remembered of them between two lives.

    sessions/ID/meta          the record of a session, written by one rename
    sessions/ID/saved         its variables, when they were saved
    unnamed/NUMBER            what a session sees as /workspace, when its workspace has no name
    workspaces/OWNER/NAME     named workspaces; they outlive every session

A ready sandbox has its workspace before it has a session, and a branch lives in its parent's; so an unnamed workspace
belongs to the sessions whose records name it, and is removed with the last of them. Ids and names become parts of paths
only after they were matched against a pattern.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from clawplane.builder.tree import remove
from clawplane.domain.errors import InvalidArgument
from clawplane.domain.sessions import SessionOptions

_META: Final = "meta"
_SAVED: Final = "saved"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._~-]{0,127}")


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of a session; times in ms, `workspace` relative to the places' root."""

    session: str
    owner: str
    options: SessionOptions
    workspace: str
    saved: bool = False
    alive: bool = False
    """It lives; whoever reads this after its life finds that it ended without notice."""
    names: tuple[str, ...] = ()
    """What its interpreter held when that was last asked, so that a loss can be told by name."""
    exec_count: int = 0
    expires_at: int | None = None


class Places:
    """The directories of all sessions below one root, which belongs to this runner alone."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sessions = root / "sessions"
        self._workspaces = root / "workspaces"
        self._unnamed = root / "unnamed"
        self._numbers = itertools.count(1)
        for directory in (self._sessions, self._workspaces, self._unnamed):
            directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._homes = {each.session: each.workspace for each in self._all()}
        """Session -> workspace, as the records say."""

    def path(self, workspace: str) -> Path:
        """Return where a workspace is that a record names."""
        return self._root / workspace

    def saved(self, session: str) -> Path:
        """Return the file that holds a session's saved variables."""
        return self._session(session) / _SAVED

    def named(self, owner: str, name: str) -> str:
        """Make a named workspace if it is not there, and return what a record calls it."""
        return self._made(self._named(owner, name))

    def unnamed(self) -> str:
        """Make a workspace for one session, and return what a record calls it."""
        return self._made(self._unnamed / f"{next(self._numbers)}-{os.urandom(6).hex()}")

    def discard(self, workspace: str) -> None:
        """Remove an unnamed workspace that no record names."""
        path = self.path(workspace)
        if path.parent == self._unnamed and path.exists() and workspace not in self._used():
            remove(path)

    def forget_named(self, owner: str, name: str) -> None:
        """Remove a named workspace; absent is fine. Nobody may use it."""
        path = self._named(owner, name)
        if path.exists():
            remove(path)

    def write(self, kept: Kept) -> None:
        """Remember a session."""
        directory = self._session(kept.session)
        directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        fresh = directory / f"{_META}.new"
        fresh.write_bytes(msgspec.json.encode(kept))
        fresh.rename(directory / _META)
        self._homes[kept.session] = kept.workspace

    def read(self, session: str) -> Kept | None:
        """Return what is remembered of a session."""
        try:
            return msgspec.json.decode((self._session(session) / _META).read_bytes(), type=Kept)
        except (OSError, msgspec.MsgspecError):
            return None

    def forget(self, session: str) -> None:
        """Remove what belongs to a session, its workspace too unless that has a name or another session uses it."""
        kept = self.read(session)
        directory = self._session(session)
        if directory.exists():
            remove(directory)
        self._homes.pop(session, None)
        if kept is not None:
            self.discard(kept.workspace)

    def sweep(self, now: int) -> list[str]:
        """Remove what nobody can ask for any more: expired sessions, workspaces without one; returns who is kept."""
        for session in self.expired(now):
            self.forget(session)
        kept = {each.session for each in self._all()}
        for directory in list(self._sessions.iterdir()):
            if directory.name not in kept:
                remove(directory)
        for directory in list(self._unnamed.iterdir()):
            self.discard(self._called(directory))
        return sorted(kept)

    def expired(self, now: int) -> list[str]:
        """Return the sessions whose time is over."""
        return [each.session for each in self._all() if each.expires_at is not None and each.expires_at <= now]

    def _all(self) -> Iterator[Kept]:
        for directory in self._sessions.iterdir():
            if _NAME.fullmatch(directory.name) and (found := self.read(directory.name)) is not None:
                yield found

    def _used(self) -> set[str]:
        return set(self._homes.copy().values())  # other threads write and forget meanwhile

    def _made(self, directory: Path) -> str:
        directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        return self._called(directory)

    def _called(self, directory: Path) -> str:
        return str(directory.relative_to(self._root))

    def _named(self, owner: str, name: str) -> Path:
        return self._workspaces / _checked("owner", owner) / _checked("workspace", name)

    def _session(self, session: str) -> Path:
        return self._sessions / _checked("session", session)


def _checked(what: str, name: str) -> str:
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidArgument(
            f"{what} cannot be part of a path: {name!r}.",
            hint="Use up to 128 letters, digits, dots, dashes and underscores.",
        )
    return name
