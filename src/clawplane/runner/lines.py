"""Turn what a guest writes into log lines of bounded size: streams into lines, any text into clean text.

A line is at most LINE_BYTES of UTF-8; what is longer is cut with a mark that says how long it was. Bytes that are no
UTF-8 become U+FFFD, NUL characters vanish. Memory never grows with the length of a line.
"""

from __future__ import annotations

from typing import Final

LINE_BYTES: Final = 256 << 10
_MARK_BYTES: Final = 128
"""Room for the mark, so that a line that was cut once is not cut again."""


def cut_mark(total: int) -> str:
    """Return what stands at the end of a line that was `total` bytes long."""
    return f" ... [cut: the line is {total} bytes long, {LINE_BYTES} are kept]"


def clean(text: str) -> str:
    """Return guest text as it may be stored: valid Unicode without NUL, cut to LINE_BYTES with a mark."""
    if "\0" in text:
        text = text.replace("\0", "")
    if len(text) * 4 <= LINE_BYTES and text.isascii():
        return text
    raw = text.encode("utf-8", "replace")
    if len(raw) <= LINE_BYTES + _MARK_BYTES:
        return raw.decode()
    return raw[:LINE_BYTES].decode("utf-8", "ignore") + cut_mark(len(raw))


class LineReader:
    """Collects one stream; `feed` returns the lines that are complete, `end` the last one without its newline."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._length = 0

    def feed(self, chunk: bytes) -> list[str]:
        """Take bytes as they arrive and return complete lines without their line ends."""
        first, *rest = chunk.split(b"\n")
        self._add(first)
        if not rest:
            return []
        lines = [self._finish()]
        last = rest.pop()
        lines += [_text(line, len(line)) for line in rest]
        self._add(last)
        return lines

    def end(self) -> list[str]:
        """Return what is left as a last line."""
        return [self._finish()] if self._length else []

    def _add(self, piece: bytes) -> None:
        self._length += len(piece)
        room = LINE_BYTES - len(self._kept)
        if room > 0:
            self._kept += piece[:room]

    def _finish(self) -> str:
        text = _text(bytes(self._kept), self._length)
        self._kept.clear()
        self._length = 0
        return text


def _text(raw: bytes, length: int) -> str:
    text = raw[:LINE_BYTES].decode("utf-8", "replace").removesuffix("\r")
    if "\0" in text:
        text = text.replace("\0", "")
    return text + cut_mark(length) if length > LINE_BYTES else text
