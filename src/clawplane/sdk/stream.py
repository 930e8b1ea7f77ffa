"""One call's request, from its first header to the answer: buffering, and the memory it may take."""

from collections.abc import Callable

from clawplane.sdk import frames as f
from clawplane.sdk.limits import Limits, Room

PREFIX = 5  # one byte for compression, four for the length, before every gRPC message


class RefusedError(Exception):
    """The call ends with a gRPC status other than OK; the connection goes on."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Stream:
    """One call on one connection."""

    __slots__ = (
        *("_body", "_expected", "_granted", "_held", "_limits", "_room", "_waiting"),
        *("answer", "at", "ended", "id", "lead", "path", "reset", "window_in", "window_out"),
    )

    def __init__(self, stream_id: int, path: str, limits: Limits, room: Room) -> None:
        self.id = stream_id
        self.path = path
        self.at = 0.0  # when its last byte came, or its last obstacle went
        self.window_in = self.window_out = f.FIRST_WINDOW
        self.ended = False  # the request is whole: it is somebody's call now
        self.reset = False  # the client wants no answer any more
        self.lead = b""  # what is still to be sent of the response's prefix
        self.answer = memoryview(b"")  # and of its message, which other calls may share
        self._limits = limits
        self._room = room
        self._body = bytearray()
        self._expected = 0  # length of prefix and message, once known
        self._held = 0  # bytes accounted for as small
        self._granted = 0  # bytes granted as large
        self._waiting: Callable[[], None] | None = None

    @property
    def waiting(self) -> bool:
        """Whether the request waits for room, and not for its client."""
        return self._waiting is not None

    @property
    def answering(self) -> bool:
        """Whether a part of the response waits for the client's window."""
        return bool(self.lead or self.answer)

    def take(self, payload: bytes, end: bool) -> memoryview | None:
        """Take a part of the request; return the message when it is whole."""
        if not self._granted:
            if not self._room.take_small(len(payload)):
                raise RefusedError(f.RESOURCE_EXHAUSTED, "too many unfinished calls at once")
            self._held += len(payload)
        body: bytes | bytearray = payload
        if self._body or not end:
            self._body += payload
            body = self._body
        if not self._expected and len(body) >= PREFIX:
            self._expected = self._measure(body)
        if self._expected and len(body) > self._expected:
            raise RefusedError(f.INTERNAL, "more than one message in a unary call")
        if not end:
            return None
        if not self._expected or len(body) < self._expected:
            raise RefusedError(f.INTERNAL, "the call ended before its message")
        self.ended = True
        self._body = bytearray()
        return memoryview(body)[PREFIX:]

    def needs_room(self) -> bool:
        """Tell whether the message is too long for the first window and no room was asked for yet."""
        return self._expected > f.FIRST_WINDOW and not self._granted and self._waiting is None

    def ask_room(self, granted: Callable[[int], None]) -> None:
        """Ask for room for the whole message; `granted` gets the number of bytes to add to the client's window."""

        def take_place() -> None:
            self._waiting = None
            self._granted = self._expected
            more = self._expected - f.FIRST_WINDOW
            self.window_in += more
            granted(more)

        self._waiting = take_place
        self._room.ask_large(self._expected, take_place)

    def release(self) -> None:
        """Return all room; safe to call again."""
        self._body = bytearray()
        held, self._held = self._held, 0
        granted, self._granted = self._granted, 0
        waiting, self._waiting = self._waiting, None
        self._room.give_back_small(held)
        if waiting is not None:
            self._room.withdraw(waiting)
        if granted:
            self._room.give_back_large(granted)

    def _measure(self, body: bytes | bytearray) -> int:
        """Return how long prefix and message are."""
        size = int(f.U32.unpack_from(body, 1)[0])
        limit = self._limits.max_message
        if size > limit:
            raise RefusedError(f.RESOURCE_EXHAUSTED, f"a message of {size} bytes is larger than the limit of {limit}")
        if body[0]:
            raise RefusedError(f.UNIMPLEMENTED, "compressed messages are not supported: send them as they are")
        return size + PREFIX
