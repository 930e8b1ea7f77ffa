"""What is remembered of execs, bounded; and a session's history as a Jupyter notebook (nbformat 4.5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from clawplane.domain.sessions import ExecError, ExecRequest, ExecResult, Session, Tool, Usage

CODE_HEAD: Final = 16 << 10
OUTPUT_HEAD: Final = 16 << 10
RESULT_BYTES: Final = 256 << 10
"""Bytes of rich results kept of one exec; of what is larger only its text stays."""
KEPT: Final = 1000
"""Execs kept of one session; the oldest go first."""

RUNNING: Final = "running"
"""The status of an exec that runs, or waits for its turn."""
UNKNOWN: Final = "unknown"
"""The status of an exec whose end nobody heard."""
_STOPPED: Final = (
    "The control plane stopped while this exec ran or waited for its turn; it may have run to its end. "
    "The notes of the session's next exec say what became of it, or that the session's memory is lost."
)


class ExecRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One exec of a session's history. Times in milliseconds; texts are heads, `code_bytes` is the whole's size.

    status: an exec's own, or running (ended_at is null), or unknown when nobody heard its end (error says why).
    """

    id: str
    session: str
    tool: Tool
    code: str
    code_bytes: int
    context: str = ""
    started_at: int
    ended_at: int | None
    status: str
    error: str | None = None
    execution_count: int = 0
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    results: tuple[dict[str, Any], ...] = ()
    error_detail: ExecError | None = None
    usage: Usage = Usage()
    notes: tuple[str, ...] = ()


class Workspace(msgspec.Struct, frozen=True, kw_only=True):
    """A named workspace: where it is, and who uses it now. Times in milliseconds."""

    owner: str
    name: str
    runner: str | None
    created_at: int
    used_at: int
    sessions: tuple[str, ...] = ()


def record_of(request: ExecRequest, session: str, result: ExecResult, *, started_at: int, ended_at: int) -> ExecRecord:
    """Return what is kept of an exec that has ended."""
    return ExecRecord(
        id=request.id,
        session=session,
        tool=request.tool,
        code=head(request.code, CODE_HEAD),
        code_bytes=len(request.code.encode()),
        context=request.context,
        started_at=started_at,
        ended_at=ended_at,
        status=result.status,
        error=None if result.error is None else head(result.error, 4096),
        execution_count=result.execution_count,
        exit_code=result.exit_code,
        stdout=head(result.stdout, OUTPUT_HEAD),
        stderr=head(result.stderr, OUTPUT_HEAD),
        results=_small(result.results),
        error_detail=_small_error(result.error_detail),
        usage=result.usage,
        notes=tuple(head(note, 1000) for note in result.notes[:20]),
    )


def record_of_loss(request: ExecRequest, session: str, why: str, *, started_at: int, ended_at: int) -> ExecRecord:
    """Return what is kept of an exec whose end nobody heard."""
    lost = ExecResult(exec_id=request.id, session_id=session, error=why)
    return msgspec.structs.replace(
        record_of(request, session, lost, started_at=started_at, ended_at=ended_at), status=UNKNOWN
    )


def record_of_begun(request: ExecRequest, session: str, *, started_at: int) -> ExecRecord:
    """Return what is kept of an exec while it is under way."""
    nothing = ExecResult(exec_id=request.id, session_id=session)
    record = record_of(request, session, nothing, started_at=started_at, ended_at=started_at)
    return msgspec.structs.replace(record, status=RUNNING, ended_at=None)


def record_of_stop(running: ExecRecord, *, now: int) -> ExecRecord:
    """Return what is kept of an exec that was under way when the control plane stopped."""
    return msgspec.structs.replace(running, status=UNKNOWN, error=_STOPPED, ended_at=now)


def head(text: str, most: int) -> str:
    """Return at most `most` bytes of a text, in whole characters."""
    if len(text) * 4 <= most:
        return text
    data = text.encode("utf-8", "replace")
    return text if len(data) <= most else data[:most].decode("utf-8", "ignore")


def _small(results: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    kept: list[dict[str, Any]] = []
    left = RESULT_BYTES
    for bundle in results:
        small: dict[str, Any] = {}
        for kind, value in bundle.items():
            size = len(value) if isinstance(value, str) else len(msgspec.json.encode(value))
            if size <= left:
                small[kind] = value
                left -= size
            elif kind == "text/plain":
                small[kind] = head(str(value), min(left, OUTPUT_HEAD))
                left -= len(small[kind])
        kept.append(small)
        if left <= 0 or len(kept) == 100:
            break
    return tuple(kept)


def _small_error(error: ExecError | None) -> ExecError | None:
    if error is None:
        return None
    lines = tuple(head(line, 4096) for line in error.traceback[:100])
    return ExecError(name=head(error.name, 200), value=head(error.value, 4096), traceback=lines)


# The notebook


def notebook(session: Session, execs: Iterable[ExecRecord]) -> dict[str, Any]:
    """Return a notebook of execs, oldest first; shell becomes `%%bash`, Node `%%javascript`."""
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "clawplane": {"session": session.id, "name": session.options.name},
        },
        "cells": [_cell(record) for record in execs],
    }


def _cell(record: ExecRecord) -> dict[str, Any]:
    python = record.tool == "python"
    source = record.code if python else f"{'%%bash' if record.tool == 'shell' else '%%javascript'}\n{record.code}"
    return {
        "cell_type": "code",
        "id": record.id.lower(),
        "metadata": {"clawplane": {"status": record.status, "started_at": record.started_at}},
        "execution_count": record.execution_count or None,
        "source": source.splitlines(keepends=True),
        "outputs": _outputs(record),
    }


def _outputs(record: ExecRecord) -> list[dict[str, Any]]:
    outputs: list[dict[str, Any]] = []
    if record.stdout:
        outputs.append({"output_type": "stream", "name": "stdout", "text": record.stdout.splitlines(keepends=True)})
    if record.stderr and record.error_detail is None:
        outputs.append({"output_type": "stream", "name": "stderr", "text": record.stderr.splitlines(keepends=True)})
    for bundle in record.results:
        data = {kind: value for kind, value in bundle.items() if "/" in kind}
        output: dict[str, Any] = {"output_type": "display_data", "metadata": {}, "data": data}
        if bundle.get("_main") and record.execution_count:
            output |= {"output_type": "execute_result", "execution_count": record.execution_count}
        outputs.append(output)
    if record.error_detail is not None:
        detail = record.error_detail
        outputs.append(
            {"output_type": "error", "ename": detail.name, "evalue": detail.value, "traceback": list(detail.traceback)}
        )
    return outputs
