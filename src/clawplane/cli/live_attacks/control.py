"""Attacks on what a control plane keeps apart and takes in: races, a killed runner, ids, arguments, packages.

Each asks over HTTP what an attacker would ask, and looks at the host as well: below the data directory, and at the
processes, mounts and control groups that the kernel tells of. What its edge alone has to bear is in edge.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import select
import signal
import stat
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx

from clawplane.cli.live_attacks import edge
from clawplane.cli.live_attacks.items import LiveAttack, NotTried, listed, must
from clawplane.cli.live_attacks.packages import GOOD, ZIP, Member, refused, special, zipped
from clawplane.cli.live_attacks.plane import LiveSession, PrivatePlane, private_plane

_LOOK_SECONDS: Final = 0.05
_GONE_SECONDS: Final = 10.0
_BACK_SECONDS: Final = 60.0
_UNKNOWN: Final = {"task": "00000000-0000-4000-8000-000000000000", "": "01K" + "0" * 23}
_HELD: Final = """
import subprocess, time
open('kept', 'w').write('kept')
for more in ({}, {'start_new_session': True}):
    subprocess.Popen(['sh', '-c', 'trap "" TERM HUP INT; while :; do sleep 3600; done', 'MARK'], **more)
print('begun', flush=True)
time.sleep(60)
"""
_LINES: Final = ("--index-url http://127.0.0.1:1/", "x; touch pwned", "six $(touch pwned)", "-e .", "git+ssh://h/x.git")
_NAMES: Final = ("-rf", "--help", "$(touch pwned)", "a;touch pwned", "`touch pwned`", "|touch pwned", "a\ntouch pwned")
_TASKS: Final[tuple[dict[str, Any], ...]] = (
    {"env": {"A=B": "x"}},
    {"env": {"$(id)": "x"}},
    {"env": {"A": "a\0b"}},
    {"labels": {"a;b": "x"}},
    {"labels": {"a": "$(id)"}},
    {"target": {"runner": "--help"}},
    {"target": {"runner": "a;b"}},
    {"idempotency_key": "a b\n"},
    {"callback_url": "file:///etc/passwd"},
)


def attacks() -> list[LiveAttack]:
    """Return the attacks."""
    by_code, unknown, data = "refused with the documented codes", "as unknown as any other id", "data, or refused"
    rows = (
        (50, "races the API", "answered, nothing is left", _race),
        (54, "profits from a killed runner", "nothing survives it", _kill_the_runner),
        (63, "guesses ids of sessions and tasks", unknown, _guess_ids),
        (63, "guesses ids of Workers and runs", unknown, _guess_runs),
        (64, "injects arguments through names and fields", data, _inject),
        (64, "injects options through a package", by_code, _inject_lines),
        (66, "uploads a malicious package", by_code, _upload_packages),
    )
    return [*listed(rows), *edge.attacks()]


# 50: races


async def _race(plane: PrivatePlane) -> None:
    """Ask three sessions for everything at once, and delete each at another moment of it."""
    mark = secrets.token_hex(8)
    lives = [await plane.begin() for _ in range(3)]
    asked = [_asked(each, mark) for each in lives]
    for number, requests in enumerate(asked):
        requests.insert(1 + number * 7, ("DELETE", lives[number].path, {}))
    together = [request for row in zip(*asked, strict=True) for request in row]
    answers = await asyncio.gather(*(_answer(plane, *request) for request in together))
    for answer in answers:
        body = answer.json() if "json" in answer.headers.get("content-type", "") else {}
        unavailable = answer.status_code == 503 and body.get("code") == "unavailable"
        must(
            answer.status_code in (200, 201, 404, 409, 410) or unavailable,
            f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}",
        )
    for each in lives:
        await each.delete()
        late = await plane.http.post(f"{each.path}/exec", json={"tool": "python", "code": "1"})
        must(late.status_code in (404, 409, 410), f"a deleted session answered {late.status_code}")
    created = [answer.json()["id"] for answer in answers if answer.request.url.path == "/v1/sessions"]
    for id_ in created:
        must((await plane.http.delete(f"/v1/sessions/{id_}")).status_code == 200, "a new session was not deleted")
    await _nothing_left(plane, [*created, *(each.id for each in lives)], mark)


def _asked(live: LiveSession, mark: str) -> list[tuple[str, str, dict[str, Any]]]:
    hold = {"tool": "shell", "code": f"sh -c 'sleep 60; :' {mark} &\nsleep 60", "timeout": 2}
    count = {"tool": "python", "code": "n = globals().get('n', 0) + 1; n"}
    file = {"params": {"path": "raced"}}
    found: list[tuple[str, str, dict[str, Any]]] = [("POST", f"{live.path}/exec", {"json": hold})]
    for _ in range(4):
        found += [
            ("POST", f"{live.path}/exec", {"json": count}),
            ("PUT", f"{live.path}/files/content", file | {"content": b"x" * 50_000}),
            ("POST", f"{live.path}/reset", {"json": {}}),
            ("GET", f"{live.path}/files/content", file),
            ("POST", f"{live.path}/interrupt", {"json": {}}),
        ]
    return [*found, ("POST", "/v1/sessions", {"json": {"profile": "bare"}})]


async def _answer(plane: PrivatePlane, method: str, path: str, more: dict[str, Any]) -> httpx.Response:
    """Send a request; a download whose session is deleted breaks off, so that no half looks like a whole."""
    try:
        return await plane.http.request(method, path, **more)
    except httpx.RemoteProtocolError:
        must(method == "GET", f"{method} {path} was not answered")
        return httpx.Response(410, request=httpx.Request(method, f"{plane.url}{path}"))


async def _nothing_left(plane: PrivatePlane, ids: Iterable[str], mark: str) -> None:
    names = [plane.directory / "data" / "runner" / kind / id_ for id_ in ids for kind in ("sessions", "unnamed")]
    until = time.monotonic() + _GONE_SECONDS
    while left := [*(str(name) for name in names if name.exists()), *map(str, _marked(mark))]:
        must(time.monotonic() < until, f"this is left of deleted sessions: {left}")
        await asyncio.sleep(_LOOK_SECONDS)


# 54: a killed runner


async def _kill_the_runner(_: PrivatePlane) -> None:
    """Kill the runner of another plane, so that the neighbour in this one keeps its memory."""
    mark = secrets.token_hex(16)
    async with private_plane() as plane:
        live = await plane.begin()
        body = {"tool": "python", "code": _HELD.replace("MARK", mark), "timeout": 90, "stream": "ndjson"}
        async with plane.http.stream("POST", f"{live.path}/exec", json=body) as stream:
            lines = stream.aiter_lines()
            async for line in lines:
                if "begun" in str(json.loads(line).get("text")):
                    break
            dead = plane.runner_pid()
            below = _below(dead)
            must(len(_marked(mark)) >= 2, "the session holds no processes")
            os.kill(dead, signal.SIGKILL)
            await asyncio.to_thread(_all_end, below)
            last = json.loads([line async for line in lines][-1])
        must(last["type"] == "error" and last["code"] == "unavailable", f"the caller was told {last}")
        await _back(plane, dead)
        must(not _marked(mark), f"processes of the session still live: {_marked(mark)}")
        left = await asyncio.to_thread(_mounts_and_groups, plane.directory, dead)
        must(not left, f"this is left of the dead runner: {left}")
        must(await (await plane.begin()).value("6 * 7") == "42", "a new session does not work")
        kept = await live.value("(open('kept').read(), 'subprocess' in globals())")
        must(kept == "('kept', False)", f"the session came back with {kept}")
        await plane.leave()


async def _back(plane: PrivatePlane, dead: int) -> None:
    until = time.monotonic() + _BACK_SECONDS
    while plane.runner_pid() in (0, dead) or not await plane.healthy():
        must(time.monotonic() < until, "no other runner was started")
        await asyncio.sleep(_LOOK_SECONDS)


def _below(pid: int) -> list[int]:
    """Return the descendants of a process."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *_below(child)]
    return found


def _all_end(pids: Iterable[int]) -> None:
    until = time.monotonic() + _GONE_SECONDS
    for pid in pids:
        with suppress(ProcessLookupError):
            held = os.pidfd_open(pid)
            try:
                waiting = select.poll()
                waiting.register(held, select.POLLIN)
                left = max(until - time.monotonic(), 0)
                must(waiting.poll(left * 1000), f"process {pid} outlives its runner")
            finally:
                os.close(held)


def _marked(mark: str) -> list[int]:
    """Return the processes that have a word among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and mark.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def _mounts_and_groups(directory: Path, runner: int) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    bases = [Path(line.split(" ")[4]) for line in lines if " - cgroup" in line]
    groups = [str(found) for base in bases for found in base.rglob(f"clawplane-{runner}*")]
    return [*groups, *(line for line in lines if str(directory) in line)]


# 63: ids


async def _guess_ids(plane: PrivatePlane) -> None:
    live = await plane.begin()
    await live.python("kept = 'secret-of-the-admin'\nopen('own', 'w').write(kept)")
    task = (await plane.http.post("/v1/host/tasks", json={"type": "command", "command": "id"})).json()
    id_ = task["data"]["task"]["id"]
    try:
        tried = await _guess(plane, r"\{sessionId\}", live.id) + await _guess(plane, r"\{taskId\}", id_, "task")
        must(tried > 20, f"only {tried} operations were found to try")
        kept = await live.value("import os\n(kept, open('own').read(), os.listdir())")
        must(kept == "('secret-of-the-admin', 'secret-of-the-admin', ['own'])", f"the session is now {kept}")
        state = (await plane.http.get(f"/v1/host/tasks/{id_}")).json()["data"]["status"]
        must(state == "pending", f"the task is now {state}")
    finally:
        await plane.http.post(f"/v1/host/tasks/{id_}/cancel", json={})


async def _guess_runs(plane: PrivatePlane) -> None:
    async with _pushed(plane, GOOD) as (slug, version):
        if version["status"] != "ready":
            raise NotTried(f"no Worker can be built here: {version.get('build_error')}")
        body: dict[str, Any] = {"input": {"parameters": {"custom": {}}}}
        made = (await plane.http.post(f"/api/v2/workers/{slug}/runs", json=body)).json()
        run = next(str(value) for name, value in made["data"].items() if name in ("run_slug", "slug", "run_id"))
        tried = await _guess(plane, r"\{runId\}", run)
        must(tried >= 5, f"only {tried} operations were found to try")
        for method, path in (("DELETE", ""), ("GET", f"/versions/{version['version']}/log")):
            answer = await plane.stranger.request(method, f"/v1/workers/{slug}{path}")
            must(answer.status_code == 404, f"{method} {path} of another's Worker: {answer.status_code}")
        must((await plane.http.get(f"/v1/workers/{slug}")).status_code == 200, "a stranger removed the Worker")
        must((await plane.http.get(f"/api/v2/worker-runs/{run}")).status_code == 200, "a stranger removed the run")


async def _guess(plane: PrivatePlane, place: str, id_: str, kind: str = "") -> int:
    """Try each operation on somebody else's id and on one that is nobody's; return how many there are."""
    document = (await plane.stranger.get("/openapi.json")).json()
    found = [
        (method.upper(), path)
        for path, methods in document["paths"].items()
        for method in methods
        if re.search(place, path)
    ]
    for method, path in found:
        foreign, unknown = [
            await _asked_by_stranger(plane, method, re.sub(place, each, path)) for each in (id_, _UNKNOWN[kind])
        ]
        must(
            foreign.status_code == unknown.status_code == 404, f"{method} {path}: {foreign.status_code} {foreign.text}"
        )
        alike = {
            re.sub(r"req-[0-9a-f]+", "", answer.text.replace(each, ""))
            for answer, each in ((foreign, id_), (unknown, _UNKNOWN[kind]))
        }
        must(len(alike) == 1, f"{method} {path} tells ids that exist from others: {alike}")
    return len(found)


async def _asked_by_stranger(plane: PrivatePlane, method: str, path: str) -> httpx.Response:
    """Send what an operation needs: a refusal of a field names those that there are, or the one that is missing."""
    everything: dict[str, Any] = {"tool": "python", "code": "kept", "old": "a", "new": "b", "path": "own", "to": "x"}
    everything |= {"execs": 1, "from": "own"}
    query = {"path": "own"}
    if method != "POST":
        return await plane.stranger.request(method, path, params=query, content=b"x" if method == "PUT" else None)
    answer = await plane.stranger.post(path, params=query, json=everything)
    known = re.search(r"The fields are: ([\w, ]+)\.", answer.text)
    if answer.status_code != 422:
        return answer
    body = {name: everything[name] for name in (known[1].split(", ") if known else ()) if name in everything}
    return await plane.stranger.post(path, params=query, json=body)


# 64 and 66: names, fields and packages


async def _inject(plane: PrivatePlane) -> None:
    live = await plane.begin()
    for name in _NAMES:
        query = {"path": name}
        put = await plane.http.put(f"{live.path}/files/content", params=query, content=name.encode())
        must(put.status_code == 201, f"{name!r} as a file: {put.status_code} {put.text}")
        got = await plane.http.get(f"{live.path}/files/content", params=query)
        must(got.content == name.encode(), f"{name!r} reads as {got.text}")
        stood = await plane.http.post(f"{live.path}/exec", json={"tool": "shell", "code": "pwd", "directory": name})
        must(stood.status_code == 400, f"{name!r} as a directory: {stood.status_code} {stood.text}")
        version = {"name": "injected", "version": name}
        answer = await plane.http.post("/v1/workers", params=version, content=zipped(GOOD.items()), headers=ZIP)
        must(answer.status_code == 400, f"{name!r} as a version: {answer.status_code} {answer.text}")
    seen = await live.value("import os\nsorted(os.listdir())")
    must(seen == repr(sorted(_NAMES)), f"the files are {seen}")
    for fields in _TASKS:
        answer = await plane.http.post("/v1/host/tasks", json={"type": "command", "command": "id", **fields})
        must(answer.status_code == 422, f"a host task with {fields}: {answer.status_code} {answer.text}")
        must(next(iter(fields)) in answer.json()["message"], f"no field is named: {answer.text}")
    await plane.http.delete("/v1/workers/local~injected")


async def _inject_lines(plane: PrivatePlane) -> None:
    for line in _LINES:
        async with _pushed(plane, {**GOOD, "requirements.txt": f"# first\n{line}\n"}) as (_, version):
            must(version["status"] == "failed", f"{line!r} was built: {version['status']}")
            must("requirements.txt" in str(version["build_error"]), f"{line!r}: {version['build_error']}")
    must(not list(plane.directory.rglob("pwned")), "a command of a package ran")


@asynccontextmanager
async def _pushed(plane: PrivatePlane, files: dict[str, str]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Push a Worker, wait for its build, and remove it afterwards."""
    name = f"attack-{secrets.token_hex(6)}"
    answer = await plane.http.post("/v1/workers", params={"name": name}, content=zipped(files.items()), headers=ZIP)
    must(answer.status_code == 201, f"an upload was answered {answer.status_code} {answer.text}")
    slug, number = answer.json()["data"]["worker"], answer.json()["data"]["version"]
    try:
        built = await plane.http.get(f"/v1/workers/{slug}/versions/{number}", params={"wait": 50})
        yield slug, built.json()["data"]
    finally:
        await plane.http.delete(f"/v1/workers/{slug}")


async def _upload_packages(plane: PrivatePlane) -> None:
    mark = f"pwned-{secrets.token_hex(8)}"
    for number, (files, code) in enumerate(_packages(plane.directory, mark)):
        await refused(plane, f"malicious-{number}", zipped(files), code)
    outside = [*plane.directory.rglob(f"*{mark}*"), *plane.directory.parent.glob(f"*{mark}*")]
    must(not outside, f"these were written: {outside}")
    spooled = list((plane.directory / "data" / "spool").iterdir())
    must(not spooled, f"uploads are left: {spooled}")


def _packages(directory: Path, mark: str) -> list[tuple[list[Member], str]]:
    good: list[Member] = list(GOOD.items())
    kinds = [
        (stat.S_IFLNK, "symlink"),
        *((kind, "special_file") for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO)),
    ]
    found: list[tuple[list[Member], str]] = [
        ([*good, (f"../../{mark}", "x")], "package_path_traversal"),
        ([*good, (f"a/../../{mark}", "x")], "package_path_traversal"),
        ([*good, (f"{directory}/{mark}", "x")], "package_path_absolute"),
        ([*good, (f"..\\{mark}", "x")], "package_path_backslash"),
        ([*good, (mark, "x"), (mark, "y")], "package_duplicate_member"),
        ([*good, (mark, "x"), (mark.upper(), "y")], "package_case_collision"),
        ([*good, (mark, "x"), (f"{mark}/below", "y")], "package_path_conflict"),
        ([*good, (mark, "\0" * 60_000_000)], "package_bomb"),
    ]
    for kind, code in kinds:
        found.append(([*good, (special(mark, kind | 0o777), str(directory / "canary"))], f"package_{code}"))
    return found
