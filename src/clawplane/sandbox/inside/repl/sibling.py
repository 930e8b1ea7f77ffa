"""Fork a process that is a child of our parent, in one step.

A double fork does the same and costs twice: the process in between gets page tables of its own, and we wait for its
end. This is what the C library's fork does with one flag more, CLONE_PARENT, between the calls that CPython's own
os.fork makes. What is skipped are the library's handlers for other threads; there are none when this is called. The
thread id that the library keeps must be told to the kernel, which then keeps it right in the child.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Final

_CLONE: Final = {"x86_64": 56, "aarch64": 220}.get(os.uname().machine)
_FLAGS: Final = 0x8000 | 0x0100_0000 | 0x0020_0000 | 17  # PARENT, CHILD_SETTID, CHILD_CLEARTID, SIGCHLD
_GET_TID_ADDRESS: Final = 40
_library = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock, as os.fork does
_library.syscall.restype = ctypes.c_long
_syscall = _library.syscall
_before, _in_child, _in_parent = (
    _library.PyOS_BeforeFork,
    _library.PyOS_AfterFork_Child,
    _library.PyOS_AfterFork_Parent,
)
for _each in (_before, _in_child, _in_parent):
    _each.restype = None
_get_errno, _strerror = ctypes.get_errno, os.strerror
_long, _pointer = ctypes.c_long, ctypes.c_void_p


def _tid_address() -> int:
    """Return where the C library keeps the id of the main thread, 0 when that cannot be known."""
    address = ctypes.c_void_p()
    if _library.prctl(_GET_TID_ADDRESS, ctypes.byref(address), 0, 0, 0) != 0 or not address.value:
        return 0
    return address.value if ctypes.c_int.from_address(address.value).value == threading.get_native_id() else 0


_TID_ADDRESS: Final = _tid_address()
"""The same in every process that is forked from the one that imports this."""


def fork_sibling() -> int | None:
    """Return 0 in the new process and its pid in this one; None where it cannot be done. Raises OSError."""
    if _CLONE is None or not _TID_ADDRESS:
        return None
    null, child_tid = _pointer(None), _pointer(_TID_ADDRESS)
    last = (child_tid, null) if _CLONE == 56 else (null, child_tid)  # where the thread area goes differs
    _before()
    pid: int = _syscall(_long(_CLONE), _long(_FLAGS), null, null, *last)
    if pid == 0:
        _in_child()
        return 0
    number = _get_errno()
    _in_parent()
    if pid < 0:
        raise OSError(number, _strerror(number))
    return pid
