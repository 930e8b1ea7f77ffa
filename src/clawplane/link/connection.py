"""The runner's end of the link: keep one WebSocket to the control plane, for ever.

Who runs: `run` connects, and reconnects with growing pauses; per connection one task reads, one writes what the
conversation (protocol.py) wants said, one beats. The daemon hears through one function that never waits.

A process that was stopped, or whose host slept, goes on in the middle of anything. So before a frame is read or
written, and before anything else is done with the conversation, `_guard` looks at the clock: after too long a silence
what runs is dropped first and the connection is given up, for what is in its buffers is old news.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from clawplane.domain.batches import LogLine, ShippedRow
from clawplane.domain.clock import Clock
from clawplane.domain.ids import JobId
from clawplane.domain.leases import Finish, Offer, Outcome
from clawplane.domain.runs import HeaderItem
from clawplane.domain.sessions import LiveState
from clawplane.link.asking import Asking, Questions
from clawplane.link.codec import Codec, LinkError
from clawplane.link.frames import MAX_FRAME, Asked, Drop, Ended, Rejected, RunnerFrame, ServerFrame, Welcome
from clawplane.link.protocol import Identity, RunnerSide

LINK_PATH = "/v1/runner/link"

_log = logging.getLogger(__name__)


class LinkRefused(Exception):
    """The control plane does not want this runner; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Waits:
    """Time limits of the runner's end, in seconds."""

    first_retry: float = 0.05
    retry: float = 1.0
    eager_retry: float = 0.2
    """Takes the place of `retry` until the first greeting: both ends may have been started together."""
    quiet: float = 10.0
    """For the same reason, that nobody listens yet is worth no warning for so many seconds."""
    longest_retry: float = 30.0
    open_within: float = 10.0
    retry_holding: float = 3.0
    """The longest pause while something runs, which others are given after some silence."""
    open_holding: float = 5.0
    """The same for an attempt, which takes that long when what is sent is swallowed."""
    welcome_within: float = 15.0
    send_within: float = 20.0
    close_within: float = 2.0
    answer_beats: float = 2.0
    """A heartbeat that has no answer after this many periods means that the connection is dead."""


def pauses(
    waits: Waits,
    chance: Callable[[], float] = random.random,
    *,
    eager: bool = False,
    holding: Callable[[], bool] = lambda: False,
) -> Iterator[float]:
    """Yield how long to wait before each further attempt: at once, then 1 s doubling up to 30 s, with jitter.

    While `holding` says so, it is never more than 3 s.
    """
    yield waits.first_retry * chance()
    pause = waits.eager_retry if eager else waits.retry
    while True:
        yield (min(pause, waits.retry_holding) if holding() else pause) * (0.5 + chance() / 2)
        pause = min(pause * 2, waits.longest_retry)


def link_url(base: str) -> str:
    """Return the WebSocket address for a control plane's HTTP address."""
    parts = urlsplit(base)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise ValueError(f"the control plane's address must look like http://host:port, not {base!r}")
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + LINK_PATH, "", ""))


class Link:
    """What the daemon speaks through. `hear` gets every frame that concerns it, in order, and must not wait.

    `asked` gets every question to a session that this runner holds (offered ones included, for a question may follow
    its offer at once), must not wait either, and may raise a ClawplaneError to refuse.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        identity: Identity,
        hear: Callable[[ServerFrame], None],
        *,
        clock: Clock,
        waits: Waits | None = None,
        asked: Callable[[Asking], None] | None = None,
    ) -> None:
        self._url = link_url(base_url)
        self._headers = {"Authorization": f"Bearer {token}"}
        self._hear = hear
        self._clock = clock
        self._waits = waits or Waits()
        self._codec = Codec()
        self._side = RunnerSide(identity)
        self._said = asyncio.Event()
        self._questions = Questions(asked, self._said.set)
        self._cut = asyncio.Event()
        self._greetings = 0
        self._sending_since: float | None = None
        self._watchdog: asyncio.TimerHandle | None = None

    @property
    def linked(self) -> bool:
        """Tell whether the control plane has greeted this runner and the connection stands."""
        return self._side.welcomed

    # What the daemon says; all of it is remembered until it is answered, so none of it waits.

    def confirm(self, offer: Offer) -> None:
        """Take an offer; Confirmed or Drop follows."""
        self._guard()
        self._side.confirm(offer)
        self._said.set()
        if self._watchdog is None:
            self._watch()

    def restore(self, finish: Finish) -> None:
        """Take in the end of a host task that could not be reported before; it is said after the next greeting."""
        self._side.restore(finish)

    def decline(self, offer: Offer, reason: str) -> None:
        """Give an offer back."""
        self._side.decline(offer, reason)
        self._said.set()

    def ship(
        self,
        job: JobId,
        fence: int,
        rows: Sequence[ShippedRow],
        logs: Sequence[LogLine],
        header: tuple[HeaderItem, ...] | None,
    ) -> int | None:
        """Send a batch and return its number; Stored follows. None when the lease is lost."""
        self._guard()
        seq = self._side.ship(job, fence, rows, logs, header)
        self._said.set()
        return seq

    def end(self, job: JobId, fence: int, outcome: Outcome) -> bool:
        """Report an end; Ended or Drop follows. False when the lease is lost."""
        self._guard()
        accepted = self._side.end(job, fence, outcome)
        self._said.set()
        return accepted

    def note(self, job: JobId, fence: int, state: LiveState) -> None:
        """Say how a session stands, unasked; the last word is said again after a reconnect."""
        self._side.note(job, fence, msgspec.msgpack.encode(state))
        self._said.set()

    def free(self, free: dict[str, int], *, tell: bool = True) -> None:
        """Note how many slots are free now; `tell` when more are than the control plane can know."""
        self._side.free(free, tell=tell)
        self._said.set()

    def unable(self, reasons: dict[str, str], free: dict[str, int]) -> None:
        """Say which capabilities are not offered and why, and how many slots are free then."""
        self._side.unable(reasons, free)
        self._said.set()

    def drain(self) -> None:
        """Ask for no more offers."""
        self._side.drain()
        self._said.set()

    def held(self) -> tuple[tuple[JobId, int], ...]:
        """Return the leases held, ended ones included whose end is not answered yet."""
        return self._side.held()

    def _holding(self) -> bool:
        return self._side.running

    # The connection

    async def run(self) -> None:
        """Keep the link until cancelled; raises LinkRefused when the first greeting ever is refused."""
        attempts = pauses(self._waits, eager=True, holding=self._holding)
        began = self._clock.monotonic()
        try:
            while True:
                greeted_before = self._greetings
                try:
                    await self._connect()
                except LinkRefused as error:
                    if not self._greetings:
                        raise
                    _log.error("The control plane refuses this runner: %s", error.reason)
                except (OSError, TimeoutError, WebSocketException, LinkError) as error:
                    early = not self._greetings and self._clock.monotonic() - began < self._waits.quiet
                    level = logging.INFO if early and isinstance(error, ConnectionRefusedError) else logging.WARNING
                    _log.log(level, "No link to the control plane: %s", _sentence(error))
                self._unlinked()
                if self._greetings > greeted_before:
                    attempts = pauses(self._waits, holding=self._holding)
                await asyncio.sleep(next(attempts))
        finally:
            if self._watchdog is not None:
                self._watchdog.cancel()
                self._watchdog = None

    async def _connect(self) -> None:
        """Hold one connection until it ends, which is always an error."""
        waits = self._waits
        try:
            socket = await connect(
                self._url,
                additional_headers=self._headers,
                proxy=None if _is_loopback(self._url) else True,
                compression=None,
                max_size=MAX_FRAME,
                max_queue=64,
                open_timeout=waits.open_holding if self._holding() else waits.open_within,
                close_timeout=waits.close_within,
                ping_interval=None,  # heartbeats say more: that the store is alive, not only the socket
            )
        except InvalidStatus as error:
            if error.response.status_code in (401, 403):
                raise LinkRefused("its token is unknown, or may not run jobs") from None
            raise
        try:
            await self._talk(socket)
        except LinkError:
            socket.transport.abort()  # nobody is there to answer a goodbye, and what runs has no time to wait for it
            raise
        finally:
            self._unlinked()
            with contextlib.suppress(OSError, WebSocketException):
                await socket.close()

    async def _talk(self, socket: ClientConnection) -> None:
        self._cut.clear()
        self._guard()
        async with asyncio.timeout(self._waits.welcome_within):
            await self._send(socket, self._side.hello(self._clock.monotonic()))
            await self._read_one(socket)
        if not self._side.welcomed:
            raise LinkError("the first frame was no Welcome")
        self._greetings += 1
        self._said.set()
        tasks = [
            asyncio.create_task(work)
            for work in (
                self._read(socket),
                self._write(socket),
                self._watch_sending(),
                self._beat(),
                self._wait_for_cut(),
            )
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, socket: ClientConnection) -> None:
        while True:
            await self._read_one(socket)

    async def _read_one(self, socket: ClientConnection) -> None:
        data = await socket.recv(decode=False)
        if self._guard():
            raise LinkError("what arrived during a long silence is not read")
        frame = self._codec.from_server(data)
        if isinstance(frame, Rejected):
            raise LinkRefused(frame.reason)
        if self._side.welcomed == isinstance(frame, Welcome):
            raise LinkError("Welcome comes first, and once")
        if self._questions.receive(frame, held=isinstance(frame, Asked) and self._side.holds(frame.job, frame.fence)):
            return
        for news in self._side.receive(frame, self._clock.monotonic()):
            self._hear(news)
            if isinstance(news, Drop | Ended):
                self._questions.over(news.job, news.fence)
        self._said.set()

    async def _write(self, socket: ClientConnection) -> None:
        while True:
            await self._said.wait()
            self._said.clear()
            said: deque[RunnerFrame] = deque()
            while True:
                said += self._side.take()
                # answers and batches in turn, so that neither waits for more than one of the other
                turn = (self._questions.next_frame(), said.popleft() if said else None)
                if turn == (None, None):
                    break
                for frame in turn:
                    if frame is not None:
                        await self._say(socket, frame)

    async def _say(self, socket: ClientConnection, frame: RunnerFrame) -> None:
        if self._guard():
            raise LinkError("nothing is said after a long silence")
        await self._send(socket, frame)

    async def _send(self, socket: ClientConnection, frame: RunnerFrame) -> None:
        self._sending_since = asyncio.get_running_loop().time()
        await socket.send(self._codec.encode(frame))
        self._sending_since = None

    async def _watch_sending(self) -> None:
        """Give a connection up whose other end does not read; frames are sent without a timer each."""
        within, clock = self._waits.send_within, asyncio.get_running_loop().time
        while True:
            since = self._sending_since
            left = within if since is None else since + within - clock()
            if left <= 0:
                raise LinkError("the control plane does not read what it is sent")
            await asyncio.sleep(left)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._side.heartbeat)
            if self._guard():
                return
            now = self._clock.monotonic()
            if self._side.unanswered(now) >= self._side.heartbeat * self._waits.answer_beats:
                raise LinkError("heartbeats are not answered")
            self._side.beat(now)
            self._said.set()

    async def _wait_for_cut(self) -> None:
        await self._cut.wait()
        raise LinkError("the silence was too long, beginning anew")

    def _unlinked(self) -> None:
        self._side.unlinked()
        self._questions.cut()

    # Silence

    def _guard(self) -> bool:
        """Drop what runs when the silence was too long; True when it was."""
        if not self._side.silent(self._clock.monotonic()):
            return False
        self._cut.set()
        self._unlinked()
        for news in self._side.give_up(self._clock.monotonic()):
            self._hear(news)
        return True

    def _watch(self) -> None:
        """Look at the clock when the silence would become too long; armed only while something runs."""
        self._watchdog = None
        self._guard()
        if not self._side.running:
            return
        left = self._side.patience_ends - self._clock.monotonic()
        self._watchdog = asyncio.get_running_loop().call_later(max(left, 0.01), self._watch)


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def _sentence(error: Exception) -> str:
    return str(error) or type(error).__name__
