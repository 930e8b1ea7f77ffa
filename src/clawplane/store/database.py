"""The narrow port to the database.

Everything that changes the database is an *operation*: a coroutine function that gets a transaction and a sequence of
items and returns one result per item, in order. `Database.write` hands it one item; whatever arrived while the previous
commit was in flight is committed together, neighbouring items of one operation in one call. An operation returns an
exception in place of a result to refuse one item without harming the others; it must do so before it changes anything
for that item. When it raises instead, its items are run again one by one, each undone by itself.

An operation awaits nothing but its transaction. On SQLite that never suspends, so a thread drives the coroutine from
its first line to its last; on PostgreSQL the same coroutine awaits the network.

Statements are named (see queries.py); parameters are `:named`, and `many` takes rows of values in the order in which
the statement first names its parameters.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

Row = tuple[Any, ...]
Params = Mapping[str, object]

NO_PARAMS: Params = {}

T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
R = TypeVar("R")


class Transaction(Protocol):
    """What an operation or a view may do with the database."""

    async def fetch(self, name: str, params: Params = NO_PARAMS) -> list[Row]:
        """Run the named statement and return its rows."""
        ...

    async def execute(self, name: str, params: Params = NO_PARAMS) -> int:
        """Run the named statement and return the number of rows it changed."""
        ...

    async def many(self, name: str, rows: Sequence[Sequence[object]]) -> None:
        """Run the named statement once per row of values."""
        ...


class Operation(Protocol[T_contra, R_co]):
    """A change to the database for a sequence of items; see the module's text for its duties."""

    def __call__(
        self, tx: Transaction, items: Sequence[T_contra], /
    ) -> Coroutine[Any, Any, Sequence[R_co | Exception]]:
        """Apply the change and return one result or refusal per item."""
        ...


View = Callable[[Transaction], Coroutine[Any, Any, R]]
"""A consistent look at the database: all its statements see one state."""


class Database(Protocol):
    """One database, whichever engine keeps it."""

    def write(self, operation: Operation[T, R], item: T, *, weight: int = 0) -> Awaitable[R]:
        """Apply `operation` to `item`; await the result, which comes once it is durable.

        Waits while too much is queued; `weight` is the item's size in bytes where it matters. Raises the item's own
        refusal, StoreBusy, StoreFull, StoreError, or Unavailable after close. A caller that is cancelled does not
        know whether its item was stored.
        """
        ...

    async def read(self, view: View[R]) -> R:
        """Return what `view` sees; it sees every write that was answered before."""
        ...

    async def glance(self, name: str, params: Params = NO_PARAMS) -> list[Row]:
        """Return the rows of one named statement that finds a few by a key, by the shortest way.

        It sees every write that was answered before. On SQLite the event loop waits for it, so it must not walk.
        """
        ...

    async def compact(self) -> None:
        """Give space that is free inside the database back to the system; others may read and write meanwhile."""
        ...

    async def close(self) -> None:
        """Finish what was accepted, refuse the rest, and release the database; twice is fine."""
        ...


async def first(rows: Awaitable[list[Row]]) -> Row | None:
    """Return the first of the rows, or None."""
    found = await rows
    return found[0] if found else None
