"""Learn from the kernel which process sent a message over a socket.

The pid is what the kernel attached when the message was sent, translated to our pid namespace; a guest cannot name
another process there. By the time it is read the sender may have ended: `Resident.adopt` settles that.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

_CREDENTIALS: Final = struct.Struct("=iii")


def demand(connection: socket.socket) -> None:
    """Have the kernel attach the sender to every message received here; call it before the other end is handed out."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def receive(connection: socket.socket, size: int) -> tuple[bytes, int]:
    """Receive one block and the pid of its sender, 0 when there is none we could see. Descriptors are not accepted."""
    data, ancillary, _flags, _address = connection.recvmsg(size, socket.CMSG_SPACE(_CREDENTIALS.size))
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid: int = _CREDENTIALS.unpack(content)[0]
            return data, pid
    return data, 0
