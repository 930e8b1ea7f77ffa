"""Keys: who may come in, and how the first key comes to be.

Keys are kept as hashes. A look-up per request would be a database read per request, so keys found valid are remembered
for some seconds by digest; a revocation here forgets them at once, one on another replica within those seconds.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from clawplane.domain.access import ApiKey, Caller, Scope, digest_of, new_secret
from clawplane.domain.clock import Clock
from clawplane.domain.errors import AuthenticationRequired, Conflict, Forbidden, InvalidArgument, InvalidToken, NotFound
from clawplane.domain.ids import RunnerId, is_ulid, new_ulid
from clawplane.domain.key_ports import KeyStore

_REMEMBERED: Final = 1024
_REMEMBER_SECONDS: Final = 30.0
_MAX_SECRET: Final = 512
_MIN_OWN_SECRET: Final = 16


class Access:
    """Create, check and revoke keys."""

    def __init__(self, keys: KeyStore, clock: Clock, *, owner: str = "admin") -> None:
        self._keys = keys
        self._clock = clock
        self._owner = owner
        self._trusted: dict[bytes, ApiKey] = {}
        self._known: OrderedDict[bytes, tuple[float, ApiKey]] = OrderedDict()
        self._revocations = 0

    async def bootstrap(self, secret: str | None) -> str | None:
        """Make the first admin key; return it when it was generated here and must be printed once.

        `secret` becomes the admin key of an installation that has none; in one that has, it changes nothing.
        """
        if any(Scope.ADMIN in key.scopes and key.revoked_at is None for key in await self._keys.all()):
            return None
        if secret is not None and len(secret) < _MIN_OWN_SECRET:
            raise InvalidArgument(
                f"CLAWPLANE_API_KEY is shorter than {_MIN_OWN_SECRET} characters.",
                hint="Leave it unset at the first start to have a key generated.",
            )
        first = secret or new_secret()
        await self.admit(first, name="first admin key", scopes={Scope.ADMIN})
        return None if secret else first

    async def admit(self, secret: str, *, name: str, scopes: Iterable[Scope], owner: str | None = None) -> None:
        """Make `secret` a valid key if it is not one yet; used for tokens that somebody else has generated."""
        key = self._new_key(secret, name=name, scopes=scopes, owner=owner or self._owner, expires_at=None)
        try:
            await self._keys.add(key)
        except Conflict:
            return

    def trust(self, secret: str, *, name: str, scopes: Iterable[Scope]) -> None:
        """Let `secret` in for as long as this process runs; for tokens that the operator's settings hold.

        Nothing of it is stored: a token that is taken out of the settings is worth nothing after the next start.
        """
        key = self._new_key(secret, name=name, scopes=scopes, owner=self._owner, expires_at=None)
        self._trusted[key.digest] = key

    async def create(
        self,
        *,
        name: str,
        scopes: Iterable[Scope],
        owner: str | None = None,
        expires_at: int | None = None,
        runner: str | None = None,
    ) -> tuple[ApiKey, str]:
        """Create a key and return it with its secret, which is shown this once.

        `runner` is the id of a runner that has to use this key from now on instead of the one it used.
        """
        granted = frozenset(scopes)
        if not granted:
            raise InvalidArgument("scopes: a key needs at least one scope.", hint=f"Choose among {_scope_names()}.")
        if not 0 < len(name) <= 200:
            raise InvalidArgument("name: give the key a name of 1 to 200 characters.")
        if runner is not None and not (is_ulid(runner) and Scope.RUNNER in granted):
            raise InvalidArgument(
                "runner: it is no id of a runner, or the key has not the scope `runner`.",
                hint="Take the id from GET /v1/runners, and give the key the scope `runner`.",
            )
        secret = new_secret()
        key = self._new_key(secret, name=name, scopes=granted, owner=owner or self._owner, expires_at=expires_at)
        await self._keys.add(key)
        if runner is not None:
            await self._keys.give_runner(RunnerId(runner), key.id)
        return key, secret

    async def claim_runner(self, key_id: str, runner: RunnerId) -> bool:
        """Tell whether a runner's id belongs to this key; one that belongs to none does from now on."""
        return await self._keys.claim_runner(runner, key_id) == key_id

    async def all(self) -> list[ApiKey]:
        """Return all keys, newest first."""
        return await self._keys.all()

    async def revoke(self, key_id: str) -> None:
        """Revoke a key; raises NotFound."""
        if not await self._keys.revoke(key_id, now=self._clock.now_ms()):
            raise NotFound(f"There is no key {key_id!r}.", hint="List the keys with `clawplane keys list`.")
        self._revocations += 1
        self._known.clear()

    async def authenticate(self, secret: str | None) -> Caller:
        """Return who holds `secret`; raises AuthenticationRequired or InvalidToken."""
        if not secret:
            raise AuthenticationRequired("This operation needs an API key.")
        if len(secret) > _MAX_SECRET:
            raise InvalidToken("The API key is not known here.")
        key = await self._look_up(digest_of(secret))
        if key is None:
            raise InvalidToken("The API key is not known here.")
        if key.revoked_at is not None:
            raise InvalidToken("The API key has been revoked.")
        if key.expires_at is not None and key.expires_at <= self._clock.now_ms():
            raise InvalidToken("The API key has expired.")
        return Caller(key_id=key.id, owner=key.owner, scopes=key.scopes)

    async def _look_up(self, digest: bytes) -> ApiKey | None:
        if (trusted := self._trusted.get(digest)) is not None and hmac.compare_digest(trusted.digest, digest):
            return trusted
        now = self._clock.monotonic()
        remembered = self._known.get(digest)
        if remembered is not None and remembered[0] > now and hmac.compare_digest(remembered[1].digest, digest):
            self._known.move_to_end(digest)
            return remembered[1]
        revocations = self._revocations
        key = await self._keys.by_digest(digest)
        if revocations != self._revocations:  # what was read may have been revoked while it was under way
            return await self._keys.by_digest(digest)
        if key is None or key.revoked_at is not None:
            self._known.pop(digest, None)
            return key
        self._known[digest] = (now + _REMEMBER_SECONDS, key)
        self._known.move_to_end(digest)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return key

    def _new_key(
        self, secret: str, *, name: str, scopes: Iterable[Scope], owner: str, expires_at: int | None
    ) -> ApiKey:
        now = self._clock.now_ms()
        return ApiKey(
            id=new_ulid(now),
            name=name,
            owner=owner,
            scopes=frozenset(scopes),
            digest=digest_of(secret),
            created_at=now,
            expires_at=expires_at,
        )


def require(caller: Caller, scope: Scope) -> None:
    """Raise Forbidden unless `caller` has `scope`."""
    if not caller.may(scope):
        raise Forbidden(f"This key lacks the scope `{scope}`.")


def _scope_names() -> str:
    return ", ".join(scope.value for scope in Scope)
