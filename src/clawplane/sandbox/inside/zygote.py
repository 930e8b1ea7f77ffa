"""Be a zygote: import once, then fork a guest for every request, one after the other.

Theory of operation
- Started by exec, with an empty environment and the control socket as standard input, so that nothing of the supervisor
  is in its memory. It has one thread, always: a second one would make fork unsafe and user namespaces impossible.
- It lives in a pid namespace of its own, as does every child: when it dies, all its guests die with it.
- Without root it first enters a user namespace, in which it has the rights a child needs for set-up.
- A request is one byte, the number of its output pipes, with the descriptors (see child.Descriptors) that say the
  rest. No answer goes back over the control socket: what happens is reported on the request's own socket, and when the
  zygote dies that one closes by itself. So nobody ever waits for a message that cannot come.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, NoReturn

from clawplane.sandbox import libc, namespaces, seccomp
from clawplane.sandbox.identity import INNER_ID, Identity
from clawplane.sandbox.inside import (
    child,
    command_line,
    descriptors,
    joining,
    memory,
    orders,
    reaper,
    report,
    root,
    signal_mask,
)
from clawplane.sandbox.policy import Listener, Policy, Writable
from clawplane.sandbox.request import (
    Interpreter,
    Request,
    Residence,
    Start,
    decode,
    decode_mounts,
    decode_start,
    encode,
    encode_mounts,
    encode_start,
    memory_file,
)

_OWN_PACKAGE: Final = "clawplane"
_LARGEST_CONFIGURATION: Final = 1 << 16
_MOST_DESCRIPTORS: Final = 32
_GETPPID: Final = {"x86_64": 110, "aarch64": 173}.get(os.uname().machine, 0)
_REHEARSALS: Final = 32  # the interpreter has made up its mind about a function long before that


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the supervisor tells a new zygote."""

    staging: str
    privileged: bool
    cgroups: bool
    preload: tuple[str, ...]
    site_directories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Guest:
    """What `serve` returns in a main process of a guest."""

    start: Start
    search_path: tuple[str, ...]
    command_line: command_line.CommandLine
    hidden: Mapping[str, ModuleType]
    """Our own modules, by name."""
    prepared: Mapping[str, Callable[[int], None]]
    """What `before_forks` of a preloaded module of ours returned, by the module's name."""
    plain_sites: frozenset[str]
    """Site directories without .pth files: there is nothing to read in them."""
    kept: tuple[object, ...]
    """What lives as long as this does: to take it down in each fork would copy the pages it is on."""


def serve(search_path: list[str], rehearse: Callable[[], None]) -> Guest:
    """Answer requests until the supervisor is gone; returns in the forked guests only.

    `search_path` is where this interpreter finds its standard library; `rehearse` does what guests do after that.
    """
    control = _take_control_socket()
    configuration = _receive_configuration(control)
    os.umask(0o022)
    try:
        own_pids = _settle(configuration)
        aside = memory.set_aside() if configuration.preload else []
        surroundings = _prepare(configuration, search_path)
        hidden = _hide_ourselves(configuration, search_path)
        plain_sites = _plain_sites(configuration.site_directories)
        del aside
        _forget_lookups()
        filling = _fill_holes()  # what is made from here on is what forks use, and shall lie together
        _rehearse()
        rehearse()
        prepared = _prepared(configuration.preload, hidden)
        filling += _freeze()
    except BaseException:
        control.send(json.dumps({"failed": traceback.format_exc(limit=-3)[-4000:]}).encode())
        os._exit(1)
    kept = (filling, surroundings, configuration, control)
    control.send(json.dumps({"prefixes": surroundings.prefixes, "version": sys.version.split()[0]}).encode())
    while True:
        given = _next(control)
        start = _fork(surroundings, given, own_pids, control)
        if start is not None:
            return Guest(start, tuple(search_path), surroundings.command_line, hidden, prepared, plain_sites, kept)


def _take_control_socket() -> socket.socket:
    control = socket.socket(fileno=os.dup(0))
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    return control


def _receive_configuration(control: socket.socket) -> Configuration:
    raw: dict[str, Any] = json.loads(control.recv(_LARGEST_CONFIGURATION) or b"{}")
    if not raw:
        os._exit(0)
    return Configuration(
        raw["staging"], raw["privileged"], raw["cgroups"], tuple(raw["preload"]), tuple(raw["site_directories"])
    )


def _settle(configuration: Configuration) -> int:
    """Move into own namespaces; returns a descriptor of the new pid namespace, in the process that is its pid 1."""
    flags = namespaces.NEWNS | namespaces.NEWPID
    uid, gid = os.getuid(), os.getgid()
    namespaces.unshare(flags if configuration.privileged else flags | namespaces.NEWUSER)
    if not configuration.privileged:
        namespaces.write_maps(Identity(uid, gid, INNER_ID))
    inner = os.fork()
    if inner:
        _wait_for(inner)
    namespaces.die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    return os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)


def _wait_for(inner: int) -> NoReturn:
    """Stay as the process the supervisor started, holding nothing open."""
    os.closerange(0, 1024)
    os.waitpid(inner, 0)
    os._exit(0)


def _prepare(configuration: Configuration, search_path: list[str]) -> child.Surroundings:
    root.prepare_template(configuration.staging)
    sys.path[:] = [*search_path, *configuration.site_directories]
    for name in configuration.preload:
        importlib.import_module(name)
    _swallow_output()
    sys.path[:] = search_path
    tasks = os.listdir("/proc/self/task")
    if len(tasks) > 1:
        raise RuntimeError(f"importing {', '.join(configuration.preload)} started threads; it cannot be preloaded")
    shown = command_line.CommandLine.find()
    shown.show(["zygote"])
    return child.Surroundings(
        staging=configuration.staging,
        privileged=configuration.privileged,
        prefixes=(*_interpreter_trees(), *configuration.site_directories),
        program_filter=seccomp.build_filter(allow_memfd=configuration.cgroups),
        command_line=shown,
    )


def _hide_ourselves(configuration: Configuration, search_path: list[str]) -> dict[str, ModuleType]:
    """Take our modules out of reach of an import; a package of the same name may be among the guest's own.

    Done here once and not in every guest: there it would touch, and so copy, every page that holds a module's name.
    """
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == _OWN_PACKAGE}
    hidden["__main__"], sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    kept = (*search_path, *configuration.site_directories)
    for path, finder in list(sys.path_importer_cache.items()):
        if finder is None or not path.startswith(kept):
            del sys.path_importer_cache[path]
    return hidden


def _prepared(preload: Sequence[str], hidden: Mapping[str, ModuleType]) -> dict[str, Callable[[int], None]]:
    """Let preloaded modules of ours make ready what all forks need; what they return is called in a fork."""
    hooks = {name: getattr(hidden.get(name), "before_forks", None) for name in preload}
    return {name: hook() for name, hook in hooks.items() if hook is not None}


def _plain_sites(directories: Sequence[str]) -> frozenset[str]:
    return frozenset(each for each in directories if not any(name.endswith(".pth") for name in os.listdir(each)))


def _forget_lookups() -> None:
    """Empty the interpreter's cache of attributes, which is full of what imports looked up.

    A fork that looks up something else lets go of the name that was there, and so copies the page which that is on.
    From Python 3.12 on such names are not counted.
    """
    if sys.version_info < (3, 12):
        sys._clear_type_cache()


def _rehearse() -> None:
    """Run what every guest will run, so that the interpreter writes its notes on that code here and not in each."""
    policy = Policy(mounts=(Writable("/a", "/b"),), environment={"A": "B"}, listeners=(Listener("127.0.0.1", 1),))
    request = Request(policy, Residence(), Identity(1, 1), cgroups=True)
    start = Start(Interpreter("a:b", "/c", ("/d",)), {"A": "B"}, "/")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    null = os.open("/dev/null", os.O_RDWR)
    mask = signal_mask.change_mask(signal_mask.BLOCK, ())
    with ours, theirs:
        for _ in range(_REHEARSALS):
            joining.join([null])
            decode(descriptors.read_whole(memory_file(encode(request))))
            decode_mounts(descriptors.read_whole(memory_file(encode_mounts(policy.mounts))))
            decode_start(descriptors.read_whole(memory_file(encode_start(start))))
            orders.handed(orders.decode(orders.encode(orders.Order(orders.START, 1, 1))), range(6))
            report.say(ours.fileno(), report.STARTED, report.encode_started(1, 1), [null])
            for received in socket.recv_fds(theirs, report.LARGEST, 1)[1]:
                os.close(received)
            libc.syscall(_GETPPID, what="")
            libc.call("getppid")
            reaper.block_signals()
            signal_mask.change_mask(signal_mask.SET, mask)
    os.close(null)


def _fill_holes() -> list[bytes]:
    """Let new objects come into fresh memory; what is returned is to be kept."""
    gc.collect()
    return memory.fill_holes()


def _freeze() -> list[bytes]:
    """Settle the memory that forks share; what is returned is to be kept."""
    gc.disable()
    filling = _fill_holes()
    gc.freeze()  # shared pages stay shared: the collector does not touch what is frozen
    memory.make_huge()
    return filling


def _swallow_output() -> None:
    """Write out what preloaded modules left in buffers: a fork copies them, and every guest would print it once more.

    A module may have put streams of its own in place of ours, so both are looked at, and ours come back. The C library
    has buffers, too.
    """
    for name in ("stdout", "stderr"):
        own = getattr(sys, f"__{name}__")
        for stream in (getattr(sys, name), own):
            stream.flush()
        setattr(sys, name, own)
    libc.call("fflush", None)


def _interpreter_trees() -> list[str]:
    """Return the trees this interpreter lives in, without what every guest has anyway."""
    found: list[str] = []
    for tree in (
        sys.base_prefix,
        sys.base_exec_prefix,
        os.path.dirname(os.path.dirname(os.path.realpath(sys.executable))),
    ):
        if tree not in ("/", "/usr") and not tree.startswith("/usr/") and tree not in found:
            found.append(tree)
    return found


def _next(control: socket.socket) -> child.Descriptors:
    message, received, _flags, _address = socket.recv_fds(control, 16, _MOST_DESCRIPTORS)
    if not message:
        os._exit(0)  # the supervisor is gone, and as pid 1 we take every guest along
    request, channel, *others = received
    outputs = message[0]
    return child.Descriptors(request, channel, tuple(others[:outputs]), tuple(others[outputs:]))


def _fork(
    surroundings: child.Surroundings, given: child.Descriptors, own_pids: int, control: socket.socket
) -> Start | None:
    """Fork one guest; returns in its main processes, with what each shall run, and None in the zygote."""
    try:
        namespaces.unshare(namespaces.NEWPID)  # for the next fork; undone below, since it works only once
        pid, groups = joining.fork(given.cgroups)
    except OSError as problem:
        report.say(given.report, report.FAILED, f"cannot fork a guest: {problem.strerror}".encode())
        pid, groups = -1, ()
    if pid == 0:
        os.close(control.detach())
        os.close(own_pids)
        return child.prepare(surroundings, given, groups)
    namespaces.enter(own_pids, namespaces.NEWPID)
    for descriptor in (given.request, given.report, *given.outputs, *given.cgroups):
        os.close(descriptor)
    return None
