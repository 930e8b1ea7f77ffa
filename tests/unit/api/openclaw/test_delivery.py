"""Answers that carry something are known to have arrived, or what they carried is taken back."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path

from task_plane import TaskPlane, task_plane

POLL = b"GET /worker/poll?wait=20000 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n"


async def raw(plane: TaskPlane, request: bytes) -> socket.socket:
    """Return a socket of which nobody reads anything, with a request on its way."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, plane.address)
    await loop.sock_sendall(sock, request)
    return sock


def poll(plane: TaskPlane, more: bytes = b"") -> bytes:
    return POLL % ((plane.client().token or "").encode(), more)


def reset(sock: socket.socket) -> None:
    """Close so that the other end hears a reset, as of a host that crashed."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def test_a_poll_whose_client_hung_up_gets_nothing_and_the_next_one_gets_the_task_at_once(
    plane: TaskPlane,
) -> None:
    first = await raw(plane, poll(plane))
    await plane.until_parked(1)
    first.close()
    await plane.until_parked(0)
    client = plane.client()
    task = (await client.post("/tasks", {"command": "true"})).json["taskId"]
    assert (await client.get("/tasks/stats")).json["queue"]["byStatus"] == {"pending": 1}
    assert (await client.get("/worker/poll?wait=1000")).json["id"] == task


async def test_a_client_that_hangs_up_while_a_task_is_claimed_for_it_loses_it_without_a_trace(plane: TaskPlane) -> None:
    client = plane.client()
    await client.get("/health")
    for hang_up in (reset, socket.socket.close):
        poller = await raw(plane, poll(plane))
        await plane.until_parked(1)
        # submission and hang-up reach the server in one turn: the claim is under way when it learns of the hang-up
        await client.send("POST", "/tasks", {"command": "true"})
        hang_up(poller)
        task = (await client.answer()).json["taskId"]
        given = (await client.get("/worker/poll?wait=5000")).json
        assert given["id"] == task
        assert [event["type"] for event in (await client.get(f"/events?taskId={task}")).json["events"]] == [
            "task.started",
            "task.created",
        ]
        await client.post("/worker/result", {"taskId": task, "exitCode": 0})
        assert (await client.get(f"/tasks/{task}")).json["exitCode"] == 0


async def test_a_client_that_takes_nothing_more_is_cut_off_and_its_task_given_to_another(plane: TaskPlane) -> None:
    """The receive window is full, so that the answer stays in the server's kernel, as for a host that is cut off."""
    big = "x" * (4 << 20)
    client = plane.client()
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await loop.sock_connect(sock, plane.address)
    await loop.sock_sendall(sock, poll(plane))
    await plane.until_parked(1)
    for protocol in plane.server.server_state.connections:
        protocol._connection.stall_seconds = 0.2  # type: ignore[union-attr]
    task = (await client.post("/files/write", {"path": "/tmp/x", "content": big})).json["taskId"]
    given = (await client.get("/worker/poll?wait=10000")).json
    assert given["id"] == task
    assert given["content"] == big
    sock.close()


async def test_answers_to_clients_that_close_behind_them_are_checked_before_the_connection_closes(
    plane: TaskPlane,
) -> None:
    client = plane.client()
    task = (await client.post("/tasks", {"command": "true"})).json["taskId"]
    given = await client.get("/worker/poll?wait=1000", headers={"Connection": "close"})
    assert given.json["id"] == task
    assert given.headers["connection"] == "close"
    await client.post("/worker/result", {"taskId": task, "stdout": "out", "exitCode": 0})
    result = await client.get(f"/tasks/{task}", headers={"Connection": "close"})
    assert result.json["stdout"] == "out"
    assert (await client.get(f"/tasks/{task}")).status == 404
    assert (await client.get("/tasks/stats")).json["queue"]["total"] == 0


async def test_a_waiter_that_hung_up_consumes_nothing(plane: TaskPlane) -> None:
    client = plane.client()
    task = (await client.post("/tasks", {"command": "true"})).json["taskId"]
    token = (client.token or "").encode()
    waiter = await raw(
        plane,
        b"GET /tasks/%s?wait=20000 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n" % (task.encode(), token),
    )
    await client.get("/health")
    waiter.close()
    await client.post("/worker/result", {"taskId": task, "stdout": "kept", "exitCode": 0})
    assert (await client.get(f"/tasks/{task}")).json["stdout"] == "kept"
    assert (await client.get(f"/tasks/{task}")).status == 404
    assert (await client.get(f"/tasks/{task}?peek=1")).json["stdout"] == "kept"
    stats = (await client.get("/tasks/stats")).json["queue"]
    assert (stats["total"], stats["unconsumedResults"]) == (0, 0)


async def test_a_result_that_could_not_be_written_can_be_fetched_again(plane: TaskPlane) -> None:
    client = plane.client()
    big = "x" * (4 << 20)
    task = (await client.post("/tasks", {"command": "true"})).json["taskId"]
    await client.post("/worker/result", {"taskId": task, "stdout": big, "exitCode": 0})
    loop = asyncio.get_running_loop()
    waiter = socket.socket()
    waiter.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    waiter.setblocking(False)
    await loop.sock_connect(waiter, plane.address)
    token = (client.token or "").encode()
    await loop.sock_sendall(
        waiter, b"GET /tasks/%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n" % (task.encode(), token)
    )
    await loop.sock_recv(waiter, 100)
    reset(waiter)
    async with asyncio.timeout(30):
        while (await client.get("/tasks/stats")).json["queue"]["unconsumedResults"] == 0:
            await asyncio.sleep(0)
    assert "task.reconciled" not in [
        event["type"] for event in (await client.get(f"/events?taskId={task}")).json["events"]
    ]
    assert (await client.get(f"/tasks/{task}")).json["stdout"] == big


async def test_pipelined_requests_are_answered_in_order(plane: TaskPlane) -> None:
    client = plane.client()
    tasks = [(await client.post("/tasks", {"command": str(n)})).json["taskId"] for n in range(3)]
    for _ in tasks:
        await client.send("GET", "/worker/poll?wait=1000")
    assert [(await client.answer()).json["id"] for _ in tasks] == tasks


async def test_open_polls_are_answered_with_null_when_the_server_stops(tmp_path: Path) -> None:
    async with task_plane(tmp_path) as plane:
        client = plane.client()
        task = (await client.post("/claude", {"prompt": "p", "sessionId": "s"})).json["taskId"]
        assert (await client.get("/worker/poll?wait=1000")).json["id"] == task
        waiter = plane.client()
        await waiter.send("GET", f"/tasks/{task}?wait=60000")
        pollers = [plane.client() for _ in range(20)]
        for poller in pollers:
            await poller.send("GET", "/worker/poll?wait=60000")
        await plane.until_parked(20)
        plane.server.should_exit = True
        async with asyncio.timeout(20):
            answers = [await poller.answer() for poller in pollers]
            assert (await waiter.answer()).json == {"status": "running", "message": "Result not ready yet"}
        assert {(answer.status, answer.raw) for answer in answers} == {(200, b"null")}
    async with task_plane(tmp_path) as plane:
        assert (await plane.client().get("/worker/poll?wait=1000")).json["id"] == task
