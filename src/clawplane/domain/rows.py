"""Read one pushed row: the hot path between a Worker's `push_data` and the store.

What arrives is whatever a guest sends. The ordinary row, a JSON object without reserved keys, is checked without
building a single Python object for its members: a struct that knows only the reserved keys makes msgspec skip all
others, which is half the price of decoding them, and the bytes are kept as they came. Everything else takes the slow
path: double encoding, upserts, values that are no object, and text that is no JSON. A row is never refused and never
lost: what cannot be read is kept as text beside the reason.

Rows leave here as valid UTF-8 JSON on one line, no deeper than `MAX_DEPTH`, without reserved keys.
"""

from __future__ import annotations

import json

import msgspec

from clawplane.domain.json_text import JsonError, exceeds_depth, parse

UPSERT_KEY = "__coreclaw_upsert_key__"
UPSERT_VALUE = "__coreclaw_upsert_value__"
DATA_ID = "__coreclaw_data_id__"
_RESERVED = (UPSERT_KEY, UPSERT_VALUE, DATA_ID)

MAX_MERGED_BYTES = 64 << 20
"""What upserts may add up to in one row; no single row is larger (see the SDK's limit)."""

_FEW_BRACKETS = 100
_UNSET = msgspec.UNSET


class _Reserved(msgspec.Struct, gc=False):
    key: msgspec.Raw | msgspec.UnsetType = msgspec.field(default=_UNSET, name=UPSERT_KEY)
    value: msgspec.Raw | msgspec.UnsetType = msgspec.field(default=_UNSET, name=UPSERT_VALUE)
    data_id: msgspec.Raw | msgspec.UnsetType = msgspec.field(default=_UNSET, name=DATA_ID)


_skim = msgspec.json.Decoder(_Reserved).decode


class PushedRow(msgspec.Struct, frozen=True, gc=False):
    """One row as JSON; `upsert` is the unique column and the text form of its value, `warning` a line for the log."""

    body: bytes
    upsert: tuple[str, str] | None = None
    warning: str | None = None


def decode(payload: str | bytes) -> PushedRow:
    """Read one `PushData` payload; never raises, whatever the guest sent."""
    if isinstance(payload, str):
        raw = payload.encode("utf-8", "replace")
        clean = True
    else:
        raw = payload
        clean = raw.isascii()
    try:
        reserved = _skim(raw)
        if not clean:
            raw.decode()  # skipped members are not checked for UTF-8 by the parser
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _decode_slowly(raw)
    # b"[" counts brackets inside strings too, which costs such a row only the exact scan
    if raw.count(b"[") + raw.count(b"{") > _FEW_BRACKETS and exceeds_depth(raw):
        return _decode_slowly(raw)
    if reserved.key is _UNSET and reserved.value is _UNSET and reserved.data_id is _UNSET:
        if b"\n" in raw or b"\r" in raw:
            return PushedRow(msgspec.json.format(raw, indent=-1))
        return PushedRow(raw.strip(b" \t"))
    return _decode_slowly(raw)


def _decode_slowly(raw: bytes) -> PushedRow:
    try:
        value = parse(raw)
        if isinstance(value, str):
            value = _second_decoding(value)
    except JsonError as error:
        return _unreadable(raw, str(error))
    if not isinstance(value, dict):
        return PushedRow(
            _compact(value),
            warning=f"A row is {_kind(value)}, not an object; it is stored as it is. Push an object per row.",
        )
    upsert = None
    if isinstance(value.get(UPSERT_KEY), str) and UPSERT_VALUE in value:
        upsert = (_printable(value[UPSERT_KEY]), _text_form(value[UPSERT_VALUE]))
    warning = None
    if upsert is None and (UPSERT_KEY in value or UPSERT_VALUE in value):
        warning = f"An upsert needs both {UPSERT_KEY} (a string) and {UPSERT_VALUE}; the row was appended instead."
    for key in _RESERVED:
        value.pop(key, None)
    return PushedRow(_compact(value), upsert, warning)


def _second_decoding(text: str) -> object:
    """Return the object that a doubly encoded row holds, or the string itself when it holds none."""
    try:
        inner = parse(text)
    except JsonError:
        return text
    return inner if isinstance(inner, dict) else text


def _unreadable(raw: bytes, reason: str) -> PushedRow:
    body = _compact({"__raw": raw.decode("utf-8", "replace"), "__parse_error": reason})
    return PushedRow(body, warning=f"A row is no readable JSON and was stored as text: {reason}.")


def _compact(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # a lone surrogate cannot be UTF-8; its \uXXXX escape can
        return json.dumps(value, separators=(",", ":")).encode()


def _text_form(value: object) -> str:
    return _printable(value) if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "a number"


def merge(stored: bytes, *updates: bytes) -> bytes:
    """Return `stored` with the members of `updates` laid over it in order (shallow); what is no object is replaced.

    `stored` is read once and written once, however many updates there are. A row that more than MAX_MERGED_BYTES were
    said about, and that is larger than half of that, is replaced by the next update.
    """
    members, whole, size = _members(stored), stored, len(stored)
    for update in updates:
        new = _members(update)
        size += len(update)
        if members is not None and size > MAX_MERGED_BYTES:
            size = len(_compact(members)) + len(update)  # much of what was said may have been about the same members
            if size > MAX_MERGED_BYTES // 2:  # far from the bound, or the next update would have it measured again
                members = None
        if members is None or new is None:
            members, whole, size = new, update, len(update)
        else:
            members.update(new)
            whole = b""
    return whole or _compact(members)


def _members(body: bytes) -> dict[str, object] | None:
    try:
        value = parse(body)
    except JsonError:
        return None
    return value if isinstance(value, dict) else None


def with_data_id(body: bytes, ordinal: int) -> bytes:
    """Return the row with its platform key `record_<ordinal>`, as result listings show it; only objects get one."""
    if not body.startswith(b"{"):
        return body
    comma = b"" if body[1:-1].isspace() or len(body) == 2 else b","
    return b'%s%s"%s":"record_%d"}' % (body[:-1], comma, DATA_ID.encode(), ordinal)
