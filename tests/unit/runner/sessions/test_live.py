"""The life of a session: sleep, wake, save, resume, undo, branch, reset, and its ends."""

from __future__ import annotations

import asyncio

import pytest

from clawplane.domain.asks import Branch, Nothing, Reset, Rollback, Sleep, StatFile
from clawplane.domain.sessions import EgressRules, SessionState
from clawplane.runner.jobs.job import CannotPrepare
from clawplane.runner.sessions import residence

SLEEPING, RUNNING = SessionState.SLEEPING, SessionState.RUNNING


async def value(stay, code):
    result = await stay.python(code)
    assert result.error is None, result
    return result.results[0]["text/plain"]


async def test_an_idle_session_is_frozen_and_wakes_with_its_variables(house, begin):
    stay = await begin(house, sleep_after=1)
    await stay.python("x = 1")
    await stay.until(lambda note: note.state is SLEEPING)
    assert await value(stay, "x") == "1"
    assert stay.notes[-1].state is RUNNING


async def test_a_session_can_be_put_to_sleep_at_once(stay):
    state = await stay.ask("sleep", Sleep()).answer()
    assert state.state is SLEEPING
    assert (await stay.ask("state", Nothing()).answer()).state is SLEEPING


async def test_files_are_read_while_the_session_sleeps(stay):
    await stay.python("open('a', 'w').write('1')")
    await stay.ask("sleep", Sleep()).answer()
    assert (await stay.ask("stat", StatFile(path="a")).answer()).size == 1
    assert (await stay.ask("state", Nothing()).answer()).state is SLEEPING


async def test_a_saved_session_comes_back_with_its_variables_and_says_which(house, begin):
    stay = await begin(house)
    await stay.python("x = [1, 2]\nlost = (i for i in x)\nopen('a', 'w').write('kept')")
    await stay.ask("sleep", Sleep(save=True)).answer()
    end = await stay.end()
    assert (end.reason, end.succeeded) == ("saved", True)

    again = await begin(house, session=stay.spec.session, resume=True)
    result = await again.python("x, open('a').read()")
    assert result.results[0]["text/plain"] == "([1, 2], 'kept')"
    note = " ".join(result.notes)
    assert "came back: x" in note
    assert "lost" in note
    assert "x" in again.notes[0].restored
    assert any(name.startswith("lost") for name in again.notes[0].lost)
    assert not (await again.python("1")).notes


async def test_a_session_that_is_not_used_for_long_is_saved(house, begin):
    stay = await begin(house, sleep_after=1, save_after=1)
    await stay.python("x = 1")
    assert (await stay.end()).reason == "saved"


async def test_a_killed_session_keeps_its_workspace_and_tells_what_was_lost(house, begin):
    stay = await begin(house)
    await stay.python("x = 1\nopen('a', 'w').write('kept')")
    await stay.until(lambda note: note.exec_count == 1)  # by then the names are written down, too
    stay.job.kill()
    assert (await stay.end()).reason == "lost"
    again = await begin(house, session=stay.spec.session, resume=True)
    result = await again.python("open('a').read()")
    assert result.results[0]["text/plain"] == "'kept'"
    assert "lost its memory" in result.notes[0]
    assert "lost: x" in result.notes[0]
    assert again.notes[0].lost == ("x",)


async def test_a_deleted_session_leaves_nothing_on_the_disk(house, begin, tmp_path):
    stay = await begin(house)
    await stay.python("open('a', 'w').write('1')")
    assert (await stay.delete()).reason == "closed"
    assert not list((tmp_path / "data" / "unnamed").iterdir())
    assert not list((tmp_path / "data" / "sessions").iterdir())


async def test_a_session_that_is_deleted_while_it_begins_leaves_nothing_on_the_disk(house, begin, tmp_path):
    workspaces = tmp_path / "data" / "unnamed"
    beginning = asyncio.create_task(begin(house))
    while not list(workspaces.iterdir()):
        await asyncio.sleep(0)
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    assert not list(workspaces.iterdir())


async def test_a_session_that_cannot_begin_leaves_nothing_on_the_disk(open_house, begin, tmp_path):
    house = await open_house(session_pool=1)
    async with asyncio.timeout(30):
        await house.pool.full()
    with pytest.raises(CannotPrepare):
        await begin(house, egress=EgressRules(allow=("no host at all",)))
    await house.pool.close()
    assert not list((tmp_path / "data" / "unnamed").iterdir())


async def test_a_named_workspace_outlives_its_sessions(house, begin):
    stay = await begin(house, workspace="shared")
    await stay.python("open('a', 'w').write('1')")
    await stay.delete()
    other = await begin(house, workspace="shared")
    assert await value(other, "open('a').read()") == "'1'"


async def test_an_idle_session_expires(house, begin, tmp_path):
    stay = await begin(house, expires_after=1)
    assert (await stay.end()).reason == "expired"
    assert not list((tmp_path / "data" / "unnamed").iterdir())


async def test_a_reset_forgets_everything(stay):
    await stay.python("x = 1")
    await stay.ask("reset", Reset()).answer()
    assert await value(stay, "'x' in globals()") == "False"


async def test_an_interpreter_that_ends_before_it_is_ready_is_told_at_once(stay, monkeypatch):
    monkeypatch.setattr(residence, "ENTRY_POINT", "os:_exit")
    with pytest.raises(Exception, match="could not be started: the interpreter has closed"):
        await stay.ask("reset", Reset()).answer()
    monkeypatch.undo()
    assert await value(stay, "1 + 1") == "2"


async def test_a_context_is_reset_without_the_others(stay):
    await stay.python("x = 1")
    await stay.python("y = 1", context="other")
    await stay.ask("reset", Reset(context="other")).answer()
    assert await value(stay, "x") == "1"
    gone = await stay.python("'y' in globals()", context="other")
    assert gone.results[0]["text/plain"] == "False"


async def test_a_rollback_goes_back_to_before_the_last_execs(stay):
    for number in range(4):
        await stay.python(f"x = {number}")
    await stay.ask("rollback", Rollback(execs=2)).answer()
    assert await value(stay, "x") == "1"


async def test_a_rollback_goes_back_to_before_a_named_exec_and_further(stay):
    await stay.python("x = 0", id="first")
    await stay.python("x = 1", id="second")
    await stay.python("x = 2", id="third")
    await stay.ask("rollback", Rollback(before="third")).answer()
    assert await value(stay, "x") == "1"
    await stay.ask("rollback", Rollback(before="second")).answer()
    assert await value(stay, "x") == "0"
    await stay.ask("rollback", Rollback(before="first")).answer()
    assert await value(stay, "'x' in globals()") == "False"


async def test_a_rollback_beyond_what_is_kept_is_refused_and_changes_nothing(stay):
    await stay.python("x = 1")
    with pytest.raises(Exception, match="undone"):
        await stay.ask("rollback", Rollback(execs=7)).answer()
    assert await value(stay, "x") == "1"


async def test_a_branch_goes_its_own_way_and_outlives_its_parent(house, begin):
    stay = await begin(house)
    await stay.python("x = 1")
    await stay.ask("branch", Branch(session="child")).answer()
    child = await begin(house, session="child", branch_of=stay.spec.session)
    await child.python("x = 2")
    assert await value(stay, "x") == "1"
    await stay.delete()
    assert await value(child, "x") == "2"


async def test_a_branch_that_nobody_made_is_refused_in_words(house, begin):
    with pytest.raises(CannotPrepare, match="gone"):
        await begin(house, session="child", branch_of="parent")


async def test_the_runner_leaving_saves_what_can_be_saved(house, begin):
    stay = await begin(house)
    await stay.python("x = 1")
    running = stay.start("import time; time.sleep(0.2); y = 2")
    waiting = stay.start("z = 3")
    await running.until(lambda: running.events)
    stay.job.leave()
    assert (await running.answer()).status == "ok"
    with pytest.raises(Exception, match="has ended") as refused:
        await waiting.answer()
    assert refused.value.failed.details == ("refused",)
    assert (await stay.end()).reason == "saved"
    again = await begin(house, session=stay.spec.session, resume=True)
    assert await value(again, "x + y") == "3"


async def test_a_session_that_this_runner_does_not_know_cannot_be_resumed(house, begin):
    with pytest.raises(CannotPrepare, match="nothing of the session"):
        await begin(house, session="unknown", resume=True)


async def test_what_a_dead_runner_left_is_swept_and_sleeping_sessions_stay(open_house, begin, tmp_path):
    house = await open_house()
    stay = await begin(house)
    await stay.python("x = 1")
    await stay.ask("sleep", Sleep(save=True)).answer()
    await stay.end()
    litter = tmp_path / "data" / "unnamed" / "99-abc"
    litter.mkdir()
    await house.close()
    house = await open_house()
    assert not litter.exists()
    again = await begin(house, session=stay.spec.session, resume=True)
    assert await value(again, "x") == "1"


async def test_a_ready_sandbox_is_handed_out_once_and_replaced(open_house, begin):
    house = await open_house(session_pool=1)
    async with asyncio.timeout(20):
        await house.pool.full()
    first = await begin(house)
    second = await begin(house)
    await first.python("x = 1")
    assert await value(second, "'x' in globals()") == "False"
    async with asyncio.timeout(20):
        await house.pool.full()
    assert await value(await begin(house), "1") == "1"
