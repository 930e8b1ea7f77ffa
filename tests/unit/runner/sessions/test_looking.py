"""Which code only looks."""

from __future__ import annotations

import pytest

from clawplane.runner.sessions.looking import only_looks


@pytest.mark.parametrize(
    "code",
    ["1+1", "x", "x.shape", "print(x, len(y))", "f'{x}'", "[a, b] if c else -d", "", "-" * 199 + "1"],
)
def test_code_that_binds_and_calls_nothing_only_looks(code):
    assert only_looks(code)


@pytest.mark.parametrize(
    "code",
    [
        "x = 1",
        "x += 1",
        "(x := 1)",
        "f()",
        "d['a']",
        "import os",
        "await f()",
        "next(g)",
        "def f(): pass",
        "x; y = 1",
        "(",
    ],
)
def test_code_that_may_change_something_does_not(code):
    assert not only_looks(code)


@pytest.mark.parametrize("code", ["(" * 199, "(" * 199 + "1", "-" * 200 + "1", "1" * 300, "\0", "\ud800"])
def test_code_made_to_break_a_parser_is_taken_for_a_change(code):
    assert not only_looks(code)
