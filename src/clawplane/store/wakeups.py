"""Wake waiters within one process."""

from __future__ import annotations

import asyncio
from collections import defaultdict


class LocalWakeup:
    """One listener; see ports.Wakeup."""

    def __init__(self, listeners: set[LocalWakeup]) -> None:
        self._listeners = listeners
        self._event = asyncio.Event()
        self._closed = False
        listeners.add(self)

    def notify(self) -> None:
        """Remember that something happened."""
        self._event.set()

    async def wait(self, timeout: float | None = None) -> bool:
        """Return True once notified since the last wait, False after `timeout` seconds or when closed."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        if self._closed:
            return False
        self._event.clear()
        return True

    def close(self) -> None:
        """Stop listening; whoever waits gets False."""
        self._closed = True
        self._listeners.discard(self)
        self._event.set()


class LocalWakeups:
    """Channels within one event loop; see ports.Wakeups."""

    def __init__(self) -> None:
        self._channels: dict[str, set[LocalWakeup]] = defaultdict(set)

    def notify(self, channel: str) -> None:
        """Wake everybody who listens to `channel`."""
        if channel in self._channels:
            for listener in self._channels[channel]:
                listener.notify()
            if not self._channels[channel]:
                del self._channels[channel]

    def listen(self, channel: str) -> LocalWakeup:
        """Start listening; a notify between two waits is not lost."""
        return LocalWakeup(self._channels[channel])
