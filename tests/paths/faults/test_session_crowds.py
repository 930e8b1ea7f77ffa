"""Many sessions that fight for memory, and many callers who do everything at once to a few: nobody else suffers."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from fault_parts import Parts
from session_parts import NAMES, SessionParts, until

MIB: Final = 1 << 20
HOGS: Final = 100
AT_ONCE: Final = 12
HOG = "hog = []\nwhile True: hog.append(b'x' * (4 << 20))"
CROWD: Final = 24
SHARE: Final = 32 * MIB
"""What each of a crowd takes of its runner's memory, far less than its own limit."""
INTO_GROUP = ("/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"')

OPERATIONS: Final = 1000
CALLERS: Final = 8
SLOTS: Final = 16
MOST_LIVE: Final = 6


def test_a_hundred_sessions_that_take_more_than_they_may_harm_nobody_and_each_is_told(parts: Parts) -> None:
    sessions = SessionParts(parts)
    counted = parts.plane.counts_memory()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        hogs = list(pool.map(lambda _: sessions.create(memory=64), range(HOGS)))
        bystanders = [sessions.create(memory=64) for _ in range(8)]
        for number, each in enumerate(bystanders):
            sessions.run(each, f"kept = {number}")
        under_way = [pool.submit(sessions.run, each, HOG) for each in hogs]
        for number, _ in enumerate(as_completed(under_way)):
            bystander = number % len(bystanders)
            assert sessions.value(bystanders[bystander], "kept") == str(bystander)
    results = dict(zip(hogs, [each.result() for each in under_way], strict=True))
    for session, result in results.items():
        assert result["session_id"] == session
        assert result["status"] in ({"memory"} if counted else {"memory", "error"}), result
        if result["status"] == "memory":
            assert result["error"] == "Error: memory limit exceeded"
            assert any("64 MB" in note for note in result["notes"])
        else:
            assert result["error"].startswith("MemoryError"), result
    assert {sessions.value(each, "1 + 1") for each in hogs} == {"2"}
    for number, each in enumerate(bystanders):
        assert sessions.value(each, "kept") == str(number)
        assert sessions.session(each)["lives"] == 1
    _all_well(sessions, [*hogs, *bystanders])


class Budget:
    """A control group that bounds the memory of what is started in it, groups below it included."""

    def __init__(self, group: Path, *, unified: bool) -> None:
        self.group = group
        self._limit = group / ("memory.max" if unified else "memory.limit_in_bytes")
        self._used = group / ("memory.current" if unified else "memory.usage_in_bytes")

    def allow(self, more: int) -> None:
        """Let so many bytes more be taken than are taken now."""
        self._limit.write_text(str(int(self._used.read_text()) + more))


@pytest.fixture
def budget() -> Iterator[Budget]:
    """A group of a test's own."""
    found = _own_group()
    if found is None:
        pytest.skip("this user may not make a control group that bounds memory")
    yield found
    until(lambda: _removed(found.group))


def test_sessions_that_together_take_more_than_their_runner_may_do_not_take_it_down_and_who_loses_is_told(
    parts: Parts, budget: Budget
) -> None:
    sessions = SessionParts(parts, runner_in=(*INTO_GROUP, str(budget.group)))
    try:
        with ThreadPoolExecutor(4) as pool:
            crowd = list(pool.map(lambda _: sessions.create(memory=256), range(CROWD)))
            assert {sessions.value(each, "1 + 1") for each in crowd} == {"2"}
            budget.allow((CROWD - 4) * SHARE)
            results = list(pool.map(lambda each: sessions.run(each, f"kept = b'x' * {SHARE}"), crowd))
        assert {result["status"] for result in results} <= {"ok", "memory"}
        assert [result["session_id"] for result in results] == crowd
        lost = 0
        for session, taken in zip(crowd, results, strict=True):
            result = sessions.run(session, NAMES)
            if result["results"][0]["text/plain"] == "[]":
                lost += 1
                assert taken["status"] == "memory" or any("Memory was out" in note for note in result["notes"]), result
        assert 0 < lost < CROWD
        _all_well(sessions, crowd)
    finally:
        sessions.runner.send_signal(signal.SIGTERM)
        sessions.runner.wait(60)


def _own_group() -> Budget | None:
    """Make a group beside those of this process; None where that is not allowed."""
    own = dict(line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ")[:3]
        names = {"cgroup2": "", "cgroup": "memory" if "memory" in options.split(",") else None}.get(kind)
        if names is None or names not in own:
            continue
        root, point = before.split(" ")[3:5]
        group = Path(point) / own[names].removeprefix(root).lstrip("/") / f"crowd-{os.getpid()}"
        budget = Budget(group, unified=kind == "cgroup2")
        try:
            group.mkdir()
            budget.allow(1 << 40)
        except OSError:
            _removed(group)
            continue
        return budget
    return None


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return not group.exists()
    return True


def _all_well(sessions: SessionParts, present: list[str]) -> None:
    """Server and runner never ended, and nothing stays of sessions once they are deleted."""
    assert sessions.http.get("/healthz").status_code == 200
    assert sessions.server.poll() is None
    assert sessions.runner.poll() is None
    for each in present:
        sessions.delete(each)
    sessions.clean()


# Races


class Caller:
    """Somebody who does one thing after another to sessions that others use, too."""

    def __init__(self, sessions: SessionParts, seed: int, live: list[str]) -> None:
        self.sessions = sessions
        self.http = sessions.plane.http()
        self.random = random.Random(seed)
        self.live = live
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []

    def work(self, operations: int) -> None:
        """Do so many operations."""
        doing: dict[Callable[[str], httpx.Response], int] = {
            self.count: 30,
            self.wait: 4,
            self.shell: 8,
            self.reset: 8,
            self.upload: 14,
            self.download: 14,
            self.interrupt: 8,
            self.delete: 6,
        }
        with self.http:
            for _ in range(operations):
                live = list(self.live)
                if not live or (len(live) < MOST_LIVE and self.random.random() < 0.3):
                    self.judge("create", self.create())
                    continue
                (what,) = self.random.choices(list(doing), list(doing.values()))
                self.judge(what.__name__, what(self.random.choice(live)))

    def judge(self, what: str, answer: httpx.Response) -> None:
        """Count an answer; keep one that nothing documents."""
        status = answer.status_code
        body = answer.json() if answer.headers.get("content-type") == "application/json" else {}
        said = body.get("status", "") if what in {"count", "wait", "shell"} else ""
        self.answers[f"{what} {status} {said}".rstrip()] += 1
        gone = status == 409 and "ended at" in body.get("error", "")
        good = {"create": 201, "upload": 201}.get(what, 200)
        absent = what == "download" and status == 404 and "data" in body.get("error", "")
        fine = status == good and said in {"", "ok", "cancelled", "killed", "timeout"}
        if not (gone or absent or fine):
            self.wrong.append(f"{what}: {status} {answer.text[:500]}")

    def create(self) -> httpx.Response:
        answer = self.http.post("/v1/sessions", json={"profile": "bare", "memory": 64})
        if answer.status_code == 201:
            self.live.append(answer.json()["id"])
        return answer

    def count(self, session: str) -> httpx.Response:
        return self.sessions.exec(session, "n = globals().get('n', 0) + 1; print(n)", http=self.http)

    def wait(self, session: str) -> httpx.Response:
        return self.sessions.exec(session, "import time; time.sleep(60)", http=self.http, timeout=0.5)

    def shell(self, session: str) -> httpx.Response:
        return self.sessions.exec(session, "ls | wc -l", http=self.http, tool="shell")

    def reset(self, session: str) -> httpx.Response:
        return self.http.post(f"/v1/sessions/{session}/reset", json={})

    def upload(self, session: str) -> httpx.Response:
        content = self.random.randbytes(self.random.randrange(100_000))
        return self.http.put(f"/v1/sessions/{session}/files/content", params={"path": self._file()}, content=content)

    def download(self, session: str) -> httpx.Response:
        """Download a file; one whose session is deleted meanwhile breaks off, so that no half looks like a whole."""
        try:
            return self.http.get(f"/v1/sessions/{session}/files/content", params={"path": self._file()})
        except httpx.RemoteProtocolError:
            found = self.http.get(f"/v1/sessions/{session}").json()
            assert found["state"] == "ended", found
            return httpx.Response(409, json={"error": f"broke off: the session ended at {found['ended_at']}"})

    def interrupt(self, session: str) -> httpx.Response:
        return self.http.post(f"/v1/sessions/{session}/interrupt", json={})

    def delete(self, session: str) -> httpx.Response:
        if session in self.live and len(self.live) > 1:
            self.live.remove(session)
        return self.http.delete(f"/v1/sessions/{session}")

    def _file(self) -> str:
        return f"data-{self.random.randrange(4)}"


def test_a_thousand_operations_at_once_on_a_few_sessions_are_all_answered_and_leave_nothing(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAWPLANE_SESSION_SLOTS", str(SLOTS))
    sessions = SessionParts(parts)
    live: list[str] = []
    callers = [Caller(sessions, seed, live) for seed in range(CALLERS)]
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(lambda caller: caller.work(OPERATIONS // CALLERS), callers))
    wrong = [line for caller in callers for line in caller.wrong]
    answers = sum((caller.answers for caller in callers), Counter[str]())
    assert not wrong, "\n".join(map(str, [*wrong, answers]))
    assert answers.total() == OPERATIONS
    assert {"create 201", "count 200 ok", "delete 200", "upload 201", "download 200", "reset 200"} <= set(answers)
    _all_well(sessions, live)
    listed = sessions.http.get("/v1/sessions", params={"limit": 100}).json()["sessions"]
    assert {(each["state"], each["executing"]) for each in listed} == {("ended", 0)}
    _every_slot_is_free(sessions)


def _every_slot_is_free(sessions: SessionParts) -> None:
    with ThreadPoolExecutor(SLOTS) as pool:
        new: list[Any] = list(pool.map(lambda _: sessions.create(), range(SLOTS)))
        assert list(pool.map(lambda each: sessions.value(each, "1 + 1"), new)) == ["2"] * SLOTS
    _all_well(sessions, new)
