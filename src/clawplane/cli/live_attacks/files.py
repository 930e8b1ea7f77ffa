"""A guest lays traps in its workspace, and the host is asked for them in every way it has: `attacks`.

Theory of operation. A `_Bait` is a directory of the host that the links of a guest lead to. Its owner and everybody
else may read and write it, so that nothing but the host's own care with links keeps a file operation from it. Each
attack asks for every trap in every way of the API that fits, and looks at the bait afterwards. It wants the very
refusal that such a path has to get: any other error could mean that the attack missed.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import httpx

from clawplane.cli.live_attacks import packing, printing
from clawplane.cli.live_attacks.items import LiveAttack, NotTried, listed, must
from clawplane.cli.live_attacks.packing import opened
from clawplane.cli.live_attacks.plane import LiveSession, PrivatePlane

_ROUNDS, _MOST_ROUNDS = 25, 200
_TRAPS: Final = """
import os
os.makedirs('d'); open('own', 'w').write('own')
links = {'leak': BAIT + '/passwd', 'out': BAIT, 'up': '..', 'loop': 'loop', 'in': 'own', 'root': '/proc/self/root'}
links |= {'far': '../' * 40 + BAIT + '/passwd', 'self': '/proc/self/environ', 'd/up': '../..', 'near': 'd/../../canary'}
for name, target in links.items(): os.symlink(target, name)
len(links)
"""
_LOOK: Final = "ls -lRA --time-style=+ . && cat own"
_WAYS: Final[dict[str, tuple[str, str]]] = {
    "read": ("GET", "files/content"),
    "stat": ("GET", "files/stat"),
    "list": ("GET", "files"),
    "archive": ("GET", "archive"),
    "write": ("PUT", "files/content"),
    "append": ("PUT", "files/content?append=true"),
    "delete": ("DELETE", "files?recursive=true"),
    "make": ("POST", "files/directories"),
    "move": ("POST", "files/move"),
    "move to": ("POST", "files/move"),
    "edit": ("POST", "files/edit"),
    "workspace_read": ("POST", ""),
    "workspace_write": ("POST", ""),
    "workspace_edit": ("POST", ""),
    "workspace_delete": ("POST", ""),
    "workspace_list": ("POST", ""),
    "workspace_download": ("POST", ""),
}
"""Method and route below the session; without a route it is a tool."""
_MORE: Final[dict[str, dict[str, Any]]] = {
    "move": {"to": "moved"},
    "move to": {"path": "own"},
    "edit": {"old": "o", "new": "x"},
    "workspace_edit": {"old": "o", "new": "x"},
    "workspace_write": {"content": "written"},
}
_READERS: Final = ("read", "workspace_read")
_WRITERS: Final = ("write", "append", "workspace_write", "edit", "workspace_edit")
_PATHS: Final[dict[str, int]] = {
    "../canary": 400,
    "d/../../canary": 400,
    "/workspace/../etc/passwd": 400,
    "/etc/passwd": 400,
    "/workspacex/own": 400,
    "n" * 256: 400,
    "x/" * 2048 + "y": 413,
    "own\0.txt": 422,
    "\ud800": 422,
}
_QUERIES: Final[dict[str, int]] = {
    "..%2fcanary": 400,
    "%2e%2e/canary": 400,
    "%2fetc%2fpasswd": 400,
    "%252e%252e%252fcanary": 404,
    "..%5ccanary": 404,
    "own%00": 422,
    "%ff": 422,
    "%ed%a0%80": 422,
    "%c0%ae%c0%ae/canary": 422,
    "": 422,
    "%20": 404,
    "-rf": 404,
    "~": 404,
    "a%0ab%1b%5b2J": 404,
    "%e2%80%aegnp.exe": 404,
}
_SWAP: Final = """
import ctypes, os, threading
open('f', 'w').write('inside'); os.symlink(BAIT + '/passwd', 's')
os.makedirs('e'); open('e/passwd', 'w').write('inside'); os.symlink(BAIT, 'l')
libc = ctypes.CDLL(None)
def swap():
    while True:
        for a, b in ((b'f', b's'), (b'e', b'l')): libc.renameat2(-100, a, -100, b, 2)
threading.Thread(target=swap, daemon=True).start()
libc.renameat2(-100, b'f', -100, b's', 2)
"""


def attacks() -> list[LiveAttack]:
    """Return the attacks on files, on what shows output, and with archives."""
    refused = "refused, and nothing of the host is touched"
    rows = (
        (1, "downloads a symbolic link", refused, _download_links),
        (2, "uses a link as parent directory", refused, _go_through_links),
        (3, "writes through a link", refused, _write_through_links),
        (4, "swaps file and link in a race", "sees the one or a refusal, never what the link leads to", _race),
        (6, "sends hostile paths to the API", refused, _send_paths),
        (6, "hides hostile paths in a URL", refused, _send_queries),
    )
    return [*listed(rows), *printing.attacks(), *packing.attacks()]


class _Bait:
    """A directory of the host that everybody may change, with one secret in it."""

    def __init__(self, plane: PrivatePlane) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="bait-", dir=plane.directory))
        self.secret = secrets.token_hex(16).encode()
        self._file = self.directory / "passwd"
        self._file.write_bytes(self.secret)
        self.directory.chmod(0o777)
        self._file.chmod(0o666)
        self._before = self._seen()

    def code(self, text: str) -> str:
        """Return code of a guest that knows where the bait is."""
        return f"BAIT = {str(self.directory)!r}\n{text}"

    def check(self) -> None:
        """Want it as it was."""
        must(self._seen() == self._before, f"the host's directory was changed: {self._seen()[0]}")

    def _seen(self) -> tuple[object, ...]:
        found = self._file.lstat() if self._file.exists() else None
        kept = (found.st_mode, found.st_uid, found.st_gid, found.st_nlink, found.st_mtime_ns) if found else ()
        return sorted(each.name for each in self.directory.iterdir()), kept, found and self._file.read_bytes()


async def _trapped(plane: PrivatePlane, bait: _Bait) -> LiveSession:
    """Return a session whose workspace is full of links, and whose honest file can be read."""
    session = await plane.begin()
    must(await session.value(bait.code(_TRAPS)) == "10", "the traps could not be laid")
    answer = await _ask(plane, session, "read", "own")
    must(answer.content == b"own", f"the guest's own file cannot be read: {answer.text}")
    return session


async def _ask(plane: PrivatePlane, session: LiveSession, way: str, path: str) -> httpx.Response:
    """Ask for a path in one of the ways."""
    method, route = _WAYS[way]
    if method != "POST":
        below, _, query = route.partition("?")
        params = httpx.QueryParams(query).set("path", path)
        content = b"written" if method == "PUT" else None
        return await plane.http.request(method, f"{session.path}/{below}", params=params, content=content)
    body = {"to" if way == "move to" else "path": path, **_MORE.get(way, {})}
    if not route:
        body["session_id"] = session.id
    whole = f"{session.path}/{route}" if route else f"/v1/tools/{way}"
    return await plane.http.post(whole, content=json.dumps(body), headers={"Content-Type": "application/json"})


async def _all_refused(
    plane: PrivatePlane, session: LiveSession, bait: _Bait, ways: Iterable[str], paths: Iterable[str]
) -> None:
    """Ask for every path in every way, and want each refused because of a link."""
    for way in ways:
        for path in paths:
            answer = await _ask(plane, session, way, path)
            must(bait.secret not in answer.content, f"{way} of {path!r} gave the host's file away")
            must(answer.status_code == 400, f"{way} of {path!r} was answered with {answer.status_code}")
            error = answer.json()["error"]
            must("leads out" in error or "symbolic link" in error or "links" in error, f"{way} of {path!r}: {error}")


async def _download_links(plane: PrivatePlane) -> None:
    bait = _Bait(plane)
    session = await _trapped(plane, bait)
    await _all_refused(plane, session, bait, _READERS, ("leak", "far", "self", "near"))
    link = (await _ask(plane, session, "workspace_download", "leak")).json()["url"]
    answer = await plane.http.get(link)
    must(answer.status_code == 400 and bait.secret not in answer.content, f"its link answered {answer.status_code}")
    for path in ("leak", "out", "loop", "far"):
        entry = (await _ask(plane, session, "stat", path)).json()["file"]
        must((entry["kind"], entry["size"]) == ("link", 0), f"what {path!r} leads to is described: {entry}")
    packed = opened(await _ask(plane, session, "archive", ""))
    must("own" in packed.namelist(), "the workspace was not packed")
    must(set(packed.namelist()) == {"d/", "own"}, f"links were packed: {packed.namelist()}")
    must(not any(bait.secret in packed.read(name) for name in packed.namelist()), "the host's file was packed")
    bait.check()


async def _go_through_links(plane: PrivatePlane) -> None:
    bait = _Bait(plane)
    session = await _trapped(plane, bait)
    before = (await session.shell(_LOOK))["stdout"]
    inside = ("out/passwd", "root/etc/passwd", "up/x", "d/up/x")
    await _all_refused(plane, session, bait, (*_READERS, "delete", "workspace_delete", "move"), inside)
    await _all_refused(plane, session, bait, ("list", "archive", "workspace_list"), ("out", "root", "up", "d/up"))
    await _all_refused(
        plane, session, bait, (*_WRITERS, "make", "move to"), ("out/new", f"root{bait.directory}/new", "d/up/new")
    )
    must((await session.shell(_LOOK))["stdout"] == before, "the workspace was changed")
    bait.check()


async def _write_through_links(plane: PrivatePlane) -> None:
    bait = _Bait(plane)
    session = await _trapped(plane, bait)
    before = (await session.shell(_LOOK))["stdout"]
    await _all_refused(plane, session, bait, _WRITERS, ("leak", "far", "near", "in", "loop"))
    must((await session.shell(_LOOK))["stdout"] == before, "the workspace was changed")
    for way, path in (("delete", "out"), ("workspace_delete", "leak"), ("move", "far")):
        answer = await _ask(plane, session, way, path)
        must(answer.status_code == 200, f"{way} of the link {path!r} itself: {answer.text}")
    left = await session.value("[os.path.lexists(each) for each in ('out', 'leak', 'far')], os.path.islink('moved')")
    must(left == "([False, False, False], True)", f"links were not taken as what they are: {left}")
    bait.check()


async def _race(plane: PrivatePlane) -> None:
    """The guest exchanges them as fast as it can, until the host has met both."""
    bait = _Bait(plane)
    session = await plane.begin()
    swapped = await session.value(bait.code(_SWAP))
    if swapped != "0":
        raise NotTried(f"this host's file system exchanges no names: {swapped}"[:200])
    read: dict[str, set[int]] = {"f": set(), "e/passwd": set()}
    for number in range(_MOST_ROUNDS):
        met = any({200, 400} <= seen for seen in read.values())
        if met and number >= _ROUNDS:
            break
        asked = (("read", "f"), ("read", "e/passwd"), ("write", "f"), ("write", f"e/new{number}"), ("archive", ""))
        for way, path in asked:
            answer = await _ask(plane, session, way, path)
            if way == "read":
                read[path].add(answer.status_code)
            fine = answer.status_code in (200, 201, 400, 404, 409)
            must(fine, f"{way} of {path!r} was answered with {answer.status_code}: {answer.text[:100]}")
            given = answer.content
            if way == "archive":
                packed = opened(answer)
                given = b"".join(map(packed.read, packed.namelist()))
            must(bait.secret not in given, f"{way} of {path!r} gave the host's file away")
    bait.check()
    if not met:
        raise NotTried(f"the host never met both the file and the link: {read}")


async def _send_paths(plane: PrivatePlane) -> None:
    bait = _Bait(plane)
    session = await _trapped(plane, bait)
    before = (await session.shell(_LOOK))["stdout"]
    for path, status in _PATHS.items():
        for way, (method, _) in _WAYS.items():
            if path == "\ud800" and method != "POST":
                continue  # no URL can hold it: its bytes are among the queries
            answer = await _ask(plane, session, way, path)
            must(answer.status_code == status, f"{way} of {path[:30]!r} was answered with {answer.status_code}")
            named = "to" if way == "move to" else "path"
            error = answer.json()["error"]
            must(error.startswith((f"`{named}`", f"{named}:")), f"{way} of {path[:30]!r}: {error}")
    must((await session.shell(_LOOK))["stdout"] == before, "the workspace was changed")
    bait.check()


async def _send_queries(plane: PrivatePlane) -> None:
    session = await _trapped(plane, _Bait(plane))
    for query, status in _QUERIES.items():
        answer = await plane.http.get(f"{session.path}/files/content?path={query}")
        must(answer.status_code == status, f"{query!r} was answered with {answer.status_code}")
        must(answer.json()["error"].isprintable(), f"{query!r} came back as it was: {answer.json()['error']!r}")
