"""What the turns of one runner share: settings, the session cache, the locks, what is known of the CLIs."""

from __future__ import annotations

import asyncio

from clawplane.domain.clock import Clock
from clawplane.runner.host.agents.conversation_locks import ConversationLocks
from clawplane.runner.host.agents.help_probe import HelpProbe
from clawplane.runner.host.agents.sessions_cache import SessionsCache
from clawplane.runner.host.agents.turn import AgentSettings

SWEEP_SECONDS = 300.0


class AgentHouse:
    """Built once per runner; `open` before the first turn."""

    def __init__(self, settings: AgentSettings, clock: Clock) -> None:
        self.settings = settings
        self.cache = SessionsCache(settings.session_cache, clock, settings.session_retention_ms)
        self.locks = ConversationLocks()
        self.probe = HelpProbe(settings.help_seconds)

    def open(self) -> None:
        """Read the session cache."""
        self.cache.load()

    async def keep_swept(self) -> None:
        """Drop old conversations from the cache every 5 minutes, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await self.cache.sweep()
