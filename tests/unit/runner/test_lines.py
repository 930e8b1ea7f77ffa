"""Whatever a guest writes becomes lines of bounded size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawplane.runner.lines import LINE_BYTES, LineReader, clean
from clawplane.runner.redact import Redactor


def read(*chunks: bytes) -> list[str]:
    reader = LineReader()
    return [line for chunk in chunks for line in reader.feed(chunk)] + reader.end()


@given(st.lists(st.binary(max_size=30)))
def test_lines_do_not_depend_on_how_the_stream_was_cut(pieces: list[bytes]) -> None:
    assert read(*pieces) == read(b"".join(pieces))


@pytest.mark.parametrize(
    ("stream", "lines"),
    [
        (b"", []),
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb", ["a", "b"]),
        (b"\n\n", ["", ""]),
        (b"\xff\xfe\n", ["\ufffd\ufffd"]),
        (b"a\0b\n", ["ab"]),
        ("\u00e9\n".encode(), ["\u00e9"]),
    ],
)
def test_a_stream_becomes_these_lines(stream: bytes, lines: list[str]) -> None:
    assert read(stream) == lines


def test_a_line_of_a_hundred_megabytes_is_cut_and_says_how_long_it_was() -> None:
    reader = LineReader()
    for _ in range(100):
        assert reader.feed(b"x" * 1_000_000) == []
    (line,) = reader.feed(b"\nnext")
    assert line.endswith("[cut: the line is 100000000 bytes long, 262144 are kept]")
    assert len(line) < LINE_BYTES + 100
    assert reader.end() == ["next"]


@given(st.text())
def test_clean_text_is_storable(text: str) -> None:
    cleaned = clean(text)
    cleaned.encode()
    assert "\0" not in cleaned


def test_text_that_is_too_long_is_cut_at_a_character() -> None:
    assert clean("\u00e9" * LINE_BYTES).startswith("\u00e9" * (LINE_BYTES // 2) + " ... [cut")


def test_lone_surrogates_become_question_marks() -> None:
    assert clean("a\ud800b") == "a?b"


def test_credentials_in_addresses_are_masked_in_build_logs_only() -> None:
    line = "Looking at https://user:pass@index.example/simple"
    assert Redactor([], addresses=True).clean(line) == "Looking at https://***@index.example/simple"
    assert Redactor([]).clean(line) == line


def test_short_values_are_no_secrets() -> None:
    assert Redactor(["a", ""]).clean("banana") == "banana"
