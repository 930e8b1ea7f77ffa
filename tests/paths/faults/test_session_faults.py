"""A control plane or a runner that dies, or a caller that leaves or never reads, in the middle of an exec."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fault_parts import Parts, groups_of, kill
from session_parts import HOLD, KINDS, NAMES, SessionParts, connections_of, events, memory_of, until

MIB = 1 << 20
PRINT_50_MB = "for n in range(50): print(('%07d ' % n + 'x' * 1015 + '\\n') * 1024, end='')\ndone = 1"
SHOW_15_MB = """
class Picture:
    def _repr_html_(self): return 'y' * 400_000
    def __repr__(self): return 'a picture'
for n in range(38): display(Picture())
done = 1
"""


@pytest.fixture
def sessions(parts: Parts) -> SessionParts:
    """Parts that a test kills."""
    return SessionParts(parts)


@pytest.fixture(scope="module")
def steady(make_module_plane: Callable[..., Any], make_package: Callable[..., bytes]) -> Any:
    """Parts that nobody kills; callers who take nothing for a second are hung up on."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CLAWPLANE_UNREAD_SECONDS", "1")
        with Parts(make_module_plane(), make_package) as parts:
            yield SessionParts(parts)


def test_callers_of_a_control_plane_that_dies_are_told_and_their_sessions_go_on_with_their_memory(
    sessions: SessionParts,
) -> None:
    plain, streamed, detached, shown = (sessions.create() for _ in range(4))
    for each in (plain, streamed, detached, shown):
        sessions.run(each, "kept = 1")
    with ThreadPoolExecutor(5) as pool:
        calls = [
            pool.submit(sessions.exec, plain, HOLD, timeout=60),
            pool.submit(sessions.exec, streamed, HOLD, timeout=60, stream="ndjson"),
            pool.submit(sessions.exec, detached, HOLD, timeout=60, detached=True),
        ]
        command = ("exec", "python", HOLD, "--session", shown, "--timeout", "60")
        shell = pool.submit(sessions.plane.cli, *command, check=False)
        until(lambda: all(sessions.has(each, "begun") for each in (plain, streamed, detached, shown)))
        calls.append(pool.submit(sessions.exec, plain, "queued = 1", timeout=60))
        until(lambda: sessions.session(plain)["executing"] == 2)
        kill(sessions.server)
        assert all(isinstance(call.exception(60), httpx.TransportError) for call in calls)
        said = shell.result(60)
    assert said.returncode != 0
    assert "control plane" in said.stderr
    assert "Traceback" not in said.stderr

    sessions.server = sessions.parts.serve()
    result = sessions.again(plain, NAMES)
    assert result["results"][0]["text/plain"] == "['kept', 'reached']"
    cut, *unbegun = result["notes"]  # the queued one may not have reached the runner yet
    assert "ended with the status cancelled" in cut
    assert all("was not begun" in note for note in unbegun)
    assert sessions.execs(plain)[0]["notes"] == result["notes"]
    assert sessions.value(streamed, NAMES) == "['kept', 'reached']"
    sessions.write(detached, "go")
    result = sessions.again(detached, NAMES)
    assert result["results"][0]["text/plain"] == "['kept', 'reached', 'after']"
    assert any("ended with the status ok" in note for note in result["notes"])
    assert sessions.run(detached, "1")["notes"] == []
    assert {sessions.session(each)["lives"] for each in (plain, streamed, detached)} == {1}
    for each in (plain, streamed, detached, shown):
        sessions.delete(each)
    sessions.clean()


def test_callers_of_a_runner_that_dies_are_told_nothing_of_it_stays_and_its_sessions_wake_when_it_is_back(
    sessions: SessionParts,
) -> None:
    at_work = {kind: sessions.create() for kind in KINDS}
    saved = sessions.create()
    for each in (*at_work.values(), saved):
        sessions.run(each, "kept = 1\nopen('file', 'w').write('here')")
    assert sessions.http.post(f"/v1/sessions/{saved}/sleep", json={"save": True}).status_code == 200
    for each in at_work.values():  # what is lost can be told by name once it was written down
        until(lambda each=each: "kept" in _kept(sessions, each)["names"])
    with ThreadPoolExecutor(3) as pool:
        calls = {
            kind: pool.submit(sessions.exec, each, HOLD, timeout=60, stream=kind if kind != "json" else "none")
            for kind, each in at_work.items()
        }
        until(lambda: all(sessions.has(each, "begun") for each in at_work.values()))
        kill(sessions.runner)
        told = {kind: call.result(60) for kind, call in calls.items()}
    refusals = {"json": told["json"].json()}
    assert told["json"].status_code == 503
    for kind in ("sse", "ndjson"):
        first, *_, last = events(told[kind].text, kind)
        assert (first["type"], last["type"]) == ("session", "error")
        refusals[kind] = last
    for kind, refusal in refusals.items():
        newest = sessions.execs(at_work[kind])[0]
        assert (newest["status"], newest["error"]) == ("unknown", refusal["error"])
        assert refusal["code"] == "unavailable"
        assert newest["id"] in refusal["error"]
        assert refusal["hint"]
    dead = sessions.runner.pid
    until(lambda: not sessions.left(runner=dead).guests)
    assert not sessions.left(runner=dead).mounts
    refused = sessions.http.post("/v1/tools/execute_python", json={"code": "1"})
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert "runner" in refused.json()["error"]

    sessions.runner = sessions.parts.runner("runner")
    for each in at_work.values():
        result = sessions.again(each, f"print(open('file').read()); {NAMES}")
        assert (result["stdout"], result["results"][0]["text/plain"]) == ("here\n", "[]")
        assert any("lost its memory" in note and "lost: kept" in note for note in result["notes"]), result["notes"]
        state = sessions.session(each)
        assert (state["lost"], state["lives"]) == (["kept"], 2)
    result = sessions.again(saved, NAMES)
    assert result["results"][0]["text/plain"] == "['kept']"
    assert any("came back: kept" in note for note in result["notes"]), result["notes"]
    new = sessions.create()
    assert sessions.value(new, "1 + 1") == "2"
    assert groups_of([dead]) == []
    for each in (*at_work.values(), saved, new):
        sessions.delete(each)
    sessions.clean()


@pytest.mark.parametrize("both", [False, True], ids=["control plane", "runner too"])
def test_the_history_tells_of_execs_that_were_under_way_when_the_control_plane_died(
    sessions: SessionParts, both: bool
) -> None:
    session = sessions.create()
    sessions.run(session, "kept = 1")
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(sessions.exec, session, HOLD, timeout=60)]
        until(lambda: sessions.has(session, "begun"))
        calls.append(pool.submit(sessions.exec, session, "queued = 1", timeout=60))
        until(lambda: [each["status"] for each in sessions.execs(session)] == ["running", "running", "ok"])
        before = sessions.execs(session)
        kill(sessions.server)
        assert all(isinstance(call.exception(60), httpx.TransportError) for call in calls)
        if both:
            kill(sessions.runner)

    sessions.server = sessions.parts.serve()
    queued, held, first = sessions.execs(session)
    for then, now in ((before[0], queued), (before[1], held)):
        assert (then["ended_at"], now["status"]) == (None, "unknown")
        assert "control plane stopped" in now["error"]
        assert now["ended_at"] >= then["started_at"] == now["started_at"]
    assert (queued["code"], held["code"], first["code"]) == ("queued = 1", HOLD, "kept = 1")
    assert sessions.session(session)["exec_count"] == 3
    if both:
        sessions.runner = sessions.parts.runner("runner")
    notes = sessions.again(session, NAMES)["notes"]
    assert any("lost its memory" in note if both else held["id"] in note for note in notes), notes
    assert [each["id"] for each in sessions.execs(session)[1:]] == [queued["id"], held["id"], first["id"]]
    sessions.delete(session)
    sessions.clean()


def _kept(sessions: SessionParts, session: str) -> dict[str, Any]:
    """Return what the runner has written down of a session."""
    found: dict[str, Any] = json.loads((sessions.home / "sessions" / session / "meta").read_bytes())
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_caller_that_hangs_up_ends_its_exec_and_the_session_goes_on(steady: SessionParts, kind: str) -> None:
    session = steady.create()
    steady.run(session, "kept = 1")
    with steady.dial(session, kind, HOLD, timeout=60):
        until(lambda: steady.has(session, "begun"))
    assert steady.value(session, NAMES) == "['kept', 'reached']"
    until(lambda: len(steady.execs(session)) == 3)
    left = steady.execs(session)[1]
    assert (left["status"], left["error"], left["stdout"]) == ("cancelled", "Error: cancelled", "on\n")
    assert any("caller left" in note for note in left["notes"])
    steady.delete(session)


@pytest.mark.parametrize("kind", KINDS)
def test_a_detached_exec_goes_on_when_its_caller_hangs_up(steady: SessionParts, kind: str) -> None:
    session = steady.create()
    steady.run(session, "kept = 1")
    with steady.dial(session, kind, HOLD, timeout=60, detached=True):
        until(lambda: steady.has(session, "begun"))
    steady.write(session, "go")
    assert steady.value(session, NAMES) == "['kept', 'reached', 'after']"
    until(lambda: len(steady.execs(session)) == 3)
    assert (steady.execs(session)[1]["status"], steady.execs(session)[1]["stdout"]) == ("ok", "on\n")
    steady.delete(session)


@pytest.mark.parametrize("kind", ["sse", "ndjson"])
def test_a_caller_that_never_reads_its_stream_holds_up_nobody_and_costs_no_memory(
    steady: SessionParts, kind: str
) -> None:
    session = steady.create()
    steady.run(session, "kept = 1")
    before = [memory_of(process.pid) for process in (steady.server, steady.runner)]
    with steady.dial(session, kind, PRINT_50_MB, timeout=60) as caller:
        until(lambda: steady.session(session)["executing"] or len(steady.execs(session)) == 2)
        assert steady.value(session, "(kept, done)") == "(1, 1)"
        until(lambda: len(steady.execs(session)) == 3)
        assert not steady.session(session)["executing"]
        end = events(_body(caller), kind)[-1]
    result = end["result"]
    assert (end["type"], result["status"]) == ("end", "ok")
    assert result["usage"]["output_bytes"] == 50 * MIB
    assert result["truncated"]["stdout"]["omitted_bytes"] > 49 * MIB
    assert steady.has(session, result["truncated"]["stdout"]["spill"])
    after = [memory_of(process.pid) for process in (steady.server, steady.runner)]
    assert all(now - then < 20 * MIB for then, now in zip(before, after, strict=True)), (before, after)
    steady.delete(session)


@pytest.mark.parametrize("kind", KINDS)
def test_a_caller_that_never_takes_its_large_results_is_hung_up_on_and_its_exec_is_in_the_history(
    steady: SessionParts, kind: str
) -> None:
    session = steady.create()
    steady.run(session, "kept = 1")
    before = connections_of(steady.server.pid)
    with steady.dial(session, kind, SHOW_15_MB, timeout=60):
        until(lambda: connections_of(steady.server.pid) > before)
        until(lambda: steady.value(session, "'done' in globals()") == "True")
        until(lambda: connections_of(steady.server.pid) == before)
        until(lambda: not steady.session(session)["executing"])
    (record,) = (each for each in steady.execs(session) if each["code"] == SHOW_15_MB)
    assert (record["status"], len(record["results"])) == ("ok", 38)
    steady.delete(session)


def _body(caller: Any) -> str:
    """Read an answer to its end and return its body without the marks of chunks."""
    whole = b""
    while block := caller.recv(1 << 16):
        whole += block
    head, _, rest = whole.partition(b"\r\n\r\n")
    if b"chunked" not in head.lower():
        return rest.decode()
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size or b"0", 16)]
        rest = rest[int(size or b"0", 16) + 2 :]
    return body.decode()
