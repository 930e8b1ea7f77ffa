"""Item 51 of the attack list: a hundred sessions that wake at once, and what keeps a session from its sleep."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx

MANY: Final = 100
AT_ONCE: Final = 25
"""How many requests the test itself has under way; the hundred are all asked before the first rests."""
PATIENCE: Final = 60.0
GROWTH: Final = 64 << 20
"""Bytes that the runner's own process may grow by in a storm: what a hundred sessions need of it, and no more."""


def asked(session: Any, number: int) -> httpx.Response:
    """Ask a session for what it was given, whatever it answers."""
    return session.call("execute_python", code=f"own == {number} and own", timeout=60)


def told(answer: httpx.Response) -> Any:
    """Return the value in an answer, None when it is a refusal in words that says to try again."""
    body = answer.json()
    if answer.status_code == 200:
        assert body["error"] is None, body
        return int(body["results"][0]["text/plain"])
    refused(answer)
    return None


def refused(answer: httpx.Response) -> None:
    """See that a refusal says why, and that asking again helps."""
    assert answer.status_code in (409, 429, 503), answer.text
    assert answer.json()["error"]
    assert re.search(r"(try|ask) again", answer.json()["hint"], re.IGNORECASE), answer.text


def storm(sessions: dict[int, Any]) -> dict[int, Any]:
    """Wake all sessions at once and return what each told."""
    with ThreadPoolExecutor(MANY) as pool:
        answers = dict(zip(sessions, pool.map(lambda pair: asked(pair[1], pair[0]), sessions.items()), strict=True))
    return {number: told(answer) for number, answer in answers.items()}


def put_to_sleep(session: Any, *, save: bool) -> None:
    answer = session.http.post(f"{session.path}/sleep", json={"save": save})
    assert answer.status_code == 200, answer.text


def fill(house: Any, numbers: range, *, save: bool) -> dict[int, Any]:
    """Make sessions that each hold a number of their own, and let them sleep."""

    def made(number: int) -> Any:
        session = house.begin(sleep_after=0)
        assert session.value(f"own = {number}; own") == str(number)
        put_to_sleep(session, save=save)
        return session

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(numbers, pool.map(made, numbers), strict=True))


def sandboxes(house: Any) -> int:
    """Count the living sandboxes: first processes of a name that only they have."""
    count = 0
    for pid in house.processes():
        try:
            count += Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"init\0")
        except OSError:
            continue
    return count


def resident(pid: int) -> int:
    """Return the memory of one process in bytes."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def test_a_hundred_frozen_sessions_wake_at_once(house: Any) -> None:
    """51: each answers with its own, in the same life."""
    sessions = fill(house, range(1, MANY + 1), save=False)
    states = house.http.get("/v1/sessions", params={"state": "sleeping", "limit": 1}).json()
    assert states["count"] == MANY
    before = resident(house.process.pid)
    assert storm(sessions) == {number: number for number in sessions}
    assert resident(house.process.pid) - before < GROWTH
    assert {house.http.get(each.path).json()["lives"] for each in sessions.values()} == {1}


def test_a_hundred_saved_sessions_wake_at_once_where_few_have_room(narrow: Any, few_slots: int) -> None:
    """51: as many as there is room for wake, the others are refused with the way out, and none is lost."""
    room = few_slots - 1  # the neighbour has one
    sessions: dict[int, Any] = {}
    for start in range(1, MANY + 1, room):
        sessions |= fill(narrow, range(start, min(start + room, MANY + 1)), save=True)
    before = resident(narrow.process.pid)
    first = storm(sessions)
    answered = {number for number, value in first.items() if value is not None}
    assert all(first[number] == number for number in answered)
    assert 1 <= len(answered) <= room
    assert sandboxes(narrow) <= few_slots
    left = set(sessions) - answered
    for number in answered:
        put_to_sleep(sessions[number], save=True)
    end = time.monotonic() + PATIENCE
    while left and time.monotonic() < end:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for number, value in pool.map(lambda number: (number, _once(sessions[number], number)), sorted(left)):
                if value is not None:
                    assert value == number
                    left.discard(number)
        assert sandboxes(narrow) <= few_slots
    assert left == set()
    assert resident(narrow.process.pid) - before < GROWTH
    assert narrow.neighbour.value("mine") == "'the neighbour'"
    narrow.leave()


def _once(session: Any, number: int) -> Any:
    """Ask a session, and let it sleep again when it has answered: the next one needs its room."""
    value = told(asked(session, number))
    if value is not None:
        put_to_sleep(session, save=True)
    return value


def test_what_runs_in_the_background_is_frozen_with_its_session_and_goes_on_after_it(begin: Callable[..., Any]) -> None:
    """51: a program that is left behind keeps no session awake; while it sleeps nothing of it runs."""
    session = begin(sleep_after=1)
    ticks = "while :; do echo >> ticks; sleep 0.01; done"
    session.shell(f"nohup sh -c '{ticks}' > /dev/null 2>&1 &")
    _until(lambda: session.http.get(session.path).json()["state"] == "sleeping")
    seen = _size(session)
    assert seen > 0
    assert {_size(session) for _ in range(5)} == {seen}  # looking at files wakes nobody
    assert session.http.get(session.path).json()["state"] == "sleeping"
    assert session.value("1 + 1") == "2"
    _until(lambda: _size(session) > seen)


def test_a_session_does_not_sleep_while_its_output_is_followed(begin: Callable[..., Any]) -> None:
    """51"""
    session = begin(sleep_after=1)
    body = {"tool": "shell", "code": "for n in 1 2 3 4 5; do echo $n; sleep 0.4; done", "stream": "ndjson"}
    with session.http.stream("POST", f"{session.path}/exec", json=body) as stream:
        events = [json.loads(line) for line in stream.iter_lines() if line]
    printed = "".join(event.get("text", "") for event in events if event["type"] == "stdout")
    assert printed == "1\n2\n3\n4\n5\n"
    assert session.http.get(session.path).json()["state"] == "running"


def test_every_way_to_a_sleeping_session_wakes_it_once(begin: Callable[..., Any]) -> None:
    """50, 51: execs and files that come at once find one session, which does all of it."""
    session = begin()
    session.python("own = 1")
    put_to_sleep(session, save=True)
    asks: list[Callable[..., httpx.Response]] = [lambda: session.call("execute_python", code="own") for _ in range(10)]
    asks += [lambda n=n: session.call("workspace_write", path=f"f{n}", content="x") for n in range(10)]
    end = time.monotonic() + PATIENCE
    while asks and time.monotonic() < end:  # who comes while it falls asleep is told to come again
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(lambda ask: ask(), asks))
        for answer in answers:
            if answer.status_code != 200:
                refused(answer)
            elif "results" in answer.json():
                assert answer.json()["results"][0]["text/plain"] == "1"
        asks = [ask for ask, answer in zip(asks, answers, strict=True) if answer.status_code != 200]
    assert asks == []
    assert session.http.get(session.path).json()["lives"] == 2
    assert sorted(session.shell("ls")["stdout"].split()) == sorted(f"f{n}" for n in range(10))


def _size(session: Any) -> int:
    answer = session.http.get(f"{session.path}/files/stat", params={"path": "ticks"})
    return int(answer.json()["file"]["size"]) if answer.status_code == 200 else 0


def _until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
