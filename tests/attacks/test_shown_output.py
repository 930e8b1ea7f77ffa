"""Attacks on the reader of an exec's output: floods and bytes that confuse, from a real guest."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from clawplane.domain.shown_output import LIVE_END, MARKER_BYTES, Shortened, Shown

BUDGET = 64 << 10
SPILL = "/workspace/.outputs/ex/stdout.txt"

FLOODS = {
    "one line without end": "block = b'x' * 65536\nfor _ in range(320): os.write(1, block)",
    "short lines": "block = b'y\\n' * 32768\nfor _ in range(320): os.write(1, block)",
    "progress": "block = b'\\r 12% #' * 8192\nfor _ in range(320): os.write(1, block)",
    "a title without end": "os.write(1, b'\\x1b]0;')\nblock = b'z' * 65536\nfor _ in range(320): os.write(1, block)",
    "both streams": "block = b'e' * 32768\nfor _ in range(320): os.write(1, block); os.write(2, block)",
}


def _shown(stream: bytes) -> tuple[str, Shortened]:
    """Feed a stream as pipes give it; return what was streamed and what is shown."""
    output = Shown(BUDGET)
    live = "".join(output.feed(stream[at : at + 65_536]) for at in range(0, len(stream), 65_536))
    return live, output.finish(SPILL)


@pytest.mark.parametrize("flood", FLOODS)
def test_the_guest_floods_its_reader(arena: Any, flood: str) -> None:  # 42
    guest = arena.python(FLOODS[flood] + "\nos.write(1, b'\\nValueError: the end\\n')")
    assert guest.end()["reason"] == "exit"
    tracemalloc.start()
    try:
        live, found = _shown(guest.out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.text.endswith("\nValueError: the end\n")
    assert len(found.text.encode()) <= BUDGET + MARKER_BYTES
    assert len(live.encode()) <= BUDGET + len(LIVE_END)
    assert peak < 8 << 20


CONFUSING = {
    rb"b'\xff\xfe\xc3('": "\ufffd\ufffd\ufffd(",
    rb"b'\xed\xa0\x80'": "\ufffd\ufffd\ufffd",
    rb"b'a\0b'": "ab",
    rb"b' 1%\r 2%\r100%'": "100%",
    rb"b'\x1b[31mred\x1b[0m\x1b[2J\x1b[H'": "red",
    rb"b'\x1b]0;owned\x07title'": "title",
    rb"b'\x1b]52;c;b3duZWQ=\x07clipboard'": "clipboard",
    rb"b'\x1b]8;;file:///etc/passwd\x1b\\link\x1b]8;;\x1b\\'": "link",
    rb"b'\xc2\x9b31m\xc2\x9d0;owned\xc2\x9ceight'": "eight",
    rb"b'\xef\xbb\xbfbom\xe2\x80\xa8line'": "\ufeffbom\u2028line",
}


@pytest.mark.parametrize("written", CONFUSING, ids=repr)
def test_the_guest_prints_confusing_bytes(arena: Any, written: bytes) -> None:  # 43
    guest = arena.python(f"os.write(1, {written.decode()})")
    guest.end()
    live, found = _shown(guest.out)
    assert found == Shortened(text=CONFUSING[written], rest=found.rest)
    assert (live + found.rest).split("\r")[-1] == CONFUSING[written]


def test_the_guest_cuts_a_character_between_two_writes(arena: Any) -> None:  # 43
    guest = arena.python("for byte in '😀é'.encode(): os.write(1, bytes([byte])); time.sleep(0.01)")
    guest.end()
    output = Shown(BUDGET)
    assert "".join(output.feed(guest.out[at : at + 1]) for at in range(len(guest.out))) == "😀é"
    assert output.finish().text == "😀é"
