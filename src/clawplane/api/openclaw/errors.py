"""The Task API's error bodies: `{"error": sentence}` and nothing else, on all its paths.

| error | status |
| --- | --- |
| no token, an unknown one | 401 `Unauthorized` |
| a token without the scope | 403 |
| a bad field or body | 400 |
| an unknown task, path or method | 404 |
| an idempotency key used again, a task that has ended | 409 |
| a body above 5 MiB | 413 |
| a charset or packing that is not understood | 415 |
| too many requests | 429 |
| no bot token | 500, the chat API refused | 502 |
| the store is locked, full, closed | 503, 507, 503 |
| a defect of ours | 500 without details |
"""

from __future__ import annotations

from typing import Final

from clawplane.api.errors import answer_for
from clawplane.api.openclaw.bodies import UnsupportedMedia
from clawplane.api.openclaw.visits import Reply, answer
from clawplane.domain.callback_ports import CallbackRefused, CallbackUnset
from clawplane.domain.errors import (
    AuthenticationRequired,
    ClawplaneError,
    InternalError,
    InvalidArgument,
    InvalidToken,
    StoreError,
)

_STATUSES: Final[dict[type[ClawplaneError], int]] = {
    UnsupportedMedia: 415,
    CallbackUnset: 500,
    CallbackRefused: 502,
    InvalidArgument: 400,
}


def refusal(error: ClawplaneError) -> Reply:
    """Return the answer to a request that ended in `error`."""
    if isinstance(error, AuthenticationRequired | InvalidToken):
        return said("Unauthorized", 401)
    if isinstance(error, InternalError):
        return said("Internal server error", 500)
    if isinstance(error, StoreError):  # its message may hold paths of this host
        return said("The store cannot take or give data now", status_of(error))
    return said(error.message, status_of(error))


def status_of(error: ClawplaneError) -> int:
    """Return the status of an error on this wire."""
    for kind, status in _STATUSES.items():
        if isinstance(error, kind):
            return status
    return answer_for(error).native_status


def said(sentence: str, status: int) -> Reply:
    """Return an error body."""
    return answer({"error": sentence}, status)
