"""Run a command in a network of its own, and hand its SDK listener to whoever started us.

Usage: own_network.py SOCKET_FD COMMAND...

Works for ordinary users: a user and a network namespace of our own, loopback up, a listener on 127.0.0.1:20086, its
descriptor sent over the inherited unix socket SOCKET_FD; then one byte is awaited there (the server accepts now) and
COMMAND takes our place.
"""

import ctypes
import fcntl
import os
import socket
import struct
import sys

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def _enter_own_network() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        name, flags = struct.unpack_from("16sh", fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", name, flags | _IFF_UP))


def main() -> None:
    """Do what the module says."""
    starter = socket.socket(fileno=int(sys.argv[1]))
    _enter_own_network()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 20086))
    listener.listen(128)
    socket.send_fds(starter, [b"listener"], [listener.fileno()])
    listener.close()
    starter.recv(1)
    starter.close()
    os.execvp(sys.argv[2], sys.argv[2:])


main()
