"""Packages of Workers as attackers make them."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Iterable
from typing import Final

from clawplane.cli.live_attacks.items import must
from clawplane.cli.live_attacks.plane import PrivatePlane

GOOD: Final = {"main.py": "print('x')\n", "input_schema.json": '{"properties": []}', "output_schema.json": "[]"}
"""A package that is refused for nothing."""
ZIP: Final = {"Content-Type": "application/zip"}
Member = tuple[str | zipfile.ZipInfo, str | bytes]


def zipped(members: Iterable[Member]) -> bytes:
    """Pack names, or what ZipInfo says of a member, with contents; a name may be there twice."""
    packed = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # that a name is there twice is what is tried
        for name, content in members:
            archive.writestr(name, content)
    return packed.getvalue()


def special(name: str, mode: int) -> zipfile.ZipInfo:
    """Return a member that is no plain file; `mode` is as lstat(2) says it."""
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, mode << 16
    return member


async def refused(plane: PrivatePlane, name: str, package: bytes, code: str) -> None:
    """Raise Broken unless an upload is refused by the name of its fault, and nothing of it stays."""
    answer = await plane.http.post("/v1/workers", params={"name": name}, content=package, headers=ZIP)
    must(answer.status_code == 400, f"{code}: answered with {answer.status_code} {answer.text}")
    details = answer.json()["details"]
    must(any(code in each for each in details), f"{code}: refused for something else: {details}")
    kept = await plane.http.get(f"/v1/workers/local~{name}")
    must(kept.status_code == 404, f"{code}: something of it stayed")
