"""The control plane's end of questions: ask a session over its runner's link, take what it streams, get the answer.

One `AskedQuestion` per question implements `domain.session_ports.Conversation`. Frames of questions never wait behind
batches: the link's reader hands them in directly (`receive` never waits), and what a caller has not taken yet is
bounded by the credit the runner was given. Rules that never break: a word with another fence, or about a question that
is over, is ignored; a runner that says more than it has credit for is hung up on; a link that is cut answers everybody
who waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from clawplane.domain.errors import ClawplaneError, InternalError, TooLarge, Unavailable
from clawplane.domain.ids import JobId
from clawplane.domain.runner_asks import CUT
from clawplane.link.codec import LinkError
from clawplane.link.flow import MAX_QUESTION, Taken, cost_of
from clawplane.link.frames import CHUNK, WINDOW, Answered, Asked, Failed, Fed, More, ServerFrame, Told, Took, Withdrawn

Say = Callable[[ServerFrame], None]
Room = Callable[[], Awaitable[object]]
"""Waits until the link takes more data."""
AskFrame = Told | Answered | Failed | Took


class AskedQuestion:
    """One question and what comes of it; see domain.session_ports.Conversation."""

    def __init__(self, asked: Asked, say: Say, room: Room, over: Callable[[int], None]) -> None:
        self.job, self.fence, self.ask = asked.job, asked.fence, asked.ask
        self.method = asked.method
        self._say = say
        self._link_room = room
        self._over = over
        self._told: deque[bytes] = deque()
        self._under_way = 0
        self._taken = Taken()
        self._credit = WINDOW
        self._change = asyncio.Event()
        self._credit_came = asyncio.Event()
        self._result: bytes | ClawplaneError | None = None
        self._unread = False

    # What the caller does

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._told:
            if self._result is not None:
                raise StopAsyncIteration
            self._change.clear()
            await self._change.wait()
        body = self._told.popleft()
        self._take(cost_of(body))
        return body

    async def answer(self) -> bytes:
        """Wait for the answer and return it; events that were not read are dropped. Raises the runner's error."""
        self._unread = True
        while self._told:
            self._take(cost_of(self._told.popleft()))
        while self._result is None:
            self._change.clear()
            await self._change.wait()
        if isinstance(self._result, ClawplaneError):
            raise self._result
        return self._result

    async def feed(self, chunk: bytes, *, last: bool = False) -> None:
        """Send data behind the question; waits while the runner takes none, and does nothing once it has answered."""
        pieces = [chunk[at : at + CHUNK] for at in range(0, len(chunk), CHUNK)] or [b""]
        for index, piece in enumerate(pieces):
            while self._credit < 1 and self._result is None:
                self._credit_came.clear()
                await self._credit_came.wait()
            await self._link_room()
            if self._result is not None:
                return
            self._credit -= 1
            final = last and index == len(pieces) - 1
            self._say(Fed(job=self.job, fence=self.fence, ask=self.ask, body=piece, last=final))

    def withdraw(self) -> None:
        """Tell the runner that nobody waits; a question that is over already is left alone."""
        if self._result is None:
            self._say(Withdrawn(job=self.job, fence=self.fence, ask=self.ask))
            self.end(Unavailable("The question was withdrawn."))

    # What the link hears

    def receive(self, frame: AskFrame) -> None:
        """Take a frame of this question in; raises LinkError when the runner breaks the rules."""
        match frame:
            case Told():
                self._hear(frame.body)
            case Took():
                self._credit = min(WINDOW, self._credit + frame.count)
                self._credit_came.set()
            case Answered():
                self.end(frame.body)
            case Failed():
                self.end(error_of(frame))

    def end(self, result: bytes | ClawplaneError) -> None:
        """Settle the question; the first result counts."""
        if self._result is None:
            self._result = result
            self._change.set()
            self._credit_came.set()
            self._over(self.ask)

    def _hear(self, body: bytes) -> None:
        self._under_way += cost_of(body)
        if self._under_way > WINDOW:
            raise LinkError("a question's stream runs ahead of its credit")
        if self._unread:
            self._take(cost_of(body))
            return
        self._told.append(body)
        self._change.set()

    def _take(self, cost: int) -> None:
        count = self._taken.add(cost)
        if count:
            self._under_way -= count
            if self._result is None:
                self._say(More(job=self.job, fence=self.fence, ask=self.ask, count=count))


class AskedQuestions:
    """The open questions of one runner's link."""

    def __init__(self, say: Say, room: Room) -> None:
        self._say = say
        self._room = room
        self._open: dict[int, AskedQuestion] = {}
        self._last = 0
        self._cut = False

    def ask(self, job: JobId, fence: int, method: str, body: bytes, *, quiet: bool = False) -> AskedQuestion:
        """Send a question; when the link is gone it is answered at once, by an error. `quiet`: it streams nothing."""
        if len(body) > MAX_QUESTION:
            raise TooLarge(f"The question of {len(body)} bytes is longer than {MAX_QUESTION}.", hint="Send less.")
        self._last += 1
        asked = Asked(job=job, fence=fence, ask=self._last, method=method, body=body, quiet=quiet)
        question = AskedQuestion(asked, self._say, self._room, self._close)
        if self._cut:
            question.end(cut_error())
            return question
        self._open[asked.ask] = question
        self._say(asked)
        return question

    def receive(self, frame: AskFrame) -> None:
        """Take a runner's word in; one about a question that is over is ignored."""
        question = self._open.get(frame.ask)
        if question is not None and (question.job, question.fence) == (frame.job, frame.fence):
            question.receive(frame)

    def over(self, job: JobId, fence: int, error: ClawplaneError, *, method: str | None = None) -> None:
        """Answer what is still open about a lease that is gone, all of it or one method's."""
        for question in list(self._of(job, fence)):
            if method in (None, question.method):
                question.end(error)

    def cut(self) -> None:
        """Answer everybody who waits: the link is gone."""
        self._cut = True
        for question in list(self._open.values()):
            question.end(cut_error())

    def _of(self, job: JobId, fence: int) -> Iterator[AskedQuestion]:
        return (question for question in self._open.values() if (question.job, question.fence) == (job, fence))

    def _close(self, ask: int) -> None:
        self._open.pop(ask, None)


def cut_error() -> Unavailable:
    """Return the error of a question that was open when its link was cut."""
    return Unavailable(
        "The link to the session's runner was cut before the answer came.",
        hint="What was asked may have been done: look before you ask again.",
        details=(CUT,),
    )


def error_of(frame: Failed) -> ClawplaneError:
    """Return a runner's error as one of our own tree; an unknown code is a defect."""
    kind = next((kind for kind in _tree(ClawplaneError) if kind.code == frame.code), InternalError)
    return kind(frame.message[:4000], hint=frame.hint[:1000], details=tuple(text[:1000] for text in frame.details[:20]))


def _tree(kind: type[ClawplaneError]) -> Iterator[type[ClawplaneError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _tree(below)
