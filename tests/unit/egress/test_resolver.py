from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address

import pytest

from clawplane.egress.addresses import Address
from clawplane.egress.resolver import FAILURE_KEPT_SECONDS, KEPT_NAMES, KEPT_SECONDS, CannotResolve, Resolver

ONE = ip_address("192.0.2.1")
Make = Callable[..., Resolver]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[Resolver] = []

    def build(*arguments: object, **options: object) -> Resolver:
        made.append(Resolver(*arguments, **options))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for resolver in made:
        await resolver.close()


async def test_an_answer_is_kept_for_a_while_and_then_asked_for_again(make: Make) -> None:
    asked: list[str] = []
    clock = Clock()

    def lookup(name: str) -> tuple[Address, ...]:
        asked.append(name)
        return (ONE,)

    resolver = make(lookup, clock=clock)
    for moment in (0, KEPT_SECONDS - 1, KEPT_SECONDS):
        clock.now = moment
        assert await resolver.addresses("a.example") == (ONE,)
    assert asked == ["a.example"] * 2


async def test_a_name_without_an_address_fails_and_is_soon_asked_for_again(make: Make) -> None:
    clock, answers = Clock(), [(), (), (ONE,)]

    def lookup(name: str) -> tuple[Address, ...]:
        answer = answers.pop(0)
        if len(answers) == 2:
            raise OSError("no such name")
        return answer

    resolver = make(lookup, clock=clock)
    for _ in range(2):
        with pytest.raises(CannotResolve):
            await resolver.addresses("a.example")
    assert len(answers) == 2
    clock.now = FAILURE_KEPT_SECONDS
    with pytest.raises(CannotResolve):
        await resolver.addresses("a.example")
    clock.now *= 2
    assert await resolver.addresses("a.example") == (ONE,)


async def test_a_slow_server_holds_up_one_question_for_a_bounded_time_and_everybody_shares_it(make: Make) -> None:
    release, asked = threading.Event(), []

    def lookup(name: str) -> tuple[Address, ...]:
        asked.append(name)
        release.wait(10)
        return (ONE,)

    resolver = make(lookup, seconds=0.05)
    results = await asyncio.gather(*(resolver.addresses("slow.example") for _ in range(50)), return_exceptions=True)
    assert {type(result) for result in results} == {TimeoutError}
    assert asked == ["slow.example"]
    release.set()


async def test_the_memory_is_bounded(make: Make) -> None:
    resolver = make(lambda name: (ONE,))
    for number in range(KEPT_NAMES + 50):
        await resolver.addresses(f"h{number}.example")
    assert len(resolver._known) == KEPT_NAMES


async def test_the_systems_own_names_are_found(make: Make) -> None:
    assert ip_address("127.0.0.1") in await make().addresses("localhost")
