"""A full disk, a locked database, a network that is cut or swallows: nothing acknowledged is lost, and work goes on."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_parts import Parts, guests_of
from history_check import check_host, check_rest, check_run
from played_runner import PlayedRunner, ready_worker
from watched_proxy import Frame, WatchedProxy

from clawplane.link.frames import Stored, Welcome

FIRST = [{"number": 1}]
LARGE = [{"number": 2, "text": "x" * 1_500_000}]
DISK = "12m"
MOUNT = f'mount -t tmpfs -o size={DISK} tmpfs "$0" && exec "$@"'
OWN_MOUNTS = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")))


def on_a_small_disk(parts: Parts, data: Path) -> subprocess.Popen[str]:
    """Start a control plane whose data directory is a small file system that nobody else sees."""
    data.mkdir()
    parts.plane.prefix = (*OWN_MOUNTS, "sh", "-c", MOUNT, str(data))
    try:
        return parts.serve(data=data)
    finally:
        parts.plane.prefix = ()


def fill(file: Path) -> None:
    """Let `file` take all the room that is left."""
    with file.open("ab", buffering=0) as out:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    out.write(bytes(size))
            except OSError:
                continue


def count_of_runs(parts: Parts) -> int:
    return int(parts.http.get("/api/v2/worker-runs").json()["data"]["count"])


async def test_a_full_disk_is_named_in_the_answers_and_everything_goes_on_when_there_is_room_again(
    parts: Parts,
) -> None:
    data = parts.home / "serve"
    serve = await asyncio.to_thread(on_a_small_disk, parts, data)
    worker = await ready_worker(parts)
    runner = PlayedRunner(parts.plane.url)
    await runner.connect()
    slugs = [await asyncio.to_thread(parts.start, worker, n=3)]
    offer = await runner.take()
    await runner.store(offer, 1, FIRST)
    ballast = Path(f"/proc/{serve.pid}/root{data}/ballast")

    await asyncio.to_thread(fill, ballast)
    upload = await asyncio.to_thread(parts.upload, "late", "x = 1", files={"noise.bin": os.urandom(200_000).hex()})
    assert (upload.status_code, upload.json()["error"]) == (507, "store_full")
    assert upload.json()["hint"]
    while (answer := await asyncio.to_thread(parts.submit, worker, n=3)).status_code == 200:
        slugs.append(answer.json()["data"]["run_slug"])  # what still fitted into room that the log had already
        assert len(slugs) < 50
    assert (answer.json()["code"], answer.json()["error"]) == (14000, "store_full")
    assert "is full" in answer.text
    await runner.ship(offer, 2, LARGE)
    await runner.is_cut()
    assert await asyncio.to_thread(parts.rows, slugs[0]) == FIRST

    coming_back = asyncio.create_task(runner.connect())
    ballast.unlink()
    assert (await coming_back).kept == ((offer.job, offer.fence, 1),)
    await runner.store(offer, 2, LARGE)
    await runner.finish(offer)
    for _ in slugs[1:]:
        await do_one(runner)
    assert await asyncio.to_thread(parts.rows, slugs[0]) == [*FIRST, *LARGE]
    await asyncio.to_thread(parts.push, "late", wait=False)
    slugs.append(await asyncio.to_thread(parts.start, worker, n=3))
    await do_one(runner)
    assert await asyncio.to_thread(count_of_runs, parts) == len(slugs)
    for slug in slugs:
        assert (await asyncio.to_thread(check_run, parts, slug))["status"] == "succeeded"
    await runner.vanish()


async def do_one(runner: PlayedRunner) -> None:
    """Let a runner whose slot is taken have its slot back, and do the next job."""
    runner.free = dict(runner.slots)
    await runner.tell_free()
    offer = await runner.take()
    await runner.store(offer, 1, FIRST)
    await runner.finish(offer)


async def test_a_database_locked_for_a_moment_is_waited_for_and_locked_for_long_is_named(parts: Parts) -> None:
    await asyncio.to_thread(parts.serve)
    worker = await ready_worker(parts)
    runner = PlayedRunner(parts.plane.url)
    await runner.connect()
    slug = await asyncio.to_thread(parts.start, worker, n=3)
    offer = await runner.take()
    other = sqlite3.connect(parts.home / "serve" / "clawplane.db", isolation_level=None)

    other.execute("BEGIN EXCLUSIVE")
    await runner.ship(offer, 1, FIRST)
    submitted = asyncio.create_task(asyncio.to_thread(parts.submit, worker, n=3))
    assert not (await asyncio.wait([submitted], timeout=1))[0]
    other.execute("ROLLBACK")
    assert (await submitted).status_code == 200
    await runner.hears(Stored, offer.job)

    other.execute("BEGIN EXCLUSIVE")
    answer = await asyncio.to_thread(parts.submit, worker, n=3)
    assert (answer.json()["code"], answer.json()["error"]) == (14000, "store_busy")
    assert "locked by another process" in answer.text
    assert await asyncio.to_thread(count_of_runs, parts) == 2  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    await runner.finish(offer)
    await do_one(runner)
    assert await asyncio.to_thread(parts.rows, slug) == FIRST
    assert await asyncio.to_thread(count_of_runs, parts) == 2
    await asyncio.to_thread(check_rest, parts)
    await runner.vanish()


class Greetings:
    """Count the Welcomes that pass, and remember the last."""

    def __init__(self) -> None:
        self._came = threading.Semaphore(0)
        self.last: Welcome | None = None

    def __call__(self, frame: Frame) -> bool:
        if isinstance(frame, Welcome):
            self.last = frame
            self._came.release()
        return True

    def next(self, patience: float = 60) -> Welcome:
        """Wait for the next Welcome."""
        assert self._came.acquire(timeout=patience), f"no Welcome within {patience} s"
        assert self.last is not None
        return self.last


def mend_after(seconds: float, proxy: WatchedProxy) -> None:
    """Let a cut last for some time, which is what is tested, then mend it."""
    threading.Event().wait(seconds)
    proxy.mend()


@pytest.mark.timeout(180)
def test_a_network_that_is_cut_or_swallows_costs_no_row_and_no_attempt_unless_it_lasts(
    parts: Parts, make_proxy: Callable[..., WatchedProxy]
) -> None:
    parts.serve()
    greetings = {name: Greetings() for name in ("short", "swallowed", "long")}
    proxies = {name: make_proxy(watch=greeting) for name, greeting in greetings.items()}

    def start(name: str) -> subprocess.Popen[str]:
        process = parts.runner(name, url=proxies[name].url, slots=1)
        greetings[name].next()
        return process

    with ThreadPoolExecutor(4) as pool:
        runners = [start("long")]
        worker = parts.push()
        lasting = parts.start(worker, n=40, until=time.time() + 15)  # until it is given up, and not once more elsewhere
        parts.until_log_says(lasting, "half way")
        before = set(guests_of(parts.home / "long"))
        proxies["long"].cut()
        mended_late = pool.submit(mend_after, 20, proxies["long"])
        runners += pool.map(start, ("short", "swallowed"))
        for slug in [parts.start(worker, n=2, each=0.5) for _ in range(2)]:  # one on each: both are warm from here on
            parts.ended(slug)
        brief = [parts.start(worker, n=110, each=0.2) for _ in range(2)]  # long enough for a silence to be noticed
        for slug in brief:
            parts.until_log_says(slug, "half way")
        proxies["short"].cut()
        proxies["swallowed"].swallow()
        mended = pool.submit(mend_after, 3, proxies["short"])
        noticed = pool.submit(greetings["swallowed"].next)
        mended.result()
        assert len(greetings["short"].next().kept) == 1
        assert len(noticed.result().kept) == 1
        for slug in brief:
            assert parts.ended(slug)["status"] == "succeeded"
            assert parts.attempts(slug) == ["finished"]
            assert [row["number"] for row in parts.rows(slug)] == list(range(110))
        assert parts.ended(lasting)["status"] == "succeeded"
        assert parts.attempts(lasting) == ["runner_lost", "finished"]
        assert before - set(guests_of(parts.home / "long"))  # it has killed what it ran, without a word from anybody
        mended_late.result()
        assert greetings["long"].next().kept == ()
    acknowledged = {lease: rows for proxy in proxies.values() for lease, rows in proxy.acknowledged().items()}
    for slug in (*brief, lasting):
        check_run(parts, slug, acknowledged)
    check_rest(parts)
    for runner in runners:
        runner.terminate()
    for runner in runners:
        runner.wait(15)
    check_host(parts, [runner.pid for runner in runners])
