"""Kill the control plane and runners at exactly one point of the conversation; each job ends once, each row is once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
from fault_parts import Parts, kill
from history_check import check_host, check_rest, check_run
from played_runner import PlayedRunner, ready_worker
from watched_proxy import Frame, WatchedProxy

from clawplane.domain.leases import Offer
from clawplane.link.frames import Confirm, Confirmed, Drop, End, Ended, Offered, Ship, Stored

FIRST, SECOND, AGAIN = [{"number": 1}], [{"number": 2}, {"number": 3}], [{"number": 10}, {"number": 11}]


@dataclass
class Point:
    """One runner that holds one job at one point of its life, and how it goes on from there."""

    name: str
    reach: Callable[[Point], Awaitable[None]]
    last_word: Callable[[Point], Awaitable[None]]
    """Said while the control plane cannot read any more."""
    go_on: Callable[[Point], Awaitable[None]]
    """After the control plane has come back; ends the job."""
    rows: Sequence[dict[str, int]] = (*FIRST, *SECOND)
    ends: Sequence[str] = ("finished",)
    runner: PlayedRunner = field(init=False)
    offer: Offer = field(init=False)

    @property
    def slug(self) -> str:
        return self.offer.subject


# How points are reached


async def offered(point: Point) -> None:
    point.offer = await point.runner.is_offered()


async def confirmed(point: Point) -> None:
    point.offer = await point.runner.take()


async def stored_once(point: Point) -> None:
    await confirmed(point)
    await point.runner.store(point.offer, 1, FIRST)


async def stored_all(point: Point) -> None:
    await stored_once(point)
    await point.runner.store(point.offer, 2, SECOND)


async def ended(point: Point) -> None:
    await stored_all(point)
    await point.runner.end(point.offer)
    await point.runner.hears(Ended, point.offer.job)


# Last words


async def nothing(point: Point) -> None:
    pass


async def confirm(point: Point) -> None:
    await point.runner.confirm(point.offer)


async def ship_first(point: Point) -> None:
    await point.runner.ship(point.offer, 1, FIRST)


async def ship_second(point: Point) -> None:
    await point.runner.ship(point.offer, 2, SECOND)


async def end(point: Point) -> None:
    await point.runner.end(point.offer)


# How runners go on after the control plane has come back


async def kept(point: Point, stored: int) -> None:
    """Come back with the lease, which stands, and whose batches are stored up to `stored`."""
    welcome = await point.runner.connect()
    assert welcome.kept == ((point.offer.job, point.offer.fence, stored),), point.name


async def is_offered_again(point: Point) -> None:
    before = point.offer
    point.runner.free = dict(point.runner.slots)
    assert (await point.runner.connect()).kept == ()
    point.offer = await point.runner.take()
    assert (point.offer.attempt, point.offer.fence > before.fence) == (1, True)
    await from_the_first_row(point)


async def from_the_confirmation(point: Point) -> None:
    await point.runner.connect()
    await point.runner.confirm(point.offer)
    await point.runner.hears(Confirmed, point.offer.job)
    await from_the_first_row(point)


async def from_the_first_row(point: Point) -> None:
    await point.runner.store(point.offer, 1, FIRST)
    await from_the_second_batch(point)


async def from_the_second_batch(point: Point) -> None:
    await point.runner.store(point.offer, 2, SECOND)
    await point.runner.finish(point.offer)


async def after_confirmed(point: Point) -> None:
    await kept(point, 0)
    await from_the_first_row(point)


async def ships_again_what_is_stored(point: Point) -> None:
    await kept(point, 1)
    await from_the_first_row(point)


async def after_stored(point: Point) -> None:
    await kept(point, 1)
    await from_the_second_batch(point)


async def ends(point: Point) -> None:
    await kept(point, 2)
    await point.runner.finish(point.offer)


async def ends_again(point: Point) -> None:
    assert (await point.runner.connect()).kept == ()
    await point.runner.finish(point.offer)


def points_of_the_control_plane() -> list[Point]:
    return [
        Point("offered, nothing said", offered, nothing, is_offered_again, ends=("declined", "finished")),
        Point("confirm sent, not arrived", offered, confirm, from_the_confirmation),
        Point("confirmed", confirmed, nothing, after_confirmed),
        Point("first batch sent, not arrived", confirmed, ship_first, after_confirmed),
        Point("first batch stored, answer not heard", stored_once, nothing, ships_again_what_is_stored),
        Point("between two batches", stored_once, nothing, after_stored),
        Point("second batch sent, not arrived", stored_once, ship_second, after_stored),
        Point("all stored, end not sent", stored_all, nothing, ends),
        Point("end sent, not arrived", stored_all, end, ends),
        Point("ended, answer not heard", ended, nothing, ends_again),
    ]


async def reached(parts: Parts, worker: str, points: Sequence[Point]) -> list[str]:
    """Give each point a runner of its own and a job, and let all reach their points; return the runs."""
    for point in points:
        point.runner = PlayedRunner(parts.plane.url)
    await asyncio.gather(*(point.runner.connect() for point in points))
    slugs = [await asyncio.to_thread(parts.start, worker, n=3) for _ in points]
    await asyncio.gather(*(point.reach(point) for point in points))
    return slugs


async def test_a_control_plane_killed_at_any_point_goes_on_there_after_its_restart(parts: Parts) -> None:
    serve = await asyncio.to_thread(parts.serve)
    worker = await ready_worker(parts)
    points = points_of_the_control_plane()
    slugs = await reached(parts, worker, points)
    waiting = await asyncio.to_thread(parts.start, worker, n=3)  # after submit: nobody has a slot for it
    os.kill(serve.pid, signal.SIGSTOP)
    for point in points:
        await point.last_word(point)
    await asyncio.to_thread(kill, serve)
    await asyncio.gather(*(point.runner.vanish() for point in points))
    await asyncio.to_thread(parts.serve)
    # in the order of the points, so that only the runner whose offer is void has a slot when it is offered again
    await asyncio.gather(*(point.go_on(point) for point in points))
    await finish_one(parts, waiting)
    await asyncio.gather(*(point.runner.vanish() for point in points))
    await asyncio.to_thread(check_points, parts, points, slugs)
    assert await asyncio.to_thread(parts.attempts, waiting) == ["finished"]
    await asyncio.to_thread(check_rest, parts)


async def finish_one(parts: Parts, slug: str) -> None:
    """Do the one job that waits."""
    runner = PlayedRunner(parts.plane.url)
    await runner.connect()
    offer = await runner.take()
    assert offer.subject == slug
    await runner.store(offer, 1, FIRST)
    await runner.finish(offer)
    await runner.vanish()


def check_points(parts: Parts, points: Sequence[Point], slugs: Sequence[str]) -> None:
    assert sorted(point.slug for point in points) == sorted(slugs)
    for point in points:
        assert check_run(parts, point.slug)["status"] == "succeeded", point.name
        assert parts.rows(point.slug) == list(point.rows), point.name
        assert parts.attempts(point.slug) == list(point.ends), point.name


# Runners


def points_of_runners() -> list[Point]:
    lost = ("runner_lost", "finished")
    return [
        Point("offered, nothing said", offered, nothing, is_stale, AGAIN, ("declined", "finished")),
        Point("confirmed", confirmed, nothing, is_stale, AGAIN, lost),
        Point("first batch sent", confirmed, ship_first, is_stale, AGAIN, lost),
        Point("first batch stored", stored_once, nothing, is_stale, AGAIN, lost),
        Point("all stored, end not sent", stored_all, nothing, is_stale, AGAIN, lost),
        Point("end sent, answer not heard", stored_all, end, nothing),
    ]


async def is_stale(point: Point) -> None:
    """Come back late with the old lease, and be refused in everything."""
    await point.runner.is_refused(point.offer)
    await point.runner.vanish()


async def test_a_runner_that_dies_at_any_point_is_replaced_within_15_s_and_refused_when_it_comes_back(
    parts: Parts,
) -> None:
    await asyncio.to_thread(parts.serve)
    worker = await ready_worker(parts)
    points = points_of_runners()
    slugs = await reached(parts, worker, points)
    for point in points:
        await point.last_word(point)
    await asyncio.gather(*(point.runner.vanish() for point in points))
    died_at = time.monotonic()
    rescuer = PlayedRunner(parts.plane.url, slots=len(points))
    await rescuer.connect()
    taken = []
    for _ in points[:-1]:
        taken.append(await rescuer.take())
        assert time.monotonic() - died_at < 15
    for offer in taken:
        await rescuer.store(offer, 1, AGAIN)
    for point in points[:-1]:  # not even the holder may speak under an earlier fence
        await rescuer.ship(point.offer, 2, FIRST)
        assert (await rescuer.hears(Drop, point.offer.job)).fence == point.offer.fence
    await asyncio.gather(*(point.go_on(point) for point in points))
    for offer in taken:
        await rescuer.finish(offer)
    await rescuer.vanish()
    await asyncio.to_thread(check_points, parts, points, slugs)
    await asyncio.to_thread(check_rest, parts)


# The real runner, watched


class Killer:
    """Kill a process when the proxy sees a frame, once; the frame is passed on first or never."""

    def __init__(self, kind: type[Frame], *, wanted: Callable[[Frame], bool] = lambda frame: True) -> None:
        self._kind = kind
        self._wanted = wanted
        self._victim: subprocess.Popen[str] | None = None
        self.killed = threading.Event()

    def arm(self, victim: subprocess.Popen[str]) -> None:
        """Kill `victim` at the next frame of the kind."""
        self.killed.clear()
        self._victim = victim

    def __call__(self, frame: Frame) -> bool:
        if self._victim is None or not isinstance(frame, self._kind) or not self._wanted(frame):
            return True
        victim, self._victim = self._victim, None
        kill(victim)
        self.killed.set()
        return False


def has_rows(frame: Frame) -> bool:
    return not isinstance(frame, Ship) or bool(frame.batch.rows)


def ledger_of(proxies: Sequence[WatchedProxy]) -> dict[tuple[int, int], list[bytes]]:
    return {lease: rows for proxy in proxies for lease, rows in proxy.acknowledged().items()}


def test_a_control_plane_killed_while_a_frame_is_on_its_way_gets_it_again_from_the_real_runner(
    parts: Parts, make_proxy: Callable[..., WatchedProxy]
) -> None:
    killers = [Killer(kind, wanted=has_rows) for kind in (Offered, Confirm, Confirmed, Ship, Stored, End, Ended)]
    proxy = make_proxy(watch=lambda frame: all(killer(frame) for killer in killers))
    serve = parts.serve()
    runner = parts.runner("runner", url=proxy.url)
    worker = parts.push()
    slugs: list[str] = []
    for killer in killers:
        killer.arm(serve)
        with contextlib.suppress(
            httpx.RemoteProtocolError, httpx.NetworkError
        ):  # it may fall before it has answered what it has stored
            parts.start(worker, n=20)
        assert killer.killed.wait(60), killer
        serve = parts.serve()
        (new,) = set(parts.runs()) - set(slugs)
        slugs.append(new)
        assert parts.ended(slugs[-1])["status"] == "succeeded"
    for slug in slugs:
        assert check_run(parts, slug, proxy.acknowledged())["results"] == 20
        assert parts.attempts(slug)[-1:] == ["finished"]
        assert set(parts.attempts(slug)[:-1]) <= {"declined", "offer_expired"}  # no work was done twice
    check_rest(parts)
    runner.terminate()
    runner.wait(15)
    check_host(parts, [runner.pid])


def test_a_real_runner_killed_while_a_frame_is_on_its_way_leaves_nothing_and_its_job_is_done_elsewhere(
    parts: Parts, make_proxy: Callable[..., WatchedProxy]
) -> None:
    parts.serve()
    killers = [Killer(kind, wanted=has_rows) for kind in (Confirmed, Stored, End)]
    proxies = [make_proxy(watch=killer) for killer in killers]
    with ThreadPoolExecutor(len(proxies)) as pool:
        victims = list(
            pool.map(lambda n: parts.runner(f"victim-{n}", url=proxies[n].url, slots=1), range(len(proxies)))
        )
    worker = parts.push()
    for killer, victim in zip(killers, victims, strict=True):
        killer.arm(victim)
    slugs = [parts.start(worker, n=20) for _ in victims]
    for killer in killers:
        assert killer.killed.wait(60), killer
    died_at = time.time() * 1000
    proxies.append(make_proxy())
    rescuer = parts.runner("rescuer", url=proxies[-1].url)
    for slug in slugs:
        assert parts.ended(slug)["status"] == "succeeded"
        assert check_run(parts, slug, ledger_of(proxies))["results"] == 20
        assert parts.attempts(slug) == ["runner_lost", "finished"]
        assert parts.subtasks(slug)[0]["attempts"][1]["offered_at"] - died_at < 15_000
    check_rest(parts)
    rescuer.terminate()
    rescuer.wait(15)
    check_host(parts, [process.pid for process in (*victims, rescuer)])
