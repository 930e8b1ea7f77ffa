from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clawplane.sandbox import landlock

SYSTEM = [path for path in ("/usr", "/lib", "/lib64", "/bin", "/etc") if os.path.exists(path)]
present = pytest.mark.skipif(landlock.abi() < 2, reason="this kernel has no usable Landlock")
scoped = pytest.mark.skipif(landlock.abi() < 6, reason="this kernel's Landlock has no scopes")


def error_of(function: Callable[[], object]) -> int:
    try:
        function()
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.fixture
def confined(in_child: Any, tmp_path: Path) -> Callable[[Callable[[], Any]], Any]:
    """Return a function that runs another one confined to the system trees and tmp_path/work."""
    (tmp_path / "work").mkdir()
    (tmp_path / "outside").write_text("secret")

    def run(function: Callable[[], Any]) -> Any:
        def inside() -> Any:
            landlock.restrict(SYSTEM, [str(tmp_path / "work")])
            return function()

        return in_child(inside).value

    return run


@present
def test_a_path_outside_the_rules_cannot_be_read(confined: Any, tmp_path: Path) -> None:
    assert confined(lambda: error_of((tmp_path / "outside").read_text)) == errno.EACCES
    assert confined(lambda: error_of(lambda: os.listdir("/"))) == errno.EACCES


@present
def test_a_read_only_tree_can_be_read_and_not_written(confined: Any) -> None:
    assert confined(lambda: error_of(lambda: Path("/etc/passwd").read_bytes())) == 0
    assert confined(lambda: error_of(lambda: Path("/etc/clawplane-test").write_bytes(b""))) in (
        errno.EACCES,
        errno.EPERM,
    )


@present
def test_the_writable_tree_takes_files_directories_links_and_renames(confined: Any, tmp_path: Path) -> None:
    work = tmp_path / "work"

    def use() -> str:
        (work / "a").mkdir()
        (work / "b").mkdir()
        (work / "a" / "file").write_text("content")
        (work / "a" / "link").symlink_to("file")
        os.mkfifo(work / "a" / "fifo")
        os.rename(work / "a" / "file", work / "b" / "file")
        os.link(work / "b" / "file", work / "a" / "hard")
        os.truncate(work / "a" / "hard", 3)
        return (work / "b" / "file").read_text()

    assert confined(use) == "con"


@present
def test_null_pipes_proc_and_programs_stay_usable(confined: Any) -> None:
    def use() -> list[object]:
        reading, writing = os.pipe()
        os.write(writing, b"pipe")
        again = os.open(f"/proc/self/fd/{reading}", os.O_RDONLY)
        status = os.system("exec >/dev/null; echo x; cat /proc/self/status; exec true")
        return [os.read(again, 4).decode(), status, Path("/proc/self/comm").read_text() != ""]

    assert confined(use) == ["pipe", 0, True]


@present
def test_loopback_connections_stay_usable(confined: Any) -> None:
    def use() -> bytes:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
            accepted, _ = server.accept()
            with accepted:
                accepted.sendall(b"x")
            return client.recv(1).decode()  # type: ignore[return-value]

    assert confined(use) == "x"


@scoped
def test_signals_and_abstract_sockets_outside_are_out_of_reach(confined: Any) -> None:
    name = f"\0clawplane-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        parent = os.getpid()

        def reach() -> list[int]:
            with socket.socket(socket.AF_UNIX) as client:
                return [error_of(lambda: os.kill(parent, signal.SIGCONT)), error_of(lambda: client.connect(name))]

        assert confined(reach) == [errno.EPERM, errno.EPERM]


@present
def test_a_path_that_does_not_exist_is_an_error_and_not_skipped(in_child: Any) -> None:
    assert in_child(lambda: error_of(lambda: landlock.restrict(["/nowhere/at/all"], []))).value == errno.ENOENT


def test_nothing_is_confined_where_the_kernel_has_no_landlock(in_child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 0)

    def use() -> int:
        landlock.restrict([], [])
        return error_of(lambda: os.listdir("/"))

    assert in_child(use).value == 0


@present
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_rights_an_older_kernel_does_not_know_are_left_out(
    version: int, in_child: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if version > landlock.abi():
        pytest.skip("this kernel is older")
    monkeypatch.setattr(landlock, "abi", lambda: version)

    def use() -> int:
        landlock.restrict(SYSTEM, [])
        return error_of(lambda: os.listdir("/"))

    assert in_child(use).value == errno.EACCES
