"""Turn what a program writes for a terminal into plain text, as it arrives.

Theory of operation. Three steps, each of which takes any piece of a stream and gives the same text however the stream
was cut into pieces:

    Decoding    bytes -> valid UTF-8; what is none becomes U+FFFD, a character that was cut waits for its rest
    Stripping   no escape sequences (CSI, OSC and the other strings, in their 7-bit and 8-bit forms), no control
                characters but tab, line feed and carriage return; a sequence that was cut is a state, not a buffer
    Folding     of a line that was written over by carriage returns, only what was written last; CR LF is LF

Bytes throughout: plain ASCII, which is nearly everything, passes each step by one C loop. Memory is bounded by
LONG_LINE: of a line that grows longer, complete pieces of that length are passed on and can no longer be written over.
"""

from __future__ import annotations

import codecs
import re
from typing import Final

LONG_LINE: Final = 8 << 10

_DROPPED: Final = bytes(set(range(0x20)) - set(b"\t\n\r")) + b"\x7f"
_C1: Final = re.compile(rb"\xc2([\x80-\x9f])")
_SEQUENCE: Final = re.compile(
    rb"""\x1b+ (?=\x1b) | \x1b(?:
        \[ [ -?]*+ (?: [@-~] | (?=[^ -~]) )
      | [\]PX^_] [^\x07\x18\x1a\x1b\n]*+ (?: [\x07\x18\x1a] | \x1b\\ | (?=\n) | (?=\x1b[^\\]) )
      | [ -/]++ (?: [0-~] | (?=[^ -~]) )
      | [0-OQ-WYZ\\`-~]
      | (?=[^ -~])
    )""",
    re.VERBOSE,
)
"""A sequence that is complete, or that what follows has broken off."""
_PARAMETERS: Final = re.compile(rb"[ -?]*")
_INTERMEDIATES: Final = re.compile(rb"[ -/]*")
_STRING_END: Final = re.compile(rb"[\x07\x18\x1a\x1b\n]")


class Decoding:
    """Bytes to valid UTF-8."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting = False

    def feed(self, data: bytes) -> bytes:
        """Return what is complete."""
        if not self._waiting and data.isascii():
            return data
        text = self._decoder.decode(data)
        self._waiting = self._decoder.getstate()[0] != b""
        return text.encode()

    def finish(self) -> bytes:
        """Return what stands for a character whose rest never came."""
        return self._decoder.decode(b"", final=True).encode()


class Stripping:
    """Valid UTF-8 to text without sequences and control characters."""

    def __init__(self) -> None:
        self._open = ""
        """The sequence that the last piece ended in: escape, csi, intermediate, string, string escape."""

    def feed(self, data: bytes) -> bytes:
        """Return what is no part of a sequence."""
        if b"\xc2" in data:
            data = _C1.sub(lambda found: bytes((0x1B, found[1][0] - 0x40)), data)
        if self._open:
            data = data[self._go_on(data, 0) :]
        if b"\x1b" in data:
            data = _SEQUENCE.sub(b"", data)
            cut = data.find(b"\x1b")  # the one sequence that has no end yet, and nothing follows it
            if cut >= 0:
                self._open = "escape"
                self._go_on(data, cut + 1)
                data = data[:cut]
        return data.translate(None, _DROPPED)

    def _go_on(self, data: bytes, at: int) -> int:
        """Follow the open sequence from `at` and return where it ends or breaks off, or the length of the data."""
        while at < len(data):
            byte = data[at : at + 1]
            match self._open:
                case "escape" if byte == b"[":
                    self._open, at = "csi", at + 1
                case "escape" if byte in b"]PX^_":
                    self._open, at = "string", at + 1
                case "escape" if b" " <= byte <= b"/":
                    self._open = "intermediate"
                case "escape":
                    return self._close(at + (b"0" <= byte <= b"~"))
                case "csi" | "intermediate":
                    passed = _PARAMETERS if self._open == "csi" else _INTERMEDIATES
                    final = b"@" if self._open == "csi" else b"0"
                    at = passed.match(data, at).end()  # type: ignore[union-attr]  # it matches nothing, too
                    if at < len(data):
                        return self._close(at + (final <= data[at : at + 1] <= b"~"))
                case "string":
                    end = _STRING_END.search(data, at)
                    if end is None:
                        return len(data)
                    if end[0] != b"\x1b":
                        return self._close(end.end() - (end[0] == b"\n"))
                    self._open, at = "string escape", end.end()
                case _:  # string escape
                    if byte == b"\\":
                        return self._close(at + 1)
                    self._open = "escape"
        return at

    def _close(self, at: int) -> int:
        self._open = ""
        return at


class Folding:
    """Text to lines as they were seen last."""

    def __init__(self) -> None:
        self._segment = bytearray()
        """What the present line holds since its last carriage return, less the long pieces already passed on."""
        self._passed_on = False
        self._returned = False

    def settle(self, data: bytes) -> bytes:
        """Return text in which no carriage return is last or before a line feed; those that were wait or vanish."""
        if self._returned:
            data = b"\r" + data
        settled = data.rstrip(b"\r")
        self._returned = len(settled) < len(data)
        if b"\r\n" in settled:
            settled = settled.replace(b"\r\n", b"\n")
            if b"\r\n" in settled:
                settled = re.sub(rb"\r+\n", b"\n", settled)
        return settled

    def feed(self, settled: bytes) -> bytes:
        """Return the lines and long pieces of lines that are complete; takes what `settle` returned."""
        out = bytearray()
        if b"\r" not in settled:
            self._add(settled, out)
            return bytes(out)
        first, *lines = settled.split(b"\n")
        self._add_line(first, out)
        for line in lines:
            self._add(b"\n", out)
            self._add_line(line, out)
        return bytes(out)

    def finish(self) -> bytes:
        """Return the last line, which has no line feed."""
        return bytes(self._segment)

    def _add_line(self, line: bytes, out: bytearray) -> None:
        if len(line) < LONG_LINE and line.count(b"\r") > 1:
            first, rest = line.split(b"\r", 1)  # what is between is neither kept nor long
            line = first + line[len(first) + rest.rfind(b"\r") + 1 :]
        for number, segment in enumerate(line.split(b"\r")):
            if number:
                self._write_over(out)
            self._add(segment, out)

    def _add(self, data: bytes, out: bytearray) -> None:
        end = data.rfind(b"\n") + 1
        if end:
            out += self._segment
            out += data[:end]
            self._segment.clear()
            self._passed_on = False
        self._segment += data[end:]
        if len(self._segment) >= LONG_LINE:
            whole = _whole_pieces(self._segment)
            out += self._segment[:whole]
            del self._segment[:whole]
            self._passed_on = True

    def _write_over(self, out: bytearray) -> None:
        self._segment.clear()
        if self._passed_on:
            out += b"\n"
            self._passed_on = False


def _whole_pieces(text: bytearray) -> int:
    """Return how much of `text` is pieces of LONG_LINE bytes, each cut before a character that would be torn."""
    end = 0
    while len(text) - end >= LONG_LINE:
        end += LONG_LINE
        while end < len(text) and text[end] & 0xC0 == 0x80:
            end -= 1
    return end
