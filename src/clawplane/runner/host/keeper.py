"""Keep the process trees of host tasks: a program of its own that the runner starts, standard library only.

Who runs. The runner starts one *nursery* (this file as a script). For each task it sends the nursery a byte and four
descriptors: the task's control socket and its stdin, stdout and stderr. The nursery forks a *keeper*, and that forks
the task's program in a session of its own:

    runner ==control== keeper --- program --- whatever it starts, wherever that goes

Why. On Linux the keeper is a subreaper: whoever loses its parent, by a double fork or otherwise, becomes the keeper's
child, so all that a task ever started descends from its keeper, in whatever group or session it is. And a keeper
outlives the runner: when the control socket ends, because the runner was killed, the keeper kills the tree.
Elsewhere the tree is what descends from the program or is in its session's group.

Control socket, runner to keeper: an 8-byte length, that many bytes of JSON {argv, cwd, env}; then single letters:
T terminate the tree, K kill it, L leave what is left alone and go. End of file means K.
Keeper to runner, one line each: `started KEEPER` (its own number) or `failed ERRNO`, `ended STATUS` (as waitpid gives
it), `gone`.

Rules that never break: nothing is signalled by number alone where the number may have gone to somebody else; a keeper
ends only when its tree is gone, or cannot be signalled, or after L.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

_LINUX = sys.platform.startswith("linux")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_MSG_CMSG_CLOEXEC = 0x40000000 if _LINUX else 0
_PASSES = 50
"""How often a tree is looked at again because it has grown meanwhile."""
_KILL_SECONDS = 10.0
_RESET = ("SIGPIPE", "SIGXFSZ", "SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD", "SIGQUIT", "SIGUSR1", "SIGUSR2")


class Seen:
    """A process as it was seen: its parent, its group, and what tells it from a later one of the same number."""

    __slots__ = ("born", "group", "number", "parent")

    def __init__(self, number: int, parent: int, group: int, born: str) -> None:
        self.number = number
        self.parent = parent
        self.group = group
        self.born = born


def processes() -> dict[int, Seen]:
    """Return every process that is not a zombie, by number."""
    return {seen.number: seen for seen in (_from_proc() if _LINUX else _from_ps())}


def _from_proc() -> Iterator[Seen]:
    for name in os.listdir("/proc"):  # noqa: PTH208 - a system call is the subject
        if name.isdigit() and (seen := look(int(name))) is not None:
            yield seen


def look(number: int) -> Seen | None:
    """Return a process as it is now (Linux); None when there is none, or a zombie."""
    try:
        with open(f"/proc/{number}/stat", "rb") as file:  # noqa: PTH123
            text = file.read()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return Seen(number, int(fields[1]), int(fields[2]), fields[19].decode())


def _from_ps() -> Iterator[Seen]:
    command = ["ps", "-axo", "pid=,ppid=,pgid=,stat=,lstart="]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        number, parent, group, state, born = line.split(maxsplit=4)
        if not state.startswith("Z"):
            yield Seen(int(number), int(parent), int(group), born)


def descendants(root: int, group: int = 0) -> list[Seen]:
    """Return what descends from a process, itself not included, and what is in a process group (0 = none)."""
    found = processes()
    tree = {root}
    grown = True
    while grown:
        more = {each.number for each in found.values() if each.parent in tree or (group and each.group == group)}
        grown = not more <= tree
        tree |= more
    return [found[number] for number in tree - {root} if number in found]


def send(seen: Seen, number: int) -> bool:
    """Signal a process that was seen, unless its number has gone to another; False when that is not permitted."""
    try:
        if not _LINUX:
            os.kill(seen.number, number)
            return True
        handle = os.pidfd_open(seen.number)
        try:
            now = look(seen.number)
            if now is not None and now.born == seen.born:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)
    except PermissionError:
        return False
    except OSError:
        pass
    return True


def kill_marked(mark: str) -> int:
    """Kill every process of this user whose environment began with `mark`; return how many there were.

    The mark is NAME=VALUE, or the beginning of one when it ends with a slash. For what is left of a task whose keeper
    was killed; knows only Linux.
    """
    wanted = os.fsencode(mark)
    some = wanted.endswith(b"/")
    count = 0
    for seen in processes().values() if _LINUX else ():
        try:
            with open(f"/proc/{seen.number}/environ", "rb") as file:  # noqa: PTH123
                entries = file.read().split(b"\0")
        except OSError:
            continue
        marked = any(each.startswith(wanted) if some else each == wanted for each in entries)
        if marked and seen.number != os.getpid():
            send(seen, signal.SIGKILL)
            count += 1
    return count


def nursery(link: socket.socket) -> None:
    """Fork a keeper for each byte that comes with four descriptors, until the runner is gone."""
    os.set_inheritable(link.fileno(), False)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # the runner says when it is over, by going
    while True:
        data, descriptors, _, _ = socket.recv_fds(link, 1, 4, _MSG_CMSG_CLOEXEC)
        if not data:
            return
        for each in descriptors:
            os.set_inheritable(each, False)
        try:
            forked = os.fork()
        except OSError as error:
            os.write(descriptors[0], f"failed {error.errno}\n".encode())
            forked = -1
        if forked == 0:
            link.close()
            code = 1
            try:
                code = Keeper(*descriptors).keep()
            finally:
                os._exit(code)
        for each in descriptors:
            os.close(each)


class Keeper:
    """Holds one task's process tree; see the theory at the top of this file."""

    def __init__(self, control: int, stdin: int, stdout: int, stderr: int) -> None:
        self._control = socket.socket(fileno=control)
        self._stdio = (stdin, stdout, stderr)
        self._program = 0
        self._woken, self._wake = os.pipe()
        self._left = False

    def keep(self) -> int:
        """Start the program and stay until nothing of it is left; return this process's exit code."""
        os.setsid()  # the task's own group is another one: what signals that group does not reach its keeper
        if _LINUX:
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        os.set_blocking(self._wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        if not self._start(self._request()):
            return 1
        while not self._reap():
            if self._left:
                return 0
            self._hear(None)
        self._say("gone")
        return 0

    def _request(self) -> dict[str, object]:
        size = int.from_bytes(self._read(8), "big")
        request: dict[str, object] = json.loads(self._read(size))
        return request

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._control.recv(min(size - len(data), 1 << 20))
            if not piece:
                os._exit(0)  # the runner is gone, and nothing was started
            data += piece
        return bytes(data)

    def _start(self, request: dict[str, object]) -> bool:
        told, tell = os.pipe()
        try:
            self._program = os.fork()
        except OSError as error:
            self._say(f"failed {error.errno}")
            return False
        if self._program == 0:
            _become(request, self._stdio, tell)
        os.close(tell)
        for each in set(self._stdio):
            os.close(each)
        failure = os.read(told, 16)
        os.close(told)
        if failure:
            os.waitpid(self._program, 0)
            self._say(f"failed {int(failure)}")
            return False
        self._say(f"started {os.getpid()}")
        return True

    def _hear(self, seconds: float | None) -> None:
        """Wait for a child's end or the runner's word and act on the word."""
        watched: list[int | socket.socket] = (
            [self._woken] if self._control.fileno() < 0 else [self._woken, self._control]
        )
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._woken in ready:
            os.read(self._woken, 4096)
        if self._control not in ready:
            return
        try:
            words = self._control.recv(64) or b"K"
        except OSError:
            words = b"K"
        if b"L" in words:
            self._left = True
        elif b"K" in words:
            self._kill()
        else:
            self._terminate()

    def _terminate(self) -> None:
        for seen in self._tree():
            send(seen, signal.SIGTERM)
            send(seen, signal.SIGCONT)  # who is stopped hears it now

    def _kill(self) -> None:
        """Stop the tree until it grows no more, then kill it; look again until nothing is left."""
        until = time.monotonic() + _KILL_SECONDS
        while time.monotonic() < until:
            held: dict[int, Seen] = {}
            for _ in range(_PASSES):
                new = [seen for seen in self._tree() if seen.number not in held]
                if not new:
                    break
                for seen in new:
                    held[seen.number] = seen
                    send(seen, signal.SIGSTOP)
            allowed = [send(seen, signal.SIGKILL) for seen in held.values()]
            if self._reap():
                return
            if allowed and not any(allowed):
                break
            select.select([self._woken], [], [], 0.02)
        self._say("gone")
        os._exit(1)

    def _tree(self) -> list[Seen]:
        if _LINUX:
            return descendants(os.getpid())
        return descendants(self._program, self._program)

    def _reap(self) -> bool:
        """Take in who has ended; True when nothing of the tree is left."""
        while True:
            try:
                number, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return _LINUX or not self._tree()
            if number == 0:
                return False
            if number == self._program:
                self._say(f"ended {status}")

    def _say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more: the next read says so
            self._control.send(f"{line}\n".encode(), getattr(socket, "MSG_NOSIGNAL", 0))


def _become(request: dict[str, object], stdio: tuple[int, int, int], tell: int) -> None:
    """Turn this process into the program; an errno goes to `tell` when that fails."""
    try:
        os.setsid()
        if _LINUX:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        for name in _RESET:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        # copies above the low numbers first, so that no dup2 overwrites one that is still needed
        for target, source in enumerate([os.dup(each) for each in stdio]):
            os.dup2(source, target)
        argv, env, cwd = request["argv"], request["env"], request["cwd"]
        if not isinstance(argv, list) or not isinstance(env, dict):
            raise OSError(errno.EINVAL, "bad request")
        os.chdir(os.fsencode(str(cwd)))
        names = {os.fsencode(key): os.fsencode(value) for key, value in env.items()}
        os.execve(os.fsencode(argv[0]), [os.fsencode(each) for each in argv], names)  # noqa: S606 - that is the point
    except OSError as error:
        os.write(tell, str(error.errno or errno.EIO).encode())
    except BaseException:  # nothing of this process may run on as a second keeper
        os.write(tell, str(errno.EINVAL).encode())
    finally:
        os._exit(127)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    nursery(socket.socket(fileno=int(sys.argv[1])))
