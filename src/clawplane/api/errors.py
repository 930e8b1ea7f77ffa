"""The one table from our errors to the wire.

Both dialects answer in the same envelope. On the CoreClaw paths the message is the one that its table gives to the
code, and what exactly is wrong stands in `details`; semantic refusals (400 with 11000) carry their own sentence, as
production does. On our own paths the message is always our sentence, and the status says what HTTP has a status for.
Sessions and tools (`/v1/tools`, `/v1/sessions`, `/v1/workspaces`, `/v1/sandbox`) answer without the envelope:
`{"error": sentence, "code": machine code, "hint": way out, "request_id": ...}`, with the statuses of our own paths.

| error | CoreClaw | ours |
| --- | --- | --- |
| `invalid_argument`, `unchanged` | 400 / 11000 | 400 |
| `invalid_schema` | 422 / 11000 | 422 |
| `not_found`, `run_not_found` | 404 / 11004 | 404 |
| `gone` | 404 / 11004 | 410 |
| `worker_not_found` | 400 / 50001 | 404 |
| `authentication_required` | 401 / 12001 | 401 |
| `invalid_token` | 401 / 12002 | 401 |
| `forbidden` | 403 / 12002 | 403 |
| `version_unavailable` | 400 / 50003 | 409 |
| `not_abortable` | 400 / 70002 | 409 |
| `concurrency_limited` | 400 / 30003 | 429 |
| `rate_limited` | 429 / 13000 | 429 |
| `too_large` | 413 / 11000 | 413 |
| `conflict`, `stale_lease` | 400 / 11000 | 409 |
| `store_error`, `store_busy`, `store_full` | 500 / 14000 | 500, 503, 507 |
| `unavailable` | 503 / 10000 | 503 |
| `not_implemented` | 501 / 16000 | 501 |
| `internal_error` | 500 / 10000 | 500 |
| an unknown path, an impossible method | 404 / 11004, 405 / 11000 | 404, 405 |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from starlette.responses import Response

from clawplane.domain import errors
from clawplane.domain.errors import ClawplaneError


@dataclass(frozen=True, slots=True)
class Answer:
    """How one error looks: the CoreClaw code, its fixed message (None = the error's own), and both statuses."""

    code: int
    message: str | None
    status: int
    native_status: int


_INVALID = "invalid argument"
_TOOLS: Final = "/v1/tools/"
_PLAIN: Final = (_TOOLS, "/v1/sessions", "/v1/workspaces", "/v1/sandbox/")

TABLE: Final[dict[type[ClawplaneError], Answer]] = {
    errors.InvalidArgument: Answer(11000, None, 400, 400),
    errors.Unchanged: Answer(11000, None, 400, 400),
    errors.InvalidSchema: Answer(11000, _INVALID, 422, 422),
    errors.NotFound: Answer(11004, "not found", 404, 404),
    errors.RunNotFound: Answer(11004, "not found", 404, 404),
    errors.Gone: Answer(11004, "not found", 404, 410),
    errors.WorkerNotFound: Answer(50001, "worker does not exist", 400, 404),
    errors.AuthenticationRequired: Answer(12001, "authentication required", 401, 401),
    errors.InvalidToken: Answer(12002, "invalid token", 401, 401),
    errors.Forbidden: Answer(12002, "invalid token", 403, 403),
    errors.VersionUnavailable: Answer(50003, "the worker version is not available", 400, 409),
    errors.NotAbortable: Answer(70002, "run operation failed", 400, 409),
    errors.ConcurrencyLimited: Answer(30003, "the current running tasks have reached the plan limit", 400, 429),
    errors.RateLimited: Answer(13000, "too many requests", 429, 429),
    errors.TooLarge: Answer(11000, _INVALID, 413, 413),
    errors.Conflict: Answer(11000, None, 400, 409),
    errors.StaleLease: Answer(11000, None, 400, 409),
    errors.StoreError: Answer(14000, "database error", 500, 500),
    errors.StoreBusy: Answer(14000, "database error", 500, 503),
    errors.StoreFull: Answer(14000, "database error", 500, 507),
    errors.Unavailable: Answer(10000, "internal server error", 503, 503),
    errors.NotImplementedHere: Answer(16000, "not implemented", 501, 501),
    errors.InternalError: Answer(10000, "internal server error", 500, 500),
}


def answer_for(error: ClawplaneError) -> Answer:
    """Return the line of the table for an error; a class that is not listed is answered as its nearest ancestor."""
    for kind in type(error).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    return TABLE[errors.InternalError]


def is_native(path: str) -> bool:
    """Tell whether a path is of our own API."""
    return path.startswith("/v1/") or path in {"/v1", "/mcp"}


def is_plain(path: str) -> bool:
    """Tell whether a path answers without an envelope: sessions and tools, whose errors are sentences."""
    return path.startswith(_PLAIN)


def plain_body(error: ClawplaneError, request_id: str) -> dict[str, Any]:
    """Return an error as sessions and tools say it: a sentence, its code, the way out."""
    return {
        "error": _clean(error.message),
        "code": error.code,
        "hint": _clean(error.hint),
        "request_id": request_id,
    }


def to_response(error: ClawplaneError, *, path: str, request_id: str) -> Response:
    """Return the answer to a request at `path` that ended in `error`."""
    answer = answer_for(error)
    native = is_native(path)
    if is_plain(path):
        streams = {"stdout": "", "stderr": ""} if path.startswith(_TOOLS) else {}
        body = streams | plain_body(error, request_id)
    else:
        message, details = _words(error, answer, native)
        body = {"code": answer.code, "message": message, "request_id": request_id, "details": details}
        body["error"] = error.code
        if error.hint:
            body["hint"] = _clean(error.hint)
    headers = {}
    if answer.native_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.RateLimited):
        headers["Retry-After"] = "1"
    return Response(
        msgspec.json.encode(body),
        status_code=answer.native_status if native else answer.status,
        media_type="application/json",
        headers=headers,
    )


def unrouted(status: int, *, method: str, request_id: str, allow: str | None) -> Response:
    """Return the answer to a request that no operation takes: 404 for an unknown path, 405 for a method."""
    if status == 405:
        code, message = 11000, "method not allowed"
        details = [f"{method} is not possible on this path. Allowed: {allow or 'nothing'}."]
    else:
        code, message, details = 11004, "not found", ["There is no such path; see /openapi.json."]
    body = {"code": code, "message": message, "request_id": request_id, "details": details, "error": "not_found"}
    if status == 405:
        body["error"] = "method_not_allowed"
    headers = {"Allow": allow} if allow else None
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json", headers=headers)


def _words(error: ClawplaneError, answer: Answer, native: bool) -> tuple[str, list[str]]:
    details = [_clean(detail) for detail in error.details]
    sentence = _clean(error.message)
    if native or answer.message is None:
        return sentence, details or ([_clean(error.hint)] if error.hint else [])
    return answer.message, [sentence, *(detail for detail in details if detail != sentence)]


def _clean(text: str) -> str:
    """Return text that UTF-8 can hold, whatever a caller sent."""
    return text.encode("utf-8", "replace").decode()
