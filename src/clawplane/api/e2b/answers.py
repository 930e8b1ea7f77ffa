"""Answer in the three shapes that E2B clients read: the control API, the sandbox's daemon, the code interpreter.

The status decides which exception a client raises; the sentence is ours. A sandbox that is gone is 502 on its own
ports, with the words by which clients tell "ended" from "unreachable".

| shape | body |
| --- | --- |
| control, daemon | `{"code": 404, "message": "..."}` |
| remote calls of the daemon | `{"code": "not_found", "message": "..."}` |
| code interpreter | the sentence as plain text |
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from starlette.responses import Response

from clawplane.domain import errors
from clawplane.domain.errors import ClawplaneError, NotFound

Shape = Literal["control", "daemon", "remote", "interpreter"]

_STATUSES: Final[dict[type[ClawplaneError], tuple[int, str]]] = {
    errors.InvalidArgument: (400, "invalid_argument"),
    errors.NotFound: (404, "not_found"),
    errors.Gone: (404, "not_found"),
    errors.AuthenticationRequired: (401, "unauthenticated"),
    errors.InvalidToken: (401, "unauthenticated"),
    errors.Forbidden: (403, "permission_denied"),
    errors.ConcurrencyLimited: (429, "resource_exhausted"),
    errors.RateLimited: (429, "resource_exhausted"),
    errors.TooLarge: (413, "resource_exhausted"),
    errors.Conflict: (409, "failed_precondition"),
    errors.StoreFull: (507, "resource_exhausted"),
    errors.Unavailable: (503, "unavailable"),
    errors.NotImplementedHere: (501, "unimplemented"),
    errors.InternalError: (500, "internal"),
}


class SandboxGone(NotFound):
    """A sandbox that has ended, or never was; asked on its own ports."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"The sandbox {session_id[:64]!r} was not found.", hint="")


class Exists(errors.Conflict):
    """Something that was to be made is there."""


def outside(what: str, hint: str = "") -> errors.NotImplementedHere:
    """Return the error for a part of E2B that clawplane does not have."""
    return errors.NotImplementedHere(f"clawplane does not offer {what}.", hint=hint)


def status_of(error: ClawplaneError) -> tuple[int, str]:
    """Return the HTTP status and the code of remote calls for an error."""
    if isinstance(error, SandboxGone):
        return 502, "unavailable"
    if isinstance(error, Exists):
        return 409, "already_exists"
    for kind in type(error).__mro__:
        if kind in _STATUSES:
            return _STATUSES[kind]
    return 500, "internal"


def sentence(error: ClawplaneError) -> str:
    """Return an error as one text, its hint included."""
    text = " ".join(part for part in (error.message, *error.details, error.hint) if part)
    return text.encode("utf-8", "replace").decode()


def refusal(error: ClawplaneError, shape: Shape) -> Response:
    """Return the answer to a request that ended in `error`."""
    status, code = status_of(error)
    text = sentence(error)
    if shape == "interpreter":
        return Response(text, status_code=status, media_type="text/plain")
    return as_json({"code": code if shape == "remote" else status, "message": text}, status=status)


def as_json(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON answer."""
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json", headers=headers)


def nothing() -> Response:
    """Return the empty answer."""
    return Response(status_code=204)
