"""Shorten what a program prints to what a language model should see of it: its start, its end, and its errors.

    first 2/5 of the budget, to a line's end
    ... [1234567 bytes omitted; all of it: /workspace/.outputs/x/stdout.txt; lines that look like errors:]
    up to 1/5 of the budget: the first omitted lines that speak of errors
    ... [end of the omitted part]
    the last 2/5 of the budget, from a line's start, and what the errors left over

Output within the budget is shown whole. Sizes are bytes of UTF-8, and offsets count the text after `terminal_text`, so
the result does not depend on how the stream was cut into pieces. Memory is a few times the budget, however much comes.
What leaves the tail is searched for errors until enough are found: plain byte searches, no regular expression.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from clawplane.domain.terminal_text import LONG_LINE, Decoding, Folding, Stripping

MARKER_BYTES: Final = 512
"""By how much a shortened text may exceed its budget; a spill path beyond 256 bytes comes on top."""
LIVE_END: Final = "\n... [the live output ends here; the answer has the end]\n"

_SPEAK_OF_ERRORS: Final = (
    b"Error",
    b"ERROR",
    b"error:",
    b"Exception",
    b"Traceback",
    b"FAILED",
    b"atal",
    b"FATAL",
    b"panic:",
    b"Segmentation fault",
    b"Killed",
)
_ERROR_BEFORE, _ERROR_AFTER = 160, 320
_SEARCHED_AT_ONCE: Final = 32 << 10


class Shortened(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of an output; `rest` is what may still be streamed of it."""

    text: str
    omitted_bytes: int = 0
    rest: str = ""


class Shown:
    """One stream. `budget` in bytes; `raw` only decodes, and cuts at the budget without a word in the text."""

    def __init__(self, budget: int, *, raw: bool = False) -> None:
        self._decoding, self._stripping, self._folding = Decoding(), Stripping(), Folding()
        self._raw = raw
        self._kept: _Kept | _Start = _Start(budget) if raw else _Kept(budget)
        self._live_left = budget

    def feed(self, data: bytes) -> str:
        """Take bytes as they arrive; return what may be streamed of them now, carriage returns included.

        The live text ends after as many bytes as the budget, with a sentence that says so.
        """
        return self._take(self._decoding.feed(data))

    def finish(self, spill: str = "") -> Shortened:
        """Return what is shown; `spill` is the path of the file that has all of it, "" for none. Call it once."""
        rest = self._take(self._decoding.finish())
        if not self._raw:
            self._kept.add(self._folding.finish())
        text, omitted = self._kept.shorten(spill)
        return Shortened(text=text.decode(), omitted_bytes=omitted, rest=rest)

    def _take(self, data: bytes) -> str:
        if self._raw:
            self._kept.add(data)
            return self._live(data)
        settled = self._folding.settle(self._stripping.feed(data))
        self._kept.add(self._folding.feed(settled))
        return self._live(settled)

    def _live(self, data: bytes) -> str:
        if self._live_left < 0 or not data:
            return ""
        fits = len(data) <= self._live_left
        text = data if fits else data[: _character_before(data, self._live_left)]
        self._live_left = self._live_left - len(data) if fits else -1
        return text.decode() if fits else text.decode() + LIVE_END


class _Start:
    """The first bytes of a stream."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._start = bytearray()
        self._total = 0

    def add(self, block: bytes) -> None:
        self._total += len(block)
        # One character more than the budget holds, so that the cut is seen to be before a character.
        self._start += block[: max(0, self._budget + 4 - len(self._start))]

    def shorten(self, spill: str) -> tuple[bytes, int]:
        del spill
        if self._total <= self._budget:
            return bytes(self._start), 0
        text = bytes(self._start[: _character_before(self._start, self._budget)])
        return text, self._total - len(text)


class _Kept:
    """The start, the end and the errors of a text that comes in whole lines, or pieces of LONG_LINE of a longer one."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._head_bytes = budget * 2 // 5
        self._error_bytes = budget // 5
        self._ring_bytes = budget - self._head_bytes
        self._head = bytearray()
        self._ring: deque[bytes] = deque()
        self._in_ring = 0
        self._total = 0
        self._errors = _Errors(self._error_bytes)

    def add(self, block: bytes) -> None:
        if not block:
            return
        self._total += len(block)
        if len(self._head) < self._head_bytes:
            self._head += block[: self._head_bytes - len(self._head)]
            if len(self._head) == self._head_bytes:
                self._errors.begin = _line_before(self._head)
        self._ring.append(block)
        self._in_ring += len(block)
        while self._ring and self._in_ring - len(self._ring[0]) >= self._ring_bytes:
            gone = self._ring.popleft()
            self._in_ring -= len(gone)
            self._errors.look_at(gone)

    def shorten(self, spill: str) -> tuple[bytes, int]:
        kept = b"".join(self._ring)
        start = self._total - self._in_ring
        if self._total <= self._budget:
            return bytes(self._head) + kept[len(self._head) - start :], 0
        head = bytes(self._head[: _line_before(self._head)])
        least_tail = self._budget - self._head_bytes - self._error_bytes
        self._errors.look_at_last(kept, self._total - least_tail)
        tail_bytes = self._budget - self._head_bytes - self._errors.bytes
        tail_start = self._total - tail_bytes
        tail = kept[tail_start - start :]
        skipped = _line_after(tail)
        tail, tail_start = tail[skipped:], tail_start + skipped
        errors = self._errors.before(tail_start)
        omitted = self._total - len(head) - len(tail)
        return b"".join((head, _marker(omitted, spill, errors, head), tail)), omitted


class _Errors:
    """The first lines that speak of errors, in what is looked at in order, each cut to what surrounds the word."""

    def __init__(self, budget: int) -> None:
        self.begin = 0
        """Offset before which nothing counts: it is shown anyway."""
        self.bytes = 0
        self._budget = budget
        self._around = min(_ERROR_BEFORE, budget // 6), min(_ERROR_AFTER, budget // 3)
        self._found: list[tuple[int, bytes]] = []
        self._full = budget <= 0
        self._waiting: list[bytes] = []
        self._waits = 0
        self._offset = 0

    def look_at(self, block: bytes) -> None:
        """Look at the next block; in large pieces, so that small blocks cost little."""
        if self._full:
            return
        self._waiting.append(block)
        self._waits += len(block)
        if self._waits >= _SEARCHED_AT_ONCE:
            self._search(self._take_waiting(), None)

    def look_at_last(self, block: bytes, end: int) -> None:
        """Look at the last block, but for what begins at or after the offset `end`."""
        if not self._full:
            self._waiting.append(block)
            self._search(self._take_waiting(), end)

    def before(self, offset: int) -> list[bytes]:
        """Return the lines found that begin before an offset."""
        return [line for begin, line in self._found if begin < offset]

    def _take_waiting(self) -> bytes:
        block = b"".join(self._waiting)
        self._waiting.clear()
        self._waits = 0
        return block

    def _search(self, block: bytes, end: int | None) -> None:
        """Look through a block that begins where a line or a piece of one does."""
        at, base = 0, self._offset
        self._offset += len(block)
        if base + len(block) <= self.begin:
            return
        places = {word: block.find(word) for word in _SPEAK_OF_ERRORS}
        while not self._full:
            for word in [word for word, place in places.items() if place < at]:
                if places[word] < 0:
                    del places[word]
                    continue
                places[word] = block.find(word, at)
                if places[word] < 0:
                    del places[word]
            if not places:
                return
            place = min(places.values())
            if end is not None and base + place >= end:
                return
            at = self._note(block, place, base)

    def _note(self, block: bytes, place: int, base: int) -> int:
        """Keep the line around a place, or the piece of it, and return where it ends."""
        line = block.rfind(b"\n", 0, place) + 1
        begin = line + (place - line) // LONG_LINE * LONG_LINE
        newline = block.find(b"\n", place, begin + LONG_LINE)
        end = newline if newline >= 0 else min(begin + LONG_LINE, len(block))
        if base + place < self.begin:
            return end
        first = _character_after(block, max(begin, place - self._around[0]))
        last = _character_before(block, min(end, place + self._around[1]))
        text = block[first:last] + b"\n"
        if self.bytes + len(text) > self._budget:
            self._full = True
            return end
        self.bytes += len(text)
        self._found.append((base + place, text))
        return end


def _marker(omitted: int, spill: str, errors: list[bytes], head: bytes) -> bytes:
    """Return what stands between head and tail, lines of its own."""
    where = f"; all of it: {spill}" if spill else ""
    start = "" if not head or head.endswith(b"\n") else "\n"
    if not errors:
        return f"{start}... [{omitted} bytes omitted{where}]\n".encode("utf-8", "replace")
    opening = f"{start}... [{omitted} bytes omitted{where}; lines that look like errors:]\n".encode("utf-8", "replace")
    return b"".join((opening, *errors, b"... [end of the omitted part]\n"))


def _line_before(head: bytearray) -> int:
    """Return where to cut a start: after a line feed in its second half, else before a character."""
    end = head.rfind(b"\n", len(head) // 2) + 1
    return end or _last_whole_character(head)


def _line_after(tail: bytes) -> int:
    """Return where to begin an end: after a line feed in its first half, else at a character."""
    return tail.find(b"\n", 0, len(tail) // 2) + 1 or _character_after(tail, 0)


def _character_before(data: bytes | bytearray, at: int) -> int:
    """Return the last place up to `at` where a character begins, or the end of the data."""
    at = min(at, len(data))
    while 0 < at < len(data) and data[at] & 0xC0 == 0x80:
        at -= 1
    return at


def _character_after(data: bytes, at: int) -> int:
    """Return the first place from `at` on where a character begins, or the end of the data."""
    while at < len(data) and data[at] & 0xC0 == 0x80:
        at += 1
    return at


def _last_whole_character(data: bytearray) -> int:
    """Return the length of the data without a character that was cut at its end."""
    begin = len(data) - 1
    while begin >= 0 and data[begin] & 0xC0 == 0x80:
        begin -= 1
    if begin < 0:
        return len(data)
    lead = data[begin]
    needed = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    return len(data) if len(data) - begin >= needed else begin
