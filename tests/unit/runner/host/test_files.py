"""File tasks on real files, and what an attacker puts in their way."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from clawplane.domain.host_tasks import Command, FileEdit, FileRead, FileWrite
from clawplane.runner.host.policy import HostPolicy


async def test_a_file_is_written_with_its_parents_and_read_back(do, home: Path) -> None:
    report = await do(FileWrite(path=" ~/a/b/c.txt ", content=" kept é\r\n"))
    assert (report.stdout, report.exit_code, report.error) == (f"File written: {home}/a/b/c.txt", 0, None)
    assert (home / "a/b/c.txt").read_bytes() == " kept é\r\n".encode()
    assert (await do(FileRead(path="a/b/c.txt"))).stdout == " kept é\r\n"


@pytest.mark.parametrize("content", [None, "", 0, False])
async def test_false_content_makes_an_empty_file(do, home: Path, content: object) -> None:
    assert (await do(FileWrite(path="empty", content=content))).exit_code == 0
    assert (home / "empty").read_bytes() == b""


@pytest.mark.parametrize("content", [{"a": 1}, [], 7, True])
async def test_content_that_is_no_text_is_refused(do, home: Path, content: object) -> None:
    report = await do(FileWrite(path="file", content=content))
    assert (report.exit_code, report.error, report.stderr) == (
        1,
        "content must be a string",
        "content must be a string",
    )
    assert not (home / "file").exists()


async def test_base64_is_decoded_for_writing_and_made_for_reading(do, home: Path) -> None:
    data = bytes(range(256))
    await do(FileWrite(path="bin", content=base64.b64encode(data).decode(), encoding="base64"))
    assert (home / "bin").read_bytes() == data
    report = await do(FileRead(path="bin", encoding="base64"))
    assert (base64.b64decode(report.stdout), report.metadata) == (data, {"encoding": "base64"})
    url_safe = base64.urlsafe_b64encode(b"\xfb\xff\xfe").decode().rstrip("=")
    assert (await do(FileWrite(path="bin", content=url_safe, encoding="base64"))).exit_code == 0
    assert (home / "bin").read_bytes() == b"\xfb\xff\xfe"
    assert (await do(FileWrite(path="bin", content="n!t", encoding="base64"))).error == "content is not base64"


async def test_half_a_surrogate_pair_becomes_a_replacement_character(do, home: Path) -> None:
    await do(FileWrite(path="odd", content="a\ud83db"))
    assert (home / "odd").read_text(encoding="utf-8") == "a\ufffdb"


async def test_bad_utf8_is_replaced_when_it_is_read(do, home: Path) -> None:
    (home / "latin").write_bytes(b"caf\xe9!")
    assert (await do(FileRead(path="latin"))).stdout == "caf\ufffd!"


async def test_a_written_file_keeps_its_mode_and_leaves_nothing_beside_it(do, home: Path) -> None:
    (home / "run.sh").write_text("old")
    (home / "run.sh").chmod(0o751)
    await do(FileWrite(path="run.sh", content="new"))
    assert ((home / "run.sh").stat().st_mode & 0o7777, os.listdir(home)) == (0o751, ["run.sh"])


async def test_a_file_whose_name_is_as_long_as_names_may_be_is_written_and_replaced(do, home: Path) -> None:
    name = "😀" * 63
    for content in ("old", "new"):
        assert (await do(FileWrite(path=name, content=content))).error is None
    assert (home / name).read_text() == "new"


async def test_a_link_within_the_roots_is_written_through(do, home: Path) -> None:
    (home / "real").write_text("old")
    (home / "link").symlink_to("real")
    await do(FileWrite(path="link", content="new"))
    assert ((home / "link").is_symlink(), (home / "real").read_text()) == (True, "new")


@pytest.mark.parametrize("path", ["link/passwd", "/etc/passwd", f"~/{'../' * 20}etc/passwd", "/proc/self/environ"])
async def test_a_way_out_of_the_roots_is_refused(do, home: Path, path: str) -> None:
    (home / "link").symlink_to("/etc")
    for work in (
        FileRead(path=path),
        FileWrite(path=path, content="x"),
        FileEdit(path=path, old_string="r", new_string=""),
    ):
        report = await do(work)
        assert (report.exit_code, report.error, report.stdout) == (1, "Path traversal blocked", "")
        assert str(home) in report.stderr


async def test_an_unrestricted_runner_reads_anywhere(make_house, tools, tmp_path: Path) -> None:
    async with make_house(policy=HostPolicy(roots=("*",))) as house:
        assert "root" in (await tools.do_in(house, FileRead(path="/etc/passwd"))).stdout


async def test_roots_of_the_operators_own_are_the_only_ones(make_house, tools, home: Path) -> None:
    (home / "in").mkdir()
    async with make_house(policy=HostPolicy(roots=("~/in",))) as house:
        assert (await tools.do_in(house, FileWrite(path="in/x", content="1"))).exit_code == 0
        assert (await tools.do_in(house, FileWrite(path="x", content="1"))).error == "Path traversal blocked"


async def test_the_runners_own_files_are_out_of_reach_but_whole_outputs_can_be_read(do, tmp_path: Path) -> None:
    token = tmp_path / "data" / "runner-token"
    token.write_text("secret")
    report = await do(FileRead(path=str(token)))
    assert (report.error, "belongs to the runner itself" in report.stderr) == ("Path traversal blocked", True)
    long = await do(Command(command="yes | head -c 12000000", timeout=20_000))
    kept = long.metadata["output"]["stdout"]["path"]
    assert (await do(FileRead(path=kept))).stdout.startswith("y\ny\n")
    assert (await do(FileWrite(path=kept, content="x"))).error == "Path traversal blocked"


@pytest.mark.parametrize("make", ["fifo", "socket", "directory", "device"])
async def test_what_is_no_regular_file_is_neither_read_nor_replaced(do, home: Path, make: str) -> None:
    path = home / "odd"
    match make:
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "socket":
            subprocess.run([sys.executable, "-c", f"import socket; socket.socket(1).bind({str(path)!r})"], check=True)
        case "device":
            path.symlink_to("/dev/zero")
    for work in (
        FileRead(path="odd"),
        FileWrite(path="odd", content="x"),
        FileEdit(path="odd", old_string="a", new_string=""),
    ):
        report = await asyncio.wait_for(do(work), 10)
        assert (report.exit_code, report.stdout) == (1, "")
        assert str(path) in report.stderr or "Path traversal" in report.stderr
    assert os.path.lexists(path)
    assert os.listdir(home) == ["odd"]


async def test_a_device_is_refused_also_where_everything_may_be_read(make_house, tools) -> None:
    async with make_house(policy=HostPolicy(roots=("*",))) as house:
        for path in ("/dev/zero", "/dev/tty", "/dev/stdin"):
            report = await asyncio.wait_for(tools.do_in(house, FileRead(path=path)), 10)
            assert (report.exit_code, report.stdout) == (1, "")


async def test_a_missing_file_is_said_as_clients_know_it(do, home: Path) -> None:
    report = await do(FileRead(path="no"))
    told = f"ENOENT: no such file or directory, open '{home}/no'"
    assert (report.exit_code, report.error, report.stderr) == (1, told, told)


@pytest.mark.parametrize("path", ["a\0b", "x" * 300, "loop/x", "file/below"])
async def test_a_path_that_cannot_be_is_an_error_and_no_defect(do, home: Path, path: str) -> None:
    (home / "loop").symlink_to("loop")
    (home / "file").write_text("")
    for work in (
        FileRead(path=path),
        FileWrite(path=path, content="x"),
        FileEdit(path=path, old_string="a", new_string=""),
    ):
        report = await do(work)
        assert report.exit_code == 1
        assert "defect" not in report.error


async def test_a_huge_file_is_read_at_its_two_ends(make_house, tools, home: Path) -> None:
    with (home / "huge").open("wb") as file:
        file.write(b"head")
        file.truncate(1 << 40)
        file.seek(-4, os.SEEK_END)
        file.write(b"tail")
    async with make_house(file_bytes=1000) as house:
        report = await asyncio.wait_for(tools.do_in(house, FileRead(path="huge")), 10)
        assert (report.stdout[:4], report.stdout[-4:], report.metadata) == (
            "head",
            "tail",
            {"cut": True, "bytes": 1 << 40},
        )
        assert f"bytes left out of {1 << 40} ...]" in report.stdout
        assert (await tools.do_in(house, FileRead(path="huge", encoding="base64"))).error == "File too large"
        edit = FileEdit(path="huge", old_string="head", new_string="")
        assert (await tools.do_in(house, edit)).error == "File too large"


async def test_an_edit_replaces_literally_and_keeps_line_ends(do, home: Path) -> None:
    (home / "file").write_bytes(b"a\r\nold\r\n\xff")
    report = await do(FileEdit(path="file", old_string="old", new_string="$& $1 $$ \\1"))
    assert (report.stdout, report.exit_code) == (f"File edited: {home}/file", 0)
    assert (home / "file").read_bytes() == b"a\r\n$& $1 $$ \\1\r\n\xff"


async def test_every_occurrence_is_replaced_only_when_that_is_asked_for(do, home: Path) -> None:
    (home / "file").write_text("x x x")
    report = await do(FileEdit(path="file", old_string="x", new_string="y"))
    told = f"old_string found 3 times in {home}/file, use replace_all or provide more context"
    assert (report.exit_code, report.error, report.stderr) == (1, "old_string not unique", told)
    assert (await do(FileEdit(path="file", old_string="x", new_string="y", replace_all="false"))).exit_code == 0
    assert (home / "file").read_text() == "y y y"


@pytest.mark.parametrize(
    ("path", "old", "error"),
    [
        ("none", "x", "File not found"),
        ("file", "absent", "old_string not found"),
        ("file", "", "old_string not unique"),
        ("file", {}, "old_string not found"),
    ],
)
async def test_an_edit_that_cannot_be_made_says_why(do, home: Path, path: str, old: object, error: str) -> None:
    (home / "file").write_text("ab")
    report = await do(FileEdit(path=path, old_string=old, new_string="z"))
    assert (report.exit_code, report.error) == (1, error)
    assert str(home / path) in report.stderr
    assert (home / "file").read_text() == "ab"


async def test_null_counts_as_its_text(do, home: Path) -> None:
    (home / "file").write_text("is null here")
    await do(FileEdit(path="file", old_string=None, new_string=1))
    assert (home / "file").read_text() == "is 1 here"


async def test_edits_of_one_file_at_once_lose_nothing(do, home: Path) -> None:
    (home / "file").write_text("".join(f"<{number}>" for number in range(40)))
    works = [FileEdit(path="file", old_string=f"<{number}>", new_string=f"[{number}]") for number in range(40)]
    await asyncio.gather(*map(do, works))
    assert (home / "file").read_text() == "".join(f"[{number}]" for number in range(40))


async def test_a_killed_writer_leaves_the_old_or_the_new_content(home: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from clawplane.domain.host_tasks import FileWrite
from clawplane.runner.host.files import write_file
from clawplane.runner.host.paths import Places
places = Places(Path({str(home)!r}), None)
print("on", flush=True)
for number in range(1_000_000):
    write_file(FileWrite(path="file", content=str(number % 10) * 200_000), places)
    if number == 3:
        print("busy", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert [writer.stdout.readline(), writer.stdout.readline()] == ["on\n", "busy\n"]
        writer.send_signal(signal.SIGKILL)
    content = (home / "file").read_text()
    assert (len(content), len(set(content))) == (200_000, 1)


async def test_a_file_that_may_not_be_written_stays(do, home: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everything")
    (home / "file").write_text("old")
    (home / "file").chmod(0o444)
    assert (await do(FileWrite(path="file", content="new"))).error.startswith("EACCES")
    assert (home / "file").read_text() == "old"
