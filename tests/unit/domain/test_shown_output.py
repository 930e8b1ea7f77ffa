"""What of an output a language model is shown."""

from __future__ import annotations

import itertools
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawplane.domain.shown_output import LIVE_END, MARKER_BYTES, Shortened, Shown

SPILL = "/workspace/.outputs/ex/stdout.txt"


def shown(*chunks: bytes, budget: int = 1000, spill: str = SPILL, raw: bool = False) -> Shortened:
    """Feed chunks and return the end."""
    output = Shown(budget, raw=raw)
    for chunk in chunks:
        output.feed(chunk)
    return output.finish(spill)


def test_output_within_the_budget_is_shown_whole() -> None:
    text = "é" * 490 + "\n" + "x" * 19
    assert shown(text.encode()) == Shortened(text=text)
    assert shown() == Shortened(text="")


def test_more_is_shown_as_start_errors_and_end_with_what_is_omitted_and_where_it_is() -> None:
    lines = [f"line {number}\n" for number in range(1000)]
    lines[500] = "ValueError: the one that matters\n"
    lines[600] = "npm FAILED\n"
    found = shown("".join(lines).encode())
    start, rest = found.text.split("... [", 1)
    marker, rest = rest.split("]\n", 1)
    errors, end = rest.split("... [end of the omitted part]\n")
    assert "".join(lines).startswith(start)
    assert "".join(lines).endswith(end)
    assert start.endswith("\n")
    assert end.startswith("line ")
    assert errors == "ValueError: the one that matters\nnpm FAILED\n"
    assert marker == f"{found.omitted_bytes} bytes omitted; all of it: {SPILL}; lines that look like errors:"
    assert found.omitted_bytes == len("".join(lines)) - len(start) - len(end)
    assert 900 < len(start) + len(errors) + len(end) <= 1000


def test_without_errors_and_without_a_file_the_marker_is_one_short_line() -> None:
    found = shown(b"line\n" * 1000, spill="")
    assert f"\n... [{found.omitted_bytes} bytes omitted]\n" in found.text
    assert found.text.count("line\n") * 5 + found.omitted_bytes == 5000


@pytest.mark.parametrize(
    "line",
    ["Error: x", "error: x", "MyException: x", "Traceback (most recent call last):", "FAILED t.py", "fatal: not a git"],
)
def test_what_speaks_of_errors_is_shown_wherever_it_stands(line: str) -> None:
    for before in (0, 300, 398, 405, 3000, 5400, 5950):
        assert (
            line
            in shown(b"." * 59 + b"\n", *[b"x\n"] * before, line.encode() + b"\n", *[b"x\n"] * (6000 - before)).text
        )


def test_of_a_line_without_end_what_surrounds_the_error_is_shown() -> None:
    found = shown(*[b"x" * 1000] * 100, b" fatal: out of beans ", *[b"y" * 1000] * 100)
    assert "xxx fatal: out of beans yyy" in found.text
    assert len(found.text) <= 1000 + MARKER_BYTES


def test_the_first_errors_fill_their_share_and_no_more() -> None:
    found = shown(b"".join(b"error: %d\n" % number for number in range(10_000)))
    middle = found.text.split("errors:]\n")[1].split("... [end")[0]
    assert 150 < len(middle) <= 200
    assert found.text.endswith("error: 9999\n")


def test_a_character_is_never_cut() -> None:
    for budget in range(100, 110):
        assert "\ufffd" not in shown("😀".encode() * 1000, budget=budget).text
        assert "\ufffd" not in shown("é".encode() * 1000, budget=budget, raw=True).text


def test_raw_output_is_decoded_and_nothing_else() -> None:
    assert shown(b"\x1b[1m a\r\n\0b\xf0\x9f", b"\x98\x80\xff", raw=True).text == "\x1b[1m a\r\n\0b😀\ufffd"
    assert shown(b"x" * 1500, raw=True) == Shortened(text="x" * 1000, omitted_bytes=500)


def test_the_live_text_comes_at_once_keeps_returns_and_ends_with_the_budget() -> None:
    output = Shown(30)
    assert output.feed(b"no newline ") == "no newline "
    assert output.feed(b"10%\r") == "10%"
    assert output.feed("20%\r\né".encode()[:-1]) == "\r20%\n"
    assert output.feed("é".encode()[1:]) == "é"
    assert output.feed(b"\x1b[1m") == ""
    assert output.feed(b"0123456789") == "012345678" + LIVE_END
    assert output.feed(b"more") == ""
    cut = Shown(30)
    cut.feed(b"\xf0\x9f")
    assert cut.finish() == Shortened(text="\ufffd", rest="\ufffd")


LINES = [b"line\n", b"x" * 70, b"error: e\n", b" Traceback ", b"Killed", b"long" * 2500, "😀é".encode(), b"\xff"]
CONTROLS = [b"\r", b"\r\n", b"\n", b"\x1b[1m", b"\x1b]0;", b"\x1b", b"\\", b"\0"]
PIECES = st.sampled_from([*LINES, *CONTROLS])


@settings(deadline=None, max_examples=200)
@given(
    pieces=st.lists(PIECES | st.binary(max_size=30), max_size=60),
    cuts=st.lists(st.integers(0, 5000), max_size=20),
    budget=st.integers(1, 400),
    raw=st.booleans(),
)
def test_any_cutting_gives_the_same_and_never_more_than_the_budget(
    pieces: list[bytes], cuts: list[int], budget: int, raw: bool
) -> None:
    written = b"".join(pieces)
    edges = [0, *sorted(cuts), len(written)]
    whole, parts = Shown(budget, raw=raw), Shown(budget, raw=raw)
    live = whole.feed(written)
    found = whole.finish(SPILL)
    live_of_parts = "".join(parts.feed(written[a:b]) for a, b in itertools.pairwise(edges))
    found_of_parts = parts.finish(SPILL)
    assert (found_of_parts.text, found_of_parts.omitted_bytes) == (found.text, found.omitted_bytes)
    assert live_of_parts + found_of_parts.rest == live + found.rest
    assert len(found.text.encode()) <= budget + (MARKER_BYTES if found.omitted_bytes else 0)
    assert len((live + found.rest).encode()) <= budget + len(LIVE_END)


FLOODS = {
    "one line of 200 MB": (b"x" * 65_536, 3_200),
    "ten million short lines": (b"x\n" * 32_768, 305),
    "progress without end": (b"\r 50%|#####     | 12/24" * 2_800, 300),
    "colours": (b"\x1b[32mok\x1b[0m test_something\n" * 2_000, 300),
    "invalid bytes": (b"\xff" * 65_536, 30),
    "a title without end": (b"\x1b]0;" + b"x" * 65_536, 300),
    "escapes": (b"\x1b" * 65_536, 10),
    "returns": (b"\r" * 65_536, 300),
    "errors": (b"ValueError: x\n" * 4_600, 300),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_leaves_memory_and_time_bounded(flood: str) -> None:
    block, count = FLOODS[flood]
    output = Shown(64 << 10)
    tracemalloc.start()
    began = time.process_time()
    try:
        for number in range(count):
            output.feed(block)
            if number == 10:
                tracemalloc.reset_peak()
        found = output.finish(SPILL)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert time.process_time() - began < 30
    assert len(found.text.encode()) <= (64 << 10) + MARKER_BYTES
