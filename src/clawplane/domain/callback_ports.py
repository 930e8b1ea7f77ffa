"""The port through which the edge tells a chat channel something; whoever sends implements it."""

from __future__ import annotations

from typing import Protocol

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
