"""Class A of the attack list, as far as it concerns a Worker run (items 5 and 7 to 15)."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox.syscall_table import CALLS

NUMBERS = {call.name: getattr(call, platform.machine()) for call in CALLS if hasattr(call, platform.machine())}
NOT_THERE = {"ENOENT", "EACCES", "EPERM", "ENOTDIR"}
DEVICES = {"null", "zero", "full", "random", "urandom", "pts", "ptmx", "shm", "fd", "stdin", "stdout", "stderr", "tty"}


def test_the_guest_tries_to_link_files_it_may_only_read(arena: Any) -> None:  # 5
    work = arena.workspace("links")
    code = f"""
sources, targets = ('/usr/bin/env', '/etc/passwd', {os.__file__!r}), ('/tmp/x', '/work/x', '/dev/shm/x')
say([tried(os.link, source, target) for source in sources for target in targets])"""
    answers = arena.ask(code, mounts=[["Writable", {"source": str(work), "target": "/work"}]])
    assert set(answers) <= {"EXDEV", "EPERM", "EACCES"}
    assert list(work.iterdir()) == []
    shutil.rmtree(work)


def test_the_guest_tries_to_flood_a_tree_with_hard_links(arena: Any) -> None:  # 5
    code = """
open('/work/file', 'w').close()
made = 0
try:
    while made < 10_000: os.link('/work/file', f'/work/{made}'); made += 1
except OSError as problem: say([made, errno.errorcode[problem.errno]])"""
    made, error = arena.ask(code, mounts=[["Scratch", {"target": "/work", "size": 1 << 20, "inodes": 200}]])
    assert made < 200
    assert error == "ENOSPC"


def test_the_guest_looks_for_files_of_the_host(arena: Any, canary: Path) -> None:  # 7
    paths = [
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
        str(canary),
        str(arena.directory),
        str(arena.directory / "state"),
        str(Path(__file__).parents[2] / "pyproject.toml"),
        str(Path.home()),
    ]
    code = f"say([tried(lambda: os.listdir(each) if os.path.isdir(each) else open(each).read()) for each in {paths}])"
    assert set(arena.ask(code)) <= NOT_THERE


def test_the_guest_reads_the_account_file_of_the_host(arena: Any) -> None:  # 7
    """It exists, and knows nobody of the host."""
    seen = arena.ask("say(sorted(line.split(':')[0] for line in open('/etc/passwd')))")
    assert set(seen) <= {"root", "worker", "nobody"}


READ_ONLY = ["/", "/usr", "/usr/bin", "/etc", "/dev", "/run", "/usr/lib", os.path.dirname(os.__file__), "/proc"]


def test_the_guest_tries_to_write_where_it_may_only_read(arena: Any) -> None:  # 8
    files = ["/usr/bin/env", "/etc/passwd", "/etc/hosts", os.__file__, os.path.realpath(sys.executable)]
    code = f"""
found = {{}}
for directory in {READ_ONLY}:
    found[directory] = [tried(open, directory + '/attack', 'w'), tried(os.mkdir, directory + '/attack'),
                        tried(os.symlink, 'x', directory + '/attack'), tried(os.mkfifo, directory + '/attack')]
for file in {files}:
    again = os.open(file, os.O_RDONLY)
    found[file] = [tried(open, file, 'a'), tried(os.unlink, file), tried(os.rename, file, file + '.old'),
                   tried(os.chmod, file, 0o777), tried(os.utime, file), tried(os.truncate, file, 0),
                   tried(os.setxattr, file, 'user.attack', b'x'), tried(os.open, f'/proc/self/fd/{{again}}', os.O_RDWR)]
say(found)"""
    for path, answers in arena.ask(code).items():
        assert set(answers) <= {"EROFS", "EACCES", "EPERM", "EBUSY", "ENOENT", "EXDEV", "ETXTBSY"}, (path, answers)


def test_the_guest_looks_for_the_sandbox_s_own_source(arena: Any) -> None:  # 8
    """A fork of the zygote holds modules of ours in memory; their files must not be there to be written."""
    code = """
import importlib.util
where = [getattr(module, '__file__', '') or '' for module in list(sys.modules.values())]
writable = sorted(each for each in where if os.path.exists(each) and os.access(each, os.W_OK))
say([writable, 'clawplane' in sys.modules])"""
    writable, ours = arena.forked(code).said()
    assert writable == []
    assert not ours


MOUNT_CALLS = {
    "mount a tmpfs": ("mount", "b'none', b'/tmp', b'tmpfs', 0, 0"),
    "remount writable": ("mount", "b'none', b'/usr', 0, 32 | 4096, 0"),
    "remount with set-uid": ("mount", "b'none', b'/tmp', 0, 32, 0"),
    "bind": ("mount", "b'/usr', b'/tmp', 0, 4096, 0"),
    "unmount": ("umount2", "b'/usr', 2"),
    "unmount a mask": ("umount2", "b'/proc/kallsyms', 2"),
    "pivot": ("pivot_root", "b'/tmp', b'/tmp'"),
    "chroot": ("chroot", "b'/tmp'"),
    "open_tree": ("open_tree", "-100, b'/usr', 1"),
    "move_mount": ("move_mount", "-100, b'/usr', -100, b'/tmp', 0"),
    "fsopen": ("fsopen", "b'tmpfs', 0"),
    "fsconfig": ("fsconfig", "0, 6, 0, 0, 0"),
    "fsmount": ("fsmount", "0, 0, 0"),
    "fspick": ("fspick", "-100, b'/usr', 0"),
    "mount_setattr": ("mount_setattr", "-100, b'/usr', 0, ctypes.create_string_buffer(32), 32"),
}


@pytest.mark.parametrize("what", MOUNT_CALLS)
def test_the_guest_tries_to_change_the_mount_tree(what: str, arena: Any) -> None:  # 8, 9
    name, arguments = MOUNT_CALLS[what]
    assert arena.ask(f"say(system_call({NUMBERS[name]}, {arguments}))") == "EPERM"


def test_the_guest_tries_to_walk_out_of_its_root(arena: Any) -> None:  # 10
    code = """
os.mkdir('/tmp/jail')
outside = os.open('/', os.O_RDONLY)
answers = [tried(os.chroot, '/tmp/jail')]
os.fchdir(outside)
for _ in range(64): os.chdir('..')
here = os.stat('.')
root = os.stat('/')
say([answers, (here.st_dev, here.st_ino) == (root.st_dev, root.st_ino), os.listdir('.') == os.listdir('/')])"""
    answers, same, listing = arena.ask(code)
    assert answers == ["EPERM"]
    assert same
    assert listing


def test_the_guest_tries_a_nested_user_namespace_for_mounts_of_its_own(arena: Any) -> None:  # 11
    guest = arena.shell("unshare -Urm sh -c 'mount -t tmpfs none /tmp && echo MOUNTED'; bwrap --bind / / true; true")
    guest.end()
    assert b"MOUNTED" not in guest.out
    assert b"not permitted" in guest.err


def test_the_guest_tries_to_make_and_open_devices(arena: Any) -> None:  # 12
    code = """
import stat
nodes = {name: os.makedev(*numbers) for name, numbers in
         dict(mem=(1, 1), kmsg=(1, 11), vda=(254, 0), kvm=(10, 232), fuse=(10, 229), tun=(10, 200)).items()}
made = [tried(os.mknod, f'/tmp/{name}', kind | 0o666, number)
        for name, number in nodes.items() for kind in (stat.S_IFCHR, stat.S_IFBLK)]
opened = [tried(os.open, f'/dev/{name}', os.O_RDWR) for name in
          'mem kmem port kmsg kvm fuse net/tun vsock vhost-vsock sda vda loop0 loop-control uinput'.split()]
say([sorted(set(made)), sorted(set(opened)), os.listdir('/dev')])"""
    made, opened, listing = arena.ask(code)
    assert made == ["EPERM"]
    assert opened == ["ENOENT"]
    assert set(listing) <= DEVICES


def test_the_guest_looks_for_what_another_guest_left_in_scratch_space(arena: Any) -> None:  # 13
    first = arena.python(
        "open('/dev/shm/left', 'w').write('x'); open('/tmp/left', 'w').write('x')\n"
        "hidden = open('/tmp/unlinked', 'w'); os.unlink('/tmp/unlinked'); print('WRITTEN', flush=True); signal.pause()"
    )
    first.wait_for(b"WRITTEN")
    code = """
pids = [int(each) for each in os.listdir('/proc') if each.isdigit()]
say([os.listdir('/dev/shm'), os.listdir('/tmp'), pids])"""
    shared_memory, temporary, pids = arena.ask(code)
    assert shared_memory == []
    assert temporary == []
    assert max(pids) < 10  # a pid namespace of its own: no process of the first guest to take descriptors from
    first.kill()


def test_the_guest_tries_to_meet_another_one_on_abstract_sockets_and_ipc(arena: Any) -> None:  # 13
    code = """
import mmap
one = socket.socket(socket.AF_UNIX); one.bind('\\0clawplane-meeting'); one.listen()
_libc.shmget(0x1234, 4096, 0o1666); _libc.msgget(0x1234, 0o1666)
print('BOUND', flush=True); signal.pause()"""
    first = arena.python(code)
    first.wait_for(b"BOUND")
    found = arena.ask("""
two = socket.socket(socket.AF_UNIX)
refused = tried(two.connect, '\\0clawplane-meeting')
say([refused, _libc.shmget(0x1234, 4096, 0), _libc.msgget(0x1234, 0)])""")
    assert found == ["ECONNREFUSED", -1, -1]
    first.kill()


def test_the_guest_tries_set_user_id_and_file_capabilities(arena: Any) -> None:  # 14
    work = arena.workspace("setuid")
    code = """
import shutil
answers = []
for place in ('/tmp', '/work'):
    shutil.copy('/usr/bin/id', place + '/id'); os.chmod(place + '/id', 0o6755)
    answers.append(subprocess.run([place + '/id', '-u'], capture_output=True, text=True).stdout.strip())
    answers.append(tried(os.setxattr, place + '/id', 'security.capability', b'\\1\\0\\0\\2' + b'\\xff' * 16))
flags = {line.split()[1]: line.split()[3].split(',') for line in open('/proc/self/mounts')}
say([answers, sorted(point for point, found in flags.items() if 'nosuid' not in found)])"""
    answers, without_nosuid = arena.ask(code, mounts=[["Writable", {"source": str(work), "target": "/work"}]])
    assert answers == ["1000", "EPERM", "1000", "EPERM"]
    assert without_nosuid == []
    assert not (work / "id").stat().st_mode & 0o6000  # the host took it away when the guest was gone
    assert (work / "id").stat().st_uid == arena.uid
    shutil.rmtree(work)


@pytest.mark.parametrize("program", ["su -c id", "mount -t tmpfs none /tmp", "passwd -S", "newgrp root"])
def test_the_guest_runs_a_set_user_id_program_of_the_host(program: str, arena: Any) -> None:  # 14
    guest = arena.shell(f"{program} </dev/null; grep ^Uid: /proc/self/status")
    guest.end()
    assert b"uid=0" not in guest.out
    assert b"Uid:\t1000\t1000\t1000\t1000" in guest.out


def test_the_guest_tries_to_watch_what_others_do_with_shared_files(arena: Any) -> None:  # 15
    code = f"""
say([system_call({NUMBERS["fanotify_init"]}, 0, 0), system_call({NUMBERS["fanotify_mark"]}, 0, 1, 1, -100, b'/usr'),
     system_call({NUMBERS["fcntl"]}, os.open('/usr/bin/env', os.O_RDONLY), 1024, 0),
     system_call({NUMBERS["fcntl"]}, os.open('/usr/bin', os.O_RDONLY), 1026, 1)])"""
    assert arena.ask(code) == ["EPERM"] * 4


@pytest.mark.parametrize("content", ["../../../../etc/shadow", "/etc/shadow", "/proc/self/root"])
def test_links_a_guest_leaves_behind_are_not_followed_by_the_host(content: str, arena: Any, canary: Path) -> None:  # 3
    """The host hands a written tree over to itself afterwards: owners and modes change on the links only."""
    work = arena.workspace("left")
    code = f"""
os.symlink({content!r}, '/work/link'); os.symlink({str(canary)!r}, '/work/canary')
os.mkdir('/work/inner'); os.symlink('/', '/work/inner/root'); say(1)"""
    arena.ask(code, mounts=[["Writable", {"source": str(work), "target": "/work"}]])
    assert (work / "link").is_symlink()
    assert os.lstat(work / "canary").st_uid == arena.uid
    shutil.rmtree(work)
