"""Messages are split so that nothing is lost and every chunk can be read by itself."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from clawplane.callbacks.chunks import chunks, cut, units


def test_a_text_that_fits_is_one_chunk_as_it_is() -> None:
    assert chunks("Hello\n") == ["Hello\n"]


def test_nothing_is_lost_of_a_long_answer_and_every_chunk_fits() -> None:
    text = "".join(f"line {number} of a long answer\n" for number in range(500))
    pieces = chunks(text)
    assert "".join(pieces) == text
    assert all(units(piece) <= 2000 for piece in pieces)
    assert len(pieces) == -(-len(text) // 2000) or len(pieces) == -(-len(text) // 2000) + 1


def test_ten_thousand_characters_without_a_place_to_cut_are_five_full_chunks() -> None:
    assert [len(piece) for piece in chunks("x" * 10_000)] == [2000] * 5


def test_an_emoji_at_position_2000_stays_whole() -> None:
    text = "x" * 1999 + "\U0001f600" + "y"
    first, second = chunks(text)
    assert first == "x" * 1999
    assert second == "\U0001f600y"
    assert cut(text) == first


def test_a_chunk_of_emojis_holds_a_thousand_of_them() -> None:
    assert [len(piece) for piece in chunks("\U0001f600" * 2500)] == [1000, 1000, 500]


def test_a_cut_inside_a_code_block_closes_it_and_opens_it_again() -> None:
    code = "".join(f"print({number})\n" for number in range(400))
    pieces = chunks(f"Look:\n```python\n{code}```\nThat is all.\n")
    assert all(piece.count("```") % 2 == 0 for piece in pieces)
    assert all(units(piece) <= 2000 for piece in pieces)
    assert all(piece.startswith("```python\n") for piece in pieces[1:])
    assert all(piece.endswith("\n```") for piece in pieces[:-1])
    kept = re.sub(r"```(?:python)?\n?", "", "\n".join(pieces))
    assert [line for line in kept.split("\n") if line] == ["Look:", *code.split("\n")[:-1], "That is all."]


def test_a_block_that_ends_where_a_chunk_ends_is_not_opened_again_for_nothing() -> None:
    for length in range(1900, 2010):
        pieces = chunks("```\n" + "x" * length + "\n```\nafter")
        assert all(re.search(r"```\s*```", piece) is None for piece in pieces), length


def test_a_block_does_not_begin_at_the_end_of_a_chunk() -> None:
    for length in range(1940, 2000):
        pieces = chunks("w " * (length // 2) + "\n```py\n" + "code\n" * 100 + "```\n")
        assert not pieces[0].rstrip("`\n").endswith("py"), length


def test_a_fence_in_a_longer_fence_does_not_close_it() -> None:
    inner = "```\nnot the end\n```\n" * 150
    pieces = chunks(f"````md\n{inner}````\n")
    assert all(piece.startswith("````md\n") for piece in pieces)
    assert all(piece.rstrip("\n").endswith("\n````") for piece in pieces)


def test_nothing_but_white_space_makes_no_chunk() -> None:
    assert chunks("\n" * 5000) == []
    assert chunks("") == []


_LINES = st.sampled_from(["```\n", "```py\n", "````\n", "~~~\n", "words\n", "\U0001f600\U0001f600\n", "x" * 70, "\n"])


@given(st.lists(_LINES, max_size=80).map("".join))
def test_every_chunk_of_any_text_fits_and_no_word_is_lost(text: str) -> None:
    pieces = chunks(text, 200)
    assert all(0 < units(piece) <= 200 for piece in pieces)
    assert [each for each in "".join(pieces) if each in "wordsx\U0001f600"] == [
        each for each in text if each in "wordsx\U0001f600"
    ]


@given(st.text(max_size=3000, alphabet=st.characters(exclude_characters="`~")))
def test_without_fences_the_chunks_joined_are_the_text(text: str) -> None:
    pieces = chunks(text, 100)
    assert all(units(piece) <= 100 for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())
