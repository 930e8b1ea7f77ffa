"""The session flow through the real server, runner and sandbox, over plain HTTP."""

from __future__ import annotations

import base64
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest


class Tools:
    """The tools as an agent calls them, in one session."""

    def __init__(self, http: httpx.Client, session: str | None = None) -> None:
        self.http = http
        self.session = session

    def call(self, tool: str, **parameters: Any) -> dict[str, Any]:
        body = parameters | ({"session_id": self.session} if self.session else {})
        answer = self.http.post(f"/v1/tools/{tool}", json=body)
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        self.session = self.session or result.get("session_id")
        return result

    def python(self, code: str, **more: Any) -> dict[str, Any]:
        return self.call("execute_python", code=code, **more)

    def shell(self, command: str, **more: Any) -> dict[str, Any]:
        return self.call("execute_shell", command=command, **more)

    def node(self, code: str, **more: Any) -> dict[str, Any]:
        return self.call("execute_node", code=code, **more)

    def delete(self) -> None:
        if self.session:
            self.http.delete(f"/v1/sessions/{self.session}")


@pytest.fixture(scope="module")
def http(plane: Any) -> Iterator[httpx.Client]:
    with plane.http() as client:
        yield client


@pytest.fixture
def tools(http: httpx.Client) -> Iterator[Tools]:
    tools = Tools(http)
    yield tools
    tools.delete()


@pytest.fixture(scope="module")
def shared(http: httpx.Client) -> Iterator[Tools]:
    tools = Tools(http)
    yield tools
    tools.delete()


def test_a_session_is_created_by_the_first_exec_and_its_id_returned(tools: Tools) -> None:
    result = tools.python("1 + 1")
    assert (result["stdout"], result["stderr"], result["error"]) == ("", "", None)
    assert result["results"][0]["text/plain"] == "2"
    assert result["session_id"]


def test_variables_survive_from_exec_to_exec_and_a_reset_forgets_them(tools: Tools) -> None:
    tools.python("x = 41")
    assert tools.python("print(x + 1)")["stdout"] == "42\n"
    assert tools.call("reset_repl")["stdout"] == "Python REPL reset.\n"
    forgotten = tools.python("x")
    assert forgotten["error"] == "NameError: name 'x' is not defined"


def test_a_traceback_shows_the_users_lines_and_none_of_ours(shared: Tools) -> None:
    result = shared.python("def f():\n    return 1 / 0\nf()")
    assert result["error"] == "ZeroDivisionError: division by zero"
    assert "return 1 / 0" in result["stderr"]
    assert "clawplane" not in result["stderr"]


def test_a_timeout_is_exact_and_keeps_what_was_printed(tools: Tools) -> None:
    tools.python("kept = 7")
    begun = time.monotonic()
    result = tools.python("print('before', flush=True)\nwhile True: pass", timeout=1)
    assert time.monotonic() - begun < 3
    assert result["error"] == "Error: timeout exceeded"
    assert result["stdout"] == "before\n"
    assert tools.python("kept")["results"][0]["text/plain"] == "7"


def test_a_program_that_ignores_the_interrupt_is_replaced_and_said_to_be(tools: Tools) -> None:
    result = tools.python("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass", timeout=0.5)
    assert result["error"] == "Error: timeout exceeded"
    assert any("replaced" in note for note in result["notes"])
    assert tools.python("1 + 1")["results"][0]["text/plain"] == "2"


def test_python_shell_and_node_share_the_workspace(tools: Tools) -> None:
    tools.python("open('/workspace/a.txt', 'w').write('from python')")
    assert tools.shell("cat a.txt")["stdout"] == "from python"
    assert tools.node("console.log(require('fs').readFileSync('/workspace/a.txt', 'utf8'))")["stdout"] == (
        "from python\n"
    )


def test_a_failed_command_says_its_exit_code(shared: Tools) -> None:
    result = shared.shell("echo out; echo err >&2; exit 3")
    assert (result["stdout"], result["stderr"], result["error"]) == ("out\n", "err\n", "exit code 3")


def test_a_plot_comes_back_as_a_picture(shared: Tools) -> None:
    result = shared.python("import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()")
    assert result["error"] is None
    pictures = [bundle["image/png"] for bundle in result["results"] if "image/png" in bundle]
    assert base64.b64decode(pictures[0]).startswith(b"\x89PNG")


def test_a_data_frame_is_shown_as_text_and_as_html(shared: Tools) -> None:
    result = shared.python("import pandas as pd\npd.DataFrame({'a': [1, 2]})")
    assert "<table" in result["results"][0]["text/html"]
    assert "a" in result["results"][0]["text/plain"]


@pytest.mark.parametrize(
    ("timeout", "refusal"),
    [
        (0, "0 is out of range."),
        (-1, "-1 is out of range."),
        (121, "121 is out of range."),
        ("30", "'30' is no number."),
        (None, "null is no number."),
    ],
    ids=["zero", "negative", "too long", "text", "null"],
)
def test_a_bad_timeout_is_refused_by_name_and_nothing_runs(http: httpx.Client, timeout: Any, refusal: str) -> None:
    answer = http.post("/v1/tools/execute_python", json={"code": "1", "timeout": timeout})
    assert (answer.status_code, answer.json()["error"]) == (422, f"timeout: {refusal}")


def test_an_unknown_session_is_a_clear_error(http: httpx.Client) -> None:
    answer = http.post("/v1/tools/execute_python", json={"code": "1", "session_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV"})
    assert answer.status_code == 404
    assert "session" in answer.json()["error"]


def test_a_memory_hog_is_ended_and_the_session_goes_on(tools: Tools, plane: Any) -> None:
    result = tools.python("x = b'x' * 3_000_000_000")
    if plane.counts_memory():
        assert result["status"] == "memory"
    else:
        assert result["error"].startswith("MemoryError")
    assert tools.python("1 + 1")["results"][0]["text/plain"] == "2"


def test_the_host_and_the_control_plane_cannot_be_reached(tools: Tools, plane: Any) -> None:
    code = (
        "import socket, urllib.request\n"
        f"for target in ('127.0.0.1', 'localhost', '0.0.0.0'):\n"
        f"    try: print(urllib.request.urlopen(f'http://{{target}}:{plane.port}/healthz', timeout=5).read())\n"
        "    except Exception as error: print('refused', type(error).__name__)\n"
    )
    assert tools.python(code)["stdout"].count("refused") == 3


def test_a_branch_is_an_independent_copy_of_the_live_interpreter(tools: Tools, http: httpx.Client) -> None:
    tools.python("x = [1]")
    answer = http.post(f"/v1/sessions/{tools.session}/branch", json={})
    assert answer.status_code in {200, 201}, answer.text
    branch = Tools(http, answer.json()["id"])
    try:
        branch.python("x.append(2)")
        assert tools.python("x")["results"][0]["text/plain"] == "[1]"
        assert branch.python("x")["results"][0]["text/plain"] == "[1, 2]"
    finally:
        branch.delete()


def test_a_rollback_goes_back_to_before_the_last_exec(tools: Tools, http: httpx.Client) -> None:
    tools.python("x = 1")
    tools.python("x = 2")
    assert http.post(f"/v1/sessions/{tools.session}/rollback", json={"execs": 1}).status_code == 200
    assert tools.python("x")["results"][0]["text/plain"] == "1"


def test_a_sleeping_session_wakes_with_its_variables(tools: Tools, http: httpx.Client) -> None:
    tools.python("x = 5")
    assert http.post(f"/v1/sessions/{tools.session}/sleep", json={}).status_code == 200
    assert http.get(f"/v1/sessions/{tools.session}").json()["state"] == "sleeping"
    assert tools.python("x")["results"][0]["text/plain"] == "5"


def test_a_session_saved_to_disk_says_which_names_came_back(tools: Tools, http: httpx.Client) -> None:
    tools.python("x = {'a': 1}\nimport math\ngenerator = (n for n in range(3))")
    assert http.post(f"/v1/sessions/{tools.session}/sleep", json={"save": True}).status_code == 200
    result = tools.python("print(x, math.pi > 3)")
    assert result["stdout"] == "{'a': 1} True\n"
    assert any("generator" in note for note in result["notes"])


def test_files_are_written_and_read_from_outside(tools: Tools, http: httpx.Client) -> None:
    tools.python("pass")
    written = tools.call("workspace_write", path="data/in.csv", content="a,b\n1,2\n")
    assert written.get("error") is None
    assert tools.python("print(open('/workspace/data/in.csv').read())")["stdout"] == "a,b\n1,2\n\n"
    assert tools.call("workspace_read", path="data/in.csv")["content"] == "a,b\n1,2\n"


def test_a_link_that_leads_out_of_the_workspace_is_not_followed(tools: Tools, http: httpx.Client) -> None:
    tools.shell("ln -s /etc/passwd leak; ln -s /etc etc")
    refusals = {
        "leak": "`path`: 'leak' leads out of the workspace.",
        "etc/passwd": "`path`: 'etc/passwd' leads out of the workspace.",
        "../../../../etc/passwd": "`path` contains `..`.",
        "/etc/passwd": "`path` is absolute.",
    }
    for path, refusal in refusals.items():
        answer = http.post("/v1/tools/workspace_read", json={"path": path, "session_id": tools.session})
        assert (answer.status_code, answer.json()["error"], answer.json()["stdout"]) == (400, refusal, "")


def test_output_is_cut_at_its_budget_and_the_whole_is_in_a_file(tools: Tools) -> None:
    result = tools.python("for n in range(200_000): print('line', n)")
    assert len(result["stdout"]) < 100_000
    assert result["stdout"].startswith("line 0\n")
    assert "line 199999" in result["stdout"]
    spill = result["truncated"]["stdout"]["spill"]
    assert tools.shell(f"tail -1 {spill}")["stdout"] == "line 199999\n"


def test_a_hundred_sessions_at_once_all_answer(http: httpx.Client) -> None:
    def one(number: int) -> tuple[str, str]:
        tools = Tools(http)
        result = tools.python(f"{number} * 2")
        return result["session_id"], result["results"][0]["text/plain"]

    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(one, range(100)))
    assert [text for _, text in answers] == [str(number * 2) for number in range(100)]
    for session, _ in answers:
        http.delete(f"/v1/sessions/{session}")


def test_a_runner_that_dies_in_the_middle_of_an_exec_is_told_to_the_caller(make_plane: Callable[..., Any]) -> None:
    plane = make_plane()
    plane.up()
    with plane.http() as http, ThreadPoolExecutor(1) as pool:
        tools = Tools(http, http.post("/v1/sessions", json={"profile": "bare"}).json()["id"])
        tools.python("kept = 1", timeout=60)
        running = pool.submit(
            http.post,
            "/v1/tools/execute_python",
            json={
                "code": "print('on', flush=True)\nimport time; time.sleep(60)",
                "session_id": tools.session,
                "timeout": 90,
            },
        )
        _until_running(http, tools.session or "")
        runner = next(pid for pid in _children(plane) if "\0runner\0" in _command(pid))
        os.kill(runner, signal.SIGKILL)
        answer = running.result(60)
        assert answer.status_code in {200, 503}
        assert "runner" in answer.text


def _until_running(http: httpx.Client, session: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = http.get(f"/v1/sessions/{session}").json()
        if state.get("executing") or state.get("exec_count", 0) >= 2:
            return
    raise AssertionError("the exec did not start")


def _children(plane: Any) -> list[int]:
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and str(plane.data) in _command(int(entry.name))
    ]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
