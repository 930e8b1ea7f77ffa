"""A stop with polls open, a cut network, a full disk: no host task is lost, none ends twice, nobody waits in vain."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_parts import Parts
from host_history import check_rest, check_task
from host_parts import HostParts
from request_proxy import RequestProxy
from watched_proxy import WatchedProxy

PARKED = 20
DISK = "12m"
MOUNT = f'mount -t tmpfs -o size={DISK} tmpfs "$0" && exec "$@"'
OWN_MOUNTS = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")))


def heard(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return the status line and the body of the answer on a connection that closes behind it."""
    connection.settimeout(5)
    with connection.makefile("rb") as answer:
        head, _, body = answer.read().partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0], body


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_stop_with_twenty_polls_open_answers_them_with_null_and_frees_the_port_at_once(
    parts: Parts, host: HostParts, number: signal.Signals
) -> None:
    """R35: exit 0 within three seconds, and the next start on the same port and files goes on."""
    serve = parts.serve()
    blocked = [host.prompt("one") for _ in range(2)]
    host.claim(blocked[0])  # its sibling waits for it, so the polls wait with something in the queue
    with contextlib.ExitStack() as stack:
        polls = [stack.enter_context(host.said("GET", "/worker/poll?wait=60000")) for _ in range(PARKED)]
        for _ in range(3):  # turns of the server's loop: what was said before is read by then
            host.ask("GET", "/tasks/stats")
        began = time.monotonic()
        serve.send_signal(number)
        assert serve.wait(3) == 0
        assert time.monotonic() - began < 3
        parts.serve()
        assert [heard(poll) for poll in polls] == [(b"HTTP/1.1 200 OK", b"null")] * PARKED
    for task in blocked:
        host.claim(task)
        host.report(task)
        assert host.fetch(task)["stdout"] == "done\n"
        check_task(host, task, starts=(1, 2))
    check_rest(host)


def test_a_network_that_is_cut_while_tasks_run_loses_no_result_and_runs_nothing_twice(
    parts: Parts,
    host: HostParts,
    make_proxy: Callable[..., WatchedProxy],
    make_request_proxy: Callable[..., RequestProxy],
    tmp_path: Path,
) -> None:
    """Both kinds of runner; what one beyond the silence does is shown with a clock in tests/conformance."""
    parts.serve()
    proxies: list[WatchedProxy | RequestProxy] = [make_proxy(), make_request_proxy()]
    runners = [host.runner(proxies[0].url), host.worker(proxies[1].url)]
    effects, opened = tmp_path / "effects", tmp_path / "open"
    for n in range(2):
        os.mkfifo(f"{opened}.{n}")
    # each waits until it is let on, so that both run, on whichever runner, when the network is cut
    tasks = [host.submit(f"echo once >> {effects}.{n}; cat {opened}.{n}; echo done", timeout=60_000) for n in range(2)]
    tasks += [host.submit("echo quick") for _ in range(3)]
    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(open, f"{opened}.{n}", "w", encoding="utf-8") for n in range(2)]
        for n in range(2):
            appears(Path(f"{effects}.{n}"))
        for proxy in proxies:
            proxy.cut()
        for gate in writing:
            gate.result(10).close()  # they end while nobody can be told
        assert {host.state(task) for task in tasks[:2]} == {"running"}
        threading.Event().wait(3)  # the cut is what is tested
        for proxy in proxies:
            proxy.mend()
    for task in tasks:
        assert host.fetch(task)["exitCode"] == 0
        check_task(host, task)
    assert [Path(f"{effects}.{n}").read_text() for n in range(2)] == ["once\n", "once\n"]
    for runner in runners:
        runner.terminate()
        assert runner.wait(15) == 0
    check_rest(host)


def appears(file: Path) -> None:
    """Wait until a file is there."""
    pause = threading.Event()
    for _ in range(400):
        if file.exists():
            return
        pause.wait(0.05)
    raise AssertionError(f"{file} did not appear")


def test_a_full_disk_refuses_tasks_in_words_and_loses_none_that_was_taken(parts: Parts, host: HostParts) -> None:
    data = parts.home / "serve"
    data.mkdir()
    parts.plane.prefix = (*OWN_MOUNTS, "sh", "-c", MOUNT, str(data))
    serve = parts.serve(data=data)
    inside = Path(f"/proc/{serve.pid}/root{data}")
    before = [host.submit() for _ in range(3)]
    host.claim(before[0])
    ballast = inside / "ballast"
    fill(ballast)
    refused = None
    taken = list(before)
    for number in range(2000):
        answer = host.http.post("/tasks", json={"command": f"echo {number}", "env": {}})
        if answer.status_code != 200:
            refused = answer
            break
        taken.append(answer.json()["taskId"])
    assert refused is not None, "the disk was not full"
    assert refused.status_code in (500, 503, 507)
    assert "error" in refused.json()
    assert str(data) not in refused.text
    assert host.http.post("/worker/result", json={"taskId": before[0], "exitCode": 0}).status_code >= 500
    assert host.http.get("/worker/poll", params={"wait": 1000}).json() is None  # a runner of the peer hears no error
    ballast.unlink()
    host.report(before[0])  # which it repeats
    for task in taken[1:]:
        host.claim(task)
        host.report(task)
    for task in taken:
        assert host.fetch(task, 0)["exitCode"] == 0
        check_task(host, task)
    check_rest(host)


def fill(file: Path) -> None:
    """Let `file` take all the room that is left."""
    with file.open("ab", buffering=0) as out:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    out.write(bytes(size))
            except OSError:
                continue
