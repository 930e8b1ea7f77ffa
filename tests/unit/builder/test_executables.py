from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from clawplane.builder.errors import ManifestRefused
from clawplane.builder.executables import check_executable

HERE = platform.machine()
REAL = Path(sys.executable).resolve().read_bytes()[:64]


def test_a_program_for_this_host_is_accepted() -> None:
    check_executable(REAL, 0o755, HERE)


@pytest.mark.parametrize(
    ("header", "mode", "machine", "reason"),
    [
        (b"#!/bin/sh\n" + b" " * 60, 0o755, HERE, "not a Linux program"),
        (b"MZ" + b" " * 62, 0o755, HERE, "not a Linux program"),
        (b"", 0o755, HERE, "not a Linux program"),
        (REAL[:40], 0o755, HERE, "not a complete"),
        (REAL[:4] + b"\x01" + REAL[5:], 0o755, HERE, "not a complete 64-bit"),
        (REAL[:16] + b"\x01\x00" + REAL[18:], 0o755, HERE, "object file or library"),
        (REAL[:18] + b"\xb7\x00" + REAL[20:], 0o755, "x86_64", "was built for aarch64; this host is x86_64"),
        (REAL[:18] + b"\x03\x00" + REAL[20:], 0o755, "x86_64", "was built for machine 3"),
        (REAL, 0o644, HERE, "not executable"),
    ],
)
def test_what_could_not_start_is_refused_with_the_way_out(header: bytes, mode: int, machine: str, reason: str) -> None:
    with pytest.raises(ManifestRefused, match=reason) as caught:
        check_executable(header, mode, machine)
    assert "go build" in caught.value.hint or "chmod" in caught.value.hint
