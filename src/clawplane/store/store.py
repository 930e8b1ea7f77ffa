"""Open everything that is kept, in one directory."""

from __future__ import annotations

from pathlib import Path

from clawplane.domain.clock import Clock, SystemClock
from clawplane.store.agent_sessions import SqlAgentSessions
from clawplane.store.blobs import DirectoryBlobs
from clawplane.store.database import Database
from clawplane.store.events import SqlEvents
from clawplane.store.host_tasks import SqlHostTasks
from clawplane.store.host_trail import SqlTaskEvents
from clawplane.store.keys import SqlKeys
from clawplane.store.outbox import SqlOutbox
from clawplane.store.queue import SqlQueue
from clawplane.store.runs import SqlRuns
from clawplane.store.sessions import SqlSessions
from clawplane.store.sqlite import BUSY_SECONDS, IDLE_SECONDS, SqliteDatabase
from clawplane.store.wakeups import LocalWakeups
from clawplane.store.workers import SqlWorkers

DATABASE = "clawplane.db"
BLOBS = "blobs"


class Store:
    """All ports on one database and one place for blobs."""

    def __init__(self, database: Database, blobs: DirectoryBlobs, clock: Clock) -> None:
        self._database = database
        self.queue = SqlQueue(database, clock)
        self.workers = SqlWorkers(database)
        self.runs = SqlRuns(database)
        self.sessions = SqlSessions(database)
        self.host_tasks = SqlHostTasks(database)
        self.agent_sessions = SqlAgentSessions(database)
        self.task_events = SqlTaskEvents(database)
        self.outbox = SqlOutbox(database)
        self.keys = SqlKeys(database)
        self.events = SqlEvents(database)
        self.blobs = blobs
        self.wakeups = LocalWakeups()

    async def close(self) -> None:
        """Finish what was accepted, refuse the rest, and release the files; twice is fine."""
        await self._database.close()


async def open_store(
    directory: Path,
    *,
    clock: Clock | None = None,
    file: Path | None = None,
    busy_seconds: float = BUSY_SECONDS,
    idle_seconds: float = IDLE_SECONDS,
) -> Store:
    """Open or create the store in `directory`.

    `file` is the database when that lies elsewhere. `busy_seconds` is how long another program's lock on it is waited
    for, `idle_seconds` how long nobody must write before the log is cut. Raises StoreBusy when another server uses it,
    StoreFull, or StoreError.
    """
    path = file or directory / DATABASE
    database = await SqliteDatabase.open(path, busy_seconds=busy_seconds, idle_seconds=idle_seconds)
    try:
        blobs = DirectoryBlobs(directory / BLOBS)
        await blobs.open()
    except BaseException:
        await database.close()
        raise
    return Store(database, blobs, clock or SystemClock())
