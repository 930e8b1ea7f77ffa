"""The host's hands in a guest's directory: what they do, and what a hostile tree cannot make them do."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import io
import os
import socket
import stat
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from clawplane.domain.errors import Conflict, InvalidArgument, NotFound, TooLarge
from clawplane.runner import workspace_archive, workspace_drafts, workspace_edits
from clawplane.runner.workspace_files import WorkspaceFiles

MIB = 1 << 20


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that no workspace path may reach."""
    canary = tmp_path / "outside" / "canary"
    canary.parent.mkdir()
    canary.write_text("secret")
    canary.chmod(0o600)
    return canary


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The workspace on disk."""
    path = tmp_path / "workspace"
    path.mkdir()
    return path


@pytest.fixture
def files(root: Path, outside: Path) -> Iterator[WorkspaceFiles]:
    """The workspace in the host's hands; afterwards the canary is as it was."""
    before = outside.stat()
    workspace = WorkspaceFiles(root)
    yield workspace
    workspace.close()
    after = outside.stat()
    assert (after.st_mode, after.st_uid, after.st_nlink, after.st_mtime_ns) == (
        before.st_mode,
        before.st_uid,
        before.st_nlink,
        before.st_mtime_ns,
    )
    assert outside.read_text() == "secret"
    assert [entry.name for entry in outside.parent.iterdir()] == ["canary"]


async def content(files: WorkspaceFiles, path: str, *, offset: int = 0, limit: int | None = None) -> bytes:
    """Read a file whole."""
    async with await files.read(path, offset=offset, limit=limit) as reading:
        return b"".join([chunk async for chunk in reading])


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    """Come as chunks."""
    for chunk in chunks:
        yield chunk


async def packed(files: WorkspaceFiles, path: str = "") -> zipfile.ZipFile:
    """Archive a directory and open the result."""
    async with await files.archive(path) as packing:
        return zipfile.ZipFile(io.BytesIO(b"".join([chunk async for chunk in packing])))


# writing and reading


async def test_what_is_written_in_chunks_is_read_back(files: WorkspaceFiles, root: Path) -> None:
    entry = await files.write("a/b.bin", pieces(b"one", b"", b"two" * 50_000))
    assert (entry.path, entry.kind, entry.size, entry.executable) == ("a/b.bin", "file", 150_003, False)
    assert await content(files, "/workspace/a/b.bin") == (root / "a/b.bin").read_bytes() == b"one" + b"two" * 50_000
    assert await content(files, "a/b.bin", offset=2, limit=4) == b"etwo"
    assert await content(files, "a/b.bin", offset=10**9) == b""


async def test_a_written_file_appears_at_once_and_whole(files: WorkspaceFiles, root: Path) -> None:
    (root / "f").write_text("old")

    async def chunks() -> AsyncIterator[bytes]:
        yield b"new"
        assert (root / "f").read_text() == "old"
        assert [path.name for path in root.iterdir()] == ["f"]

    await files.write("f", chunks())
    assert (root / "f").read_text() == "new"
    assert [path.name for path in root.iterdir()] == ["f"]


async def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(files: WorkspaceFiles, root: Path) -> None:
    (root / "f").write_text("old")

    async def chunks() -> AsyncIterator[bytes]:
        yield b"new"
        raise TimeoutError("the caller is slow")

    with pytest.raises(TimeoutError, match="slow"):
        await files.write("f", chunks())
    assert {path.name: path.read_text() for path in root.iterdir()} == {"f": "old"}


async def test_a_cancelled_write_leaves_nothing_and_no_descriptor(files: WorkspaceFiles, root: Path) -> None:
    waiting = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"new"
        waiting.set()
        await asyncio.Event().wait()

    before = len(os.listdir("/proc/self/fd"))
    task = asyncio.create_task(files.write("f", chunks()))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(root.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_file_system_without_nameless_files_is_written_too(
    files: WorkspaceFiles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = workspace_drafts.open_beneath

    def without_nameless(directory: int, path: bytes, flags: int, *, mode: int = 0, links: bool = False) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(directory, path, flags, mode=mode, links=links)

    monkeypatch.setattr(workspace_drafts, "open_beneath", without_nameless)
    await files.write("f", pieces(b"one"))
    await files.write("f", pieces(b"two"))
    await files.write("f", pieces(b"!"), append=True)
    assert {path.name: path.read_text() for path in root.iterdir()} == {"f": "two!"}


async def test_a_replaced_file_keeps_its_mode_but_no_set_id_bit(files: WorkspaceFiles, root: Path) -> None:
    (root / "run.sh").write_text("old")
    (root / "run.sh").chmod(0o4755)
    assert (await files.write("run.sh", pieces(b"new"))).executable
    assert stat.S_IMODE((root / "run.sh").stat().st_mode) == 0o755


async def test_bytes_are_appended_to_the_same_file(files: WorkspaceFiles, root: Path) -> None:
    (root / "log").write_text("one ")
    inode = (root / "log").stat().st_ino
    await files.write("log", pieces(b"two ", b"three"), append=True)
    await files.write("fresh", pieces(b"alone"), append=True)
    assert ((root / "log").read_text(), (root / "log").stat().st_ino) == ("one two three", inode)
    assert (root / "fresh").read_text() == "alone"


async def test_create_only_refuses_what_is_there_and_what_appears_meanwhile(files: WorkspaceFiles, root: Path) -> None:
    (root / "f").write_text("old")
    with pytest.raises(Conflict, match="there already"):
        await files.write("f", pieces(b"new"), create_only=True)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"mine"
        (root / "g").write_text("theirs")

    with pytest.raises(Conflict, match="there already"):
        await files.write("g", chunks(), create_only=True)
    assert {path.name: path.read_text() for path in root.iterdir()} == {"f": "old", "g": "theirs"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_what_the_host_makes_belongs_to_the_guest(files: WorkspaceFiles, root: Path) -> None:
    os.chown(root, 61_234, 61_235)
    await files.write("a/b/f", pieces(b"x"))
    await files.make_directory("c/d")
    spill = files.spill(".outputs/1/stdout.txt", after=0, limit=10)
    spill.write(b"x")
    spill.close()
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in root.rglob("*")}
    assert owners == {(61_234, 61_235)}


async def test_a_quota_refuses_before_the_disk_is_full(root: Path) -> None:
    files = WorkspaceFiles(root, max_bytes=1 * MIB, max_inodes=3)
    await files.write("a", pieces(b"x" * (600 << 10)))
    with pytest.raises(TooLarge, match="quota of 1 MB"):
        await files.write("b", pieces(*[b"x" * (64 << 10)] * 8))
    assert [path.name for path in root.iterdir()] == ["a"]
    await files.write("b", pieces(b"x"))
    await files.write("c", pieces(b"x"))
    with pytest.raises(TooLarge, match="maximum of 3 files"):
        await files.make_directory("d")
    files.close()


async def test_two_writes_cannot_both_use_the_last_of_a_quota(root: Path) -> None:
    files = WorkspaceFiles(root, max_bytes=1 * MIB)
    first_is_done = asyncio.Event()

    async def late() -> AsyncIterator[bytes]:
        yield b"x"
        await first_is_done.wait()
        yield b"x" * (600 << 10)

    second = asyncio.create_task(files.write("second", late()))
    await files.write("first", pieces(b"x" * (600 << 10)))
    first_is_done.set()
    with pytest.raises(TooLarge):
        await second
    files.close()


# editing, moving, deleting


async def test_a_text_is_replaced_once_or_everywhere(files: WorkspaceFiles, root: Path) -> None:
    (root / "f").write_text("a = 1\r\nb = 1\r\nß")
    assert (await files.edit("f", "a = 1\r\n", "a = 2\n")).replaced == 1
    with pytest.raises(InvalidArgument, match="`old` occurs 4 times"):
        await files.edit("f", " ", "")
    assert (await files.edit("f", " = ", "=", everywhere=True)).replaced == 2
    assert (root / "f").read_bytes() == "a=2\nb=1\r\nß".encode()


@pytest.mark.parametrize(
    ("held", "old", "says"),
    [
        (b"abc", "", "`old` is empty"),
        (b"abc", "x", "`old` does not occur"),
        (b"abc", "\ud800", "`old` contains a lone surrogate"),
        (b"a\0b", "a", "no text file"),
        (b"\xff", "a", "no text file"),
    ],
)
async def test_an_edit_says_what_is_wrong(files: WorkspaceFiles, root: Path, held: bytes, old: str, says: str) -> None:
    (root / "f").write_bytes(held)
    with pytest.raises(InvalidArgument, match=says):
        await files.edit("f", old, "new")
    assert (root / "f").read_bytes() == held


async def test_an_edit_of_a_huge_sparse_file_is_refused_by_its_size(files: WorkspaceFiles, root: Path) -> None:
    with (root / "f").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TooLarge, match="can be edited"):
        await files.edit("f", "a", "b")
    (root / "g").write_text("a" * 1000)
    with pytest.raises(TooLarge, match="can be edited"):
        await files.edit("g", "a", "b" * 20_000, everywhere=True)


async def test_an_edit_does_not_undo_what_the_guest_wrote_meanwhile(
    files: WorkspaceFiles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "f").write_text("one")
    real = workspace_edits.Draft

    def drafted(held: int, parts: tuple[bytes, ...]) -> workspace_drafts.Draft:
        (root / "f").write_text("three")
        return real(held, parts)

    monkeypatch.setattr(workspace_edits, "Draft", drafted)
    with pytest.raises(Conflict, match="changed by somebody else"):
        await files.edit("f", "one", "two")
    assert (root / "f").read_text() == "three"


async def test_a_file_moves_over_a_file_but_over_no_directory(files: WorkspaceFiles, root: Path) -> None:
    (root / "a").write_text("a")
    (root / "b").write_text("b")
    (root / "d").mkdir()
    assert (await files.move("a", "b")).path == "b"
    assert (root / "b").read_text() == "a"
    assert (await files.move("b", "new/place")).path == "new/place"
    (root / "e").write_text("e")
    for path, to in (("e", "d"), ("d", "new"), ("d", "e")):
        with pytest.raises(Conflict, match=r"`to`: .* is there already"):
            await files.move(path, to)
    with pytest.raises(InvalidArgument, match="inside it"):
        await files.move("new", "new/deeper")
    with pytest.raises(NotFound, match="`path`: there is no 'gone'"):
        await files.move("gone", "x")


async def test_a_directory_is_deleted_only_recursively_and_a_link_only_itself(
    files: WorkspaceFiles, root: Path, outside: Path
) -> None:
    (root / "d/e").mkdir(parents=True)
    (root / "d/e/f").write_text("x")
    (root / "d/e/out").symlink_to(outside.parent)
    (root / "link").symlink_to(outside)
    with pytest.raises(Conflict, match="is a directory"):
        await files.delete("d")
    await files.delete("d", recursive=True)
    await files.delete("link")
    assert list(root.iterdir()) == []
    with pytest.raises(NotFound):
        await files.delete("d", recursive=True)


def _deep(root: Path, depth: int) -> None:
    here = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        there = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


async def test_a_tree_deeper_than_any_path_is_counted_listed_and_deleted(files: WorkspaceFiles, root: Path) -> None:
    _deep(root, 3_000)
    assert (await files.disk_usage()).inodes == 3_001
    listed = await files.list_directory(recursive=True)
    assert len(listed.files) == 3_001
    assert not (await files.snapshot()).marks.keys() - {b"d/" * 3_000 + b"f"}
    await files.delete("d", recursive=True)
    assert list(root.iterdir()) == []


async def test_a_directory_that_is_filled_while_it_is_deleted_ends_in_words(files: WorkspaceFiles, root: Path) -> None:
    (root / "d").mkdir()
    stop = threading.Event()

    def fill() -> None:
        while not stop.is_set():
            for number in range(20):
                with contextlib.suppress(FileExistsError, FileNotFoundError):  # mkdir loses the race, too
                    (root / f"d/{number}").mkdir(parents=True)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        for _ in range(10):
            with contextlib.suppress(Conflict, NotFound):
                await files.delete("d", recursive=True)
    finally:
        stop.set()
        thread.join()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
async def test_what_the_guest_closed_is_counted_and_deleted(files: WorkspaceFiles, root: Path) -> None:
    (root / "d/e").mkdir(parents=True)
    (root / "d/e/f").write_bytes(b"x" * 100_000)
    (root / "d/e").chmod(0o400)
    (root / "d").chmod(0)
    assert (await files.disk_usage()).bytes >= 100_000
    (root / "d/e").chmod(0o500)
    await files.delete("d", recursive=True)
    assert list(root.iterdir()) == []


# looking


async def test_a_workspace_that_the_guest_closed_to_itself_is_opened_again(files: WorkspaceFiles, root: Path) -> None:
    (root / "a").write_text("x")
    attempts: list[Callable[[], object]] = [
        files.list_directory,
        lambda: files.write("b", pieces(b"x")),
        lambda: files.stat("a"),
        files.disk_usage,
        files.snapshot,
    ]
    for attempt in attempts:
        root.chmod(0)
        await attempt()  # type: ignore[misc]
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
    root.chmod(0o755)
    await files.list_directory()
    assert stat.S_IMODE(root.stat().st_mode) == 0o755


async def test_a_listing_is_sorted_tells_kinds_and_says_when_there_is_more(files: WorkspaceFiles, root: Path) -> None:
    (root / "d").mkdir()
    (root / "d/run").write_text("12345")
    (root / "d/run").chmod(0o700)
    (root / "link").symlink_to("d")
    os.mkfifo(root / "pipe")
    listed = await files.list_directory(recursive=True)
    assert [(entry.path, entry.kind, entry.size, entry.executable) for entry in listed.files] == [
        ("d", "directory", 0, False),
        ("d/run", "file", 5, True),
        ("link", "link", 0, False),
        ("pipe", "other", 0, False),
    ]
    assert not listed.more
    assert [entry.path for entry in (await files.list_directory("link")).files] == ["link/run"]
    cut = await files.list_directory(recursive=True, limit=2)
    assert (len(cut.files), cut.more) == (2, True)
    assert (await files.stat("link")).kind == "link"
    assert (await files.stat("")).kind == "directory"


async def test_ten_thousand_entries_are_listed_and_more_are_cut(files: WorkspaceFiles, root: Path) -> None:
    for number in range(10_001):
        os.mknod(root / f"{number:05}")
    listed = await files.list_directory()
    assert (len(listed.files), listed.more) == (10_000, True)
    assert not (await files.list_directory(limit=20_000)).more


HOSTILE_NAMES = [
    b"new\nline",
    b"\x1b]0;title\x07",
    b"\xff\xfe",
    b"caf\xc3\xa9",
    "\u202egnp.exe".encode(),
    b"-rf",
    b"~",
    b"CON",
    b"a\\b",
    rb"\xff",
    rb"\x5c",
    rb"\x5cxff",
    b"\\\xff",
    b"..%2f",
    b"...",
    b" ",
    b"n" * 255,
]


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=repr)
async def test_a_name_that_is_shown_can_be_used(files: WorkspaceFiles, root: Path, name: bytes) -> None:
    on_disk = os.fsencode(root) + b"/" + name
    with open(on_disk, "wb") as file:
        file.write(b"mine")
    (entry,) = (await files.list_directory()).files
    entry.path.encode()
    assert (await files.stat(entry.path)).path == entry.path
    assert await content(files, entry.path) == b"mine"
    await files.write(entry.path, pieces(b"new"))
    assert os.listdir(os.fsencode(root)) == [name]
    archive = await packed(files)
    (member,) = archive.namelist()
    assert "\\" not in member
    assert member.isprintable()
    assert archive.read(member) == b"new"
    await files.delete(entry.path)
    assert os.listdir(root) == []


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/etc/passwd", "absolute"),
        ("/workspacex", "absolute"),
        ("..", r"\.\."),
        ("a/../../b", r"\.\."),
        ("/workspace/../x", r"\.\."),
        ("a\0b", "NUL"),
        ("\ud800", "surrogate"),
        ("n" * 256, "255"),
        ("ab/" * 1_366, "4095"),
        ("", "is empty"),
        (".", "is empty"),
        ("/workspace/", "is empty"),
    ],
)
async def test_a_path_that_is_none_is_refused_by_name(
    files: WorkspaceFiles, outside: Path, path: str, says: str
) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: files.read(path),
        lambda: files.write(path, pieces(b"x")),
        lambda: files.delete(path, recursive=True),
        lambda: files.make_directory(path),
        lambda: files.move(path, "x"),
        lambda: files.edit(path, "a", "b"),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidArgument, match=f"`path`.*{says}"):
            await attempt()  # type: ignore[misc]
    with pytest.raises(InvalidArgument, match=f"`to`.*{says}"):
        await files.move("x", path)


# links, special files, races


async def test_a_link_out_gives_nothing_and_takes_nothing(files: WorkspaceFiles, root: Path, outside: Path) -> None:
    (root / "file").symlink_to(outside)
    (root / "near").symlink_to("../outside/canary")
    (root / "dir").symlink_to(outside.parent)
    (root / "proc").symlink_to(f"/proc/self/fd/{os.open(outside, os.O_RDONLY)}")
    for path in ("file", "near", "proc", "dir/canary"):
        with pytest.raises(InvalidArgument, match="leads out of the workspace"):
            await files.read(path)
        for attempt in (
            files.write(path, pieces(b"x")),
            files.write(path, pieces(b"x"), append=True),
            files.edit(path, "secret", "x"),
        ):
            with pytest.raises(InvalidArgument, match=r"through a symbolic link|nothing is written through links"):
                await attempt
    for attempt in (
        files.list_directory("dir"),
        files.archive("dir"),
        files.stat("dir/canary"),
        files.delete("dir/canary"),
        files.make_directory("dir/new"),
        files.move("dir/canary", "mine"),
        files.write("dir/new", pieces(b"x")),
    ):
        with pytest.raises(InvalidArgument, match=r"link|leads out"):
            await attempt
    (root / "mine").write_text("x")
    with pytest.raises(InvalidArgument, match=r"`to`.*link"):
        await files.move("mine", "dir/pwn")
    assert (await packed(files)).namelist() == ["mine"]
    assert (await files.disk_usage()).bytes < 100_000
    os.close(int(os.readlink(root / "proc").rpartition("/")[2]))


async def test_a_link_inside_is_read_through_and_not_written_through(files: WorkspaceFiles, root: Path) -> None:
    (root / "d").mkdir()
    (root / "d/f").write_text("x")
    (root / "link").symlink_to("d/f")
    assert await content(files, "link") == b"x"
    with pytest.raises(InvalidArgument, match="symbolic link"):
        await files.write("link", pieces(b"y"))
    assert (root / "d/f").read_text() == "x"


async def test_a_write_to_a_hard_link_leaves_the_other_name_alone(files: WorkspaceFiles, root: Path) -> None:
    (root / "a").write_text("x")
    os.link(root / "a", root / "b")
    await files.write("b", pieces(b"new"))
    assert (root / "a").read_text() == "x"
    os.link(root / "a", root / "c")
    with pytest.raises(Conflict, match="hard links"):
        await files.write("c", pieces(b"more"), append=True)
    assert (root / "a").read_text() == "x"


async def test_special_files_are_neither_waited_for_nor_read(files: WorkspaceFiles, root: Path) -> None:
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(root)
        listener.bind("socket")
        os.chdir(here)
    names = ["pipe", "socket"]
    if os.geteuid() == 0:
        os.mknod(root / "device", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        names.append("device")
    for name in names:
        for attempt in (files.read(name), files.write(name, pieces(b"x")), files.edit(name, "a", "b")):
            with pytest.raises(InvalidArgument, match="not a regular file"):
                await attempt
    assert (await packed(files)).namelist() == []
    await files.write("x", pieces(b"x"))
    await files.delete("pipe")


@pytest.mark.timeout(60)
async def test_a_file_swapped_with_a_link_in_a_race_never_leads_out(
    files: WorkspaceFiles, root: Path, outside: Path
) -> None:
    (root / "f").write_text("inside")
    (root / "swap").symlink_to(outside)
    (root / "d").mkdir()
    (root / "d/canary").write_text("inside")
    (root / "e").symlink_to(outside.parent)
    swapping = _Swapping(root, [("f", "swap"), ("d", "e")])
    seen: set[bytes] = set()
    refused = 0
    with swapping:
        for _ in range(150):
            for path in ("f", "d/canary"):
                try:
                    seen.add(await content(files, path))
                except (InvalidArgument, NotFound, Conflict):
                    refused += 1
            for attempt in (
                files.write("f", pieces(b"inside")),
                files.write("d/canary", pieces(b"inside")),
                files.write("f", pieces(b""), append=True),
                files.edit("f", "inside", "inside"),
                files.delete("d/other"),
                files.make_directory("d/canary"),
                files.list_directory("d"),
            ):
                try:
                    await attempt
                except (InvalidArgument, NotFound, Conflict):
                    refused += 1
            archive = await packed(files)
            seen.update(archive.read(name) for name in archive.namelist() if not name.endswith("/"))
            await files.disk_usage()
    assert swapping.count > 100
    assert refused > 0
    assert seen <= {b"inside"}


class _Swapping:
    """A thread that exchanges pairs of names as fast as it can."""

    def __init__(self, root: Path, pairs: list[tuple[str, str]]) -> None:
        self.count = 0
        self._root, self._pairs = root, pairs
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._swap)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _swap(self) -> None:
        libc = ctypes.CDLL(None)
        paths = [(os.fsencode(self._root / one), os.fsencode(self._root / two)) for one, two in self._pairs]
        while not self._stop.is_set():
            for one, two in paths:
                libc.renameat2(-100, one, -100, two, 2)
                self.count += 1


async def test_a_tree_that_is_moved_about_never_leads_a_walk_out(
    files: WorkspaceFiles, root: Path, outside: Path
) -> None:
    for number in range(30):
        (root / f"a/b{number}/c/d").mkdir(parents=True)
        (root / f"a/b{number}/c/d/f").write_text("x")
    (root / "top").mkdir()
    stop = threading.Event()

    def move() -> None:
        while not stop.is_set():
            for number in range(30):
                for source, target in ((root / f"a/b{number}/c", root / "top/c"), (root / "top/c", root / "c")):
                    try:
                        os.rename(source, target)
                        os.rename(target, source)
                    except OSError:
                        continue

    thread = threading.Thread(target=move)
    thread.start()
    try:
        for _ in range(40):
            files.forget_usage()
            assert (await files.disk_usage()).inodes <= 150
            listed = await files.list_directory(recursive=True)
            assert not any("canary" in entry.path for entry in listed.files)
        with contextlib.suppress(Conflict):
            await files.delete("a", recursive=True)
    finally:
        stop.set()
        thread.join()


# measuring


async def test_usage_counts_blocks_not_sizes_and_linked_files_once(files: WorkspaceFiles, root: Path) -> None:
    with (root / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (root / "full").write_bytes(b"x" * MIB)
    for number in range(50):
        os.link(root / "full", root / f"link{number}")
    usage = await files.disk_usage()
    assert (usage.inodes, usage.complete) == (2, True)
    assert MIB <= usage.bytes < 2 * MIB


async def test_usage_is_remembered_until_it_is_forgotten(files: WorkspaceFiles, root: Path) -> None:
    assert (await files.disk_usage()).inodes == 0
    (root / "f").write_text("x")
    assert (await files.disk_usage()).inodes == 0
    files.forget_usage()
    assert (await files.disk_usage()).inodes == 1
    await files.write("g", pieces(b"x"))
    assert (await files.disk_usage()).inodes == 2


async def test_a_cancelled_listing_stops_its_walk_and_closes_its_descriptors(files: WorkspaceFiles, root: Path) -> None:
    for number in range(300):
        (root / f"{number}/x").mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    task = asyncio.create_task(files.list_directory(recursive=True))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(os.listdir("/proc/self/fd")) == before


# archives


async def test_an_archive_holds_files_directories_and_modes(files: WorkspaceFiles, root: Path) -> None:
    (root / "d/empty").mkdir(parents=True)
    (root / "d/big").write_bytes(os.urandom(300_000))
    (root / "d/run").write_text("x")
    (root / "d/run").chmod(0o755)
    os.utime(root / "d/run", (-(10**10), -(10**10)))
    archive = await packed(files, "d")
    assert archive.namelist() == ["big", "empty/", "run"]
    assert archive.testzip() is None
    assert archive.read("big") == (root / "d/big").read_bytes()
    assert archive.getinfo("run").external_attr >> 16 == stat.S_IFREG | 0o755


async def test_an_archive_of_too_much_is_refused_before_its_first_byte(
    files: WorkspaceFiles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (root / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TooLarge, match="more than an archive may"):
        await files.archive()
    (root / "sparse").unlink()
    monkeypatch.setattr(workspace_archive, "MAX_PACKED_ENTRIES", 3)
    for number in range(4):
        (root / str(number)).touch()
    with pytest.raises(TooLarge, match="more than an archive may: 3 entries"):
        await files.archive()


async def test_an_archive_that_is_left_early_closes_everything(files: WorkspaceFiles, root: Path) -> None:
    (root / "big").write_bytes(os.urandom(MIB))
    before = len(os.listdir("/proc/self/fd"))
    async with await files.archive() as packing:
        assert await anext(packing)
    async with await files.archive():
        pass
    assert len(os.listdir("/proc/self/fd")) == before


# spilled output


async def test_output_that_fits_makes_no_file_and_more_makes_a_bounded_one(files: WorkspaceFiles, root: Path) -> None:
    spill = files.spill(".outputs/ex/stdout.txt", after=10, limit=25)
    spill.write(b"0123456789")
    assert (spill.path, list(root.iterdir())) == ("", [])
    spill.write(b"abcdefghij")
    spill.write(b"klmnopqrst")
    assert spill.path == ".outputs/ex/stdout.txt"
    assert spill.dropped == 5
    spill.close()
    assert (root / ".outputs/ex/stdout.txt").read_bytes() == b"0123456789abcdefghijklmno"


async def test_output_does_not_spill_through_a_link(files: WorkspaceFiles, root: Path, outside: Path) -> None:
    (root / ".outputs").symlink_to(outside.parent)
    spill = files.spill(".outputs/ex/stdout.txt", after=0, limit=25)
    spill.write(b"0123456789")
    assert (spill.path, spill.dropped) == ("", 10)
    spill.close()
