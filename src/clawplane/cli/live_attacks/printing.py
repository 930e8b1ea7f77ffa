"""A guest prints and returns what is made to confuse or to fill whoever shows it: `attacks`."""

from __future__ import annotations

from typing import Final

from clawplane.cli.live_attacks.items import LiveAttack, listed, must, right
from clawplane.cli.live_attacks.plane import PrivatePlane, said

_MIB: Final = 1 << 20
_MOST_SHOWN: Final = 1 * _MIB
_MOST_ANSWERED: Final = 40 * _MIB
_MOST_RESULTS: Final = 1000
_CONFUSING: Final = (
    (b"a\xff\xfeb", "a\ufffd\ufffdb"),
    (b"a\xed\xa0\x80b", "a\ufffd\ufffd\ufffdb"),
    (b"a\0b", "ab"),
    (b"10 %\r50 %\r100 %\n", "100 %\n"),
    (b"\x1b[31mred\x1b[0m", "red"),
    (b"\x1b]0;pwned\x07text", "text"),
    (b"\x1b]52;c;cHduZWQ=\x07text", "text"),
    (b"\x1b]8;;file:///etc/passwd\x1b\\link\x1b]8;;\x1b\\", "link"),
    (b"\xc2\x9b31m\xc2\x9d0;pwned\xc2\x9ceight", "eight"),
    (b"kept\x1b[2J\x1b[Htext", "kepttext"),
    ("\U0001f600".encode(), "\U0001f600"),
)
"""What is printed, and what has to be shown of it."""
_SELF: Final = "class A:\n    def {}(self): {}\nA()"
_RICH: Final = (
    (_SELF.format("_repr_html_", "return self._repr_html_()"), "ok"),
    (_SELF.format("_repr_html_", "raise SystemExit(9)"), "ok"),
    (_SELF.format("_repr_html_", "__import__('time').sleep(99)"), "timeout"),
    (_SELF.format("_repr_png_", "return b'\\x89PNG' + bytes(30 << 20)"), "ok"),
    (_SELF.format("__repr__", "raise ValueError"), "ok"),
    ("'x' * (40 << 20)", "ok"),
    ("display({f'text/x{n}': 'x' * (7 << 20) for n in range(8)}, raw=True)", "ok"),
    ("for number in range(100_000): display(number)", "ok"),
    ("display({5: 'x', 'a/b': object(), '\\0': '\\x1b[2J', 'text/plain': '\\ud800'}, raw=True)", "ok"),
    ("class L(dict):\n    def items(self): raise SystemExit(9)\ndisplay(L(a=1), raw=True)", "ok"),
    ("d = e = {}\nfor _ in range(100_000): e['a'] = {}; e = e['a']\ndisplay({'application/json': d}, raw=True)", "ok"),
)
"""What shows itself, and how the exec has to end."""


def attacks() -> list[LiveAttack]:
    """Return the attacks on output."""
    rows = (
        (43, "prints confusing bytes", "they are shown as text that no terminal obeys", _print_confusing_bytes),
        (43, "prints very long lines", "they are cut", _print_long_lines),
        (44, "returns rich output", "it is cut or left out", _return_rich_output),
        (44, "returns pages with scripts", "they are data, and no browser runs them", _return_scripts),
    )
    return listed(rows)


async def _print_confusing_bytes(plane: PrivatePlane) -> None:
    session = await plane.begin()
    for printed, shown in _CONFUSING:
        octal = "".join(f"\\{byte:03o}" for byte in printed)
        by_shell = f"printf '{octal}'; printf '{octal}' >&2"
        by_python = f"import os\nfor byte in {printed!r}: _ = os.write(1, bytes([byte])), os.write(2, bytes([byte]))"
        for tool, code in (("python", by_python), ("shell", by_shell)):
            answer = await plane.http.post(f"{session.path}/exec", json={"tool": tool, "code": code})
            found = answer.json()
            must((found["stdout"], found["stderr"]) == (shown, shown), f"{printed!r} of {tool}: {said(found)}")
            must(min(answer.content) >= 0x20, f"{printed!r} reached the wire as it is")
    found = await session.python("raise ValueError('\\x1b[2J\\0')")
    must("\x1b" not in found["stderr"] and "\0" not in found["stderr"], f"a traceback kept an escape: {said(found)}")


async def _print_long_lines(plane: PrivatePlane) -> None:
    session = await plane.begin()
    loop = "import os\nblock = {}\nfor _ in range(100): _ = os.write(1, block)"
    for block in ("b'x' * 100_000", "b'\\r 12 %' * 17_000", "b'\\x1b]0;' + b'z' * 100_000"):
        found = await session.python(loop.format(block), timeout=20)
        must(found["status"] == "ok", f"{block}: {said(found)}")
        must(len(found["stdout"]) <= _MOST_SHOWN, f"{block}: {len(found['stdout'])} characters were shown")
        must(found["usage"]["output_bytes"] >= 10_000_000, f"{block}: not all of it was read")
    await right(session, "long lines")


async def _return_rich_output(plane: PrivatePlane) -> None:
    session = await plane.begin()
    for code, status in _RICH:
        limit = {"timeout": 1 if status == "timeout" else 20}
        answer = await plane.http.post(f"{session.path}/exec", json={"tool": "python", "code": code, **limit})
        must(len(answer.content) <= _MOST_ANSWERED, f"an answer of {len(answer.content)} bytes to {code[:60]!r}")
        found = answer.json()
        must(found["status"] == status, f"{code[:60]!r}: {said(found)}")
        must(len(found["results"]) <= _MOST_RESULTS, f"{len(found['results'])} results of {code[:60]!r}")
        names = [name for each in found["results"] for name in each]
        must(all(isinstance(each, dict) and each for each in found["results"]), f"{code[:60]!r} gave no bundles")
        must(found["results"] or status == "timeout", f"{code[:60]!r} showed nothing: {names}")
        await right(session, repr(code[:60]))


async def _return_scripts(plane: PrivatePlane) -> None:
    session = await plane.begin()
    page = "<script>alert(1)</script><svg onload=alert(1)>"
    code = f"display({{'text/html': {page!r}, 'image/svg+xml': {page!r}}}, raw=True)\n"
    code += f"for name in ('x.html', 'x.svg', 'x.js'): _ = open(name, 'w').write({page!r})"
    answer = await plane.http.post(f"{session.path}/exec", json={"tool": "python", "code": code})
    must(page in str(answer.json()["results"]), f"it is not given to its caller: {said(answer.json())}")
    pages = [(answer, "application/json")]
    for name in ("x.html", "x.svg", "x.js"):
        answer = await plane.http.get(f"{session.path}/files/content", params={"path": name})
        pages.append((answer, "application/octet-stream"))
        must(answer.headers.get("content-disposition", "").startswith("attachment"), f"{name} is shown in place")
    for each, kind in pages:
        must(each.headers["content-type"] == kind, f"it is served as {each.headers['content-type']}")
        must(each.headers.get("x-content-type-options") == "nosniff", "a browser may guess what it is")
