"""What ports.Keys promises."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from clawplane.domain.access import ApiKey, Scope, digest_of
from clawplane.domain.errors import Conflict


def key(id_: str, secret: str, **changes: Any) -> ApiKey:
    values: dict[str, Any] = {
        "id": id_,
        "name": f"key {id_}",
        "owner": "ann",
        "scopes": frozenset({Scope.ADMIN, Scope.RUNNER}),
        "digest": digest_of(secret),
        "created_at": 5,
    }
    return ApiKey(**(values | changes))


async def test_a_key_is_found_by_its_digest_only(bench: Any) -> None:
    stored = key("k1", "secret", expires_at=99)
    await bench.store.keys.add(stored)
    assert await bench.store.keys.by_digest(digest_of("secret")) == stored
    assert await bench.store.keys.by_digest(digest_of("guess")) is None


async def test_a_digest_that_is_there_is_a_conflict(bench: Any) -> None:
    await bench.store.keys.add(key("k1", "secret"))
    with pytest.raises(Conflict):
        await bench.store.keys.add(key("k2", "secret"))
    assert [stored.id for stored in await bench.store.keys.all()] == ["k1"]


async def test_of_two_equal_keys_added_at_once_one_is_a_conflict(bench: Any) -> None:
    adding = [bench.store.keys.add(key(id_, "secret")) for id_ in ("k1", "k2")]
    answers = await asyncio.gather(*adding, return_exceptions=True)
    assert [type(answer) for answer in answers] == [type(None), Conflict]


async def test_all_keys_are_told_newest_first(bench: Any) -> None:
    for number in (1, 3, 2):
        await bench.store.keys.add(key(f"k{number}", str(number), created_at=number))
    assert [stored.id for stored in await bench.store.keys.all()] == ["k3", "k2", "k1"]


async def test_a_revoked_key_stays_with_the_time_of_its_first_revocation(bench: Any) -> None:
    stored = key("k1", "secret")
    await bench.store.keys.add(stored)
    assert await bench.store.keys.revoke("k1", now=7)
    assert await bench.store.keys.revoke("k1", now=8)
    revoked = msgspec.structs.replace(stored, revoked_at=7)
    assert await bench.store.keys.by_digest(stored.digest) == revoked
    assert await bench.store.keys.all() == [revoked]


async def test_revoking_a_key_that_does_not_exist_says_so(bench: Any) -> None:
    assert not await bench.store.keys.revoke("k1", now=7)


async def test_the_first_value_of_a_setting_is_kept(bench: Any) -> None:
    assert await bench.store.keys.setting("link-secret") is None
    offered = [bench.store.keys.set_setting_once("link-secret", value) for value in ("a", "b", "c")]
    assert await asyncio.gather(*offered) == ["a", "a", "a"]
    assert await bench.store.keys.set_setting_once("link-secret", "d") == "a"
    assert await bench.store.keys.setting("link-secret") == "a"


async def test_a_runner_belongs_to_the_key_it_first_came_with(bench: Any) -> None:
    assert await bench.store.keys.claim_runner("r1", "k1") == "k1"
    assert await bench.store.keys.claim_runner("r1", "k2") == "k1"
    assert await bench.store.keys.claim_runner("r2", "k2") == "k2"


async def test_of_two_keys_that_claim_a_runner_at_once_both_are_told_the_same(bench: Any) -> None:
    told = await asyncio.gather(*(bench.store.keys.claim_runner("r1", f"k{n}") for n in range(8)))
    assert len(set(told)) == 1


async def test_a_runner_that_is_given_to_a_key_belongs_to_it_alone(bench: Any) -> None:
    await bench.store.keys.claim_runner("r1", "k1")
    await bench.store.keys.give_runner("r1", "k2")
    assert await bench.store.keys.claim_runner("r1", "k1") == "k2"
    await bench.store.keys.give_runner("r2", "k2")
    assert await bench.store.keys.claim_runner("r2", "k1") == "k2"
