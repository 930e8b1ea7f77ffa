"""The language between a runner and a Python interpreter in a sandbox: frames and their values, without any I/O.

A frame is a 4-byte little-endian length and that many bytes of one JSON object, whose "op" says what it is. A frame for
the guest is at most TO_GUEST bytes long, one from it at most FROM_GUEST. One request is outstanding at a time. `id` and
`nonce` of a request come back in every frame that belongs to it: a frame with others is a stray, left over or forged.
Whatever comes from the guest is a claim: user code lives in the same process. `parse` checks its shape, nothing else;
status, time, memory and the end of a process are measured outside.

Descriptors travel on one byte DESCRIPTORS that follows their frame at once, by SCM_RIGHTS. Both ends read exactly the
frame and then that byte, so nothing is lost to a buffer.

runner -> guest        with it          answered by
run                                     shown and cleared any number of times, then done
copy                   a socket         copied; the copy says ready on its socket, and waits there
resume (to a copy)     out, err, control    ready, on the new control socket; the old socket closes
names                                   named
save                   a file           saved
restore                a file           restored
forget                                  forgotten
calm                                    calmed
An interrupt is SIGINT, sent after the run that it is for; it strikes even when that has not begun. After a run that one
was sent to, calm makes sure that one which came too late does not strike the next. An interpreter says ready when it
can take the first request, and ends when its socket closes.
A waiting copy ends when its socket closes. Streams are apart: descriptors 1 and 2 are flushed before done is sent.
An error's traceback is in done, and not printed to stderr.

done.status: ok; error (see error); exited: the code raised SystemExit (exit_code; the interpreter lives on).
done.broken: the interpreter could not be put in order again and ends by itself right after this frame; replace it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn, get_args

TO_GUEST: Final = 8 << 20
FROM_GUEST: Final = 16 << 20
LARGEST_REPRESENTATION: Final = 8 << 20
"""Characters of one MIME type's data, base64 included; the guest replaces what is larger by a note."""
MOST_SHOWN: Final = 1000
"""Frames `shown` that a guest sends for one run; it drops the rest and says so in done.notes."""
DESCRIPTORS: Final = b"F"
MAIN: Final = ""
"""The context that is a session's own."""
HEADER: Final = 4

Op = Literal["run", "copy", "resume", "names", "save", "restore", "forget", "calm"]
Purpose = Literal["undo", "branch"]
Kind = Literal["result", "display", "update"]
Status = Literal["ok", "error", "exited"]


class MalformedFrame(Exception):
    """The other end broke the protocol: nothing it says from now on means anything. The message says how."""


@dataclass(frozen=True, slots=True)
class Ready:
    """An interpreter or copy takes requests; `pid` in the sandbox's own pid namespace."""

    python: str
    pid: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A MIME bundle: "text/plain" is always there, binary is base64, JSON types are values.

    kind: result is the last expression's value; update replaces what was shown under `display_id`.
    """

    id: str
    nonce: str
    kind: Kind
    data: dict[str, Any]
    metadata: dict[str, Any]
    display_id: str


@dataclass(frozen=True, slots=True)
class Cleared:
    """What was shown so far shall vanish; `wait`: only when the next is shown."""

    id: str
    nonce: str
    wait: bool


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception: its type's name, its text, and the lines that Python would print."""

    name: str
    value: str
    traceback: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a run; `threads` counts those that go on besides the main one."""

    id: str
    nonce: str
    status: Status
    error: Raised | None
    exit_code: int | None
    count: int
    threads: int
    notes: tuple[str, ...]
    broken: bool


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy waits on its socket, or there is none because of `refusal`."""

    id: str
    nonce: str
    refusal: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A variable that could not be kept, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Named:
    """The variables of a context and the names of their types."""

    id: str
    nonce: str
    names: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """Which variables were saved or restored; those of other contexts than the main one as `context:name`."""

    id: str
    nonce: str
    op: Literal["saved", "restored"]
    names: tuple[str, ...]
    lost: tuple[Lost, ...]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A context is gone."""

    id: str
    nonce: str


@dataclass(frozen=True, slots=True)
class Calmed:
    """No interrupt that was sent before waits any more."""

    id: str
    nonce: str


FromGuest = Ready | Shown | Cleared | Done | Copied | Named | Kept | Forgotten | Calmed


def request(op: Op, number: str, nonce: str, **members: str | float) -> bytes:
    """Return the frame of the request with the id `number`.

    Members besides: run: code, context (MAIN). copy: purpose. names, forget: context. save: largest (bytes of one
    variable), seconds (for one variable), room (bytes of all). Raises ValueError when it is larger than TO_GUEST.
    """
    body = json.dumps({"op": op, "id": number, "nonce": nonce, **members}).encode()
    if len(body) > TO_GUEST:
        raise ValueError(f"a request of {len(body)} bytes is larger than {TO_GUEST}")
    return len(body).to_bytes(HEADER, "little") + body


class Frames:
    """Cut a stream of bytes into the bodies of frames of at most `largest` bytes."""

    def __init__(self, largest: int = FROM_GUEST) -> None:
        self._largest = largest
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """Take what was read; yield every body that is complete now. Raises MalformedFrame for one too large."""
        self._buffer += data
        while len(self._buffer) >= HEADER:
            length = int.from_bytes(self._buffer[:HEADER], "little")
            if length > self._largest:
                raise MalformedFrame(f"a frame of {length} bytes is larger than {self._largest}")
            end = HEADER + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER:end])
            del self._buffer[:end]
            yield body

    @property
    def partial(self) -> bool:
        """Tell whether a frame has begun and not ended."""
        return bool(self._buffer)


def parse(body: bytes) -> FromGuest:
    """Return what a guest's frame says; raises MalformedFrame. Text comes out as valid Unicode."""
    try:
        raw = _DECODER.decode(body.decode("utf-8"))
        if not body.isascii() or b"\\ud" in body or b"\\uD" in body:
            raw = _clean(raw)
    except (ValueError, RecursionError) as problem:
        raise MalformedFrame(f"a frame is no JSON: {str(problem)[:200]}") from None
    if not isinstance(raw, dict):
        raise MalformedFrame("a frame is no object")
    members = _Members(raw)
    match members.text("op"):
        case "ready":
            return Ready(members.text("python"), members.number("pid"))
        case "shown":
            return Shown(
                members.text("id"),
                members.text("nonce"),
                members.one_of("kind", get_args(Kind)),
                members.bundle("data"),
                members.mapping("metadata"),
                members.text("display_id"),
            )
        case "cleared":
            return Cleared(members.text("id"), members.text("nonce"), members.flag("wait"))
        case "done":
            return _done(members)
        case "copied":
            return Copied(members.text("id"), members.text("nonce"), members.text("refusal"))
        case "named":
            return Named(members.text("id"), members.text("nonce"), members.pairs("names"))
        case "saved" | "restored" as op:
            lost = tuple(Lost(name, reason) for name, reason in members.pairs("lost"))
            return Kept(members.text("id"), members.text("nonce"), op, members.texts("names"), lost)
        case "forgotten":
            return Forgotten(members.text("id"), members.text("nonce"))
        case "calmed":
            return Calmed(members.text("id"), members.text("nonce"))
        case unknown:
            raise MalformedFrame(f"a frame has the unknown op {unknown[:40]!r}")


def _done(members: _Members) -> Done:
    error = members.raw.get("error")
    raised: Raised | None = None
    if error is not None:
        if not isinstance(error, dict):
            raise MalformedFrame("error is no object")
        inner = _Members(error)
        raised = Raised(inner.text("name"), inner.text("value"), inner.texts("traceback"))
    code = members.raw.get("exit_code")
    return Done(
        members.text("id"),
        members.text("nonce"),
        members.one_of("status", get_args(Status)),
        raised,
        None if code is None else members.number("exit_code"),
        members.number("count"),
        members.number("threads"),
        members.texts("notes"),
        members.flag("broken"),
    )


class _Members:
    """The members of an object from a guest, each checked when it is taken."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw

    def text(self, name: str) -> str:
        value = self.raw.get(name)
        return value if isinstance(value, str) else _refuse(name, "text")

    def number(self, name: str) -> int:
        value = self.raw.get(name)
        valid = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53
        return value if valid else _refuse(name, "a whole number")  # type: ignore[return-value]

    def flag(self, name: str) -> bool:
        value = self.raw.get(name)
        return value if isinstance(value, bool) else _refuse(name, "true or false")

    def one_of(self, name: str, allowed: tuple[str, ...]) -> Any:
        value = self.raw.get(name)
        return value if isinstance(value, str) and value in allowed else _refuse(name, f"one of {', '.join(allowed)}")

    def mapping(self, name: str) -> dict[str, Any]:
        value = self.raw.get(name)
        return value if isinstance(value, dict) else _refuse(name, "an object")

    def bundle(self, name: str) -> dict[str, Any]:
        value = self.mapping(name)
        if not isinstance(value.get("text/plain"), str):
            _refuse(name, "a bundle with text/plain")
        for mime, data in value.items():
            if not isinstance(data, str) and not mime.endswith("json"):
                _refuse(name, f"a bundle whose {mime[:60]!r} is text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.raw.get(name)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            _refuse(name, "a list of texts")
        return tuple(value)

    def pairs(self, name: str) -> tuple[tuple[str, str], ...]:
        value = self.raw.get(name)
        if not isinstance(value, list):
            _refuse(name, "a list of pairs")
        for each in value:
            if not isinstance(each, list) or len(each) != 2 or not all(isinstance(part, str) for part in each):
                _refuse(name, "a list of pairs of texts")
        return tuple((first, second) for first, second in value)


def _clean(value: Any) -> Any:
    """Replace what no UTF-8 can carry."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_clean(each) for each in value]
    if isinstance(value, dict):
        return {_clean(name): _clean(each) for name, each in value.items()}
    return value


def _refuse(name: str, wanted: str) -> NoReturn:
    raise MalformedFrame(f"{name} is not {wanted}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
