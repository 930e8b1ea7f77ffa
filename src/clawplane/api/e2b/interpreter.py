"""Run code and stream what it says, one JSON object per line, as E2B's code interpreter does.

Lines are plain ASCII: clients split a stream at every character that Unicode calls a line end, not only at LF.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import msgspec
from starlette.responses import Response

from clawplane.api.e2b.answers import sentence
from clawplane.api.e2b.contexts import Place, place_of, tool_of
from clawplane.api.e2b.gate import Visit
from clawplane.api.e2b.slots import result_of
from clawplane.api.e2b.streams import ClosingStream, Paced
from clawplane.domain.errors import ClawplaneError, InvalidArgument
from clawplane.domain.ids import new_ulid
from clawplane.domain.session_rules import check_code, check_environment
from clawplane.domain.sessions import MAX_TIMEOUT, ExecEvent, ExecRequest, ExecResult, ExecStatus

KEEPALIVE_SECONDS: Final = 5.0
_FIRST_SECONDS: Final = 1.0

_NAMES: Final[dict[ExecStatus, str]] = {
    "error": "Error",
    "timeout": "TimeoutError",
    "memory": "MemoryLimitError",
    "killed": "KilledError",
    "cancelled": "KeyboardInterrupt",
    "exited": "SystemExit",
    "disk": "DiskLimitError",
}


class Code(msgspec.Struct, frozen=True):
    """The order to run code; `context_id` and `language` exclude each other."""

    code: str
    context_id: str | None = None
    language: str | None = None
    env_vars: dict[str, str] | None = None


async def execute(visit: Visit) -> Response:
    """Run code; a client that leaves ends it."""
    order = await visit.body(Code)
    if order.context_id and order.language:
        raise InvalidArgument("context_id: it cannot be given together with language.", hint="Give one of them.")
    place = place_of(order.context_id) if order.context_id else Place(tool_of(order.language))
    request = ExecRequest(
        id=new_ulid(visit.house.clock.now_ms()),
        tool=place.tool,
        code=check_code(order.code, "code"),
        timeout=MAX_TIMEOUT,
        context=place.namespace,
        environment=check_environment(order.env_vars or {}, "env_vars"),
        directory=place.directory,
        raw=True,
    )
    events = Paced(visit.house.sessions.execute(visit.caller, visit.session.id, request), every=KEEPALIVE_SECONDS)
    await events.begin(_FIRST_SECONDS)
    return ClosingStream(_lines(visit, events), media_type="application/x-ndjson")


async def _lines(visit: Visit, events: Paced[ExecEvent | ExecResult]) -> AsyncGenerator[bytes, None]:
    telling = _Telling()
    async with aclosing(events.items()) as items:
        try:
            async for item in items:
                now = visit.house.clock.now_ms() * 1_000_000
                if item is None:
                    yield _line({"type": "keepalive"})
                elif isinstance(item, ExecResult):
                    for line in telling.end(item, now):
                        yield _line(line)
                else:
                    for line in telling.event(item, now):
                        yield _line(line)
        except ClawplaneError as error:  # the head of the answer is out
            yield _line({"type": "error", "name": "SandboxError", "value": sentence(error), "traceback": ""})
            yield _line({"type": "end_of_execution"})


class _Telling:
    """What of an exec has been told, so that its end tells the rest and nothing twice."""

    def __init__(self) -> None:
        self._results = 0
        self._streamed: set[str] = set()

    def event(self, event: ExecEvent, now: int) -> list[dict[str, Any]]:
        """Return the lines for one event."""
        if event.type in ("stdout", "stderr"):
            self._streamed.add(event.type)
            return [{"type": event.type, "text": event.text, "timestamp": event.at * 1_000_000 or now}]
        if event.type == "result":
            self._results += 1
            return [result_of(event.data)]
        return []

    def end(self, result: ExecResult, now: int) -> list[dict[str, Any]]:
        """Return the lines that were not streamed, the notes, the error and the end."""
        lines: list[dict[str, Any]] = []
        for stream, text in (("stdout", result.stdout), ("stderr", _printed(result))):
            if text and stream not in self._streamed:
                lines.append({"type": stream, "text": text, "timestamp": now})
        lines += [result_of(bundle) for bundle in result.results[self._results :]]
        lines += [{"type": "stderr", "text": f"{note}\n", "timestamp": now} for note in _notes(result)]
        if result.error is not None:
            lines.append({"type": "error", **_error(result)})
        lines.append({"type": "number_of_executions", "execution_count": result.execution_count})
        lines.append({"type": "end_of_execution"})
        return lines


def _printed(result: ExecResult) -> str:
    """Return what was printed on stderr; in the answer of a failed Python exec the traceback stands there as well."""
    return "" if result.error_detail is not None else result.stderr


def _notes(result: ExecResult) -> list[str]:
    lost = [
        f"[{stream}: {cut.omitted_bytes} bytes left out{f'; all of it is in {cut.spill}' if cut.spill else ''}]"
        for stream, cut in result.truncated.items()
    ]
    return [*lost, *result.notes]


def _error(result: ExecResult) -> dict[str, str]:
    detail = result.error_detail
    if detail is not None:
        return {"name": detail.name, "value": detail.value, "traceback": "\n".join(detail.traceback)}
    value = result.error or ""
    name = "CalledProcessError" if value.startswith("exit code ") else _NAMES.get(result.status, "Error")
    return {"name": name, "value": value, "traceback": "\n".join([value, *result.notes])}


def _line(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode() + b"\n"
