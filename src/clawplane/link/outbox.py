"""What the control plane has yet to send to one runner: bounded, written by one task.

Words go first, data that callers upload to their sessions after them: an upload is no reason for a question to wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from clawplane.domain.errors import Conflict, StaleLease
from clawplane.domain.ids import JobId
from clawplane.domain.leases import Offer
from clawplane.domain.runner_asks import REFUSED
from clawplane.domain.session_ports import Conversation
from clawplane.link.asked import AskedQuestions
from clawplane.link.codec import Codec
from clawplane.link.frames import Cancel, Drop, Fed, Offered, ServerFrame

# RFC 6455 close codes; 4000 and up are an application's own.
TRY_AGAIN: Final = 1013
POLICY: Final = 1008
DEFECT: Final = 1011
_FED_BYTES: Final = 4 << 20
REPLACED: Final = 4001


class Outbox:
    """One runner's connection as the dispatch sees it (RunnerConnection): methods queue frames and never wait."""

    def __init__(self, codec: Codec, *, most: int, most_bytes: int) -> None:
        self._codec = codec
        self._most = most
        self._most_bytes = most_bytes
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._fed: deque[bytes] = deque()
        self._fed_bytes = 0
        self._fed_room = asyncio.Event()
        self._fed_room.set()
        self._filled = asyncio.Event()
        self._sending_since: float | None = None
        self.closing: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        """Set once, with the close code and the reason; the first reason counts."""
        self.questions = AskedQuestions(self.put, self._fed_room.wait)

    def ask(self, job: JobId, fence: int, method: str, body: bytes, *, quiet: bool = False) -> Conversation:
        """Ask a live session something; `quiet` when nobody reads what it streams."""
        return self.questions.ask(job, fence, method, body, quiet=quiet)

    def over(self, job: JobId, fence: int, reason: str) -> None:
        """Answer what was asked of a lease that is gone."""
        self.questions.over(job, fence, Conflict(reason, hint="Ask again: the session wakes if it can."))

    def saved(self, job: JobId, fence: int) -> None:
        """Let execs be asked again that were still open when a life of a session was saved.

        Saving is a turn of its own, and its end comes behind the answers of all that was begun: they were not.
        """
        unbegun = StaleLease("The session was saved first.", hint="Ask again: it wakes.", details=(REFUSED,))
        self.questions.over(job, fence, unbegun, method="exec")

    def offer(self, offer: Offer, offer_ms: int) -> None:
        """Send an offer."""
        self.put(Offered(offer=offer, offer_ms=offer_ms))

    def cancel(self, job: JobId, fence: int, reason: str) -> None:
        """Ask for a job to be stopped."""
        self.put(Cancel(job=job, fence=fence, reason=reason))

    def drop(self, job: JobId, fence: int, reason: str) -> None:
        """Tell the runner that a lease is not its own."""
        self.put(Drop(job=job, fence=fence, reason=reason))
        self.over(job, fence, f"The session's lease is over: {reason}")

    def close(self, reason: str) -> None:
        """End the link; used when the same runner has connected again."""
        self.end(REPLACED, reason)

    def end(self, code: int, reason: str) -> None:
        """Have the link closed with a code and a reason."""
        if not self.closing.done():
            self.closing.set_result((code, reason))

    def put(self, frame: ServerFrame, *, first: bool = False) -> None:
        """Queue a frame, ahead of all others when `first`; a runner that lets the queue fill up is closed."""
        data = self._codec.encode(frame)
        if isinstance(frame, Fed):
            self._put_fed(data)
            return
        if len(self._frames) >= self._most or (self._frames and self._bytes + len(data) > self._most_bytes):
            self.end(POLICY, "the runner does not read what it is sent")
            return
        if first:
            self._frames.appendleft(data)
        else:
            self._frames.append(data)
        self._bytes += len(data)
        self._filled.set()

    def _put_fed(self, data: bytes) -> None:
        self._fed.append(data)
        self._fed_bytes += len(data)
        if self._fed_bytes >= _FED_BYTES:
            self._fed_room.clear()
        self._filled.set()

    def _next(self) -> bytes | None:
        if self._frames:
            data = self._frames.popleft()
            self._bytes -= len(data)
            return data
        if self._fed:
            data = self._fed.popleft()
            self._fed_bytes -= len(data)
            if self._fed_bytes < _FED_BYTES:
                self._fed_room.set()
            return data
        return None

    def stuck(self, now: float, within: float) -> float:
        """Return in how many seconds a frame that is being sent takes too long; `within` when none is being sent."""
        return within if self._sending_since is None else self._sending_since + within - now

    async def write(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Pass what is queued to `send` for ever; whoever watches `stuck` ends a link whose other end does not read."""
        clock = asyncio.get_running_loop().time
        while True:
            while (data := self._next()) is not None:
                self._sending_since = clock()
                await send(data)
                self._sending_since = None
            self._filled.clear()
            await self._filled.wait()
