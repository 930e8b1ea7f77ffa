"""Build the file tree a guest sees: tmpfs root, the host's programs, a minimal /etc and /dev, the policy's mounts.

Theory of operation
- Once per zygote a template is laid out in a tmpfs on the staging directory: `etc` and `dev`, sealed. Each guest binds
  these two whole, which costs one call each instead of twenty.
- Per guest a fresh tmpfs becomes the root. What differs between guests (hosts, resolver, host name) lies in /run, where
  /etc points to. When everything is mounted the root itself is sealed and pivoted into.
- A tree may stay half-made for a while: the rest of its mounts is added when it is known (see inside/child.py).
- Mount points of the policy are walked name by name without following links, because an uploaded package may contain
  any link it likes; they are created only in memory of ours, never through a bind in a host directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Sequence
from typing import Final

from clawplane.sandbox import mounts
from clawplane.sandbox.identity import Identity
from clawplane.sandbox.inside import etc, trees
from clawplane.sandbox.policy import MIB, Link, Mount, Overlay, Policy, ReadOnly, Scratch, Writable

_DEVICES: Final = ("null", "zero", "full", "random", "urandom")
_DEVICE_LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
_PROGRAM_TREES: Final = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_MASKED: Final = ("kcore", "keys", "key-users", "kallsyms", "timer_list", "sysrq-trigger", "kpagecount", "kpageflags")
_SHARED_MEMORY: Final = Scratch("/dev/shm", size=64 * MIB, inodes=4096)
_TEMPORARY: Final = Scratch("/tmp", size=64 * MIB)


class SetupError(Exception):
    """The tree a policy asks for cannot be built; the message names the mount and the reason."""


def prepare_template(staging: str) -> None:
    """Lay out what all guests of this zygote share; needs a mount namespace of its own."""
    mounts.follow_but_do_not_lead()
    mounts.temporary(staging, size=4 * MIB, inodes=4096)
    for name in ("etc", "dev", "root"):
        os.mkdir(f"{staging}/{name}")
    mounts.temporary(f"{staging}/dev", size=MIB, inodes=64)
    _fill_devices(f"{staging}/dev")
    mounts.temporary(f"{staging}/etc", size=4 * MIB, inodes=1024)
    etc.fill(f"{staging}/etc")
    mounts.seal(f"{staging}/etc")


def begin(staging: str, policy: Policy, identity: Identity, prefixes: Sequence[str], *, translate: bool) -> Tree:
    """Mount the tree for `policy`; more may be added before it is finished.

    `prefixes` are interpreter trees shown read-only at their own place; translate=True when file owners must be
    translated because the guest's id is not the one that owns the sources.
    Raises SetupError and OSError.
    """
    root = f"{staging}/root"
    mounts.temporary(root, size=4 * MIB, inodes=8192)
    _bind_programs(root)
    for name in ("proc", "dev", "etc", "run"):
        os.mkdir(f"{root}/{name}")
    mounts.mount(f"{staging}/dev", f"{root}/dev", flags=mounts.MS_BIND | mounts.MS_REC)
    own_etc = any(each.target.startswith("/etc/") for each in policy.mounts)
    if own_etc:
        etc.fill(f"{root}/etc")
    else:
        mounts.mount(f"{staging}/etc", f"{root}/etc", flags=mounts.MS_BIND | mounts.MS_REC)
    etc.write_run(f"{root}/run", policy)
    _mount_proc(f"{root}/proc")
    options = f"newinstance,ptmxmode=0666,mode=0620,uid={identity.uid},gid={identity.gid}"
    mounts.mount("devpts", f"{root}/dev/pts", "devpts", mounts.MS_NOSUID | mounts.MS_NOEXEC, options)
    tree = Tree(root, identity, translate)
    tree.add(_with_defaults(policy.mounts, prefixes))
    return tree


def writable_targets(listed_mounts: Iterable[Mount]) -> list[str]:
    """Return the trees a guest with these mounts may write to, beside /dev and /proc."""
    listed = [each.target for each in listed_mounts if not isinstance(each, ReadOnly)]
    return sorted({*listed, _TEMPORARY.target, _SHARED_MEMORY.target})


def _with_defaults(listed: Iterable[Mount], prefixes: Iterable[str]) -> list[Mount]:
    by_target: dict[str, Mount] = {each: ReadOnly(each, each) for each in prefixes}
    for default in (_TEMPORARY, _SHARED_MEMORY):
        by_target[default.target] = default
    for each in listed:
        by_target[os.path.normpath(each.target)] = each
    for target, link in list(by_target.items()):
        if isinstance(link, Link) and any(other.startswith(f"{target}/") for other in by_target):
            by_target[target] = Scratch(target)  # such as an interpreter in the home of a user who is called user
    return [by_target[target] for target in sorted(by_target)]  # a tree comes before what is mounted in it


def _bind_programs(root: str) -> None:
    for name in _PROGRAM_TREES:
        try:
            mode = os.lstat(f"/{name}").st_mode
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        else:
            os.mkdir(f"{root}/{name}")
            mounts.bind(f"/{name}", f"{root}/{name}", mounts.SEALED)


def _fill_devices(directory: str) -> None:
    for name in _DEVICES:
        os.close(os.open(f"{directory}/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        mounts.mount(f"/dev/{name}", f"{directory}/{name}", flags=mounts.MS_BIND)
        mounts.seal(f"{directory}/{name}", mounts.ATTR_NOSUID | mounts.ATTR_NOEXEC)
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"{directory}/{name}")
    for name in ("pts", "shm"):
        os.mkdir(f"{directory}/{name}")
    mounts.seal(directory, mounts.ATTR_RDONLY | mounts.ATTR_NOSUID, recursive=False)


def _mount_proc(target: str) -> None:
    mounts.mount("proc", target, "proc", mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC)
    for name in _MASKED:
        if os.path.exists(f"{target}/{name}"):
            mounts.mount("/dev/null", f"{target}/{name}", flags=mounts.MS_BIND)
            mounts.seal(f"{target}/{name}", mounts.ATTR_RDONLY | mounts.ATTR_NOSUID | mounts.ATTR_NOEXEC)


class Tree:
    """The policy's mounts, below one root."""

    def __init__(self, root: str, identity: Identity, translate: bool) -> None:
        self._root = root
        self._identity = identity
        self._translate = translate
        self._host_trees: list[str] = []
        self._idmaps: dict[tuple[int, int], int] = {}

    def expect(self, owner: tuple[int, int]) -> None:
        """Prepare for sources that belong to `owner`: what may be done early is done."""
        if self._translate:
            with contextlib.suppress(PermissionError):
                self._idmap(owner)

    def finish(self) -> None:
        """Seal the root, and make it that of this mount namespace."""
        for descriptor in self._idmaps.values():
            os.close(descriptor)
        self._idmaps.clear()
        mounts.seal(self._root, recursive=False)
        mounts.pivot(self._root)

    def add(self, listed: Iterable[Mount]) -> None:
        """Mount in this order; raises SetupError."""
        for each in listed:
            try:
                self._add(each)
            except OSError as problem:
                raise SetupError(
                    f"{type(each).__name__} mount at {each.target}: {problem.strerror or problem}"
                ) from None

    def _add(self, each: Mount) -> None:
        if isinstance(each, Link):
            self._link(each)
            return
        is_file = isinstance(each, ReadOnly) and not os.path.isdir(each.source)
        point = self._mount_point(each.target, is_file)
        try:
            target = f"/proc/self/fd/{point}"
            match each:
                case ReadOnly():
                    mounts.bind(each.source, target, mounts.SEALED)
                case Writable():
                    self._bind_writable(each, target)
                case Scratch():
                    mode = 0o1777 if each.target in (_TEMPORARY.target, _SHARED_MEMORY.target) else 0o755
                    owner = self._identity.owner
                    mounts.temporary(target, size=each.size, inodes=each.inodes, mode=mode, owner=owner)
                case Overlay():
                    self._overlay(each, target)
        finally:
            os.close(point)
        if isinstance(each, ReadOnly | Writable):
            self._host_trees.append(each.target)

    def _link(self, each: Link) -> None:
        directory, name = os.path.split(os.path.normpath(each.target))
        if any(os.path.commonpath([tree, each.target]) == tree for tree in self._host_trees):
            raise SetupError(f"a link at {each.target} would lie in a tree of the host")
        parent = self._mount_point(directory, is_file=False)
        try:
            os.symlink(each.source, name, dir_fd=parent)
        finally:
            os.close(parent)

    def _mount_point(self, target: str, is_file: bool) -> int:
        """Open the place named `target`, following no link and creating what is missing in our own memory only."""
        if not target.startswith("/") or ".." in target.split("/"):
            raise SetupError(f"mount target {target!r} is not an absolute path without '..'")
        names = [name for name in target.split("/") if name not in ("", ".")]
        if not names:
            raise SetupError("nothing can be mounted over the root directory")
        may_create = not any(os.path.commonpath([tree, target]) == tree for tree in self._host_trees)
        here = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for position, name in enumerate(names):
            last_is_file = is_file and position == len(names) - 1
            try:
                inner = self._step(here, name, last_is_file, may_create)
            except OSError as problem:
                if problem.errno in (errno.ENOENT, errno.EROFS):
                    raise SetupError(f"mount point {target} does not exist in the tree it lies in") from None
                if problem.errno in (errno.ENOTDIR, errno.ELOOP):
                    raise SetupError(f"mount point {target} is reached through a link or a file") from None
                raise
            finally:
                os.close(here)
            here = inner
        return here

    def _step(self, here: int, name: str, is_file: bool, may_create: bool) -> int:
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC | (0 if is_file else os.O_DIRECTORY)
        try:
            return os.open(name, flags, dir_fd=here)
        except FileNotFoundError:
            if not may_create:
                raise
        if is_file:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=here))
        else:
            os.mkdir(name, 0o755, dir_fd=here)
        return os.open(name, flags, dir_fd=here)

    def _bind_writable(self, each: Writable, target: str) -> None:
        attributes = mounts.ATTR_NOSUID | mounts.ATTR_NODEV
        if not self._translate or not self._bind_translated(each.source, target, attributes):
            if self._translate:
                trees.give(each.source, self._identity.owner)
            mounts.bind(each.source, target, attributes)

    def _bind_translated(self, source: str, target: str, attributes: int) -> bool:
        """Try to show `source` as owned by the guest; False where the file system cannot."""
        found = os.stat(source)
        try:
            idmap = self._idmap((found.st_uid, found.st_gid))
        except PermissionError:
            return False
        try:
            mounts.bind(source, target, attributes, idmap=idmap)
        except OSError as problem:
            if problem.errno not in (errno.EINVAL, errno.EPERM, errno.ENOSYS):
                raise
            return False
        return True

    def _idmap(self, owner: tuple[int, int]) -> int:
        if owner not in self._idmaps:
            self._idmaps[owner] = mounts.idmap_descriptor(owner, self._identity.owner)
        return self._idmaps[owner]

    def _overlay(self, each: Overlay, target: str) -> None:
        """Lay a limited tmpfs over the source, or copy the source into it where overlayfs does not work."""
        lower, memory = f"{self._root}/.lower", f"{self._root}/.memory"
        for directory in (lower, memory):
            os.makedirs(directory, exist_ok=True)
        owner = self._identity.owner
        mounts.temporary(memory, size=each.size, inodes=each.inodes, owner=owner)
        layered = False
        if self._bind_lower(each.source, lower):
            layered = _try_overlay(self._root, target, owner, user_attributes=not self._translate)
            mounts.detach(lower)
        if not layered:
            trees.copy(each.source, memory, owner)
            mounts.mount(memory, target, flags=mounts.MS_BIND)
        mounts.detach(memory)
        os.rmdir(lower)
        os.rmdir(memory)

    def _bind_lower(self, source: str, lower: str) -> bool:
        if self._translate:
            return self._bind_translated(source, lower, mounts.SEALED)
        if os.stat(source).st_uid != self._identity.uid:
            return False  # only a copy would be the guest's to change
        mounts.bind(source, lower, mounts.SEALED)
        return True


def _try_overlay(root: str, target: str, owner: tuple[int, int], *, user_attributes: bool) -> bool:
    before = os.getcwd()
    os.chdir(root)  # relative layer names need no quoting, whatever the staging directory is called
    try:
        for name in ("upper", "work"):
            os.mkdir(f".memory/{name}", 0o755)
            os.chown(f".memory/{name}", *owner)
        os.chmod(".memory/upper", stat.S_IMODE(os.stat(".lower").st_mode) | 0o700)
        options = "lowerdir=.lower,upperdir=.memory/upper,workdir=.memory/work"
        if user_attributes:
            # without these attributes a removed and re-created directory would fail with EIO later on
            os.setxattr(".memory/upper", "user.overlay.probe", b"y")
            os.removexattr(".memory/upper", "user.overlay.probe")
            options += ",userxattr"
        mounts.mount("overlay", target, "overlay", mounts.MS_NOSUID | mounts.MS_NODEV, options)
    except OSError:
        for name in ("upper", "work"):
            trees.remove_empty(f".memory/{name}")
        return False
    finally:
        os.chdir(before)
    return True
