"""Tell how a session stands when it changes, at once or with what changes next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from clawplane.domain.sessions import LiveState

_SOON_SECONDS: Final = 1.0


class Noting:
    """What is told of one session."""

    def __init__(self, state: Callable[[], LiveState], tell: Callable[[LiveState], None]) -> None:
        self._state = state
        self._tell = tell
        self._later: asyncio.TimerHandle | None = None

    def now(self) -> None:
        """Tell at once."""
        self.stop()
        self._tell(self._state())

    def soon(self) -> None:
        """Tell within a second."""
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(_SOON_SECONDS, self.now)

    def stop(self) -> None:
        """Let go of what would be told later."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
