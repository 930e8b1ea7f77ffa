"""A person sees what is asked as it is, whatever its author does to hide it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clawplane.domain import questions
from clawplane.domain.host_tasks import (
    Command,
    FileEdit,
    FileRead,
    FileWrite,
    NewTask,
    Prompt,
    Target,
    TaskId,
    TaskType,
    Work,
)
from clawplane.domain.ids import JobId

LINK = "https://plane.test/v1/host/approvals/token"


def task(work: Work, **more: Any) -> NewTask:
    return NewTask(
        id=TaskId("task-1"),
        job=JobId(1),
        owner="o",
        type=TaskType.COMMAND,
        work=work,
        created_at=5,
        timeout_ms=1000,
        **more,
    )


def command(text: str, **more: Any) -> NewTask:
    return task(Command(command=text, timeout=1000), **more)


def test_of_a_long_text_the_end_is_shown_and_how_much_is_not() -> None:
    text = f"echo {'x' * 100_000}; rm -rf /"
    shown = questions.shown(text, 1000)
    assert shown.startswith("echo xxx")
    assert shown.endswith("; rm -rf /")
    assert f"[... {len(text) - 1000} characters are not shown here ...]" in shown
    assert len(shown) < 1100


@pytest.mark.parametrize(
    ("hidden", "seen"),
    [
        ("\u202e", "\\u202e"),
        ("\u200b", "\\u200b"),
        ("\x1b[8m", "\\u001b[8m"),
        ("\r", "\\u000d"),
        ("\ud83d", "\\ud83d"),
        ("\U000e0041", "\\U000e0041"),
        ("\u2028", "\\u2028"),
        ("é\n\t\N{GRINNING FACE}", "é\n\t\N{GRINNING FACE}"),
    ],
    ids=range(8),
)
def test_what_cannot_be_seen_is_shown_by_its_code_and_the_rest_as_it_is(hidden: str, seen: str) -> None:
    assert questions.shown(f"a{hidden}b", 1000) == f"a{seen}b"


def test_a_text_full_of_what_cannot_be_seen_stays_within_its_bound() -> None:
    assert len(questions.shown("\U000e0041" * 100_000, 1000)) < 2100


def test_a_command_cannot_end_the_block_in_which_a_chat_shows_it() -> None:
    forged = command("true\n```\nYes or no: <https://evil.test>\n```")
    text = questions.chat_question(questions.of_task(forged), link=LINK, until=0)
    assert text.count("```") == 2
    assert text.index("https://evil.test") < text.rindex("```") < text.index(LINK)
    assert "clawplane task approve task-1" in text


def test_a_value_cannot_look_like_another_fact_and_values_of_variables_are_not_told() -> None:
    asked = command(
        "make", cwd="/srv\nrunner: safe", env={"KEY": "hunter2"}, target=Target(labels={"os": "mac", "at": "home"})
    )
    question = questions.of_task(asked)
    assert question.facts == (
        ("directory", "/srv\\nrunner: safe"),
        ("runner", "at=home, os=mac"),
        ("variables", "KEY (values are not shown)"),
    )
    notice = json.loads(questions.webhook_question(question, asked, link=LINK, until=7))
    assert "hunter2" not in json.dumps(notice)
    assert notice == {
        "type": "task.approval-needed",
        "task": {
            "id": "task-1",
            "type": "command",
            "status": "pending",
            "createdAt": 5,
            "sessionId": None,
            "labels": {},
        },
        "question": {
            "kind": "task",
            "toolUse": None,
            "title": "Run a command",
            "facts": dict(question.facts),
            "text": "make",
            "characters": 4,
        },
        "answerUrl": LINK,
        "expiresAt": 7,
    }


@pytest.mark.parametrize(
    ("work", "title", "named", "text"),
    [
        (FileRead(path="/a"), "Read a file", ("file", "/a"), ""),
        (FileWrite(path="/a", content={"b": 1}), "Write a file", ("file", "/a"), '{"b":1}'),
        (FileEdit(path="/a", old_string="b", new_string="c"), "Edit a file", ("replace", "once"), "becomes"),
        (
            Prompt(cli="codex", prompt="mend it", timeout=1, session_id="s", tools=("Read",)),
            "Give Codex a prompt",
            ("tools", "Read"),
            "mend it",
        ),
    ],
    ids=["read", "write", "edit", "prompt"],
)
def test_every_kind_of_work_is_put_into_words(work: Work, title: str, named: tuple[str, str], text: str) -> None:
    question = questions.of_task(task(work))
    assert (question.title, named in question.facts) == (title, True)
    assert text in question.text
