"""Numbers of RFC 9113 and of gRPC, and the constant bytes of our responses."""

import struct
from urllib.parse import quote

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_SIZE = 9
MAX_FRAME = 16_384  # the protocol's own default, so nothing has to be negotiated
FIRST_WINDOW = 65_535  # likewise: a stream's first window never depends on when settings are acknowledged
MAX_WINDOW = (1 << 31) - 1
DEFAULT_TABLE = 4_096

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20

# error codes
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR = 0x0, 0x1, 0x3, 0x6
REFUSED_STREAM, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 0x7, 0x9, 0xB

# settings
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE = 0x1, 0x3, 0x4, 0x6

# gRPC status codes
INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED = 3, 4, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 12, 13, 14

HEAD = struct.Struct(">HBBBI")  # upper 16 and lower 8 bits of the length, type, flags, stream
U32 = struct.Struct(">I")
SETTING = struct.Struct(">HI")


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Return one frame."""
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """Encode a header that enters no table, with lengths below 127."""
    return bytes([0x00, len(name)]) + name + bytes([len(value)]) + value


_STATUS_200 = b"\x88"  # entry 8 of the static table
RESPONSE_HEADERS = _STATUS_200 + _literal(b"content-type", b"application/grpc")
OK_TRAILERS = _literal(b"grpc-status", b"0")
EMPTY_TABLE = b"\x20"  # what an encoder says first after the peer shrank the header table: we use none


def error_headers(status: int, text: str) -> bytes:
    """Encode the only header block of a call that fails; the text is cut to fit a short literal."""
    message = quote(text, safe=" !#$&'()*+,/:;=?@[]").encode()[:120].rsplit(b"%", 1)
    # a cut percent escape would be noise: keep what stands before it
    whole = b"%".join(message) if len(message) == 1 or len(message[1]) >= 2 else message[0]
    return RESPONSE_HEADERS + _literal(b"grpc-status", str(status).encode()) + _literal(b"grpc-message", whole)
