"""Be the interpreter of a session: serve requests on a control socket until it closes."""

from __future__ import annotations

import gc
import os
import platform
import random
import sys
from typing import Any, Final, NoReturn

from clawplane.sandbox.inside.repl.kernel import Kernel
from clawplane.sandbox.inside.repl.wire import Channel, encode

_OWN_PACKAGE: Final = "clawplane"
_PYTHON: Final = platform.python_version()
_exit, _getpid = os._exit, os.getpid


def main(control: int) -> NoReturn:
    """Serve the control socket `control`; never returns.

    The caller has set up what a process has: descriptors 0 (null), 1 and 2, environment, working directory, and sys.path
    without its first entry; nothing else is open, one thread runs. From here on user code runs in this process.
    """
    status = 1
    try:
        _forget_ourselves()
        _become_a_repl()
        channel = Channel(control)
        server = Server(channel)
        os.register_at_fork(after_in_child=server.after_fork)
        gc.enable()
        server.serve()
        status = 0
    finally:
        _exit(status)


class Server:
    """Answers requests one after the other."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._kernel = Kernel(channel)
        self._answers = {"run": self._run, "names": self._names, "forget": self._forget}

    def serve(self) -> None:
        """Answer until the other end is gone."""
        self._channel.send(encode({"op": "ready", "python": _PYTHON, "pid": _getpid()}))
        while True:
            try:
                request = self._channel.receive()
            except OSError:
                return  # user code has closed or replaced the socket: the runner starts another interpreter
            except BaseException:
                self._kernel.order.calm()  # a signal handler of the user raised; nothing of the frame is lost
                continue
            if request is None:
                return
            self._answers[request["op"]](request)

    def after_fork(self) -> None:
        """In a child of user code: it has no part in the conversation."""
        self._channel.close()

    def _run(self, request: dict[str, Any]) -> None:
        self._kernel.run(request["id"], request["nonce"], request["code"], request.get("context", ""))

    def _names(self, request: dict[str, Any]) -> None:
        raise NotImplementedError

    def _forget(self, request: dict[str, Any]) -> None:
        self._kernel.contexts.pop(request["context"], None)
        self._channel.send(encode({"op": "forgotten", "id": request["id"], "nonce": request["nonce"]}))


def _forget_ourselves() -> None:
    """Take our modules out of reach of an import; a package of the same name may be the user's own."""
    for name in [name for name in sys.modules if name.partition(".")[0] == _OWN_PACKAGE]:
        del sys.modules[name]


def _become_a_repl() -> None:
    sys.argv = [""]
    if not sys.path or sys.path[0] != "":
        sys.path.insert(0, "")
    random.seed()  # forks of one zygote begin alike
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
