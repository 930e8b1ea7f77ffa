"""Read an upload: a multipart form, or a bare ZIP with its fields in the query. The file goes to disk as it comes.

What arrives is bounded by the edge (bytes, seconds); here the number and size of the fields are. The file is hashed on
its way, so that no byte of it is read twice before the checks.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from clawplane.api.calls import Call
from clawplane.domain.errors import InvalidSchema, StoreFull, TooLarge
from clawplane.flows.packages import Details, Spooled

_FLUSH: Final = 1 << 20
_MAX_FIELD: Final = 64 * 1024
_MAX_FIELDS: Final = 64
_MAX_HEADER: Final = 8 * 1024
_MAX_CATEGORY: Final = 2**31 - 1


@dataclass(slots=True)
class Upload:
    """A form as it arrived: text fields, and the file if there was one."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    file: Spooled | None = None

    def first(self, name: str) -> str | None:
        """Return a field's first value, None when it is absent."""
        values = self.fields.get(name)
        return values[0] if values else None

    def package(self) -> Spooled:
        """Return the file; raises InvalidSchema when there is none."""
        if self.file is None:
            raise InvalidSchema("scraper_file: the form holds no file.", hint="Send the ZIP as `scraper_file`.")
        return self.file

    def details(self) -> Details:
        """Return what the form says of its Worker; raises InvalidSchema."""
        categories = None
        if "categories" in self.fields:
            parts = [part.strip(" []") for value in self.fields["categories"] for part in value.split(",")]
            if not all(_is_category(part) for part in parts if part):
                raise InvalidSchema("categories: invalid integer.", hint="Send one integer per `categories` field.")
            categories = tuple(int(part) for part in parts if part)
        return Details(
            title=self.first("title"),
            description=self.first("description"),
            categories=categories,
            icon=self.first("icon"),
        )


def _is_category(text: str) -> bool:
    # the length first: Python refuses to read an integer of thousands of digits
    return len(text) <= 10 and text.isascii() and text.isdecimal() and int(text) <= _MAX_CATEGORY


@asynccontextmanager
async def upload_of(call: Call) -> AsyncIterator[Upload]:
    """Yield what a request uploads; the file is removed when the block ends."""
    media, options = parse_options_header(call.request.headers.get("content-type", ""))
    spool = _Spool(call.flows.spool)
    try:
        if media == b"multipart/form-data":
            yield await _read_form(call, options.get(b"boundary", b""), spool)
        elif media in (b"application/zip", b"application/octet-stream", b"application/x-zip-compressed"):
            fields = {name: call.request.query_params.getlist(name) for name in call.request.query_params}
            async for chunk in call.request.stream():
                await spool.write(chunk)
            yield Upload(fields, await spool.finish())
        else:
            raise InvalidSchema(
                "The request body is neither multipart/form-data nor a ZIP.",
                hint="Send a form with the field `scraper_file`, or the ZIP itself as application/zip.",
            )
    finally:
        spool.remove()


class _Spool:
    """A file on disk that grows in large steps, off the event loop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pending = bytearray()
        self._hash = hashlib.sha256()
        self._size = 0
        self._descriptor: int | None = None
        self._path: Path | None = None

    async def write(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) >= _FLUSH:
            await self._flush()

    async def finish(self) -> Spooled:
        await self._flush()
        if self._path is None:
            raise AssertionError("a flushed spool has a file")
        return Spooled(self._path, self._hash.hexdigest(), self._size)

    def remove(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    async def _flush(self) -> None:
        data, self._pending = bytes(self._pending), bytearray()
        try:
            await asyncio.to_thread(self._append, data)
        except OSError as error:
            raise StoreFull(f"The upload cannot be kept: {error.strerror}.") from None

    def _append(self, data: bytes) -> None:
        if self._descriptor is None:
            self._descriptor, name = tempfile.mkstemp(prefix="upload-", dir=self._directory)
            self._path = Path(name)
        self._hash.update(data)
        self._size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]


class _Form:
    """The parser's callbacks: collects fields, queues the file's bytes until they are written."""

    def __init__(self) -> None:
        self.fields: dict[str, list[str]] = {}
        self.queued = bytearray()
        self.has_file = False
        self.ended = False
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._header_value = b""
        self._name: str | None = None
        self._text = bytearray()
        self._in_file = False

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]
        self._check_header()

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        self._check_header()

    def on_header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._headers = {}
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._in_file = b"filename" in options
        if self._in_file and self.has_file:
            raise InvalidSchema("The form holds two files.", hint="Send one ZIP as `scraper_file`.")
        self.has_file = self.has_file or self._in_file

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self.queued += data[start:end]
            return
        self._text += data[start:end]
        if len(self._text) > _MAX_FIELD:
            raise TooLarge(f"{self._name}: the form field is larger than {_MAX_FIELD} bytes.", hint="Shorten it.")

    def on_part_end(self) -> None:
        if not self._in_file and self._name is not None:
            self.fields.setdefault(self._name, []).append(self._text.decode("utf-8", "replace"))
            if sum(map(len, self.fields.values())) > _MAX_FIELDS:
                raise InvalidSchema(f"The form holds more than {_MAX_FIELDS} fields.")
        self._text = bytearray()
        self._name = None

    def on_end(self) -> None:
        self.ended = True

    def _check_header(self) -> None:
        if len(self._header_name) + len(self._header_value) > _MAX_HEADER or len(self._headers) > _MAX_FIELDS:
            raise InvalidSchema("A part of the form has too large headers.")


async def _read_form(call: Call, boundary: bytes, spool: _Spool) -> Upload:
    form = _Form()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_header_field": form.on_header_field,
                "on_header_value": form.on_header_value,
                "on_header_end": form.on_header_end,
                "on_headers_finished": form.on_headers_finished,
                "on_part_data": form.on_part_data,
                "on_part_end": form.on_part_end,
                "on_end": form.on_end,
            },
        )
        async for chunk in call.request.stream():
            parser.write(chunk)
            if form.queued:
                await spool.write(bytes(form.queued))
                form.queued.clear()
        parser.finalize()
    except FormParserError as error:
        raise InvalidSchema(f"The form cannot be read: {error}", hint="Send multipart/form-data.") from None
    if not form.ended:
        raise InvalidSchema("The form ends before its last boundary.", hint="Send it again.")
    return Upload(form.fields, await spool.finish() if form.has_file else None)
