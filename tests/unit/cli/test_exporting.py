from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from clawplane.cli.exporting import ATTEMPTS, is_stream, write_file, write_stream
from clawplane.domain.errors import InvalidArgument, Unavailable


def chunks_of(*parts: bytes | Exception) -> Callable[[], AsyncGenerator[bytes, None]]:
    async def chunks() -> AsyncGenerator[bytes, None]:
        for part in parts:
            if isinstance(part, Exception):
                raise part
            yield part

    return chunks


async def test_a_file_appears_when_it_is_complete_and_its_growth_is_told(tmp_path: Path) -> None:
    told: list[int] = []
    seen: list[bool] = []
    output = tmp_path / "rows.csv"

    def grown(total: int) -> None:
        told.append(total)
        seen.append(output.exists())

    assert await write_file(chunks_of(b"abc", b"de"), output, grown) == 5
    assert output.read_bytes() == b"abcde"
    assert told == [3, 5]
    assert seen == [False, False]
    assert list(tmp_path.iterdir()) == [output]


async def test_an_export_that_breaks_off_is_begun_again_and_has_no_byte_twice(tmp_path: Path) -> None:
    plays = iter([chunks_of(b"abcdef", Unavailable("broke")), chunks_of(b"abc", b"def")])

    def again() -> AsyncGenerator[bytes, None]:
        return next(plays)()

    assert await write_file(again, tmp_path / "x", lambda _: None) == 6
    assert (tmp_path / "x").read_bytes() == b"abcdef"


async def test_an_export_that_never_gets_through_leaves_what_was_there_before(tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    output.write_text("old")
    tries: list[int] = []

    def chunks() -> AsyncGenerator[bytes, None]:
        tries.append(1)
        return chunks_of(b"new", Unavailable("broke"))()

    with pytest.raises(Unavailable):
        await write_file(chunks, output, lambda _: None)
    assert len(tries) == ATTEMPTS
    assert output.read_text() == "old"
    assert list(tmp_path.iterdir()) == [output]


async def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(InvalidArgument, match=r"rows.csv cannot be written: File too large"):
            await write_file(chunks_of(b"x" * 200_000), tmp_path / "rows.csv", lambda _: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert list(tmp_path.iterdir()) == []


async def test_a_directory_and_a_place_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="is a directory"):
        await write_file(chunks_of(b"x"), tmp_path, lambda _: None)
    with pytest.raises(InvalidArgument, match="No such file or directory"):
        await write_file(chunks_of(b"x"), tmp_path / "nowhere" / "x", lambda _: None)


async def test_a_link_stays_a_link_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    await write_file(chunks_of(b"x"), tmp_path / "link", lambda _: None)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"x"


async def test_a_device_is_written_and_not_replaced() -> None:
    assert is_stream(Path("/dev/null"))
    await write_stream(chunks_of(b"x"), Path("/dev/null"))
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(("output", "stream"), [(None, True), (Path("-"), True), (Path("/tmp/nothing/x"), False)])
def test_standard_output_is_a_stream_and_a_file_to_be_is_none(output: Path | None, stream: bool) -> None:
    assert is_stream(output) is stream


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_export_that_is_interrupted_leaves_no_half_file(
    environment: dict[str, str], server: Any, tmp_path: Path, number: int
) -> None:
    begun, over = threading.Event(), threading.Event()

    def half(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        handler.wfile.write(b"a,b\r\n" * 1000)
        begun.set()
        over.wait(30)

    server.answers = {
        "GET /api/v2/worker-runs/last/result/export": {"download_url": "http://x/v1/downloads/a"},
        "GET /v1/downloads/a": half,
    }
    place = tmp_path / "place"
    place.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "clawplane", "runs", "export", "-o", str(place / "rows.csv")],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert begun.wait(30)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    over.set()
    assert process.returncode == 128 + number
    assert "Traceback" not in said
    assert list(place.iterdir()) == []


def test_an_export_to_standard_output_that_breaks_off_fails(clawplane: Any, server: Any) -> None:
    def half(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"a,b\r\n")

    server.answers = {
        "GET /api/v2/worker-runs/last/result/export": {"download_url": "http://x/v1/downloads/a"},
        "GET /v1/downloads/a": half,
    }
    done = clawplane("runs", "export")
    assert done.returncode == 1
    assert "broke off" in done.stderr
    assert os.linesep not in done.stdout.replace("a,b\n", "")
