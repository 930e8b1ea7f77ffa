"""A copy of a live interpreter waits, becomes the interpreter or another one, and shares nothing with the first."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox import repl_wire as wire
from clawplane.sandbox.inside.repl import copies

Resume = Callable[[socket.socket], Any]


def test_an_undo_copy_has_what_was_before(repl: Any, resume: Resume) -> None:
    repl.run("x = 'before'\ndef show(): return x")
    waiting = repl.copy("undo")
    repl.run("x = 'after'; del show")
    again = resume(waiting)
    assert again.value("show()") == "'before'"
    ran = again.run("import sys\nprint('out'); print('err', file=sys.stderr)\n1 / 0")
    assert (ran.stdout, ran.stderr, ran.error) == ("out\n", "err\n", "ZeroDivisionError: division by zero")
    assert 'File "Cell 3", line 3' in ran.traceback


def test_a_branch_lives_beside_the_original(repl: Any, resume: Resume) -> None:
    repl.run("items = [1]")
    branch = resume(repl.copy("branch"))
    branch.run("items.append('branch')")
    repl.run("items.append('original')")
    assert (branch.value("items"), repl.value("items")) == ("[1, 'branch']", "[1, 'original']")


def test_a_copy_can_be_copied(repl: Any, resume: Resume) -> None:
    repl.run("x = 1")
    second = resume(repl.copy("branch"))
    second.run("x += 1")
    third = resume(second.copy("undo"))
    assert third.value("x") == "2"


def test_a_copy_ends_when_its_socket_closes(repl: Any) -> None:
    waiting = repl.copy("undo")
    body = next(wire.Frames().feed(waiting.recv(4096)))
    ready = wire.parse(body)
    assert isinstance(ready, wire.Ready)
    watch = os.pidfd_open(ready.pid)
    waiting.close()
    poll = __import__("select").poll()
    poll.register(watch, 1)
    assert poll.poll(10_000)
    os.close(watch)
    assert repl.value("1") == "1"


def test_a_copy_is_no_child_that_user_code_could_meet(repl: Any, resume: Resume) -> None:
    waiting = repl.copy("undo")
    assert repl.run("import os; os.wait()").error.startswith("ChildProcessError")
    assert resume(waiting).run("import os; os.wait()").error.startswith("ChildProcessError")


def test_a_waiting_copy_holds_no_stream_pipe_or_socket(repl: Any) -> None:
    repl.run("import os, socket\nr, w = os.pipe()\nheld = socket.socketpair()")
    waiting = repl.copy("undo")
    pid = wire.parse(next(wire.Frames().feed(waiting.recv(4096)))).pid  # type: ignore[union-attr]
    links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
    assert len([link for link in links if link.startswith(("pipe:", "socket:"))]) == 1
    repl.run("os.close(w)")
    assert repl.value("os.read(r, 1)") == "b''"
    waiting.close()


def test_open_files_keep_their_own_position(repl: Any, resume: Resume, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("".join(f"{n}\n" for n in range(100_000)))
    repl.run("file = open('lines'); first = file.readline()")
    repl.run("raw = os = __import__('os'); fd = os.open('lines', 0); os.read(fd, 2)")
    branch = resume(repl.copy("branch"))
    assert repl.value("file.readline(), os.read(fd, 2)") == "('1\\n', b'1\\n')"
    assert branch.value("file.readline(), os.read(fd, 2)") == "('1\\n', b'1\\n')"


def test_random_state_is_undone_with_the_rest_and_new_in_a_branch(repl: Any, resume: Resume) -> None:
    repl.run("import random; random.seed(7)")
    undo, branch = repl.copy("undo"), repl.copy("branch")
    expected = repl.value("random.random()")
    assert resume(undo).value("random.random()") == expected
    assert resume(branch).value("random.random()") != expected


def test_a_copy_is_refused_while_another_thread_runs(repl: Any) -> None:
    repl.run("import threading\ngo = threading.Event()\nthread = threading.Thread(target=go.wait); thread.start()")
    assert "another thread" in repl.copy("undo")
    repl.run("go.set(); thread.join()")
    waiting = repl.copy("undo")
    assert isinstance(waiting, socket.socket)
    waiting.close()


def test_await_works_in_a_copy_and_in_the_original_after_it(repl: Any, resume: Resume) -> None:
    repl.run("import asyncio\nasync def work(): return 'done'\ntask = asyncio.create_task(work())")
    branch = resume(repl.copy("branch"))
    for each in (branch, repl):
        assert each.value("await task") == "'done'"
        assert each.value("await asyncio.to_thread(lambda: 'woken')") == "'woken'"


def test_idle_threads_of_asyncio_do_not_stand_in_the_way(repl: Any) -> None:
    repl.run("import asyncio\nawait asyncio.gather(*(asyncio.to_thread(abs, n) for n in range(4)))")
    waiting = repl.copy("undo")
    assert isinstance(waiting, socket.socket), waiting
    waiting.close()


def test_processes_can_be_spawned_in_a_copy(repl: Any, resume: Resume) -> None:
    repl.run("import multiprocessing as mp\ndef double(n): return 2 * n")
    code = "with mp.get_context('forkserver').Pool(1) as pool: got = pool.map(double, [4])\ngot"
    assert repl.value(code) == "[8]"
    assert resume(repl.copy("branch")).value(code) == "[8]"


def test_stale_sockets_of_the_original_do_no_harm_in_a_copy(repl: Any, resume: Resume) -> None:
    repl.run("import socket, gc\npairs = [socket.socketpair() for _ in range(20)]")
    branch = resume(repl.copy("branch"))
    branch.run("del pairs; gc.collect()")
    assert branch.run("print('fine')").stdout == "fine\n"


def test_a_copy_can_be_interrupted_once_it_is_resumed(repl: Any, resume: Resume) -> None:
    again = resume(repl.copy("undo"))
    again.start("print('ready')\nwhile True: pass")
    again.wait_for_output("ready\n")
    os.kill(again.ready.pid, 2)
    assert again.finish().error == "KeyboardInterrupt"


@pytest.mark.parametrize("count", [20])
def test_a_copy_costs_little(repl: Any, count: int) -> None:
    began = time.perf_counter()
    waiting = [repl.copy("undo") for _ in range(count)]
    assert (time.perf_counter() - began) / count < 0.25  # a few milliseconds, on any machine that is not on fire
    for each in waiting:
        each.close()


def test_where_no_sibling_can_be_forked_an_orphan_is(in_child: Any) -> None:
    def fork() -> str:
        reading, writing = os.pipe()
        if copies._fork_twice() == 0:
            os.write(writing, b"orphan")
            os._exit(0)
        try:
            os.wait()
        except ChildProcessError:
            return os.read(reading, 10).decode()
        return "a child"

    assert in_child(fork).value == "orphan"
