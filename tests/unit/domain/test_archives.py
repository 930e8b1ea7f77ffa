"""Archives: every danger has its code, and nothing but our own refusal ever comes out."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clawplane.domain.archives import Archive, ArchiveLimits, ArchiveRefused, inspect


def build(
    *members: tuple[str, bytes],
    mode: int = 0o100644,
    flags: int = 0,
    method: int = 0,
    size: int | None = None,
    count: int | None = None,
    local_name: str | None = None,
) -> bytes:
    """Write a ZIP by hand, so that it may say what no packer would."""
    body, directory = b"", b""
    for name, data in members:
        raw = name.encode("utf-8", "surrogatepass")
        local = raw if local_name is None else local_name.encode()
        packed = data
        if method == 8:
            deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
            packed = deflater.compress(data) + deflater.flush()
        announced = len(data) if size is None else size
        sums = (zlib.crc32(data), len(packed), announced)
        start = len(body)
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 20, flags, method, 0, 0, *sums, len(local), 0) + local + packed
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 0x314, 20, flags, method, 0, 0, *sums, len(raw), 0, 0, 0, 0, mode << 16, start
        )
        directory += raw
    number = len(members) if count is None else count
    return body + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, number, number, len(directory), len(body), 0)


def opened(data: bytes, limits: ArchiveLimits | None = None) -> Archive:
    return inspect(io.BytesIO(data), limits=limits)


def codes(data: bytes, limits: ArchiveLimits | None = None) -> list[str]:
    with pytest.raises(ArchiveRefused) as caught:
        opened(data, limits)
    assert all(finding.hint for finding in caught.value.diagnostics), "every refusal says the way out"
    return [finding.code for finding in caught.value.diagnostics]


def test_reads_an_ordinary_archive() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("main.py", "print('hello')\n" * 1000)
        archive.writestr("data/ü.txt", "x")
    package = opened(buffer.getvalue())
    assert [member.path for member in package.files] == ["main.py", "data/ü.txt"]
    assert package.read("main.py", 100_000) == b"print('hello')\n" * 1000
    assert "data" not in package
    assert package.head("main.py", 5) == b"print"


def test_plans_directories_before_files_and_keeps_only_the_execute_bit() -> None:
    plan = opened(build(("bin/deep/main", b"\x7fELF"), mode=0o104755)).extract_plan()
    assert [(member.path, member.directory, member.executable) for member in plan] == [
        ("bin", True, True),
        ("bin/deep", True, True),
        ("bin/deep/main", False, True),
    ]


def test_accepts_a_comment_a_dot_prefix_and_64_bit_records() -> None:
    data = build(("./main.py", b"1"))
    assert "main.py" in opened(data[:-2] + struct.pack("<H", 3) + b"hey")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("main.py", "w", force_zip64=True) as member:
        member.write(b"1")
    assert opened(buffer.getvalue()).read("main.py", 10) == b"1"


def test_refuses_to_read_a_file_above_the_limit() -> None:
    with pytest.raises(ArchiveRefused, match="at most 2"):
        opened(build(("a", b"123"))).read("a", 2)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../evil", "package_path_traversal"),
        ("a/../../evil", "package_path_traversal"),
        ("/etc/passwd", "package_path_absolute"),
        ("C:/windows", "package_path_absolute"),
        ("a\\b", "package_path_backslash"),
        ("..\\evil", "package_path_backslash"),
        ("main.py\0.txt", "package_path_invalid"),
        ("a\nb", "package_path_invalid"),
        ("", "package_path_invalid"),
        (".", "package_path_invalid"),
        ("x" * 256, "package_path_too_long"),
        ("/".join(["x"] * 65), "package_path_too_long"),
        ("/".join(["y" * 100] * 11), "package_path_too_long"),
    ],
)
def test_refuses_a_dangerous_name(name: str, code: str) -> None:
    assert codes(build((name, b""))) == [code]


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        (0o120777, "package_symlink"),
        (0o020666, "package_special_file"),
        (0o060666, "package_special_file"),
        (0o010666, "package_special_file"),
        (0o140666, "package_special_file"),
        (0o040755, "package_damaged"),
    ],
)
def test_refuses_what_is_neither_file_nor_directory(mode: int, code: str) -> None:
    assert codes(build(("link", b"/etc/passwd"), mode=mode)) == [code]


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (("a", "a"), "package_duplicate_member"),
        (("a", "./a"), "package_duplicate_member"),
        (("Main.py", "main.py"), "package_case_collision"),
        (("stra\u00dfe", "STRASSE"), "package_case_collision"),
        (("caf\u00e9", "cafe\u0301"), "package_case_collision"),
        (("a", "a/b"), "package_path_conflict"),
        (("a/b", "a"), "package_path_conflict"),
    ],
)
def test_refuses_two_members_for_one_place(names: tuple[str, str], code: str) -> None:
    assert codes(build(*((name, b"") for name in names))) == [code]


@pytest.mark.parametrize("offset", [0, 1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_refuses_a_64_bit_end_record_at_an_offset_that_no_file_has(offset: int) -> None:
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, offset, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert codes(build(("main.py", b"x"))[:-22] + locator + end) == ["package_damaged"]


def test_tells_an_empty_a_truncated_a_damaged_and_a_foreign_file_apart() -> None:
    good = build(("main.py", b"x" * 100))
    assert codes(b"") == ["package_empty"]
    assert codes(build()) == ["package_empty"]
    assert codes(build(("dir/", b""), mode=0o040755)) == ["package_empty"]
    assert codes(good[:60]) == ["package_truncated"]
    assert codes(good[:-1]) == ["package_truncated"]
    assert codes(b"\x1f\x8b not a zip") == ["package_not_a_zip"]
    assert codes(b"#!/bin/sh\n" + good) == ["package_damaged"]
    assert codes(good.replace(b"x" * 100, b"y" * 100)) == ["package_damaged"]
    assert codes(build(("a", b""), local_name="b")) == ["package_damaged"]
    assert codes(build(("a", b"1"), count=2)) == ["package_damaged"]


def test_refuses_encrypted_and_exotically_compressed_members() -> None:
    assert codes(build(("a", b"1"), flags=1)) == ["package_encrypted"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a", "1" * 100)
    assert codes(buffer.getvalue()) == ["package_compression_unsupported"]


def test_refuses_members_that_share_their_bytes() -> None:
    data = bytearray(build(("a", b"x" * 50), ("b", b"y" * 50)))
    second = data.rfind(b"PK\1\2")
    data[second + 42 : second + 46] = struct.pack("<L", 0)
    data[second + 46 : second + 47] = b"a"
    assert "package_overlapping_members" in codes(bytes(data))


def test_refuses_bombs_by_announced_size_by_ratio_and_by_measurement() -> None:
    zeros = b"\0" * 2_000_000
    small = ArchiveLimits(expanded=1_000_000)
    assert codes(build(("a", zeros), method=8), small) == ["package_bomb"]
    assert codes(build(("a", zeros), method=8), ArchiveLimits(ratio_from=1_000_000)) == ["package_bomb"]
    assert codes(build(("a", zeros), method=8, size=1000)) == ["package_bomb"], "it lies about its size"
    assert codes(build(*((str(n), b"") for n in range(11))), ArchiveLimits(members=10)) == ["package_too_many_members"]
    assert codes(build(("a", b"")) + b"", ArchiveLimits(compressed=20)) == ["package_too_large"]


def test_reports_every_bad_member_at_once() -> None:
    assert codes(build(("../a", b""), ("/b", b""))) == ["package_path_traversal", "package_path_absolute"]


def test_a_reader_that_skips_the_measurement_still_stops_at_the_announced_size() -> None:
    package = inspect(io.BytesIO(build(("a", b"\0" * 100_000), method=8, size=10)), measure=False)
    with pytest.raises(ArchiveRefused, match="beyond the 10 bytes"):
        package.read("a", 1000)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_raise_nothing_but_a_refusal(data: bytes) -> None:
    for candidate in (data, b"PK\3\4" + data, data + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 46, 0, 0)):
        with contextlib.suppress(ArchiveRefused):
            opened(candidate)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_archive_is_refused_or_still_reads_whole(data: st.DataObject) -> None:
    raw = bytearray(build(("main.py", b"print(1)" * 9), ("dir/b", b"\0" * 300), method=8))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        package = opened(bytes(raw))
    except ArchiveRefused:
        return
    for member in package.files:
        assert len(package.read(member.path, 10_000)) == member.size
        assert not member.path.startswith("/")
        assert ".." not in member.path.split("/")
