"""A stranger sends archives that are more than they seem, and a guest lays some where the host packs: `attacks`."""

from __future__ import annotations

import copy
import io
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable
from typing import Any, Final

import httpx

from clawplane.cli.live_attacks.items import LiveAttack, must
from clawplane.cli.live_attacks.plane import PrivatePlane, said
from clawplane.cli.live_attacks.printing import works

_MIB: Final = 1 << 20
_GOOD: Final = {"main.py": "print('hello')\n", "input_schema.json": '{"properties": []}', "output_schema.json": "[]"}


def attacks() -> list[LiveAttack]:
    """Return the attacks with archives."""
    return [
        LiveAttack(number=45, title="sends archive bombs", expected="refused by name", attempt=_send_bombs),
        LiveAttack(
            number=45,
            title="lays bombs where the host packs",
            expected="refused at once, links left out",
            attempt=_lay_bombs,
        ),
    ]


async def _send_bombs(plane: PrivatePlane) -> None:
    for number, (code, make) in enumerate(_packages()):
        package, worker = make(), f"bomb-{number}"
        headers = {"Content-Type": "application/zip"}
        answer = await plane.http.post("/v1/workers", params={"name": worker}, content=package, headers=headers)
        must(answer.status_code == 400, f"{code}: answered with {answer.status_code}")
        details = answer.json()["details"]
        must(any(code in each for each in details), f"{code}: refused for something else: {details}")
        kept = await plane.http.get(f"/v1/workers/local~{worker}")
        must(kept.status_code == 404, f"{code}: something of it stayed")
    session = await plane.begin()
    bomb = _zipped({"inner.zip": _zipped({"zeros": b"\0" * 20_000_000})})
    answer = await plane.http.put(f"{session.path}/files/content", params={"path": "bomb.zip"}, content=bomb)
    must(answer.status_code == 201, f"an archive is no file like any other: {answer.text[:200]}")
    held = await session.value("import os\n[(each, os.path.getsize(each)) for each in os.listdir()]")
    must(held == f"[('bomb.zip', {len(bomb)})]", f"the host unpacked it: {held}")


def _packages() -> Iterable[tuple[str, Callable[[], bytes]]]:
    """Return the packages of a Worker that must be refused, each with the name of its fault."""
    return (
        ("package_bomb", lambda: _zipped({**_GOOD, "zeros": b"\0" * 60_000_000})),
        ("package_bomb", _lying_bomb),
        ("package_overlapping_members", _overlapping),
        ("package_too_many_members", lambda: _zipped({**_GOOD, **{f"n{number}": "" for number in range(10_001)}})),
        ("package_path_traversal", lambda: _zipped({**_GOOD, "../../evil.py": "x"})),
        ("package_path_absolute", lambda: _zipped({**_GOOD, "/etc/cron.d/evil": "x"})),
        ("package_symlink", lambda: _zipped({**_GOOD, "/etc/passwd": _special("link", stat.S_IFLNK | 0o777)})),
        ("package_special_file", lambda: _zipped({**_GOOD, "x": _special("device", stat.S_IFBLK | 0o666)})),
    )


def _zipped(files: dict[str, Any]) -> bytes:
    """Pack texts and bytes by name; a ZipInfo is a member whose content is the name."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            if isinstance(content, zipfile.ZipInfo):
                archive.writestr(content, name)
            else:
                archive.writestr(name, content)
    return packed.getvalue()


def _special(name: str, mode: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.create_system = 3
    member.external_attr = mode << 16
    return member


def _lying_bomb() -> bytes:
    """Return a package whose last member is announced with 1,000 bytes and has 30 million."""
    data = bytearray(_zipped({**_GOOD, "zeros": b"\0" * 30_000_000}))
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.rfind(signature) + at, 1000)
    return bytes(data)


def _overlapping() -> bytes:
    """Return a package whose directory names the same megabyte eleven times."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in _GOOD.items():
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
    await works(session)


def opened(answer: httpx.Response) -> zipfile.ZipFile:
    """Return the archive that was answered."""
    must(answer.status_code == 200, f"an archive was answered with {answer.status_code}: {answer.text[:100]}")
    return zipfile.ZipFile(io.BytesIO(answer.content))
