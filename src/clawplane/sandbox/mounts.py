"""Mount, bind, seal and pivot: the mount related system calls, without policy.

Theory of operation
- A mount point is named by a descriptor (`/proc/self/fd/N`) wherever a guest or an uploaded package could have planted
  a symbolic link on the way, so that nothing is ever mounted outside the tree under construction.
- Binds are recursive and sealed with one mount_setattr call for the whole tree: the old bind-and-remount does not reach
  sub-mounts. Sealed trees are private, too: what the host mounts later does not appear in them.
- `idmap_descriptor` makes a user namespace that only translates file owners. Its process runs `pause` of the C library
  on a stack of its own, in our memory, and is killed as soon as the namespace is open: no interpreter is forked.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from typing import Final

from clawplane.sandbox import libc

MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_SLAVE: Final = 1 << 19
_MS_PRIVATE: Final = 1 << 18
_MNT_DETACH: Final = 2

_OPEN_TREE: Final = 428  # numbers above 423 are the same on every architecture
_MOVE_MOUNT: Final = 429
_MOUNT_SETATTR: Final = 442
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 1
_OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
_MOVE_MOUNT_FROM_EMPTY_TO_LINKS: Final = 0x4 | 0x10  # a descriptor in /proc is a link

ATTR_RDONLY: Final = 0x1
ATTR_NOSUID: Final = 0x2
ATTR_NODEV: Final = 0x4
ATTR_NOEXEC: Final = 0x8
_ATTR_IDMAP: Final = 0x100000
SEALED: Final = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV

_CLONE_VM: Final = 0x100
_CLONE_NEWUSER: Final = 0x10000000
_HELPER_STACK: Final = 8 * 1024
_Stack = ctypes.c_char * _HELPER_STACK
_PAUSE: Final = ctypes.cast(ctypes.CDLL(None).pause, ctypes.c_void_p)


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """Mount `source` of file system `kind` on `target`; raises OSError that names both."""
    libc.call(
        "mount",
        os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        None if data is None else os.fsencode(data),
        what=f"mount {kind or 'bind'} {source} on {target}",
    )


def detach(target: str) -> None:
    """Unmount `target` lazily: it is gone from the tree at once, and from memory with its last user."""
    libc.call("umount2", os.fsencode(target), _MNT_DETACH, what=f"unmount {target}")


def follow_but_do_not_lead(target: str = "/") -> None:
    """Keep the host from seeing our mounts, while we still see the host's later ones."""
    mount("none", target, flags=MS_REC | MS_SLAVE)


def seal(target: str, attributes: int = SEALED, *, recursive: bool = True) -> None:
    """Add `attributes` to the mount at `target`, with its sub-mounts, and make them private."""
    _set_attributes(-100, target, struct.pack("=QQQQ", attributes, 0, _MS_PRIVATE, 0), recursive)


def bind(source: str, target: str, attributes: int, *, idmap: int | None = None) -> None:
    """Show `source` at `target` with these attributes, set before anybody can see it.

    Without `idmap` its sub-mounts come along. With it, a namespace descriptor, `source` comes alone and with the owners
    that namespace gives; raises OSError (EINVAL) where the file system cannot translate owners.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (_AT_RECURSIVE if idmap is None else 0)
    tree = libc.syscall(_OPEN_TREE, -100, os.fsencode(source), flags, what=f"open_tree {source}")
    try:
        if idmap is not None:
            attributes |= _ATTR_IDMAP
        wanted = struct.pack("=QQQQ", attributes, 0, _MS_PRIVATE, idmap or 0)
        _set_attributes(tree, "", wanted, recursive=idmap is None)
        path = os.fsencode(target)
        libc.syscall(
            _MOVE_MOUNT, tree, b"", -100, path, _MOVE_MOUNT_FROM_EMPTY_TO_LINKS, what=f"move_mount to {target}"
        )
    finally:
        os.close(tree)


def temporary(target: str, *, size: int, inodes: int, mode: int = 0o755, owner: tuple[int, int] | None = None) -> None:
    """Mount an empty tree in memory, limited to `size` bytes and `inodes` files."""
    options = f"size={size},nr_inodes={inodes},mode={mode:o}"
    if owner is not None:
        options += f",uid={owner[0]},gid={owner[1]}"
    mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, options)


def pivot(root: str) -> None:
    """Make the mount at `root` the root of this mount namespace and let go of the old one."""
    os.chdir(root)
    libc.call("pivot_root", b".", b".", what="pivot_root")
    detach(".")
    os.chdir("/")


def idmap_descriptor(disk: tuple[int, int], shown: tuple[int, int]) -> int:
    """Return a namespace descriptor that shows files of owner and group `disk` as those of `shown`.

    Needs the rights of host root. The caller closes it.
    """
    stack = _Stack()
    top = (ctypes.addressof(stack) + _HELPER_STACK - 64) & ~0xF
    flags = _CLONE_VM | _CLONE_NEWUSER | signal.SIGCHLD
    child = libc.call("clone", _PAUSE, ctypes.c_void_p(top), flags, None, what="clone for an owner translation")
    try:
        seen = _seen_by_proc(child)
        for name, inside, outside in (("uid_map", disk[0], shown[0]), ("gid_map", disk[1], shown[1])):
            with open(f"/proc/{seen}/{name}", "wb", buffering=0) as file:
                file.write(f"{inside} {outside} 1\n".encode())
        return os.open(f"/proc/{seen}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(child, 0)
        except ChildProcessError:
            pass  # SIGCHLD is ignored here: the kernel has reaped it, and only now is the stack free


def _seen_by_proc(pid: int) -> str:
    """Translate a pid of our namespace to the one of the mounted /proc, which may be an outer namespace's."""
    descriptor = os.pidfd_open(pid)
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb", buffering=0) as file:
            for line in file.read().splitlines():
                if line.startswith(b"Pid:"):
                    return line.split()[1].decode()
    finally:
        os.close(descriptor)
    raise ProcessLookupError(pid)


def _set_attributes(directory: int, path: str, attributes: bytes, recursive: bool) -> None:
    flags = (_AT_RECURSIVE if recursive else 0) | (_AT_EMPTY_PATH if not path else 0)
    libc.syscall(
        _MOUNT_SETATTR,
        directory,
        os.fsencode(path),
        flags,
        attributes,
        len(attributes),
        what=f"mount_setattr {path or 'tree'}",
    )
