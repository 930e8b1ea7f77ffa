"""Run code and stream what it says, one JSON object per line, as E2B's code interpreter does.

Lines are plain ASCII: clients split a stream at every character that Unicode calls a line end, not only at LF.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import msgspec
from starlette.responses import Response

from clawplane.api.e2b.answers import sentence
from clawplane.api.e2b.contexts import Place, place_of, tool_of
from clawplane.api.e2b.gate import Visit
from clawplane.api.e2b.slots import result_of
from clawplane.api.e2b.streams import Paced
from clawplane.api.replies import ClosingStream
from clawplane.domain.errors import ClawplaneError, InvalidArgument
from clawplane.domain.ids import new_ulid
from clawplane.domain.session_rules import check_code, check_environment
from clawplane.domain.sessions import MAX_TIMEOUT, ExecError, ExecEvent, ExecRequest, ExecResult, ExecStatus

KEEPALIVE_SECONDS: Final = 5.0
_FIRST_SECONDS: Final = 1.0

_TRACEBACK: Final = re.compile(
    r"^(?:[ +|]*(?:Exception Group )?Traceback \(most recent call last\):|  File \"Cell )", re.MULTILINE
)
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
                    for line in [*telling.silence(now), {"type": "keepalive"}]:
                        yield _line(line)
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
    """What of an exec has been told, so that its end tells the rest and nothing twice.

    The traceback of an exception comes on stderr too, where E2B's clients do not expect it; so what looks like one is
    held back until something else is said, or the end tells whether it was the exception's.
    """

    def __init__(self) -> None:
        self._results = 0
        self._streamed: set[str] = set()
        self._held = ""

    def event(self, event: ExecEvent, now: int) -> list[dict[str, Any]]:
        """Return the lines for one event."""
        lines = self.silence(now)
        if event.type in ("stdout", "stderr"):
            self._streamed.add(event.type)
            text = event.text
            looks = _TRACEBACK.search(text) if event.type == "stderr" else None
            if looks is not None:
                text, self._held = text[: looks.start()], text[looks.start() :]
            lines += _printed(event.type, text, event.at * 1_000_000 or now)
        elif event.type == "result":
            self._results += 1
            lines.append(result_of(event.data))
        return lines

    def silence(self, now: int) -> list[dict[str, Any]]:
        """Return the lines that were held back."""
        text, self._held = self._held, ""
        return _printed("stderr", text, now)

    def end(self, result: ExecResult, now: int) -> list[dict[str, Any]]:
        """Return the lines that were not streamed, the notes, the error and the end."""
        lines: list[dict[str, Any]] = []
        if "stdout" not in self._streamed:
            lines += _printed("stdout", result.stdout, now)
        stderr = self._held if "stderr" in self._streamed else result.stderr
        lines += _printed("stderr", _without_traceback(stderr, result.error_detail), now)
        lines += [result_of(bundle) for bundle in result.results[self._results :]]
        lines += [line for note in _notes(result) for line in _printed("stderr", f"{note}\n", now)]
        if result.error is not None:
            lines.append({"type": "error", **_error(result)})
        lines.append({"type": "number_of_executions", "execution_count": result.execution_count})
        lines.append({"type": "end_of_execution"})
        return lines


def _printed(stream: str, text: str, at: int) -> list[dict[str, Any]]:
    return [{"type": stream, "text": text, "timestamp": at}] if text else []


def _without_traceback(text: str, detail: ExecError | None) -> str:
    traceback = "" if detail is None else "\n".join(detail.traceback).strip()
    stripped = text.rstrip()
    return stripped[: -len(traceback)] if traceback and stripped.endswith(traceback) else text


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
