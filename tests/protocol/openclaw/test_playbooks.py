"""Play conversations written from the contract's tables against a real server, and compare every byte of its answers.

A playbook is a text file. `> METHOD /path` begins a request, `>> ` goes on with its body, `>: Name: value` adds a
header (`Authorization: -` leaves the token out). `< STATUS` is what must come back, `<< ` its body. In bodies and paths
`${name}` is a value seen before; in an expected body `${name:kind}` takes a new one: uuid, ms (a time of this year),
int, text (no quotes), any. Everything else is literal. `#` begins a remark, `!restart` stops and starts the server on
the same files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from task_plane import Answer, Client, task_plane

HERE: Final = Path(__file__).parent
KINDS: Final = {
    "uuid": rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    "ms": rb"1[0-9]{12}",
    "int": rb"-?[0-9]+",
    "text": rb'[^"]*',
    "any": rb".*",
}
_HOLE: Final = re.compile(r"\$\{(\w+)(?::(\w+))?\}")


@dataclass
class Step:
    """One request with the answer that it must get, or a restart."""

    line: int
    method: str = ""
    path: str = ""
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 0
    expected: str | None = None


def steps_of(text: str) -> Iterator[Step]:
    step: Step | None = None
    for number, line in enumerate(text.splitlines(), 1):
        mark, _, rest = line.partition(" ")
        match mark:
            case "" | "#":
                continue
            case "!restart":
                if step is not None:
                    yield step
                step = None
                yield Step(number)
            case ">":
                if step is not None:
                    yield step
                method, _, path = rest.partition(" ")
                step = Step(number, method, path)
            case ">>" | ">:" | "<" | "<<":
                assert step is not None, f"line {number}: nothing was asked yet"
                _fill(step, mark, rest)
            case _:
                raise ValueError(f"line {number}: {line!r}")
    if step is not None:
        yield step


def _fill(step: Step, mark: str, rest: str) -> None:
    if mark == ">>":
        step.body = (step.body or "") + rest
    elif mark == ">:":
        name, _, value = rest.partition(": ")
        step.headers[name] = value
    elif mark == "<":
        step.status = int(rest)
    else:
        step.expected = (step.expected or "") + rest


def filled(text: str, seen: dict[str, str]) -> str:
    return _HOLE.sub(lambda hole: seen[hole[1]], text)


def pattern_of(expected: str, seen: dict[str, str]) -> re.Pattern[bytes]:
    parts, at = [], 0
    for hole in _HOLE.finditer(expected):
        parts.append(re.escape(expected[at : hole.start()].encode()))
        known = hole[2] is None
        parts.append(re.escape(seen[hole[1]].encode()) if known else b"(?P<%s>%s)" % (hole[1].encode(), KINDS[hole[2]]))
        at = hole.end()
    parts.append(re.escape(expected[at:].encode()))
    return re.compile(b"".join(parts), re.DOTALL)


async def play(step: Step, client: Client, seen: dict[str, str]) -> None:
    headers = dict(step.headers)
    token = None if headers.get("Authorization") == "-" else ""
    if token is None:
        del headers["Authorization"]
    raw = None if step.body is None else filled(step.body, seen).encode()
    answer: Answer = await client.ask(step.method, filled(step.path, seen), raw=raw, headers=headers, token=token)
    where = f"line {step.line}: {step.method} {step.path}: {answer.raw!r}"
    assert answer.status == step.status, where
    found = pattern_of(step.expected or "", seen).fullmatch(answer.raw)
    assert found is not None, f"{where}\nexpected: {step.expected}"
    seen |= {name: value.decode() for name, value in found.groupdict().items()}
    if answer.raw:
        assert answer.headers["content-type"] == "application/json; charset=utf-8", where


@pytest.mark.parametrize("playbook", sorted(HERE.glob("*.play")), ids=lambda path: path.stem)
async def test_a_recorded_conversation_passes_byte_for_byte(playbook: Path, tmp_path: Path) -> None:
    seen: dict[str, str] = {"dir": str(tmp_path)}
    left = list(steps_of(playbook.read_text(encoding="utf-8")))
    assert left
    while left:
        async with task_plane(tmp_path) as plane:
            client = plane.client()
            while left:
                step = left.pop(0)
                if not step.method:
                    break
                await play(step, client, seen)


def test_a_playbook_notices_a_single_wrong_byte() -> None:
    expected = pattern_of('{"a":"${id:uuid}","b":${n}}', {"n": "5"})
    uuid = b"0b0e3a52-3f5c-4f0e-9d5a-2b9f1c8a7d61"
    assert expected.fullmatch(b'{"a":"' + uuid + b'","b":5}')
    assert not expected.fullmatch(b'{"a":"' + uuid + b'","b":6}')
    assert not expected.fullmatch(b'{"a": "' + uuid + b'","b":5}')
    assert not expected.fullmatch(b'{"a":"' + uuid[:-1] + b'","b":5}')
