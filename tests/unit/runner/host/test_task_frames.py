"""What a server gives as a task is read, or refused, and never brings the runner down."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawplane.domain.host_tasks import Command, FileEdit, FileRead, FileWrite, Prompt
from clawplane.runner.host.task_frames import NoTask, read_task

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ("id", "type", "command", "timeout", "path", "content", "encoding", "oldString", "newString", "prompt")
MORE = ("sessionId", "model", "env", "cwd", "tools", "budgetUsd", "claim", "callbackChannel", "status", "createdAt")
TYPES = st.sampled_from(["command", "file-write", "file-read", "file-edit", "claude-cli", "codex-cli", "gemini-cli"])


def _read(**told: Any) -> Any:
    task = read_task(json.dumps({"id": "t", "createdAt": 5, "timeout": 1000, **told}).encode())
    assert task is not None
    return task


def test_null_is_no_task() -> None:
    assert read_task(b"null") is None


@pytest.mark.parametrize("type_", [None, "command"])
def test_a_task_without_a_type_is_a_command(type_: str | None) -> None:
    task = _read(command="ls", type=type_, cwd="/tmp", env={"A": "1", "B": 2})
    assert task.spec.work == Command(command="ls", timeout=1000)
    assert (task.spec.cwd, task.spec.env, task.spec.created_at) == ("/tmp", {"A": "1"}, 5)


def test_file_tasks_keep_any_json_value() -> None:
    assert _read(type="file-write", path="p", content={"a": 1}, encoding=None).spec.work == FileWrite(
        path="p", content={"a": 1}, encoding=None
    )
    assert _read(type="file-read", path="p").spec.work == FileRead(path="p")
    edited = _read(type="file-edit", path="p", oldString=None, newString="$&", replaceAll=True).spec.work
    assert edited == FileEdit(path="p", old_string=None, new_string="$&", replace_all=True)


def test_a_prompt_keeps_its_text_untrimmed_its_conversation_and_its_channel() -> None:
    task = _read(
        type="gemini-cli",
        prompt=" hi ",
        sessionId="s",
        model="m",
        resumeLatest=True,
        callbackChannel=" slash:1 ",
        callbackBotToken="b",
        callbacks="server",
        claim=4,
    )
    assert isinstance(task.spec.work, Prompt)
    assert (task.spec.work.prompt, task.spec.work.model, task.spec.work.resume_latest) == (" hi ", "m", True)
    assert (task.spec.session_key, task.channel, task.token) == ("gemini-cli:s", "slash:1", "b")
    assert (task.direct_callback, task.server_tells, task.claim) == (True, True, 4)
    assert "b'" not in repr(task)
    assert "'b'" not in repr(task)


@pytest.mark.parametrize("timeout", [None, "x", True, -1, 0, 1e300])
def test_a_time_out_that_is_none_leaves_it_to_the_runner(timeout: Any) -> None:
    assert _read(command="ls", timeout=timeout).spec.work.timeout == 0


@pytest.mark.parametrize(
    "body", [b"", b"{", b"<html>", b"[]", b"1", b'"x"', b'{"error":"x"}', b'{"id":7}', b"[" * 9999]
)
def test_what_is_no_task_is_refused(body: bytes) -> None:
    with pytest.raises(NoTask):
        read_task(body)


@given(st.dictionaries(st.sampled_from(FIELDS + MORE), JSON, max_size=12), TYPES | JSON)
def test_any_object_is_read_or_refused(told: dict[str, Any], type_: Any) -> None:
    body = json.dumps({**told, "type": type_}).encode()
    try:
        task = read_task(body)
    except NoTask:
        return
    assert task is not None
    assert (task.spec is None) == bool(task.problem)
