"""Variables are saved one by one and come back in another interpreter; what does not, is named with a reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox import repl_wire as wire

LARGEST, SECONDS, ROOM = 64 << 20, 5.0, 1 << 30


def _save(repl: Any, path: Path, largest: int = LARGEST, seconds: float = SECONDS, room: int = ROOM) -> wire.Kept:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    repl.ask("save", (file,), largest=largest, seconds=seconds, room=room)
    os.close(file)
    kept: wire.Kept = repl.answer(wire.Kept)
    assert kept.op == "saved"
    return kept


def _restore(repl: Any, path: Path) -> wire.Kept:
    file = os.open(path, os.O_RDONLY)
    repl.ask("restore", (file,))
    os.close(file)
    kept: wire.Kept = repl.answer(wire.Kept)
    assert kept.op == "restored"
    return kept


def _carried(start: Callable[[], Any], tmp_path: Path, *cells: str) -> Any:
    """Run cells, save, restore in another interpreter; nothing may be lost."""
    first = start()
    for cell in cells:
        assert first.run(cell).done.status == "ok"
    saved = _save(first, tmp_path / "saved")
    assert saved.lost == ()
    second = start()
    restored = _restore(second, tmp_path / "saved")
    assert restored.lost == ()
    assert set(restored.names) == set(saved.names)
    return second


KEPT = {
    "plain values": ("a, b = 1, {'k': [1.5, None, {2}]}", "a, b", "(1, {'k': [1.5, None, {2}]})"),
    "modules": ("import math as m, os.path as p", "m.pi > 3, p.join('a', 'b')", "(True, 'a/b')"),
    "functions": ("n = 2\ndef f(x, y=3, *, z=4): return x + y + z + n", "n = 10\nf(1)", "18"),
    "lambdas": ("f = lambda x: x * 2", "f(4)", "8"),
    "closures": ("def make(n):\n    def inner(): return n\n    return inner\ng = make(5)\ndel make", "g()", "5"),
    "recursion in a closure": (
        "def make():\n    def fact(n): return 1 if n < 2 else n * fact(n - 1)\n    return fact\n"
        "fact = make()\ndel make",
        "fact(5)",
        "120",
    ),
    "classes": (
        "class Base:\n    def hello(self): return 'base'\n"
        "class A(Base):\n    def __init__(self, v): self.v = v\na = A(3)",
        "a.v, a.hello(), type(a) is A, isinstance(a, Base)",
        "(3, 'base', True, True)",
    ),
    "dataclasses": (
        "from dataclasses import dataclass, field\n@dataclass\nclass P:\n    x: int\n"
        "    y: list = field(default_factory=list)\np = P(1)",
        "p, p == P(1)",
        "(P(x=1, y=[]), True)",
    ),
    "enums": ("import enum\nclass E(enum.Enum):\n    A = 1\ne = E.A", "e is E.A", "True"),
    "named tuples": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\np = P(1, 2)",
        "p, p.x, P(3, 4)",
        "(P(x=1, y=2), 1, P(x=3, y=4))",
    ),
    "decorated": (
        "import functools\ndef deco(f):\n    @functools.wraps(f)\n    def inner(*a): return 'd' + f(*a)\n"
        "    return inner\n@deco\ndef g(s): return s",
        "g('x'), g.__name__",
        "('dx', 'g')",
    ),
    "instances that hold functions": ("d = {'f': lambda: 1, 'g': print}", "d['f'](), d['g'] is print", "(1, True)"),
    "aliases": ("def f(): return 1\ng = f", "g is f", "True"),
    "partials": ("import functools\ndef add(a, b): return a + b\nadd5 = functools.partial(add, 5)", "add5(1)", "6"),
    "async functions": ("async def f(): return 3", "await f()", "3"),
    "methods": ("class A:\n    def m(self): return 7\nbound = A().m", "bound()", "7"),
    "class attributes from names": ("size = 3\nclass A:\n    data = [0] * size\na = A()", "a.data", "[0, 0, 0]"),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_variable_comes_back(start: Callable[[], Any], tmp_path: Path, name: str) -> None:
    cell, question, answer = KEPT[name]
    assert _carried(start, tmp_path, cell).value(question) == answer


def test_sources_and_the_count_of_cells_come_back(start: Callable[[], Any], tmp_path: Path) -> None:
    second = _carried(start, tmp_path, "def f():\n    return 1 / 0")
    ran = second.run("f()")
    assert 'File "Cell 2", line 1' in ran.traceback
    assert 'File "Cell 1", line 2, in f\n    return 1 / 0' in ran.traceback


def test_arrays_and_frames_come_back(needs: Callable[[str], Any], start: Callable[[], Any], tmp_path: Path) -> None:
    needs("pandas")
    second = _carried(start, tmp_path, "import numpy as np, pandas as pd\na = np.arange(5)\nd = pd.DataFrame({'a': a})")
    assert second.value("int(a.sum()), int(d['a'].max()), np is not None") == "(10, 4, True)"


def test_the_working_directory_and_the_search_path_come_back(start: Callable[[], Any], tmp_path: Path) -> None:
    second = _carried(
        start,
        tmp_path,
        "import os, sys\nos.mkdir('lib'); open('lib/mine.py', 'w').write('a = 5'); os.mkdir('here'); os.chdir('here')",
        "sys.path.append(os.path.abspath('../lib'))\nimport mine",
    )
    assert second.value("mine.a, os.path.basename(os.getcwd())") == "(5, 'here')"


def test_contexts_come_back(start: Callable[[], Any], tmp_path: Path) -> None:
    first, second = start(), start()
    first.run("x = 'main'")
    first.run("x = 'other'\ndef f(): return x", context="other")
    assert set(_save(first, tmp_path / "saved").names) == {"x", "other:x", "other:f"}
    assert _restore(second, tmp_path / "saved").lost == ()
    assert (second.value("x"), second.run("f()", context="other").text) == ("'main'", "'other'")


LOST = {
    "generators": ("g = (x for x in [1])", "generator"),
    "files": ("g = open('/dev/null')", "TextIOWrapper"),
    "locks": ("import threading\ng = threading.Lock()\ndel threading", "lock"),
    "classes made inside functions": (
        "def f():\n    class A: pass\n    return A()\ng = f()\ndel f",
        "inside a function",
    ),
    "a pickle that fails": ("class A:\n    def __reduce__(self): raise ValueError('mine')\ng = A()\ndel A", "mine"),
    "a pickle that never ends": (
        "class A:\n    def __reduce__(self):\n        while True: pass\ng = A()\ndel A",
        "takes longer",
    ),
    "a pickle that exits": ("class A:\n    def __reduce__(self): raise SystemExit(4)\ng = A()\ndel A", "SystemExit"),
    "what is too large": ("g = bytes(1 << 20)", "larger"),
}


@pytest.mark.parametrize("name", LOST)
def test_what_cannot_be_saved_is_named_and_the_rest_is_kept(
    start: Callable[[], Any], tmp_path: Path, name: str
) -> None:
    cell, reason = LOST[name]
    first, second = start(), start()
    first.run(f"before = 1\n{cell}\nafter = 2")
    saved = _save(first, tmp_path / "saved", largest=1 << 19, seconds=0.2)
    assert [lost.name for lost in saved.lost] == ["g"]
    assert reason in saved.lost[0].reason
    assert first.value("before + after") == "3"
    assert _restore(second, tmp_path / "saved").lost == ()
    assert second.value("before + after") == "3"


def test_all_variables_together_stay_within_the_room(start: Callable[[], Any], tmp_path: Path) -> None:
    first = start()
    first.run("a, b, c = (bytes(100_000) for _ in range(3))")
    saved = _save(first, tmp_path / "saved", room=250_000)
    assert (len(saved.names), len(saved.lost)) == (2, 1)
    assert (tmp_path / "saved").stat().st_size < 260_000


def test_what_needs_something_lost_is_lost_with_a_reason(start: Callable[[], Any], tmp_path: Path) -> None:
    first, second = start(), start()
    first.run("open('gone.py', 'w').write('class A: pass')\nimport gone\na = gone.A()\nkept = 1")
    assert _save(first, tmp_path / "saved").lost == ()
    (tmp_path / "gone.py").unlink()
    restored = _restore(second, tmp_path / "saved")
    assert {lost.name for lost in restored.lost} == {"gone", "a"}
    assert all("gone" in lost.reason for lost in restored.lost)
    assert second.value("kept") == "1"


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x05\x00\x00\x00{}[]!", b"\x02\x00\x00\x00[]"])
def test_a_file_that_is_not_ours_restores_nothing_and_harms_nothing(repl: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "saved").write_bytes(content)
    kept = _restore(repl, tmp_path / "saved")
    assert kept.names == ()
    assert len(kept.lost) == 1
    assert repl.value("1+1") == "2"


def test_a_tampered_file_acts_inside_the_interpreter_only(start: Callable[[], Any], tmp_path: Path) -> None:
    first, second = start(), start()
    first.run("import os\nclass A:\n    def __reduce__(self): return (os._exit, (5,))\nx = A()")
    _save(first, tmp_path / "saved")
    file = os.open(tmp_path / "saved", os.O_RDONLY)
    second.ask("restore", (file,))
    os.close(file)
    with pytest.raises(EOFError):
        second.answer(wire.Kept)
