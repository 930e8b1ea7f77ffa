"""Split a message into what a chat takes at once.

A chat counts UTF-16 units: a character beyond the Basic Multilingual Plane counts twice, and is never cut in two. A cut
is made behind a line if that costs no more than half a chunk, else behind a space, else anywhere. Nothing is left out:
the pieces of a text without code fences, joined, are the text (but for pieces of nothing but white space, which a chat
would refuse).

Where a cut falls inside a fenced block, the chunk is closed with a fence and the next one opens with the line that
opened the block, so that each chunk is shown as code by itself. That costs room, which is taken from the chunk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MOST_UNITS: Final = 2000

_FENCE: Final = re.compile(r" {0,3}(`{3,20}|~{3,20})([^\n]*)")
_CLOSING_UNITS: Final = 21
_LONGEST_OPENING: Final = 100
"""A fence whose own line is longer than this is opened again without its words."""
_NARROW: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class _Fence:
    """A fence that is open: its marks, and the line that opens it again."""

    marks: str
    opening: str


def units(text: str) -> int:
    """Return the length of a text in UTF-16 units."""
    return len(text) + sum(1 for char in text if ord(char) > _NARROW)


def cut(text: str, most: int = MOST_UNITS) -> str:
    """Return the longest beginning of a text that has at most `most` UTF-16 units."""
    return text[: _fitting(text, 0, most)]


def chunks(text: str, most: int = MOST_UNITS) -> list[str]:
    """Return the chunks of a text, each of at most `most` UTF-16 units and none of them blank."""
    return [chunk for chunk in _chunks(text, most) if chunk.strip()]


def _chunks(text: str, most: int) -> Iterator[str]:
    start = 0
    fence: _Fence | None = None
    while start < len(text):
        if fence is not None and (closed := _closed_at(text, start, fence)):
            start, fence = closed, None  # the fence that was put in stands for the one that was there
            continue
        before = "" if fence is None else f"{fence.opening}\n"
        end, after = _cut(text, start, fence, most - units(before))
        body = text[start:end]
        yield before + body + _closing(after, body, last=end == len(text))
        start, fence = end, after


def _cut(text: str, start: int, fence: _Fence | None, room: int) -> tuple[int, _Fence | None]:
    """Return where the piece at `start` ends, and the fence that is open there; `room` in units."""
    end = _fitting(text, start, room)
    if end == len(text):
        return end, fence
    end = _good_cut(text, start, end)
    if _fence_after(fence, text, start, end) is None:
        return end, None
    end = _good_cut(text, start, _fitting(text, start, room - _CLOSING_UNITS))
    after = _fence_after(fence, text, start, end)
    opened = text.rfind("\n", start, end - 1) + 1
    if after is not None and after is not fence and opened > start and _FENCE.fullmatch(text[opened:end].rstrip("\n")):
        return opened, _fence_after(fence, text, start, opened)  # a block does not begin at the end of a chunk
    return end, after


def _closed_at(text: str, start: int, fence: _Fence) -> int:
    """Return where the line ends that closes the fence, when there is nothing before it; else 0."""
    if text[start - 1] != "\n" and text[start] != "\n":
        return 0
    while start < len(text):
        stop = text.find("\n", start)
        stop = len(text) if stop < 0 else stop
        line = text[start:stop]
        if line.strip():
            return min(stop + 1, len(text)) if _closes(fence, line) else 0
        start = stop + 1
    return len(text)


def _closing(fence: _Fence | None, body: str, *, last: bool) -> str:
    if fence is None or last:
        return ""
    return fence.marks if body.endswith("\n") else f"\n{fence.marks}"


def _fitting(text: str, start: int, most: int) -> int:
    """Return where a piece of at most `most` units ends that begins at `start`; it holds at least one character."""
    end = min(len(text), start + max(most, 1))
    wide = sum(1 for char in text[start:end] if ord(char) > _NARROW)
    while end - start + wide > most and end - start > 1:
        end -= 1
        wide -= ord(text[end]) > _NARROW
    return end


def _good_cut(text: str, start: int, end: int) -> int:
    """Return the best place for a cut at or before `end`."""
    least = start + (end - start) // 2
    for mark in ("\n", " "):
        found = text.rfind(mark, least, end)
        if found >= 0:
            return found + 1
    return end


def _fence_after(fence: _Fence | None, text: str, start: int, end: int) -> _Fence | None:
    """Return the fence that is open at `end`, when `fence` was open at `start`."""
    for line, whole in _lines(text, start, end):
        if fence is not None:
            fence = None if whole and _closes(fence, line) else fence
        elif (found := _FENCE.fullmatch(line)) is not None:
            marks, words = found.groups()
            if not (marks.startswith("`") and "`" in words):
                fence = _Fence(marks, line.strip() if len(line) <= _LONGEST_OPENING else marks)
    return fence


def _closes(fence: _Fence, line: str) -> bool:
    found = _FENCE.fullmatch(line)
    return found is not None and found[1].startswith(fence.marks) and not found[2].strip()


def _lines(text: str, start: int, end: int) -> Iterator[tuple[str, bool]]:
    """Yield the lines that begin between `start` and `end`, as far as they lie before it, and whether that is whole."""
    at = start if start == 0 or text[start - 1] == "\n" else text.find("\n", start, end) + 1
    if at == 0 and start != 0:
        return
    while at < end:
        stop = text.find("\n", at, end)
        if stop < 0:
            yield text[at:end], end == len(text) or text[end] == "\n"
            return
        yield text[at:stop], True
        at = stop + 1
