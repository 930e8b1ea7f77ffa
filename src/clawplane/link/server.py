"""The control plane's end of the runner link: one WebSocket per runner.

Who runs, per link: a reader takes frames and hands them to lanes (lanes.py), a writer sends what the outbox holds
(outbox.py), and the endpoint's own task waits for the reason to close. Rules that never break: Welcome is the first
frame a runner hears; a word is answered only after the dispatch has made it durable; Ship and End of one job are
handled in order; nothing waits for a runner without a limit.

A store that cannot take data right now closes the link: the runner comes back and says again what was not answered, so
nothing is lost and nothing has to be remembered here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from clawplane.domain.clock import Clock, SystemClock
from clawplane.domain.errors import ClawplaneError, StoreError, Unavailable
from clawplane.domain.ids import JobId, RunnerId, is_ulid
from clawplane.domain.leases import HEARTBEAT_EVERY_MS, SILENCE_MS, Claim, RunnerRecord
from clawplane.domain.ports import Dispatch
from clawplane.domain.session_rules import SAVED
from clawplane.domain.sessions import LiveState
from clawplane.link.asked import AskFrame
from clawplane.link.codec import Codec, LinkError
from clawplane.link.frames import (
    PROTOCOL,
    Answered,
    Confirm,
    Confirmed,
    Decline,
    Draining,
    End,
    Ended,
    Failed,
    Free,
    Heard,
    Heartbeat,
    Hello,
    Noted,
    Rejected,
    RunnerFrame,
    Ship,
    Stored,
    Told,
    Took,
    Welcome,
)
from clawplane.link.lanes import Lanes
from clawplane.link.outbox import DEFECT, POLICY, TRY_AGAIN, Outbox

Authenticate = Callable[[str], Awaitable[str | None]]
"""Return the id of the key that a token is, None when it may not run jobs; the empty string stands for no token."""
Belongs = Callable[[str, RunnerId], Awaitable[bool]]
"""Tell whether a runner's id belongs to a key (by the key's id); an id that is new belongs to whoever says it first."""

_LONGEST_REASON = 600
_NOT_YOURS = (
    "the runner id {0} belongs to another key; use that one, or make a new one for it on the control plane with "
    "`clawplane keys create --scope runner --runner {0}`"
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LinkLimits:
    """Bounds of one link's server end; times in seconds where the name does not say milliseconds."""

    hello_within: float = 10.0
    send_within: float = 20.0
    close_within: float = 5.0
    heartbeat_ms: int = HEARTBEAT_EVERY_MS
    silence_ms: int = SILENCE_MS
    outbox_frames: int = 4096
    outbox_bytes: int = 64 << 20
    in_flight: int = 4096
    """Frames of batches; at this number nothing more is read, answers to questions neither."""
    in_flight_bytes: int = 64 << 20


def link_endpoint(
    dispatch: Dispatch,
    authenticate: Authenticate,
    belongs: Belongs,
    *,
    clock: Clock | None = None,
    limits: LinkLimits | None = None,
) -> Callable[[WebSocket], Awaitable[None]]:
    """Return the endpoint for /v1/runner/link; the HTTP server must let messages of frames.MAX_FRAME bytes through."""
    endpoint = _Endpoint(dispatch, authenticate, belongs, clock or SystemClock(), limits or LinkLimits())

    async def serve(socket: WebSocket) -> None:
        await endpoint.serve(socket)

    return serve


class _Endpoint:
    def __init__(
        self, dispatch: Dispatch, authenticate: Authenticate, belongs: Belongs, clock: Clock, limits: LinkLimits
    ) -> None:
        self._dispatch = dispatch
        self._authenticate = authenticate
        self._belongs = belongs
        self._clock = clock
        self._limits = limits
        self._codec = Codec()

    async def serve(self, socket: WebSocket) -> None:
        """Serve one runner until either end leaves."""
        key = await self._authenticate(_bearer(socket))
        if key is None:
            await socket.close()  # before it was accepted: HTTP 403
            return
        await socket.accept()
        try:
            async with asyncio.timeout(self._limits.hello_within):
                frame, _ = await self._read(socket)
            hello = _checked_hello(frame)
            if not await self._belongs(key, hello.runner):
                raise LinkError(_NOT_YOURS.format(hello.runner))
        except (StoreError, Unavailable) as error:
            await self._close(socket, TRY_AGAIN, error.message)
        except WebSocketDisconnect:
            return
        except TimeoutError:
            await self._refuse(socket, f"no Hello within {self._limits.hello_within:g} s")
        except LinkError as error:
            await self._refuse(socket, error.reason)
        else:
            await self._converse(socket, hello)

    async def _converse(self, socket: WebSocket, hello: Hello) -> None:
        limits = self._limits
        link = Outbox(self._codec, most=limits.outbox_frames, most_bytes=limits.outbox_bytes)
        lanes = Lanes(
            most=limits.in_flight,
            most_bytes=limits.in_flight_bytes,
            on_error=lambda error: _end_on(link, error),
        )
        tasks: list[asyncio.Task[None]] = []
        try:
            kept = await self._dispatch.connected(self._record(hello), hello.held, link)
            welcome = Welcome(heartbeat_ms=limits.heartbeat_ms, silence_ms=limits.silence_ms, kept=tuple(kept))
            link.put(welcome, first=True)
            conversation = _Conversation(hello, link, self._dispatch)
            for work in (
                link.write(socket.send_bytes),
                self._listen(socket, conversation, lanes),
                self._watch(link, conversation, _bearer(socket)),
            ):
                tasks.append(asyncio.create_task(_guarded(link, work)))
            await asyncio.wait([link.closing])
        except Exception as error:
            _end_on(link, error)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            link.questions.cut()
            await self._dispatch.disconnected(hello.runner, link)
            await self._close(socket, *(link.closing.result() if link.closing.done() else (TRY_AGAIN, "leaving")))
            # What the store has begun is finished rather than abandoned: its followers count on being told.
            await lanes.finish(within=limits.close_within)

    async def _listen(self, socket: WebSocket, conversation: _Conversation, lanes: Lanes) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            conversation.reading_since = clock()
            frame, size = await self._read(socket)
            conversation.reading_since = None
            if isinstance(frame, Told | Answered | Failed | Took):
                conversation.hear(frame)  # whoever asked must not wait for anybody's batches
            else:
                await lanes.submit(_lane(frame), size, conversation.handling(frame))

    async def _watch(self, link: Outbox, conversation: _Conversation, token: str) -> None:
        """End a link that is silent, whose other end does not read, or whose token is good no more."""
        silence, within = self._limits.silence_ms * 2 / 1000, self._limits.send_within
        clock = asyncio.get_running_loop().time
        while True:
            now, since = clock(), conversation.reading_since
            left = silence if since is None else since + silence - now
            if left <= 0:
                raise LinkError(f"nothing was heard for {silence:g} s")
            stuck = link.stuck(now, within)
            if stuck <= 0:
                raise LinkError("the runner does not read what it is sent")
            await asyncio.sleep(min(left, stuck, self._limits.heartbeat_ms / 1000))
            with contextlib.suppress(StoreError):  # a store that cannot be read is no reason to doubt it
                if await self._authenticate(token) is None:
                    raise LinkError("its token is good no more")

    async def _read(self, socket: WebSocket) -> tuple[RunnerFrame, int]:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code") or 1005, message.get("reason"))
        data = message.get("bytes")
        if data is None:
            raise LinkError("frames are binary messages")
        return self._codec.from_runner(data), len(data)

    async def _refuse(self, socket: WebSocket, reason: str) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            async with asyncio.timeout(self._limits.close_within):
                await socket.send_bytes(self._codec.encode(Rejected(reason=reason)))
        await self._close(socket, POLICY, reason)

    async def _close(self, socket: WebSocket, code: int, reason: str) -> None:
        # a socket that is gone already, or that does not drain, cannot be told anything
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            async with asyncio.timeout(self._limits.close_within):
                await socket.close(code, _short(reason))

    def _record(self, hello: Hello) -> RunnerRecord:
        return RunnerRecord(
            id=hello.runner,
            name=hello.name[:200],
            version=hello.version[:100],
            capabilities=hello.capabilities,
            labels=hello.labels,
            slots=hello.slots,
            connected=True,
            last_seen=self._clock.now_ms(),
        )


class _Conversation:
    """What is said on one link after Hello: each frame is passed on, then answered."""

    def __init__(self, hello: Hello, link: Outbox, dispatch: Dispatch) -> None:
        self._runner = hello.runner
        self._link = link
        self._dispatch = dispatch
        self.reading_since: float | None = asyncio.get_running_loop().time()
        """Since when the next frame is waited for; None while one is taken in."""

    def hear(self, frame: AskFrame) -> None:
        """Pass a word about a question on; raises LinkError when the runner breaks the rules."""
        self._link.questions.receive(frame)

    def handling(self, frame: RunnerFrame) -> Callable[[], Awaitable[None]]:
        """Return the work that a frame makes."""
        return lambda: self._handle(frame)

    async def _handle(self, frame: RunnerFrame) -> None:
        try:
            await self._pass_on(frame)
        except (StoreError, Unavailable):
            raise
        except ClawplaneError as error:
            lease = _lease(frame)
            if lease is None:
                raise
            # closing would only bring the same frame back; this job has no way on, the others have
            self._link.drop(*lease, _short(error.message))

    async def _pass_on(self, frame: RunnerFrame) -> None:
        dispatch, runner = self._dispatch, self._runner
        match frame:
            case Ship():
                await self._ship(frame)
            case Heartbeat():
                await dispatch.heartbeat(runner, frame.held, frame.free)
                self._link.put(Heard(beat=frame.beat))
            case Confirm():
                await self._confirm(frame.claim)
            case End():
                await self._end(frame)
            case Free():
                unable = {caps: _sentence(reason) for caps, reason in frame.unable.items()}
                await dispatch.free(runner, frame.free, unable)
            case Decline():
                await dispatch.decline(runner, frame.claim, _short(frame.reason))
            case Noted():
                await dispatch.noted(runner, frame.job, frame.fence, _state(frame.body))
            case Draining():
                await dispatch.draining(runner)
            case Hello():
                raise LinkError("Hello was said twice")
            case Told() | Answered() | Failed() | Took():
                self.hear(frame)

    async def _ship(self, frame: Ship) -> None:
        batch = frame.batch
        result = await self._dispatch.ship(self._runner, batch)
        if result.stale:
            self._link.drop(batch.job, batch.fence, "the lease is not this runner's any more")
        else:
            self._link.put(Stored(job=batch.job, fence=batch.fence, seq=result.stored_up_to))

    async def _confirm(self, claim: Claim) -> None:
        if await self._dispatch.confirm(self._runner, claim):
            self._link.put(Confirmed(job=claim.job, fence=claim.fence))
        else:
            self._link.drop(claim.job, claim.fence, "the offer is not open any more")

    async def _end(self, frame: End) -> None:
        claim = frame.finish.claim
        result = await self._dispatch.end(self._runner, frame.finish)
        if result.accepted or result.repeated:
            if frame.finish.outcome.reason == SAVED:
                self._link.saved(claim.job, claim.fence)
            self._link.over(claim.job, claim.fence, "The session ended before it answered.")
            self._link.put(Ended(job=claim.job, fence=claim.fence))
        else:
            self._link.drop(claim.job, claim.fence, "the lease is not this runner's any more")


def _lease(frame: RunnerFrame) -> tuple[JobId, int] | None:
    """Return the lease a frame speaks of, None for words about the whole runner."""
    match frame:
        case Ship():
            return frame.batch.job, frame.batch.fence
        case End():
            return frame.finish.claim.job, frame.finish.claim.fence
        case Confirm() | Decline():
            return frame.claim.job, frame.claim.fence
        case Noted():
            return frame.job, frame.fence
        case _:
            return None


def _lane(frame: RunnerFrame) -> JobId | None:
    lease = _lease(frame)
    return None if lease is None else lease[0]


async def _guarded(link: Outbox, work: Awaitable[None]) -> None:
    try:
        await work
    except Exception as error:
        _end_on(link, error)


def _end_on(link: Outbox, error: Exception) -> None:
    match error:
        case WebSocketDisconnect():
            link.end(error.code, error.reason)
        case LinkError():
            link.end(POLICY, error.reason)
        case StoreError() | Unavailable():
            _log.warning("A runner's link is closed, it will come back: %s", error.message)
            link.end(TRY_AGAIN, error.message)
        case ClawplaneError():
            _log.warning("A runner's link is closed: %s", error.message)
            link.end(POLICY, error.message)
        case _:
            _log.error("A runner's link is closed by a defect", exc_info=error)
            link.end(DEFECT, "internal error")


def _state(body: bytes) -> LiveState:
    try:
        return msgspec.msgpack.decode(body, type=LiveState)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError):
        raise LinkError("a session's state cannot be read") from None


def _checked_hello(frame: RunnerFrame) -> Hello:
    if not isinstance(frame, Hello):
        raise LinkError("the first frame must be Hello")
    if frame.protocol != PROTOCOL:
        raise LinkError(
            f"this control plane speaks protocol {PROTOCOL}, the runner {frame.protocol}; use the same release"
        )
    if not is_ulid(frame.runner):
        raise LinkError("the runner's id is no ULID")
    if not all(0 <= count < 1 << 20 for count in frame.slots.values()):
        raise LinkError("a number of slots is out of range")
    return frame


def _bearer(socket: WebSocket) -> str:
    scheme, _, token = socket.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _sentence(reason: str) -> str:
    """Return a runner's word on one line that people may be shown."""
    return "".join(each if each.isprintable() else " " for each in reason[:_LONGEST_REASON])


def _short(reason: str) -> str:
    """Return as much of a reason as a close frame holds (123 bytes)."""
    return reason.encode("utf-8", "replace")[:120].decode("utf-8", "ignore")
