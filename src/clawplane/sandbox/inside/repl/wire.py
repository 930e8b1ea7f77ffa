"""The guest's end of the control socket: exact reads, whole writes, nothing that user code can replace beforehand.

A frame that is half read or half written when a signal handler of the user raises would garble the conversation. So a
read keeps what it has in the object, and a write happens with all signals blocked.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
from _thread import allocate_lock
from collections.abc import Callable
from typing import Any, Final

from clawplane.sandbox.inside.signal_mask import ALL, BLOCK, SET, change_mask
from clawplane.sandbox.repl_wire import FROM_GUEST, HEADER, TO_GUEST

LOWEST_NUMBER: Final = 100
"""Our descriptors stand above those that user code gets, where a mistaken close does not reach them."""

_read, _write, _close, _exit, _getpid = os.read, os.write, os.close, os._exit, os.getpid
_sigmask, _ALL, _BLOCK, _SET = change_mask, ALL, BLOCK, SET
_socket = socket.socket
_SOL_SOCKET, _SCM_RIGHTS = socket.SOL_SOCKET, socket.SCM_RIGHTS
_array = array.array
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder(strict=False).scan_once  # type: ignore[attr-defined]
_FRAME_TOO_LARGE: Final = 71


def _c_encoder() -> Callable[[Any, int], tuple[str, ...]]:
    """Return the encoder of the json module without its Python parts, which user code could replace."""
    make: Any = json.encoder.c_make_encoder  # type: ignore[attr-defined]
    escape: Any = json.encoder.encode_basestring_ascii
    encoder: Callable[[Any, int], tuple[str, ...]] = make(None, None, escape, None, ":", ",", False, False, False)
    return encoder


_encode: Final = _c_encoder()


def encode(message: dict[str, Any]) -> bytes:
    """Return the body of a frame; raises ValueError for numbers that JSON has not."""
    return "".join(_encode(message, 0)).encode("ascii")


class Channel:
    """One control socket, owned by one process: a fork of user code that speaks here ends instead."""

    def __init__(self) -> None:
        """Speak to nobody until `adopt`."""
        self._number = -1
        self._buffer = bytearray()
        self._need = HEADER
        self._in_body = False
        self._owner = _getpid()
        self._lock = allocate_lock()
        self._held = b""

    def receive(self) -> dict[str, Any] | None:
        """Wait for a request; None when the other end is gone or makes no sense."""
        while True:
            while len(self._buffer) < self._need:
                chunk = _read(self._number, self._need - len(self._buffer))
                if not chunk:
                    return None
                self._buffer += chunk
            content = bytes(self._buffer)
            self._buffer.clear()
            if self._in_body:
                self._in_body, self._need = False, HEADER
                message, _end = _scan(content.decode("utf-8"), 0)
                return message if type(message) is dict else None
            self._in_body, self._need = True, int.from_bytes(content, "little")
            if self._need > TO_GUEST:
                return None

    def receive_descriptors(self, count: int) -> list[int]:
        """Take the descriptors that follow a frame; raises ConnectionError when there are not as many."""
        endpoint = _socket(fileno=self._number)
        try:
            numbers = _array("i")
            data, ancillary, _flags, _address = endpoint.recvmsg(1, 4 * 16 + 64)
            for level, kind, content in ancillary:
                if level == _SOL_SOCKET and kind == _SCM_RIGHTS:
                    numbers.frombytes(content[: len(content) - len(content) % 4])
        finally:
            endpoint.detach()
        if not data or len(numbers) != count:
            for number in numbers:
                _close(number)
            raise ConnectionError(f"{count} descriptors were announced, {len(numbers)} came")
        return list(numbers)

    def hold(self, body: bytes) -> None:
        """Write one frame together with the next one: it wakes the other end once."""
        with self._lock:
            self._held += _frame(body)

    def send(self, body: bytes) -> None:
        """Write one frame; ends the process when there is nobody to read it, or when this is not our process."""
        if _getpid() != self._owner:
            _exit(0)
        frame = _frame(body)
        before = _sigmask(_BLOCK, _ALL)
        self._lock.acquire()
        try:
            left, self._held = memoryview(self._held + frame), b""
            while left:
                left = left[_write(self._number, left) :]
        except OSError:
            _exit(0)
        finally:
            self._lock.release()
            _sigmask(_SET, before)

    def adopt(self, descriptor: int) -> None:
        """Talk over another socket from now on, in this process; takes `descriptor`."""
        if self._number >= 0:
            self.close()
        self._number, self._owner, self._held = lift(descriptor), _getpid(), b""
        self._buffer.clear()
        self._in_body, self._need = False, HEADER

    def leave(self) -> None:
        """Close the socket and speak to nobody."""
        self.close()
        self._number = -1

    def close(self) -> None:
        """Close the socket, if it is still there."""
        try:
            _close(self._number)
        except OSError:
            pass

    def __reduce__(self) -> Any:
        raise TypeError("a control channel stays in its process")


def _frame(body: bytes) -> bytes:
    if len(body) > FROM_GUEST:
        _exit(_FRAME_TOO_LARGE)  # every caller bounds what it sends
    return len(body).to_bytes(HEADER, "little") + body


def lift(descriptor: int) -> int:
    """Move a descriptor out of the way of user code; it does not survive exec."""
    number = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, LOWEST_NUMBER)
    _close(descriptor)
    return number
