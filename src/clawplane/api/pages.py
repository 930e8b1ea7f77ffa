"""Read pages from queries: `offset` is a page number from 1 (0 means 1 too), `limit` a size from 1 to 100."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from clawplane.api.calls import Call, Parameter

MAX_LIMIT: Final = 100
DEFAULT_LIMIT: Final = 20
_MAX_PAGE: Final = 10**12

OFFSET: Final = Parameter(
    name="offset", kind="integer", description="Page number from 1; 0 means 1 too.", default=1, minimum=0
)
LIMIT: Final = Parameter(
    name="limit", kind="integer", description="Page size.", default=DEFAULT_LIMIT, minimum=1, maximum=MAX_LIMIT
)


@dataclass(frozen=True, slots=True)
class Page:
    """One page: `index` from 1, `limit` rows."""

    index: int
    limit: int

    @property
    def skip(self) -> int:
        """Return how many rows come before it."""
        return (self.index - 1) * self.limit


def page_of(call: Call) -> Page:
    """Return the page that a query asks for; raises InvalidSchema."""
    index = call.number("offset", 1, low=0, high=_MAX_PAGE) or 1
    limit = call.number("limit", DEFAULT_LIMIT, low=1, high=MAX_LIMIT) or DEFAULT_LIMIT
    return Page(index, limit)
