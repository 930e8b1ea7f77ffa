"""Find out what this host offers for isolation, and say in plain words how to mend what it lacks.

`clawplane doctor` prints the findings; a runner refuses to start while a critical one is not ok. Nothing is assumed
from version numbers: each kernel feature is tried (see trials). The remedies name commands for Debian and Ubuntu.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clawplane.sandbox import landlock, trials
from clawplane.sandbox.cgroups import Cgroups, Group
from clawplane.sandbox.policy import MIB, Limits

_LITTLE_SPACE: Final = 5 * 1024 * MIB
_NO_SPACE: Final = 512 * MIB
_USEFUL_LANDLOCK: Final = 2
_IDS_NEEDED: Final = 65_536
_REMOVE_SECONDS: Final = 2.0
_NEWER_KERNEL: Final = "Run Linux 5.15 or newer: sudo apt install linux-image-amd64 && sudo reboot."


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about the host: `critical` ones must be `ok` before anything runs."""

    id: str
    ok: bool
    critical: bool
    title: str
    cause: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """Where to look: the root of /proc/sys and /dev, the data directory and the interpreter in question."""

    root: Path = Path("/")
    data: Path = Path("/var/tmp")  # only its free space is read
    interpreter: Path = Path(sys.executable)

    def setting(self, name: str) -> str:
        """Return the value of a kernel setting, "" when this kernel has no such setting."""
        try:
            return (self.root / "proc/sys" / name).read_text(encoding="ascii").strip()
        except OSError:
            return ""


def probe(host: Host | None = None, *, cgroups: Cgroups | None = None) -> list[Finding]:
    """Try every isolation step and return one finding each, in the order a launch needs them.

    Pass the runner's own `cgroups` where they are detected already; else they are detected and given up again. Forks:
    call it before threads are started.
    """
    host = host or Host()
    findings = [_user_namespaces(host)]
    blocked = not findings[0].ok
    findings.append(_identities())
    findings += [_namespace(kind, blocked) for kind in trials.NAMESPACES]
    findings += [_inside_user_namespace(blocked, *step) for step in _STEPS]
    findings += [_kernel_feature(*feature) for feature in _FEATURES]
    findings.append(_landlock())
    findings += _cgroups(cgroups)
    findings += [_interpreter(host), _null_device(host), _node(), _disk(host)]
    return findings


def refusals(findings: Sequence[Finding]) -> list[Finding]:
    """Return what forbids running anything: the critical findings that are not ok."""
    return [finding for finding in findings if finding.critical and not finding.ok]


def _user_namespaces(host: Host) -> Finding:
    refusal = trials.attempt(trials.nest_user_namespaces)
    if not refusal:
        return Finding("user-namespaces", True, True, "User namespaces")
    cause, remedy = _why_no_user_namespaces(host, refusal)
    return Finding("user-namespaces", False, True, "User namespaces", cause, remedy)


def _why_no_user_namespaces(host: Host, refusal: str) -> tuple[str, str]:
    ordinary = os.geteuid() != 0
    if ordinary and host.setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return (
            f"AppArmor forbids ordinary users to use user namespaces, as Ubuntu 24.04 does by default ({refusal}).",
            "Run: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, and keep it in "
            "/etc/sysctl.d/60-clawplane.conf; or start the runner as root.",
        )
    if ordinary and host.setting("kernel/unprivileged_userns_clone") == "0":
        return (
            f"The kernel setting unprivileged_userns_clone is 0 ({refusal}).",
            "Run: sudo sysctl -w kernel.unprivileged_userns_clone=1, and keep it in /etc/sysctl.d/60-clawplane.conf.",
        )
    if host.setting("user/max_user_namespaces") == "0":
        return (
            f"The kernel setting user.max_user_namespaces is 0 ({refusal}).",
            "Run: sudo sysctl -w user.max_user_namespaces=65536, and keep it in /etc/sysctl.d/60-clawplane.conf.",
        )
    return (
        f"The kernel refuses them: {refusal}.",
        "In a container, start it with a seccomp and AppArmor profile that allows unshare, clone and mount "
        "(Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined --cap-add SYS_ADMIN); "
        "on a machine of your own, use a kernel built with CONFIG_USER_NS.",
    )


def _identities() -> Finding:
    title = "A user id of its own for every guest"
    if os.geteuid() != 0:
        return Finding("uid-range", True, False, title, "Not root: every guest is a user namespace of this one user.")
    refusal = trials.attempt(trials.become_foreign)
    if refusal:
        return Finding(
            "uid-range",
            False,
            True,
            title,
            f"Root cannot change to another id here: {refusal}.",
            "Give the container the capabilities SETUID, SETGID and SETPCAP, or start the runner as an ordinary user.",
        )
    mapped = _mapped_ids("/proc/self/uid_map")
    if mapped < _IDS_NEEDED:
        return Finding(
            "uid-range",
            False,
            True,
            title,
            f"This root knows only {mapped} user ids, because it lives in a user namespace itself.",
            "Give it more with a line in /etc/subuid and /etc/subgid, e.g. clawplane:200000:65536.",
        )
    return Finding("uid-range", True, True, title)


def _mapped_ids(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return sum(int(line.split()[2]) for line in file)


def _namespace(kind: str, blocked: bool) -> Finding:
    title = f"{kind.capitalize()} namespace"
    remedy = "Use a kernel with all namespaces, or give the container the right to make them."
    return _inside_user_namespace(blocked, f"{kind}-namespace", title, trials.enter(kind), remedy)


_STEPS: Final[tuple[tuple[str, str, Callable[[], None], str], ...]] = (
    (
        "loopback",
        "Loopback interface in a network namespace",
        trials.raise_loopback,
        "Use a kernel with CONFIG_NET_NS, or allow the ioctl SIOCSIFFLAGS in the container's profile.",
    ),
    (
        "proc",
        "A /proc of its own",
        trials.mount_proc,
        "Containers with a masked /proc refuse this: start them with an unmasked one "
        "(Docker: --security-opt systempaths=unconfined; Kubernetes: procMount: Unmasked).",
    ),
    (
        "overlay",
        "Overlay file systems in a user namespace",
        trials.mount_overlay,
        "Run Linux 5.11 or newer and load the module: sudo modprobe overlay.",
    ),
    ("mount-setattr", "Sealing whole mount trees (mount_setattr)", trials.seal_mounts, _NEWER_KERNEL),
)


def _inside_user_namespace(blocked: bool, key: str, title: str, trial: Callable[[], None], remedy: str) -> Finding:
    if blocked:
        return Finding(key, False, True, title, "Not tried: it needs user namespaces.", "Mend user namespaces first.")
    return _kernel_feature(key, title, trial, remedy)


_FEATURES: Final[tuple[tuple[str, str, Callable[[], None], str], ...]] = (
    (
        "seccomp",
        "System call filter (seccomp)",
        trials.filter_calls,
        "Use x86_64 or aarch64 and a kernel with CONFIG_SECCOMP_FILTER; allow prctl in the container's profile.",
    ),
    ("openat2", "Path resolution below a directory (openat2)", trials.open_beneath, _NEWER_KERNEL),
    ("pidfd", "Process descriptors (pidfd)", trials.pin_process, _NEWER_KERNEL),
)


def _kernel_feature(key: str, title: str, trial: Callable[[], None], remedy: str) -> Finding:
    refusal = trials.attempt(trial)
    if refusal:
        return Finding(key, False, True, title, f"The kernel refuses: {refusal}.", remedy)
    return Finding(key, True, True, title)


def _landlock() -> Finding:
    version = landlock.abi()
    title = f"Landlock (ABI {version})" if version else "Landlock"
    if version < _USEFUL_LANDLOCK:
        return Finding(
            "landlock",
            False,
            False,
            title,
            "This kernel has no Landlock, or too old a one; guests run without this second layer.",
            "Run Linux 5.19 or newer with landlock in the boot parameter lsm= (see /sys/kernel/security/lsm).",
        )
    refusal = trials.attempt(trials.confine_paths)
    if refusal:  # offered and refused would end every guest at its start
        remedy = "Allow the landlock system calls in the container's profile, or deny them with ENOSYS."
        return Finding("landlock", False, True, title, f"It is there and does not work: {refusal}.", remedy)
    return Finding("landlock", True, False, title)


def _cgroups(given: Cgroups | None) -> list[Finding]:
    cgroups = given or Cgroups.detect()
    try:
        return [*(_controller(cgroups, name, what) for name, what in _CONTROLLERS), _cgroup_moves(cgroups)]
    finally:
        if given is None:
            cgroups.close()


_CONTROLLERS: Final = (
    ("memory", "Memory limit"),
    ("pids", "Process limit"),
    ("cpu", "CPU share"),
    ("freezer", "Freezing"),
)
_WITHOUT: Final = {
    "memory": "Memory is limited per process (rlimits) and polled instead, which is weaker.",
    "pids": "Processes are limited per user (rlimits) instead, which does not bind root.",
    "cpu": "CPU shares of Workers are not enforced.",
    "freezer": "Trees are stopped by signals instead, which guests can see.",
}


def _controller(cgroups: Cgroups, name: str, what: str) -> Finding:
    ok = name in cgroups.controllers
    title = f"{what} by cgroup {name}" + (f" ({cgroups.version_of(name)})" if ok else "")
    if ok:
        return Finding(f"cgroup-{name}", True, False, title)
    reason = cgroups.missing[name]
    return Finding(
        f"cgroup-{name}",
        False,
        False,
        title,
        f"{_WITHOUT[name]} ({reason})",
        "Start the runner as root, or with delegated cgroups: systemd-run --user --scope -p Delegate=yes clawplane up; "
        "as a systemd unit, add Delegate=yes.",
    )


def _cgroup_moves(cgroups: Cgroups) -> Finding:
    """See what entering a cgroup costs: every interpreter and every program of a session does it once."""
    title = "Quick moves between cgroups"
    try:
        group = cgroups.create(f"probe-{os.getpid()}", Limits(memory=None, processes=None))
    except OSError as error:
        return Finding("cgroup-moves", False, False, title, f"No cgroup can be made: {error}.", "See the lines above.")
    try:
        part = group.gather("part")
        slow = "" if part is None else trials.attempt(trials.join_quickly(part.entrances[-1:]))
    finally:
        _remove(group)
    if not slow:
        return Finding("cgroup-moves", True, False, title)
    return Finding(
        "cgroup-moves",
        False,
        False,
        title,
        f"A start waits for the kernel to move it when none came shortly before ({slow}).",
        "On Linux 6.0 or newer, run: sudo mount -o remount,favordynmods /sys/fs/cgroup (with a hybrid layout "
        "/sys/fs/cgroup/unified); it holds until the next boot.",
    )


def _remove(group: Group) -> None:
    deadline = time.monotonic() + _REMOVE_SECONDS
    while not group.remove() and time.monotonic() < deadline:
        time.sleep(0.01)  # the kernel empties a group a moment after its last process ended


def _interpreter(host: Host) -> Finding:
    title = "A Python interpreter that guests can read"
    try:
        real = host.interpreter.resolve(strict=True)
    except OSError as error:
        return Finding("interpreter", False, True, title, f"{error}", "Make the virtual environment again: make setup.")
    if os.geteuid() != 0:
        return Finding("interpreter", True, True, f"{title} ({real})")
    for path in (real, Path(sys.base_prefix)):
        mode = path.stat().st_mode
        if not mode & stat.S_IXOTH or not mode & stat.S_IROTH:
            return Finding(
                "interpreter",
                False,
                True,
                title,
                f"{path} is closed to other users, and guests are other users.",
                f"Run: chmod -R o+rX {path}, or use the distribution's Python: sudo apt install python3-venv.",
            )
    return Finding("interpreter", True, True, f"{title} ({real})")


def _null_device(host: Host) -> Finding:
    title = "A sane /dev/null"
    cause = ""
    try:
        found = (host.root / "dev/null").stat()
    except OSError as error:
        cause = f"{error}."
    else:
        real = stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(1, 3)
        if not real or found.st_mode & 0o666 != 0o666:
            cause = f"/dev/null is not the null device open to everybody (mode {stat.filemode(found.st_mode)})."
    if not cause:
        return Finding("dev-null", True, True, title)
    remedy = "Run: sudo rm -f /dev/null && sudo mknod -m 666 /dev/null c 1 3."
    return Finding("dev-null", False, True, title, cause, remedy)


def _node() -> Finding:
    path = shutil.which("node")
    if path is not None:
        return Finding("node", True, False, f"Node.js for Node Workers ({path})")
    cause = "There is no node on the PATH; Python and Go Workers run without it (Go Workers are uploaded as binaries)."
    return Finding("node", False, False, "Node.js for Node Workers", cause, "Run: sudo apt install nodejs npm.")


def _disk(host: Host) -> Finding:
    space = shutil.disk_usage(next(path for path in (host.data, *host.data.parents) if path.exists()))
    title = f"Free disk space for {host.data} ({space.free // MIB} MiB)"
    if space.free >= _LITTLE_SPACE:
        return Finding("disk", True, True, title)
    return Finding(
        "disk",
        False,
        space.free < _NO_SPACE,
        title,
        f"Only {space.free // MIB} MiB are free where environments and results are kept.",
        "Free some space (sudo apt clean), or choose another place with --data DIR.",
    )
