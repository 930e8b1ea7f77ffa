"""Download links: signed, expiring, not to be forged."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clawplane.domain.clock import ManualClock
from clawplane.domain.errors import InvalidToken
from clawplane.flows.links import Links
from clawplane.store import Store, open_store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(tmp_path)
    yield store
    await store.close()


async def test_a_link_gives_back_what_was_signed(store: Store) -> None:
    links = Links(store.keys, ManualClock())
    link = await links.read(await links.sign("export", "run-1", format_="csv", columns=("title", "größe, b")))
    assert (link.kind, link.subject, link.format, link.columns) == ("export", "run-1", "csv", ("title", "größe, b"))


async def test_a_link_outlives_the_process_that_signed_it(store: Store) -> None:
    token = await Links(store.keys, ManualClock()).sign("log", "run-1")
    assert (await Links(store.keys, ManualClock()).read(token)).subject == "run-1"


async def test_a_link_expires(store: Store) -> None:
    clock = ManualClock()
    links = Links(store.keys, clock, lifetime_seconds=60)
    token = await links.sign("log", "run-1")
    clock.advance(59)
    await links.read(token)
    clock.advance(1)
    with pytest.raises(InvalidToken, match="expired"):
        await links.read(token)


async def test_a_payload_that_was_changed_is_refused(store: Store) -> None:
    links = Links(store.keys, ManualClock())
    payload, mac = (await links.sign("log", "run-1")).split(".")
    changed = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)).replace(b"run-1", b"run-2")
    forged = f"{base64.urlsafe_b64encode(changed).rstrip(b'=').decode()}.{mac}"
    with pytest.raises(InvalidToken, match="not one of ours"):
        await links.read(forged)


@pytest.mark.parametrize("token", ["", ".", "a.b", "ä.ö", "W10", "W10.", "." + "A" * 43, "x" * 20_000, "=.=", "a.b.c"])
async def test_text_that_is_no_link_is_refused(store: Store, token: str) -> None:
    with pytest.raises(InvalidToken):
        await Links(store.keys, ManualClock()).read(token)


async def test_a_link_of_another_installation_is_refused(store: Store, tmp_path: Path) -> None:
    other = await open_store(tmp_path / "other")
    token = await Links(other.keys, ManualClock()).sign("log", "run-1")
    await other.close()
    with pytest.raises(InvalidToken):
        await Links(store.keys, ManualClock()).read(token)
