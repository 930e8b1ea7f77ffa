"""Top-level await, background tasks, asyncio.run: each in the same interpreter."""

from __future__ import annotations

from typing import Any


def test_a_cell_may_await(repl: Any) -> None:
    repl.run("import asyncio\nasync def get():\n    await asyncio.sleep(0)\n    return 'got'")
    assert repl.value("await get()") == "'got'"
    assert repl.value("x = await get()\n[x async for x in agen()] if False else x") == "'got'"


def test_a_cell_without_await_may_use_asyncio_run(repl: Any) -> None:
    repl.run("import asyncio\nasync def get():\n    return asyncio.get_running_loop().is_running()")
    assert repl.value("await get()") == "True"
    assert repl.value("asyncio.run(get())") == "True"
    assert repl.value("await get()") == "True"


def test_the_old_way_to_run_a_loop_works_as_well(repl: Any) -> None:
    repl.run("import asyncio\nasync def get():\n    return 5")
    repl.run("await get()")
    assert repl.value("asyncio.get_event_loop().run_until_complete(get())") == "5"


def test_a_task_created_in_one_cell_lives_on_in_the_next(repl: Any) -> None:
    repl.run("import asyncio\nseen = []\nasync def work():\n    seen.append(1)\n    return 'done'")
    repl.run("task = asyncio.create_task(work())")
    assert repl.value("await task, seen") == "('done', [1])"


def test_a_queue_and_its_consumer_work_across_cells(repl: Any) -> None:
    repl.run(
        "import asyncio\nqueue = asyncio.Queue()\ngot = []\n"
        "async def consume():\n    while True:\n        got.append(await queue.get())\n"
        "consumer = asyncio.create_task(consume())\nawait asyncio.sleep(0)"
    )
    repl.run("await queue.put(1)\nawait asyncio.sleep(0)")
    assert repl.value("await queue.put(2)\nawait asyncio.sleep(0)\ngot") == "[1, 2]"


def test_an_interrupt_ends_an_await(repl: Any) -> None:
    repl.start("import asyncio\nprint('ready')\nawait asyncio.sleep(60)")
    repl.wait_for_output("ready\n")
    repl.interrupt()
    ran = repl.finish()
    assert ran.error == "KeyboardInterrupt"
    assert repl.value("await asyncio.sleep(0, 'alive')") == "'alive'"


def test_an_interrupt_ends_a_cell_that_computes_inside_the_loop(repl: Any) -> None:
    repl.start("import asyncio\nawait asyncio.sleep(0)\nprint('ready')\nwhile True: pass")
    repl.wait_for_output("ready\n")
    repl.interrupt()
    assert repl.finish().error == "KeyboardInterrupt"
    assert repl.value("await asyncio.sleep(0, 'alive')") == "'alive'"


def test_an_interrupt_that_strikes_another_task_ends_the_cell(repl: Any) -> None:
    repl.start(
        "import asyncio\nasync def spin():\n    print('ready')\n    while True: pass\n"
        "task = asyncio.create_task(spin())\nawait asyncio.sleep(60)"
    )
    repl.wait_for_output("ready\n")
    repl.interrupt()
    assert repl.finish().error == "KeyboardInterrupt"
    assert repl.value("await asyncio.sleep(0, 'alive')") == "'alive'"


def test_an_interrupt_ends_asyncio_run(repl: Any) -> None:
    repl.start("import asyncio\nprint('ready')\nasyncio.run(asyncio.sleep(60))")
    repl.wait_for_output("ready\n")
    repl.interrupt()
    assert repl.finish().error == "KeyboardInterrupt"
    assert repl.value("asyncio.run(asyncio.sleep(0, 'alive'))") == "'alive'"


def test_a_traceback_of_a_coroutine_has_the_users_frames_only(repl: Any) -> None:
    ran = repl.run("async def boom():\n    raise ValueError('no')\nawait boom()")
    assert [line for line in ran.done.error.traceback if "File" in line] == [
        '  File "Cell 1", line 3, in <module>',
        '  File "Cell 1", line 2, in boom',
    ]


def test_a_closed_loop_is_replaced(repl: Any) -> None:
    repl.run("import asyncio\nawait asyncio.sleep(0)")
    repl.run("asyncio.get_event_loop().close()")
    assert repl.value("await asyncio.sleep(0, 'alive')") == "'alive'"


def test_threads_and_subprocesses_of_asyncio_work(repl: Any) -> None:
    assert repl.value("import asyncio\nawait asyncio.to_thread(lambda: 'thread')") == "'thread'"
    code = "p = await asyncio.create_subprocess_exec('echo', 'out', stdout=-1)\n(await p.communicate())[0]"
    assert repl.value(code) == "b'out\\n'"
