"""Which conversation of a provider belongs to which conversation of the API: a small file that several runners share.

The form is fixed by the contract: a JSON array, indented by 2, of objects {sessionId, taskApiId, lastActivity,
callbackChannel}, one per provider id, the last write wins. Every write first takes in what others have written since,
so that two runners on one file lose nothing for good: what one overwrites in the same instant, its owner still has in
memory and writes again. Entries end RUNNER_SESSION_RETENTION_MS after they were last used.

A file that may not be used (see private.py) is never written; the mappings then last as long as the runner.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path
from typing import Any, Final

import msgspec

from clawplane.domain.clock import Clock
from clawplane.runner.host import private

LOG = logging.getLogger(__name__)
PROVIDER_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}")
"""Provider ids become arguments and parts of file names; nothing else passes."""
_LARGEST: Final = 4 << 20
_MOST: Final = 10_000
_LONGEST: Final = 1_000


class CachedSession(msgspec.Struct, frozen=True, rename="camel"):
    """One conversation; `last_activity` in milliseconds since 1970."""

    session_id: str
    task_api_id: str | None
    last_activity: int
    callback_channel: str | None


class SessionsCache:
    """The mappings in memory and in the file; `load` once at start."""

    def __init__(self, path: Path, clock: Clock, retention_ms: int) -> None:
        self._path = path
        self._clock = clock
        self._retention_ms = retention_ms
        self._entries: dict[str, CachedSession] = {}
        self._saving = asyncio.Lock()

    def load(self) -> None:
        """Take in what the file says; bad entries are left out, and a file that may not be used is reported."""
        for entry in self._read():
            mine = self._entries.get(entry.session_id)
            if mine is None or mine.last_activity < entry.last_activity:
                self._entries[entry.session_id] = entry
        self._drop_old()

    def provider_of(self, api_id: str) -> str | None:
        """Return the provider's id that an API id was last bound to; a known provider's id stands for itself.

        What is unknown here is looked up in the file.
        """
        known = self._newest(api_id)
        if known is None:
            self.load()
            known = self._newest(api_id)
        return known

    def api_of(self, provider_id: str) -> str | None:
        """Return the API id that a provider's id is bound to."""
        self._drop_old()
        entry = self._entries.get(provider_id)
        return entry.task_api_id if entry else None

    def remember(self, provider_id: str, api_id: str | None, channel: str | None = None) -> None:
        """Bind two ids from now on; `save` writes it down. What is no provider id is not remembered."""
        if not PROVIDER_ID.fullmatch(provider_id):
            return
        known = self._entries.get(provider_id)
        before = known.task_api_id if known else None
        self._entries[provider_id] = CachedSession(
            provider_id,
            # A task that names the conversation by the provider's own id must not take it from its API id.
            (before or api_id) if api_id in (None, provider_id) else api_id,
            self._clock.now_ms(),
            channel or (known.callback_channel if known else None),
        )

    async def save(self) -> None:
        """Write the file, with what others have written into it since; what goes wrong is logged, never raised."""
        async with self._saving:
            self.load()
            kept = sorted(self._entries.values(), key=lambda entry: entry.last_activity)[-_MOST:]
            content = json.dumps([msgspec.to_builtins(entry) for entry in kept], indent=2)
            try:
                await asyncio.to_thread(private.write, self._path, content.encode())
            except OSError as failed:
                LOG.warning("The session cache is not written: %s", failed)

    async def sweep(self) -> int:
        """Drop entries that were not used within the retention, here and in the file; return how many."""
        before = set(self._entries)
        written = {entry.session_id for entry in self._read()}
        self.load()
        if written - set(self._entries):
            await self.save()
        return len((before | written) - set(self._entries))

    def _newest(self, api_id: str) -> str | None:
        self._drop_old()
        mine = [entry for entry in self._entries.values() if entry.task_api_id == api_id]
        if mine:
            return max(mine, key=lambda entry: entry.last_activity).session_id
        return api_id if api_id in self._entries else None

    def _drop_old(self) -> None:
        oldest = self._clock.now_ms() - self._retention_ms
        self._entries = {key: entry for key, entry in self._entries.items() if entry.last_activity >= oldest}

    def _read(self) -> list[CachedSession]:
        try:
            content = private.read(self._path) or b"[]"
            said = json.loads(content) if len(content) <= _LARGEST else None
        except (OSError, ValueError, RecursionError) as failed:
            LOG.warning("The session cache is not read: %s", failed)
            return []
        return [entry for each in said if (entry := _entry(each))] if isinstance(said, list) else []


def _entry(said: Any) -> CachedSession | None:
    try:
        entry = msgspec.convert(said, CachedSession)
    except msgspec.ValidationError:
        return None
    texts = (entry.task_api_id or "", entry.callback_channel or "")
    if not PROVIDER_ID.fullmatch(entry.session_id) or any(len(text) > _LONGEST for text in texts):
        return None
    return entry if entry.last_activity >= 0 else None
