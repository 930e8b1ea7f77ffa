"""What is kept of an exec, and how a history becomes a notebook."""

from __future__ import annotations

import pytest

from clawplane.domain.session_history import (
    CODE_HEAD,
    OUTPUT_HEAD,
    RESULT_BYTES,
    head,
    record_of,
    record_of_loss,
)
from clawplane.domain.sessions import ExecRequest, ExecResult


def request(code: str = "1 + 1") -> ExecRequest:
    return ExecRequest(id="E", tool="python", code=code)


def result(**values: object) -> ExecResult:
    return ExecResult(exec_id="E", session_id="S", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "most", "kept"), [("abc", 3, "abc"), ("abcd", 3, "abc"), ("aüü", 4, "aü")])
def test_a_head_is_bounded_in_bytes_and_cuts_no_character(text: str, most: int, kept: str) -> None:
    assert head(text, most) == kept


def test_long_code_and_output_are_kept_by_their_beginnings_and_the_size_of_the_code_is_told() -> None:
    kept = record_of(
        request("x" * 100_000), "S", result(stdout="o" * 100_000, stderr="e" * 100_000), started_at=1, ended_at=2
    )
    assert (len(kept.code), kept.code_bytes) == (CODE_HEAD, 100_000)
    assert (len(kept.stdout), len(kept.stderr)) == (OUTPUT_HEAD, OUTPUT_HEAD)


def test_a_large_result_keeps_its_text_only() -> None:
    bundles = ({"text/plain": "<Figure>", "image/png": "x" * RESULT_BYTES, "_main": True}, {"text/plain": "2"})
    kept = record_of(request(), "S", result(results=bundles), started_at=1, ended_at=2)
    assert kept.results == ({"text/plain": "<Figure>", "_main": True}, {"text/plain": "2"})


def test_an_exec_whose_end_nobody_heard_is_kept_as_unknown_with_the_reason() -> None:
    kept = record_of_loss(request(), "S", "The link was cut.", started_at=1, ended_at=2)
    assert (kept.status, kept.error, kept.code) == ("unknown", "The link was cut.", "1 + 1")
