"""The runner's end of questions: what the control plane asks of live sessions, and of the runner itself (job 0).

Who calls: the link hands frames in (`receive`) and takes frames out (`next_frame`); the handler gets one `Asking` per
question and must not wait. Rules that never break: a question is answered once, by an answer or an error; after it was
answered or withdrawn nothing more is said about it; no stream has more under way than the other end has room for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from clawplane.domain.errors import ClawplaneError, InternalError, NotImplementedHere, StaleLease, TooLarge
from clawplane.domain.ids import JobId
from clawplane.domain.runner_asks import REFUSED
from clawplane.link.flow import MAX_ANSWER, MAX_TOLD, Taken, cost_of
from clawplane.link.frames import (
    WINDOW,
    Answered,
    Asked,
    Failed,
    Fed,
    More,
    RunnerFrame,
    ServerFrame,
    Told,
    Took,
    Withdrawn,
)

Say = Callable[[RunnerFrame], None]
RUNNER_ITSELF = JobId(0)
"""The job of questions that concern no lease."""


class Withdrawal(Exception):
    """Nobody waits for the answer any more; what was to be fed does not come."""


class Asking:
    """One question: read `method` and `body`, then `tell` and `feed` at will, then `answer` or `fail` once."""

    def __init__(self, asked: Asked, say: Say, over: Callable[[int], None]) -> None:
        self.job = asked.job
        self.fence = asked.fence
        self.ask = asked.ask
        self.method = asked.method
        self.body = asked.body
        self.quiet = asked.quiet
        """True when nobody reads what is told; it then goes nowhere."""
        self.withdrawn = asyncio.Event()
        """Set when the caller has left, has cancelled, or cannot be reached any more."""
        self._say = say
        self._over = over
        self._credit = WINDOW
        self._room = asyncio.Event()
        self._fed: deque[Fed] = deque()
        self._filled = asyncio.Event()
        self._taken = Taken()
        self._done = False

    @property
    def done(self) -> bool:
        """Tell whether the question was answered or withdrawn."""
        return self._done or self.withdrawn.is_set()

    async def tell(self, body: bytes) -> None:
        """Stream one event; waits while the caller takes none. When nobody reads it does nothing, and at once."""
        if self.quiet:
            return
        if len(body) > MAX_TOLD:
            raise TooLarge(f"An event of {len(body)} bytes is longer than {MAX_TOLD}.")
        cost = cost_of(body)
        while self._credit < cost and not self.done:
            self._room.clear()
            await self._room.wait()
        if not self.done:
            self._credit -= cost
            self._say(Told(job=self.job, fence=self.fence, ask=self.ask, body=body))

    def answer(self, body: bytes) -> None:
        """Answer; too late or a second time it does nothing."""
        if len(body) > MAX_ANSWER:
            self.fail(TooLarge(f"The answer of {len(body)} bytes is longer than {MAX_ANSWER}."))
        elif self._close():
            self._say(Answered(job=self.job, fence=self.fence, ask=self.ask, body=body))

    def fail(self, error: ClawplaneError) -> None:
        """Answer with an error; too late or a second time it does nothing."""
        if self._close():
            self._say(
                Failed(
                    job=self.job,
                    fence=self.fence,
                    ask=self.ask,
                    code=error.code,
                    message=error.message,
                    hint=error.hint,
                    details=error.details,
                )
            )

    @property
    def feed(self) -> AsyncIterator[bytes]:
        """Yield what the caller sends with the question, to its end; raises Withdrawal when that never comes."""
        return self._feed()

    async def _feed(self) -> AsyncIterator[bytes]:
        while True:
            while not self._fed:
                if self.done:
                    raise Withdrawal("the caller left before everything was sent")
                self._filled.clear()
                await self._filled.wait()
            fed = self._fed.popleft()
            count = self._taken.add(cost_of(fed.body))
            if count and not self.done:
                self._say(Took(job=self.job, fence=self.fence, ask=self.ask, count=count))
            if fed.body:
                yield fed.body
            if fed.last:
                return

    # What the link hears

    def more(self, count: int) -> None:
        """Note that the caller has taken so much."""
        self._credit = min(WINDOW, self._credit + count)
        self._room.set()

    def fed(self, frame: Fed) -> None:
        """Keep a piece until it is taken."""
        self._fed.append(frame)
        self._filled.set()

    def withdraw(self) -> None:
        """Wake whoever waits: there is nobody at the other end."""
        self.withdrawn.set()
        self._room.set()
        self._filled.set()

    def _close(self) -> bool:
        if self.done:
            return False
        self._done = True
        self._room.set()
        self._filled.set()
        self._over(self.ask)
        return True


class Questions:
    """The open questions of one link. `asked` gets each new one; without it none is answered."""

    def __init__(self, asked: Callable[[Asking], None] | None, said: Callable[[], None]) -> None:
        self._asked = asked
        self._said = said
        self._open: dict[int, Asking] = {}
        self._frames: deque[RunnerFrame] = deque()

    def receive(self, frame: ServerFrame, *, held: bool) -> bool:
        """Take a frame about a question in and return True; False for any other. `held`: the lease is ours."""
        match frame:
            case Asked():
                self._ask(frame, held=held)
            case More():
                if (asking := self._of(frame)) is not None:
                    asking.more(frame.count)
            case Fed():
                if (asking := self._of(frame)) is not None:
                    asking.fed(frame)
            case Withdrawn():
                if (asking := self._of(frame)) is not None:
                    del self._open[frame.ask]
                    asking.withdraw()
            case _:
                return False
        return True

    def next_frame(self) -> RunnerFrame | None:
        """Return what is to be said next, None when there is nothing."""
        return self._frames.popleft() if self._frames else None

    def over(self, job: JobId, fence: int) -> None:
        """Withdraw the questions of a lease that is gone."""
        for asking in [asking for asking in self._open.values() if (asking.job, asking.fence) == (job, fence)]:
            asking.fail(StaleLease("The session ended before it answered.", hint="Ask again: it wakes if it can."))
            asking.withdraw()

    def cut(self) -> None:
        """Withdraw all questions: the link is gone, and with it whoever asked."""
        left, self._open = self._open, {}
        self._frames.clear()
        for asking in left.values():
            asking.withdraw()

    def _ask(self, frame: Asked, *, held: bool) -> None:
        asking = Asking(frame, self._say, self._close)
        self._open[frame.ask] = asking
        if not held and frame.job != RUNNER_ITSELF:
            gone = "This runner does not hold the session any more."
            asking.fail(StaleLease(gone, hint="Ask again.", details=(REFUSED,)))
        elif self._asked is None:
            asking.fail(NotImplementedHere("This runner holds no sessions."))
        else:
            try:
                self._asked(asking)
            except ClawplaneError as error:
                asking.fail(error)
            except Exception:
                asking.fail(InternalError("The runner failed by a defect; its log has the details."))
                raise

    def _of(self, frame: More | Fed | Withdrawn) -> Asking | None:
        asking = self._open.get(frame.ask)
        return asking if asking is not None and (asking.job, asking.fence) == (frame.job, frame.fence) else None

    def _say(self, frame: RunnerFrame) -> None:
        self._frames.append(frame)
        self._said()

    def _close(self, ask: int) -> None:
        self._open.pop(ask, None)
