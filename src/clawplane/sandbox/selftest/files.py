"""Class A: the file system (items 5 and 7 to 15)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from clawplane.sandbox.policy import MIB, Scratch
from clawplane.sandbox.selftest.items import Attack, Outcome, calls, refused, says

_NOT_THERE: Final = ("ENOENT", "EACCES", "EPERM", "ENOTDIR")
_SEALED: Final = ("EROFS", "EACCES", "EPERM", "EBUSY", "ENOENT", "EXDEV", "ETXTBSY")
_HOST_FILES: Final = (
    "/etc/shadow",
    "/etc/sudoers",
    "/root",
    "/root/.ssh/id_rsa",
    "/home",
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/containerd",
    "/run/secrets",
    "/var/lib",
    "/sys/fs/cgroup",
    "/proc/1/root/etc/shadow",
    "/proc/1/cwd",
)
_DEVICES: Final = {"null", "zero", "full", "random", "urandom", "pts", "ptmx", "shm", "fd", "stdin", "stdout", "stderr"}


def attacks(canary: str) -> Sequence[Attack]:
    """Return the attacks; `canary` is a file of the host that nobody inside may reach."""
    return (*_reading(canary), *_writing(), *_mounting(), *_nodes())


def _reading(canary: str) -> Sequence[Attack]:
    paths = [*_HOST_FILES, canary, os.path.expanduser("~")]
    return (
        Attack(
            number=7,
            title="looks for files of the host",
            harmless=True,
            expected="none of them is there",
            code="say([tried(lambda: os.listdir(each) if os.path.isdir(each) else open(each).read()) "
            f"for each in {paths}])",
            judge=refused(*_NOT_THERE),
        ),
        Attack(
            number=7,
            title="reads the account file",
            harmless=True,
            expected="it knows nobody of the host",
            code="say(sorted({line.split(':')[0] for line in open('/etc/passwd')} - {'root', 'worker', 'nobody'}))",
            judge=says([]),
        ),
        Attack(
            number=10,
            title="walks out of its root",
            expected="chroot is refused, and the top is the top",
            code="""
os.mkdir('/tmp/jail')
outside = os.open('/', os.O_RDONLY)
answer = tried(os.chroot, '/tmp/jail')
os.fchdir(outside)
for _ in range(64): os.chdir('..')
here, root = os.stat('.'), os.stat('/')
say([answer, (here.st_dev, here.st_ino) == (root.st_dev, root.st_ino)])""",
            judge=says(["EPERM", True]),
        ),
        Attack(
            number=15,
            title="watches shared files",
            expected="fanotify and leases are refused",
            code=calls(("fanotify_init", "0, 0"), ("fcntl", "os.open('/usr/bin/env', os.O_RDONLY), 1024, 0")),
            judge=refused("EPERM", "ENOSYS"),
        ),
    )


def _writing() -> Sequence[Attack]:
    interpreter, library = os.path.realpath(sys.executable), os.__file__
    return (
        Attack(
            number=5,
            title="links files it may only read",
            expected="refused",
            code="say([tried(os.link, source, target) for source in ('/usr/bin/env', '/etc/passwd') "
            "for target in ('/tmp/x', '/dev/shm/x')])",
            judge=refused("EXDEV", "EPERM", "EACCES"),
        ),
        Attack(
            number=5,
            title="floods a tree with hard links",
            expected="the tree is full first",
            code="""
open('/work/file', 'w').close()
made = 0
try:
    while made < 10_000: os.link('/work/file', f'/work/{made}'); made += 1
except OSError as problem: say(errno.errorcode[problem.errno])""",
            mounts=(Scratch("/work", size=MIB, inodes=200),),
            judge=says("ENOSPC"),
        ),
        Attack(
            number=8,
            title="writes where it may only read",
            expected="refused everywhere",
            code=f"""
found = []
for directory in ('/', '/usr', '/usr/bin', '/etc', '/dev', '/run', '/usr/lib', '/proc', {os.path.dirname(library)!r}):
    found += [tried(open, directory + '/attack', 'w'), tried(os.mkdir, directory + '/attack'),
              tried(os.symlink, 'x', directory + '/attack')]
for file in ('/usr/bin/env', '/etc/passwd', '/etc/hosts', {library!r}, {interpreter!r}):
    again = os.open(file, os.O_RDONLY)
    found += [tried(open, file, 'a'), tried(os.unlink, file), tried(os.chmod, file, 0o777),
              tried(os.truncate, file, 0), tried(os.open, f'/proc/self/fd/{{again}}', os.O_RDWR)]
say(found)""",
            judge=refused(*_SEALED),
        ),
        Attack(
            number=14,
            title="makes a set-user-id program",
            expected="it runs as the guest, and file capabilities are refused",
            code="""
import shutil
shutil.copy('/usr/bin/id', '/tmp/id'); os.chmod('/tmp/id', 0o6755)
said = subprocess.run(['/tmp/id', '-u'], capture_output=True, text=True).stdout.strip()
say([said == str(os.getuid()), tried(os.setxattr, '/tmp/id', 'security.capability', bytes([1, 0, 0, 2]) + bytes(16))])
""",
            judge=says([True, "EPERM"]),
        ),
        Attack(
            number=14,
            title="looks for mounts that honour set-user-id",
            expected="there are none",
            code="""
flags = {line.split()[1]: line.split()[3].split(',') for line in open('/proc/self/mounts')}
say(sorted(point for point, found in flags.items() if 'nosuid' not in found))""",
            judge=says([]),
        ),
    )


def _mounting() -> Sequence[Attack]:
    return (
        Attack(
            number=9,
            title="changes the mount tree, by the old and the new calls",
            expected="refused",
            code=calls(
                ("mount", "b'none', b'/tmp', b'tmpfs', 0, 0"),
                ("mount", "b'none', b'/usr', 0, 32 | 4096, 0"),
                ("mount", "b'/usr', b'/tmp', 0, 4096, 0"),
                ("umount2", "b'/usr', 2"),
                ("pivot_root", "b'/tmp', b'/tmp'"),
                ("open_tree", "-100, b'/usr', 1"),
                ("move_mount", "-100, b'/usr', -100, b'/tmp', 0"),
                ("fsopen", "b'tmpfs', 0"),
                ("fsmount", "0, 0, 0"),
                ("mount_setattr", "-100, b'/usr', 0, ctypes.create_string_buffer(32), 32"),
            ),
            judge=refused("EPERM"),
        ),
        Attack(
            number=11,
            title="mounts in a user namespace of its own",
            expected="there is no such namespace to be had",
            code="""
done = subprocess.run(['unshare', '-Urm', 'sh', '-c', 'mount -t tmpfs none /tmp && echo MOUNTED'],
                      capture_output=True, text=True)
say('MOUNTED' in done.stdout)""",
            needs="unshare",
            judge=says(False),
        ),
    )


def _nodes() -> Sequence[Attack]:
    return (
        Attack(
            number=12,
            title="makes device nodes",
            expected="refused",
            code="""
import stat
say(sorted({tried(os.mknod, f'/tmp/{kind}{major}', kind | 0o666, os.makedev(major, minor))
            for kind in (stat.S_IFCHR, stat.S_IFBLK) for major, minor in ((1, 1), (1, 11), (10, 232), (254, 0))}))""",
            judge=refused("EPERM"),
        ),
        Attack(
            number=12,
            title="looks for devices",
            expected="only harmless ones are there",
            code="say(os.listdir('/dev'))",
            judge=_only_harmless,
        ),
        Attack(
            number=13,
            title="looks for what others left in scratch space",
            expected="its own is empty, and no foreign process is in sight",
            code="""
pids = [int(each) for each in os.listdir('/proc') if each.isdigit()]
say([os.listdir('/dev/shm'), os.listdir('/tmp'), max(pids) < 10])""",
            judge=says([[], [], True]),
        ),
    )


def _only_harmless(outcome: Outcome) -> str:
    listing = outcome.said()
    if not isinstance(listing, list):
        return "it said nothing"
    more = sorted(set(listing) - _DEVICES - {"tty"})
    return f"it found {', '.join(more)}" if more else ""
