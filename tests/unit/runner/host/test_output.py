"""What is kept of an output, what is told of it, and how a report is made to fit."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from clawplane.domain.host_tasks import TaskReport
from clawplane.runner.host import private
from clawplane.runner.host.output import Capture, cut, fitted
from clawplane.runner.host.spill import Spills

TEXT = "aé€😀" * 50


async def test_characters_are_whole_however_the_bytes_arrive() -> None:
    raw = TEXT.encode()
    for size in (1, 2, 3, 7):
        told: list[str] = []
        capture = Capture("stdout", tell=lambda stream, text, told=told: told.append(text))
        for start in range(0, len(raw), size):
            await capture.take(raw[start : start + size])
        await capture.close()
        assert (capture.text, "".join(told), capture.metadata) == (TEXT, TEXT, {})


async def test_beyond_the_cap_both_ends_stay_and_no_character_is_split() -> None:
    raw = TEXT.encode()
    for cap in range(20, 60):
        capture = Capture("stdout", cap=cap)
        for byte in raw:
            await capture.take(bytes([byte]))
        head, mark, tail = capture.text.partition("\n[... ")[0], "left out of 500", capture.text.rpartition("...]\n")[2]
        assert TEXT.startswith(head)
        assert TEXT.endswith(tail)
        assert mark in capture.text
        assert "\ufffd" not in capture.text
        assert capture.metadata == {"bytes": 500, "cut": True}


async def test_exactly_the_cap_is_kept_whole() -> None:
    capture = Capture("stdout", cap=10)
    await capture.take(b"0123456789")
    assert (capture.text, capture.metadata) == ("0123456789", {})


async def test_bytes_that_are_no_text_are_replaced_at_the_end_too() -> None:
    told: list[str] = []
    capture = Capture("stdout", tell=lambda stream, text: told.append(text))
    await capture.take(b"a\xff\xe2\x82")
    await capture.close()
    assert capture.text == "a\ufffd\ufffd"
    assert "".join(told) == "a\ufffd\ufffd"


async def test_live_output_ends_with_a_word_about_it() -> None:
    told: list[str] = []
    capture = Capture("stdout", tell=lambda stream, text: told.append(text), live=4)
    for _ in range(3):
        await capture.take(b"abc")
    assert "".join(told) == "abca\n[live output ends here after 4 bytes; the result has more]\n"
    assert capture.text == "abcabcabc"


async def test_the_whole_of_a_large_output_is_in_its_file(tmp_path: Path) -> None:
    spills = Spills(tmp_path / "out", most_each=1000)
    capture = Capture("stdout", cap=10, spill=lambda stream: spills.open("task/../1", stream))
    for number in range(50):
        await capture.take(b"%02d" % number)
    await capture.close()
    spills.close()
    kept = Path(capture.metadata["path"])
    assert kept.read_text() == "".join(f"{number:02d}" for number in range(50))
    assert (capture.metadata["complete"], kept.parent) == (True, tmp_path / "out")


async def test_a_file_is_opened_by_another_thread_and_closed_when_nobody_waits_for_it_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spills, go, made = Spills(tmp_path), threading.Event(), asyncio.Event()
    loop, create, files = asyncio.get_running_loop(), private.create, []

    def slow(name: str, *, directory: int) -> BinaryIO:
        loop.call_soon_threadsafe(made.set)  # would not be heard, were this the thread of the loop
        assert go.wait(30)
        files.append(create(name, directory=directory))
        return files[-1]

    monkeypatch.setattr(private, "create", slow)
    opening = asyncio.create_task(spills.open("t", "stdout"))
    await made.wait()
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    go.set()
    monkeypatch.undo()
    sink = await spills.open("t", "stderr")
    assert sink is not None
    await sink.close()
    spills.close()
    assert opening.cancelled()
    assert [file.closed for file in files] == [True]


async def test_old_outputs_go_first_and_open_ones_stay(tmp_path: Path) -> None:
    spills = Spills(tmp_path, most=2_500)
    files = []
    for number in range(3):
        spill = await spills.open(f"t{number}", "stdout")
        assert spill is not None
        await spill.write(b"x" * 1000)
        if number < 2:
            await spill.close()
        else:
            await spill.flush()  # type: ignore[attr-defined]
        files.append(Path(spill.metadata["path"]))
    spills.sweep()
    assert [file.exists() for file in files] == [False, True, True]
    spills.sweep(now=files[1].stat().st_mtime + 8 * 86_400)
    assert [file.exists() for file in files] == [False, False, True]
    await spill.close()
    spills.close()


@pytest.mark.parametrize("text", ["x" * 5000, "\0" * 5000, "😀" * 2000, "é" * 3000])
@pytest.mark.parametrize("most", [5000, 6000, 9000])
def test_a_report_is_cut_until_it_fits(text: str, most: int) -> None:
    report = TaskReport(stdout=text, stderr=text[:4000], exit_code=3, error="e", metadata={"sessionId": "s"})
    made = fitted(report, most)
    body = json.dumps({"stdout": made.stdout, "stderr": made.stderr, "metadata": made.metadata}, ensure_ascii=True)
    assert len(body) <= most
    assert (made.exit_code, made.metadata) == (3, {"sessionId": "s", "cut": True})


def test_a_report_that_fits_is_left_alone_and_a_small_stream_is_kept_whole() -> None:
    report = TaskReport(stdout="x" * 1000, stderr="y")
    assert fitted(report, 10_000) is report
    made = fitted(TaskReport(stdout="x" * 60_000_000, stderr="why it failed"), 5 << 20)
    assert (made.stderr, "bytes left out of 60000000" in made.stdout) == ("why it failed", True)
    assert 4_000_000 < len(made.stdout) < 5 << 20


def test_a_cut_text_has_at_most_so_many_bytes() -> None:
    for most in (0, 100, 250, 499, 500, 1000):
        assert len(cut(TEXT, most).encode()) <= max(most, 60)
    assert cut(TEXT, 500) == TEXT
