from __future__ import annotations

import math
from typing import Any

import pytest

from clawplane.api.openclaw.values import (
    bounded_int,
    one_of,
    optional_text,
    said_yes,
    text_of,
    told_text,
    trim,
    truthy,
)

SPACES = "\t\n\v\f\r \u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"


@pytest.mark.parametrize("space", SPACES)
def test_trim_takes_what_javascript_calls_white_space(space: str) -> None:
    assert trim(f"{space}a{space}b{space}") == f"a{space}b"


@pytest.mark.parametrize("kept", ["\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\u200b", "\u180e", "\x00"])
def test_trim_leaves_what_only_python_calls_white_space(kept: str) -> None:
    assert trim(f" {kept}a{kept} ") == f"{kept}a{kept}"


@pytest.mark.parametrize("value", [None, 0, 1, 1.5, True, False, [], ["a"], {}, {"a": 1}])
def test_what_is_no_string_is_an_empty_text(value: Any) -> None:
    assert text_of(value) == ""
    assert optional_text(value) is None


def test_optional_texts_are_trimmed_and_none_when_empty() -> None:
    assert optional_text(" a b ") == "a b"
    assert optional_text(" \ufeff ") is None
    assert optional_text("") is None


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1500, 1500),
        (1500.9, 1500),
        (1e3, 1000),
        ("1e3", 1),
        ("5s", 5),
        ("  7", 7),
        ("\ufeff8", 8),
        ("+9", 9),
        ("-9", -9),
        ("-", None),
        ("- 5", None),
        ("0x10", 0),
        ("010", 10),
        ("1_000", 1),
        ("1,5", 1),
        (".5", None),
        ("s5", None),
        ("\u0665", None),
        ([7000], 7000),
        ([7000, 5], 7000),
        ([["7s"]], 7),
        ([None, 5], None),
        ([[], 5], None),
        ([True], None),
        ([{}], None),
        (True, None),
        (False, None),
        ({}, None),
        ([], None),
        (None, None),
        ("", None),
        ("   ", None),
        (0, 0),
        (-0.0, 0),
        (-3.7, -3),
        (0.5, 0),
        (1e-7, 1),
        (5e-7, 5),
        (2.5e-7, 2),
        (1e-6, 0),
        (1e21, 1),
        (1.5e300, 1),
        (-2e21, -2),
        (10**21, 1),
        (9e20, 10**12),
        (2**60, 10**12),
        (10**400, None),
        (math.inf, None),
        (math.nan, None),
        ("9" * 5000, 10**12),
        ("-" + "9" * 5000, -(10**12)),
        ("0" * 5000 + "7", 7),
    ],
)
def test_bounded_integers_are_the_leading_digits_of_a_values_text(value: Any, number: int | None) -> None:
    assert bounded_int(value, 123, -(10**12), 10**12) == (123 if number is None else number)


@pytest.mark.parametrize(("value", "number"), [(0, 1), (-5, 1), (1, 1), (500, 500), (501, 500), (None, 50)])
def test_bounded_integers_are_clamped(value: Any, number: int) -> None:
    assert bounded_int(value, 50, 1, 500) == number


def test_choices_are_trimmed_and_their_case_counts() -> None:
    modes = frozenset({"agent-tool", "direct-command"})
    assert one_of(" agent-tool ", modes, "unspecified") == "agent-tool"
    assert one_of("AGENT-TOOL", modes, "unspecified") == "unspecified"
    assert one_of(["agent-tool"], modes, "unspecified") == "unspecified"


@pytest.mark.parametrize("value", [True, 1, -1, 0.1, "0", "false", " ", [], {}, [0]])
def test_what_javascript_takes_for_true_is_truthy(value: Any) -> None:
    assert truthy(value) is True


@pytest.mark.parametrize("value", [None, False, 0, 0.0, -0.0, "", math.nan])
def test_what_javascript_takes_for_false_is_not(value: Any) -> None:
    assert truthy(value) is False


@pytest.mark.parametrize(
    ("value", "on"),
    [
        (True, True),
        (1, True),
        (2.5, True),
        ("1", True),
        ("TRUE", True),
        (" yes ", True),
        ("on", True),
        (False, False),
        (0, False),
        ("false", False),
        ("", False),
        ("2", False),
        (None, False),
        ([], False),
        ({}, False),
    ],
)
def test_switches_are_on_for_the_words_that_say_so(value: Any, on: bool) -> None:
    assert said_yes(value) is on


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\n", "a\n"),
        ("", ""),
        (None, ""),
        (0, ""),
        (False, ""),
        (5, "5"),
        (True, "true"),
        ([1], "[1]"),
        ([], "[]"),
        ({"a": None}, '{"a":null}'),
        ("\ud83d", "\ud83d"),
    ],
)
def test_reported_streams_become_text(value: Any, text: str) -> None:
    assert told_text(value) == text
