"""Keep which ids name one conversation with an agent CLI.

Callers know a conversation by the id they were given (an API id), by the CLI's own id, or by a prefix of either. All of
them lead to one canonical id, the first that was used; tasks of one conversation are serialised by it.
"""

from __future__ import annotations

import re

from clawplane.store.database import Transaction, first

_WHOLE_ID = 32
"""Ids shorter than this may be prefixes of ids that are not: a chat's own name is no prefix of another chat's."""
_PREFIX = re.compile(r"[A-Za-z0-9-]{4,31}")


async def conversation_of(tx: Transaction, cli: str, session_id: str) -> tuple[str, bool]:
    """Return the canonical id of a conversation, and whether this id is bound to it; an unknown id is its own."""
    row = await first(tx.fetch("find_agent_binding", {"cli_type": cli, "id": session_id}))
    if row is not None:
        return str(row[0]), True
    if _PREFIX.fullmatch(session_id):
        span = {"prefix": session_id, "beyond": session_id[:-1] + chr(ord(session_id[-1]) + 1), "whole": _WHOLE_ID}
        found = await tx.fetch("agent_bindings_by_prefix", {"cli_type": cli, **span})
        if len(found) == 1:
            return str(found[0][0]), False
    return session_id, False


async def provider_of(tx: Transaction, cli: str, conversation: str) -> str | None:
    """Return the CLI's own id of a conversation, as far as it is known."""
    row = await first(tx.fetch("provider_of_conversation", {"cli_type": cli, "conversation": conversation}))
    return None if row is None else str(row[0])


async def bind(tx: Transaction, cli: str, session_id: str, conversation: str, *, provider: bool, now: int) -> None:
    """Let an id lead to a conversation."""
    values = {"cli_type": cli, "id": session_id, "conversation": conversation, "provider": int(provider), "now": now}
    await tx.execute("upsert_agent_binding", values)


async def bind_provider(tx: Transaction, cli: str, conversation: str, provider: str, now: int) -> None:
    """Let a CLI's own id lead to a conversation; if it led to another one until now, the two become one."""
    row = await first(tx.fetch("find_agent_binding", {"cli_type": cli, "id": provider}))
    if row is not None and row[0] != conversation:
        await tx.execute("move_agent_bindings", {"to": conversation, "cli_type": cli, "of": row[0]})
    await bind(tx, cli, conversation, conversation, provider=provider == conversation, now=now)
    await bind(tx, cli, provider, conversation, provider=True, now=now)
