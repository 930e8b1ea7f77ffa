"""Try one isolation step for real, in a child that ends afterwards: what a probe may not assume, it does.

A trial runs in a forked child, so that nothing it changes (namespaces, mounts, filters) stays. It says "" for success
or one line with the kernel's refusal. Trials mount only below directories of their own namespace and touch no file of
the host.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from clawplane.sandbox import landlock, libc, mounts, namespaces, seccomp
from clawplane.sandbox.identity import Identity

NAMESPACES: Final = {
    "mount": namespaces.NEWNS,
    "pid": namespaces.NEWPID,
    "network": namespaces.NEWNET,
    "ipc": namespaces.NEWIPC,
    "uts": namespaces.NEWUTS,
    "cgroup": namespaces.NEWCGROUP,
}
_OPENAT2: Final = 437
_RESOLVE_BENEATH: Final = 0x08
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_FOREIGN_ID: Final = 65_533
_SCENE: Final = "/tmp"  # covered by a private tmpfs in the trial's own mount namespace; any existing directory would do
_LONGEST_ANSWER: Final = 4096


def attempt(trial: Callable[[], None]) -> str:
    """Run `trial` in a child; return "" when it succeeded, else why not."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _answer(trial, writing)
    os.close(writing)
    try:
        answer = os.read(reading, _LONGEST_ANSWER).decode(errors="replace")
    finally:
        os.close(reading)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == 0:
        return ""
    return answer or f"the trial ended with status {status}"


def _answer(trial: Callable[[], None], writing: int) -> None:
    status = 1
    try:
        trial()
        status = 0
    except BaseException as error:
        with suppress(OSError):
            os.write(writing, str(error).encode(errors="replace")[:_LONGEST_ANSWER])
    finally:
        os._exit(status)  # whatever happened, this copy of the caller goes no further


def enter_user_namespace() -> None:
    """Do what a launch does first: a user namespace of our own, in which mounts can be made private.

    The mount matters: some hosts let the namespace be made and then refuse everything inside it.
    """
    mine = Identity(os.geteuid(), os.getegid())
    namespaces.unshare(namespaces.NEWUSER | namespaces.NEWNS)
    namespaces.write_maps(mine)
    mounts.follow_but_do_not_lead()


def nest_user_namespaces() -> None:
    """A guest's namespace lies inside the launcher's."""
    enter_user_namespace()
    namespaces.unshare(namespaces.NEWUSER)


def become_foreign() -> None:
    """Root gives every guest a uid of its own."""
    namespaces.become(Identity(_FOREIGN_ID, _FOREIGN_ID), change_ids=True)
    namespaces.drop_capabilities()


def enter(kind: str) -> Callable[[], None]:
    """Return a trial that makes a namespace of this kind."""

    def trial() -> None:
        enter_user_namespace()
        namespaces.unshare(NAMESPACES[kind])

    return trial


def mount_proc() -> None:
    """A fresh /proc; containers that mask parts of theirs refuse it."""
    enter_user_namespace()
    namespaces.unshare(namespaces.NEWPID)
    refusal = attempt(lambda: mounts.mount("proc", "/proc", "proc", mounts.MS_NOSUID | mounts.MS_NODEV))
    if refusal:
        raise OSError(refusal)


def mount_overlay() -> None:
    """An overlay whose changes go to memory."""
    enter_user_namespace()
    mounts.temporary(_SCENE, size=1 << 20, inodes=64)
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(f"{_SCENE}/{name}")
    layers = f"lowerdir={_SCENE}/lower,upperdir={_SCENE}/upper,workdir={_SCENE}/work,userxattr"
    mounts.mount("overlay", f"{_SCENE}/merged", "overlay", 0, layers)
    with open(f"{_SCENE}/merged/file", "wb") as file:
        file.write(b"x")


def seal_mounts() -> None:
    """mount_setattr over a whole tree."""
    enter_user_namespace()
    mounts.temporary(_SCENE, size=1 << 20, inodes=64)
    mounts.seal(_SCENE)
    try:
        os.mkdir(f"{_SCENE}/written")
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
    else:
        raise OSError(errno.ENOTSUP, "a sealed tree could still be written")


def raise_loopback() -> None:
    """A loopback interface that is up."""
    enter_user_namespace()
    namespaces.unshare(namespaces.NEWNET)
    namespaces.raise_loopback()


def filter_calls() -> None:
    """The real filter loads and refuses."""
    seccomp.install(seccomp.build_filter())
    with suppress(PermissionError):
        namespaces.unshare(namespaces.NEWUSER)
        raise OSError(errno.ENOTSUP, "a filtered call was allowed")
    os.getpid()


def confine_paths() -> None:
    """Landlock confines, where the kernel has it."""
    landlock.restrict(["/usr"], [])
    with suppress(PermissionError):
        os.listdir("/etc")
        raise OSError(errno.ENOTSUP, "a path outside the rules could be read")


def open_beneath() -> None:
    """openat2, which resolves below a directory descriptor."""
    how = struct.pack("=QQQ", os.O_RDONLY | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    libc.syscall(_OPENAT2, root, b".", ctypes.c_char_p(how), len(how), what="openat2")


def join_quickly(procs: Sequence[str], pause: float = 0.1, bar: float = 0.002) -> Callable[[], None]:
    """Return a trial that joins these groups now and then; it fails when every join took more than `bar` seconds.

    Moves shortly after one another are always quick: the kernel waits once for all processors and remembers it.
    """

    def trial() -> None:
        taken = []
        for _ in range(3):
            time.sleep(pause)
            began = time.monotonic()
            for path in procs:
                with open(path, "wb", buffering=0) as file:
                    file.write(b"0")
            taken.append(time.monotonic() - began)
        if min(taken) > bar:
            raise OSError(f"{min(taken) * 1000:.0f} ms")

    return trial


def pin_process() -> None:
    """A descriptor that names a process for good."""
    os.close(os.pidfd_open(os.getpid()))
