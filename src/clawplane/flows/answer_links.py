"""Make and read the links by which a person answers a question without a key.

A link's token is `<payload>.<signature>`, both base64url. The payload names one question (a task, or one tool use of
it) and when the link ends; the signature is under the key that lies beside the database, for this purpose only, and is
checked before anything in the payload is looked at. So a copy of the database makes no link, a link answers nothing but
its own question, and the question itself, which takes one answer, makes it good for one.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Final

import msgspec

from clawplane.domain.clock import Clock
from clawplane.domain.errors import Gone, NotFound
from clawplane.domain.host_tasks import TaskId
from clawplane.domain.questions import Kind
from clawplane.domain.sealing import Sealing

_PURPOSE: Final = "answers to questions about host tasks, form 1"
_LONGEST: Final = 2048


class Answerable(msgspec.Struct, frozen=True, array_like=True):
    """The question that a link answers; `expires_at` in milliseconds."""

    kind: Kind
    task: TaskId
    use: str
    expires_at: int


class AnswerLinks:
    """Sign links and read them back."""

    def __init__(self, sealing: Sealing, clock: Clock) -> None:
        self._sealing = sealing
        self._clock = clock

    def token(self, question: Answerable) -> str:
        """Return the token of a link."""
        payload = msgspec.json.encode(question)
        return f"{_text(payload)}.{_text(self._sealing.sign(_PURPOSE, payload))}"

    def read(self, token: str) -> Answerable:
        """Return what a token answers; raises NotFound when it is none of ours, Gone when its time is over."""
        payload_text, _, mac_text = token.partition(".")
        payload, mac = _bytes(payload_text), _bytes(mac_text)
        if len(token) > _LONGEST or not hmac.compare_digest(self._sealing.sign(_PURPOSE, payload), mac):
            raise NotFound("This link answers no question: it is incomplete, or not one of ours.", hint="")
        question = msgspec.json.decode(payload, type=Answerable)
        if question.expires_at <= self._clock.now_ms():
            raise Gone(
                "This link has expired. The question may still wait.",
                hint=f"Answer with `clawplane task approve {question.task}`, or `task refuse`.",
            )
        return question


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    """Return what a text stands for, or nothing: of the many texts that a lax reader takes, one is ours."""
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        return b""
    return data if _text(data) == text else b""
