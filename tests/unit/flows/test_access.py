"""Keys: the first one, the cache, revocation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clawplane.domain.access import ApiKey, Scope
from clawplane.domain.clock import ManualClock
from clawplane.domain.errors import AuthenticationRequired, Forbidden, InvalidArgument, InvalidToken, NotFound
from clawplane.flows.access import Access, require
from clawplane.store import Store, open_store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(tmp_path)
    yield store
    await store.close()


class CountingKeys:
    """The store's keys, counting look-ups."""

    def __init__(self, store: Store) -> None:
        self.keys = store.keys
        self.looked_up = 0

    async def by_digest(self, digest: bytes) -> ApiKey | None:
        self.looked_up += 1
        return await self.keys.by_digest(digest)

    def __getattr__(self, name: str) -> object:
        return getattr(self.keys, name)


async def test_the_first_start_generates_an_admin_key_and_later_starts_do_not(store: Store) -> None:
    access = Access(store.keys, ManualClock())
    secret = await access.bootstrap(None)
    assert secret is not None
    assert (await access.authenticate(secret)).may(Scope.ADMIN)
    assert await access.bootstrap(None) is None


async def test_the_operators_own_key_becomes_the_admin_key_and_is_not_returned(store: Store) -> None:
    access = Access(store.keys, ManualClock())
    assert await access.bootstrap("a-long-enough-secret") is None
    assert (await access.authenticate("a-long-enough-secret")).scopes == {Scope.ADMIN}


async def test_a_short_key_of_the_operator_is_refused(store: Store) -> None:
    with pytest.raises(InvalidArgument, match="CLAWPLANE_API_KEY"):
        await Access(store.keys, ManualClock()).bootstrap("short")
    assert await store.keys.all() == []


async def test_what_is_stored_of_a_key_is_not_the_key(store: Store) -> None:
    access = Access(store.keys, ManualClock())
    _, secret = await access.create(name="one", scopes=[Scope.READ])
    assert all(secret.encode() not in key.digest for key in await store.keys.all())


async def test_no_key_and_an_unknown_key_are_told_apart(store: Store) -> None:
    access = Access(store.keys, ManualClock())
    with pytest.raises(AuthenticationRequired):
        await access.authenticate("")
    with pytest.raises(InvalidToken, match="not known"):
        await access.authenticate("scraper_api_nobody")
    with pytest.raises(InvalidToken):
        await access.authenticate("x" * 100_000)


async def test_a_valid_key_is_looked_up_once_and_again_after_half_a_minute(store: Store) -> None:
    clock, keys = ManualClock(), CountingKeys(store)
    access = Access(keys, clock)  # type: ignore[arg-type]
    _, secret = await access.create(name="one", scopes=[Scope.WORKERS])
    for _ in range(5):
        await access.authenticate(secret)
    assert keys.looked_up == 1
    clock.advance(31)
    await access.authenticate(secret)
    assert keys.looked_up == 2


async def test_a_revoked_key_is_refused_in_the_next_request(store: Store) -> None:
    access = Access(store.keys, ManualClock())
    key, secret = await access.create(name="one", scopes=[Scope.WORKERS])
    await access.authenticate(secret)
    await access.revoke(key.id)
    with pytest.raises(InvalidToken, match="revoked"):
        await access.authenticate(secret)


async def test_revoking_what_is_not_there_says_so(store: Store) -> None:
    with pytest.raises(NotFound):
        await Access(store.keys, ManualClock()).revoke("nobody")


async def test_a_key_that_expires_while_it_is_remembered_is_refused(store: Store) -> None:
    clock = ManualClock()
    access = Access(store.keys, clock)
    _, secret = await access.create(name="one", scopes=[Scope.READ], expires_at=clock.now_ms() + 5000)
    await access.authenticate(secret)
    clock.advance(6)
    with pytest.raises(InvalidToken, match="expired"):
        await access.authenticate(secret)


async def test_the_cache_is_bounded(store: Store) -> None:
    access = Access(store.keys, ManualClock())
    for number in range(1100):
        await access.admit(f"a-long-enough-secret-{number}", name="n", scopes={Scope.READ})
        await access.authenticate(f"a-long-enough-secret-{number}")
    assert len(access._known) == 1024


async def test_admitting_the_same_token_twice_is_fine(store: Store) -> None:
    access = Access(store.keys, ManualClock())
    for _ in range(2):
        await access.admit("runner-token-0123456789", name="runner", scopes={Scope.RUNNER})
    assert len(await store.keys.all()) == 1


async def test_a_scope_that_is_missing_is_named(store: Store) -> None:
    access = Access(store.keys, ManualClock())
    _, secret = await access.create(name="one", scopes=[Scope.READ])
    caller = await access.authenticate(secret)
    require(caller, Scope.READ)
    with pytest.raises(Forbidden, match="workers"):
        require(caller, Scope.WORKERS)


@pytest.mark.parametrize(("name", "scopes"), [("", [Scope.READ]), ("n" * 201, [Scope.READ]), ("ok", [])])
async def test_a_key_needs_a_name_and_a_scope(store: Store, name: str, scopes: list[Scope]) -> None:
    with pytest.raises(InvalidArgument):
        await Access(store.keys, ManualClock()).create(name=name, scopes=scopes)
