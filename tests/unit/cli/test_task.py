"""`clawplane task`, `events` and `runners` as processes of their own, against a control plane that is played."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

TASK = {
    "id": "t1",
    "type": "command",
    "status": "running",
    "summary": "make",
    "created_at": 1_000,
    "started_at": None,
    "completed_at": None,
    "session_id": None,
    "approval": "not_needed",
    "runner": "r1",
    "attempt": 1,
    "reason": "",
}
RESULT = {"stdout": "", "stderr": "", "exit_code": 0, "error": None, "metadata": {}, "duration": 5}
WHY = {"status": "running", "code": "running", "reason": "It runs on mac, attempt 1.", "hint": "", "ahead": 0}


def lines(*entries: tuple[str, str]) -> Any:
    """Answer with a log; a follower that comes back is told what is behind `after`."""

    def answer(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        after = int(handler.path.partition("after=")[2].partition("&")[0])
        for seq, (source, content) in enumerate(entries, start=1):
            if seq > after:
                entry = {"seq": seq, "type": 2, "content": content, "timestamp": 1_000, "source": source}
                handler.wfile.write(json.dumps(entry).encode() + b"\n")

    return answer


def played(*entries: tuple[str, str], reason: str = "", type_: str = "command", **result: Any) -> dict[str, Any]:
    """Return the answers of a control plane on which one task runs to its end."""
    ended = TASK | {"status": "failed" if result.get("exit_code") else "completed", "reason": reason, "type": type_}
    return {
        "POST /v1/host/tasks": {"task": TASK, "replayed": False},
        "GET /v1/host/tasks/t1": ended,
        "GET /v1/host/tasks/t1/log": lines(*entries),
        "GET /v1/host/tasks/t1/explain": WHY,
        "GET /v1/host/tasks/t1/result": {"task": ended, "result": RESULT | result},
    }


def sent(server: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(server.bodies[server.seen.index("POST /v1/host/tasks")])
    return body


@pytest.mark.parametrize(
    ("live", "stdout", "shown", "noted"),
    [
        ([("stdout", "one"), ("stdout", "two")], "one\ntwo\n", "one\ntwo\n", False),
        ([("stdout", "one")], "one", "one\n", False),
        ([], "from a runner that polls", "from a runner that polls", False),
        ([("stdout", "one")], "one\ntwo\n", "one\ntwo\n", False),
        ([("stdout", "name: "), ("stdout", "me"), ("stdout", "two")], "name: me\ntwo\n", "name: \nme\ntwo\n", False),
        ([("stdout", "name: "), ("stdout", "me")], "name: me\n\ntwo\n", "name: \nme\n\ntwo\n", False),
        ([("stdout", ""), ("stdout", "a")], "\na\n\nb", "\na\n\nb\n", False),
        ([("stdout", "one")], "other\n", "one\n", True),
    ],
)
def test_output_is_shown_once_whether_it_was_told_live_or_not(
    clawplane: Any, server: Any, live: list[tuple[str, str]], stdout: str, shown: str, noted: bool
) -> None:
    server.answers = played(*live, stdout=stdout)
    done = clawplane("task", "run", "make")
    assert (done.returncode, done.stdout) == (0, shown)
    assert ("not byte for byte" in done.stderr) is noted


def test_each_stream_goes_where_it_belongs(clawplane: Any, server: Any) -> None:
    server.answers = played(("stdout", "out"), ("stderr", "err"), stdout="out\n", stderr="err\n")
    done = clawplane("task", "run", "make")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


@pytest.mark.parametrize(
    ("ended", "reason", "code"),
    [
        ({"exit_code": 0}, "", 0),
        ({"exit_code": 7, "error": "Exit code 7"}, "", 7),
        ({"exit_code": 137, "error": "Exit code 137"}, "", 137),
        ({"exit_code": 3_000_000, "error": "Exit code 3000000"}, "", 1),
        ({"exit_code": -1, "error": "Command timeout"}, "", 124),
        ({"exit_code": -1, "error": "gone"}, "expired", 124),
        ({"exit_code": -1, "error": "Cancelled by x."}, "cancelled", 125),
        ({"exit_code": "0", "error": None}, "", 1),
    ],
)
def test_the_exit_code_is_the_task_s_own_or_says_why_there_is_none(
    clawplane: Any, server: Any, ended: dict[str, Any], reason: str, code: int
) -> None:
    server.answers = played(reason=reason, **ended)
    for command in (("run", "make"), ("result", "t1")):
        done = clawplane("task", *command)
        assert done.returncode == code
        assert done.stderr.startswith("error: ") is (code in (124, 125))
        assert ("hint: " in done.stderr) is (code in (124, 125))
    machine = clawplane("task", "run", "make", "--json")
    assert (machine.returncode, json.loads(machine.stdout)["result"]["exit_code"]) == (code, ended["exit_code"])
    assert machine.stderr == ""


def test_a_task_that_prints_nothing_for_a_second_says_what_it_waits_for(clawplane: Any, server: Any) -> None:
    explained = threading.Event()

    def explain(handler: Any) -> None:
        data = json.dumps({"code": 0, "data": WHY | {"code": "no_runner", "reason": "No runner offers it."}}).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)
        explained.set()

    def log(handler: Any) -> None:
        explained.wait(20)
        lines(("stdout", "at last"))(handler)

    server.answers = played(stdout="at last\n") | {
        "GET /v1/host/tasks/t1/explain": explain,
        "GET /v1/host/tasks/t1/log": log,
    }
    done = clawplane("task", "run", "make")
    assert done.stdout == "at last\n"
    assert "Waiting: No runner offers it." in done.stderr
    assert "task t1" in done.stderr


def test_ctrl_c_cancels_the_task(server: Any, environment: dict[str, str]) -> None:
    began, cancelled = threading.Event(), threading.Event()

    def log(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"\n")
        handler.wfile.flush()
        began.set()
        cancelled.wait(20)

    def cancel(handler: Any) -> None:
        cancelled.set()
        data = json.dumps({"code": 0, "data": TASK}).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    server.answers = played() | {"GET /v1/host/tasks/t1/log": log, "POST /v1/host/tasks/t1/cancel": cancel}
    command = [sys.executable, "-m", "clawplane", "task", "run", "sleep 99"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert began.wait(20)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert cancelled.is_set()
    assert "Cancelled t1." in said


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (("echo  $HOME",), {"type": "command", "command": "echo  $HOME"}),
        (("--", "ls", "-l", "a b"), {"command": "ls -l 'a b'"}),
        (("make", "--timeout", "1.5", "--cwd", "/src", "-e", "A=b=c"), {"timeout_ms": 1500, "env": {"A": "b=c"}}),
        (("make", "--runner", "mac"), {"target": {"runner": "mac", "labels": {}}}),
        (
            ("make", "--where", "os=mac", "--where", "gpu=1"),
            {"target": {"runner": "", "labels": {"os": "mac", "gpu": "1"}}},
        ),
        (("make", "--priority", "-5", "--delay", "60", "--on-loss", "hold"), {"priority": -5, "delay_ms": 60_000}),
        (("make", "--approval", "--key", "k", "--label", "a=b"), {"approval": True, "idempotency_key": "k"}),
        (("-t", "file-read", "a b"), {"type": "file-read", "path": "a b", "encoding": "utf8"}),
        (("-t", "file-write", "a", "--content", "-x"), {"type": "file-write", "content": "-x"}),
        (("-t", "file-edit", "a", "--old", "b", "--new", ""), {"old": "b", "new": "", "everywhere": False}),
        (("-t", "claude", "say", "hello"), {"type": "claude-cli", "prompt": "say hello"}),
        (("-t", "codex", "p", "--session", "s", "--tool", "Bash", "--tool", "Read"), {"tools": ["Bash", "Read"]}),
        (("-t", "claude", "p", "--approve-tools", "--budget", "2"), {"approval": "tools", "budget_usd": 2.0}),
    ],
)
def test_options_become_the_request(
    clawplane: Any, server: Any, arguments: tuple[str, ...], body: dict[str, Any]
) -> None:
    server.answers = played()
    done = clawplane("task", "submit", *arguments)
    assert (done.returncode, done.stdout) == (0, "t1\n"), done.stderr
    assert body.items() <= sent(server).items()


def test_standard_input_is_a_command_a_prompt_or_content_of_any_bytes(clawplane: Any, server: Any) -> None:
    server.answers = played()
    for arguments, member, value in (
        (("--stdin",), "command", "make\n"),
        (("-t", "claude", "--stdin"), "prompt", "make\n"),
        (("-t", "file-write", "a", "--content", "-"), "content", "make\n"),
    ):
        server.seen.clear()
        server.bodies.clear()
        assert clawplane("task", "submit", *arguments, input="make\n").returncode == 0
        assert sent(server)[member] == value
    server.seen.clear()
    server.bodies.clear()
    clawplane("task", "submit", "-t", "file-write", "a", "--content", "-", input=b"\xff", text=False)
    assert (sent(server)["content"], sent(server)["encoding"]) == (base64.b64encode(b"\xff").decode(), "base64")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Say what to do."),
        (("make", "--stdin"), "Say what to do."),
        (("make", "--label", "a"), "--label 'a' is not NAME=VALUE."),
        (("make", "--timeout", "0"), "--timeout 0 is too little."),
        (("make", "--timeout", "nan"), "--timeout nan is too little."),
        (("make", "--model", "m"), "--model goes with prompts."),
        (("-t", "file-read", "a", "b"), "--type file-read takes one path."),
        (("-t", "file-write", "a"), "--type file-write needs --content."),
        (("-t", "file-edit", "a", "--old", "b"), "--type file-edit needs --old and --new."),
        (("-t", "file-read", "a", "--timeout", "5"), "--timeout does not go with file operations."),
    ],
)
def test_a_task_that_cannot_be_is_refused_before_anything_is_asked(
    clawplane: Any, server: Any, arguments: tuple[str, ...], said: str
) -> None:
    done = clawplane("task", "run", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert server.seen == []


def test_a_file_is_read_with_its_very_bytes(clawplane: Any, server: Any) -> None:
    server.answers = played(stdout=base64.b64encode(b"\x00\xff").decode())
    done = clawplane("task", "run", "-t", "file-read", "--binary", "a", text=False)
    assert (done.returncode, done.stdout) == (0, b"\x00\xff")


def test_an_agent_s_answer_is_printed_and_its_questions_are_told(clawplane: Any, server: Any) -> None:
    asks = json.dumps({"kind": "approval", "id": "u1", "tool": "Bash", "detail": "ls"})
    uses = json.dumps({"kind": "tool", "id": "x", "tool": "Read", "detail": "a.txt"})
    server.answers = played(
        ("stdout", "thinking"), ("sdk", uses), ("sdk", asks), type_="claude-cli", stdout="The answer."
    )
    done = clawplane("task", "run", "-t", "claude", "why?")
    assert (done.returncode, done.stdout) == (0, "The answer.\n")
    assert "Read a.txt" in done.stderr
    assert "clawplane task approve t1 --tool-use u1" in done.stderr


def test_lists_and_decisions_are_for_people_and_for_machines(clawplane: Any, server: Any) -> None:
    waiting = TASK | {"status": "pending", "approval": "waiting"}
    server.answers = {
        "GET /v1/host/tasks": {"list": [waiting], "next": "5"},
        "POST /v1/host/tasks/t1/approve": TASK | {"approval": "given"},
        "POST /v1/host/tasks/t1/retry": TASK | {"id": "t2"},
        "GET /v1/host/tasks/t1": waiting | {"work": {"command": "make"}},
        "GET /v1/host/tasks/t1/explain": WHY | {"reason": "It waits for a person's yes.", "hint": "Approve it."},
        "GET /v1/host/tasks/t1/tool-uses": {"list": []},
    }
    listed = clawplane("task", "list", "--status", "pending")
    assert "pending (approval)" in listed.stdout
    assert "More with --before 5" in listed.stderr
    assert server.seen[-1] == "GET /v1/host/tasks?status=pending&limit=20"
    assert json.loads(clawplane("task", "list", "--json").stdout)["next"] == "5"
    clawplane("task", "approve", "t1", "--tool-use", "u1")
    assert json.loads(server.bodies[-1]) == {"tool_use": "u1"}
    assert clawplane("task", "retry", "t1").stdout == "t2\n"
    shown = clawplane("task", "show")
    assert '{"command":"make"}' in shown.stdout
    assert "hint: Approve it." in shown.stderr
    assert json.loads(clawplane("task", "explain", "--json").stdout)["code"] == "running"
    assert "Nothing waits" in clawplane("task", "tool-uses").stderr


def test_a_result_that_is_not_there_says_why(clawplane: Any, server: Any) -> None:
    server.answers = played() | {"GET /v1/host/tasks/t1/result": {"task": TASK, "result": None}}
    done = clawplane("task", "result", "t1")
    assert done.returncode == 1
    assert done.stderr == (
        "error: The task has not ended: It runs on mac, attempt 1.\nhint: Wait for it with --wait SECONDS.\n"
    )


def _record(seq: int) -> dict[str, Any]:
    more = {"task_id": "t1", "task_type": "command", "task_status": "failed", "details": {"exitCode": seq}}
    return {"seq": seq, "type": "task.failed", "created_at": 1_000, "source": "runner", **more}


def test_the_trail_is_followed_behind_what_was_shown(server: Any, environment: dict[str, str]) -> None:
    def events(handler: Any) -> None:
        handler.send_response(200)
        if "follow" not in handler.path:
            data = json.dumps({"code": 0, "data": {"list": [_record(1)]}}).encode()
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)
            return
        handler.end_headers()
        after = int(handler.path.partition("after=")[2].partition("&")[0])
        handler.wfile.write(json.dumps(_record(after + 1)).encode() + b"\n")

    server.answers = {"GET /v1/host/events": events}
    command = [sys.executable, "-m", "clawplane", "events", "-f", "--task", "t1"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().split() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert [line[2] for line in told] == ["1", "2", "3"]
    assert told[0][3:] == ["task.failed", "t1", "command", "failed", "(runner)", '{"exitCode":1}']
    assert all("task=t1" in request for request in server.seen)


def test_runners_are_shown_with_their_load_also_without_host_tasks(clawplane: Any, server: Any) -> None:
    runner = {"id": "r1", "name": "mac", "version": "0.1.0", "labels": {"os": "mac"}, "slots": {}, "last_seen": 1_000}
    runner |= {"capabilities": ["workers", "host", "host@command"], "connected": True, "draining": False}
    host = {"id": "r1", "kind": "link", "takes": ["command"], "running": 2, "slots": 5}
    server.answers = {"GET /v1/runners": {"list": [runner]}, "GET /v1/host/runners": {"list": [host]}}
    shown = clawplane("runners").stdout
    assert "host (command), workers" in shown
    assert "2 of 5" in shown
    assert "os=mac" in shown
    assert json.loads(clawplane("runners", "--json").stdout)[0]["host"]["running"] == 2
