"""The host's hands in the directory of a guest: list, read, write, edit, move, delete, archive, measure.

Theory of operation. One O_PATH descriptor stands for the workspace; every access resolves below it (workspace_paths).
Reading may pass links that stay inside; whatever changes something passes none. All system calls happen in threads. A
caller that is cancelled waits for its thread's current call, so that no descriptor is closed under it; long walks are
told to stop. Errors are the domain's and name the field at fault.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterable, Callable
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from clawplane.domain.asks import Edited, Files
from clawplane.domain.errors import ClawplaneError, Conflict, InvalidArgument, TooLarge
from clawplane.domain.sessions import FileEntry
from clawplane.runner.workspace_archive import Pack
from clawplane.runner.workspace_changes import Snapshot, take_snapshot
from clawplane.runner.workspace_drafts import Draft
from clawplane.runner.workspace_edits import replace_text
from clawplane.runner.workspace_paths import (
    Parts,
    describe,
    join,
    look,
    make_directories,
    open_beneath,
    open_directory,
    open_regular,
    parse,
    parse_named,
    told_of,
)
from clawplane.runner.workspace_spill import Spill
from clawplane.runner.workspace_streams import Packing, Reading
from clawplane.runner.workspace_walk import OutOfPatience, Patience, Usage, measure, remove_tree, walk
from clawplane.sandbox import libc

LIST_SECONDS: Final = 10.0
DELETE_SECONDS: Final = 60.0
USAGE_SECONDS: Final = 10.0
MAX_ENTRIES: Final = 2_000_000
_RENAME_NOREPLACE: Final = 1
_INLINE_ENTRIES: Final = 128
"""Up to how many entries a snapshot is taken without a thread: about a quarter of a millisecond."""

_T = TypeVar("_T")


class WorkspaceFiles:
    """One workspace, seen from the host. `max_bytes` and `max_inodes` are its quota; 0 is none."""

    def __init__(
        self, root: Path, *, max_bytes: int = 0, max_inodes: int = 0, executor: Executor | None = None
    ) -> None:
        """Hold the directory `root`, which the runner made and the guest cannot move; raises OSError."""
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._max_bytes, self._max_inodes = max_bytes, max_inodes
        self._executor = executor
        self._usage: Usage | None = None
        self._forgotten = 0
        self._arriving = 0
        """Bytes of drafts under way, and of drafts that landed: two writes cannot both use the last of the quota."""
        self._landed = 0

    def close(self) -> None:
        """Let go of the directory; nothing may be under way."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def let_owner_in(self) -> None:
        """Open the workspace itself to its owner: a guest may have closed it to itself and, as the same user, to us."""
        mode = stat.S_IMODE(os.fstat(self._root).st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            # fchmod takes no O_PATH descriptor; /proc leads to exactly what it holds, never through a name
            os.chmod(f"/proc/self/fd/{self._root}", mode & 0o777 | stat.S_IRWXU)  # noqa: PTH101

    # looking

    async def list_directory(self, path: str = "", *, recursive: bool = False, limit: int = 10_000) -> Files:
        """Return what a directory holds, sorted by path; `more` when that is not all (`limit`, 10 seconds)."""
        parts = parse(path)
        if limit < 1:
            raise InvalidArgument("`limit` must be at least 1.")
        return await self._walk(path, LIST_SECONDS, limit, lambda patience: self._list(parts, recursive, patience))

    async def stat(self, path: str) -> FileEntry:
        """Describe one entry, a link as a link."""
        where = join(parse(path))
        return await self._call(path, lambda: describe(where, look(self._root, where, links=True)))

    async def read(self, path: str, *, offset: int = 0, limit: int | None = None) -> Reading:
        """Open a regular file to be read from `offset`, `limit` bytes of it or all; the caller closes it."""
        parts = parse_named(path)
        if offset < 0 or (limit is not None and limit < 0):
            raise InvalidArgument("`offset` and `limit` must not be negative.")
        descriptor, found = await self._call(
            path,
            lambda: open_regular(self._root, join(parts), os.O_RDONLY, links=True),
            undo=lambda opened: os.close(opened[0]),
        )
        return Reading(partial(self._call, path), descriptor, found.st_size, offset=offset, limit=limit)

    async def archive(self, path: str = "") -> Packing:
        """Pack a directory as a ZIP; links and special files are left out. The caller closes it.

        Raises TooLarge at once for a tree beyond 50,000 entries or 4 GB.
        """
        parts = parse(path)
        pack = await self._walk(
            path, LIST_SECONDS, MAX_ENTRIES, lambda patience: Pack(self._root, parts, patience), undo=Pack.close
        )
        return Packing(partial(self._call, path), pack)

    # changing

    async def write(
        self, path: str, chunks: AsyncIterable[bytes], *, append: bool = False, create_only: bool = False
    ) -> FileEntry:
        """Write a file from chunks; it changes when the last one has come. Missing parents are made.

        Raises InvalidArgument (a link, a special file), Conflict (a directory; there already), TooLarge (quota).
        """
        parts = parse_named(path)
        await self._check_inodes()
        room, taken = await self._room(), 0
        landed, done = self._landed, False
        draft = await self._call(path, lambda: Draft(self._root, parts, create_only=create_only), undo=Draft.close)
        try:
            async for chunk in chunks:
                taken += len(chunk)
                self._arriving += len(chunk)
                if room is not None and self._arriving + self._landed - landed > room:
                    raise self._over_quota()
                await self._call(path, partial(draft.write, chunk))
            entry = await self._call(path, draft.append_to_file if append else draft.publish)
            done = True
            return entry
        finally:
            self._arriving -= taken
            self._landed += taken if done else 0
            self.forget_usage()
            await self._call(path, draft.close)

    async def edit(self, path: str, old: str, new: str, *, everywhere: bool = False) -> Edited:
        """Replace a text that occurs once, or `everywhere`; raises InvalidArgument that says what is wrong with it."""
        parts = parse_named(path)
        room = await self._room()
        edit = partial(replace_text, self._root, parts, old, new, everywhere=everywhere, room=room)
        replaced = await self._call(path, edit)
        self.forget_usage()
        return Edited(replaced=replaced)

    async def delete(self, path: str, *, recursive: bool = False) -> None:
        """Delete a file, a link itself, or with `recursive` a directory and all in it."""
        parts = parse_named(path)
        try:
            await self._walk(
                path, DELETE_SECONDS, MAX_ENTRIES, lambda patience: self._delete(parts, recursive, patience)
            )
        finally:
            self.forget_usage()

    async def make_directory(self, path: str) -> FileEntry:
        """Make a directory and its parents; one that is there is as good."""
        parts = parse_named(path)
        await self._check_inodes()
        entry = await self._call(path, lambda: self._make_directory(parts))
        self.forget_usage()
        return entry

    async def move(self, path: str, to: str) -> FileEntry:
        """Rename an entry; a file may take the place of a file, nothing takes the place of a directory."""
        source, target = parse_named(path), parse_named(to, "to")
        if target[: len(source)] == source:
            raise InvalidArgument("`to` is `path` itself or inside it.")
        return await self._call(path, lambda: self._move(source, target, to))

    # measuring

    async def disk_usage(self) -> Usage:
        """Return what the workspace takes of the disk; remembered until `forget_usage`."""
        if self._usage is not None:
            return self._usage
        forgotten = self._forgotten
        usage = await self._walk("", USAGE_SECONDS, MAX_ENTRIES, lambda patience: measure(self._root, patience))
        if forgotten == self._forgotten:
            self._usage = usage
        return usage

    def forget_usage(self) -> None:
        """Measure again at the next question: the guest has run, or we have written."""
        self._usage = None
        self._forgotten += 1

    async def snapshot(self) -> Snapshot:
        """Return what files there are, to be compared with a later one (`workspace_changes.changes`)."""
        self.let_owner_in()
        small = take_snapshot(self._root, Patience(1.0, _INLINE_ENTRIES))
        if small.complete:
            return small
        return await self._call("", lambda: take_snapshot(self._root))

    def spill(self, path: str, *, after: int, limit: int) -> Spill:
        """Return a file that appears when more than `after` bytes were written to it and takes at most `limit`."""
        return Spill(self._root, parse_named(path), after=after, limit=limit)

    # in threads

    async def _call(self, path: str, function: Callable[[], _T], *, undo: Callable[[_T], object] | None = None) -> _T:
        """Call a blocking function about `path` as `in_thread` does; errors are told of the path."""
        with told_of(path):
            self.let_owner_in()
            return await in_thread(self._executor, function, undo=undo)

    async def _walk(
        self,
        path: str,
        seconds: float,
        entries: int,
        function: Callable[[Patience], _T],
        *,
        undo: Callable[[_T], object] | None = None,
    ) -> _T:
        """Do as `_call`, with a Patience that ends when the caller is cancelled."""
        patience = Patience(seconds, entries)
        with told_of(path):
            self.let_owner_in()
            return await in_thread(self._executor, lambda: function(patience), undo=undo, on_cancel=patience.stop.set)

    def _list(self, parts: Parts, recursive: bool, patience: Patience) -> Files:
        prefix = join(parts) + b"/" if parts else b""
        top = open_directory(self._root, join(parts), links=True)
        found: list[FileEntry] = []
        more = False
        try:
            for each in walk(top, patience, recursive=recursive):
                found.append(describe(prefix + each.path, each.stat))
        except (OutOfPatience, Conflict):
            more = True
        finally:
            os.close(top)
        return Files(files=tuple(sorted(found, key=lambda entry: entry.path)), more=more)

    def _delete(self, parts: Parts, recursive: bool, patience: Patience) -> None:
        parent = open_beneath(self._root, join(parts[:-1]), os.O_PATH | os.O_DIRECTORY)
        try:
            if stat.S_ISDIR(look(parent, parts[-1]).st_mode):
                if not recursive:
                    raise Conflict("`path` is a directory.", hint="Delete it with `recursive`.")
                remove_tree(parent, parts[-1], patience)
            else:
                os.unlink(parts[-1], dir_fd=parent)
        finally:
            os.close(parent)

    def _make_directory(self, parts: Parts) -> FileEntry:
        made = make_directories(self._root, parts)
        try:
            return describe(join(parts), os.fstat(made))
        finally:
            os.close(made)

    def _move(self, source: Parts, target: Parts, to: str) -> FileEntry:
        old = open_beneath(self._root, join(source[:-1]), os.O_PATH | os.O_DIRECTORY)
        try:
            moved = look(old, source[-1])
            with told_of(to, "to"):
                new = make_directories(self._root, target[:-1])
                try:
                    _rename(old, source[-1], new, target[-1], is_directory=stat.S_ISDIR(moved.st_mode))
                finally:
                    os.close(new)
        finally:
            os.close(old)
        return describe(join(target), moved)

    # quota

    async def _room(self) -> int | None:
        if not self._max_bytes:
            return None
        return self._max_bytes - (await self.disk_usage()).bytes

    async def _check_inodes(self) -> None:
        if self._max_inodes and (await self.disk_usage()).inodes >= self._max_inodes:
            raise TooLarge(
                f"The workspace holds its maximum of {self._max_inodes} files and directories.",
                hint="Delete files, or create the session with a larger disk.",
            )

    def _over_quota(self) -> ClawplaneError:
        return TooLarge(
            f"The workspace's quota of {self._max_bytes >> 20} MB does not hold this file.",
            hint="Delete files, or create the session with a larger `disk`.",
        )


def _rename(old: int, name: bytes, new: int, target: bytes, *, is_directory: bool) -> None:
    """Rename without ever replacing a directory, or a file by a directory."""
    try:
        libc.call("renameat2", old, name, new, target, _RENAME_NOREPLACE, what="renameat2")
    except FileExistsError:
        if is_directory or stat.S_ISDIR(look(new, target).st_mode):
            raise
        os.rename(name, target, src_dir_fd=old, dst_dir_fd=new)


async def in_thread(
    executor: Executor | None,
    function: Callable[[], _T],
    *,
    undo: Callable[[_T], object] | None = None,
    on_cancel: Callable[[], object] | None = None,
) -> _T:
    """Call a blocking function in a thread.

    A thread cannot be interrupted, and what it works on must not be closed under it. So a caller that is cancelled
    tells it by `on_cancel`, waits for its end, and gives a result that nobody will take to `undo`.
    """
    future = asyncio.get_running_loop().run_in_executor(executor, function)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled() and future.exception() is None and undo is not None:
            undo(future.result())
        raise
