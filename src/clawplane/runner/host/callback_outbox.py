"""Send the callbacks of tasks that a polling runner did, from a durable outbox on its own disk.

Each callback is one private file, written before anything is sent and after each chunk that was; it goes when its last
event is with the server. So a runner that is killed between two chunks sends the rest when it starts again, and each
callback gets `callback.dispatched` and exactly one of `callback.sent` and `callback.failed`, however long the server
is away. Callbacks to one channel go one after the other.

Bot tokens that came with a task are sealed with a key made from WORKER_TOKEN, which is not on this disk: the files tell
nobody a token. After the token was changed they cannot be read; the environment's bot token is used then.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final
from weakref import WeakValueDictionary

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from clawplane.callbacks.delivery import Attempted, Courier
from clawplane.domain.callback_ports import outcome_of
from clawplane.domain.clock import Clock
from clawplane.domain.host_tasks import TaskId
from clawplane.runner.host.disk_turns import DiskTurns
from clawplane.runner.host.pausing import Pause
from clawplane.runner.host.reporting import FIRST_WAIT, LONGEST_WAIT
from clawplane.runner.host.spool import Spool
from clawplane.runner.host.task_api import TaskApi, TaskApiFailed

_NONCE: Final = 12
_AT_ONCE: Final = 8

_log = logging.getLogger(__name__)


class Letter(msgspec.Struct, kw_only=True):
    """One callback on its way; `untold` are events that the server has not heard of, `over` means nothing is sent."""

    task: TaskId
    channel: str
    text: str
    token: bytes = b""
    about: dict[str, Any] = {}
    sent: int = 0
    tries: int = 0
    next_at: int = 0
    over: bool = False
    untold: list[dict[str, Any]] = []


class TokenSeal:
    """Seals bot tokens with a key derived from the runner's own token."""

    def __init__(self, token: str) -> None:
        self._cipher = AESGCM(hashlib.sha256(b"clawplane callback outbox\0" + token.encode()).digest())

    def seal(self, secret: str) -> bytes:
        """Return what may lie on disk; b"" for no secret."""
        if not secret:
            return b""
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, secret.encode("utf-8", "replace"), None)

    def unseal(self, sealed: bytes) -> str:
        """Return the secret, "" when there is none or it cannot be read any more."""
        if not sealed:
            return ""
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], None).decode()
        except (InvalidTag, ValueError):
            _log.warning("The bot token of a callback was sealed under another WORKER_TOKEN; it is not used")
            return ""


class CallbackOutbox:
    """The callbacks of one runner; `jitter` as in reporting.py."""

    def __init__(
        self,
        spool: Spool,
        courier: Courier,
        api: TaskApi,
        seal: TokenSeal,
        clock: Clock,
        *,
        pause: Pause = asyncio.sleep,
        jitter: Callable[[float], float],
    ) -> None:
        self._spool = spool
        self._courier = courier
        self._api = api
        self._seal = seal
        self._clock = clock
        self._pause = pause
        self._jitter = jitter
        self._lanes: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._going: set[asyncio.Task[None]] = set()
        self._disk = DiskTurns()

    async def start(self) -> int:
        """Go on with what an earlier life of this runner began; return how many callbacks that is."""
        kept = await self._disk.do(self._spool.load)
        for name, body in kept.items():
            try:
                letter = msgspec.msgpack.decode(body, type=Letter)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                await self._disk.do(self._spool.set_aside, name)
                continue
            self._carry(name, letter)
        return len(kept)

    async def put(
        self, task: TaskId, channel: str, text: str, *, token: str, about: Mapping[str, Any], details: dict[str, Any]
    ) -> Callable[[], None]:
        """Keep a callback durably; what is returned is called to let it go out, once the end is on its way, too.

        about: what the events say of the task; details: of `callback.dispatched`, beside the channel.
        """
        dispatched = {"type": "callback.dispatched", "details": {"channel": channel, **details}}
        letter = Letter(
            task=task,
            channel=channel,
            text=text,
            token=self._seal.seal(token),
            about=dict(about),
            untold=[dispatched],
        )
        name = f"callback-{self._clock.now_ms()}-{secrets.token_hex(8)}"
        await self._keep(name, letter)
        return lambda: self._carry(name, letter)

    async def settle(self, seconds: float) -> bool:
        """Wait until everything is delivered and told, at most that long; True when it is."""
        if self._going:
            await asyncio.wait(self._going, timeout=seconds)
        return not self._going

    async def close(self) -> None:
        """Stop; what is not delivered stays on disk."""
        for task in self._going:
            task.cancel()
        await asyncio.gather(*self._going, return_exceptions=True)
        await self._disk.close()
        await self._courier.close()

    def _carry(self, name: str, letter: Letter) -> None:
        task = asyncio.create_task(self._deliver(name, letter))
        self._going.add(task)
        task.add_done_callback(self._carried)

    def _carried(self, task: asyncio.Task[None]) -> None:
        self._going.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("A callback stays on disk until the next start, by a defect", exc_info=error)

    async def _deliver(self, name: str, letter: Letter) -> None:
        lane = self._lanes.get(letter.channel)
        if lane is None:
            lane = self._lanes[letter.channel] = asyncio.Lock()
        async with lane:
            await self._tell(name, letter)
            while not letter.over:
                await self._pause(max(letter.next_at - self._clock.now_ms(), 0) / 1000)
                async with self._at_once:
                    attempted = await self._try(name, letter)
                self._note(letter, attempted)
                await self._keep(name, letter)
        wait = FIRST_WAIT
        while not await self._tell(name, letter):
            await self._pause(self._jitter(wait))
            wait = min(wait * 2, LONGEST_WAIT)
        await self._disk.do(self._spool.remove, name)

    async def _try(self, name: str, letter: Letter) -> Attempted:
        async def delivered(sent: int) -> None:
            letter.sent, letter.tries = sent, 0
            await self._keep(name, letter)

        return await self._courier.chat(
            name.removeprefix("callback-"),
            letter.channel,
            letter.text,
            token=self._seal.unseal(letter.token),
            sent=letter.sent,
            tries=letter.tries,
            delivered=delivered,
        )

    def _note(self, letter: Letter, attempted: Attempted) -> None:
        if attempted.skipped:
            passed_over = {"channel": letter.channel, "from": "hook", "to": "chat", "error": attempted.skipped}
            letter.untold.append({"type": "callback.fallback", "details": passed_over})
        letter.sent, letter.tries = attempted.sent, attempted.tries
        if attempted.verdict == "later":
            letter.next_at = self._clock.now_ms() + round(attempted.wait * 1000)
            return
        letter.over = True
        ended = "callback.sent" if attempted.verdict == "delivered" else "callback.failed"
        letter.untold.append({"type": ended, "details": {"channel": letter.channel, **outcome_of(attempted)}})

    async def _tell(self, name: str, letter: Letter) -> bool:
        """Tell the server what it has not heard of; False when something is left."""
        while letter.untold:
            body = json.dumps({"taskId": letter.task, "metadata": letter.about, **letter.untold[0]}).encode()
            try:
                await self._api.event(body)
            except TaskApiFailed as error:
                if not error.final:
                    return False
                _log.warning("An event of task %s is refused and dropped: %s", letter.task, error)
            del letter.untold[0]
            await self._keep(name, letter)
        return True

    async def _keep(self, name: str, letter: Letter) -> None:
        body = msgspec.msgpack.encode(letter)
        try:
            await self._disk.do(self._spool.put, name, body)
        except OSError as error:
            _log.error("The callback of task %s could not be written to disk: %s", letter.task, error)
