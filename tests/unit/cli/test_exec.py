from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)

from played import plain, refused, stream  # noqa: E402 - found through the line above

PNG = b"\x89PNG\r\n\x1a\n picture"


def says(kind: str, text: str) -> dict[str, Any]:
    return {"type": kind, "text": text}


def test_output_appears_where_it_belongs_and_the_last_value_after_it(clawplane: Any, server: Any) -> None:
    value = {"type": "result", "data": {"text/plain": "2", "_main": True}}
    server.answers = {
        "POST /v1/tools/execute_python": stream(says("stdout", "out"), says("stderr", "err\n"), value, result={})
    }
    done = clawplane("exec", "python", "1+1")
    assert (done.returncode, done.stdout) == (0, "out2\n")
    assert done.stderr == "session 01S\nerr\n"


@pytest.mark.parametrize("tool", ["python", "shell", "node"])
def test_an_error_of_the_code_is_the_exit_code(clawplane: Any, server: Any, tool: str) -> None:
    failed = {"error": "exit code 4", "status": "error", "notes": ["Try less."]}
    server.answers = {f"POST /v1/tools/execute_{tool}": stream(result=failed)}
    done = clawplane("exec", tool, "false", "--session", "01S")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "exit code 4\nnote: Try less.\n"


def test_a_traceback_that_was_printed_is_not_told_again(clawplane: Any, server: Any) -> None:
    failed = {"error": "E: x", "status": "error", "error_detail": {"name": "E", "value": "x"}}
    server.answers = {"POST /v1/tools/execute_python": stream(says("stderr", "Traceback\nE: x\n"), result=failed)}
    done = clawplane("exec", "python", "x", "--session", "01S")
    assert (done.returncode, done.stderr) == (1, "Traceback\nE: x\n")


def test_json_is_the_whole_answer_and_nothing_else(clawplane: Any, server: Any) -> None:
    server.answers = {"POST /v1/tools/execute_python": stream(says("stdout", "out\n"), result={"stdout": "out\n"})}
    done = clawplane("exec", "python", "print('out')", "--json")
    assert json.loads(done.stdout)["stdout"] == "out\n"
    assert done.stderr == ""


def test_code_comes_from_standard_input_or_a_file(clawplane: Any, server: Any, tmp_path: Path) -> None:
    server.answers = {"POST /v1/tools/execute_node": stream(result={})}
    (tmp_path / "script.js").write_text("1\n")
    for arguments in (("-",), ("--file", "script.js"), ("--file", "-")):
        done = clawplane("exec", "node", *arguments, "--session", "s", "--timeout", "5", input="2")
        assert done.returncode == 0, done.stderr
    assert [json.loads(body)["code"] for body in server.bodies] == ["2", "1\n", "2"]
    assert json.loads(server.bodies[0]) == {"code": "2", "stream": "ndjson", "session_id": "s", "timeout": 5.0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "one of the two"),
        (("1", "--file", "x"), "one of the two"),
        (("--file", "nowhere.py"), "nowhere.py: No such file or directory."),
        (("--file", "latin1.py"), "no UTF-8 at byte 0"),
    ],
)
def test_code_that_cannot_be_sent_is_refused_before_anything_is_asked(
    clawplane: Any, server: Any, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "latin1.py").write_bytes(b"\xfc")
    done = clawplane("exec", "python", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert server.seen == []


def test_images_are_kept_under_names_of_their_own(clawplane: Any, server: Any, tmp_path: Path) -> None:
    figure = {"type": "result", "data": {"image/png": base64.b64encode(PNG).decode(), "text/plain": "<Figure>"}}
    server.answers = {"POST /v1/tools/execute_python": stream(figure, figure, result={})}
    assert "--save DIR" in clawplane("exec", "python", "plot()").stderr
    for _ in range(2):
        assert clawplane("exec", "python", "plot()", "--save", "plots").returncode == 0
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [f"image-{n}.png" for n in (1, 2, 3, 4)]
    assert (tmp_path / "plots" / "image-1.png").read_bytes() == PNG


def test_no_terminal_obeys_what_the_code_prints(clawplane: Any, server: Any) -> None:
    evil = {"type": "result", "data": {"text/plain": "\x1b]0;title\x07"}}
    server.answers = {
        "POST /v1/tools/execute_python": stream(
            says("stdout", "\x1b[2J\n"), evil, result={"error": "a\x1b[1mb", "notes": ["\x1b[3m"]}
        )
    }
    done = clawplane("exec", "python", "evil()")
    assert "\x1b" not in done.stdout + done.stderr


def test_a_refusal_has_its_sentence_and_the_way_out(clawplane: Any, server: Any) -> None:
    server.answers = {
        "POST /v1/tools/execute_python": refused(422, "invalid_schema", "timeout: 121.0 is out of range.")
    }
    done = clawplane("exec", "python", "1", "--timeout", "121")
    assert done.returncode == 1
    assert done.stderr == "error: timeout: 121.0 is out of range.\nhint: Do it differently.\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (stream(), "The stream of the exec broke off"),
        (stream({"type": "error", "error": "It was lost.", "code": "unavailable"}), "It was lost."),
        (stream({"no": "type"}), "does not speak"),
        (stream({"type": "end", "result": {"stdout": 1}}), "does not speak"),
        (plain({"type": "end"}, 500), "HTTP 500"),
    ],
)
def test_a_stream_without_an_end_is_a_failure_in_one_sentence(
    clawplane: Any, server: Any, answer: Any, said: str
) -> None:
    server.answers = {"POST /v1/tools/execute_python": answer}
    done = clawplane("exec", "python", "1", "--session", "s")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_what_an_exec_waits_for_is_told_once(clawplane: Any, server: Any) -> None:
    installs = says("ping", "The packages of the profile data are being installed\x1b[2J.")
    server.answers = {
        "POST /v1/tools/execute_python": stream(
            installs, installs, says("ping", ""), says("stdout", "out\n"), result={}
        )
    }
    done = clawplane("exec", "python", "1", "--session", "01S")
    assert done.stdout == "out\n"
    assert done.stderr == "waiting: The packages of the profile data are being installed [2J.\n"
    assert clawplane("exec", "python", "1", "--session", "01S", "--json").stderr == ""
