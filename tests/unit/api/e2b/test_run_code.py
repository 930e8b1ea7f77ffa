"""Run code with the published client: callbacks, rich results, errors, contexts, languages."""

from __future__ import annotations

import time
from typing import Any

import pytest
from e2b import NotFoundException, SandboxException, TimeoutException
from scripted_sandboxes import WAIT, done

from clawplane.domain.sessions import ExecError, ExecEvent, Truncated


@pytest.fixture
def sandbox(place: Any) -> Any:
    return place.client().Sandbox.create()


def test_what_code_prints_and_gives_reaches_the_callbacks(place: Any, sandbox: Any) -> None:
    bundle = {"text/plain": "'x'", "image/png": "aGk=", "text/html": "<b>x</b>", "application/x-own": {"a": 1}}
    place.sessions.script["code"] = [
        ExecEvent(type="stdout", text="one\n", at=1_700_000_000_001),
        ExecEvent(type="stderr", text="two\n"),
        ExecEvent(type="result", data={"text/plain": "shown"}),
        done(
            stdout="one\n",
            stderr="two\n",
            results=({"text/plain": "shown"}, bundle | {"_main": True}),
            execution_count=3,
        ),
    ]
    heard: list[Any] = []
    execution = sandbox.run_code("code", on_stdout=heard.append, on_stderr=heard.append, on_result=heard.append)
    assert [message.line for message in heard[:2]] == ["one\n", "two\n"]
    assert (heard[0].timestamp, heard[0].error, heard[1].error) == (1_700_000_000_001_000_000, False, True)
    assert execution.logs.stdout == ["one\n"]
    assert execution.logs.stderr == ["two\n"]
    assert [result.text for result in execution.results] == ["shown", "'x'"]
    main = execution.results[1]
    assert (main.is_main_result, main.png, main.html, main.extra) == (
        True,
        "aGk=",
        "<b>x</b>",
        {"application/x-own": {"a": 1}},
    )
    assert (execution.text, execution.execution_count, execution.error) == ("'x'", 3, None)


async def test_the_async_client_runs_code_too(place: Any) -> None:
    place.sessions.script["code"] = [done(stdout="hello\n", results=({"text/plain": "2", "_main": True},))]
    sandbox = await place.client().AsyncSandbox.create()
    lines: list[str] = []

    async def hear(message: Any) -> None:
        lines.append(message.line)

    execution = await sandbox.run_code("code", on_stdout=hear)
    assert (execution.text, lines) == ("2", ["hello\n"])


def test_an_exception_arrives_with_its_traceback(place: Any, sandbox: Any) -> None:
    detail = ExecError(name="ZeroDivisionError", value="division by zero", traceback=("Traceback", "  1/0", "Zero"))
    place.sessions.script["1/0"] = [
        done(
            status="error",
            error="ZeroDivisionError: division by zero",
            stderr="Traceback\n  1/0\nZero\n",
            error_detail=detail,
        )
    ]
    errors: list[Any] = []
    execution = sandbox.run_code("1/0", on_error=errors.append)
    assert errors == [execution.error]
    assert (execution.error.name, execution.error.value) == ("ZeroDivisionError", "division by zero")
    assert execution.error.traceback == "Traceback\n  1/0\nZero"
    assert execution.logs.stderr == []


def test_the_traceback_that_is_streamed_is_told_as_the_error_alone(place: Any, sandbox: Any) -> None:
    lines = ("Traceback (most recent call last):", '  File "Cell 1", line 1', "ZeroDivisionError: x")
    detail = ExecError(name="ZeroDivisionError", value="x", traceback=lines)
    place.sessions.script["code"] = [
        ExecEvent(type="stderr", text="own words\n" + "\n".join(lines) + "\n"),
        done(status="error", error="ZeroDivisionError: x", stderr="...", error_detail=detail),
    ]
    execution = sandbox.run_code("code")
    assert execution.logs.stderr == ["own words\n"]
    assert execution.error.traceback == "\n".join(lines)


def test_a_traceback_that_the_code_prints_itself_stays_on_stderr(place: Any, sandbox: Any) -> None:
    text = "Traceback (most recent call last):\n  caught\n"
    place.sessions.script["code"] = [
        ExecEvent(type="stderr", text=text),
        ExecEvent(type="stdout", text="after\n"),
        done(stderr=text, stdout="after\n"),
    ]
    execution = sandbox.run_code("code")
    assert (execution.logs.stderr, execution.logs.stdout, execution.error) == ([text], ["after\n"], None)


@pytest.mark.parametrize(
    ("status", "name"), [("timeout", "TimeoutError"), ("memory", "MemoryLimitError"), ("killed", "KilledError")]
)
def test_an_end_from_outside_is_an_error_that_says_why(place: Any, sandbox: Any, status: Any, name: str) -> None:
    place.sessions.script["code"] = [done(status=status, error="It ended.", notes=("Use less.",), stdout="part\n")]
    execution = sandbox.run_code("code")
    assert (execution.error.name, execution.error.value) == (name, "It ended.")
    assert "Use less." in execution.error.traceback
    assert execution.logs.stdout == ["part\n"]


def test_a_command_in_bash_that_fails_is_an_error(place: Any, sandbox: Any) -> None:
    place.sessions.script["false"] = [done(status="error", error="exit code 1", exit_code=1)]
    execution = sandbox.run_code("false", language="bash")
    assert (execution.error.name, execution.error.value) == ("CalledProcessError", "exit code 1")


def test_every_character_survives_the_stream(place: Any, sandbox: Any) -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\r\nh\U0001f600 \0"
    place.sessions.script["code"] = [ExecEvent(type="stdout", text=text), done()]
    assert sandbox.run_code("code").logs.stdout == [text]


def test_output_that_was_cut_is_said_to_be(place: Any, sandbox: Any) -> None:
    cut = {"stdout": Truncated(omitted_bytes=5, spill=".outputs/1/stdout.txt")}
    place.sessions.script["code"] = [done(stdout="head", truncated=cut)]
    assert any(".outputs/1/stdout.txt" in line for line in sandbox.run_code("code").logs.stderr)


@pytest.mark.parametrize(
    ("language", "tool"),
    [(None, "python"), ("python", "python"), ("bash", "shell"), ("js", "node"), ("javascript", "node")],
)
def test_each_language_has_its_tool(place: Any, sandbox: Any, language: Any, tool: str) -> None:
    sandbox.run_code("code", language=language, envs={"A": 'it\'s "$(x)"\n'})
    request = place.sessions.requests[-1]
    assert (request.tool, request.environment) == (tool, {"A": 'it\'s "$(x)"\n'})


def test_a_language_that_is_not_there_is_refused_by_name(place: Any, sandbox: Any) -> None:
    with pytest.raises(SandboxException, match="'java' is not offered"):
        sandbox.run_code("code", language="java")
    assert place.sessions.requests == []


def test_contexts_are_made_listed_restarted_and_removed(place: Any, sandbox: Any) -> None:
    assert [(context.id, context.language) for context in sandbox.list_code_contexts()] == [("default", "python")]
    own = sandbox.create_code_context()
    shell = sandbox.create_code_context(cwd="/home/user/data", language="bash")
    assert (own.language, own.cwd, shell.language, shell.cwd) == ("python", "/workspace", "bash", "/workspace/data")
    assert [context.id for context in sandbox.list_code_contexts()] == ["default", own.id, shell.id]
    sandbox.run_code("x", context=own)
    sandbox.run_code("ls", context=shell)
    first, second = place.sessions.requests
    assert (first.tool, first.context, first.directory) == ("python", own.id, "")
    assert (second.tool, second.context, second.directory) == ("shell", "", "data")
    sandbox.restart_code_context(own)
    sandbox.remove_code_context(own)
    assert [context.id for context in sandbox.list_code_contexts()] == ["default", shell.id]
    resets = [(reset.context, reset.forget_context) for reset in place.sessions.resets]
    assert resets == [(own.id, False), (own.id, True)]


def test_a_context_that_never_was_is_not_found(sandbox: Any) -> None:
    with pytest.raises(NotFoundException, match="no context"):
        sandbox.restart_code_context("python-'; import os")


def test_a_list_of_contexts_that_the_guest_spoiled_counts_as_empty(place: Any, sandbox: Any) -> None:
    for spoiled in (b"\xff", b"[[[[", b'[{"id": "../../x", "language": "python", "cwd": "/"}]', b"{}"):
        place.sessions.contents[".e2b/contexts.json"] = spoiled
        assert [context.id for context in sandbox.list_code_contexts()] == ["default"]


def test_a_client_that_gives_up_ends_its_code(place: Any, sandbox: Any) -> None:
    place.sessions.script["slow"] = [ExecEvent(type="stdout", text="begun\n"), WAIT]
    with pytest.raises(TimeoutException):
        sandbox.run_code("slow", timeout=0.5)
    deadline = time.monotonic() + 10
    while not place.sessions.left and time.monotonic() < deadline:
        sandbox.is_running()
    assert place.sessions.left == ["slow"]


def test_a_sandbox_that_was_killed_runs_nothing(place: Any, sandbox: Any) -> None:
    sandbox.kill()
    with pytest.raises(TimeoutException, match="was not found"):
        sandbox.run_code("1")
    assert place.sessions.requests == []
