"""Keep conversations with agent CLIs as the Task API lists them; see host_ports.AgentSessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from clawplane.domain.host_tasks import AgentSession
from clawplane.store.agent_bindings import bind_provider, conversation_of, provider_of
from clawplane.store.database import Database, Transaction
from clawplane.store.host_blobs import plain


class _Binding(NamedTuple):
    cli: str
    session_id: str
    provider_id: str
    now: int


async def bind(tx: Transaction, items: Sequence[_Binding]) -> list[None]:
    """Remember which ids name one conversation."""
    for cli, session_id, provider_id, now in items:
        conversation, _ = await conversation_of(tx, cli, session_id)
        await bind_provider(tx, cli, conversation, provider_id, now)
    return [None] * len(items)


class SqlAgentSessions:
    """Conversations with agent CLIs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, *, cli_type: str, limit: int) -> list[AgentSession]:
        """Return conversations by last activity, newest first."""

        async def view(tx: Transaction) -> list[AgentSession]:
            rows = await tx.fetch("agent_sessions", {"cli_type": cli_type, "limit": limit})
            return [
                AgentSession(
                    session_id=session_id,
                    cli_type=cli,
                    callback_channel=channel,
                    task_count=count,
                    last_activity=last,
                    created_at=created,
                )
                for session_id, cli, channel, count, last, created in rows
            ]

        return await self._database.read(view)

    async def stats(self) -> dict[str, Any]:
        """Return active, oldestLastActivity, newestLastActivity and byType as `/sessions/stats` shows them."""

        async def view(tx: Transaction) -> dict[str, Any]:
            ((active, oldest, newest),) = await tx.fetch("agent_session_stats")
            by_type = [{"cliType": cli, "count": count} for cli, count in await tx.fetch("agent_sessions_by_type")]
            return {
                "active": active,
                "oldestLastActivity": oldest,
                "newestLastActivity": newest,
                "byType": by_type,
            }

        return await self._database.read(view)

    async def key_of(self, cli_type: str, session_id: str) -> tuple[str, str | None]:
        """Return the canonical conversation of an id, and the provider's id."""

        async def view(tx: Transaction) -> tuple[str, str | None]:
            conversation, _ = await conversation_of(tx, cli_type, plain(session_id))
            return conversation, await provider_of(tx, cli_type, conversation)

        return await self._database.read(view)

    async def bind(self, cli_type: str, session_id: str, provider_id: str, *, now: int) -> None:
        """Remember that two ids name one conversation."""
        await self._database.write(bind, _Binding(cli_type, plain(session_id), plain(provider_id), now))
