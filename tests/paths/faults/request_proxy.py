"""Stand between runners that poll and the control plane: look at each request, and at each answer, before it passes.

Who runs: one thread with an event loop of its own, so that tests may block. `watch` hears "POST /worker/result" before
the request passes on, and "answer to POST /worker/result" before its answer does; it returns False to have the
connection cut instead. Bytes pass as they come.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import Callable

Watch = Callable[[str], bool]
_REQUEST = re.compile(rb"(GET|POST) ([^ ?]+)\S* HTTP/1\.1\r\n")


class RequestProxy:
    """A proxy on a port of its own; its methods may be called from any thread."""

    def __init__(self, port: int, watch: Watch = lambda what: True) -> None:
        self._target = port
        self._watch = watch
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_cut = self._is_silent = False
        self._silence = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Cut every connection, and every new one until `mend`."""
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._abort)

    def go_silent(self) -> None:
        """Swallow what is said on all connections, on new ones, too, until `mend`: packets are dropped.

        What had a connection then is dead for good: nothing of it is passed on later, and it is not closed either.
        """
        self._is_silent = True
        self._silence += 1

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def mend(self) -> None:
        """Let connections through again."""
        self._is_cut = self._is_silent = False

    def close(self) -> None:
        """End the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _end(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, sock=self._listener))
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(server.wait_closed())
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if not self._is_cut:
                await self._carry(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # either end is gone, or the test is over
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        asked: list[str] = []
        # a connection passes on until the next silence begins
        until = self._silence - 1 if self._is_silent else self._silence
        copies = [
            asyncio.create_task(self._copy(reader, far_writer, asked, until, is_request=True)),
            asyncio.create_task(self._copy(far_reader, writer, asked, until, is_request=False)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for copy in copies:
                copy.cancel()
            await asyncio.gather(*copies, return_exceptions=True)
            far_writer.close()
            with contextlib.suppress(OSError):
                await far_writer.wait_closed()

    async def _copy(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        asked: list[str],
        until: int,
        *,
        is_request: bool,
    ) -> None:
        while data := await reader.read(1 << 16):
            if self._silence > until:
                continue
            if is_request and (match := _REQUEST.match(data)) is not None:
                asked.append(f"{match[1].decode()} {match[2].decode()}")
                if not self._watch(asked[-1]):
                    return
            elif not is_request and asked and not self._watch(f"answer to {asked.pop(0)}"):
                return
            writer.write(data)
            await writer.drain()
        if self._silence > until:
            await asyncio.Event().wait()  # a host that is gone does not even close
