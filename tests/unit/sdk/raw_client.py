"""A gRPC client that can misbehave: frames by hand over a plain socket."""

import asyncio
import contextlib
import struct
from dataclasses import dataclass

from hpack import Decoder, Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def message(text: bytes) -> bytes:
    """A `Data` or `LogBody` behind its gRPC prefix."""
    size = len(text)
    varint = bytearray()
    while size > 127:
        varint.append(size & 127 | 128)
        size >>= 7
    body = b"\x0a" + bytes([*varint, size]) + text
    return b"\0" + struct.pack(">I", len(body)) + body


@dataclass
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


class RawClient:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.encoder, self.decoder = Encoder(), Decoder()

    @classmethod
    async def connect(cls, port: int, greet: bool = True, settings: bytes = b"") -> "RawClient":
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        if greet:
            client.send(PREFACE, frame(SETTINGS, 0, 0, settings))
        return client

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    def request(self, path: str = "/coresdk.Result/PushData", **extra: str) -> bytes:
        fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
        fields |= {"content-type": "application/grpc", "te": "trailers"} | extra
        return self.encoder.encode(list(fields.items()))

    def call(self, stream: int, text: bytes = b"{}", path: str = "/coresdk.Result/PushData") -> bytes:
        head = frame(HEADERS, END_HEADERS, stream, self.request(path))
        return head + frame(DATA, END_STREAM, stream, message(text))

    async def next(self) -> Frame | None:
        """The next frame, None at the end of the connection."""
        try:
            async with asyncio.timeout(20):
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return Frame(head[3], head[4], int.from_bytes(head[5:], "big"), payload)

    async def until(self, kind: int, stream: int | None = None) -> Frame | None:
        """The next frame of a kind; answers the server's settings nobody asks about."""
        while found := await self.next():
            if found.kind == HEADERS:
                found.payload = repr(dict(self.decoder.decode(found.payload))).encode()
            if found.kind == kind and stream in (None, found.stream):
                return found
        return None

    async def status(self, stream: int) -> str:
        """The trailers of a call, as text."""
        while found := await self.until(HEADERS, stream):
            if found.flags & END_STREAM:
                return found.payload.decode()
        return "the connection ended"

    async def reason(self) -> str:
        """Why the server ended the connection; it must end."""
        goaway = await self.until(GOAWAY)
        while await self.next():
            pass
        return goaway.payload[8:].decode() if goaway else ""

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
