"""Every error has a place on both wires, and the table in the module's words is the table in its code."""

from __future__ import annotations

import inspect
import re

import msgspec
import pytest

from clawplane.api import errors as wire
from clawplane.domain import archives, errors
from clawplane.domain.errors import ClawplaneError

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ClawplaneError)]
KINDS = [kind for kind in TREE if kind is not ClawplaneError]
SPECIFIED = {
    10000: "internal server error",
    11004: "not found",
    12001: "authentication required",
    12002: "invalid token",
    13000: "too many requests",
    14000: "database error",
    16000: "not implemented",
    30003: "the current running tasks have reached the plan limit",
    50001: "worker does not exist",
    50003: "the worker version is not available",
    70002: "run operation failed",
}


def body(error: ClawplaneError, path: str) -> dict[str, object]:
    return msgspec.json.decode(wire.to_response(error, path=path, request_id="req-1").body, type=dict[str, object])


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_mapped(kind: type[ClawplaneError]) -> None:
    assert kind in wire.TABLE


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_documented_as_it_is_mapped(kind: type[ClawplaneError]) -> None:
    rows = [line for line in (wire.__doc__ or "").splitlines() if f"`{kind.code}`" in line]
    assert len(rows) == 1, kind.code
    answer = wire.TABLE[kind]
    assert f"{answer.status} / {answer.code}" in rows[0]
    assert str(answer.native_status) in re.findall(r"\d{3}", rows[0].rpartition("|")[0].rpartition("|")[2])


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_an_envelope_with_details_that_are_strings(kind: type[ClawplaneError]) -> None:
    for path in ("/api/v2/workers", "/v1/keys"):
        answer = body(kind("What happened.", details=["first", "second"]), path)
        assert isinstance(answer["code"], int)
        assert answer["code"] != 0
        assert answer["request_id"] == "req-1"
        assert isinstance(answer["details"], list)
        assert all(isinstance(detail, str) for detail in answer["details"])
        assert "What happened." in [answer["message"], *answer["details"]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_coreclaw_message_is_the_one_of_its_code(kind: type[ClawplaneError]) -> None:
    answer = body(kind("What happened."), "/api/v2/workers")
    if answer["code"] != 11000:
        assert answer["message"] == SPECIFIED[answer["code"]]  # type: ignore[index]


def test_our_own_paths_speak_in_sentences() -> None:
    assert body(errors.VersionUnavailable("v1 is being built."), "/v1/workers")["message"] == "v1 is being built."


def test_a_semantic_refusal_carries_its_own_sentence_as_production_does() -> None:
    answer = body(errors.Unchanged("Script package is unchanged"), "/api/v2/workers/x/versions/v1")
    assert (answer["code"], answer["message"]) == (11000, "Script package is unchanged")


def test_an_error_of_a_feature_is_answered_as_its_ancestor() -> None:
    refused = archives.ArchiveRefused([archives.Diagnostic("package_empty", "error", "It is empty.")])
    response = wire.to_response(refused, path="/api/v2/workers", request_id="req-1")
    assert response.status_code == 400
    assert "package_empty" in response.body.decode()


def test_text_that_utf8_cannot_hold_does_not_break_the_answer() -> None:
    answer = body(errors.InvalidArgument("bad \ud800 name", hint="\udfff", details=["\ud800"]), "/api/v2/workers")
    assert answer["message"] == "bad ? name"


def test_an_unauthorised_answer_names_the_scheme() -> None:
    response = wire.to_response(errors.InvalidToken("x"), path="/api/v2/workers", request_id="r")
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_limited_client_is_told_when_to_try_again() -> None:
    response = wire.to_response(errors.RateLimited("x"), path="/api/v2/workers", request_id="r")
    assert response.headers["retry-after"] == "1"
