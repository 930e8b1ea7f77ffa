"""Read the directory of a ZIP file: records in, `Entry` values out, nothing unpacked and nothing judged but the format.

The standard library's reader is meant for archives one trusts: it builds every record before anyone can count them,
cuts names at NUL, turns backslashes into slashes and looks an entry's data up wherever the record says. Here the number
of records is bounded before the first is built, names are kept as they were written, and the place of each entry's data
is known, so that overlaps can be seen.

    [local header, name, extra, data] ...   [central record, name, extra, comment] ...   (zip64 end)   end record

Only the central records count; the local headers are read to find the data and must name the same file.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import msgspec

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 0xFFFF
_FULL32 = 0xFFFFFFFF
_UTF8_NAME = 0x800
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_RECORD_BYTES = 1200
"""A directory larger than this per permitted member is refused; names have at most 1024 bytes."""


class ZipFormatError(ValueError):
    """A file that cannot be read as a ZIP; `code` is the diagnostic's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One central record. `name` as written; `mode` the Unix mode or 0; the data lies at [data_start, data_end)."""

    name: str
    mode: int
    method: int
    encrypted: bool
    crc: int
    packed: int
    size: int
    header_start: int
    data_start: int = 0

    @property
    def data_end(self) -> int:
        """Return the offset behind the packed bytes."""
        return self.data_start + self.packed


class _End(msgspec.Struct, frozen=True):
    count: int
    size: int
    offset: int
    position: int


def read_directory(file: BinaryIO, length: int, max_members: int) -> list[Entry]:
    """Return the entries in directory order. Raises ZipFormatError."""
    end = _find_end(file, length)
    if end.count > max_members or end.size > max_members * _RECORD_BYTES:
        raise ZipFormatError("package_too_many_members", f"It holds more than {max_members} members.")
    if end.offset + end.size != end.position:
        raise ZipFormatError(
            "package_damaged", "Its directory is not where its end record says; bytes are missing or added."
        )
    file.seek(end.offset)
    records = file.read(end.size)
    entries: list[Entry] = []
    at = 0
    while at < len(records):
        if len(entries) >= max_members:
            raise ZipFormatError("package_too_many_members", f"It holds more than {max_members} members.")
        entry, at = _central(records, at)
        entries.append(entry)
    if len(entries) != end.count:
        raise ZipFormatError("package_damaged", f"It announces {end.count} members and lists {len(entries)}.")
    return [_locate(file, entry, end.offset) for entry in entries]


def _find_end(file: BinaryIO, length: int) -> _End:
    file.seek(0)
    start = file.read(4)
    tail_length = min(length, _END.size + _LONGEST_COMMENT)
    file.seek(length - tail_length)
    tail = file.read(tail_length)
    at = tail.rfind(b"PK\x05\x06")
    while at >= 0:
        if at + _END.size <= len(tail):
            record = _END.unpack_from(tail, at)
            if at + _END.size + record[7] == len(tail):
                return _end(file, record, length - tail_length + at)
        at = tail.rfind(b"PK\x05\x06", 0, at)
    if start == b"PK\x03\x04":
        raise ZipFormatError("package_truncated", "It begins like a ZIP file but its end is missing.")
    raise ZipFormatError("package_not_a_zip", "It is not a ZIP file.")


def _end(file: BinaryIO, record: tuple[int, ...], position: int) -> _End:
    _, disk, directory_disk, here, count, size, offset, _ = record
    if _FULL32 in (size, offset) or 0xFFFF in (here, count):
        file.seek(max(0, position - _END64_LOCATOR.size))
        locator = file.read(_END64_LOCATOR.size)
        if locator.startswith(b"PK\x06\x07") and len(locator) == _END64_LOCATOR.size:
            found = _END64_LOCATOR.unpack(locator)[2]
            if found >= position:  # up to 2^64, which no file can be asked for
                raise ZipFormatError("package_damaged", "Its 64-bit end record is missing.")
            position = found
            file.seek(position)
            raw = file.read(_END64.size)
            if len(raw) < _END64.size or not raw.startswith(b"PK\x06\x06"):
                raise ZipFormatError("package_damaged", "Its 64-bit end record is missing.")
            _, _, _, _, disk, directory_disk, here, count, size, offset = _END64.unpack(raw)
    if disk or directory_disk or here != count:
        raise ZipFormatError("package_damaged", "It is one part of a ZIP that was split over several files.")
    return _End(count, size, offset, position)


def _central(records: bytes, at: int) -> tuple[Entry, int]:
    if at + _CENTRAL.size > len(records) or records[at : at + 4] != b"PK\x01\x02":
        raise ZipFormatError("package_damaged", "Its directory holds something that is no record.")
    fields = _CENTRAL.unpack_from(records, at)
    (
        _,
        _,
        _,
        flags,
        method,
        _,
        _,
        crc,
        packed,
        size,
        name_length,
        extra_length,
        comment_length,
        _,
        _,
        attributes,
        start,
    ) = fields
    name_at = at + _CENTRAL.size
    extra_at = name_at + name_length
    stop = extra_at + extra_length + comment_length
    if stop > len(records):
        raise ZipFormatError("package_damaged", "A record of its directory is cut off.")
    size, packed, start = _wide(records[extra_at : extra_at + extra_length], size, packed, start)
    entry = Entry(
        name=_name(records[name_at:extra_at], flags),
        mode=attributes >> 16,
        method=method,
        encrypted=bool(flags & _ENCRYPTED),
        crc=crc,
        packed=packed,
        size=size,
        header_start=start,
    )
    return entry, stop


def _wide(extra: bytes, size: int, packed: int, start: int) -> tuple[int, int, int]:
    """Return the three numbers with those that did not fit 32 bits taken from the zip64 extra field."""
    values = [size, packed, start]
    if _FULL32 not in values:
        return size, packed, start
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        at += 4
        if kind == 1:
            field = extra[at : at + length]
            for index, value in enumerate(values):
                if value == _FULL32 and len(field) >= 8:
                    values[index] = int.from_bytes(field[:8], "little")
                    field = field[8:]
            break
        at += length
    return values[0], values[1], values[2]


def _name(raw: bytes, flags: int) -> str:
    # many packers write UTF-8 without saying so; what is no UTF-8 is in the format's old code page
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "backslashreplace") if flags & _UTF8_NAME else raw.decode("cp437")


def _locate(file: BinaryIO, entry: Entry, directory_start: int) -> Entry:
    if entry.header_start + _LOCAL.size > directory_start:
        raise ZipFormatError("package_damaged", f"The data of {entry.name[:200]!r} is not inside the file.")
    file.seek(entry.header_start)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size or not header.startswith(b"PK\x03\x04"):
        raise ZipFormatError("package_damaged", f"The data of {entry.name[:200]!r} has no header.")
    fields = _LOCAL.unpack(header)
    raw_name = file.read(fields[9])
    if _name(raw_name, fields[2]) != entry.name:
        raise ZipFormatError(
            "package_damaged", f"The directory and the data disagree about the name {entry.name[:200]!r}."
        )
    located = msgspec.structs.replace(
        entry,
        data_start=entry.header_start + _LOCAL.size + fields[9] + fields[10],
        encrypted=entry.encrypted or bool(fields[2] & _ENCRYPTED),
    )
    if located.data_end > directory_start:
        raise ZipFormatError("package_damaged", f"The data of {entry.name[:200]!r} runs past the end of the members.")
    return located
