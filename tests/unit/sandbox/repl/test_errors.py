"""Errors show the user's own frames and lines, and nothing can make their formatting fail."""

from __future__ import annotations

from typing import Any

import pytest


def test_a_traceback_has_cells_and_source_lines_and_none_of_ours(repl: Any) -> None:
    repl.run("def outer(n):\n    return inner(n)\ndef inner(n):\n    return 1 / n")
    assert repl.run("outer(0)").traceback == (
        "Traceback (most recent call last):\n"
        '  File "Cell 2", line 1, in <module>\n'
        "    outer(0)\n"
        '  File "Cell 1", line 2, in outer\n'
        "    return inner(n)\n"
        "           ^^^^^^^^\n"
        '  File "Cell 1", line 4, in inner\n'
        "    return 1 / n\n"
        "           ~~^~~\n"
        "ZeroDivisionError: division by zero"
    )


def test_frames_of_libraries_stay_in_the_traceback(repl: Any) -> None:
    ran = repl.run("import json\njson.loads('{')")
    assert "json/decoder.py" in ran.traceback
    assert "clawplane" not in ran.traceback


@pytest.mark.parametrize(
    "code", ["1 +", "def f(:\n  pass", "if 1:\n    x\n  y", "x = 'open", "for", "return 5", "await = 3"]
)
def test_a_syntax_error_shows_where_and_has_no_frames(repl: Any, code: str) -> None:
    ran = repl.run(code)
    assert ran.done.error.name in ("SyntaxError", "IndentationError")
    assert 'File "Cell 1", line' in ran.traceback
    assert "Traceback" not in ran.traceback
    assert "clawplane" not in ran.traceback
    assert "^" in ran.traceback


def test_causes_and_contexts_are_shown_clean(repl: Any) -> None:
    ran = repl.run("try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e")
    assert "direct cause" in ran.traceback
    assert "ZeroDivisionError" in ran.traceback
    assert "clawplane" not in ran.traceback


def test_an_exception_group_is_shown_with_its_members(repl: Any) -> None:
    ran = repl.run("raise ExceptionGroup('two', [ValueError('one'), TypeError('other')])")
    assert ran.done.error.name == "ExceptionGroup"
    assert "ValueError: one" in ran.traceback
    assert "TypeError: other" in ran.traceback


def test_notes_are_shown(repl: Any) -> None:
    assert "look here" in repl.run("e = ValueError('x'); e.add_note('look here'); raise e").traceback


def test_endless_recursion_is_shown_short(repl: Any) -> None:
    ran = repl.run("def f(): f()\nf()")
    assert ran.done.error.name == "RecursionError"
    assert len(ran.done.error.traceback) < 40
    assert "repeated" in ran.traceback


def test_very_deep_recursion_is_shown_bounded(repl: Any) -> None:
    ran = repl.run(
        "import sys\nsys.setrecursionlimit(100_000)\ndef f(n): return f(n + 1) if n < 50_000 else 1 / 0\nf(0)"
    )
    assert ran.done.error.name == "ZeroDivisionError"
    assert len(ran.done.error.traceback) < 450


def test_a_long_message_is_bounded(repl: Any) -> None:
    ran = repl.run("raise ValueError('x' * 10_000_000)")
    assert len(ran.traceback) < 50_000
    assert "characters left out" in ran.done.error.value


NASTY = {
    "str raises": "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
    "str exits": "class E(Exception):\n    def __str__(self): raise SystemExit\nraise E",
    "str returns no string": "class E(Exception):\n    def __str__(self): return 3\nraise E",
    "str returns a subclass": (
        "class S(str):\n    def __len__(self): raise ValueError\n    def split(self, *a): raise ValueError\n"
        "class E(Exception):\n    def __str__(self): return S('sub')\nraise E"
    ),
    "traceback raises": (
        "class E(Exception):\n    @property\n    def __traceback__(self): raise ValueError\n"
        "    @property\n    def __cause__(self): raise ValueError\nraise E"
    ),
    "class lies": "class E(Exception):\n    @property\n    def __class__(self): return int\nraise E",
    "class name lies": (
        "class M(type):\n    def __getattribute__(self, name): raise ValueError(name)\n"
        "class E(Exception, metaclass=M): pass\nraise E"
    ),
    "cause is itself": "e = ValueError()\ne.__cause__ = e\nraise e",
    "getattr raises": "class E(Exception):\n    def __getattribute__(self, n): raise RuntimeError\nraise E",
    "notes are nothing": "e = ValueError('x'); e.__notes__ = 5; raise e",
    "long chain": "e = None\nfor i in range(5000):\n    new = ValueError(i); new.__cause__ = e; e = new\nraise e",
    "code with odd name": "exec(compile('1/0', '\\x00odd', 'exec'))",
    "wrong line": "import ast\ncode = compile('\\n' * 10**6 + '1/0', 'Cell 1', 'exec')\nexec(code)",
    "str spins": "class E(Exception):\n    def __str__(self): return 'x' * 10**6\nraise E",
}


@pytest.mark.parametrize("name", NASTY)
def test_a_nasty_exception_is_reported_and_the_next_cell_works(repl: Any, name: str) -> None:
    ran = repl.run(NASTY[name])
    assert ran.done.status == "error"
    assert ran.done.error.name
    assert ran.done.error.traceback
    assert (repl.value("1+1"), repl.run("print('fine')").stdout) == ("2", "fine\n")


def test_text_of_an_exception_that_never_comes_can_be_interrupted(repl: Any) -> None:
    repl.start(
        "class E(Exception):\n    def __str__(self):\n        print('in str')\n        while True: pass\nraise E"
    )
    repl.wait_for_output("in str\n")
    repl.interrupt()
    assert repl.finish().done.status == "error"
    assert repl.value("1+1") == "2"
