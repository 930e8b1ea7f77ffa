"""Run a function in a forked child, where it may lock itself up for good."""

from __future__ import annotations

import json
import os
import select
import signal
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from clawplane.sandbox import namespaces

PATIENCE = 100.0


class Outcome(NamedTuple):
    """What a child returned (through JSON) and how it ended: exit code, or minus the signal."""

    value: Any
    status: int


InChild = Callable[[Callable[[], Any]], Outcome]


def _run_in_child(function: Callable[[], Any]) -> Outcome:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            data = json.dumps(function()).encode()
            while data:
                data = data[os.write(writing, data) :]
            status = 0
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(status)
    os.close(writing)
    received = b""
    try:
        while True:
            ready, _, _ = select.select([reading], [], [], PATIENCE)
            chunk = os.read(reading, 65536) if ready else b""
            received += chunk
            if not chunk:
                break
        if not ready:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(reading)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Outcome(json.loads(received) if received else None, status)


@pytest.fixture
def in_child() -> InChild:
    """Return a function that runs another one in a forked child."""
    return _run_in_child


@pytest.fixture
def as_nobody(in_child: InChild) -> InChild:
    """Return a function that runs another one in a child of an ordinary user."""

    def run(function: Callable[[], Any]) -> Outcome:
        def dropped() -> Any:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(65_532, 65_532, 65_532)
                os.setresuid(65_532, 65_532, 65_532)
                namespaces.set_dumpable(True)  # as after an exec; else its own /proc files belong to root
            return function()

        return in_child(dropped)

    return run
