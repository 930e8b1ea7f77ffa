"""Wake waiters within one process."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from clawplane.domain.waiting import first_of


class LocalWakeup:
    """One listener; see domain.wakeups."""

    def __init__(self, listeners: set[LocalWakeup]) -> None:
        self._listeners = listeners
        self._told = False
        self._closed = False
        self._future: asyncio.Future[None] | None = None
        listeners.add(self)

    def notify(self) -> None:
        """Remember that something happened."""
        self._told = True
        if self._future is not None:
            if not self._future.done():
                self._future.set_result(None)
            self._future = None

    def told(self) -> asyncio.Future[None]:
        """Return what is done once there is a notify that no wait has taken, or when closed."""
        if self._future is None or self._future.done():
            self._future = asyncio.get_running_loop().create_future()
            if self._told or self._closed:
                self._future.set_result(None)
        return self._future

    async def wait(self, timeout: float | None = None) -> bool:
        """Return True once notified since the last wait, False after `timeout` seconds or when closed."""
        if not (self._told or self._closed) and (timeout is None or timeout > 0):
            await first_of(self.told(), seconds=timeout)
        if self._closed:
            return False
        told, self._told = self._told, False
        return told

    def close(self) -> None:
        """Stop listening; whoever waits gets False."""
        self._closed = True
        self._listeners.discard(self)
        self.notify()


class LocalWakeups:
    """Channels within one event loop; see domain.wakeups."""

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
