"""Read the header blocks of requests: the only thing we want from them is the path of a gRPC call.

Blocks are bounded before decompression by whoever feeds us, and after it by the decoder's own list limit. A client
repeats the same few blocks for every call, made of nothing but table entries: those are remembered until the table
changes.
"""

from collections.abc import Iterable
from typing import NamedTuple

from hpack import Decoder, HPACKError

from clawplane.sdk import frames as f

_REMEMBERED = 64


class Head(NamedTuple):
    """What a request's header block says: a path, or with a gRPC status why the request is refused."""

    path: str
    status: int = 0
    problem: str = ""


class HeaderReader:
    """One connection's decompression state."""

    def __init__(self, most: int) -> None:
        """Accept header lists of `most` bytes, counted as RFC 9113 counts them."""
        self._decoder = Decoder(max_header_list_size=most)
        self._known: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """Decode one complete block; raise ValueError when that fails, which makes the connection useless."""
        known = self._known.get(block)
        if known is not None:
            return known
        changes_nothing = all(0x80 <= byte < 0xFF for byte in block)
        try:
            head = _judge(self._decoder.decode(block))
        except (HPACKError, ValueError, IndexError) as error:
            raise ValueError(f"a header block cannot be read: {type(error).__name__}") from None
        if not changes_nothing or len(self._known) >= _REMEMBERED:
            self._known.clear()
        if changes_nothing:
            self._known[block] = head
        return head


def _judge(headers: Iterable[tuple[str | bytes, str | bytes]]) -> Head:
    fields = {str(name): str(value) for name, value in headers}
    path = fields.get(":path", "")
    if fields.get(":method") != "POST" or not fields.get("content-type", "").startswith("application/grpc"):
        return Head(path, f.UNIMPLEMENTED, "only gRPC calls are served here")
    return Head(path)
