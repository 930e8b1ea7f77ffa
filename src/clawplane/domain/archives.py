"""Judge an uploaded ZIP and read its members, given a file object; nothing is ever written here.

Whoever made the archive is a stranger. `inspect` refuses, with a code for every reason, whatever could surprise the one
who unpacks it: names that leave the directory, names that one file system keeps apart and another does not, links and
devices, members that share bytes, and sizes that lie. Sizes are not believed: each member is inflated once, with a bound,
and thrown away. After that `extract_plan` is all a runner needs; it yields plain relative paths whose parents are
directories, one of two modes, and readers that stop at the announced size.

| code | the archive |
| --- | --- |
| `package_empty` | has no bytes, or no member that is a file |
| `package_not_a_zip`, `package_truncated`, `package_damaged` | cannot be read |
| `package_too_large`, `package_too_many_members`, `package_bomb` | exceeds a limit: packed, count, expanded size or ratio |
| `package_encrypted`, `package_compression_unsupported` | holds members nobody here can open |
| `package_path_traversal`, `package_path_absolute`, `package_path_backslash`, `package_path_invalid`, `package_path_too_long` | has a name that is no plain relative path |
| `package_symlink`, `package_special_file` | holds something else than files and directories |
| `package_duplicate_member`, `package_case_collision`, `package_path_conflict` | names one place twice |
| `package_overlapping_members` | stores members in the same bytes |
"""  # noqa: E501  (a table's rows cannot be broken)

from __future__ import annotations

import io
import stat
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import msgspec

from clawplane.domain.diagnostics import Diagnostic
from clawplane.domain.errors import InvalidArgument
from clawplane.domain.zip_directory import Entry, ZipFormatError, read_directory

_CHUNK = 256 * 1024
_STORED, _DEFLATED = 0, 8
_MOST_PROBLEMS = 50
_LONGEST_PATH, _LONGEST_NAME, _DEEPEST = 1024, 255, 64


class ArchiveLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive may be: sizes in bytes. The ratio counts only above `ratio_from` expanded bytes."""

    compressed: int = 100_000_000
    expanded: int = 500_000_000
    members: int = 10_000
    ratio: int = 200
    ratio_from: int = 20_000_000


class ArchiveRefused(InvalidArgument):
    """A package that cannot be accepted; `diagnostics` says all that was found."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        first = self.diagnostics[0]
        super().__init__(
            f"{first.file}: {first.message}" if first.file else first.message,
            hint=first.hint,
            details=[finding.sentence() for finding in self.diagnostics],
        )


class Member(msgspec.Struct, frozen=True):
    """One place in the package: `path` relative with forward slashes; `size` in bytes."""

    path: str
    size: int
    executable: bool
    directory: bool
    entry: Entry


class Archive:
    """An inspected ZIP. It reads the file object it was given, which must stay open; for one thread at a time."""

    def __init__(self, file: BinaryIO, members: Iterable[Member], compressed_size: int) -> None:
        self._file = file
        self._members = {member.path: member for member in members}
        self.compressed_size = compressed_size

    def __contains__(self, path: object) -> bool:
        member = self._members.get(path) if isinstance(path, str) else None
        return member is not None and not member.directory

    @property
    def files(self) -> list[Member]:
        """Return the members that are files, in the archive's order."""
        return [member for member in self._members.values() if not member.directory]

    @property
    def expanded_size(self) -> int:
        """Return the bytes all files take when unpacked."""
        return sum(member.size for member in self.files)

    def member(self, path: str) -> Member:
        """Return the file at `path`. Raises KeyError."""
        member = self._members[path]
        if member.directory:
            raise KeyError(path)
        return member

    def read(self, path: str, limit: int) -> bytes:
        """Return a file's bytes. Raises KeyError when it is absent, ArchiveRefused when it is larger than `limit`."""
        member = self.member(path)
        if member.size > limit:
            message = f"It is {member.size} bytes long; at most {limit} are read."
            raise ArchiveRefused(
                [Diagnostic("package_file_too_large", "error", message, path, None, "Shorten the file.")]
            )
        return b"".join(self.chunks(member))

    def head(self, path: str, size: int) -> bytes:
        """Return at most the first `size` bytes of a file."""
        collected = b""
        for chunk in self.chunks(self.member(path)):
            collected += chunk
            if len(collected) >= size:
                break
        return collected[:size]

    def chunks(self, member: Member) -> Iterator[bytes]:
        """Yield a file's bytes; ends at its announced size. Raises ArchiveRefused when the data is damaged."""
        return _inflate(self._file, member.entry)

    def extract_plan(self) -> list[Member]:
        """Return what to create, parents first: every directory that is named or implied, and every file.

        Create files anew in an empty directory (never follow or overwrite), 0755 when executable, else 0644.
        """
        directories: dict[str, Member] = {}
        for member in self._members.values():
            parts = member.path.split("/")
            for depth in range(1, len(parts) + (1 if member.directory else 0)):
                path = "/".join(parts[:depth])
                directories.setdefault(path, Member(path, 0, True, True, member.entry))
        return [directories[path] for path in sorted(directories)] + self.files


def inspect(file: BinaryIO, *, limits: ArchiveLimits | None = None, measure: bool = True) -> Archive:
    """Return the archive in `file` when it is safe to unpack. Raises ArchiveRefused.

    `measure=False` skips inflating every member, for a reader of a package that was measured when it was uploaded; the
    readers stay bounded by the announced sizes.
    """
    limits = limits or ArchiveLimits()
    length = file.seek(0, io.SEEK_END)
    if length == 0:
        raise _refusal("package_empty", "The package is empty (0 bytes).", "Send a ZIP file.")
    if length > limits.compressed:
        message = f"The package is {length} bytes long; the limit is {limits.compressed}."
        raise _refusal("package_too_large", message, "Leave out data, caches and installed dependencies.")
    try:
        entries = read_directory(file, length, limits.members)
    except ZipFormatError as error:
        raise _refusal(error.code, error.message, _FORMAT_HINTS[error.code]) from None
    problems = [problem for entry in entries for problem in _entry_problems(entry)]
    members = [_member(entry) for entry in entries] if not problems else []
    problems += _collisions(members)
    problems += _overlaps(entries)
    problems += _announced_bomb(entries, limits)
    if problems:
        raise ArchiveRefused(problems[:_MOST_PROBLEMS])
    if all(member.directory for member in members):
        raise _refusal("package_empty", "The ZIP file holds no file.", "Pack the files of the Worker.")
    if measure:
        for member in members:
            for _ in _inflate(file, member.entry):
                pass
    return Archive(file, [member for member in members if member.path], length)


_FORMAT_HINTS = {
    "package_not_a_zip": "Pack the Worker's files as a ZIP (not tar, rar or 7z).",
    "package_truncated": "The upload was cut off or the file is incomplete; pack and send it again.",
    "package_damaged": "Pack the Worker again with a current ZIP program.",
    "package_too_many_members": "Leave out caches and installed dependencies (node_modules, .venv).",
}


def _refusal(code: str, message: str, hint: str, path: str | None = None) -> ArchiveRefused:
    return ArchiveRefused([Diagnostic(code, "error", message, path, None, hint)])


def _shown(name: str) -> str:
    """Return a name that is safe to print: control characters escaped, at most 200 characters."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in name[:200])


def _entry_problems(entry: Entry) -> Iterator[Diagnostic]:
    shown = _shown(entry.name)
    for code, message, hint in (_name_problem(entry.name), _kind_problem(entry), _content_problem(entry)):
        if code:
            yield Diagnostic(code, "error", message, shown, None, hint)


_Problem = tuple[str, str, str]
"""Code, message, hint; an empty code says that all is well."""

_FINE: _Problem = ("", "", "")


def _name_problem(name: str) -> _Problem:
    plain = "Use plain relative names: letters, digits, dots, dashes, single slashes."
    parts = name.split("/")
    lengths = [len(part.encode("utf-8", "replace")) for part in parts]
    drive = len(name) > 1 and name[1] == ":" and name[0].isascii() and name[0].isalpha()
    if "\\" in name:
        return "package_path_backslash", "Its name holds a backslash.", "Pack with forward slashes between directories."
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        return "package_path_invalid", "Its name holds a NUL or another control character.", plain
    if name.startswith("/") or drive:
        return "package_path_absolute", "Its name is an absolute path.", "Pack relative to the Worker's directory."
    if ".." in parts:
        return "package_path_traversal", "Its name leads out of the package.", "Remove `..` from the names."
    if sum(lengths) + len(parts) > _LONGEST_PATH or max(lengths) > _LONGEST_NAME or len(parts) > _DEEPEST:
        message = f"Its name is longer than {_LONGEST_PATH} bytes, {_LONGEST_NAME} in one part, or {_DEEPEST} levels."
        return "package_path_too_long", message, "Shorten the names."
    return _FINE if _segments(name) or name == "./" else ("package_path_invalid", "A member has no name.", plain)


def _kind_problem(entry: Entry) -> _Problem:
    kind = stat.S_IFMT(entry.mode)
    if kind == stat.S_IFLNK:
        return "package_symlink", "It is a symbolic link.", "Pack the file it points to (without `zip -y`)."
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "package_special_file", "It is a device, socket or pipe.", "Pack files and directories only."
    if kind and (kind == stat.S_IFDIR) != entry.name.endswith("/"):
        return "package_damaged", "Its name and its mode disagree whether it is a directory.", "Pack the Worker again."
    return _FINE


def _content_problem(entry: Entry) -> _Problem:
    if entry.encrypted:
        return "package_encrypted", "It is encrypted.", "Pack without a password."
    if entry.method not in (_STORED, _DEFLATED):
        message = f"It uses compression method {entry.method}."
        return "package_compression_unsupported", message, "Pack with the standard method (deflate) or uncompressed."
    if entry.name.endswith("/") and entry.size:
        return "package_damaged", "It is a directory with content.", "Pack the Worker again."
    if entry.method == _STORED and entry.packed != entry.size:
        return "package_damaged", "Its two sizes contradict each other.", "Pack the Worker again."
    return _FINE


def _segments(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _member(entry: Entry) -> Member:
    directory = entry.name.endswith("/")
    return Member("/".join(_segments(entry.name)), entry.size, bool(entry.mode & 0o111), directory, entry)


def _collisions(members: list[Member]) -> Iterator[Diagnostic]:
    exact: set[str] = set()
    folded: dict[str, str] = {}
    files = {member.path for member in members if not member.directory}
    for member in members:
        path = member.path
        parents = [path[:at] for at, char in enumerate(path) if char == "/"]
        blocked = next((parent for parent in parents if parent in files), None)
        key = unicodedata.normalize("NFC", unicodedata.normalize("NFKC", path).casefold())
        if path in exact:
            yield Diagnostic("package_duplicate_member", "error", "It is there twice.", path, None, "Keep one of them.")
        elif blocked is not None:
            message = f"{blocked} is a file and a directory at once."
            yield Diagnostic("package_path_conflict", "error", message, path, None, "Rename one of them.")
        elif key in folded:
            message = f"Its name differs from {folded[key]} by letter case only."
            yield Diagnostic("package_case_collision", "error", message, path, None, "Rename one of them.")
        exact.add(path)
        folded.setdefault(key, path)


def _overlaps(entries: list[Entry]) -> Iterator[Diagnostic]:
    end, previous = 0, ""
    for entry in sorted(entries, key=lambda entry: entry.header_start):
        if entry.header_start < end:
            message = f"It shares its bytes with {previous}."
            yield Diagnostic(
                "package_overlapping_members", "error", message, _shown(entry.name), None, "Pack the Worker again."
            )
        if entry.data_end > end:
            end, previous = entry.data_end, _shown(entry.name)


def _announced_bomb(entries: list[Entry], limits: ArchiveLimits) -> Iterator[Diagnostic]:
    expanded = sum(entry.size for entry in entries)
    packed = sum(entry.packed for entry in entries)
    hint = "Leave out large data; load it at run time."
    if expanded > limits.expanded:
        message = f"The package expands to {expanded} bytes; the limit is {limits.expanded}."
        yield Diagnostic("package_bomb", "error", message, None, None, hint)
    elif expanded > limits.ratio_from and expanded > packed * limits.ratio:
        message = f"The package expands to {expanded} bytes, more than {limits.ratio} times its size."
        yield Diagnostic("package_bomb", "error", message, None, None, hint)


def _inflate(file: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """Yield an entry's bytes, never more than announced; the last step proves size and checksum."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS) if entry.method == _DEFLATED else None
    at, left, produced, crc = entry.data_start, entry.packed, 0, 0
    pending = b""
    while True:
        if not pending and left:
            file.seek(at)
            pending = file.read(min(_CHUNK, left))
            if not pending:
                raise _damaged(entry, "it ends too soon")
            at += len(pending)
            left -= len(pending)
        if inflater is None:
            piece, pending = pending, b""
        else:
            try:
                piece = inflater.decompress(pending, _CHUNK)
            except zlib.error:
                raise _damaged(entry, "its compressed data is invalid") from None
            pending = inflater.unconsumed_tail
        produced += len(piece)
        if produced > entry.size:
            message = f"It expands beyond the {entry.size} bytes it announces."
            raise _refusal("package_bomb", message, "Pack the Worker again.", _shown(entry.name))
        crc = zlib.crc32(piece, crc)
        if piece:
            yield piece
        elif inflater is None or inflater.eof or not (left or pending):
            break
    if produced != entry.size or crc != entry.crc:
        raise _damaged(entry, "its size or checksum is wrong")


def _damaged(entry: Entry, reason: str) -> ArchiveRefused:
    message = f"Its content is damaged: {reason}."
    return _refusal("package_damaged", message, "Pack the Worker again and repeat the upload.", _shown(entry.name))
