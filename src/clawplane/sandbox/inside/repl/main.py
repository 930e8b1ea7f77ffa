"""Be the interpreter of a session: serve requests on a control socket until it closes."""

from __future__ import annotations

import gc
import os
import platform
import signal
import socket
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, NoReturn

from clawplane.sandbox.inside.repl import copies, snapshot
from clawplane.sandbox.inside.repl.kernel import Kernel
from clawplane.sandbox.inside.repl.texts import clipped, type_name
from clawplane.sandbox.inside.repl.wire import Channel, encode
from clawplane.sandbox.inside.signal_mask import BLOCK, SET, change_mask
from clawplane.sandbox.repl_wire import MAIN
from clawplane.sandbox.repl_wire import request as frame_of

_OWN_PACKAGE: Final = "clawplane"
_PYTHON: Final = platform.python_version()
_REHEARSALS: Final = 32
_REHEARSED: Final = "print(end='')\n1+1"
_LARGEST_ANSWER: Final = 1 << 16
_exit, _getpid, _close = os._exit, os.getpid, os.close


def main(control: int) -> NoReturn:
    """Serve the control socket `control`; never returns.

    The caller has set up what a process has: descriptors 0 (null), 1 and 2, environment, working directory, sys.path
    without the entry for it; nothing else is open, one thread runs. From here on user code runs in this process.
    """
    kept = _forget_ourselves()  # noqa: F841 - alive as long as this frame
    copies.reseed()
    Server().begin(control)


def before_forks() -> Callable[[int], NoReturn]:
    """Make in a zygote what its forks have in common, used until it is warm; returns what they call instead of `main`.

    Our modules are out of reach of an import by now. Nothing of a user is here yet.
    """
    server = Server()
    server.rehearse()
    return server.begin


class Server:
    """Answers requests one after the other."""

    def __init__(self) -> None:
        self._channel = Channel()
        self._kernel = Kernel(self._channel)
        self._answers: dict[str, Callable[[dict[str, Any]], None]] = {
            "run": self._run,
            "copy": self._copy,
            "names": self._names,
            "save": self._save,
            "restore": self._restore,
            "forget": self._forget,
            "calm": self._calm,
        }

    def begin(self, control: int) -> NoReturn:
        """Be the interpreter of this process."""
        status = 1
        try:
            self._kernel.begin()
            _become_a_repl()
            self._channel.adopt(control)
            os.register_at_fork(after_in_child=self.after_fork)
            gc.enable()
            self.serve()
            status = 0
        finally:
            _exit(status)

    def rehearse(self) -> None:
        """Run a few cells that leave nothing behind, so that forks find the code they need warmed up already."""
        ours, theirs = socket.socketpair()
        mask, handler = change_mask(BLOCK, ()), signal.getsignal(signal.SIGINT)
        streams = [(name, getattr(sys, name)) for name in ("stdin", "stdout", "stderr")]
        with ours:
            self._kernel.begin()
            self._channel.adopt(theirs.detach())
            for number in range(_REHEARSALS):
                ours.sendall(frame_of("run", str(number), "", code=_REHEARSED, context=MAIN))
                cell = self._channel.receive()
                if cell is not None:
                    self._run(cell)
                ours.recv(_LARGEST_ANSWER)
            self._kernel.renew()
            self._channel.leave()
        for name, stream in streams:
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        signal.signal(signal.SIGINT, handler)
        change_mask(SET, mask)

    def serve(self) -> None:
        """Answer until the other end is gone."""
        self._say_ready()
        while True:
            try:
                request = self._channel.receive()
            except OSError:
                return  # user code has closed or replaced the socket: the runner starts another interpreter
            except BaseException:
                self._kernel.order.calm()  # another thread made us raise while we waited: nothing is lost
                continue
            if request is None:
                return
            self._answers[request["op"]](request)

    def after_fork(self) -> None:
        """In a child of user code: it has no part in the conversation, and what it displays goes nowhere."""
        self._kernel.publisher.end()
        self._channel.close()

    def _say_ready(self) -> None:
        self._channel.send(encode({"op": "ready", "python": _PYTHON, "pid": _getpid()}))

    def _answer(self, op: str, request: dict[str, Any], **members: object) -> None:
        self._channel.send(encode({"op": op, "id": request["id"], "nonce": request["nonce"], **members}))

    def _run(self, request: dict[str, Any]) -> None:
        self._kernel.run(request["id"], request["nonce"], request["code"], request.get("context", MAIN))

    def _copy(self, request: dict[str, Any]) -> None:
        (waits_on,) = self._channel.receive_descriptors(1)
        refusal = ""
        try:
            copy = copies.fork_copy(waits_on, request["purpose"])
        except copies.CannotCopy as problem:
            copy, refusal = None, str(problem)
        if copy is not None:
            self._wait_as(copy, waits_on)
            return
        _close(waits_on)
        self._answer("copied", request, refusal=refusal)

    def _wait_as(self, copy: copies.Copy, waits_on: int) -> None:
        """Wait in a copy until it is resumed; when nobody wants it any more, end."""
        self._kernel.streams.abandon()
        self._channel.adopt(waits_on)
        self._say_ready()
        request = self._channel.receive()
        if request is None or request["op"] != "resume":
            _exit(0)
        stdout, stderr, control = self._channel.receive_descriptors(3)
        self._kernel.streams.replace(stdout, stderr)
        copies.settle(copy)
        self._kernel.loop.remake_after_fork()
        self._kernel.owner = _getpid()
        self._channel.adopt(control)
        self._say_ready()

    def _names(self, request: dict[str, Any]) -> None:
        context = self._kernel.contexts.get(request.get("context", MAIN))
        names = list(context.module.__dict__.items()) if context else []
        shown = [
            [clipped(name, 200), clipped(type_name(value), 200)]
            for name, value in names
            if type(name) is str and not name.startswith("_")
        ]
        self._answer("named", request, names=shown[: snapshot.MOST_NAMES])

    def _save(self, request: dict[str, Any]) -> None:
        (file,) = self._channel.receive_descriptors(1)
        bounds = snapshot.Bounds(request["largest"], request["seconds"], request["room"])
        self._answer("saved", request, **self._kernel.save(file, bounds).members())
        _close(file)

    def _restore(self, request: dict[str, Any]) -> None:
        (file,) = self._channel.receive_descriptors(1)
        self._answer("restored", request, **self._kernel.restore(file).members())
        _close(file)

    def _forget(self, request: dict[str, Any]) -> None:
        self._kernel.forget(request.get("context", MAIN))
        self._answer("forgotten", request)

    def _calm(self, request: dict[str, Any]) -> None:
        self._kernel.order.forget_interrupt()
        self._answer("calmed", request)


def _forget_ourselves() -> list[ModuleType]:
    """Take our modules out of reach of an import; a package of the same name may be the user's own.

    They stay alive: taking them down would cost time, and memory that is shared with the zygote.
    """
    own = [name for name in sys.modules if name.startswith(_OWN_PACKAGE)]
    return [sys.modules.pop(name) for name in own if name.partition(".")[0] == _OWN_PACKAGE]


def _become_a_repl() -> None:
    sys.argv = [""]
    if not sys.path or sys.path[0] != "":
        sys.path.insert(0, "")
