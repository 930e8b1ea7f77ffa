"""Try to deliver one parcel, and say what is to happen next.

Nothing is kept here: whoever calls keeps how far a parcel got, and calls again when it is time. A chat message is sent
chunk by chunk, and `delivered` is awaited after each, so that a process that dies between two goes on with the next.
A gateway's hook is tried once, before the first try at the chat. Five tries for a chunk (or a webhook), 3, 6, 9 and
12 seconds apart, or as far as the receiver asks; refusals that would not change end it at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from clawplane.callbacks.answers import Answer, CannotSend, NotAllowed
from clawplane.callbacks.chat import Chat
from clawplane.callbacks.chunks import chunks, cut
from clawplane.callbacks.hook import Hook
from clawplane.callbacks.webhook import Webhooks

TRIES: Final = 5
LIMITED_TRIES: Final = 20
"""Tries when the receiver only says "not yet": that is no failure, but it must end."""
WAIT_SECONDS: Final = (3.0, 6.0, 9.0, 12.0)

_SHOWN: Final = 300

Verdict = Literal["delivered", "later", "failed"]
Via = Literal["chat", "hook", "webhook"]


@dataclass(frozen=True, slots=True)
class Attempted:
    """What came of a try: `wait` in seconds before the next one, `sent` chunks so far, `status` 0 without an answer.

    `tries` counts those of the chunk that was tried last; `skipped` says why a hook was passed over, "" if none was.
    """

    verdict: Verdict
    via: Via
    sent: int
    tries: int
    status: int = 0
    error: str = ""
    wait: float = 0.0
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """What a chat answered to a single message; `status` 0 and the reason in `text` when there was no answer."""

    status: int
    text: str
    allowed: bool = True


class Courier:
    """Delivers. `token` is the bot token of messages that bring none; hook and webhooks are None when not offered."""

    def __init__(
        self, chat: Chat, *, token: str = "", hook: Hook | None = None, webhooks: Webhooks | None = None
    ) -> None:
        self._chat = chat
        self._token = token
        self._hook = hook
        self._webhooks = webhooks

    @property
    def has_token(self) -> bool:
        """Tell whether messages without a token of their own can be sent."""
        return bool(self._token)

    async def notify(self, channel: str, message: str) -> Told:
        """Send one message now and once, cut to what a chat takes."""
        try:
            answer = await self._chat.send(channel, cut(message), self._token)
        except NotAllowed as error:
            return Told(0, str(error), allowed=False)
        except CannotSend as error:
            return Told(0, str(error))
        return Told(answer.status, answer.body)

    async def chat(
        self,
        parcel: str,
        channel: str,
        text: str,
        *,
        token: str,
        sent: int,
        tries: int,
        delivered: Callable[[int], Awaitable[None]],
        by_hook: bool = True,
    ) -> Attempted:
        """Try to deliver a message to a channel, from chunk `sent` on; `tries` of that chunk were made before."""
        skipped = ""
        if by_hook and self._hook is not None and sent == 0 and tries == 0:
            skipped, answer = await self._by_hook(self._hook, channel, text)
            if answer is not None:
                return Attempted("delivered", "hook", sent, 1, answer.status)
        if not (token or self._token):
            return Attempted("failed", "chat", sent, tries, error="CALLBACK_BOT_TOKEN not set", skipped=skipped)
        attempted = await self._by_chat(
            parcel,
            channel,
            chunks(text),
            token=token or self._token,
            sent=sent,
            tries=tries,
            delivered=delivered,
        )
        return replace(attempted, skipped=skipped)

    async def webhook(self, parcel: str, url: str, body: bytes, *, secret: str, tries: int) -> Attempted:
        """Try to deliver a notice to an address."""
        if self._webhooks is None:
            off = "webhooks are off: CLAWPLANE_WEBHOOK_SECRET is not set"
            return Attempted("failed", "webhook", 0, tries, error=off)
        try:
            answer = await self._webhooks.send(url, body, delivery=parcel, secret=secret)
        except NotAllowed as error:
            return Attempted("failed", "webhook", 0, tries, error=str(error))
        except CannotSend as error:
            return _after_silence("webhook", 0, tries + 1, str(error))
        if answer.good:
            return Attempted("delivered", "webhook", 1, tries + 1, answer.status)
        return _after_refusal("webhook", 0, tries + 1, answer)

    async def close(self) -> None:
        """Close the connections."""
        await self._chat.close()
        if self._hook is not None:
            await self._hook.close()
        if self._webhooks is not None:
            await self._webhooks.close()

    async def _by_hook(self, hook: Hook, channel: str, text: str) -> tuple[str, Answer | None]:
        """Return the answer of a gateway that took a message, or why it did not."""
        try:
            answer = await hook.send(channel, text)
        except (CannotSend, NotAllowed) as error:
            return str(error), None
        return (f"status {answer.status}", None) if not answer.good else ("", answer)

    async def _by_chat(
        self,
        parcel: str,
        channel: str,
        pieces: list[str],
        *,
        token: str,
        sent: int,
        tries: int,
        delivered: Callable[[int], Awaitable[None]],
    ) -> Attempted:
        status = 0
        for number in range(sent, len(pieces)):
            tries += 1
            try:
                answer = await self._chat.send(channel, pieces[number], token, nonce=f"{parcel}-{number}")
            except NotAllowed as error:
                return Attempted("failed", "chat", number, tries, error=str(error))
            except CannotSend as error:
                return _after_silence("chat", number, tries, str(error))
            status = answer.status
            if not answer.good:
                return _after_refusal("chat", number, tries, answer)
            if number + 1 < len(pieces):
                await delivered(number + 1)
                tries = 0
        return Attempted("delivered", "chat", len(pieces), max(tries, 1), status)


def _after_silence(via: Via, sent: int, tries: int, error: str) -> Attempted:
    if tries >= TRIES:
        return Attempted("failed", via, sent, tries, error=error)
    return Attempted("later", via, sent, tries, error=error, wait=_pause(tries))


def _after_refusal(via: Via, sent: int, tries: int, answer: Answer) -> Attempted:
    error = f"{answer.status}: {answer.body[:_SHOWN]}"
    if answer.permanent or tries >= (LIMITED_TRIES if answer.limited else TRIES):
        return Attempted("failed", via, sent, tries, answer.status, error)
    wait = _pause(tries) if answer.retry_after is None else answer.retry_after
    return Attempted("later", via, sent, tries, answer.status, error, wait)


def _pause(tries: int) -> float:
    return WAIT_SECONDS[min(tries, len(WAIT_SECONDS)) - 1]
