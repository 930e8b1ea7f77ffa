"""Keep descriptors 0, 1 and 2 and the objects on top of them what the next cell expects.

Spare copies of 1 and 2 stand above the descriptors that user code gets; whatever was put in their place is replaced
from them. Text that no UTF-8 can carry is written with backslashes, so that printing never fails for it.
"""

from __future__ import annotations

import ctypes
import io
import os
import sys
from collections.abc import Callable
from typing import Any, Final

from clawplane.sandbox.inside.repl.wire import lift

_fstat, _dup2, _dup, _open, _close = os.fstat, os.dup2, os.dup, os.open, os.close
_get_blocking, _set_blocking = os.get_blocking, os.set_blocking
_O_RDWR: Final = os.O_RDWR
_Text, _Buffer, _File = io.TextIOWrapper, io.BufferedWriter, io.FileIO
_sys = sys
_NAMES: Final = ((1, "stdout"), (2, "stderr"))


def _find_fflush() -> Callable[[Any], Any]:
    flush = ctypes.CDLL(None).fflush
    flush.argtypes = [ctypes.c_void_p]
    flush.restype = ctypes.c_int
    return flush


_fflush: Final = _find_fflush()


class Streams:
    """The standard streams of an interpreter."""

    def __init__(self) -> None:
        self._spare: dict[int, int] = {}
        self._identity: dict[int, tuple[int, int]] = {}
        self._files = {number: _text_stream(number) for number, _name in _NAMES}
        self._stdin = _Text(io.BufferedReader(_File(0, "rb", closefd=False)), encoding="utf-8", errors="replace")

    def begin(self) -> None:
        """Write to what descriptors 1 and 2 of this process are now."""
        for number, _name in _NAMES:
            self._remember(number)
        self.install()

    def install(self) -> None:
        """Put our streams where Python looks for them."""
        for number, name in _NAMES:
            stream = self._files[number]
            setattr(_sys, name, stream)
            setattr(_sys, f"__{name}__", stream)
        _sys.stdin = _sys.__stdin__ = self._stdin  # type: ignore[misc]

    def flush(self) -> None:
        """Write out what is in the buffers of Python and of the C library."""
        for number, name in _NAMES:
            for stream in (getattr(_sys, name, None), self._files[number]):
                try:
                    stream.flush()  # type: ignore[union-attr]
                except BaseException:
                    continue  # replaced or closed by the user: put back by restore()
        _fflush(None)

    def restore(self) -> None:
        """Put back descriptors and objects that were closed or replaced."""
        for number, _name in _NAMES:
            if not self._is_ours(number):
                _dup2(self._spare[number], number)
            if not _get_blocking(number):
                _set_blocking(number, True)
            if not _usable(self._files[number]):
                self._files[number] = _text_stream(number)
        if not _is_open(0):
            null = _open("/dev/null", _O_RDWR)
            if null != 0:
                _dup2(null, 0)
                _close(null)
        if self._stdin.closed:
            self._stdin = _Text(io.BufferedReader(_File(0, "rb", closefd=False)), encoding="utf-8", errors="replace")
        self.install()

    def replace(self, stdout: int, stderr: int) -> None:
        """Write to other descriptors from now on; takes both."""
        for number, given in ((1, stdout), (2, stderr)):
            _dup2(given, number)
            _close(given)
            self._remember(number)

    def abandon(self) -> None:
        """Hold no stream of the runner's any more: everything printed goes nowhere."""
        null = _open("/dev/null", _O_RDWR)
        for number, _name in _NAMES:
            _dup2(null, number)
        _close(null)
        self.forget()

    def forget(self) -> None:
        """Hold no copy of descriptors 1 and 2 any more."""
        for number, _name in _NAMES:
            _close(self._spare.pop(number))

    def descriptors(self) -> tuple[int, ...]:
        """Return the numbers of the spare copies."""
        return tuple(self._spare.values())

    def _remember(self, number: int) -> None:
        self._spare[number] = lift(_dup(number))
        told = _fstat(number)
        self._identity[number] = (told.st_dev, told.st_ino)

    def _is_ours(self, number: int) -> bool:
        try:
            told = _fstat(number)
        except OSError:
            return False
        return (told.st_dev, told.st_ino) == self._identity[number]


def _text_stream(number: int) -> io.TextIOWrapper:
    raw = _File(number, "wb", closefd=False)
    raw.name = ("<stdin>", "<stdout>", "<stderr>")[number]
    stream = _Text(_Buffer(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True)
    stream.mode = "w"  # type: ignore[misc]
    return stream


def _usable(stream: io.TextIOWrapper) -> bool:
    try:
        return not stream.closed and stream.encoding == "utf-8" and stream.errors == "backslashreplace"
    except BaseException:
        return False  # detached


def _is_open(number: int) -> bool:
    try:
        _fstat(number)
    except OSError:
        return False
    return True
