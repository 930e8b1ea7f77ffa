"""A session's workspace from outside: every operation is asked of the runner, which alone touches the files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final, TypeVar

import msgspec

from clawplane.domain import asks
from clawplane.domain.errors import StaleLease
from clawplane.domain.runner_asks import REFUSED
from clawplane.domain.session_ports import Conversation
from clawplane.domain.sessions import FileEntry, Session
from clawplane.flows.session_places import SessionPlaces

A = TypeVar("A", bound=msgspec.Struct)

_TRIES: Final = 3


class FileStream:
    """A file, or an archive, on its way; `first` is its beginning, so that errors are known before anything is sent."""

    def __init__(self, asked: Conversation, first: bytes, end: asks.Read | None) -> None:
        self._asked = asked
        self._first = first
        self._end = end

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes; a caller that stops early tells the runner."""
        try:
            if self._first:
                yield self._first
            if self._end is None:
                async for chunk in self._asked:
                    yield chunk
                await self.end()
        finally:
            self._asked.withdraw()

    async def end(self) -> asks.Read:
        """Return how much was sent, and how large the file is; after all chunks were read."""
        if self._end is None:
            self._end = msgspec.msgpack.decode(await self._asked.answer(), type=asks.Read)
        return self._end


class SessionFiles:
    """The files of one session."""

    def __init__(self, session: Session, places: SessionPlaces) -> None:
        self.session = session
        self._places = places
        self._tries = 0

    async def list(self, question: asks.ListFiles) -> asks.Files:
        """List a directory."""
        return await self._ask("list", question, asks.Files)

    async def stat(self, path: str) -> FileEntry:
        """Describe one entry."""
        return await self._ask("stat", asks.StatFile(path=path), FileEntry)

    async def edit(self, question: asks.EditFile) -> asks.Edited:
        """Replace a string in a file."""
        return await self._ask("edit", question, asks.Edited)

    async def delete(self, path: str, *, recursive: bool) -> None:
        """Delete a file or a directory."""
        await self._ask("delete", asks.DeleteFile(path=path, recursive=recursive), asks.Nothing)

    async def make_directory(self, path: str) -> FileEntry:
        """Make a directory and its parents."""
        return await self._ask("make_directory", asks.MakeDirectory(path=path), FileEntry)

    async def move(self, path: str, to: str) -> FileEntry:
        """Rename within the workspace."""
        return await self._ask("move", asks.MoveFile(path=path, to=to), FileEntry)

    async def read(self, path: str, *, offset: int = 0, limit: int | None = None) -> FileStream:
        """Open a part of a file."""
        return await self._open("read", asks.ReadFile(path=path, offset=offset, limit=limit))

    async def archive(self, path: str = "") -> FileStream:
        """Open a directory as a ZIP."""
        return await self._open("archive", asks.Archive(path=path))

    async def write(self, question: asks.WriteFile, chunks: AsyncIterator[bytes]) -> FileEntry:
        """Write a file; nothing changes when `chunks` fail."""
        async with self._places.in_words(self.session):
            asked = await self._conversation("write", question)
            try:
                async for chunk in chunks:
                    if chunk:
                        await asked.feed(chunk)
                await asked.feed(b"", last=True)
                return msgspec.msgpack.decode(await asked.answer(), type=FileEntry)
            finally:
                asked.withdraw()

    async def _open(self, method: str, question: msgspec.Struct) -> FileStream:
        async with self._places.in_words(self.session):
            return await self._opened(method, question)

    async def _opened(self, method: str, question: msgspec.Struct) -> FileStream:
        while True:
            asked = await self._conversation(method, question)
            try:
                first = await anext(aiter(asked), b"")
                end = None if first else msgspec.msgpack.decode(await asked.answer(), type=asks.Read)
                return FileStream(asked, first, end)
            except StaleLease as error:
                await self._retry(error)
            except BaseException:
                asked.withdraw()
                raise

    async def _ask(self, method: str, question: msgspec.Struct, answer: type[A]) -> A:
        async with self._places.in_words(self.session):
            return await self._answer(method, question, answer)

    async def _answer(self, method: str, question: msgspec.Struct, answer: type[A]) -> A:
        while True:
            asked = await self._conversation(method, question)
            try:
                return msgspec.msgpack.decode(await asked.answer(), type=answer)
            except StaleLease as error:
                await self._retry(error)
            finally:
                asked.withdraw()

    async def _conversation(self, method: str, question: msgspec.Struct) -> Conversation:
        place = await self._places.reach(self.session)
        self.session = place.session
        return place.ask(method, question)

    async def _retry(self, error: StaleLease) -> None:
        """Raise the error unless nothing was done: then the session's next life is asked."""
        if REFUSED not in error.details:
            raise error
        if self._tries >= _TRIES:
            raise error
        self._tries += 1
        await self._places.departed(self.session)
