"""The command line on real sessions: `exec`, every command of `session`, and the prompt on a terminal of its own."""

from __future__ import annotations

import base64
import codecs
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
CODE = {
    "python": "import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7",
    "shell": "echo out; echo err >&2; echo 42",
    "node": "console.log('out'); console.error('err'); console.log(6 * 7)",
}
FAILING = {
    "python": ("1 / 0", "ZeroDivisionError: division by zero\n"),
    "shell": ("exit 3", "exit code 3\n"),
    "node": ("throw new Error('no')", "exit code 1\n"),
}


def clawplane(plane: Any, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command, however it ends."""
    done: subprocess.CompletedProcess[str] = plane.cli(*arguments, check=False, **more)
    return done


@pytest.fixture(scope="module")
def http_(plane: Any) -> Iterator[httpx.Client]:
    with plane.http() as client:
        yield client


@pytest.fixture(scope="module")
def session(plane: Any, http_: httpx.Client) -> Iterator[str]:
    made = clawplane(plane, "session", "create", "by hand", "--profile", "bare")
    assert (made.returncode, made.stderr) == (0, "")
    yield made.stdout.strip()
    http_.delete(f"/v1/sessions/{made.stdout.strip()}")


def shown(http: httpx.Client, session: str, code: str) -> str:
    """Return what an expression is in a session, or its error, as another client sees it."""
    result = http.post("/v1/tools/execute_python", json={"code": code, "session_id": session}).json()
    return str(result["error"] or "".join(bundle["text/plain"] for bundle in result["results"]))


@pytest.mark.parametrize("tool", CODE)
def test_exec_writes_what_the_code_writes_and_ends_as_it_ends(
    plane: Any, session: str, tmp_path: Path, tool: str
) -> None:
    (tmp_path / "code").write_text(CODE[tool])
    done = clawplane(plane, "exec", tool, "--file", str(tmp_path / "code"), "--session", session)
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n42\n", "err\n")
    code, said = FAILING[tool]
    failed = clawplane(plane, "exec", tool, "-", "--session", session, input_=code)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.endswith(said)
    assert "clawplane" not in failed.stderr


def test_exec_keeps_to_its_time_and_leaves_the_variables(plane: Any, http_: httpx.Client, session: str) -> None:
    code = "kept = 1\nprint('so far', flush=True)\nwhile True: pass"
    late = clawplane(plane, "exec", "python", code, "--session", session, "--timeout", "0.5")
    assert (late.returncode, late.stdout) == (1, "so far\n")
    assert late.stderr.startswith("Error: timeout exceeded\n")
    assert shown(http_, session, "kept") == "1"
    refused = clawplane(plane, "exec", "shell", "echo ran", "--session", session, "--timeout", "121")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: timeout: 121.0 is out of range.\nhint: ")


def test_exec_keeps_pictures_and_writes_the_whole_answer_for_machines(plane: Any, session: str, tmp_path: Path) -> None:
    code = f"class Dot:\n    def _repr_png_(self): return {PIXEL!r}\nDot()"
    saved = clawplane(plane, "exec", "python", code, "--session", session, "--save", str(tmp_path))
    assert (saved.returncode, (tmp_path / "image-1.png").read_bytes()) == (0, PIXEL)
    whole = clawplane(plane, "exec", "shell", "echo out; exit 4", "--session", session, "--json")
    answer = json.loads(whole.stdout)
    assert (whole.returncode, answer["stdout"], answer["error"], answer["exit_code"]) == (1, "out\n", "exit code 4", 4)


def test_ctrl_c_ends_an_exec_and_leaves_what_it_did(plane: Any, http_: httpx.Client, session: str) -> None:
    code = "done = [1]\nprint('begun', flush=True)\nwhile True: pass"
    with subprocess.Popen(
        [sys.executable, "-m", "clawplane", "exec", "python", code, "--session", session, "--timeout", "100"],
        env=plane.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert shown(http_, session, "done") == "[1]"  # this waits for the one before


def test_a_session_is_managed_by_its_commands_from_create_to_delete(plane: Any, http_: httpx.Client) -> None:
    made = plane.json("session", "create", "managed", "--profile", "bare", "--memory", "256", "--workspace", "by-hand")
    name = made["id"]
    assert clawplane(plane, "session", "create", "managed").stdout == f"{name}\n"
    shown(http_, name, "x = 1")
    shown(http_, name, "x = 2")
    assert re.search(rf"^{name} +managed +running +bare +2 ", clawplane(plane, "session", "list").stdout, re.MULTILINE)
    copy = clawplane(plane, "session", "branch", name, "--name", "copy").stdout.strip()
    assert clawplane(plane, "session", "rollback", name).stdout.startswith(f"{name} running, 2 execs, sleeps ")
    assert (shown(http_, name, "x"), shown(http_, copy, "x")) == ("1", "2")
    assert clawplane(plane, "session", "sleep", name, "--save").stdout.startswith(f"{name} sleeping, ")
    assert clawplane(plane, "exec", "python", "x", "--session", name).stdout == "1\n"
    assert clawplane(plane, "session", "reset", name).returncode == 0
    assert shown(http_, name, "x") == "NameError: name 'x' is not defined"
    cells = json.loads(clawplane(plane, "session", "notebook", name).stdout)["cells"]
    assert ["".join(cell["source"]) for cell in cells] == ["x = 1", "x = 2", "x", "x", "x"]
    ended = clawplane(plane, "session", "delete", name)
    assert (ended.returncode, ended.stderr) == (0, f"{name} ended\n")
    living = clawplane(plane, "session", "list").stdout
    assert (name in living, copy in living) == (False, True)
    assert clawplane(plane, "session", "show", name).stdout == f"{name} ended, 5 execs: It was deleted.\n"
    late = clawplane(plane, "exec", "python", "1", "--session", name)
    assert (late.returncode, late.stdout) == (1, "")
    assert re.search(
        rf"The session {name} ended at \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC, because: It was deleted", late.stderr
    )
    http_.delete(f"/v1/sessions/{copy}")
    assert http_.delete("/v1/workspaces/by-hand").status_code == 200


def test_files_go_there_and_come_back_by_the_commands(plane: Any, session: str, tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000  # more than a piece of an upload
    (tmp_path / "grüße.bin").write_bytes(data)
    sent = clawplane(plane, "session", "upload", session, str(tmp_path / "grüße.bin"), "in/grüße.bin")
    assert (sent.returncode, sent.stderr) == (0, "in/grüße.bin: 1.3 MB\n")
    listed = clawplane(plane, "session", "files", session, "-r").stdout
    assert re.search(r"^in/grüße\.bin +file +1\.3 MB ", listed, re.MULTILINE), listed
    assert clawplane(plane, "exec", "shell", "wc -c < in/grüße.bin", "--session", session).stdout == f"{len(data)}\n"
    fetched = clawplane(plane, "session", "download", session, "in/grüße.bin", cwd=tmp_path / "..")
    assert fetched.returncode == 0, fetched.stderr
    assert (tmp_path.parent / "grüße.bin").read_bytes() == data
    clawplane(plane, "session", "download", session, "-o", str(tmp_path / "all.zip"))
    with zipfile.ZipFile(io.BytesIO((tmp_path / "all.zip").read_bytes())) as archive:
        assert archive.read("in/grüße.bin") == data
    missing = clawplane(plane, "session", "download", session, "in/nothing", "-o", str(tmp_path / "nothing"))
    assert (missing.returncode, missing.stdout, (tmp_path / "nothing").exists()) == (1, "", False)
    outside = clawplane(plane, "session", "download", session, "../../../etc/passwd", "-o", "-")
    assert (outside.returncode, outside.stdout) == (1, "")
    assert "error: " in missing.stderr
    assert "error: " in outside.stderr


def test_no_command_reaches_the_session_of_another_key(plane: Any, session: str, tmp_path: Path) -> None:
    with plane.http() as http:
        made = http.post("/v1/keys", json={"name": "other", "owner": "other", "scopes": ["sessions"]}).json()
    (tmp_path / "file").write_text("x")
    other = {**plane.environment, "CLAWPLANE_API_KEY": made["data"]["key"]}
    for command in (
        ("exec", "python", "1", "--session", session),
        ("repl", session),
        ("session", "upload", session, str(tmp_path / "file")),
        ("session", "delete", session),
    ):
        done = clawplane(plane, *command, environment=other, input_="")
        assert (done.returncode, done.stdout) == (1, ""), command
        assert f"there is no session '{session}'" in done.stderr
        assert "Traceback" not in done.stderr
    assert plane.json("session", "show", session)["state"] == "running"


# The prompt

OWN_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes standard input the terminal that the program's process group obeys, so that keys are what a person types."""


class Prompt:
    """`clawplane repl` on a terminal; what it shows is read up to a text that is waited for."""

    def __init__(self, plane: Any, *arguments: str) -> None:
        self._keys, inner = pty.openpty()
        command = [sys.executable, "-m", "clawplane", "repl", *arguments]
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWN_TERMINAL, *command],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=plane.environment | {"TERM": "dumb"},
        )
        os.close(inner)
        self._seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def until(self, text: str, seconds: float = 60) -> str:
        """Return what is shown before `text`, with lines as a terminal has them made plain."""
        end = time.monotonic() + seconds
        while text not in self._seen:
            ready, _, _ = select.select([self._keys], [], [], max(0.0, end - time.monotonic()))
            assert ready, self._seen
            self._seen += self._decoder.decode(os.read(self._keys, 65536)).replace("\r\n", "\n")
        before, _, self._seen = self._seen.partition(text)
        return before

    def type(self, keys: str) -> None:
        os.write(self._keys, keys.encode())

    def answer(self, *lines: str) -> str:
        """Type lines that are one statement, and return what is shown before the next prompt."""
        for line in lines[:-1]:
            self.type(f"{line}\n")
            self.until("... ")
        self.type(f"{lines[-1]}\n")
        return self.until(">>> ").partition("\n")[2]  # behind the echo

    def waits_for_keys(self, seconds: float = 30) -> None:
        """Return when it sleeps: only then does readline hear a signal at once."""
        end = time.monotonic() + seconds
        while Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < end
            select.select([], [], [], 0.01)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._keys)


@pytest.fixture
def prompt(plane: Any, session: str) -> Iterator[Prompt]:
    opened = Prompt(plane, session)
    assert f"session {session}, bare; %help for help\n" in opened.until(">>> ")
    yield opened
    opened.close()


def test_expressions_blocks_and_errors_are_answered_as_by_python_s_own_prompt(prompt: Prompt) -> None:
    assert prompt.answer("6 * 7") == "42\n"
    assert prompt.answer("word = 'grüße'") == ""
    assert prompt.answer("word.upper()") == "'GRÜSSE'\n"
    assert prompt.answer("def double(x):", "    return x * 2", "") == ""
    assert prompt.answer("for n in range(2):", "    print(double(n))", "") == "0\n2\n"
    assert prompt.answer("await __import__('asyncio').sleep(0, 'waited')") == "'waited'\n"
    wrong = prompt.answer("double(1, 2)")
    assert wrong.startswith("Traceback (most recent call last):\n")
    assert wrong.endswith("TypeError: double() takes 1 positional argument but 2 were given\n")
    assert "clawplane" not in wrong
    assert "SyntaxError" in prompt.answer("1 +* 2")
    assert prompt.answer("!echo from the shell; exit 5") == "from the shell\nexit code 5\n"
    assert prompt.answer("double(21)") == "42\n"


def test_ctrl_c_stops_what_runs_and_drops_what_is_typed_and_ctrl_d_leaves(plane: Any, prompt: Prompt) -> None:
    prompt.answer("kept = []")
    prompt.type("while True: kept.append(1) or len(kept) > 1 or print('begun', flush=True)\n\n")
    prompt.until("begun\n")
    prompt.type("\x03")
    stopped = prompt.until(">>> ")
    assert "Error: cancelled\n" in stopped
    assert "the interpreter goes on with its variables" in stopped
    assert prompt.answer("len(kept) > 0") == "True\n"
    prompt.type("!echo begun; sleep 100\n")
    prompt.until("begun\n")
    prompt.type("\x03")
    prompt.until(">>> ")
    prompt.type("def never():\n")
    prompt.until("... ")
    prompt.waits_for_keys()
    prompt.type("\x03")
    assert "KeyboardInterrupt\n" in prompt.until(">>> ")
    assert prompt.answer("'never' in globals()") == "False\n"
    prompt.type("\x04")
    assert prompt.process.wait(30) == 0


def test_what_is_left_is_found_again_and_undone(plane: Any, session: str) -> None:
    answers = []
    for lines in (("left = 'here'",), ("left", "left = 'there'", "%undo", "left", "%reset", "'left' in globals()")):
        prompt = Prompt(plane, session)
        try:
            prompt.until(">>> ")
            answers = [prompt.answer(line) for line in lines]
            prompt.type("\x04")
            assert prompt.process.wait(30) == 0
        finally:
            prompt.close()
    assert [answers[0], answers[3], answers[5]] == ["'here'\n", "'here'\n", "False\n"]
    assert plane.json("session", "show", session)["state"] == "running"


def test_a_prompt_ends_with_its_session(plane: Any, http_: httpx.Client) -> None:
    name = http_.post("/v1/sessions", json={"profile": "bare"}).json()["id"]
    prompt = Prompt(plane, name)
    try:
        prompt.until(">>> ")
        assert prompt.answer("1 + 1") == "2\n"
        http_.delete(f"/v1/sessions/{name}")
        prompt.type("1 + 1\n")
        assert f"The session {name} ended" in prompt.until("hint: ")
        assert prompt.process.wait(30) == 1
    finally:
        prompt.close()


def test_exec_and_prompt_make_a_session_of_their_own_and_name_it(plane: Any, http_: httpx.Client) -> None:
    done = clawplane(plane, "exec", "python", "1 + 1")
    assert (done.returncode, done.stdout) == (0, "2\n")
    spoken = clawplane(plane, "repl", input_="1 + 1\n")
    assert (spoken.returncode, ">>> 2\n" in spoken.stdout) == (0, True)
    for said in (done.stderr, spoken.stderr):
        named = re.search(r"^session (\w{26})\b", said, re.MULTILINE)
        assert named, said
        found = http_.get(f"/v1/sessions/{named[1]}").json()
        assert (found["profile"], found["exec_count"]) == ("data", 1)
        http_.delete(f"/v1/sessions/{named[1]}")
