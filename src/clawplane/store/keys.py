"""Keep API keys (as hashes) and the few values that an installation makes for itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from clawplane.domain.access import ApiKey, Scope
from clawplane.domain.errors import ClawplaneError, Conflict
from clawplane.domain.ids import RunnerId
from clawplane.store.database import Database, Row, Transaction, first

_to_json = msgspec.json.Encoder().encode
_scopes = msgspec.json.Decoder(frozenset[Scope]).decode


class _Revocation(NamedTuple):
    key_id: str
    now: int


class _Belonging(NamedTuple):
    runner: str
    key: str


class _Setting(NamedTuple):
    name: str
    value: str


async def add(tx: Transaction, items: Sequence[ApiKey]) -> list[ClawplaneError | None]:
    """Store keys."""
    results: list[ClawplaneError | None] = []
    for key in items:
        if await tx.fetch("key_by_digest", {"digest": key.digest}):
            results.append(Conflict("This API key is stored already."))
            continue
        values = msgspec.structs.asdict(key) | {"scopes": _to_json(sorted(key.scopes)).decode()}
        await tx.execute("insert_key", values)
        results.append(None)
    return results


async def revoke(tx: Transaction, items: Sequence[_Revocation]) -> list[bool]:
    """Revoke keys; the first revocation's time stays."""
    return [await tx.execute("revoke_key", {"id": item.key_id, "now": item.now}) > 0 for item in items]


async def set_once(tx: Transaction, items: Sequence[_Setting]) -> list[str]:
    """Keep values unless others are there; return those that are kept."""
    kept = []
    for name, value in items:
        await tx.execute("set_setting_once", {"name": name, "value": value})
        ((stored,),) = await tx.fetch("setting", {"name": name})
        kept.append(stored)
    return kept


async def claim(tx: Transaction, items: Sequence[_Belonging]) -> list[str]:
    """Bind runners to keys unless they are bound; return the keys that they are bound to."""
    holders = []
    for runner, key in items:
        await tx.execute("bind_runner_once", {"runner": runner, "key": key})
        ((holder,),) = await tx.fetch("key_of_runner", {"runner": runner})
        holders.append(holder)
    return holders


async def give(tx: Transaction, items: Sequence[_Belonging]) -> list[None]:
    """Bind runners to keys, whatever they are bound to."""
    await tx.many("give_runner", [(runner, key) for runner, key in items])
    return [None] * len(items)


class SqlKeys:
    """API keys, runners that belong to them, and settings; see key_ports.KeyStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, key: ApiKey) -> None:
        """Store a key; raises Conflict when its digest is there."""
        await self._database.write(add, key)

    async def by_digest(self, digest: bytes) -> ApiKey | None:
        """Return the key with this digest, revoked or not."""
        row = await first(self._database.glance("key_by_digest", {"digest": digest}))
        return None if row is None else _key(row)

    async def all(self) -> list[ApiKey]:
        """Return all keys, newest first."""

        async def view(tx: Transaction) -> list[ApiKey]:
            return [_key(row) for row in await tx.fetch("all_keys")]

        return await self._database.read(view)

    async def revoke(self, key_id: str, *, now: int) -> bool:
        """Revoke a key; False when there is none with this id."""
        return await self._database.write(revoke, _Revocation(key_id, now))

    async def claim_runner(self, runner: RunnerId, key_id: str) -> str:
        """Return the id of the key that a runner's id belongs to, which is `key_id` if it had none."""
        return await self._database.write(claim, _Belonging(runner, key_id))

    async def give_runner(self, runner: RunnerId, key_id: str) -> None:
        """Let a runner's id belong to this key from now on."""
        await self._database.write(give, _Belonging(runner, key_id))

    async def setting(self, name: str) -> str | None:
        """Return a value that this installation keeps."""

        async def view(tx: Transaction) -> str | None:
            row = await first(tx.fetch("setting", {"name": name}))
            return None if row is None else row[0]

        return await self._database.read(view)

    async def set_setting_once(self, name: str, value: str) -> str:
        """Keep `value` unless one is there; return the one that is kept."""
        return await self._database.write(set_once, _Setting(name, value))


def _key(row: Row) -> ApiKey:
    id_, name, owner, scopes, digest, created_at, revoked_at, expires_at = row
    return ApiKey(
        id=id_,
        name=name,
        owner=owner,
        scopes=_scopes(scopes),
        digest=digest,
        created_at=created_at,
        revoked_at=revoked_at,
        expires_at=expires_at,
    )
