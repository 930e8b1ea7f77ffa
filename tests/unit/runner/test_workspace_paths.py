"""Paths of a workspace: what may be named, and that nothing outside is ever reached, whatever is named."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawplane.domain.errors import ClawplaneError, InvalidArgument
from clawplane.runner.workspace_files import WorkspaceFiles
from clawplane.runner.workspace_paths import parse, show

SECRET = b"the canary's song"


@pytest.mark.parametrize("path", ["a/b", "/workspace/a/b", "./a//b/", "a/./b", "/workspace//a/b", "/workspace/./a/b"])
def test_one_entry_has_many_spellings(path: str) -> None:
    assert parse(path) == (b"a", b"b")


def test_what_is_shown_of_a_name_names_it() -> None:
    assert show(b"a\xff") == r"a\xff"
    assert show(rb"a\xff") == r"a\x5cxff"
    assert show(rb"a\b") == r"a\b"
    assert parse(r"a\xff") == (b"a\xff",)


NAMES = st.binary(min_size=1, max_size=40) | st.lists(
    st.sampled_from([b"\\", b"x", b"5c", b"ff", b"8", b"\xff", "é".encode(), b"/", b"."]), min_size=1
).map(b"".join)


@settings(deadline=None)
@given(name=NAMES)
def test_every_name_on_disk_survives_being_shown(name: bytes) -> None:
    parts = tuple(part for part in name.split(b"/") if part not in (b"", b".", b".."))
    if any(b"\0" in part for part in parts):
        return
    shown = show(b"/".join(parts))
    shown.encode()
    assert parse("./" + shown) == parts


@settings(deadline=None)
@given(path=st.text() | st.text(alphabet="/.\\x5c2fe\0 ~", max_size=30))
def test_what_is_accepted_has_no_step_up_and_no_limits_broken(path: str) -> None:
    try:
        parts = parse(path)
    except InvalidArgument:
        return
    assert not {b"..", b".", b""} & set(parts)
    assert all(b"/" not in part and b"\0" not in part and len(part) <= 255 for part in parts)


@contextmanager
def tree() -> Iterator[tuple[Path, Path]]:
    """A workspace full of traps beside a canary."""
    top = Path(tempfile.mkdtemp(prefix="clawplane-paths-"))
    try:
        outside, root = top / "out", top / "ws"
        (root / "d/e").mkdir(parents=True)
        outside.mkdir()
        (outside / "f").write_bytes(SECRET)
        (outside / "e").mkdir()
        (root / "f").write_bytes(b"inside")
        (root / "d/f").write_bytes(b"inside")
        for link, target in {
            "up": "..",
            "d/up": "../..",
            "abs": str(outside),
            "absf": str(outside / "f"),
            "rel": "../out/f",
            "in": "d",
            "d/inf": "../f",
            "loop": "loop",
            "cwd": "/proc/self/cwd",
            "root": "/proc/self/root",
            "chain": "up/out",
        }.items():
            (root / link).symlink_to(target)
        yield root, outside
    finally:
        shutil.rmtree(top)


ENTRIES = ["d", "e", "f", "up", "abs", "absf", "rel", "in", "inf", "loop", "cwd", "root", "chain", "out", "ws", "new"]
TRICKS = ["..", ".", "", "%2e%2e", "..\\", "\\xff", r"\x2e\x2e"]
STARTS = st.sampled_from(["", "", "/", "/workspace/", "/workspace"])
PATHS = st.builds(
    lambda start, steps: start + "/".join(steps),
    STARTS,
    st.lists(st.sampled_from([*ENTRIES, *TRICKS]), min_size=1, max_size=6),
)
DEEDS = st.sampled_from(
    ["read", "write", "append", "edit", "delete", "make", "move", "list", "stat", "archive", "spill"]
)


@settings(deadline=None, max_examples=int(os.environ.get("CLAWPLANE_FUZZ", "150")))
@given(steps=st.lists(st.tuples(DEEDS, PATHS, PATHS), min_size=1, max_size=12))
def test_no_sequence_of_deeds_reads_or_touches_what_is_outside(steps: list[tuple[str, str, str]]) -> None:
    with tree() as (root, outside):
        before = _marks(outside)
        told, refusals = asyncio.run(_do_all(root, steps))
        assert SECRET not in told
        assert refusals <= {"invalid_argument", "not_found", "conflict"}
        assert _marks(outside) == before


async def _do_all(root: Path, steps: list[tuple[str, str, str]]) -> tuple[bytes, set[str]]:
    """Do one thing after the other; return all that was told and the codes of what was refused."""
    files = WorkspaceFiles(root)
    told, refusals = b"", set()
    try:
        for deed, path, other in steps:
            try:
                told += await _do(files, deed, path, other)
            except ClawplaneError as error:
                refusals.add(error.code)
    finally:
        files.close()
    return told, refusals


async def _do(files: WorkspaceFiles, deed: str, path: str, other: str) -> bytes:
    """Do one thing to the workspace and return all that it tells."""
    match deed:
        case "read":
            async with await files.read(path) as reading:
                return b"".join([chunk async for chunk in reading])
        case "archive":
            async with await files.archive(path) as packing:
                archive = zipfile.ZipFile(io.BytesIO(b"".join([chunk async for chunk in packing])))
                return b"".join(archive.read(name) for name in archive.namelist())
        case "write" | "append":
            await files.write(path, _one(b"x"), append=deed == "append")
        case "edit":
            await files.edit(path, "s", "z", everywhere=True)
        case "delete":
            await files.delete(path, recursive=True)
        case "make":
            await files.make_directory(path)
        case "move":
            await files.move(path, other)
        case "list":
            listed = await files.list_directory(path, recursive=True)
            return "\n".join(entry.path for entry in listed.files).encode()
        case "spill":
            spill = files.spill(path, after=0, limit=10)
            spill.write(b"x")
            spill.close()
        case _:
            await files.stat(path)
    return b""


async def _one(chunk: bytes) -> AsyncIterator[bytes]:
    yield chunk


def _marks(outside: Path) -> list[tuple[object, ...]]:
    """Return everything about the tree outside that a deed could have changed, but for its time of reading."""
    found = []
    for path in sorted([outside, *outside.rglob("*")]):
        about = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found.append((path, about.st_mode, about.st_uid, about.st_nlink, about.st_ctime_ns, about.st_ino, content))
    return found
