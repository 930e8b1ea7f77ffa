"""Sessions and tools over plain HTTP, against a runner that plays a script."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from plane import Plane, ScriptedRunner, plane

from clawplane.api.calls import HttpLimits
from clawplane.domain import asks
from clawplane.domain.access import Scope
from clawplane.domain.clock import ManualClock
from clawplane.domain.errors import Conflict, NotFound, StaleLease
from clawplane.domain.leases import JobKind, Offer
from clawplane.domain.runner_asks import REFUSED, ForgetSession, ForgetWorkspace
from clawplane.domain.sessions import (
    ExecError,
    ExecEvent,
    ExecRequest,
    ExecResult,
    FileEntry,
    LiveState,
    SessionSpec,
    SessionState,
)
from clawplane.flows.session_places import Patience
from clawplane.flows.sessions import SessionLimits
from clawplane.link.asking import Asking, Withdrawal

TIME_LIMIT = 10.0
encode = msgspec.msgpack.encode


class Host:
    """A runner that holds sessions: it answers like an interpreter that knows a few words."""

    def __init__(self, runner: ScriptedRunner) -> None:
        self.runner = runner
        self.offers: list[Offer] = []
        self.asked: list[tuple[str, Any]] = []
        self.files: dict[str, bytes] = {"a.txt": "grün\n".encode()}
        self.held: asyncio.Queue[Asking] = asyncio.Queue()
        self.running: dict[str, Asking] = {}
        self.refuse_next = False
        self.tasks: set[asyncio.Task[None]] = set()
        runner.play = self.play
        runner.capabilities = ("sessions", f"sessions@{runner.id}")
        runner.slots = dict.fromkeys(runner.capabilities, 8)

    async def take_all(self) -> None:
        while True:
            offer = await self.runner.offers.get()
            self.runner.offers.put_nowait(offer)
            self.offers.append(await self.runner.take())

    def play(self, asking: Asking) -> None:
        if self.refuse_next:
            self.refuse_next = False
            asking.fail(StaleLease("it has just ended", details=(REFUSED,)))
            return
        task = asyncio.create_task(self.answer(asking))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def answer(self, asking: Asking) -> None:
        if asking.method in asks.METHODS:
            question: Any = msgspec.msgpack.decode(asking.body, type=asks.METHODS[asking.method][0])
        else:
            kind = {"forget_session": ForgetSession, "forget_workspace": ForgetWorkspace}[asking.method]
            question = msgspec.msgpack.decode(asking.body, type=kind)
        self.asked.append((asking.method, question))
        match asking.method:
            case "exec":
                await self.execute(asking, question)
            case "interrupt":
                self.interrupt(question.exec_id)
                asking.answer(encode(asks.Nothing()))
            case "reset" | "rollback" | "state":
                asking.answer(encode(LiveState(state=SessionState.RUNNING, memory=7, sleeps_at=1, expires_at=2)))
            case "sleep":
                asking.answer(encode(LiveState(state=SessionState.SLEEPING)))
            case "branch" | "forget_session" | "forget_workspace":
                asking.answer(encode(asks.Nothing()))
            case _:
                await self.file(asking, question)

    async def execute(self, asking: Asking, request: ExecRequest) -> None:
        async def tell(**event: Any) -> None:
            await asking.tell(encode(ExecEvent(**event)))

        result = ExecResult(exec_id=request.id, session_id="told by nobody", execution_count=1)
        replace = msgspec.structs.replace
        match request.code:
            case "wait":
                await tell(type="stdout", text="waiting\n")
                self.running[request.id] = asking
                self.held.put_nowait(asking)
            case "fail":
                detail = ExecError(name="ZeroDivisionError", value="division by zero", traceback=("line 1",))
                failed = replace(
                    result,
                    stderr="Traceback ...\n",
                    error="ZeroDivisionError: division by zero",
                    status="error",
                    error_detail=detail,
                )
                asking.answer(encode(failed))
            case "slow":
                asking.answer(encode(replace(result, stdout="a", error="Error: timeout exceeded", status="timeout")))
            case _:
                await tell(type="started")
                await tell(type="stdout", text="out\n")
                done = replace(result, stdout="out\n", results=({"text/plain": "2", "_main": True},))
                asking.answer(encode(done))

    def interrupt(self, exec_id: str) -> None:
        asking = self.running.pop(exec_id, None)
        if asking is not None:
            ended = ExecResult(exec_id=exec_id, session_id="", status="cancelled", error="KeyboardInterrupt")
            asking.answer(encode(ended))

    async def file(self, asking: Asking, question: Any) -> None:
        path = getattr(question, "path", "")
        missing = asking.method in {"read", "stat", "edit", "delete"} and path not in self.files
        if missing:
            asking.fail(NotFound(f"path: there is no file {path!r}."))
            return
        match asking.method:
            case "list":
                asking.answer(encode(asks.Files(files=tuple(self.entry(name) for name in self.files))))
            case "stat":
                asking.answer(encode(self.entry(path)))
            case "read":
                data = self.files[path][question.offset :]
                data = data if question.limit is None else data[: question.limit]
                for at in range(0, len(data), 4):
                    await asking.tell(data[at : at + 4])
                asking.answer(encode(asks.Read(sent=len(data), size=len(self.files[path]))))
            case "archive":
                packed = io.BytesIO()
                with zipfile.ZipFile(packed, "w") as archive:
                    archive.writestr("a.txt", self.files["a.txt"])
                await asking.tell(packed.getvalue())
                asking.answer(encode(asks.Read(sent=1, size=1)))
            case "write":
                try:
                    data = b"".join([piece async for piece in asking.feed])
                except Withdrawal:
                    return
                self.files[path] = (self.files.get(path, b"") if question.append else b"") + data
                asking.answer(encode(self.entry(path)))
            case "edit":
                count = self.files[path].count(question.old.encode())
                if count > 1 and not question.everywhere:
                    asking.fail(Conflict("old: it is there more than once."))
                    return
                self.files[path] = self.files[path].replace(question.old.encode(), question.new.encode())
                asking.answer(encode(asks.Edited(replaced=count)))
            case "delete":
                del self.files[path]
                asking.answer(encode(asks.Nothing()))
            case "move":
                self.files[question.to] = self.files.pop(path)
                asking.answer(encode(self.entry(question.to)))
            case "make_directory":
                asking.answer(encode(FileEntry(path=path, kind="directory")))

    def entry(self, path: str) -> FileEntry:
        return FileEntry(path=path, kind="file", size=len(self.files[path]))

    def methods(self) -> list[str]:
        return [method for method, _ in self.asked]

    async def next_held(self) -> Asking:
        async with asyncio.timeout(TIME_LIMIT):
            return await self.held.get()


class Bench:
    """A control plane, a host, and a client with a key of its own."""

    def __init__(self, here: Plane, host: Host, http: httpx.AsyncClient) -> None:
        self.here, self.host, self.http = here, host, http

    async def tool(self, name: str, **body: Any) -> dict[str, Any]:
        answer = await self.http.post(f"/v1/tools/{name}", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def session(self, **options: Any) -> str:
        answer = await self.http.post("/v1/sessions", json=options)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def get(self, path: str, status: int = 200, /) -> dict[str, Any]:
        answer = await self.http.get(path)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    async def post(self, path: str, status: int = 200, /, **body: Any) -> dict[str, Any]:
        answer = await self.http.post(path, json=body)
        assert answer.status_code == status, answer.text
        return dict(answer.json())

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(TIME_LIMIT):
            while not await condition():
                await asyncio.sleep(0.005)

    async def history(self, session: str) -> list[dict[str, Any]]:
        """Return a session's execs once there are some."""

        async def some() -> bool:
            return bool((await self.get(f"/v1/sessions/{session}/execs"))["count"])

        await self.until(some)
        return list((await self.get(f"/v1/sessions/{session}/execs"))["execs"])

    def offer_of(self, session: str) -> Offer:
        return [offer for offer in self.host.offers if offer.subject == session][-1]

    async def lives(self, session: str, lives: int = 1) -> None:
        async def taken() -> bool:
            return len([offer for offer in self.host.offers if offer.subject == session]) == lives

        await self.until(taken)


@asynccontextmanager
async def opened(directory: Path, **options: Any) -> AsyncIterator[Bench]:
    async with plane(directory, **options) as here:
        host = Host(here.runner())
        await host.runner.connect()
        taking = asyncio.create_task(host.take_all())
        async with here.client(await here.key(Scope.SESSIONS, owner="ann")) as http:
            yield Bench(here, host, http)
        taking.cancel()
        await asyncio.gather(taking, *host.tasks, return_exceptions=True)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path, patience=Patience(placing=5, linking=0.05)) as bench:
        yield bench


# Tools


async def test_a_tool_without_a_session_creates_one_and_returns_its_id(bench: Bench) -> None:
    result = await bench.tool("execute_python", code="1 + 1")
    assert (result["stdout"], result["stderr"], result["error"]) == ("out\n", "", None)
    assert result["session"]["state"] == "running"
    again = await bench.tool("execute_shell", command="true", session_id=result["session_id"])
    assert again["session_id"] == result["session_id"]
    await bench.lives(result["session_id"])
    assert [offer.kind for offer in bench.host.offers] == [JobKind.SESSION]
    assert [question.tool for _, question in bench.host.asked] == ["python", "shell"]


@pytest.mark.parametrize("code", ["fail", "slow"])
async def test_an_error_in_the_code_is_a_result_of_the_same_form(bench: Bench, code: str) -> None:
    result = await bench.tool("execute_python", code=code)
    assert {"stdout", "stderr", "error"} <= set(result)
    assert result["error"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        *(({"code": "1", "timeout": bad}, "timeout") for bad in (0, -1, 121, "30", None, True, [], 1e400)),
        ({}, "code"),
        ({"code": None}, "code"),
        ({"code": 5}, "code"),
        ({"code": "a\0b"}, "code"),
        ({"code": "\ud800"}, "code"),
        ({"code": "1", "session_id": 5}, "session_id"),
        ({"code": "1", "session_id": ""}, "session_id"),
        ({"code": "1", "time_out": 5}, "time_out"),
        ({"code": "1", "environment": {"A B": "c"}}, "environment"),
        ({"code": "1", "environment": ["A"]}, "environment"),
        ({"code": "1", "directory": "a\0"}, "directory"),
        ({"code": "1", "context": "a b"}, "context"),
        ({"code": "1", "detached": "yes"}, "detached"),
        ({"code": "1", "stream": "tv"}, "stream"),
    ],
)
async def test_a_wrong_parameter_is_refused_by_its_name_and_nothing_is_executed(
    bench: Bench, body: dict[str, Any], field: str
) -> None:
    answer = await bench.http.post("/v1/tools/execute_python", content=json.dumps(body))
    said = answer.json()
    assert answer.status_code == 422, answer.text
    assert said["error"].startswith(f"{field}:")
    assert (said["stdout"], said["stderr"], said["code"]) == ("", "", "invalid_schema")
    assert said["hint"]
    assert bench.host.offers == []


async def test_a_timeout_that_is_no_number_of_json_is_refused_by_its_name(bench: Bench) -> None:
    answer = await bench.http.post("/v1/tools/execute_python", content=b'{"code": "1", "timeout": NaN}')
    assert (answer.status_code, answer.json()["error"].partition(":")[0]) == (422, "timeout")


@pytest.mark.parametrize("content", [b"[]", b"5", b'{"code"', b"\xff", b'{"a":' * 500])
async def test_a_body_that_is_no_object_is_refused(bench: Bench, content: bytes) -> None:
    answer = await bench.http.post("/v1/tools/execute_python", content=content)
    assert answer.status_code == 422
    assert "body" in answer.json()["error"]


async def test_an_unknown_and_a_foreign_session_are_the_same_to_a_caller(bench: Bench) -> None:
    session = await bench.session()
    async with bench.here.client(await bench.here.key(Scope.SESSIONS, owner="bob")) as bob:
        foreign = await bob.post("/v1/tools/execute_python", json={"code": "1", "session_id": session})
        mine = await bob.get("/v1/sessions")
    unknown = await bench.http.post("/v1/tools/execute_python", json={"code": "1", "session_id": "nothing"})
    assert (foreign.status_code, unknown.status_code, mine.json()["count"]) == (404, 404, 0)
    assert foreign.json()["error"].replace(session, "nothing") == unknown.json()["error"]
    assert bench.host.asked == []


async def test_a_key_without_the_scope_is_refused_in_the_same_form(bench: Bench) -> None:
    async with bench.here.client(await bench.here.key(Scope.WORKERS)) as http:
        answer = await http.post("/v1/tools/execute_python", json={"code": "1"})
    assert (answer.status_code, answer.json()["code"], answer.json()["stdout"]) == (403, "forbidden", "")


async def test_a_reset_says_so(bench: Bench) -> None:
    result = await bench.tool("reset_repl", session_id=await bench.session())
    assert (result["stdout"], result["stderr"], result["error"]) == ("Python REPL reset.\n", "", None)
    assert bench.host.methods() == ["reset"]


async def test_the_tools_of_the_workspace_write_read_edit_list_and_delete(bench: Bench) -> None:
    session = await bench.session()
    written = await bench.tool("workspace_write", session_id=session, path="b.txt", content="one one")
    assert (written["file"]["size"], written["error"]) == (7, None)
    refused = await bench.post("/v1/tools/workspace_edit", 409, session_id=session, path="b.txt", old="one", new="two")
    assert "more than once" in refused["error"]
    edited = await bench.tool("workspace_edit", session_id=session, path="b.txt", old="one", new="two", everywhere=True)
    assert edited["replaced"] == 2
    assert (await bench.tool("workspace_read", session_id=session, path="b.txt"))["content"] == "two two"
    listed = await bench.tool("workspace_list", session_id=session)
    assert [entry["path"] for entry in listed["files"]] == ["a.txt", "b.txt"]
    await bench.tool("workspace_delete", session_id=session, path="b.txt")
    assert list(bench.host.files) == ["a.txt"]
    link = await bench.tool("workspace_download", session_id=session, path="a.txt")
    assert (await bench.http.get(link["url"])).content == bench.host.files["a.txt"]


async def test_text_is_read_in_pieces_of_whole_characters(bench: Bench) -> None:
    session = await bench.session()
    first = await bench.tool("workspace_read", session_id=session, path="a.txt", limit=3)  # cuts the ü in two
    assert (first["content"], first["next_offset"], first["size"]) == ("gr", 2, 6)
    rest = await bench.tool("workspace_read", session_id=session, path="a.txt", offset=2)
    assert (rest["content"], rest["next_offset"]) == ("ün\n", None)
    raw = await bench.tool("workspace_read", session_id=session, path="a.txt", encoding="base64")
    assert base64.b64decode(raw["content"]) == bench.host.files["a.txt"]
    bench.host.files["b"] = b"\xff\xfe"
    refused = await bench.post("/v1/tools/workspace_read", 400, session_id=session, path="b")
    assert "UTF-8" in refused["error"]


async def test_a_written_file_is_as_large_as_a_json_body_and_a_larger_one_is_told_where_it_goes(bench: Bench) -> None:
    session = await bench.session()
    room = HttpLimits().body - len(json.dumps({"session_id": session, "path": "big", "content": ""})) - 64
    written = await bench.tool("workspace_write", session_id=session, path="big", content="x" * room)
    assert written["file"]["size"] == room
    body = {"session_id": session, "path": "larger", "content": "x" * HttpLimits().body}
    refused = await bench.post("/v1/tools/workspace_write", 413, **body)
    assert refused["error"] == "The request body is larger than 8388608 bytes."
    assert "PUT /v1/sessions/{id}/files/content" in refused["hint"]
    assert "larger" not in bench.host.files


async def test_base64_that_is_none_writes_nothing(bench: Bench) -> None:
    refused = await bench.post("/v1/tools/workspace_write", 422, path="b", content="%", encoding="base64")
    assert refused["error"].startswith("content:")
    assert bench.host.offers == []


# Life


async def test_a_session_is_created_listed_read_and_deleted(bench: Bench) -> None:
    session = await bench.session(name="mine", profile="bare", metadata={"a": "b"})
    await bench.lives(session)
    spec = msgspec.msgpack.decode(bench.offer_of(session).spec, type=SessionSpec)
    assert (spec.session, spec.owner, spec.options.profile, spec.resume) == (session, "ann", "bare", False)
    assert await bench.session(name="mine") == session
    listed = await bench.get("/v1/sessions?name=mine")
    assert [one["id"] for one in listed["sessions"]] == [session]
    answer = await bench.http.delete(f"/v1/sessions/{session}")
    assert answer.json()["state"] == "ended"
    assert [job for job, _, _ in bench.host.runner.cancels] == [bench.offer_of(session).job]
    assert (await bench.http.delete(f"/v1/sessions/{session}")).status_code == 200
    gone = await bench.post("/v1/tools/execute_python", 409, code="1", session_id=session)
    assert "ended at" in gone["error"]
    assert "deleted" in gone["error"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("memory", 1),
        ("memory", "big"),
        ("cpus", 0),
        ("sleep_after", -1),
        ("undo", 1000),
        ("profile", "all"),
        ("workspace", "../etc"),
        ("name", 5),
        ("egress", {"mode": "all"}),
        ("metadata", {"a": 1}),
        ("colour", "red"),
    ],
)
async def test_a_wrong_option_is_refused_by_its_name(bench: Bench, option: str, value: object) -> None:
    refused = await bench.post("/v1/sessions", 422, **{option: value})
    assert refused["error"].startswith(option)
    assert (await bench.get("/v1/sessions"))["count"] == 0


async def test_reset_rollback_interrupt_and_sleep_are_asked_of_the_runner(bench: Bench) -> None:
    session = await bench.session()
    assert (await bench.post(f"/v1/sessions/{session}/reset", context="c"))["usage"]["memory"] == 7
    await bench.post(f"/v1/sessions/{session}/rollback", execs=3)
    await bench.post(f"/v1/sessions/{session}/interrupt", exec_id="x")
    assert (await bench.post(f"/v1/sessions/{session}/sleep", save=True))["state"] == "sleeping"
    assert bench.host.asked == [
        ("reset", asks.Reset(context="c")),
        ("rollback", asks.Rollback(execs=3)),
        ("interrupt", asks.Interrupt(exec_id="x")),
        ("sleep", asks.Sleep(save=True)),
    ]
    refused = await bench.post(f"/v1/sessions/{session}/rollback", 422, execs=1, before="x")
    assert refused["error"].startswith("before")


async def test_a_branch_is_a_session_of_its_own_on_the_same_runner(bench: Bench) -> None:
    session = await bench.session()
    await bench.lives(session)
    branch = await bench.post(f"/v1/sessions/{session}/branch", 201)
    assert branch["branch_of"] == session
    assert bench.host.asked == [("branch", asks.Branch(session=branch["id"]))]
    await bench.lives(branch["id"])
    spec = msgspec.msgpack.decode(bench.offer_of(branch["id"]).spec, type=SessionSpec)
    assert (spec.branch_of, spec.resume) == (session, False)


async def test_a_copy_that_becomes_no_session_is_dropped_by_its_runner(tmp_path: Path) -> None:
    async with opened(tmp_path, session_limits=SessionLimits(live_per_owner=1)) as bench:
        session = await bench.session()
        await bench.lives(session)
        await bench.post(f"/v1/sessions/{session}/branch", 429)

        async def dropped() -> bool:
            return bench.host.asked[-1][0] == "forget_session"

        await bench.until(dropped)
        (_, branch), (_, forgotten) = bench.host.asked
        assert branch.session == forgotten.session


async def test_what_a_runner_notes_is_shown(bench: Bench) -> None:
    session = await bench.session()
    await bench.lives(session)
    offer = bench.offer_of(session)
    state = LiveState(state=SessionState.SLEEPING, sleeps_at=5, expires_at=9, memory=11, lost=("x",))
    await bench.here.flows.leases.noted(bench.host.runner.id, offer.job, offer.fence, state)
    shown = await bench.get(f"/v1/sessions/{session}")
    assert (shown["state"], shown["expires_at"], shown["usage"]["memory"], shown["lost"]) == ("sleeping", 9, 11, ["x"])
    stale = LiveState(state=SessionState.RUNNING)
    await bench.here.flows.leases.noted(bench.host.runner.id, offer.job, offer.fence + 1, stale)
    assert (await bench.get(f"/v1/sessions/{session}"))["state"] == "sleeping"


async def test_a_saved_session_wakes_by_itself_with_the_next_exec(bench: Bench) -> None:
    session = (await bench.tool("execute_python", code="x = 1"))["session_id"]
    await bench.lives(session)
    offer = bench.offer_of(session)
    await bench.here.flows.leases.noted(
        bench.host.runner.id, offer.job, offer.fence, LiveState(state=SessionState.RUNNING)
    )
    await bench.here.flows.sessions._places.chronicle.settle()
    await bench.host.runner.end(offer, reason="saved")
    assert (await bench.get(f"/v1/sessions/{session}"))["state"] == "sleeping"
    await bench.tool("execute_python", code="x", session_id=session)
    await bench.lives(session, 2)
    woken = bench.offer_of(session)
    assert woken.job != offer.job
    assert msgspec.msgpack.decode(woken.spec, type=SessionSpec).resume
    assert (await bench.get(f"/v1/sessions/{session}"))["lives"] == 2


async def test_an_exec_that_came_just_too_late_goes_to_the_next_life(bench: Bench) -> None:
    session = await bench.session()
    bench.host.refuse_next = True
    assert (await bench.tool("execute_python", code="1", session_id=session))["error"] is None
    bench.host.refuse_next = True
    assert (await bench.tool("workspace_list", session_id=session))["files"]


async def test_a_session_whose_runner_is_away_says_so(bench: Bench) -> None:
    session = await bench.session()
    await bench.lives(session)
    await bench.host.runner.disconnect()
    away = await bench.post("/v1/tools/execute_python", 503, code="1", session_id=session)
    assert "runner" in away["error"]
    nobody = await bench.post("/v1/tools/execute_python", 503, code="1")
    assert "No runner" in nobody["error"]
    assert nobody["stdout"] == ""


async def test_a_runner_that_is_cut_in_the_middle_of_an_exec_is_told_and_remembered(bench: Bench) -> None:
    session = await bench.session()
    running = asyncio.create_task(
        bench.http.post("/v1/tools/execute_python", json={"code": "wait", "session_id": session})
    )
    await bench.host.next_held()
    await bench.host.runner.disconnect()
    answer = await running
    assert answer.status_code == 503
    assert "may have run" in answer.json()["error"]
    assert "/execs" in answer.json()["hint"]
    (execs,) = (await bench.get(f"/v1/sessions/{session}/execs"))["execs"]
    assert (execs["status"], execs["code"]) == ("unknown", "wait")


async def test_a_session_that_no_runner_has_room_for_is_refused_and_does_not_wait_for_ever(tmp_path: Path) -> None:
    async with opened(tmp_path, patience=Patience(placing=0.05, linking=0.05)) as bench:
        await bench.here.flows.leases.free(bench.host.runner.id, {})
        refused = await bench.post("/v1/tools/execute_python", 503, code="1")
        assert "room" in refused["error"]
        (session,) = (await bench.get("/v1/sessions"))["sessions"]
        assert session["state"] == "ended"
        await bench.here.flows.leases.free(bench.host.runner.id, bench.host.runner.slots)
        await bench.session()


async def test_sessions_and_waiting_execs_are_limited(tmp_path: Path) -> None:
    async with opened(tmp_path, session_limits=SessionLimits(live_per_owner=1, waiting=1)) as bench:
        session = await bench.session()
        assert "limit" in (await bench.post("/v1/sessions", 429))["error"]
        running = asyncio.create_task(bench.tool("execute_python", code="wait", session_id=session))
        await bench.host.next_held()
        await bench.post("/v1/tools/execute_python", 429, code="1", session_id=session)
        await bench.post(f"/v1/sessions/{session}/interrupt", exec_id=next(iter(bench.host.running)))
        assert (await running)["status"] == "cancelled"


# Execs


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
async def test_an_exec_streams_what_it_says_and_ends_with_its_result(bench: Bench, accept: str) -> None:
    session = await bench.session()
    answer = await bench.http.post(f"/v1/sessions/{session}/exec", json={"code": "1 + 1"}, headers={"Accept": accept})
    assert answer.headers["content-type"].startswith(accept)
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if "{" in line]
    events = [json.loads(line) for line in lines]
    assert [event["type"] for event in events] == ["session", "started", "stdout", "end"]
    assert events[0]["session_id"] == session
    assert events[2]["text"] == "out\n"
    assert events[-1]["result"]["results"][0]["text/plain"] == "2"


async def test_a_refusal_of_a_stream_has_a_status(bench: Bench) -> None:
    answer = await bench.http.post("/v1/sessions/nothing/exec", json={"code": "1", "stream": "sse"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_stream_whose_runner_is_cut_ends_with_an_error(bench: Bench) -> None:
    session = await bench.session()
    body = {"code": "wait", "stream": "ndjson"}
    running = asyncio.create_task(bench.http.post(f"/v1/sessions/{session}/exec", json=body))
    await bench.host.next_held()
    await bench.host.runner.disconnect()
    last = json.loads((await running).text.splitlines()[-1])
    assert (last["type"], last["code"]) == ("error", "unavailable")


async def leaves(bench: Bench, session: str, **body: Any) -> str:
    """Execute `wait`, leave while it runs, and return the exec's id."""
    caller = bench.here.flows.sessions
    who = await bench.here.flows.access.authenticate(bench.http.headers["authorization"].partition(" ")[2])
    request = caller.request("python", "wait", **body)
    async with await caller.prepare(who, session, request):
        await bench.host.next_held()
    return request.id


async def test_a_caller_that_leaves_ends_its_exec_and_the_end_is_in_the_history(bench: Bench) -> None:
    session = await bench.session()
    exec_id = await leaves(bench, session)
    (entry,) = await bench.history(session)
    assert (entry["id"], entry["status"]) == (exec_id, "cancelled")
    assert ("interrupt", asks.Interrupt(exec_id=exec_id)) in bench.host.asked


async def test_a_detached_exec_goes_on_without_its_caller(bench: Bench) -> None:
    session = await bench.session()
    exec_id = await leaves(bench, session, detached=True)
    assert "interrupt" not in bench.host.methods()
    assert (await bench.get(f"/v1/sessions/{session}"))["executing"] == 1
    bench.host.interrupt(exec_id)  # it ends by itself, much later
    (entry,) = await bench.history(session)
    assert entry["id"] == exec_id
    assert (await bench.get(f"/v1/sessions/{session}"))["executing"] == 0


async def test_the_history_is_newest_first_and_exports_as_a_notebook(bench: Bench) -> None:
    session = await bench.session()
    for code in ("1 + 1", "fail"):
        await bench.tool("execute_python", code=code, session_id=session)
    await bench.tool("execute_shell", command="ls", session_id=session)
    page = await bench.get(f"/v1/sessions/{session}/execs?limit=2")
    assert (page["count"], [entry["code"] for entry in page["execs"]]) == (3, ["ls", "fail"])
    notebook = await bench.get(f"/v1/sessions/{session}/notebook")
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    first, second, third = notebook["cells"]
    assert ["".join(cell["source"]) for cell in (first, second, third)] == ["1 + 1", "fail", "%%bash\nls"]
    assert first["outputs"][1] == {
        "output_type": "execute_result",
        "execution_count": 1,
        "metadata": {},
        "data": {"text/plain": "2"},
    }
    assert second["outputs"][-1]["ename"] == "ZeroDivisionError"


# Files


async def test_a_file_is_uploaded_and_downloaded_as_it_is(bench: Bench) -> None:
    session = await bench.session()
    content = bytes(range(256)) * 1000

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(content), 1000):
            yield content[at : at + 1000]

    files = f"/v1/sessions/{session}/files"
    answer = await bench.http.put(f"{files}/content?path=deep/b.bin", content=chunks())
    assert (answer.status_code, answer.json()["file"]["size"]) == (201, len(content))
    assert (await bench.http.get(f"{files}/content?path=deep/b.bin")).content == content
    assert (await bench.http.get(f"{files}/content?path=deep/b.bin&offset=5&limit=2")).content == b"\x05\x06"
    moved = await bench.post(f"{files}/move", path="deep/b.bin", to="c.bin")
    assert moved["file"]["path"] == "c.bin"
    assert (await bench.http.delete(f"{files}?path=c.bin")).status_code == 200
    assert (await bench.get(f"{files}/content?path=c.bin", 404))["error"].startswith("path:")
    await bench.post(f"{files}/directories", 201, path="d")
    packed = await bench.http.get(f"/v1/sessions/{session}/archive")
    assert zipfile.ZipFile(io.BytesIO(packed.content)).namelist() == ["a.txt"]
    assert packed.headers["content-disposition"] == 'attachment; filename="workspace.zip"'


async def test_an_upload_that_breaks_off_changes_nothing(bench: Bench) -> None:
    session = await bench.session()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    answer = await bench.http.put(f"/v1/sessions/{session}/files/content?path=a.txt", content=chunks())
    assert answer.status_code == 500
    assert bench.host.files["a.txt"] == "grün\n".encode()


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("", 422, "path: it is empty."),
        ("a%00b", 422, "path: it holds a NUL character."),
        ("x" * 5000, 413, "path: 5000 bytes are more than 4096."),
        ("%ff", 422, "path: it is no UTF-8 at position 0."),
        ("a%c3", 422, "path: it is no UTF-8 at position 1."),
        ("%ed%a0%80", 422, "path: it is no UTF-8 at position 0."),
    ],
    ids=["empty", "nul", "long", "byte", "cut", "surrogate"],
)
async def test_a_path_that_cannot_be_one_is_refused_before_anybody_is_asked(
    bench: Bench, path: str, status: int, error: str
) -> None:
    session = await bench.session()
    before = dict(bench.host.files)
    for method in ("GET", "PUT"):
        answer = await bench.http.request(method, f"/v1/sessions/{session}/files/content?path={path}", content=b"")
        assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert bench.host.files == before


# Workspaces and the rest


async def test_a_named_workspace_is_listed_and_deleted_once_nobody_is_attached(bench: Bench) -> None:
    session = await bench.session(workspace="data")
    await bench.lives(session)
    (workspace,) = (await bench.get("/v1/workspaces"))["workspaces"]
    assert (workspace["name"], workspace["sessions"]) == ("data", [session])
    assert (await bench.http.delete("/v1/workspaces/data")).status_code == 409
    await bench.http.delete(f"/v1/sessions/{session}")
    await bench.host.runner.end(bench.offer_of(session), reason="closed")
    assert (await bench.http.delete("/v1/workspaces/data")).status_code == 200
    assert bench.host.asked[-1] == ("forget_workspace", ForgetWorkspace(owner="ann", workspace="data"))
    assert (await bench.http.delete("/v1/workspaces/data")).status_code == 404


async def test_a_workspace_whose_files_could_not_be_deleted_stays_listed(bench: Bench) -> None:
    session = await bench.session(workspace="data")
    await bench.lives(session)
    await bench.http.delete(f"/v1/sessions/{session}")
    await bench.host.runner.end(bench.offer_of(session), reason="closed")
    bench.host.refuse_next = True
    assert (await bench.http.delete("/v1/workspaces/data")).status_code == 409
    assert len((await bench.get("/v1/workspaces"))["workspaces"]) == 1
    assert (await bench.http.delete("/v1/workspaces/data")).status_code == 200


async def test_what_is_saved_of_a_deleted_session_is_swept_when_its_runner_comes_back(bench: Bench) -> None:
    session = await bench.session()
    await bench.lives(session)
    offer = bench.offer_of(session)
    leases = bench.here.flows.leases
    await leases.noted(bench.host.runner.id, offer.job, offer.fence, LiveState(state=SessionState.RUNNING))
    await bench.here.flows.sessions._places.chronicle.settle()
    await bench.host.runner.end(offer, reason="saved")
    await bench.host.runner.disconnect()
    await bench.http.delete(f"/v1/sessions/{session}")
    await bench.host.runner.connect()

    async def swept() -> bool:
        return await bench.here.store.sessions.litter(bench.host.runner.id) == []

    await bench.until(swept)
    assert bench.host.asked[0] == ("forget_session", ForgetSession(session=session))


async def test_an_idle_session_expires_and_a_busy_one_does_not(tmp_path: Path) -> None:
    clock = ManualClock()
    async with opened(tmp_path, clock=clock) as bench:
        idle, busy = await bench.session(expires_after=5), await bench.session(expires_after=5)
        running = asyncio.create_task(bench.tool("execute_python", code="wait", session_id=busy))
        held = await bench.host.next_held()
        clock.advance(6)
        await bench.here.flows.sessions._expiry.expire()
        assert "expired" in (await bench.get(f"/v1/sessions/{idle}"))["end_reason"]
        assert (await bench.get(f"/v1/sessions/{busy}"))["state"] == "running"
        held.answer(encode(ExecResult(exec_id="x", session_id="")))
        assert (await running)["session"]["expires_at"] == clock.now_ms() + 5000


async def test_capabilities_tell_whether_a_session_can_be_had(bench: Bench) -> None:
    shown = await bench.get("/v1/sandbox/capabilities")
    assert (shown["ready"], shown["runners"][0]["slots"], shown["max_timeout"]) == (True, 8, 120)
    await bench.host.runner.disconnect()
    assert not (await bench.get("/v1/sandbox/capabilities"))["ready"]
