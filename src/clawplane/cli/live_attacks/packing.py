"""A stranger sends archives that are more than they seem, and a guest lays some where the host packs: `attacks`."""

from __future__ import annotations

import copy
import io
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable
from typing import Final

import httpx

from clawplane.cli.live_attacks.items import LiveAttack, listed, must, right
from clawplane.cli.live_attacks.packages import GOOD, Member, refused, special, zipped
from clawplane.cli.live_attacks.plane import PrivatePlane, said

_MIB: Final = 1 << 20


def attacks() -> list[LiveAttack]:
    """Return the attacks with archives."""
    rows = (
        (45, "sends archive bombs", "refused by name", _send_bombs),
        (45, "lays bombs where the host packs", "refused at once, links left out", _lay_bombs),
    )
    return listed(rows)


async def _send_bombs(plane: PrivatePlane) -> None:
    for number, (code, make) in enumerate(_packages()):
        await refused(plane, f"bomb-{number}", make(), code)
    session = await plane.begin()
    bomb = zipped([("inner.zip", zipped([("zeros", b"\0" * 20_000_000)]))])
    answer = await plane.http.put(f"{session.path}/files/content", params={"path": "bomb.zip"}, content=bomb)
    must(answer.status_code == 201, f"an archive is no file like any other: {answer.text[:200]}")
    held = await session.value("import os\n[(each, os.path.getsize(each)) for each in os.listdir()]")
    must(held == f"[('bomb.zip', {len(bomb)})]", f"the host unpacked it: {held}")


def _packages() -> Iterable[tuple[str, Callable[[], bytes]]]:
    """Return the packages of a Worker that must be refused, each with the name of its fault."""
    return (
        ("package_bomb", lambda: _with(("zeros", b"\0" * 60_000_000))),
        ("package_bomb", _lying_bomb),
        ("package_overlapping_members", _overlapping),
        ("package_too_many_members", lambda: _with(*((f"n{number}", "") for number in range(10_001)))),
        ("package_path_traversal", lambda: _with(("../../evil.py", "x"))),
        ("package_path_absolute", lambda: _with(("/etc/cron.d/evil", "x"))),
        ("package_symlink", lambda: _with((special("link", stat.S_IFLNK | 0o777), "/etc/passwd"))),
        ("package_special_file", lambda: _with((special("device", stat.S_IFBLK | 0o666), "x"))),
    )


def _with(*members: Member) -> bytes:
    return zipped([*GOOD.items(), *members])


def _lying_bomb() -> bytes:
    """Return a package whose last member is announced with 1,000 bytes and has 30 million."""
    data = bytearray(_with(("zeros", b"\0" * 30_000_000)))
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.rfind(signature) + at, 1000)
    return bytes(data)


def _overlapping() -> bytes:
    """Return a package whose directory names the same megabyte eleven times."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in GOOD.items():
            archive.writestr(name, text)
        archive.writestr("zeros", b"\0" * _MIB)
        archive.filelist += [copy.copy(archive.getinfo("zeros")) for _ in range(10)]
    return packed.getvalue()


async def _lay_bombs(plane: PrivatePlane) -> None:
    session = await plane.begin()
    odd = r"""
import os
for name in ('new\nline', '\x1b[2J', '-rf', 'a\\b', '..\\..\\x', '\u202egnp.exe'): _ = open(name, 'w').write('odd')
os.close(os.open(b'\xff\xfe', os.O_CREAT)); os.mkfifo('pipe'); os.symlink('loop', 'loop'); os.symlink('/etc', 'etc')
with open('hole', 'wb') as hole: _ = hole.truncate(64 << 20)
"""
    must((await session.python(odd))["status"] == "ok", "the bombs could not be laid")
    answer = await plane.http.get(f"{session.path}/archive")
    names = opened(answer).namelist()
    must(len(names) == len(set(names)) == 8, f"links or pipes were packed: {names}")
    clear = all(name.isprintable() and not name.startswith("/") and "\\" not in name for name in names)
    must(clear and not any(".." in name.split("/") for name in names), f"names lead out: {names}")
    must(len(answer.content) < 2 * _MIB, f"a hole was packed into {len(answer.content)} bytes")
    found = await session.python("for number in range(70): os.link('hole', f'link{number}')")
    must(found["status"] == "ok", f"the bombs could not be laid: {said(found)}")
    answer = await plane.http.get(f"{session.path}/archive")
    must(answer.status_code == 413, f"4.4 GB of holes were answered with {answer.status_code}")
    await right(session, "bombs")


def opened(answer: httpx.Response) -> zipfile.ZipFile:
    """Return the archive that was answered."""
    must(answer.status_code == 200, f"an archive was answered with {answer.status_code}: {answer.text[:100]}")
    return zipfile.ZipFile(io.BytesIO(answer.content))
