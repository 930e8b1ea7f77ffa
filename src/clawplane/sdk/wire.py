"""The six protobuf messages of the SDK, encoded and decoded by hand.

Why by hand: the messages are tiny, a row is one string field, and generated code would bind the runner to a version of
the protobuf runtime. The reference is `proto/coresdk.proto`; a test compares every function here with generated code.
`proto/generate.sh` makes the generated files that Workers carry.

Rules that never break: nothing is read beyond the end of the message, the work for one message is bounded by a number
of fields and not by its size, unknown fields are skipped, and whatever is not a valid message raises `WireError`.
"""

from collections.abc import Iterator

from clawplane.sdk.subtask import HeaderItem

MAX_COLUMNS = 4096  # two bytes on the wire make one header item: without a limit 64 MiB would become gigabytes

MAX_STRAY_FIELDS = 64  # repeated or unknown fields we step over, for the same reason

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES = 10


class WireError(ValueError):
    """The bytes are not the protobuf message they should be."""


class TooManyColumnsError(WireError):
    """A table header has more columns than `MAX_COLUMNS`."""


def encode_response(code: int, message: str) -> bytes:
    """Encode a `Response`; members with their default value are left out, as proto3 does."""
    return _int32_field(1, code) + _text_field(2, message)


def encode_input(code: int, json_text: str) -> bytes:
    """Encode an `InputJSONStringResponse`."""
    return _int32_field(1, code) + _text_field(2, json_text)


def decode_text(message: memoryview) -> str:
    """Decode a message whose only field is the string number 1: `Data` and `LogBody`. An absent field is empty."""
    found = message[:0]
    for number, value in _byte_fields(message):
        if number == 1:
            found = value
    return _utf8(found)


def decode_table_header(message: memoryview) -> list[HeaderItem]:
    """Decode a `TableHeader` into its columns, in order."""
    items: list[HeaderItem] = []
    for number, value in _byte_fields(message, most=MAX_COLUMNS + MAX_STRAY_FIELDS):
        if number != 1:
            continue
        if len(items) == MAX_COLUMNS:
            raise TooManyColumnsError(f"a table header has more than {MAX_COLUMNS} columns")
        items.append(_header_item(value))
    return items


def _header_item(message: memoryview) -> HeaderItem:
    parts = {1: "", 2: "", 3: ""}
    for number, value in _byte_fields(message):
        if number in parts:
            parts[number] = _utf8(value)
    return HeaderItem(label=parts[1], key=parts[2], format=parts[3])


def _byte_fields(message: memoryview, most: int = MAX_STRAY_FIELDS) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of every length-delimited field; fields of other kinds are stepped over."""
    at, end, seen = 0, len(message), 0
    while at < end:
        seen += 1
        if seen > most:
            raise WireError(f"a message has more than {most} fields")
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise WireError("field number 0")
        if kind == _BYTES:
            length, at = _varint(message, at)
            if length > end - at:
                raise WireError(f"field {number} is longer than its message")
            yield number, message[at : at + length]
            at += length
        elif kind == _VARINT:
            _, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
            if at > end:
                raise WireError(f"field {number} is longer than its message")
        else:
            raise WireError(f"field {number} has the unknown wire type {kind}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    for _ in range(_VARINT_BYTES):
        if at >= len(message):
            raise WireError("a number is cut off")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise WireError("a number is longer than ten bytes")


def _utf8(content: memoryview) -> str:
    try:
        return str(content, "utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"text is not UTF-8: {error.reason} at byte {error.start}") from None


def _int32_field(number: int, value: int) -> bytes:
    return b"" if value == 0 else bytes([number << 3 | _VARINT]) + _encode_varint(value & 0xFFFFFFFFFFFFFFFF)


def _text_field(number: int, text: str) -> bytes:
    if not text:
        return b""
    content = text.encode("utf-8", "replace")
    return bytes([number << 3 | _BYTES]) + _encode_varint(len(content)) + content


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
