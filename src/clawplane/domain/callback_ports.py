"""The ports of callbacks: how the edge tells a chat channel something, and how what is owed is delivered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

from clawplane.domain.errors import ClawplaneError


class CallbackUnset(ClawplaneError):
    """There is no bot token to send with."""

    code = "callback_unset"


class CallbackRefused(ClawplaneError):
    """The chat API refused a message, or could not be reached; the message says which."""

    code = "callback_refused"


class Notifier(Protocol):
    """Send one message to a chat channel, now and once."""

    async def notify(self, channel: str, message: str) -> int:
        """Send a message, cut to what the chat API takes, and return the status that it answered with.

        Raises InvalidArgument for a channel of no allowed shape (nothing was sent), CallbackUnset without a bot token,
        CallbackRefused with `Callback API <status>: <body>` or the network's own words.
        """
        ...


class Attempted(Protocol):
    """What came of one try to deliver a parcel."""

    @property
    def verdict(self) -> Literal["delivered", "later", "failed"]:
        """Return whether it is over, and how."""
        ...

    @property
    def via(self) -> Literal["chat", "hook", "webhook"]:
        """Return the way that was tried last."""
        ...

    @property
    def sent(self) -> int:
        """Return how many chunks were delivered."""
        ...

    @property
    def tries(self) -> int:
        """Return how often the chunk that was tried last has been tried."""
        ...

    @property
    def status(self) -> int:
        """Return what the receiver answered; 0 when it did not."""
        ...

    @property
    def error(self) -> str:
        """Return what went wrong, in words without secrets."""
        ...

    @property
    def wait(self) -> float:
        """Return the seconds until the next try, when it is `later`."""
        ...

    @property
    def skipped(self) -> str:
        """Return why a gateway's hook was passed over; "" when none was."""
        ...


def outcome_of(attempted: Attempted) -> dict[str, Any]:
    """Return what is recorded of the last try of a delivery."""
    told: dict[str, Any] = {}
    if attempted.tries:
        told["attempts"] = attempted.tries
    if attempted.status:
        told["status"] = attempted.status
    if attempted.error:
        told["error"] = attempted.error
    if attempted.via == "hook":
        told["via"] = "hook"
    return told


class Told(Protocol):
    """What a chat answered to a single message."""

    @property
    def status(self) -> int:
        """Return the status, 0 when there was no answer."""
        ...

    @property
    def text(self) -> str:
        """Return the answer's body, or why there was none."""
        ...

    @property
    def allowed(self) -> bool:
        """Tell whether it was sent at all: a channel of no allowed shape never is."""
        ...


class Courier(Protocol):
    """Tries to deliver, once a call, and keeps nothing; secrets in clear."""

    @property
    def has_token(self) -> bool:
        """Tell whether messages without a token of their own can be sent."""
        ...

    async def notify(self, channel: str, message: str) -> Told:
        """Send one message now and once."""
        ...

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
        """Try to deliver a message from chunk `sent` on; `delivered` is awaited behind each chunk but the last.

        `by_hook` False: never through a gateway's hook, where an agent reads it.
        """
        ...

    async def webhook(self, parcel: str, url: str, body: bytes, *, secret: str, tries: int) -> Attempted:
        """Try to deliver a signed notice."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
