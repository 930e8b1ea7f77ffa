"""The published E2B clients hold a whole conversation with the real server, runner and sandbox, sync and async."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from e2b import CommandExitException, FileNotFoundException, InvalidArgumentException, NotFoundException
from e2b_code_interpreter import E2B


@pytest.fixture(scope="module")
def client(plane: Any) -> E2B:
    return E2B(api_key=plane.key, api_url=plane.url, sandbox_url=plane.url)


@pytest.fixture(scope="module")
def shared(client: E2B) -> Iterator[Any]:
    """One sandbox for what leaves nothing behind."""
    sandbox = client.Sandbox.create("bare", timeout=600, envs={"GREETING": "hello"}, metadata={"for": "tests"})
    yield sandbox
    sandbox.kill()


def test_a_sandbox_lives_from_create_to_kill(client: E2B) -> None:
    sandbox = client.Sandbox.create("bare", timeout=120, metadata={"test": "life"})
    info = sandbox.get_info()
    assert (info.metadata, info.state.value) == ({"test": "life"}, "running")
    assert 110 < info.end_at.timestamp() - time.time() < 125
    sandbox.set_timeout(600)
    assert 590 < sandbox.get_info().end_at.timestamp() - time.time() < 605
    assert sandbox.sandbox_id in [item.sandbox_id for item in client.Sandbox.list().next_items()]
    same = client.Sandbox.connect(sandbox.sandbox_id)
    assert same.run_code("x = 20 + 1").error is None
    assert sandbox.run_code("x * 2").text == "42"
    assert sandbox.kill() is True
    assert sandbox.is_running() is False
    with pytest.raises(NotFoundException):
        sandbox.get_info()


def test_three_variables_are_all_that_a_program_needs(plane: Any) -> None:
    program = (
        "from e2b_code_interpreter import Sandbox\n"
        "with Sandbox.create('bare') as sandbox:\n"
        "    sandbox.files.write('n.txt', '41')\n"
        "    print(sandbox.run_code(\"int(open('n.txt').read()) + 1\").text)\n"
    )
    variables = {"E2B_API_URL": plane.url, "E2B_SANDBOX_URL": plane.url, "E2B_API_KEY": plane.key}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "42\n"


def test_a_sandbox_ends_at_its_time_even_while_it_is_used(client: E2B) -> None:
    began = time.monotonic()
    sandbox = client.Sandbox.create("bare", timeout=2)
    execution = sandbox.run_code("import time\nprint('begun')\ntime.sleep(60)")
    assert 1.5 < time.monotonic() - began < 15
    assert execution.logs.stdout == ["begun\n"]
    assert execution.error is not None
    assert not sandbox.is_running()


def test_code_streams_what_it_prints_and_gives_what_it_shows(shared: Any) -> None:
    lines: list[str] = []
    results: list[Any] = []
    execution = shared.run_code(
        "import sys\nprint('one')\nprint('two', file=sys.stderr)\n"
        "class Rich:\n    def _repr_html_(self): return '<b>x</b>'\n    def __repr__(self): return 'rich'\nRich()",
        on_stdout=lambda message: lines.append(message.line),
        on_stderr=lambda message: lines.append(message.line),
        on_result=results.append,
    )
    assert sorted("".join(lines).split()) == ["one", "two"]
    assert "".join(execution.logs.stdout) == "one\n"
    assert [(result.text, result.html, result.is_main_result) for result in results] == [("rich", "<b>x</b>", True)]


def test_tables_and_plots_come_back_as_data(client: E2B) -> None:
    with client.Sandbox.create(timeout=300, request_timeout=110) as sandbox:
        execution = sandbox.run_code(
            "import pandas as pd\nimport matplotlib.pyplot as plt\n"
            "table = pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})\nplt.plot(table.a)\nplt.show()\ntable",
            timeout=100,
        )
        assert execution.error is None, execution.error
        pictures = [base64.b64decode(result.png) for result in execution.results if result.png]
        assert [picture[:8] for picture in pictures] == [b"\x89PNG\r\n\x1a\n"]
        (main,) = [result for result in execution.results if result.is_main_result]
        assert "<table" in main.html
        assert "x" in main.text


def test_an_exception_has_the_users_own_lines(shared: Any) -> None:
    execution = shared.run_code("def f():\n    return 1 / 0\nf()")
    assert (execution.error.name, execution.error.value) == ("ZeroDivisionError", "division by zero")
    assert "return 1 / 0" in execution.error.traceback
    assert "clawplane" not in execution.error.traceback
    assert execution.logs.stderr == []


def test_environment_variables_are_data_and_never_code(shared: Any) -> None:
    hostile = 'it\'s "$(touch /tmp/x)"\n`id`'
    execution = shared.run_code("import os; (os.environ['GREETING'], os.environ['OWN'])", envs={"OWN": hostile})
    assert execution.text == repr(("hello", hostile))
    result = shared.commands.run('printf %s "$OWN"', envs={"OWN": hostile})
    assert result.stdout == hostile


def test_contexts_do_not_share_variables(shared: Any) -> None:
    first, second = shared.create_code_context(), shared.create_code_context()
    shared.run_code("v = 1", context=first)
    assert shared.run_code("v", context=first).text == "1"
    assert shared.run_code("v", context=second).error.name == "NameError"
    shared.restart_code_context(first)
    assert shared.run_code("v", context=first).error.name == "NameError"
    assert {first.id, second.id} <= {context.id for context in shared.list_code_contexts()}
    shared.remove_code_context(first)
    assert first.id not in {context.id for context in shared.list_code_contexts()}


def test_bash_and_javascript_see_the_same_files(shared: Any) -> None:
    shared.files.write("shared.txt", "from outside\n")
    assert "".join(shared.run_code("cat shared.txt", language="bash").logs.stdout) == "from outside\n"
    script = "console.log(require('fs').readFileSync('shared.txt', 'utf8').trim())"
    assert "".join(shared.run_code(script, language="js").logs.stdout) == "from outside\n"


def test_files_go_in_and_out(shared: Any) -> None:
    data = bytes(range(256)) * 4096
    shared.files.write("dir/sub/data.bin", data)
    assert shared.files.read("/home/user/dir/sub/data.bin", format="bytes") == bytearray(data)
    assert [(entry.name, entry.size) for entry in shared.files.list("dir/sub")] == [("data.bin", len(data))]
    assert shared.files.rename("dir/sub/data.bin", "dir/moved.bin").path == "/workspace/dir/moved.bin"
    assert shared.run_code("import os; os.path.getsize('/workspace/dir/moved.bin')").text == str(len(data))
    assert (
        httpx.get(
            shared.download_url("dir/moved.bin", use_signature_expiration=60),
            headers={"E2b-Sandbox-Id": shared.sandbox_id},
        ).content
        == data
    )
    shared.files.remove("dir")
    assert not shared.files.exists("dir")
    with pytest.raises(FileNotFoundException):
        shared.files.read("dir/moved.bin")


def test_file_calls_cannot_leave_the_workspace(shared: Any) -> None:
    shared.commands.run("ln -sfn /etc out && ln -sf /etc/passwd secret")
    refusals = {
        "/etc/passwd": ("is outside of /workspace", "is outside of /workspace"),
        "../../etc/passwd": ("leads upwards", "leads upwards"),
        "out/passwd": ("leads out of the workspace", "is or leads through a symbolic link"),
        "secret": ("leads out of the workspace", "nothing is written through links"),
    }
    for path, (of_reading, of_writing) in refusals.items():
        with pytest.raises(InvalidArgumentException, match=of_reading):
            shared.files.read(path)
        with pytest.raises(InvalidArgumentException, match=of_writing):
            shared.files.write(path, "x")


def test_commands_run_stream_fail_and_are_killed(shared: Any) -> None:
    lines: list[str] = []
    result = shared.commands.run("echo out; echo err >&2; pwd", on_stdout=lines.append)
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n/workspace\n", "err\n", 0)
    assert "".join(lines) == result.stdout
    with pytest.raises(CommandExitException) as caught:
        shared.commands.run("exit 7")
    assert caught.value.exit_code == 7
    handle = shared.commands.run("echo up; sleep 60", background=True)
    assert handle.pid in [process.pid for process in shared.commands.list()]
    assert handle.kill() is True
    with pytest.raises(CommandExitException):
        handle.wait()
    assert shared.commands.list() == []


def test_what_a_command_leaves_in_the_background_lives_on_beside_the_code(client: E2B) -> None:
    sandbox = client.Sandbox.create("bare", timeout=120)
    sandbox.commands.run("python3 -m http.server 8000 --bind 127.0.0.1 > log 2>&1 &")
    execution = sandbox.run_code(
        "import time, urllib.request\n"
        "open_ = urllib.request.build_opener(urllib.request.ProxyHandler({})).open\n"
        "for _ in range(100):\n"
        "    try:\n        status = open_('http://127.0.0.1:8000').status\n        break\n"
        "    except OSError:\n        time.sleep(0.1)\n"
        "status"
    )
    assert (execution.text, execution.error) == ("200", None)
    sandbox.kill()


async def test_the_async_client_does_all_of_it_at_once(client: E2B) -> None:
    async def one(number: int) -> str:
        sandbox = await client.AsyncSandbox.create("bare", timeout=120)
        try:
            await sandbox.files.write("n", str(number))
            execution = await sandbox.run_code("int(open('/workspace/n').read()) * 2")
            printed = await sandbox.commands.run("cat n")
            return f"{execution.text} {printed.stdout}"
        finally:
            assert await sandbox.kill()

    assert await asyncio.gather(*(one(number) for number in range(4))) == ["0 0", "2 1", "4 2", "6 3"]


def test_a_paused_sandbox_wakes_with_its_variables(client: E2B) -> None:
    sandbox = client.Sandbox.create("bare", timeout=120)
    sandbox.run_code("kept = 'yes'")
    assert sandbox.pause() is True
    assert sandbox.get_info().state.value == "paused"
    assert client.Sandbox.connect(sandbox.sandbox_id).run_code("kept").text == "'yes'"
    sandbox.kill()


def test_a_fork_goes_its_own_way(client: E2B) -> None:
    sandbox = client.Sandbox.create("bare", timeout=120)
    sandbox.run_code("n = 1")
    (copy,) = sandbox.fork()
    copy.run_code("n += 10")
    assert (sandbox.run_code("n").text, copy.run_code("n").text) == ("1", "11")
    copy.kill()
    sandbox.kill()


def test_a_background_command_runs_beside_code(shared: Any) -> None:
    waiting = shared.commands.run("until [ -e go ]; do sleep 0.01; done; echo went", background=True)
    assert shared.run_code("open('go', 'w').close(); 40 + 2").text == "42"
    assert waiting.wait().stdout == "went\n"
    shared.files.remove("go")


def test_home_is_the_workspace_for_files_code_and_commands(shared: Any) -> None:
    shared.files.write("/home/user/notes/a.txt", "41")
    code = "from pathlib import Path\nPath('~/notes/b.txt').expanduser().write_text('1')\n"
    execution = shared.run_code(code + "int(open('/home/user/notes/a.txt').read()) + 1")
    assert execution.text == "42", execution.error
    assert shared.commands.run("cat ~/notes/b.txt notes/a.txt", cwd="/home/user").stdout == "141"
    assert shared.commands.run("cat b.txt", cwd="/home/user/notes").stdout == "1"
    assert shared.files.read("notes/b.txt") == "1"
    shared.files.remove("/home/user/notes")
