"""Run, start, list, connect to and kill commands with the published client."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from e2b import (
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    SandboxException,
    TimeoutException,
)
from scripted_sandboxes import WAIT, done

from clawplane.domain.sessions import ExecEvent


@pytest.fixture
def sandbox(place: Any) -> Any:
    return place.client().Sandbox.create()


def test_a_command_runs_to_its_end(place: Any, sandbox: Any) -> None:
    place.sessions.script["echo hi"] = [
        ExecEvent(type="stdout", text="hi\n"),
        ExecEvent(type="stderr", text="warned ü\n"),
        done(stdout="hi\n", stderr="warned ü\n", exit_code=0),
    ]
    heard: list[str] = []
    result = sandbox.commands.run("echo hi", envs={"A": "1"}, cwd="/home/user/d", timeout=7, on_stdout=heard.append)
    assert (result.stdout, result.stderr, result.exit_code, result.error) == ("hi\n", "warned ü\n", 0, None)
    assert heard == ["hi\n"]
    request = place.sessions.requests[-1]
    assert (request.tool, request.environment, request.directory, request.timeout) == ("shell", {"A": "1"}, "d", 7)


async def test_the_async_client_runs_commands_too(place: Any) -> None:
    place.sessions.script["echo hi"] = [ExecEvent(type="stdout", text="hi\n"), done(stdout="hi\n", exit_code=0)]
    sandbox = await place.client().AsyncSandbox.create()
    assert (await sandbox.commands.run("echo hi")).stdout == "hi\n"


def test_a_command_that_fails_raises_with_its_exit_code(place: Any, sandbox: Any) -> None:
    place.sessions.script["exit 3"] = [done(stderr="oh\n", status="error", error="exit code 3", exit_code=3)]
    with pytest.raises(CommandExitException) as caught:
        sandbox.commands.run("exit 3")
    assert (caught.value.exit_code, caught.value.stderr, caught.value.error) == (3, "oh\n", "exit code 3")


def test_a_command_in_the_background_is_listed_connected_to_and_killed(place: Any, sandbox: Any) -> None:
    place.sessions.script["serve"] = [ExecEvent(type="stdout", text="up\n"), WAIT]
    handle = sandbox.commands.run("serve", background=True, cwd="d")
    (listed,) = sandbox.commands.list()
    assert (listed.pid, listed.cmd, listed.args, listed.cwd) == (
        handle.pid,
        "/bin/bash",
        ["-l", "-c", "serve"],
        "/workspace/d",
    )
    again = sandbox.commands.connect(handle.pid)
    assert again.pid == handle.pid
    assert sandbox.commands.kill(handle.pid) is True
    for waiting in (handle, again):
        with pytest.raises(CommandExitException) as caught:
            waiting.wait()
        assert (caught.value.exit_code, caught.value.error) == (-1, "signal: killed")
    assert sandbox.commands.list() == []
    assert sandbox.commands.kill(handle.pid) is False
    with pytest.raises(NotFoundException):
        sandbox.commands.connect(handle.pid)


def test_a_command_goes_on_when_its_client_leaves(place: Any, sandbox: Any) -> None:
    place.sessions.script["serve"] = [WAIT]
    handle = sandbox.commands.run("serve", background=True)
    handle.disconnect()
    assert [process.pid for process in sandbox.commands.list()] == [handle.pid]
    assert sandbox.commands.kill(handle.pid) is True


def test_a_command_of_another_sandbox_cannot_be_seen_or_killed(place: Any, sandbox: Any) -> None:
    place.sessions.script["serve"] = [WAIT]
    other = place.client().Sandbox.create()
    handle = other.commands.run("serve", background=True)
    assert sandbox.commands.list() == []
    assert sandbox.commands.kill(handle.pid) is False
    assert other.commands.kill(handle.pid) is True


def test_a_command_that_takes_too_long_is_a_timeout_with_what_it_printed(place: Any, sandbox: Any) -> None:
    place.sessions.script["slow"] = [done(status="timeout", error="Error: timeout exceeded", stdout="part\n")]
    heard: list[str] = []
    with pytest.raises(TimeoutException, match="timeout exceeded"):
        sandbox.commands.run("slow", on_stdout=heard.append)
    assert heard == ["part\n"]


def test_stdin_and_terminals_answer_a_clear_error(place: Any, sandbox: Any) -> None:
    with pytest.raises(SandboxException, match="stdin"):
        sandbox.commands.run("cat", stdin=True)
    with pytest.raises(SandboxException, match="stdin"):
        sandbox.commands.send_stdin(1000, "x")
    with pytest.raises(SandboxException, match="stdin"):
        sandbox.commands.close_stdin(1000)
    with pytest.raises(SandboxException, match="terminals"):
        sandbox.pty.create(size=PtySize(rows=24, cols=80))
    assert place.sessions.requests == []


def test_root_is_no_user_of_a_session(place: Any, sandbox: Any) -> None:
    with pytest.raises(InvalidArgumentException, match="no user 'root'"):
        sandbox.commands.run("id", user="root")
    assert place.sessions.requests == []


@pytest.mark.parametrize(
    ("body", "media"),
    [
        (b"", "application/connect+json"),
        (b"\0\0\0\0\xff{}", "application/connect+json"),
        (b"\1\0\0\0\2{}", "application/connect+json"),
        (b"\0\0\0\0\2[]", "application/connect+json"),
        (b"\0\0\0\0\2{}", "application/connect+proto"),
        (b"\0\0\0\0\2{}", "application/connect+json"),
    ],
)
def test_a_damaged_stream_request_is_an_error_of_remote_calls(
    place: Any, sandbox: Any, body: bytes, media: str
) -> None:
    headers = {
        "E2b-Sandbox-Id": sandbox.sandbox_id,
        "X-Access-Token": sandbox._envd_access_token,
        "Content-Type": media,
    }
    answer = httpx.post(f"{place.url}/process.Process/Start", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
    assert place.sessions.requests == []


def test_another_port_of_a_sandbox_answers_a_clear_error(place: Any, sandbox: Any) -> None:
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8080"}
    answer = httpx.get(f"{place.url}/", headers=headers)
    assert answer.status_code == 501
    assert "port '8080'" in answer.json()["message"]
