"""File contents over plain HTTP: read one, or write some, as a form or as the bytes themselves.

Nothing is held in memory whole: bytes go to the workspace as they come, and a file changes when its last byte came. The
edge bounds what arrives; what a compressed body becomes is bounded here.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.responses import Response

from clawplane.api.calls import raw_query
from clawplane.api.e2b import paths
from clawplane.api.e2b.answers import as_json, nothing
from clawplane.api.e2b.gate import Visit
from clawplane.api.e2b.sessions import Stream
from clawplane.api.replies import ClosingStream
from clawplane.domain.asks import WriteFile
from clawplane.domain.errors import InvalidArgument, TooLarge
from clawplane.domain.sessions import FileEntry

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_EXPANDED: Final = 512 << 20
_CHUNK: Final = 64 << 10
_MAX_FILES: Final = 1000
_MAX_HEADER: Final = 16 << 10


async def health(visit: Visit) -> Response:
    """Say that the sandbox lives; who asks was let in, so it does."""
    return nothing()


async def read_file(visit: Visit) -> Response:
    """Stream a file."""
    query = visit.request.query_params
    paths.check_user(query.get("username", ""))
    path = paths.named(raw_query(visit.request, "path"))
    stream = await (await visit.files()).read(path)
    return ClosingStream(_chunks(stream), media_type="application/octet-stream")


async def write_files(visit: Visit) -> Response:
    """Write what the body holds; the answer names the files."""
    query = visit.request.query_params
    paths.check_user(query.get("username", ""))
    media, options = parse_options_header(visit.request.headers.get("content-type", ""))
    if media == b"multipart/form-data":
        written = await _write_form(visit, options.get(b"boundary", b""))
    else:
        body = _expanded(visit) if visit.request.headers.get("content-encoding") == "gzip" else _body(visit)
        async with aclosing(body):
            written = [await _write(visit, paths.named(raw_query(visit.request, "path")), body)]
    return as_json([{"name": _name(entry), "type": "file", "path": _path(entry)} for entry in written])


async def _chunks(stream: Stream) -> AsyncGenerator[bytes, None]:
    chunks = stream.chunks()
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


async def _write(visit: Visit, path: str, chunks: AsyncIterator[bytes]) -> FileEntry:
    files = await visit.files()
    parent = path.rpartition("/")[0]
    if parent:
        await files.make_directory(parent)
    return await files.write(WriteFile(path=path), chunks)


async def _body(visit: Visit) -> AsyncGenerator[bytes, None]:
    async for chunk in visit.request.stream():
        for begin in range(0, len(chunk), _CHUNK):
            yield chunk[begin : begin + _CHUNK]


async def _expanded(visit: Visit) -> AsyncGenerator[bytes, None]:
    """Yield a gzip body's contents, never more than a chunk at once."""
    expander = zlib.decompressobj(wbits=31)
    size = 0
    try:
        async for chunk in visit.request.stream():
            pending = chunk
            while pending and not expander.eof:
                piece = expander.decompress(pending, _CHUNK)
                pending = expander.unconsumed_tail
                size += len(piece)
                if size > MAX_EXPANDED:
                    raise TooLarge(f"The body expands to more than {MAX_EXPANDED} bytes.", hint="Send less.")
                yield piece
        while not expander.eof and (piece := expander.decompress(b"", _CHUNK)):
            yield piece
    except zlib.error:
        raise InvalidArgument("The body is no gzip.", hint="Send it as it is, without Content-Encoding.") from None
    if not expander.eof:
        raise InvalidArgument("The gzip body ends before its end.", hint="Send it again.")


class _Form:
    """The parser's callbacks: what happens in a form, in order, as (kind, data)."""

    def __init__(self) -> None:
        self.happened: list[tuple[str, bytes]] = []
        self.ended = False
        self._headers: dict[bytes, bytes] = {}
        self._name = b""
        self._value = b""
        self._size = 0

    def callbacks(self) -> MultipartCallbacks:
        """Return the callbacks by the names that the parser knows."""
        return {
            "on_header_field": self._on_name,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers,
            "on_part_data": lambda data, start, end: self.happened.append(("data", data[start:end])),
            "on_part_end": lambda: self.happened.append(("end", b"")),
            "on_end": self._on_end,
        }

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]
        self._count(end - start)

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._count(end - start)

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > _MAX_HEADER:
            raise InvalidArgument("A part of the form has too large headers.")

    def _on_header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._headers, self._size = {}, 0
        if options.get(b"name") != b"file":
            raise InvalidArgument("The form has a field that is no `file`.", hint="Send files as `file`.")
        self.happened.append(("file", options.get(b"filename", b"")))

    def _on_end(self) -> None:
        self.ended = True


async def _write_form(visit: Visit, boundary: bytes) -> list[FileEntry]:
    """Write the files of a form one after the other; a file's name there is its path, unless the query has the path."""
    written: list[FileEntry] = []
    writing: _Writing | None = None
    try:
        async for kind, data in _parts(visit, boundary):
            if kind == "file":
                if len(written) >= _MAX_FILES:
                    raise InvalidArgument(f"The form holds more than {_MAX_FILES} files.", hint="Send several forms.")
                path = raw_query(visit.request, "path") or data.decode("utf-8", "surrogateescape")
                writing = _Writing(visit, paths.named(path))
            elif writing is None:
                raise InvalidArgument("The form has contents outside of its files.")
            elif kind == "data":
                await writing.feed(data)
            else:
                written.append(await writing.end())
                writing = None
    finally:
        if writing is not None:
            await writing.cancel()
    if not written:
        raise InvalidArgument("The form holds no file.", hint="Send one as `file`.")
    return written


async def _parts(visit: Visit, boundary: bytes) -> AsyncGenerator[tuple[str, bytes], None]:
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in visit.request.stream():
            parser.write(chunk)
            happened, form.happened = form.happened, []
            for item in happened:
                yield item
        parser.finalize()
    except FormParserError as error:
        raise InvalidArgument(f"The form cannot be read: {error}", hint="Send multipart/form-data.") from None
    if not form.ended:
        raise InvalidArgument("The form ends before its last boundary.", hint="Send it again.")


class _Writing:
    """One file that is fed piece by piece while it is written."""

    def __init__(self, visit: Visit, path: str) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(maxsize=4)
        self._task = asyncio.create_task(_write(visit, path, self._chunks()))

    async def feed(self, data: bytes) -> None:
        """Hand over a piece; waits while the file takes none, raises the file's error."""
        await self._hand_over(data)

    async def end(self) -> FileEntry:
        """Return the file when it is written."""
        await self._hand_over(None)
        return await self._task

    async def cancel(self) -> None:
        """Write nothing."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        while (piece := await self._pieces.get()) is not None:
            yield piece

    async def _hand_over(self, piece: bytes | None) -> None:
        putting = asyncio.create_task(self._pieces.put(piece))
        try:
            await asyncio.wait({putting, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
        if self._task.done() and not putting.done():
            self._task.result()
            raise InvalidArgument("The file was closed before its end.")


def _path(entry: FileEntry) -> str:
    return paths.outer(paths.inner(entry.path))


def _name(entry: FileEntry) -> str:
    return entry.path.rpartition("/")[2]
