"""Notebook semantics: what is shown, what stays, what runs where."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from clawplane.sandbox import repl_wire as wire

VALUES = {
    "1+1": "2",
    "x = 3; x": "3",
    "x = 3": "",
    "7;": "",
    "7; # shown not": "",
    "'a;b'": "'a;b'",
    "None": "",
    "'''two\nlines;'''": "'two\\nlines;'",
    "if True:\n    5": "",
    "": "",
    "# only a comment": "",
    "print": "<built-in function print>",
    "'\\ud800'": "'\\ud800'",
    "def f(): return 4\nf()": "4",
    "[each for each in range(3)]": "[0, 1, 2]",
    "(y := 9)": "9",
    "__name__": "'__main__'",
    "import sys; sys.argv": "['']",
    "import sys; sys.modules['__main__'].__dict__ is globals()": "True",
    "'__file__' in globals() or hasattr(__import__('__main__'), '__file__')": "False",
    "[name for name in __import__('sys').modules if 'clawplane' in name and '_inline' not in name]": "[]",
}


@pytest.mark.parametrize("code", VALUES, ids=repr)
def test_the_last_expression_is_the_result(repl: Any, code: str) -> None:
    ran = repl.run(code)
    assert (ran.done.status, ran.text) == ("ok", VALUES[code]), ran.traceback


def test_a_cell_runs_once_even_when_running_it_raises_syntax_error(repl: Any) -> None:
    repl.run("count = 0")
    ran = repl.run("count += 1\nraise SyntaxError('from running code')")
    assert ran.error == "SyntaxError: from running code"
    assert repl.value("count") == "1"


def test_variables_imports_and_functions_stay_from_cell_to_cell(repl: Any) -> None:
    repl.run("import math\ndef half(n): return n / 2\nnumber = 8")
    assert repl.value("half(number) + math.floor(1.5)") == "5.0"


def test_an_underscore_is_the_last_result_and_two_the_one_before(repl: Any) -> None:
    repl.run("'first'")
    repl.run("'second'")
    repl.run("x = 1")
    assert repl.value("__, _") == "('first', 'second')"


def test_a_future_import_holds_for_the_cells_after_it(repl: Any) -> None:
    repl.run("from __future__ import annotations")
    assert repl.value("def f(x: Missing): pass\nf.__annotations__") == "{'x': 'Missing'}"


def test_cells_are_counted(repl: Any) -> None:
    assert [repl.run(code).done.count for code in ("1", "1/0", "2")] == [1, 2, 3]


def test_contexts_do_not_share_variables(repl: Any) -> None:
    repl.run("x = 'main'")
    assert repl.run("x", context="other").error == "NameError: name 'x' is not defined"
    repl.run("x = 'other'", context="other")
    assert (repl.value("x"), repl.run("x", context="other").text) == ("'main'", "'other'")


def test_a_forgotten_context_begins_anew(repl: Any) -> None:
    repl.run("x = 1", context="other")
    repl.ask("forget", context="other")
    repl.answer(wire.Forgotten)
    assert repl.run("x", context="other").error == "NameError: name 'x' is not defined"


def test_a_forgotten_main_context_leaves_no_trace_of_its_cells(repl: Any) -> None:
    repl.run("x = 1\n2")
    repl.ask("forget", context=wire.MAIN)
    repl.answer(wire.Forgotten)
    ran = repl.run("_")
    assert (ran.done.count, ran.error) == (1, "NameError: name '_' is not defined")
    assert "x = 1" not in ran.traceback


def test_names_lists_variables_with_their_types(repl: Any) -> None:
    repl.run("number, text, _hidden = 1, 'a', 2\nclass Mine: pass\nmine = Mine()")
    repl.ask("names", context=wire.MAIN)
    assert set(repl.answer(wire.Named).names) == {
        ("number", "int"),
        ("text", "str"),
        ("Mine", "type"),
        ("mine", "Mine"),
    }


def test_input_meets_the_end_of_the_file(repl: Any) -> None:
    assert repl.run("input('name? ')").error == "EOFError: EOF when reading a line"


@pytest.mark.parametrize(("code", "number"), [("exit(3)", 3), ("quit()", 0), ("raise SystemExit('why')", 1)])
def test_system_exit_ends_the_cell_and_not_the_interpreter(repl: Any, code: str, number: int) -> None:
    repl.run("import sys; exit = quit = sys.exit; kept = 'kept'")
    ran = repl.run(code)
    assert (ran.done.status, ran.done.exit_code) == ("exited", number)
    assert ran.done.error is not None
    assert ran.done.error.name == "SystemExit"
    assert repl.value("kept") == "'kept'"


def test_output_order_and_partial_lines_are_kept(repl: Any) -> None:
    ran = repl.run(
        "import os, subprocess, sys, ctypes\n"
        "print('one')\nsubprocess.run(['echo', 'two'])\nctypes.CDLL(None).printf(b'three\\n')\n"
        "print('tail', end='')\nprint('oops', end='', file=sys.stderr)"
    )
    assert (ran.stdout.splitlines()[:2], ran.stderr) == (["one", "two"], "oops")
    assert "three" in ran.stdout
    assert "tail" in ran.stdout


def test_output_streams_while_the_cell_runs(repl: Any) -> None:
    repl.start(
        "import time\ntry:\n    print('early')\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('late')"
    )
    repl.wait_for_output("early\n")
    repl.interrupt()
    assert repl.finish().stdout == "early\nlate\n"


def test_text_that_no_encoding_has_is_printed_with_backslashes(repl: Any) -> None:
    assert repl.run("print('a\\ud800b')").stdout == "a\\ud800b\n"


def test_inspect_finds_the_source_of_functions_and_classes_of_cells(repl: Any) -> None:
    repl.run("x = 1\ndef twice(n):\n    return 2 * n\n")
    assert repl.value("import inspect\nprint(inspect.getsource(twice))") == ""
    assert "return 2 * n" in repl.run("print(inspect.getsource(twice))").stdout


def test_an_interrupt_ends_the_cell_and_keeps_the_variables(repl: Any) -> None:
    repl.start("kept = 1\nprint('ready')\nwhile True: pass")
    repl.wait_for_output("ready\n")
    repl.interrupt()
    ran = repl.finish()
    assert (ran.done.status, ran.error) == ("error", "KeyboardInterrupt")
    assert "Cell 1" in ran.traceback
    assert repl.value("kept") == "1"


def test_an_interrupt_that_comes_before_the_cell_begins_ends_it(repl: Any) -> None:
    repl.run("kept = 1")
    os.kill(repl.ready.pid, signal.SIGSTOP)
    repl.start("while True: pass")
    repl.interrupt()
    os.kill(repl.ready.pid, signal.SIGCONT)
    assert repl.finish().error == "KeyboardInterrupt"
    assert repl.value("kept") == "1"


def test_an_interrupt_that_came_too_late_does_not_strike_the_next_cell_when_it_is_calmed(repl: Any) -> None:
    repl.value("1")
    repl.interrupt()
    repl.ask("calm")
    repl.answer(wire.Calmed)
    assert repl.value("sum(range(100_000))") == "4999950000"


def test_code_that_cannot_be_encoded_is_an_error_of_the_cell(repl: Any) -> None:
    assert repl.run("x = '\ud800'").error.startswith("UnicodeEncodeError")
    assert repl.run("x = 1\x00").error.startswith(("SyntaxError", "ValueError"))
    assert repl.value("1") == "1"


def test_the_number_of_threads_that_go_on_is_told(repl: Any) -> None:
    repl.run("import threading\ngo = threading.Event()\nthread = threading.Thread(target=go.wait)")
    assert repl.run("thread.start()").done.threads == 1
    assert repl.run("go.set(); thread.join()").done.threads == 0


def test_a_fork_that_runs_off_the_end_of_its_cell_exits_and_says_nothing(repl: Any) -> None:
    ran = repl.run("import os\npid = os.fork()\nif pid == 0:\n    print('child')\n    raise ValueError('in child')")
    assert ran.done.status == "ok"
    ended = repl.run("os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])")
    assert ended.text == "1"
    assert "ValueError: in child" in ran.stderr + ended.stderr
