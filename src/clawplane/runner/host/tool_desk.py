"""Keep the tool uses of one running agent that wait for a person, and hand each its answer.

A use is told in the task's live output when it begins to wait; whoever decides asks over the link (domain/tool_uses).
Nothing is remembered beyond the task: a runner that ends takes its agent, and with it the question, along.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

import msgspec

from clawplane.domain.clock import Clock
from clawplane.domain.errors import InvalidArgument, NotImplementedHere
from clawplane.domain.tool_uses import Decide, Decided, ToolUse, ToolUses
from clawplane.link.asking import Asking
from clawplane.runner.host.agents.turn import ToolAnswer, ToolAsk

_MOST_WAITING: Final = 64


class ToolDesk:
    """The open questions of one task; `tell` hears of each new one."""

    def __init__(self, tell: Callable[[ToolUse], None], clock: Clock) -> None:
        self._tell = tell
        self._clock = clock
        self._waiting: dict[str, tuple[ToolUse, asyncio.Future[ToolAnswer]]] = {}

    async def ask(self, ask: ToolAsk) -> ToolAnswer:
        """Wait for a person's answer; cancelled, it is no question any more."""
        if len(self._waiting) >= _MOST_WAITING:
            return ToolAnswer(allowed=False, reason="Too many tool uses wait for a person.")
        use = ToolUse(
            id=secrets.token_hex(6), tool=ask.tool, detail=ask.detail, cwd=ask.cwd, asked_at=self._clock.now_ms()
        )
        answer: asyncio.Future[ToolAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[use.id] = (use, answer)
        try:
            self._tell(use)
            return await answer
        finally:
            del self._waiting[use.id]

    def asked(self, asking: Asking) -> None:
        """Answer a question about what waits; raises NotImplementedHere and InvalidArgument."""
        match asking.method:
            case "tool_uses":
                told: msgspec.Struct = ToolUses(waiting=tuple(use for use, _ in self._waiting.values()))
            case "decide_tool":
                told = Decided(taken=self._decide(asking.body))
            case _:
                raise NotImplementedHere("A host task answers questions about its tool uses only.")
        asking.answer(msgspec.msgpack.encode(told))

    def _decide(self, body: bytes) -> bool:
        try:
            word = msgspec.msgpack.decode(body, type=Decide)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"The decision cannot be read: {error}") from None
        _, answer = self._waiting.get(word.id, (None, None))
        if answer is None or answer.done():
            return False
        answer.set_result(ToolAnswer(allowed=word.allowed, reason=word.reason))
        return True
