"""Interpreters and programs in a resident: what they are given, and how they end."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox.policy import Listener, Writable
from clawplane.sandbox.resident import ResidentError


async def test_a_forked_interpreter_is_warm_and_keeps_its_variables(residents: Any) -> None:
    resident = await residents.open()
    python = await residents.fork(resident)
    assert await python.ask("import sys; answer = 'uuid' in sys.modules; kept = 41") is True
    assert await python.ask("kept += 1; answer = kept") == 42


async def test_an_interpreter_finds_itself_as_python_would_have_started_it(residents: Any) -> None:
    resident = await residents.open(environment={"A": "policy", "B": "policy"})
    python = await residents.fork(resident, B="own")
    look = "import sys, os; answer = (sys.argv, sys.executable, os.getcwd(), os.environ['A'], os.environ['B'])"
    assert await python.ask(look) == ([""], residents.python, "/tmp", "policy", "own")
    hidden = "answer = [name for name in sys.modules if 'clawplane' in name], list(vars(sys.modules['__main__']))"
    names, main = await python.ask(hidden)
    assert names == []
    assert all(name.startswith("__") for name in main)


async def test_an_interpreter_holds_its_streams_and_its_control_socket_and_a_child_only_the_streams(
    residents: Any,
) -> None:
    resident = await residents.open()
    python = await residents.fork(resident)
    own = "import os; answer = sorted(os.listdir('/proc/self/fd'))"
    assert await python.ask(own) == ["0", "1", "2", "3", "4"]  # 3 is the directory it lists
    child = "import subprocess; answer = subprocess.run(['ls', '/proc/self/fd'], capture_output=True).stdout"
    assert (await python.ask(child)).split() == [b"0", b"1", b"2", b"3"]  # the last is the directory it lists


async def test_a_program_gets_its_words_its_environment_and_its_streams(residents: Any) -> None:
    resident = await residents.open()
    script = "echo $0 $COLOUR $PWD; ls -x /proc/self/fd; echo err > /dev/stderr; exit 7"
    said, end = await residents.run(resident, "sh", "-c", script, COLOUR="red")
    assert said.split() == ["sh", "red", "/tmp", "0", "1", "2", "3", "err"]
    assert (end.reason, end.exit_code, end.signal) == ("exit", 7, None)


async def test_a_program_that_kills_itself_ends_by_that_signal(residents: Any) -> None:
    resident = await residents.open()
    _said, end = await residents.run(resident, "sh", "-c", "kill -ABRT $$")
    assert (end.reason, end.exit_code, end.signal) == ("signal", None, signal.SIGABRT)


async def test_the_end_of_a_program_says_what_it_used(residents: Any) -> None:
    resident = await residents.open()
    _said, end = await residents.run(resident, residents.python, "-c", "x = bytearray(50 << 20); sum(range(3_000_000))")
    assert end.cpu_ms >= 20
    assert end.max_rss > 50 << 20


@pytest.mark.parametrize(
    ("argv", "environment", "directory", "words"),
    [
        (["no-such-program"], {}, "/tmp", "cannot execute no-such-program: No such file or directory"),
        (["/etc/passwd"], {}, "/tmp", "cannot execute /etc/passwd: Permission denied"),
        (["true"], {}, "/nowhere", "/nowhere: No such file or directory"),
        (["true"], {"A=B": "c"}, "/tmp", "illegal environment variable name"),
        (["true", "a\0b"], {}, "/tmp", "embedded null byte"),
        (["true", "x" * 3_000_000], {}, "/tmp", "Argument list too long"),
    ],
)
async def test_what_cannot_be_started_says_why_and_the_resident_goes_on(
    residents: Any, argv: list[str], environment: dict[str, str], directory: str, words: str
) -> None:
    resident = await residents.open()
    null = residents.null
    with pytest.raises(ResidentError, match=words):
        await resident.execute(
            argv, stdin=null, stdout=null, stderr=null, environment=environment, working_directory=directory
        )
    said, _end = await residents.run(resident, "echo", "on")
    assert said == "on\n"


async def test_an_interpreter_whose_entry_point_was_not_preloaded_says_so(residents: Any) -> None:
    resident = await residents.open()
    null = residents.null
    with pytest.raises(ResidentError, match="has not preloaded nobody"):
        await resident.fork_python(
            stdin=null,
            stdout=null,
            stderr=null,
            control=null,
            environment={},
            working_directory="/tmp",
            entry_point="nobody:main",
        )


async def test_an_interrupt_reaches_the_interpreter_and_not_its_children(residents: Any) -> None:
    resident = await residents.open()
    python = await residents.fork(resident)
    await python.ask("import subprocess, time; child = subprocess.Popen(['sleep', '600'])")
    python.tell("connection.send(b\"'asleep'\"); time.sleep(600)")
    assert await python.hear() == "asleep"
    await resident.interrupt(python.member)
    assert await python.hear() == "KeyboardInterrupt: "
    assert await python.ask("answer = child.poll()") is None


async def test_a_signal_reaches_one_process(residents: Any) -> None:
    resident = await residents.open()
    first, second = [await residents.execute(resident, "sleep", "600") for _ in range(2)]
    resident.signal(first, signal.SIGTERM)
    assert (await first.wait()).signal == signal.SIGTERM
    assert second.end is None
    resident.signal(first, signal.SIGTERM)  # an ended one: nothing happens


async def test_random_numbers_differ_between_interpreters(residents: Any) -> None:
    look = "import random, uuid, secrets, tempfile; answer = random.random(), uuid.uuid4().hex, tempfile.mktemp()"
    seen = [
        await (await residents.fork(resident)).ask(look)
        for resident in [await residents.open() for _ in range(2)]
        for _ in range(2)
    ]
    assert [len(set(column)) for column in zip(*seen, strict=True)] == [4, 4, 4]


async def test_numpys_global_generator_differs_between_interpreters(residents: Any) -> None:
    numpy = pytest.importorskip("numpy")
    packages = str(Path(numpy.__file__).parents[1])
    sites = (*residents.zygote.recipe.site_directories, packages)
    residents.zygote = await residents.sandbox.zygote(
        key="numpy", python=residents.python, preload=["obey", "numpy"], site_directories=sites
    )
    resident = await residents.open()
    seen = [await (await residents.fork(resident)).ask("import numpy; answer = numpy.random.rand()") for _ in range(3)]
    assert len(set(seen)) == 3


async def test_listeners_are_inside_and_answered_from_outside(residents: Any) -> None:
    listener = Listener("127.0.0.1", 1080)
    resident = await residents.open(listeners=(listener,))
    python = await residents.fork(resident)
    with resident.listeners[listener] as listening:
        python.tell("import socket; answer = socket.create_connection(('127.0.0.1', 1080), 30).recv(9)")
        listening.settimeout(30)
        connection, _address = await asyncio.to_thread(listening.accept)
        with connection:
            connection.send(b"outside")
            assert await python.hear() == b"outside"


async def test_a_workspace_is_shared_by_everything_in_the_resident_and_outlives_it(
    residents: Any, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    resident = await residents.open(mounts=(Writable(str(workspace), "/workspace"),))
    python = await residents.fork(resident)
    await python.ask("open('/workspace/a', 'w').write('from python')")
    said, _end = await residents.run(resident, "sh", "-c", "cat /workspace/a; echo x > /workspace/b")
    assert said == "from python"
    await resident.close()
    assert {each.name: each.stat().st_uid for each in workspace.iterdir()} == dict.fromkeys("ab", os.geteuid())


async def test_a_caller_that_leaves_during_a_start_leaves_nothing_behind(residents: Any) -> None:
    resident = await residents.open()
    for turns in range(8):
        starting = asyncio.ensure_future(residents.execute(resident, "sleep", "600"))
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
    async with asyncio.timeout(30):
        while await residents.processes(resident) != [1]:
            pass
