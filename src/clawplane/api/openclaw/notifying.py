"""Say something in a chat channel on behalf of a client."""

from __future__ import annotations

from clawplane.api.openclaw.values import text_of
from clawplane.api.openclaw.visits import Reply, Visit, answer
from clawplane.domain.callback_ports import CallbackUnset
from clawplane.domain.errors import InvalidArgument


async def notify(visit: Visit) -> Reply:
    """Send a message to a channel and answer with the chat API's status."""
    body = await visit.json()
    channel, message = text_of(body.get("channel")), body.get("message")
    if not channel or not isinstance(message, str) or not text_of(message):
        raise InvalidArgument("channel and message are required")
    notifier = visit.house.notifier
    if notifier is None:
        raise CallbackUnset("CALLBACK_BOT_TOKEN not set")
    return answer({"ok": True, "status": await notifier.notify(channel, message)})
