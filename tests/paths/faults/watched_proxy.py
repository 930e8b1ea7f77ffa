"""Stand between runners and the control plane: cut, swallow, or look at each frame before it passes.

Who runs: one thread with an event loop of its own, so that tests may block. Per connection two tasks copy bytes. Bytes
are passed on as they came; only on a runner's link the frames in them are read as well, and `watch` hears each before
it is passed on. It returns False to have the connection cut instead, so that the frame was sent and never arrived.

The proxy keeps a ledger as well: which rows were shipped in which batch of which lease, and up to which batch a
runner has been told that they are stored. That is what "acknowledged" means.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator

from clawplane.link.codec import Codec
from clawplane.link.frames import RunnerFrame, ServerFrame, Ship, Stored, Welcome

Frame = RunnerFrame | ServerFrame
Watch = Callable[[Frame], bool]
Lease = tuple[int, int]


class _Cut(Exception):
    """The connection is to end here."""


class FrameReader:
    """Find the binary messages in one direction of a WebSocket; nothing is compressed, nothing is in fragments."""

    def __init__(self) -> None:
        self._left = b""
        self._opened = False
        self.is_link = False

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield the bytes in pieces that belong together, each with the message it carries, if any."""
        if self._opened and not self.is_link:
            yield data, None
            return
        self._left += data
        if not self._opened:
            head, end, rest = self._left.partition(b"\r\n\r\n")
            if not end:
                return
            self._opened = True
            self.is_link = b"upgrade: websocket" in head.lower()
            self._left = b""
            yield head + end, None
            yield from self.feed(rest)
            return
        while (size := self._whole()) is not None:
            piece, self._left = self._left[:size], self._left[size:]
            yield piece, _message(piece)

    def _whole(self) -> int | None:
        """Return the size of the first frame when all of it is there."""
        if len(self._left) < 2:
            return None
        start, length = _start_and_length(self._left)
        return start + length if len(self._left) >= start + length else None


def _start_and_length(data: bytes) -> tuple[int, int]:
    length, start = data[1] & 0x7F, 2
    if length >= 126:
        size = 2 if length == 126 else 8
        length, start = int.from_bytes(data[2 : 2 + size], "big"), 2 + size
        if len(data) < start:
            return start, 1 << 62
    return start + (4 if data[1] & 0x80 else 0), length


def _message(frame: bytes) -> bytes | None:
    if frame[0] & 0x0F != 2:
        return None
    start, length = _start_and_length(frame)
    payload = frame[start:]
    if frame[1] & 0x80 and length:
        mask = (frame[start - 4 : start] * (length // 4 + 1))[:length]
        payload = (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(length, "big")
    return payload


class _Connection:
    """One connection and the control plane's end of it."""

    def __init__(self, streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
        self.streams = streams
        self.swallowing = False

    def abort(self) -> None:
        for _, writer in self.streams:
            writer.transport.abort()


class WatchedProxy:
    """A proxy on a port of its own; its methods may be called from any thread."""

    def __init__(self, port: int, *, watch: Watch = lambda frame: True) -> None:
        self._target = port
        self._watch = watch
        self._codec = Codec()
        self._loop = asyncio.new_event_loop()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_cut = self._is_silent = False
        self.shipped: dict[Lease, dict[int, list[bytes]]] = defaultdict(dict)
        self.stored: dict[Lease, int] = defaultdict(int)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    # what tests do

    def cut(self) -> None:
        """Cut every connection, and every new one until `mend`."""
        self._do(self._cut)

    def mend(self) -> None:
        """Let new connections through."""
        self._is_cut = self._is_silent = False

    def swallow(self) -> None:
        """Take in whatever is said on the connections there are, pass nothing on, and say nothing about it."""
        self._do(self._swallow)

    def go_silent(self) -> None:
        """Swallow what is said on all connections, on new ones, too, until `mend`: packets are dropped."""
        self._is_silent = True
        self._do(self._swallow)

    def close(self) -> None:
        """Cut everything and end the thread."""
        if self._thread.is_alive():
            self._do(self._cut)
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    def acknowledged(self) -> dict[Lease, list[bytes]]:
        """Return the rows of each lease whose runner was told that they are stored, in order."""
        return {
            lease: [row for seq in sorted(batches) if seq <= self.stored[lease] for row in batches[seq]]
            for lease, batches in self.shipped.items()
        }

    # inside

    def _do(self, action: Callable[[], object]) -> None:
        done = threading.Event()

        def act() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(act)
        assert done.wait(10)

    def _swallow(self) -> None:
        for connection in self._connections:
            connection.swallowing = True

    def _cut(self) -> None:
        self._is_cut = True
        for connection in list(self._connections):
            connection.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, sock=self._listener))
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(server.wait_closed())
        self._loop.close()

    async def _end(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._carry(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # either end is gone, or the test is over
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        connection = _Connection([(reader, writer), (far_reader, far_writer)])
        connection.swallowing = self._is_silent
        self._connections.add(connection)
        copies = [
            asyncio.create_task(self._copy(connection, reader, far_writer, from_runner=True)),
            asyncio.create_task(self._copy(connection, far_reader, writer, from_runner=False)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)
            self._connections.discard(connection)
            far_writer.close()
            writer.close()  # what was written last is still delivered
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(2):
                    await asyncio.gather(writer.wait_closed(), far_writer.wait_closed(), return_exceptions=True)

    async def _copy(
        self,
        connection: _Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        from_runner: bool,
    ) -> None:
        frames = FrameReader()
        decode = self._codec.from_runner if from_runner else self._codec.from_server
        with contextlib.suppress(_Cut, OSError):
            while data := await reader.read(1 << 16):
                for piece, message in frames.feed(data):
                    if connection.swallowing:
                        continue
                    frame = None if message is None else decode(message)
                    if frame is not None and not self._watch(frame):
                        raise _Cut
                    writer.write(piece)
                    if frame is not None:
                        self._note(frame)
                await writer.drain()
            if connection.swallowing:
                await asyncio.Event().wait()  # a host that is gone does not even close

    def _note(self, frame: Frame) -> None:
        if isinstance(frame, Ship):
            batch = frame.batch
            self.shipped[batch.job, batch.fence][batch.seq] = [row.body for row in batch.rows]
        elif isinstance(frame, Stored):
            self._note_stored(frame.job, frame.fence, frame.seq)
        elif isinstance(frame, Welcome):
            for kept in frame.kept:
                self._note_stored(*kept)

    def _note_stored(self, job: int, fence: int, seq: int) -> None:
        self.stored[job, fence] = max(self.stored[job, fence], seq)
