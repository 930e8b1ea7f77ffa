"""Attacks on the host's hands in a workspace, by a guest that lives and works in it meanwhile."""

from __future__ import annotations

import io
import os
import shutil
import stat
import time
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clawplane.domain.errors import ClawplaneError, Conflict, InvalidArgument
from clawplane.runner.workspace_files import WorkspaceFiles

REFUSALS = {"invalid_argument", "not_found", "conflict"}
RACE_SECONDS = 1.5


@dataclass
class Shared:
    """A workspace that a guest has at /work and the host in its hands."""

    arena: Any
    path: Path
    files: WorkspaceFiles

    def guest(self, code: str) -> Any:
        """Start a guest that does something and stays; return when it has done it."""
        guest = self.arena.python(
            f"os.chdir('/work')\n{code}\nprint('planted', flush=True)\ntime.sleep(1000)",
            mounts=[["Writable", {"source": str(self.path), "target": "/work"}]],
        )
        guest.wait_for(b"planted")
        return guest


@pytest.fixture
def shared(arena: Any) -> Iterator[Shared]:
    """One workspace; the host's side runs as the runner does."""
    path = arena.workspace("shared")
    with _as_runner(arena.uid):
        files = WorkspaceFiles(path)
        yield Shared(arena, path, files)
        files.close()
    for guest in arena.guests.values():
        if guest.verdict is None:
            guest.kill()
    shutil.rmtree(path)


@contextmanager
def _as_runner(uid: int) -> Iterator[None]:
    """Have no more rights than the runner under attack."""
    if not uid or os.geteuid():
        yield
        return
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


async def test_the_host_is_asked_for_a_file_that_is_a_link(shared: Shared, canary: Path) -> None:  # 1
    targets = ["/etc/shadow", "/etc/passwd", str(canary), "/proc/self/environ", "/proc/1/root/etc/passwd", "../canary"]
    shared.guest(f"for number, target in enumerate({targets!r}): os.symlink(target, f'x{{number}}')")
    for number in range(len(targets)):
        assert await _refused(_read(shared.files, f"x{number}"))
        assert (await shared.files.stat(f"x{number}")).kind == "link"
    assert (await _zip(shared.files)).namelist() == []


async def test_the_host_is_sent_through_a_parent_that_is_a_link(shared: Shared, canary: Path) -> None:  # 2
    shared.guest(f"os.symlink('/etc', 'd'); os.symlink({str(canary.parent)!r}, 'e'); os.symlink('/proc/self', 'p')")
    files = shared.files
    for path in ("d/passwd", "e/canary", "p/environ", "p/root/etc/passwd", "p/fd/0"):
        assert await _refused(_read(files, path))
        assert await _refused(files.write(path, _chunks(b"pwned")))
        assert await _refused(files.delete(path))
        assert await _refused(files.move(path, "mine"))
    for path in ("d", "e"):
        assert await _refused(files.list_directory(path))
        assert await _refused(files.write(f"{path}/pwn", _chunks(b"pwned")))
        assert await _refused(files.make_directory(f"{path}/pwn"))
    assert not Path("/etc/pwn").exists()
    assert not (canary.parent / "pwn").exists()


async def test_the_host_writes_where_a_link_was_laid(shared: Shared, canary: Path) -> None:  # 3
    shared.guest(f"os.symlink({str(canary)!r}, 'x'); os.symlink('f', 'near'); open('f', 'w').write('inside')")
    files = shared.files
    for path in ("x", "near"):
        for attempt in (
            files.write(path, _chunks(b"pwned")),
            files.write(path, _chunks(b"pwned"), append=True),
            files.write(path, _chunks(b"pwned"), create_only=True),
            files.edit(path, "i", "pwned", everywhere=True),
        ):
            assert await _refused(attempt)
        spill = files.spill(path, after=0, limit=100)
        spill.write(b"pwned")
        assert spill.path == ""
        spill.close()
    await files.delete("x")
    assert await _read(files, "f") == b"inside"


async def test_the_guest_swaps_files_and_links_while_the_host_works(shared: Shared) -> None:  # 4
    outside = shared.arena.workspace("outside")
    (outside / "f").write_text("secret")
    before = [(path, path.lstat().st_ino, path.lstat().st_ctime_ns) for path in (outside, outside / "f")]
    guest = shared.guest(f"""
open('f', 'w').write('inside'); os.symlink({str(outside / "f")!r}, 'g')
os.mkdir('d'); open('d/f', 'w').write('inside'); os.symlink({str(outside)!r}, 'e')
if not os.fork():
    while True:
        _libc.renameat2(-100, b'f', -100, b'g', 2); _libc.renameat2(-100, b'd', -100, b'e', 2)""")
    files, seen, refusals = shared.files, set(), 0
    end = time.monotonic() + RACE_SECONDS
    while time.monotonic() < end:
        for path in ("f", "d/f", "e/f"):
            for attempt in (
                files.write(path, _chunks(b"inside")),
                files.write(path, _chunks(b""), append=True),
                files.edit(path, "inside", "inside"),
                files.make_directory(f"{path}x/y"),
                files.delete(f"{path}x", recursive=True),
            ):
                refusals += await _refused(attempt)
            try:
                seen.add(await _read(files, path))
            except ClawplaneError:
                refusals += 1
        archive = await _zip(files)
        seen |= {archive.read(name) for name in archive.namelist() if not name.endswith("/")}
        await files.list_directory(recursive=True)
        await files.disk_usage()
    guest.kill()
    assert seen == {b"inside"}
    assert refusals > 10
    assert [(path, path.lstat().st_ino, path.lstat().st_ctime_ns) for path in (outside, outside / "f")] == before
    shutil.rmtree(outside)


async def test_the_guest_confuses_the_accounting_of_its_disk(shared: Shared) -> None:  # 5, 41
    shared.guest("""
open('f', 'wb').write(bytes(range(256)) * 4096)
for number in range(500): os.link('f', f'l{number}')
os.truncate(os.open('sparse', os.O_CREAT | os.O_WRONLY), 1 << 40)
os.mkdir('closed'); open('closed/f', 'wb').write(bytes(range(256)) * 4096); os.chmod('closed', 0)
here = os.open('.', os.O_RDONLY)
for _ in range(2000):
    os.mkdir('d', dir_fd=here); there = os.open('d', os.O_RDONLY, dir_fd=here); os.close(here); here = there""")
    usage = await shared.files.disk_usage()
    assert usage.complete
    assert usage.inodes == 2004
    assert 2 << 20 <= usage.bytes < 32 << 20
    assert await _refused(shared.files.write("l1", _chunks(b"x"), append=True))
    await shared.files.delete("d", recursive=True)
    await shared.files.delete("closed", recursive=True)
    assert (await shared.files.disk_usage()).inodes == 2


NAMES = [
    b"new\nline",
    b"\x1b]0;owned\x07",
    b"\xff\xfe",
    "\u202egnp.exe".encode(),
    b"-rf",
    b"~",
    b"CON",
    b"..\\..\\x",
    b"..%2f..%2fx",
    b"n" * 255,
]


async def test_the_guest_chooses_hostile_names(shared: Shared) -> None:  # 6
    shared.guest(f"for name in {NAMES!r}: open(name, 'wb').write(name)")
    listed = (await shared.files.list_directory()).files
    assert {await _read(shared.files, entry.path) for entry in listed} == set(NAMES)
    members = (await _zip(shared.files)).namelist()
    assert len(members) == len(NAMES)
    assert not any("\\" in name or not name.isprintable() or ".." in Path(name).parts for name in members)
    for entry in listed:
        await shared.files.delete(entry.path)
    assert list(shared.path.iterdir()) == []


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../canary", "a/../../canary", "..", "a\0b", "n" * 256, "d/" * 3000, "\udcff", "/workspace/../etc"],
)
async def test_the_host_is_given_a_hostile_path(shared: Shared, path: str) -> None:  # 6
    for attempt in (
        _read(shared.files, path),
        shared.files.write(path, _chunks(b"x")),
        shared.files.delete(path, recursive=True),
        shared.files.list_directory(path),
        shared.files.archive(path),
        shared.files.move(path, "x"),
        shared.files.move("x", path),
    ):
        with pytest.raises(InvalidArgument, match=r"`(path|to)`"):
            await attempt
    assert list(shared.path.iterdir()) == []


async def test_the_guest_puts_what_never_ends_in_place_of_a_file(shared: Shared) -> None:  # 4, 47
    shared.guest("""
import fcntl
os.mkfifo('pipe'); socket.socket(socket.AF_UNIX).bind('socket'); os.symlink('/dev/zero', 'zero')
tried(os.mknod, 'device', 0o20666, os.makedev(1, 5))
leased = os.open('leased', os.O_CREAT | os.O_RDWR); signal.signal(signal.SIGIO, signal.SIG_IGN)
tried(fcntl.fcntl, leased, 1024, fcntl.F_WRLCK)""")
    began = time.monotonic()
    for path in ("pipe", "socket", "zero", "device"):
        assert await _refused(_read(shared.files, path))
        assert await _refused(shared.files.write(path, _chunks(b"x"), append=True)) or path == "device"
    try:
        await _read(shared.files, "leased")
    except Conflict as error:
        assert "changes while" in error.message  # noqa: PT017
    assert time.monotonic() - began < 5


async def test_what_the_host_writes_is_the_guests_and_no_more_than_a_file(shared: Shared) -> None:  # 3, 14
    shared.guest("open('run', 'w').write('x'); os.chmod('run', 0o6777)")
    await shared.files.write("run", _chunks(b"new"))
    await shared.files.write("new/file", _chunks(b"x"))
    assert stat.S_IMODE((shared.path / "run").stat().st_mode) == 0o777
    told = shared.arena.ask(
        "open('/work/new/file', 'a').write('y'); os.mkdir('/work/new/d'); say(os.stat('/work/new').st_uid)",
        mounts=[["Writable", {"source": str(shared.path), "target": "/work"}]],
    )
    assert told == 1000
    assert await _read(shared.files, "new/file") == b"xy"


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _read(files: WorkspaceFiles, path: str) -> bytes:
    async with await files.read(path) as reading:
        return b"".join([chunk async for chunk in reading])


async def _zip(files: WorkspaceFiles) -> zipfile.ZipFile:
    async with await files.archive() as packing:
        return zipfile.ZipFile(io.BytesIO(b"".join([chunk async for chunk in packing])))


async def _refused(attempt: Any) -> bool:
    """Say whether the host refused in words, as it should."""
    try:
        await attempt
    except ClawplaneError as error:
        assert error.code in REFUSALS, error.message  # noqa: PT017
        return True
    return False
