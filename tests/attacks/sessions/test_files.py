"""The guest of a live session lays traps, and the host is asked for them in every way: items 1 to 6, 41 and 47."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import httpx
import pytest

TRAPS: Final = """
import os
os.makedirs('d'); open('own', 'w').write('own')
links = {'leak': '/etc/passwd', 'out': '/etc', 'up': '..', 'loop': 'loop', 'in': 'own', 'root': '/proc/self/root'}
links |= {'self': '/proc/self/environ', 'd/up': '../..', 'canary': CANARY, 'near': 'd/../../canary'}
for name, target in links.items():
    os.symlink(target, name)
os.mkfifo('pipe'); os.link('own', 'twice')
sorted(os.listdir('.'))
"""
WAYS: Final[dict[str, tuple[str, str, str]]] = {
    "read": ("GET", "/v1/sessions/ID/files/content", "query"),
    "stat": ("GET", "/v1/sessions/ID/files/stat", "query"),
    "list": ("GET", "/v1/sessions/ID/files", "query"),
    "archive": ("GET", "/v1/sessions/ID/archive", "query"),
    "write": ("PUT", "/v1/sessions/ID/files/content", "query"),
    "append": ("PUT", "/v1/sessions/ID/files/content?append=true", "query"),
    "delete": ("DELETE", "/v1/sessions/ID/files?recursive=true", "query"),
    "make": ("POST", "/v1/sessions/ID/files/directories", "path"),
    "move": ("POST", "/v1/sessions/ID/files/move", "path"),
    "move to": ("POST", "/v1/sessions/ID/files/move", "to"),
    "edit": ("POST", "/v1/sessions/ID/files/edit", "path"),
    "workspace_read": ("POST", "/v1/tools/workspace_read", "path"),
    "workspace_write": ("POST", "/v1/tools/workspace_write", "path"),
    "workspace_edit": ("POST", "/v1/tools/workspace_edit", "path"),
    "workspace_delete": ("POST", "/v1/tools/workspace_delete", "path"),
    "workspace_list": ("POST", "/v1/tools/workspace_list", "path"),
    "workspace_download": ("POST", "/v1/tools/workspace_download", "path"),
}
MORE: Final[dict[str, dict[str, Any]]] = {
    "move": {"to": "moved"},
    "move to": {"path": "own"},
    "edit": {"old": "o", "new": "x"},
    "workspace_edit": {"old": "o", "new": "x"},
    "workspace_write": {"content": "written"},
}
DOTS, ABSOLUTE = "`path` contains `..`.", "`path` is absolute."
WRONG: Final[dict[str, tuple[str, int, str]]] = {
    "up": ("../canary", 400, DOTS),
    "up later": ("d/../../canary", 400, DOTS),
    "up from the workspace": ("/workspace/../etc/passwd", 400, DOTS),
    "absolute": ("/etc/passwd", 400, ABSOLUTE),
    "beside the workspace": ("/workspacex/own", 400, ABSOLUTE),
    "a long name": ("n" * 256, 400, "`path` has a name of more than 255 bytes."),
    "a long path": ("x/" * 2048 + "y", 413, "path: 4097 bytes are more than 4096."),
    "NUL": ("own\0.txt", 422, "path: it holds a NUL character."),
    "a lone surrogate": ("\ud800", 422, "path: it holds a lone surrogate at position 0."),
}
READING: Final = {"read", "stat", "list", "archive", "workspace_read", "workspace_list", "workspace_download"}
OUT: Final = "`path`: {} leads out of the workspace."
WRITTEN: Final = "`path` is a symbolic link; nothing is written through links."
LINK: Final = "`path`: {} is or leads through a symbolic link."


def asked(session: Any, way: str, path: str) -> httpx.Response:
    """Ask for a path in one of the ways."""
    method, route, place = WAYS[way]
    route = route.replace("ID", session.id)
    if place == "query":
        content = b"written" if method == "PUT" else None
        return session.http.request(
            method, route, params=httpx.QueryParams(route.partition("?")[2]).set("path", path), content=content
        )
    body: dict[str, Any] = {place: path, **MORE.get(way, {})}
    if route.startswith("/v1/tools/"):
        body["session_id"] = session.id
    return session.http.request(method, route, content=json.dumps(body), headers={"Content-Type": "application/json"})


@pytest.fixture
def trapped(house: Any, session: Any) -> Any:
    """A session whose workspace is full of links."""
    assert "leak" in session.value(TRAPS.replace("CANARY", repr(str(house.directory / "canary"))))
    return session


@pytest.mark.parametrize("name", WRONG)
def test_a_path_that_is_none_is_refused_in_the_same_words_everywhere(trapped: Any, name: str) -> None:
    """6"""
    path, status, error = WRONG[name]
    before = trapped.shell("ls -lRA --time-style=+ .")["stdout"]
    for way in WAYS:
        if WAYS[way][2] == "query" and name == "a lone surrogate":
            continue  # a URL cannot hold it: see the bytes below
        answer = asked(trapped, way, path)
        wanted = error.replace("path", "to", 1) if way == "move to" else error
        assert (answer.status_code, answer.json()["error"]) == (status, wanted), way
    assert trapped.shell("ls -lRA --time-style=+ .")["stdout"] == before


RAW: Final = {
    "..%2fcanary": (400, DOTS),
    "..%2Fcanary": (400, DOTS),
    "%2e%2e/canary": (400, DOTS),
    "%2fetc%2fpasswd": (400, ABSOLUTE),
    "%252e%252e%252fcanary": (404, "`path`: there is no '%2e%2e%2fcanary' in the workspace."),
    "..%5ccanary": (404, "`path`: there is no '..\\\\canary' in the workspace."),
    "own%00": (422, "path: it holds a NUL character."),
    "%ff": (422, "path: it is no UTF-8 at position 0."),
    "%ed%a0%80": (422, "path: it is no UTF-8 at position 0."),
    "%c0%ae%c0%ae/canary": (422, "path: it is no UTF-8 at position 0."),
    "": (422, "path: it is empty."),
    "%20": (404, "`path`: there is no ' ' in the workspace."),
    "CON": (404, "`path`: there is no 'CON' in the workspace."),
    "-rf": (404, "`path`: there is no '-rf' in the workspace."),
    "~": (404, "`path`: there is no '~' in the workspace."),
    "a%0ab%1b%5b2J": (404, "`path`: there is no 'a\\nb\\x1b[2J' in the workspace."),
    "%e2%80%aegnp.exe": (404, "`path`: there is no '\\u202egnp.exe' in the workspace."),
}


@pytest.mark.parametrize("path", RAW)
def test_a_path_in_a_url_means_what_it_says_once_decoded(trapped: Any, path: str) -> None:
    """6"""
    status, error = RAW[path]
    answer = trapped.http.get(f"{trapped.path}/files/content?path={path}")
    assert (answer.status_code, answer.json()["error"]) == (status, error)


def test_nothing_is_read_through_a_link_that_leads_out(trapped: Any) -> None:
    """1, 2"""
    for way in sorted(READING - {"stat", "archive", "list", "workspace_list", "workspace_download"}):
        for path in ("leak", "self", "canary", "out/passwd", "root/etc/passwd", "up/x", "d/up/x", "near"):
            answer = asked(trapped, way, path)
            assert (answer.status_code, answer.json()["error"]) == (400, OUT.format(repr(path))), (way, path)
    for way in ("list", "archive", "workspace_list"):
        for path in ("out", "root", "up", "d/up", "out/passwd"):
            answer = asked(trapped, way, path)
            assert (answer.status_code, answer.json()["error"]) == (400, OUT.format(repr(path))), (way, path)
    link = asked(trapped, "workspace_download", "leak").json()["url"]  # only says where; there it is refused
    assert trapped.http.get(link).status_code == 400
    for path in ("leak", "out", "loop", "canary"):
        entry = asked(trapped, "stat", path).json()["file"]
        assert (entry["kind"], entry["size"]) == ("link", 0)
    listed = {entry["path"]: entry["kind"] for entry in asked(trapped, "list", "").json()["files"]}
    assert listed["leak"] == listed["out"] == listed["loop"] == "link"


def test_nothing_is_written_through_a_link(trapped: Any) -> None:
    """2, 3: not to where it leads, and not to what it leads to inside."""
    for way in ("write", "append", "workspace_write", "edit", "workspace_edit", "make"):
        for path in ("out/pwned", "root/tmp/pwned", "up/pwned", "d/up/pwned"):
            answer = asked(trapped, way, path)
            assert (answer.status_code, answer.json()["error"]) == (400, LINK.format(repr(path))), (way, path)
    for way in ("write", "append", "workspace_write", "edit", "workspace_edit"):
        for path in ("leak", "canary", "in", "loop"):
            answer = asked(trapped, way, path)
            assert answer.status_code == 400, (way, path)
            assert answer.json()["error"] in (LINK.format(repr(path)), WRITTEN), (way, path)
    for way, path in (("delete", "out/passwd"), ("move", "out/passwd"), ("move to", "out/pwned")):
        answer = asked(trapped, way, path)
        wanted = LINK.format(repr(path)).replace("`path`", "`to`" if way == "move to" else "`path`")
        assert (answer.status_code, answer.json()["error"]) == (400, wanted), (way, path)
    assert asked(trapped, "delete", "out").status_code == 200  # the link itself
    assert trapped.shell("cat own twice; test -e /etc/passwd && ls -A /etc | grep -c pwned")["stdout"] == "ownown0\n"


SWAP: Final = """
import ctypes, os, threading
open('f', 'w').write('inside'); os.symlink('/etc/passwd', 's')
os.makedirs('e'); open('e/passwd', 'w').write('inside'); os.symlink('/etc', 'l')
libc = ctypes.CDLL(None)
def swap():
    while True:
        for a, b in ((b'f', b's'), (b'e', b'l')): libc.renameat2(-100, a, -100, b, 2)
threading.Thread(target=swap, daemon=True).start()
"""


def test_a_race_of_links_and_files_never_leads_out(begin: Callable[..., Any]) -> None:
    """4: while a thread of the guest exchanges them as fast as it can."""
    session = begin()
    assert session.python(SWAP)["error"] is None
    seen: set[int] = set()
    for number in range(60):
        for way, path in (
            ("read", "f"),
            ("read", "e/passwd"),
            ("write", "f"),
            ("write", f"e/pwned{number}"),
            ("archive", ""),
        ):
            answer = asked(session, way, path)
            seen.add(answer.status_code)
            assert b"root:" not in answer.content
            assert answer.status_code in (200, 201, 400, 404, 409), answer.text
    assert 200 in seen
    assert seen & {400, 404, 409}
    session.reset()
    assert "pwned" not in session.shell("ls /etc")["stdout"]


def test_a_pipe_in_place_of_a_file_holds_nobody_up(trapped: Any) -> None:
    """4, 47"""
    for way in ("read", "write", "append", "workspace_read", "edit"):
        answer = asked(trapped, way, "pipe")
        assert answer.status_code == 400, way
        assert answer.json()["error"] in ("`path` is a FIFO, not a regular file.", "`path` is not a regular file."), way


def test_the_quota_of_a_workspace_is_one_for_the_guest_and_for_uploads(begin: Callable[..., Any]) -> None:
    """5, 41: whoever fills it, by size, by number, or with holes and links that take no room."""
    session = begin(disk=16)
    made = session.python(
        "for n in range(200):\n    with open(f'b{n}', 'wb') as file: file.write(bytes(1 << 20))", timeout=20
    )
    assert made["status"] in ("ok", "disk")
    answer = session.http.put(f"{session.path}/files/content", params={"path": "more"}, content=bytes(2 << 20))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "quota" in answer.json()["error"]
    session.shell("rm -f b*")
    assert session.http.put(f"{session.path}/files/content", params={"path": "more"}, content=b"x").status_code == 201
    sparse = "import os\nwith open('hole', 'wb') as hole: hole.truncate(12 << 20)\n"
    assert session.python(sparse + "for n in range(500): os.link('hole', f'l{n}')")["status"] == "ok"
    answer = session.http.put(f"{session.path}/files/content", params={"path": "more"}, content=bytes(1 << 20))
    assert answer.status_code == 201
