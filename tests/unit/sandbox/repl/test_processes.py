"""Threads, processes and random numbers work in a session as they do in a script."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_runs_functions_of_cells(repl: Any, method: str) -> None:
    repl.run("import multiprocessing as mp\nimport math\nFACTOR = 3\ndef work(n):\n    return math.floor(n) * FACTOR")
    code = f"with mp.get_context({method!r}).Pool(2) as pool:\n    got = pool.map(work, [1, 2, 3])\ngot"
    assert repl.value(code) == "[3, 6, 9]"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_pool_executor_works(repl: Any, method: str) -> None:
    repl.run(
        "import multiprocessing as mp\nfrom concurrent.futures import ProcessPoolExecutor\n"
        "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\n"
        'def move(p):\n    """Text\n    of two lines."""\n    return Point(p.x + 1)\n'
    )
    code = (
        f"with ProcessPoolExecutor(2, mp_context=mp.get_context({method!r})) as pool:\n"
        "    got = list(pool.map(move, [Point(1), Point(2)]))\ngot"
    )
    assert repl.value(code) == "[Point(x=2), Point(x=3)]"


def test_output_of_processes_and_threads_is_output(repl: Any) -> None:
    ran = repl.run(
        "import multiprocessing as mp, threading, subprocess\n"
        "p = mp.get_context('fork').Process(target=print, args=('process',)); p.start(); p.join()\n"
        "t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n"
        "subprocess.run(['sh', '-c', 'echo shell; exit 3']).returncode"
    )
    assert (ran.stdout, ran.text) == ("process\nthread\nshell\n", "3")


def test_a_forked_child_that_displays_goes_on(repl: Any) -> None:
    code = (
        "import multiprocessing as mp\ndef work(n):\n    display(n)\n    return n + 1\n"
        "with mp.get_context('fork').Pool(1) as pool: got = pool.map(work, [1])\ngot"
    )
    ran = repl.run(code)
    assert [(each.kind, each.data["text/plain"]) for each in ran.shown] == [("result", "[2]")]


def test_a_thread_pool_works(repl: Any) -> None:
    repl.run("from concurrent.futures import ThreadPoolExecutor")
    repl.run("with ThreadPoolExecutor() as pool: got = list(pool.map(abs, [-1, 2]))")
    assert repl.value("got") == "[1, 2]"


def test_subprocess_output_is_captured(repl: Any) -> None:
    assert repl.value("import subprocess\nsubprocess.check_output(['echo', 'hi'], text=True)") == "'hi\\n'"


def test_a_child_hears_interrupts_as_usual(repl: Any) -> None:
    code = (
        "import subprocess\nsubprocess.run(['sh', '-c', 'kill -INT $$; echo survived'], capture_output=True).returncode"
    )
    assert repl.value(code) == "-2"


def test_random_numbers_differ_between_interpreters(start: Callable[[], Any]) -> None:
    code = (
        "import random, uuid, tempfile, secrets\nrandom.random(), uuid.uuid4(), tempfile.mktemp(), secrets.token_hex()"
    )
    first, second = (eval(start().value(code).replace("UUID", "str")) for _ in range(2))
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_modules_next_to_the_working_directory_can_be_imported(repl: Any) -> None:
    repl.run("open('own.py', 'w').write('answer = 42')")
    assert repl.value("import own\nown.answer") == "42"
