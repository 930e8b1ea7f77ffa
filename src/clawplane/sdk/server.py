"""Serve the Worker SDK to one subtask: gRPC on a listening socket that was created inside the subtask's sandbox.

Theory of operation. One `SdkServer` belongs to one subtask; whoever can connect to its listener is that subtask, so no
call carries or needs an identity. `peer` and `http2` turn bytes into calls, `methods` and `wire` turn calls into words
with the `Subtask`. Each call is one task; tasks begin in order of arrival.

Everything that connects is hostile. What it can make us remember is bounded by `Limits`, and nothing is read from a
client that does not read our answers.

Start and stop. The listener must listen before the subtask's process starts. `stop` takes no new connection, lets what
already arrived be served for a moment (rows that a Worker sent just before it exited are still in the socket, and they
count), and then drops the rest. It may be called twice, or before `start`.
"""

import asyncio
import logging
import socket
from dataclasses import replace

from clawplane.sdk import frames, wire
from clawplane.sdk.http2 import Call
from clawplane.sdk.limits import Limits, Room
from clawplane.sdk.methods import Method, Methods
from clawplane.sdk.peer import Peer
from clawplane.sdk.subtask import Subtask

_BACKLOG = 128

_log = logging.getLogger(__name__)


class SdkServer:
    """The SDK of one subtask."""

    def __init__(self, subtask: Subtask, *, max_message: int = 64 << 20, limits: Limits | None = None) -> None:
        """Serve `subtask`; messages above `max_message` bytes fail with RESOURCE_EXHAUSTED."""
        self._limits = replace(limits or Limits(), max_message=max_message)
        self._room = Room(self._limits)
        self._methods = Methods(subtask)
        self._peers: set[Peer] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def held_bytes(self) -> int:
        """Memory that unanswered messages take, or may take, now."""
        return self._room.held

    async def start(self, listener: socket.socket) -> None:
        """Accept on a bound or listening socket, which belongs to this server from now on."""
        if listener.family in (socket.AF_INET, socket.AF_INET6):
            # accepted sockets inherit it; without, Nagle and delayed acknowledgements cost 40 ms per call
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._meet, sock=listener, backlog=_BACKLOG)

    async def stop(self, drain_seconds: float = 1.0) -> None:
        """Serve what has arrived, for at most `drain_seconds`, then drop all connections and calls."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for peer in list(self._peers):
            peer.announce_end()
        try:
            async with asyncio.timeout(drain_seconds):
                await self._quiet.wait()
        except TimeoutError:
            _log.debug("sdk: %d connections and %d calls dropped", len(self._peers), len(self._tasks))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for peer in list(self._peers):
            peer.drop()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    # -- connections -------------------------------------------------------------------------------------------------

    def _meet(self) -> Peer:
        return Peer(self._limits, self._room, admit=self._admit, called=self._dispatch, lost=self._dismiss)

    def _admit(self, peer: Peer) -> bool:
        if len(self._peers) >= self._limits.max_connections:
            return False
        self._peers.add(peer)
        self._quiet.clear()
        if self._sweeper is None:
            self._sweep_later()
        return True

    def _dismiss(self, peer: Peer) -> None:
        self._peers.discard(peer)
        self._settle()

    def _settle(self) -> None:
        if not self._peers and not self._tasks:
            self._quiet.set()

    def _sweep_later(self) -> None:
        every = min(self._limits.stall_seconds, self._limits.handshake_seconds) / 2
        self._sweeper = asyncio.get_running_loop().call_later(every, self._sweep)

    def _sweep(self) -> None:
        """Look for stalled clients, as long as there are clients."""
        self._sweeper = None
        for peer in list(self._peers):
            peer.check()
        if self._peers:
            self._sweep_later()

    # -- calls -------------------------------------------------------------------------------------------------------

    def _dispatch(self, peer: Peer, call: Call) -> None:
        method = self._methods.find(call.path)
        if method is None:
            peer.refuse(call.stream_id, frames.UNIMPLEMENTED, f"the SDK has no method {call.path}")
            return
        task = asyncio.get_running_loop().create_task(self._serve(peer, call, method))
        self._tasks.add(task)
        self._quiet.clear()
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._settle()

    async def _serve(self, peer: Peer, call: Call, method: Method) -> None:
        try:
            answer = await method(call.message)
        except wire.WireError as error:
            peer.refuse(call.stream_id, frames.INVALID_ARGUMENT, f"{call.path}: {error}")
        except asyncio.CancelledError:
            peer.refuse(call.stream_id, frames.UNAVAILABLE, "the subtask is being stopped")
            raise
        except Exception:
            # the Worker learns that it failed, the operator learns why
            _log.exception("sdk: %s failed", call.path)
            peer.refuse(call.stream_id, frames.INTERNAL, "the platform could not serve this call")
        else:
            peer.answer(call.stream_id, answer)
