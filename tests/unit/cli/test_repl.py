"""The prompt: what counts as a statement, what it asks for, and what Ctrl-C does on a real terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clawplane.cli.repl import Statements

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)

from played import SESSION, Waiting, plain, refused, stream  # noqa: E402 - found through the line above

OPEN = {"POST /v1/sessions": plain(SESSION), "GET /v1/sessions/01S": plain(SESSION)}


@pytest.mark.parametrize(
    ("lines", "statements"),
    [
        (["1 + 1"], ["1 + 1"]),
        (["def f():", "    return 1", "", "f()"], ["def f():\n    return 1\n", "f()"]),
        (["x = (", "1,", ")"], ["x = (\n1,\n)"]),
        (["await f()"], ["await f()"]),
        (["async with a() as b:", "    await b", ""], ["async with a() as b:\n    await b\n"]),
        (["", "  ", "1"], ["1"]),
        (["'''a", "%b", "'''"], ["'''a\n%b\n'''"]),
        (["1 +* 2"], ["1 +* 2"]),
        (["%undo 2 ", "! ls"], ["%undo 2", "! ls"]),
        (["x = '\\ud800'", "a\0b"], ["x = '\\ud800'", "a\0b"]),
    ],
)
def test_lines_become_statements_as_at_python_s_own_prompt(lines: list[str], statements: list[str]) -> None:
    typed = Statements()
    assert [found for line in lines if (found := typed.take(line)) is not None] == statements
    assert typed.prompt == ">>> "


def test_what_was_typed_is_dropped_on_demand() -> None:
    typed = Statements()
    assert typed.take("def f():") is None
    assert typed.prompt == "... "
    typed.drop()
    assert typed.take("1") == "1"


def test_a_conversation_keeps_its_session_until_the_input_ends(clawplane: Any, server: Any) -> None:
    value = {"type": "result", "data": {"text/plain": "2"}}
    listing = {"files": [{"path": "d", "kind": "directory", "size": 0, "modified_at": 0}], "more": False}
    server.answers = OPEN | {
        "POST /v1/tools/execute_python": stream(value, result={}),
        "POST /v1/tools/execute_shell": stream({"type": "stdout", "text": "here\n"}, result={}),
        "POST /v1/sessions/01S/reset": plain(SESSION),
        "POST /v1/sessions/01S/rollback": plain(SESSION),
        "GET /v1/sessions/01S/files": plain(listing),
    }
    done = clawplane("repl", input="1 + 1\n!ls\n%reset\n%undo 2\n%files\n%nope\n%help\n")
    assert done.returncode == 0, done.stderr
    assert "2\n" in done.stdout
    assert "here\n" in done.stdout
    assert "d/\n" in done.stdout
    assert "Back before the last 2 executions." in done.stderr
    assert "%nope is no command" in done.stderr
    assert "%undo [N]" in done.stderr
    assert [line.partition("?")[0] for line in server.seen][:3] == [
        "POST /v1/sessions",
        "POST /v1/tools/execute_python",
        "POST /v1/tools/execute_shell",
    ]


def test_saying_good_bye_leaves_and_asks_the_session_nothing(clawplane: Any, server: Any) -> None:
    server.answers = OPEN
    for word in ("exit", "exit()", "quit", "quit()"):
        done = clawplane("repl", input=f"{word}\n1 + 1\n")
        assert (done.returncode, "Error" in done.stderr) == (0, False), done.stderr
    assert not [line for line in server.seen if "execute" in line]


def test_an_error_of_one_statement_does_not_end_the_conversation(clawplane: Any, server: Any) -> None:
    server.answers = OPEN | {
        "POST /v1/tools/execute_python": refused(429, "rate_limited", "100 execs are waiting."),
        "POST /v1/tools/execute_shell": stream(result={"error": "exit code 1"}),
    }
    done = clawplane("repl", "01S", input="1\n!false\n")
    assert done.returncode == 0
    assert "100 execs are waiting." in done.stderr
    assert "exit code 1" in done.stderr


def test_a_session_that_has_ended_is_refused_with_the_reason(clawplane: Any, server: Any) -> None:
    ended = SESSION | {"state": "ended", "end_reason": "It was deleted."}
    server.answers = {"GET /v1/sessions/01S": plain(ended)}
    done = clawplane("repl", "01S", input="1\n")
    assert done.returncode == 1
    assert "The session 01S has ended. It was deleted." in done.stderr


@contextmanager
def terminal(environment: dict[str, str], *arguments: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Start a command on a terminal of its own, which it controls."""
    controller, inner = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "clawplane", *arguments],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env=environment | {"TERM": "dumb"},
        start_new_session=True,
    )
    os.close(inner)
    try:
        yield controller, process
    finally:
        process.kill()
        process.wait()
        os.close(controller)


def until(controller: int, text: bytes, *, seconds: float = 20) -> bytes:
    seen, end = b"", time.monotonic() + seconds
    while text not in seen:
        ready, _, _ = select.select([controller], [], [], max(0.0, end - time.monotonic()))
        assert ready, seen
        seen += os.read(controller, 65536)
    return seen


def asleep(process: subprocess.Popen[bytes], *, seconds: float = 20) -> None:
    """Wait until a process that has shown its prompt waits for keys.

    Python's readline module looks for signals only when they end its waiting: one that comes in the instant between
    the prompt and the waiting is heard with the next key.
    """
    end = time.monotonic() + seconds
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        assert time.monotonic() < end, "the prompt never waits"
        select.select([], [], [], 0.01)


def test_ctrl_c_interrupts_the_exec_and_the_prompt_comes_back(server: Any, environment: dict[str, str]) -> None:
    waiting = Waiting()
    server.answers = OPEN | {
        "POST /v1/tools/execute_python": waiting.execute,
        "POST /v1/sessions/01S/interrupt": waiting.interrupt,
    }
    with terminal(environment, "repl", "01S") as (controller, process):
        until(controller, b">>> ")
        os.write(controller, b"while True: pass\n\n")
        until(controller, b"running")
        process.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in until(controller, b">>> ")
        assert waiting.interrupted.is_set()
        os.write(controller, b"\x04")
        assert process.wait(20) == 0


def test_ctrl_c_at_the_prompt_drops_what_was_typed(server: Any, environment: dict[str, str]) -> None:
    server.answers = dict(OPEN)
    with terminal(environment, "repl", "01S") as (controller, process):
        until(controller, b">>> ")
        os.write(controller, b"def f():\n")
        until(controller, b"... ")
        asleep(process)
        process.send_signal(signal.SIGINT)
        until(controller, b">>> ")
        os.write(controller, b"\x04")
        assert process.wait(20) == 0
    assert server.seen == ["GET /v1/sessions/01S"]


def test_a_second_ctrl_c_stops_waiting(server: Any, environment: dict[str, str]) -> None:
    waiting = Waiting()
    server.answers = OPEN | {
        "POST /v1/tools/execute_python": waiting.execute,
        "POST /v1/sessions/01S/interrupt": plain({"done": True}),  # heard, and without effect
    }
    with terminal(environment, "repl", "01S") as (controller, process):
        until(controller, b">>> ")
        os.write(controller, b"stubborn()\n")
        until(controller, b"running")
        process.send_signal(signal.SIGINT)
        while "POST /v1/sessions/01S/interrupt" not in server.seen:
            assert waiting.began.is_set()
            select.select([], [], [], 0.01)
        process.send_signal(signal.SIGINT)
        until(controller, b">>> ")
        waiting.interrupted.set()
        os.write(controller, b"\x04")
        assert process.wait(20) == 0


def test_what_was_typed_is_kept_for_this_user_only(server: Any, environment: dict[str, str]) -> None:
    server.answers = OPEN | {"POST /v1/tools/execute_python": stream(result={})}
    with terminal(environment, "repl", "01S") as (controller, process):
        until(controller, b">>> ")
        os.write(controller, b"remembered = 1\n")
        until(controller, b">>> ")
        os.write(controller, b"\x04")
        assert process.wait(20) == 0
    kept = Path(environment["XDG_STATE_HOME"]) / "clawplane" / "repl_history"
    assert "remembered = 1" in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0
