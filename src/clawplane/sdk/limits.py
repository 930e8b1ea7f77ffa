"""What the connections of one subtask may cost, and the memory they share."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for one subtask, in bytes, frames, streams and seconds.

    The sums hold whatever number of streams is open. `max_small` has room for five connections with every call in
    flight and every first window full; calls beyond that are refused, and the memory stays what it is.
    """

    max_message: int = 64 << 20  # also the sum of all messages beyond a first window that are buffered at one time
    max_small: int = 32 << 20  # what incomplete and unanswered messages hold within their first window, together
    max_streams: int = 100  # calls in flight per connection, as RFC 9113 advises; clients queue further ones
    max_connections: int = 64
    max_header_block: int = 16_384  # compressed, and again decompressed
    max_idle_frames: int = 10_000  # frames without a message between two answered calls
    handshake_seconds: float = 10.0
    stall_seconds: float = 30.0  # without a byte of a message that has begun, or of a header block


class Room:
    """The memory that messages not answered yet may take, shared by all connections of one subtask."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._large = 0
        self._small = 0
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()

    @property
    def held(self) -> int:
        """Bytes that are taken or promised now."""
        return self._large + self._small

    def take_small(self, size: int) -> bool:
        """Account for bytes within a first window; False when there is no room."""
        if self._small + size > self._limits.max_small:
            return False
        self._small += size
        return True

    def give_back_small(self, size: int) -> None:
        """Return what `take_small` gave."""
        self._small -= size

    def ask_large(self, size: int, granted: Callable[[], None]) -> None:
        """Call `granted` once `size` bytes may come: at once or later, in order of asking."""
        self._waiting.append((size, granted))
        self._grant()

    def withdraw(self, granted: Callable[[], None]) -> None:
        """Forget a request that was not granted yet."""
        self._waiting = deque(entry for entry in self._waiting if entry[1] is not granted)
        self._grant()

    def give_back_large(self, size: int) -> None:
        """Return what was granted, and grant what waited for it."""
        self._large -= size
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._large + self._waiting[0][0] <= self._limits.max_message:
            size, granted = self._waiting.popleft()
            self._large += size
            granted()
