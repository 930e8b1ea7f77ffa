"""Python in a session: results, output, errors, limits, and what is left afterwards."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import textwrap
from pathlib import Path

import pytest

from clawplane.domain.asks import Interrupt, Reset, Sleep, WriteFile


async def test_the_value_of_the_last_expression_is_a_result(stay):
    result = await stay.python("1+1")
    assert (result.status, result.error) == ("ok", None)
    assert result.results == ({"text/plain": "2", "_main": True},)


async def test_variables_live_from_call_to_call(stay):
    await stay.python("x = 41")
    assert (await stay.python("x + 1")).results[0]["text/plain"] == "42"


async def test_what_is_printed_comes_apart_from_what_goes_to_stderr(stay):
    result = await stay.python("import sys; print('out'); print('err', file=sys.stderr)")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


async def test_an_exception_is_told_with_its_last_line_and_its_traceback(stay):
    result = await stay.python("def f():\n    return 1/0\nf()")
    assert (result.status, result.error) == ("error", "ZeroDivisionError: division by zero")
    assert "return 1/0" in result.stderr
    assert result.error_detail.name == "ZeroDivisionError"
    assert "clawplane" not in result.stderr


async def test_code_that_obeys_the_interrupt_at_its_limit_keeps_its_variables_and_its_output(stay, in_time):
    code = "x = 5\nprint('begun', flush=True)\nwhile True: pass"
    result = await in_time(lambda: stay.python(code, timeout=0.5), seconds=0.75)
    assert (result.status, result.error, result.stdout) == ("timeout", "Error: timeout exceeded", "begun\n")
    assert any("with its variables" in note for note in result.notes)
    assert (await stay.python("x")).results[0]["text/plain"] == "5"


async def test_code_that_ignores_the_interrupt_is_replaced_with_its_interpreter(stay, in_time):
    code = """
        import signal, time
        x = 5
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        print('begun', flush=True)
        while True:
            try:
                time.sleep(100)
            except BaseException:
                pass
    """
    result = await in_time(lambda: stay.python(textwrap.dedent(code), timeout=0.5), seconds=0.75)
    assert (result.status, result.stdout) == ("timeout", "begun\n")
    assert any("replaced" in note for note in result.notes)
    assert (await stay.python("'x' in globals()")).results[0]["text/plain"] == "False"


async def test_a_limit_ends_what_the_code_has_started_too(stay):
    await stay.python("import subprocess; subprocess.run(['sleep', '1000'])", timeout=0.5)
    assert (await stay.shell("pgrep -c sleep || true")).stdout.strip() in {"0", ""}


async def test_an_interpreter_that_ends_itself_is_told_and_replaced(stay):
    result = await stay.python("import os; print('bye', flush=True); os._exit(3)")
    assert (result.status, result.exit_code, result.stdout) == ("exited", 3, "bye\n")
    assert "exit code 3" in result.error
    assert any("replaced" in note for note in result.notes)
    assert (await stay.python("1")).status == "ok"


async def test_an_interpreter_that_crashes_is_told_with_the_signal(stay):
    result = await stay.python("import ctypes; ctypes.string_at(0)")
    assert result.status == "exited"
    assert "SIGSEGV" in result.error
    assert (await stay.python("1")).status == "ok"


async def test_why_an_interpreter_ended_is_told_however_late_its_parent_tells_of_it(stay):
    await stay.python("1")
    member = stay.job._live.python._interpreter.member
    code = "import os\nprint('begun', flush=True)\nwhile not os.path.exists('go'): pass\nos.kill(os.getpid(), 9)"
    running = stay.start(code)
    await running.until(lambda: any(event.type == "stdout" for event in running.events))
    parent = int(Path(f"/proc/{member.host_pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGSTOP)
    await stay.ask("write", WriteFile(path="go")).feed(b"1").answer()
    answer = asyncio.ensure_future(running.answer())
    while not member.ending:
        await asyncio.sleep(0)
    await asyncio.wait([answer], timeout=0.5)
    assert not answer.done()
    os.kill(parent, signal.SIGCONT)
    assert (await answer).error == "Error: the interpreter was killed by SIGKILL"


async def test_an_interpreter_that_was_lost_while_nobody_asked_is_told_to_who_asks_next(stay):
    await stay.python("x = 1")
    assert (await stay.shell("kill -9 -1")).status == "ok"
    await stay.ask("sleep", Sleep()).answer()  # replaces it: a sleeping session has one ready
    result = await stay.python("'x' in globals()")
    assert result.results[0]["text/plain"] == "False"
    assert any("replaced; its variables are lost" in note for note in result.notes)
    assert (await stay.python("1")).notes == ()


async def test_an_interpreter_that_ran_out_of_memory_while_nobody_asked_is_told_with_the_reason(sandbox, house, begin):
    if sandbox.cgroup_mode == "none":
        pytest.skip("no cgroup counts memory here: a thread that takes too much hears MemoryError")
    stay = await begin(house, memory=128)
    await stay.python(
        "import os, threading\n"
        "def hog():\n"
        "    while not os.path.exists('/workspace/go'): pass\n"
        "    found = []\n"
        "    while True: found.append(b'x' * (8 << 20))\n"
        "threading.Thread(target=hog, daemon=True).start()"
    )
    await stay.ask("write", WriteFile(path="go")).feed(b"1").answer()
    await stay.job._live.python._interpreter.member.wait()
    assert any("Memory was out" in note for note in (await stay.python("1")).notes)


async def test_a_reset_after_such_a_loss_leaves_nothing_to_tell(stay):
    await stay.python("x = 1")
    await stay.shell("kill -9 -1")
    await stay.ask("sleep", Sleep()).answer()
    await stay.ask("reset", Reset()).answer()
    assert (await stay.python("1")).notes == ()


async def test_a_working_directory_that_is_removed_costs_no_variable(stay):
    code = "x = 1\nimport os, tempfile\nwith tempfile.TemporaryDirectory() as place:\n    os.chdir(place)"
    assert (await stay.python(code)).status == "ok"
    assert (await stay.python("x")).results[0]["text/plain"] == "1"


async def test_a_session_that_has_closed_its_own_workspace_can_be_reset_and_used(stay):
    assert (await stay.shell("chmod 0 /workspace")).status == "ok"
    await stay.ask("reset", Reset()).answer()
    assert (await stay.python("open('a', 'w').write('1')")).status == "ok"
    assert (await stay.shell("chmod 0 /workspace; cat a")).status == "error"
    assert (await stay.shell("cat a")).stdout == "1"


async def test_a_reset_in_a_flood_of_processes_waits_until_they_have_ended(house, begin):
    stay = await begin(house, processes=30)
    code = "import os, signal\nwhile True:\n    if os.fork() == 0: signal.pause()"
    assert "Resource temporarily unavailable" in (await stay.python(code)).error
    await stay.ask("reset", Reset()).answer()
    assert (await stay.python("1 + 1")).results[0]["text/plain"] == "2"


async def test_memory_beyond_the_limit_ends_the_exec_with_the_reason_and_advice(house, begin):
    stay = await begin(house, memory=128)
    result = await stay.python("x = bytearray(400 << 20)\nx[::4096] = b'1' * len(x[::4096])")
    assert result.status in {"memory", "error"}
    assert "128 MB" in " ".join(result.notes) or "MemoryError" in result.error
    assert (await stay.python("1")).status == "ok"


async def test_a_caller_who_leaves_ends_the_exec(stay):
    running = stay.start("x = 1\nprint('begun', flush=True)\nwhile True: pass")
    await running.until(lambda: any(event.type == "stdout" for event in running.events))
    running.asking.withdraw()
    assert (await stay.python("x")).results[0]["text/plain"] == "1"


async def test_the_next_answer_tells_of_execs_whose_link_was_cut(stay):
    running = stay.start("print('begun', flush=True)\nwhile True: pass")
    waiting = stay.start("never = 1")
    await running.until(lambda: any(event.type == "stdout" for event in running.events))
    for each in (waiting, running):
        each.asking.withdraw()
    result = await stay.python("'never' in globals()")
    assert result.results[0]["text/plain"] == "False"
    cut, unbegun = result.notes
    assert "ended with the status cancelled" in cut
    assert "goes on with its variables" in cut
    assert "was not begun" in unbegun
    assert (await stay.python("1")).notes == ()


async def test_a_detached_exec_goes_on_when_its_caller_leaves(stay):
    running = stay.start("print('begun', flush=True)\nimport time; time.sleep(0.3); done = 1", detached=True)
    await running.until(lambda: any(event.type == "stdout" for event in running.events))
    running.asking.withdraw()
    assert (await stay.python("done")).results[0]["text/plain"] == "1"


async def test_an_interrupt_ends_what_runs(stay):
    running = stay.start("print('begun', flush=True)\nwhile True: pass")
    await running.until(lambda: any(event.type == "stdout" for event in running.events))
    await stay.ask("interrupt", Interrupt()).answer()
    result = await running.answer()
    assert (result.status, result.error) == ("cancelled", "Error: cancelled")


async def test_execs_are_answered_in_the_order_of_their_arrival(stay):
    asked = [stay.start(f"order = [*globals().get('order', []), {number}]; order") for number in range(10)]
    results = [await each.answer() for each in asked]
    assert results[-1].results[0]["text/plain"] == str(list(range(10)))


async def test_an_exec_that_is_interrupted_before_its_turn_never_runs(stay):
    first = stay.start("import time; time.sleep(0.3)")
    second = stay.start("x = 1", id="later")
    await stay.ask("interrupt", Interrupt(exec_id="later")).answer()
    assert (await second.answer()).status == "cancelled"
    assert (await first.answer()).status == "ok"
    assert (await stay.python("'x' in globals()")).results[0]["text/plain"] == "False"


@pytest.mark.parametrize("timeout", [0, -1, 121, float("nan")])
async def test_a_time_limit_out_of_range_is_refused_by_name(stay, timeout):
    with pytest.raises(Exception, match="timeout"):
        await stay.python("1", timeout=timeout)


async def test_output_and_results_are_streamed_as_they_come(stay):
    running = stay.start("print('a', flush=True)\ndisplay('b')\nprint('c', flush=True)\n1")
    await running.answer()
    assert running.events[0].type == "started"
    assert "".join(event.text for event in running.events if event.type == "stdout") == "a\nc\n"
    shown = [event.data["text/plain"] for event in running.events if event.type == "result"]
    assert shown == ["'b'", "1"]


async def test_a_caller_who_never_reads_gets_the_answer_and_holds_nothing_up(stay):
    running = stay.start("for i in range(3000): print('x' * 1000, flush=True)", reads=False)
    assert (await stay.python("1")).status == "ok"
    running.asking.more(1000)
    result = await running.answer()
    assert result.usage.output_bytes == 3_003_000


async def test_output_beyond_the_budget_is_cut_and_kept_whole_in_the_workspace(stay):
    result = await stay.python("for i in range(200_000): print(i)")
    cut = result.truncated["stdout"]
    assert len(result.stdout) < 100_000
    assert cut.omitted_bytes > 1_000_000
    assert cut.spill == ".outputs/x1/stdout.txt"
    assert (await stay.shell(f"tail -1 {cut.spill}; wc -l < {cut.spill}")).stdout.split() == ["199999", "200000"]


async def test_files_that_an_exec_changed_are_listed(stay):
    made = await stay.python("open('a', 'w').write('1'); open('b', 'w').write('22')")
    assert [(each.path, each.op, each.size) for each in made.files] == [("a", "created", 1), ("b", "created", 2)]
    changed = await stay.python("import os; open('a', 'w').write('333'); os.remove('b')")
    assert [(each.path, each.op) for each in changed.files] == [("a", "changed"), ("b", "deleted")]


async def test_contexts_have_variables_of_their_own(stay):
    await stay.python("x = 1")
    assert (await stay.python("'x' in globals()", context="other")).results[0]["text/plain"] == "False"


async def test_variables_of_the_environment_are_there_for_one_exec_only(stay):
    await stay.python("import os; os.environ['OLD'] = 'old'")
    code = "os.environ['NEW'] + os.environ['OLD']"
    result = await stay.python(code, environment={"NEW": 'it\'s "new"', "OLD": "1"})
    assert result.results[0]["text/plain"] == "'it\\'s \"new\"1'"
    after = await stay.python("('NEW' in os.environ, os.environ['OLD'], sorted(n for n in globals() if n[0] != '_'))")
    assert after.results[0]["text/plain"].startswith("(False, 'old'")
    assert "'old'" not in after.results[0]["text/plain"].split("[")[1]


async def test_output_of_a_hundred_megabytes_is_cut_in_bounded_memory(stay):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = await stay.python("block = 'x' * 99 + '\\n'\nfor _ in range(1_000): print(block * 1000, end='')")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert result.usage.output_bytes == 100_000_000
    assert (after - before) / 1024 < 20
