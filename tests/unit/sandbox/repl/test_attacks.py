"""Items 55 to 62 of the attack list that concern the interpreter: after each payload the next cell is right.

An interpreter that a payload ended is replaced by another, as the runner does; one that lives must be right itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from interpreter_attacks import DAMAGES, ENDS, FRAME, PRINTED

from clawplane.sandbox import repl_wire as wire


def _check(repl: Any) -> None:
    """Prove that an interpreter is right: results, streams, errors, imports, await, displays."""
    assert repl.run("_number = 41\n_number + 1").text == "42"
    ran = repl.run(
        "import sys, decimal\nprint('out', len([1]))\nprint('err', file=sys.stderr)\nstr(decimal.Decimal(1))"
    )
    assert (ran.stdout, ran.stderr, ran.text) == ("out 1\n", "err\n", "'1'"), ran.traceback
    ran = repl.run("def f():\n    return 1 / 0\nf()")
    assert ran.traceback.count("Cell ") == 2
    assert ran.error == "ZeroDivisionError: division by zero"
    assert "return 1 / 0" in ran.traceback
    assert [each.data["text/plain"] for each in repl.run("display('shown')").shown] == ["'shown'"]
    assert repl.run("input()").error.startswith("EOFError")
    assert repl.run("__name__, sys.modules['__main__'].__dict__ is globals()").text == "('__main__', True)"


@pytest.mark.parametrize("name", PRINTED)
def test_a_printed_frame_is_output(repl: Any, name: str) -> None:
    ran = repl.run(PRINTED[name])
    assert ran.done.count == 1
    assert FRAME in ran.stdout + ran.stderr
    _check(repl)


@pytest.mark.parametrize("name", ENDS)
def test_what_ends_the_interpreter_closes_its_socket_and_another_is_right(start: Callable[[], Any], name: str) -> None:
    first = start()
    first.start(ENDS[name])
    with pytest.raises(EOFError):
        first.finish()
    _check(start())


@pytest.mark.parametrize("name", DAMAGES)
def test_after_damage_the_next_cells_are_right(repl: Any, name: str) -> None:
    ran = repl.run(DAMAGES[name])
    assert not ran.done.broken, ran.done.notes
    repl.output("stderr")
    if name == "gc callbacks":
        repl.run("gc.callbacks.clear()")  # what they print is theirs
    if name == "alarm that raises":
        assert repl.run("import time; time.sleep(9)").error.startswith("ZeroDivisionError")  # it rings where they wait
    _check(repl)


def test_an_alarm_that_rings_between_cells_strikes_no_frame(repl: Any) -> None:
    repl.run("import signal\nsignal.signal(signal.SIGALRM, lambda *a: 1 / 0)\nsignal.setitimer(0, 0.001, 0.001)")
    for _ in range(20):
        repl.run("1")
    while repl.run("signal.setitimer(0, 0)").done.status != "ok":  # struck itself: the alarm is theirs
        pass
    _check(repl)


def test_code_that_swallows_interrupts_never_ends_by_them(start: Callable[[], Any]) -> None:
    repl = start()
    repl.start(
        "while True:\n    try:\n        print('ready')\n        while True: pass\n    except BaseException: print('no')"
    )
    repl.wait_for_output("ready\n")
    repl.interrupt()
    repl.wait_for_output("no\n")
    with pytest.raises(TimeoutError):
        repl.finish(seconds=0.2)


def test_reading_the_next_request_ahead_of_us_ends_the_interpreter_or_delays_it(start: Callable[[], Any]) -> None:
    repl = start()
    repl.run(
        "import os, threading\ntaken = []\ndef steal():\n    for n in range(3, 200):\n        try:\n"
        "            taken.append(os.read(n, 1))\n        except OSError: pass\n"
        "thread = threading.Thread(target=steal, daemon=True); thread.start()"
    )
    repl.start("1")
    with contextlib.suppress(TimeoutError, EOFError):
        assert isinstance(repl.next(seconds=1), wire.Shown | wire.Done)
    _check(start())


def test_the_control_socket_is_out_of_the_way_and_not_inherited(repl: Any) -> None:
    numbers = eval(repl.value("import os\nsorted(int(n) for n in os.listdir('/proc/self/fd'))"))
    assert all(number < 4 or number >= 100 for number in numbers)
    forked = repl.value(
        "import multiprocessing as m\nc = m.get_context('fork')\nq = c.SimpleQueue()\n"
        "def look():\n    open_ones = [n for n in range(99, 200) if os.path.exists(f'/proc/self/fd/{n}')]\n"
        "    q.put([os.readlink(f'/proc/self/fd/{n}') for n in open_ones])\n"
        "p = c.Process(target=look); p.start(); found = q.get(); p.join(); found"
    )
    assert "socket" not in forked
    listed = repl.value(
        "import subprocess\nlist_them = ['ls', '/proc/self/fd']\n"
        "subprocess.run(list_them, capture_output=True, text=True, close_fds=False).stdout.split()"
    )
    assert all(int(number) < 100 for number in eval(listed))
