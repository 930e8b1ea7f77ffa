"""What a program writes for a terminal, as plain text."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawplane.domain.terminal_text import LONG_LINE, Decoding, Folding, Stripping


def plain(*chunks: bytes) -> str:
    """Take chunks through all three steps."""
    decoding, stripping, folding = Decoding(), Stripping(), Folding()
    out = b""
    for chunk in chunks:
        out += folding.feed(folding.settle(stripping.feed(decoding.feed(chunk))))
    out += folding.feed(folding.settle(stripping.feed(decoding.finish())))
    return (out + folding.finish()).decode()


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        (b"plain\ttext\n", "plain\ttext\n"),
        (b"a\0b\x08c\x7fd\x0be", "abcde"),
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b[2K\x1b[1Gagain\x1b[?25h", "again"),
        (b"\x1b]0;title\x07text", "text"),
        (b"\x1b]52;c;c2VjcmV0\x1b\\text", "text"),
        (b"\x1b]8;;http://x.example/\x1b\\link\x1b]8;;\x1b\\", "link"),
        (b"\x1bPq#0;2;0\x1b\\image", "image"),
        (b"\x1b(Bcharset\x1b7\x1b8\x1bM", "charset"),
        (b"\xc2\x9b31mred\xc2\x9d0;title\xc2\x9ctext\xc2\x85", "redtext"),
        (b"\x1b]never ended\nnext line", "\nnext line"),
        (b"\x1b[12\nbroken off", "\nbroken off"),
        (b"\x1b\x1b[1mtwice", "twice"),
        (b"\x1b]a\x1b[1mb", "b"),
        (b"end\x1b", "end"),
        (b"end\x1b[3", "end"),
        (b"\xff\xfe\xed\xa0\x80|", "\ufffd\ufffd\ufffd\ufffd\ufffd|"),
        ("😀\ufeff\u2028é\n".encode(), "😀\ufeff\u2028é\n"),
        (b"cut \xf0\x9f\x98", "cut \ufffd"),
        (b"one\r\ntwo\r\r\n", "one\ntwo\n"),
        (b" 10%\r 50%\r100%\n", "100%\n"),
        (b"\r 10%\r 50%\r100%", "100%"),
        (b"done\r", "done"),
        (b"first\nkept\rlast\nthird", "first\nlast\nthird"),
        (b"a\r\x1b[Kb\n", "b\n"),
    ],
)
def test_text_is_what_a_reader_would_see(written: bytes, seen: str) -> None:
    assert plain(written) == seen
    assert plain(*[written[at : at + 1] for at in range(len(written))]) == seen


def test_of_a_long_line_that_is_written_over_the_long_pieces_stay() -> None:
    assert plain(b"x" * (LONG_LINE + 5) + b"\rend\n") == "x" * LONG_LINE + "\nend\n"


SEQUENCES = [b"\x1b", b"[", b"]", b"31", b"m", b"\x07", b"\\", b"P", b" ", b"(", b"\xc2\x9b", b"\xc2", b"\x9d", b"\x18"]
TEXTS = [b"\r", b"\n", "😀".encode(), b"\xf0\x9f", b"text", b"x" * LONG_LINE, b"y" * (LONG_LINE - 1), b"\0", b"\x7f"]
STORMY = st.binary(max_size=60) | st.lists(st.sampled_from([*SEQUENCES, *TEXTS]), max_size=25).map(b"".join)


@settings(deadline=None, max_examples=300)
@given(written=STORMY, cuts=st.lists(st.integers(0, 200), max_size=8))
def test_however_the_stream_is_cut_the_text_is_the_same(written: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(written)]
    text = plain(written)
    assert plain(*[written[a:b] for a, b in itertools.pairwise(edges)]) == text
    assert plain(*[written[at : at + 1] for at in range(len(written))] if len(written) < 500 else [written]) == text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)


def test_a_long_line_is_passed_on_in_whole_characters() -> None:
    written = b"y" * (LONG_LINE - 1) + "\ufffd".encode() * 3 + b"\rover"
    assert plain(written) == plain(*(written[at : at + 5] for at in range(0, len(written), 5)))
    assert "over" in plain(written)
