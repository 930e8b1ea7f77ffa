"""Copy the live interpreter by fork; the copy waits on a socket of its own until it is resumed or the socket closes.

Theory of operation. The copy is a child of our parent, pid 1 of the sandbox, so that user code never meets it in
os.wait. It keeps the user's variables and regular files, each file with its own position. Pipes and sockets lead to
others, who would wait for an end of file that a sleeping copy holds back: they become /dev/null in the copy, under the
same numbers. Streams and control socket are the runner's; it hands over new ones with `resume`.
For undo the random state stays what it was, for a branch it is made new.
"""

from __future__ import annotations

import fcntl
import os
import random
import stat
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

from clawplane.sandbox.inside.repl.sibling import fork_sibling

_fork, _exit, _waitpid, _setsid, _getpid = os.fork, os._exit, os.waitpid, os.setsid, os.getpid
_fstat, _close, _open, _dup2, _lseek, _listdir = os.fstat, os.close, os.open, os.dup2, os.lseek, os.listdir
_monotonic, _sleep = time.monotonic, time.sleep
_current_frames = sys._current_frames
_get_state, _set_state = random.getstate, random.setstate
_sys = sys
_MOST_NUMBERS: Final = 4096
_LEAVING_SECONDS: Final = 0.01
"""For a thread that has been told to end."""
_GONE_SECONDS: Final = 0.1
"""For a thread that Python has forgotten and the kernel not yet."""
_ACCESS: Final = os.O_ACCMODE | os.O_APPEND
_SERVERS: Final = (
    (
        "multiprocessing.forkserver",
        "_forkserver",
        ("_forkserver_pid", "_forkserver_address", "_forkserver_alive_fd"),
    ),
    ("multiprocessing.resource_tracker", "_resource_tracker", ("_pid", "_fd")),
)


@dataclass(frozen=True, slots=True)
class Copy:
    """What a copy knows about itself while it waits."""

    purpose: str
    positions: dict[int, int]
    """Number of each open regular file -> position when the copy was made."""


class CannotCopy(Exception):
    """There is no copy; the message is a clause that says why."""


def fork_copy(waits_on: int, purpose: str) -> Copy | None:
    """Fork; returns None in the interpreter and what it is in the copy. Raises CannotCopy."""
    _refuse_threads()
    state = _get_state()
    try:
        pid = fork_sibling()
        if pid is None:
            pid = _fork_twice()
    except OSError as problem:
        raise CannotCopy(f"the interpreter could not be forked: {problem.strerror}") from None
    if pid:
        return None
    try:
        _setsid()
        copy = Copy(purpose, _let_go(waits_on))
        if purpose == "undo":
            _set_state(state)
    except BaseException:
        _exit(1)
    return copy


def _fork_twice() -> int:
    """Return 0 in an orphan and something else in this process."""
    child = _fork()
    if child == 0:
        try:
            grandchild = _fork()
        except OSError:
            _exit(1)
        if grandchild:
            _exit(0)
        return 0
    try:
        _pid, status = _waitpid(child, 0)
    except ChildProcessError:
        status = 0  # user code lets the kernel reap
    if status:
        raise OSError(0, "the second fork failed")
    return child


def settle(copy: Copy) -> None:
    """In a copy that was resumed: share nothing with the process it was forked from."""
    for number, position in copy.positions.items():
        try:
            _reopen(number, position)
        except OSError:
            continue  # unlinked where it cannot be opened anew: the position stays shared
    if copy.purpose == "branch":
        reseed()
    _forget_servers()


def reseed() -> None:
    """Make the random numbers of this process its own."""
    random.seed()
    numpy_random: Any = _sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _refuse_threads() -> None:
    """Raise CannotCopy when there is another thread; one that was joined just now gets the time to vanish."""
    began = _monotonic()
    while len(_listdir("/proc/self/task")) > 1:
        patience = _LEAVING_SECONDS if len(_current_frames()) > 1 else _GONE_SECONDS
        if _monotonic() - began > patience:
            raise CannotCopy("another thread runs in the interpreter, and a copy would not have it")
        _sleep(0.0005)


def _let_go(kept: int) -> dict[int, int]:
    """Replace pipes and sockets but `kept`; returns the positions of regular files."""
    positions = {}
    null = _open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in _open_numbers():
        try:
            mode = _fstat(number).st_mode
        except OSError:
            continue  # the descriptor of the listing itself
        if stat.S_ISREG(mode):
            positions[number] = _lseek(number, 0, os.SEEK_CUR)
        elif (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)) and number != kept:
            _dup2(null, number, inheritable=os.get_inheritable(number))
    _close(null)
    return positions


def _open_numbers() -> list[int]:
    try:
        return [int(entry) for entry in _listdir("/proc/self/fd")]
    except OSError:
        return list(range(_MOST_NUMBERS))  # a process that may not be dumped does not see its own


def _reopen(number: int, position: int) -> None:
    flags = fcntl.fcntl(number, fcntl.F_GETFL) & _ACCESS
    again = _open(f"/proc/self/fd/{number}", flags | os.O_CLOEXEC)
    _dup2(again, number, inheritable=os.get_inheritable(number))
    _close(again)
    _lseek(number, position, os.SEEK_SET)


def _forget_servers() -> None:
    """Let multiprocessing start its side processes anew: those of the original are not our children."""
    for module, holder, names in _SERVERS:
        found = getattr(_sys.modules.get(module), holder, None)
        for name in names:
            if hasattr(found, name):
                setattr(found, name, None)
