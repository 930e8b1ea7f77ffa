"""Keep the database in one SQLite file.

Who runs: one connection writes (WAL, FULL: a commit is on disk when it returns), used by the writer's thread or, for
brief batches but their commits, by the event loop's (see group_commit); a few reader threads have a connection each,
which sees the last commit and never waits for the writer. A lock on
`<file>.lock` keeps a second server away for as long as this process lives; programs that only open the file for a
moment are waited for, up to the busy time.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Awaitable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from clawplane.domain.errors import Conflict, StoreBusy, StoreError, Unavailable
from clawplane.store.database import NO_PARAMS, Operation, Params, Row, Transaction, View
from clawplane.store.faults import disk_error, store_error
from clawplane.store.group_commit import Costs, GroupCommit, NotAtOnce, Write, drive, run_batch
from clawplane.store.migrate import migrate
from clawplane.store.own_files import open_own
from clawplane.store.queries import Query, load_queries

T = TypeVar("T")
R = TypeVar("R")

BUSY_SECONDS = 5.0
IDLE_SECONDS = 2.0
READERS = 3
GIVE_BACK_PAGES = 256
"""Free pages that one commit gives back to the file system; the writer is held for some milliseconds."""
_WORTH_CUTTING = 1 << 20

_SETTINGS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA wal_autocheckpoint=4000",  # pages of 4 KiB: 16 MiB of log before it is copied into the file
    "PRAGMA journal_size_limit=67108864",
    "PRAGMA cache_size=-16384",
    "PRAGMA temp_store=MEMORY",
)


class FileLock:
    """The right to write one database file, held until the process ends or releases it."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock; raises StoreBusy naming the process that has it."""
        path = self._database.with_name(self._database.name + ".lock")
        file = open_own(path, create=True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(file, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(file)
            raise StoreBusy(f"The database {self._database} is in use by process {holder}.") from None
        with suppress(OSError):  # a full disk must not keep the server from starting; the pid only informs
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        self._file = file

    def release(self) -> None:
        """Give the lock back; twice is fine."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class SqliteTransaction:
    """The statements of one connection, by name."""

    def __init__(self, connection: sqlite3.Connection, queries: Mapping[str, Query]) -> None:
        self.connection = connection
        self._texts = {name: query.sql for name, query in queries.items()}
        self._values = {name: _picker(query.params) for name, query in queries.items()}

    async def fetch(self, name: str, params: Params = NO_PARAMS) -> list[Row]:
        """Run the named statement and return its rows."""
        return self.connection.execute(self._texts[name], self._values[name](params)).fetchall()

    async def execute(self, name: str, params: Params = NO_PARAMS) -> int:
        """Run the named statement and return the number of rows it changed."""
        return self.connection.execute(self._texts[name], self._values[name](params)).rowcount

    async def many(self, name: str, rows: Sequence[Sequence[object]]) -> None:
        """Run the named statement once per row of values."""
        if rows:
            self.connection.executemany(self._texts[name], rows)


def _picker(names: tuple[str, ...]) -> Any:
    """Return a function that makes the values of a statement from its parameters."""
    if not names:
        return lambda _params: ()
    if len(names) == 1:
        return lambda params: (params[names[0]],)
    return itemgetter(*names)


class _Savepoint:
    """Undo what fails inside, and only that."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("SAVEPOINT part")

    def __exit__(self, failed: object, /, *rest: object) -> None:
        # an error of the disk may have ended the whole transaction, and the savepoint with it
        if failed and self._connection.in_transaction:
            self._connection.execute("ROLLBACK TO part")
        if self._connection.in_transaction:
            self._connection.execute("RELEASE part")


def _refusal_of(error: Exception) -> Exception | None:
    """Return what to answer to the one item that an error concerns; None when it concerns the database."""
    if isinstance(error, sqlite3.IntegrityError):
        return Conflict(f"It contradicts what is stored already ({error}).")
    if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.ProgrammingError):
        return None
    return error


class _Writer:
    """The connection that writes; see group_commit for who uses it when."""

    def __init__(self, path: Path, queries: Mapping[str, Query], busy_seconds: float) -> None:
        self._path = path
        self._queries = queries
        self._busy_seconds = busy_seconds
        self._connection = _open(path, busy_seconds)
        self._tx = SqliteTransaction(self._connection, queries)
        self._patient = True

    def prepare(self) -> None:
        """Bring the database's tables up to date."""
        migrate(self._connection)

    def run(self, writes: Sequence[Write], costs: Costs, *, wait: bool) -> list[Any]:
        """Run the writes in a transaction that stays open; raises when nothing was kept."""
        try:
            self._begin(wait=wait)
            lap = costs.laps(time.thread_time if wait else time.perf_counter)
            return run_batch(self._tx, writes, self._savepoint, _refusal_of, lap)
        except sqlite3.Error as error:
            self._recover()
            raise store_error(error, self._path) from error
        except BaseException:
            self._recover()
            raise

    def _begin(self, *, wait: bool) -> None:
        """Begin a transaction; another program may hold the file for a moment."""
        self._be_patient(wait)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not wait and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                raise NotAtOnce from error
            raise

    def _savepoint(self) -> _Savepoint:
        return _Savepoint(self._connection)

    def _be_patient(self, patient: bool) -> None:
        if patient is not self._patient:
            self._connection.execute(f"PRAGMA busy_timeout={round(self._busy_seconds * 1000) if patient else 0}")
            self._patient = patient

    def commit(self) -> None:
        """Make durable what was run; raises when nothing was kept."""
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._recover()
            raise store_error(error, self._path) from error

    def rest(self) -> None:
        """Copy the log into the file and cut it while nobody writes, if it is worth the trouble."""
        with suppress(OSError):
            if self._path.with_name(self._path.name + "-wal").stat().st_size >= _WORTH_CUTTING:
                self._cut_log()

    def _cut_log(self) -> None:
        with suppress(sqlite3.Error):  # a reader may hold an old state, or the disk be full: the next rest tries again
            self._be_patient(True)
            self._connection.execute("PRAGMA optimize")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Cut the log and close."""
        self._cut_log()
        self._connection.close()

    def _recover(self) -> None:
        """Undo the transaction; a connection that cannot even do that is replaced."""
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = _open(self._path, self._busy_seconds)
            self._tx = SqliteTransaction(self._connection, self._queries)
            self._patient = True


class _Readers:
    """A few threads with a reading connection each."""

    def __init__(self, path: Path, queries: Mapping[str, Query], busy_seconds: float) -> None:
        self._path = path
        self._queries = queries
        self._busy_seconds = busy_seconds
        self._local = threading.local()
        self._on_loop: SqliteTransaction | None = None
        self._opened: list[sqlite3.Connection] = []
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")

    async def read(self, view: View[R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._look, view)

    def glance(self, name: str, params: Params) -> list[Row]:
        """Run one statement on the caller's thread, which is the event loop's: handing it over takes longer."""
        try:
            if self._on_loop is None:
                self._on_loop = self._open()
            return drive(self._on_loop.fetch(name, params))
        except sqlite3.Error as error:
            raise store_error(error, self._path) from error

    def _look(self, view: View[R]) -> R:
        try:
            tx = self._own()
            tx.connection.execute("BEGIN")
            try:
                return drive(view(tx))
            finally:
                if tx.connection.in_transaction:
                    tx.connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise store_error(error, self._path) from error

    def _own(self) -> SqliteTransaction:
        own: SqliteTransaction | None = getattr(self._local, "own", None)
        if own is None:
            own = self._local.own = self._open()
        return own

    def _open(self) -> SqliteTransaction:
        connection = _open(self._path, self._busy_seconds)
        connection.execute("PRAGMA query_only=1")
        connection.execute("PRAGMA cache_size=-4096")
        self._opened.append(connection)
        return SqliteTransaction(connection, self._queries)

    def close(self) -> None:
        self._pool.shutdown()
        for connection in self._opened:
            connection.close()


class SqliteDatabase:
    """One SQLite file; see database.Database for what the methods promise."""

    def __init__(self, path: Path, lock: FileLock, writer: _Writer, readers: _Readers, idle_seconds: float) -> None:
        self._path = path
        self._lock = lock
        self._writer = writer
        self._readers = readers
        self._commits = GroupCommit(writer, idle_seconds=idle_seconds)
        self._closed = False

    @classmethod
    async def open(
        cls, path: Path, *, busy_seconds: float = BUSY_SECONDS, idle_seconds: float = IDLE_SECONDS
    ) -> SqliteDatabase:
        """Open or create the file; raises StoreBusy, StoreFull, or StoreError when it is newer than this program."""
        lock, writer, readers = await asyncio.to_thread(_open_all, path, busy_seconds)
        return cls(path, lock, writer, readers, idle_seconds)

    def write(self, operation: Operation[T, R], item: T, *, weight: int = 0) -> Awaitable[R]:
        """Apply `operation` to `item` and return its result once it is durable."""
        return self._commits.write(operation, item, weight)

    async def read(self, view: View[R]) -> R:
        """Return what `view` sees."""
        if self._closed:
            raise Unavailable("The store is closed.")
        return await self._readers.read(view)

    async def glance(self, name: str, params: Params = NO_PARAMS) -> list[Row]:
        """Return the rows of one statement that finds a few by a key."""
        if self._closed:
            raise Unavailable("The store is closed.")
        return self._readers.glance(name, params)

    async def compact(self) -> None:
        """Give free pages back to the file system, some per commit, so that others write in between."""
        while await self.write(_give_back, None):
            pass
        await asyncio.to_thread(self._copy_log)

    def _copy_log(self) -> None:
        connection = _open(self._path, BUSY_SECONDS)
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()  # the file shrinks when this is done
        finally:
            connection.close()

    async def close(self) -> None:
        """Finish what was accepted, refuse the rest, and release the file."""
        if self._closed:
            return
        self._closed = True
        await self._commits.close()
        await asyncio.to_thread(self._readers.close)
        await asyncio.to_thread(self._writer.close)
        self._lock.release()


async def _give_back(tx: Transaction, items: Sequence[None]) -> list[bool]:
    ((before,),) = await tx.fetch("free_pages")
    for _ in range(min(before, GIVE_BACK_PAGES)):
        await tx.fetch("give_page_back")  # one page, whatever number it is asked for: Python steps it only once
    ((left,),) = await tx.fetch("free_pages")
    return [0 < left < before] * len(items)


def _open_all(path: Path, busy_seconds: float) -> tuple[FileLock, _Writer, _Readers]:
    lock = FileLock(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire()
        os.close(open_own(path, create=True))  # SQLite gives its files beside it the same mode
        for beside in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.close(open_own(path.with_name(path.name + beside), create=False))
    except OSError as error:
        lock.release()
        raise disk_error(error, path) from error
    except StoreError:
        lock.release()
        raise
    try:
        queries = load_queries("sqlite")
        writer = _Writer(path, queries, busy_seconds)
        writer.prepare()
        return lock, writer, _Readers(path, queries, busy_seconds)
    except sqlite3.Error as error:
        lock.release()
        raise store_error(error, path) from error
    except BaseException:
        lock.release()
        raise


def _open(path: Path, busy_seconds: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=busy_seconds, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        if path.stat().st_size == 0:  # only a new file can still be told to keep track of its free pages
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        for setting in _SETTINGS:
            connection.execute(setting)
    except sqlite3.Error:
        connection.close()
        raise
    return connection
