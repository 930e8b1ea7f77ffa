"""Detached commands run beside the turns of their session."""

from __future__ import annotations

import asyncio

import pytest

from clawplane.domain.asks import Interrupt, Nothing, Reset, Sleep
from clawplane.domain.sessions import SessionState

WAITS = "until [ -e go ]; do sleep 0.01; done; echo went"


def printed(question) -> str:
    return "".join(event.text for event in question.events if event.type == "stdout")


async def test_a_detached_command_does_not_hold_up_the_interpreter(stay):
    server = stay.start(WAITS, tool="shell", detached=True, timeout=60)
    await server.until(lambda: server.events)
    assert (await stay.python("open('go', 'w').close(); 40 + 2")).results[0]["text/plain"] == "42"
    assert (await server.answer()).stdout == "went\n"


async def test_detached_commands_run_beside_each_other_and_in_both_languages(stay):
    first = stay.start(WAITS, tool="shell", detached=True, timeout=60)
    second = stay.start(
        "require('fs').writeFileSync('go', ''); console.log('wrote')", tool="node", detached=True, timeout=60
    )
    assert (await second.answer()).stdout == "wrote\n"
    assert (await first.answer()).status == "ok"


async def test_a_detached_command_does_not_wait_for_a_turn_under_way(stay):
    running = stay.start("import time\nwhile not __import__('os').path.exists('go'): time.sleep(0.01)", timeout=60)
    await running.until(lambda: running.events)
    result = await stay.shell("touch go; echo done", detached=True)
    assert result.stdout == "done\n"
    assert (await running.answer()).status == "ok"


async def test_a_detached_interpreter_call_takes_its_turn(stay):
    first = stay.start("import time; time.sleep(0.2); x = 1", detached=True)
    assert (await stay.start("x", detached=True).answer()).results[0]["text/plain"] == "1"
    assert (await first.answer()).error is None


async def test_a_detached_command_has_its_own_time_limit_and_is_interrupted_by_its_id(stay):
    late = await stay.shell("echo begun; sleep 60", detached=True, timeout=0.3)
    assert (late.status, late.stdout) == ("timeout", "begun\n")
    other = stay.start("sleep 60", tool="shell", detached=True, id="mine")
    await other.until(lambda: other.events)
    await stay.ask("interrupt", Interrupt(exec_id="mine")).answer()
    assert (await other.answer()).status == "cancelled"


async def test_an_interrupt_without_an_id_means_the_turn(stay):
    other = stay.start(WAITS, tool="shell", detached=True, timeout=60)
    await other.until(lambda: other.events)
    await stay.ask("interrupt", Interrupt()).answer()
    await stay.ask("reset", Reset()).answer()
    await stay.shell("touch go")
    assert (await other.answer()).stdout == "went\n"


async def test_a_session_does_not_sleep_or_expire_while_a_detached_command_runs(house, begin):
    stay = await begin(house, sleep_after=1, expires_after=2)
    result = await stay.shell("sleep 2.5; echo still here", detached=True)
    assert result.stdout == "still here\n"
    assert all(note.state is SessionState.RUNNING for note in stay.notes)
    assert (await stay.end()).reason == "expired"


async def test_a_frozen_session_wakes_for_a_detached_command(stay):
    await stay.ask("sleep", Sleep()).answer()
    assert (await stay.shell("echo awake", detached=True)).stdout == "awake\n"
    assert (await stay.ask("state", Nothing()).answer()).state is SessionState.RUNNING


async def test_what_a_detached_command_changed_is_not_a_later_turn_s(stay):
    await stay.python("1")
    result = await stay.shell("echo 1 > made", detached=True)
    assert [change.path for change in result.files] == ["made"]
    assert (await stay.python("2")).files == ()


async def test_the_end_of_a_session_ends_its_detached_commands_in_words(stay):
    other = stay.start("sleep 60", tool="shell", detached=True)
    await other.until(lambda: other.events)
    await stay.delete()
    assert (await other.answer()).error == "Error: the session was ended"


async def test_the_number_of_detached_commands_is_bounded(stay, monkeypatch):
    from clawplane.runner.sessions import detached  # noqa: PLC0415 - its bound is made small

    monkeypatch.setattr(detached, "_MOST", 2)
    running = [stay.start(WAITS, tool="shell", detached=True, timeout=60) for _ in range(2)]
    with pytest.raises(Exception, match="2 detached commands run"):
        await stay.shell("1", detached=True)
    await stay.shell("touch go")
    await asyncio.gather(*(each.answer() for each in running))
    assert (await stay.shell("echo free", detached=True)).stdout == "free\n"
