"""Questions about the files of a session."""

from __future__ import annotations

import pytest

from clawplane.domain.asks import (
    Archive,
    DeleteFile,
    EditFile,
    ListFiles,
    MakeDirectory,
    MoveFile,
    ReadFile,
    StatFile,
    WriteFile,
)


async def test_a_file_is_written_from_what_is_fed_and_read_as_a_stream(stay):
    entry = await stay.ask("write", WriteFile(path="d/a")).feed(b"hel", b"lo").answer()
    assert (entry.path, entry.size) == ("d/a", 5)
    reading = stay.ask("read", ReadFile(path="d/a", offset=1))
    read = await reading.answer()
    assert (b"".join(reading.told), read.sent, read.size) == (b"ello", 4, 5)
    assert (await stay.shell("cat d/a")).stdout == "hello"


async def test_files_are_listed_described_edited_moved_and_deleted(stay):
    await stay.ask("make_directory", MakeDirectory(path="d")).answer()
    await stay.shell("echo one > d/a")
    assert (await stay.ask("edit", EditFile(path="d/a", old="one", new="two")).answer()).replaced == 1
    await stay.ask("move", MoveFile(path="d/a", to="b")).answer()
    assert (await stay.shell("cat b")).stdout == "two\n"
    assert (await stay.ask("stat", StatFile(path="b")).answer()).size == 4
    await stay.ask("delete", DeleteFile(path="d", recursive=True)).answer()
    listing = await stay.ask("list", ListFiles()).answer()
    assert [entry.path for entry in listing.files] == ["b"]


async def test_an_archive_of_the_workspace_is_a_zip(stay):
    await stay.shell("echo one > a")
    asked = stay.ask("archive", Archive())
    await asked.answer()
    assert b"".join(asked.told).startswith(b"PK")


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "link/passwd"])
async def test_no_path_leads_out_of_the_workspace(stay, path):
    await stay.shell("ln -s /etc link")
    with pytest.raises(Exception, match="path"):
        await stay.ask("read", ReadFile(path=path)).answer()


async def test_a_write_beyond_the_quota_is_refused(house, begin):
    stay = await begin(house, disk=1)
    with pytest.raises(Exception, match=r"quota|room"):
        await stay.ask("write", WriteFile(path="a")).feed(*[b"x" * 60_000] * 30).answer()


async def test_an_exec_that_fills_the_disk_is_ended_with_the_reason(house, begin):
    stay = await begin(house, disk=4)
    code = "for n in range(10**6):\n    open(f'f{n}', 'wb').write(b'x' * 500_000)\n    __import__('time').sleep(0.02)"
    result = await stay.python(code)
    assert (result.status, result.error) == ("disk", "Error: disk quota exceeded")
    assert "4 MB" in " ".join(result.notes)


async def test_files_written_from_outside_are_no_change_of_the_next_exec(stay):
    await stay.python("1")
    await stay.ask("write", WriteFile(path="a")).feed(b"1").answer()
    assert (await stay.python("1")).files == ()


async def test_a_method_that_nobody_knows_is_refused(stay):
    asked = stay.ask("state", ReadFile(path="a"))
    asked.asking.method = "fly"
    with pytest.raises(Exception, match="fly"):
        stay.job.asked(asked.asking)
