"""Hold one code session: from the lease to the reason for which it ends.

    prepare: a sandbox, from the ready pool or from cold; what is asked meanwhile waits, and its callers are told why
    run: the session lives; it ends by itself (expired, saved, lost) or by a word from outside
    stop (Cancel): it was deleted; its workspace goes with it            -> closed
    leave (the runner leaves): save its variables                        -> saved, or lost
    kill (Drop, give back): its memory is gone, its workspace stays

The outcome's reason is that word; the control plane makes `ended` of closed and expired, `sleeping` of the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from clawplane.domain.errors import ClawplaneError, InternalError, RateLimited, StaleLease, Unavailable
from clawplane.domain.leases import Offer, Outcome
from clawplane.domain.runner_asks import REFUSED
from clawplane.domain.sessions import ExecEvent, LiveState, SessionSpec
from clawplane.link.asking import Asking
from clawplane.runner.jobs.job import CannotPrepare, Endless
from clawplane.runner.sessions.house import House
from clawplane.runner.sessions.live import Live
from clawplane.runner.sessions.turns import MOST_WAITING

_FIRST_SECONDS: Final = 0.5
"""A wait shorter than this needs no explanation."""
_REASSURE_SECONDS: Final = 2.0


def _ended_unstarted() -> ClawplaneError:
    """Return the error of whoever asked a session that was ended, or taken back, before it began; nothing was done."""
    gone = "The session ended before it was started."
    return StaleLease(gone, hint="Ask again: it starts if it can.", details=(REFUSED,))


def _sentence(error: Exception) -> ClawplaneError:
    """Return why a session has no sandbox, whatever went wrong."""
    if isinstance(error, ClawplaneError):
        return error
    logging.getLogger(__name__).error("A session could not be started", exc_info=error)
    if isinstance(error, OSError):
        return Unavailable(f"The session could not be started: {error.strerror or error}.")
    defect = f"The session could not be started, by a defect of the runner ({type(error).__name__})"
    return InternalError(f"{defect}; its log has the details.")


class SessionJob(Endless):
    """One life of a session; implements `Job`."""

    def __init__(self, offer: Offer, house: House, note: Callable[[LiveState], None]) -> None:
        self._spec = msgspec.msgpack.decode(offer.spec, type=SessionSpec)
        self._house = house
        self._note = note
        self._live: Live | None = None
        self._early: list[Asking] = []
        self._leaving = False
        self._closing = False
        self._failure: ClawplaneError = _ended_unstarted()
        self._reassuring: asyncio.Task[None] | None = None
        self._told = ""

    def asked(self, asking: Asking) -> None:
        """Take a question; before the session lives it waits."""
        if self._live is not None:
            self._live.asked(asking)
        elif len(self._early) >= MOST_WAITING:
            asking.fail(RateLimited("Too many questions wait for this session."))
        else:
            self._early.append(asking)

    async def prepare(self) -> None:
        """Have a sandbox with an interpreter; nothing of the session's runs in it yet."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._reassuring = asyncio.create_task(self._reassure())
        try:
            live = await self._house.open(self._spec, self._note)
        except Exception as error:  # whatever it was: the attempt ends with a sentence that says so
            self._failure = _sentence(error)
            raise CannotPrepare(self._failure.message) from error
        finally:
            self._reassuring.cancel()
        self._live = live
        if self._told:
            live.execs.note(f"The session's start took {loop.time() - began:.0f} s. {self._told}")
        early, self._early = self._early, []
        for asking in early:
            live.asked(asking)

    async def run(self) -> Outcome:
        """Live until something ends the session."""
        live = self._live
        if live is None:
            raise CannotPrepare("A session was run before it was prepared.")
        if self._closing:
            live.close()
        elif self._leaving:
            live.leave()
        end = await live.run()
        return Outcome(
            succeeded=end.reason != "lost",
            reason=end.reason,
            message=end.message,
            wall_ms=end.wall_ms,
            cpu_ms=end.cpu_ms,
            peak_memory=end.peak_memory,
        )

    def stop(self) -> None:
        """Delete the session."""
        self._closing = True
        if self._live is not None:
            self._live.close()

    def leave(self) -> None:
        """Save what can be saved and end: the runner leaves."""
        self._leaving = True
        if self._live is not None:
            self._live.leave()

    def kill(self) -> None:
        """End at once; the workspace stays."""
        if self._live is not None:
            self._live.kill()

    async def close(self) -> None:
        """Let go of the sandbox and answer everybody who still waits."""
        if self._reassuring is not None:
            self._reassuring.cancel()
        for asking in self._early:
            asking.fail(self._failure)
        self._early.clear()
        if self._live is not None:
            await self._house.left(self._live)

    async def _reassure(self) -> None:
        """Tell those who wait for more than a moment what they wait for."""
        await asyncio.sleep(_FIRST_SECONDS)
        while True:
            self._told = self._house.progress(self._spec.options.profile)
            ping = msgspec.msgpack.encode(ExecEvent(type="ping", text=self._told))
            for asking in self._early:
                if asking.method == "exec" and not asking.done:
                    await asking.tell(ping)
            await asyncio.sleep(_REASSURE_SECONDS)
