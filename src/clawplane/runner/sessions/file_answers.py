"""Answer questions about the files of a workspace; the interpreter is not disturbed, and need not even be awake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

import msgspec

from clawplane.domain.asks import (
    METHODS,
    Archive,
    DeleteFile,
    EditFile,
    ListFiles,
    MakeDirectory,
    MoveFile,
    Nothing,
    Read,
    ReadFile,
    StatFile,
    WriteFile,
)
from clawplane.domain.errors import ClawplaneError, InternalError, InvalidArgument, Unavailable
from clawplane.domain.runner_asks import REFUSED
from clawplane.link.asking import Asking, Withdrawal
from clawplane.runner.workspace_files import WorkspaceFiles

FILE_METHODS: Final = frozenset(
    {"list", "stat", "read", "archive", "write", "edit", "delete", "make_directory", "move"}
)
CHANGING: Final = frozenset({"write", "edit", "delete", "make_directory", "move"})
_AT_ONCE: Final = 8
_MOST_WAITING: Final = 64


def decode(asking: Asking) -> Any:
    """Return what a question asks; raises InvalidArgument."""
    try:
        return msgspec.msgpack.decode(asking.body, type=METHODS[asking.method][0])
    except msgspec.MsgspecError as error:
        raise InvalidArgument(f"The runner cannot read the question {asking.method}: {error}.") from None


async def answered(asking: Asking, work: Awaitable[msgspec.Struct]) -> None:
    """Answer a question with what `work` comes to; a caller who leaves ends it."""
    try:
        asking.answer(msgspec.msgpack.encode(await work))
    except ClawplaneError as error:
        asking.fail(error)
    except Withdrawal:
        return
    except Exception:
        asking.fail(InternalError("The runner failed by a defect; its log has the details."))
        raise


class FileAnswers:
    """The file questions of one session.

    `changed` is called after a change, before it is answered; `used` after every question.
    """

    def __init__(self, files: WorkspaceFiles, changed: Callable[[], None], used: Callable[[], None]) -> None:
        self._files = files
        self._changed = changed
        self._used = used
        self._asked: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._answers: dict[str, Callable[[Asking, Any], Awaitable[msgspec.Struct]]] = {
            "list": self._list,
            "stat": self._stat,
            "read": self._read,
            "archive": self._archive,
            "write": self._write,
            "edit": self._edit,
            "delete": self._delete,
            "make_directory": self._make_directory,
            "move": self._move,
        }

    def start(self, asking: Asking) -> None:
        """Answer one question, beside others but at most a few of them at a time; raises Unavailable."""
        if len(self._asked) >= _MOST_WAITING:
            raise Unavailable("Too many file operations wait for this session.", details=(REFUSED,))
        task = asyncio.create_task(self._answer(asking))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def end(self) -> None:
        """Leave all questions alone that are not answered."""
        for task in list(self._asked):
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)

    async def _answer(self, asking: Asking) -> None:
        async with self._turns:
            working = asyncio.create_task(answered(asking, self._work(asking)))
            leaving = asyncio.create_task(asking.withdrawn.wait())
            try:
                await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()
                working.cancel()
                await asyncio.gather(working, leaving, return_exceptions=True)
        self._used()

    async def _work(self, asking: Asking) -> msgspec.Struct:
        try:
            return await self._answers[asking.method](asking, decode(asking))
        finally:
            if asking.method in CHANGING:
                self._changed()

    async def _list(self, _: Asking, what: ListFiles) -> msgspec.Struct:
        return await self._files.list_directory(what.path, recursive=what.recursive, limit=what.limit)

    async def _stat(self, _: Asking, what: StatFile) -> msgspec.Struct:
        return await self._files.stat(what.path)

    async def _read(self, asking: Asking, what: ReadFile) -> msgspec.Struct:
        async with await self._files.read(what.path, offset=what.offset, limit=what.limit) as reading:
            await _tell(asking, reading)
            return Read(sent=reading.sent, size=reading.size)

    async def _archive(self, asking: Asking, what: Archive) -> msgspec.Struct:
        async with aclosing(await self._files.archive(what.path)) as chunks:
            sent = await _tell(asking, chunks)
        return Read(sent=sent, size=sent)

    async def _write(self, asking: Asking, what: WriteFile) -> msgspec.Struct:
        return await self._files.write(what.path, asking.feed, append=what.append, create_only=what.create_only)

    async def _edit(self, _: Asking, what: EditFile) -> msgspec.Struct:
        return await self._files.edit(what.path, what.old, what.new, everywhere=what.everywhere)

    async def _delete(self, _: Asking, what: DeleteFile) -> msgspec.Struct:
        await self._files.delete(what.path, recursive=what.recursive)
        return Nothing()

    async def _make_directory(self, _: Asking, what: MakeDirectory) -> msgspec.Struct:
        return await self._files.make_directory(what.path)

    async def _move(self, _: Asking, what: MoveFile) -> msgspec.Struct:
        return await self._files.move(what.path, what.to)


async def _tell(asking: Asking, chunks: AsyncIterable[bytes]) -> int:
    sent = 0
    async for chunk in chunks:
        if asking.done:
            break
        await asking.tell(chunk)
        sent += len(chunk)
    return sent
