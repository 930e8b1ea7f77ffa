from __future__ import annotations

import json
import os
import stat

import pytest

from clawplane.domain.clock import ManualClock
from clawplane.runner.host.agents.sessions_cache import SessionsCache

HALF_AN_HOUR = 1_800_000


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.json"


def cache(path, clock):
    made = SessionsCache(path, clock, HALF_AN_HOUR)
    made.load()
    return made


async def test_the_file_has_the_exact_form_and_is_private(path, clock) -> None:
    kept = cache(path, clock)
    kept.remember("p-1", "a", "chan")
    kept.remember("p-2", None)
    await kept.save()
    now = clock.now_ms()
    wanted = [
        {"sessionId": "p-1", "taskApiId": "a", "lastActivity": now, "callbackChannel": "chan"},
        {"sessionId": "p-2", "taskApiId": None, "lastActivity": now, "callbackChannel": None},
    ]
    assert path.read_text() == json.dumps(wanted, indent=2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["cache.json"]


async def test_what_was_remembered_is_known_after_a_start_anew(path, clock) -> None:
    first = cache(path, clock)
    first.remember("p-1", "a")
    await first.save()
    assert cache(path, clock).provider_of("a") == "p-1"


async def test_the_last_binding_of_an_api_id_counts(path, clock) -> None:
    kept = cache(path, clock)
    kept.remember("p-1", "a")
    clock.advance(1)
    kept.remember("p-2", "a")
    assert kept.provider_of("a") == "p-2"
    kept.remember("p-2", "b")
    assert (kept.provider_of("b"), kept.provider_of("a")) == ("p-2", "p-1")


async def test_a_task_by_the_providers_id_does_not_take_the_conversation_from_its_api_id(path, clock) -> None:
    kept = cache(path, clock)
    kept.remember("p-1", "a")
    kept.remember("p-1", "p-1")
    assert (kept.provider_of("a"), kept.provider_of("p-1")) == ("p-1", "p-1")


async def test_two_runners_on_one_file_learn_from_each_other_and_lose_nothing(path, clock) -> None:
    one, two = cache(path, clock), cache(path, clock)
    one.remember("p-1", "a")
    await one.save()
    two.remember("p-2", "b")
    await two.save()
    assert (two.provider_of("a"), one.provider_of("b")) == ("p-1", "p-2")
    assert {entry["sessionId"] for entry in json.loads(path.read_text())} == {"p-1", "p-2"}


async def test_entries_end_with_the_retention_also_in_the_file(path, clock) -> None:
    kept = cache(path, clock)
    kept.remember("p-1", "a")
    await kept.save()
    clock.advance(HALF_AN_HOUR / 1000 - 1)
    kept.remember("p-2", "b")
    clock.advance(2)
    assert await kept.sweep() == 1
    assert kept.provider_of("a") is None
    assert [entry["sessionId"] for entry in json.loads(path.read_text())] == ["p-2"]


@pytest.mark.parametrize(
    "content",
    ["", "{", "null", '{"a": 1}', '[1, null, {}, {"sessionId": 5}]', "[" * 100_000, '[{"sessionId": "--help"}]'],
)
async def test_bad_content_is_left_out_and_replaced_by_the_next_write(path, clock, content: str) -> None:
    path.write_text(content)
    kept = cache(path, clock)
    kept.remember("p-1", "a")
    await kept.save()
    assert [entry["sessionId"] for entry in json.loads(path.read_text())] == ["p-1"]


async def test_good_entries_beside_bad_ones_are_kept(path, clock) -> None:
    good = {"sessionId": "p-1", "taskApiId": "a", "lastActivity": clock.now_ms(), "callbackChannel": None}
    path.write_text(json.dumps([{**good, "sessionId": "-x"}, {**good, "lastActivity": True}, good]))
    assert cache(path, clock).provider_of("a") == "p-1"


async def test_an_id_that_could_be_a_flag_or_a_path_is_not_remembered(path, clock) -> None:
    kept = cache(path, clock)
    for bad in ("--resume", "../x", "", "a b", "a" * 201):
        kept.remember(bad, "a")
    assert kept.provider_of("a") is None


async def test_a_planted_link_is_neither_read_nor_written_through(path, clock, tmp_path) -> None:
    good = {"sessionId": "p-1", "taskApiId": "a", "lastActivity": clock.now_ms(), "callbackChannel": None}
    target = tmp_path / "target"
    target.write_text(json.dumps([good]))
    path.symlink_to(target)
    kept = cache(path, clock)
    assert kept.provider_of("a") is None
    kept.remember("p-2", "b")
    await kept.save()
    assert "p-2" not in target.read_text()
    assert path.is_symlink()
    assert kept.provider_of("b") == "p-2"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user")
async def test_a_file_of_another_user_is_neither_read_nor_replaced(path, clock) -> None:
    good = {"sessionId": "p-1", "taskApiId": "a", "lastActivity": clock.now_ms(), "callbackChannel": None}
    path.write_text(json.dumps([good]))
    os.chown(path, 12345, 12345)
    before = path.read_text()
    kept = cache(path, clock)
    assert kept.provider_of("a") is None
    kept.remember("p-2", "b")
    await kept.save()
    assert path.read_text() == before


async def test_a_file_that_others_could_read_is_made_private(path, clock) -> None:
    path.write_text("[]")
    path.chmod(0o644)
    cache(path, clock)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
