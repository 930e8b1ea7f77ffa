"""Judge the bearer token of the Task API, which lets its holder run anything on the machines behind it."""

from __future__ import annotations

from typing import Final

from clawplane.domain.errors import InvalidArgument

SHORTEST: Final = 16
_SHIPPED: Final = frozenset({"change-me-please-1234", "your-secret-token-here", "your-worker-token"})
_HINT: Final = "Make one with: openssl rand -hex 32"


def checked_token(variable: str, token: str) -> str:
    """Return a token; raises InvalidArgument, which never shows it, when it is missing, short or a known one."""
    if not token.strip():
        raise InvalidArgument(f"{variable} is not set.", hint=_HINT)
    if len(token.strip()) < SHORTEST:
        raise InvalidArgument(f"{variable} is shorter than {SHORTEST} characters.", hint=_HINT)
    if token.strip() in _SHIPPED:
        raise InvalidArgument(f"{variable} is an example that everybody knows.", hint=_HINT)
    if not token.strip().isascii() or not token.strip().isprintable() or " " in token.strip():
        raise InvalidArgument(f"{variable} holds characters that no header carries.", hint=_HINT)
    return token.strip()
