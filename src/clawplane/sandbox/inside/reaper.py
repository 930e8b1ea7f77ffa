"""Be pid 1 of a guest's pid namespace: reap every orphan, pass a request to stop on, and end with the main process.

When pid 1 ends the kernel kills whatever is left in the namespace, so a daemon that detached itself ends here as well.
All signals stay blocked: inside, anybody may send them to pid 1, and none but the supervisor's TERM means anything.
"""

from __future__ import annotations

import os
import resource
import signal
from typing import NoReturn

from clawplane.sandbox.inside import report, signal_mask


def block_signals() -> None:
    """Keep every signal pending, before there is a child that could send one."""
    signal_mask.change_mask(signal_mask.BLOCK, signal_mask.ALL)


def reap_until_end(main: int, channel: int) -> NoReturn:
    """Wait for children until `main` is one of them, then report how it ended and exit."""
    while True:
        received = signal.sigwaitinfo({signal.SIGCHLD, signal.SIGTERM})
        if received.si_signo == signal.SIGTERM and received.si_pid == 0:  # from outside this namespace
            _pass_on(signal.SIGTERM)
        for child, status in _ended_children():
            if child == main:
                report.say(
                    channel, report.EXIT, report.encode_end(status, resource.getrusage(resource.RUSAGE_CHILDREN))
                )
                os._exit(0)


def _pass_on(number: signal.Signals) -> None:
    try:
        os.kill(-1, number)  # everybody in the namespace but ourselves
    except ProcessLookupError:
        pass


def _ended_children() -> list[tuple[int, int]]:
    ended: list[tuple[int, int]] = []
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if child == 0:
            return ended
        ended.append((child, status))
