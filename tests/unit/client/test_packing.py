from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from clawplane.client.packing import pack, package_files
from clawplane.domain.errors import InvalidArgument


@pytest.fixture
def worker(tmp_path: Path) -> Path:
    (tmp_path / "main.py").write_text("print(1)")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "list.txt").write_text("x")
    return tmp_path


def names(directory: Path) -> list[str]:
    return [path.as_posix() for path in package_files(directory)]


def test_a_package_holds_the_files_without_caches_installed_dependencies_and_logs(worker: Path) -> None:
    for left_out in (".git", "node_modules", "__pycache__", ".venv", "dist"):
        (worker / left_out).mkdir()
        (worker / left_out / "file").write_text("x")
    for left_out in ("a.pyc", "run.log", "input.example.json"):
        (worker / left_out).write_text("x")
    assert names(worker) == ["data/list.txt", "main.py"]


def test_the_same_tree_gives_the_same_bytes_whenever_it_is_packed(worker: Path) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    pack(worker, first)
    os.utime(worker / "main.py", (1, 1))
    pack(worker, second)
    assert first.getvalue() == second.getvalue()


def test_the_execute_bit_is_kept_and_nothing_else_of_the_mode(worker: Path) -> None:
    (worker / "main").write_bytes(b"\x7fELF")
    (worker / "main").chmod(0o4711)
    (worker / "main.py").chmod(0o600)
    target = io.BytesIO()
    assert pack(worker, target) == 3
    with zipfile.ZipFile(target) as archive:
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
    assert modes == {"main": 0o100755, "main.py": 0o100644, "data/list.txt": 0o100644}


def test_the_number_of_files_is_told_as_it_grows(worker: Path) -> None:
    told: list[int] = []
    pack(worker, io.BytesIO(), on_file=told.append)
    assert told == [1, 2]


def test_a_link_to_a_file_or_a_directory_is_refused_by_its_name(worker: Path) -> None:
    (worker / "data" / "link").symlink_to("/etc")
    with pytest.raises(InvalidArgument, match="data/link is a symbolic link"):
        names(worker)


def test_a_pipe_is_refused_and_not_waited_for(worker: Path) -> None:
    os.mkfifo(worker / "pipe")
    with pytest.raises(InvalidArgument, match="pipe is no regular file"):
        names(worker)


def test_a_name_that_is_no_utf8_is_refused(worker: Path) -> None:
    (worker / os.fsdecode(b"caf\xe9")).write_text("x")
    with pytest.raises(InvalidArgument, match="not UTF-8"):
        names(worker)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("locked", ["data", "main.py"])
def test_what_cannot_be_read_is_refused_and_never_left_out_in_silence(worker: Path, locked: str) -> None:
    (worker / locked).chmod(0)
    try:
        with pytest.raises(InvalidArgument, match="Permission denied"):
            pack(worker, io.BytesIO())
    finally:
        (worker / locked).chmod(0o700)


def test_an_empty_directory_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no files"):
        pack(tmp_path, io.BytesIO())
    with pytest.raises(InvalidArgument, match="no directory"):
        pack(tmp_path / "nowhere", io.BytesIO())
