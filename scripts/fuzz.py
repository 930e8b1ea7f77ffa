"""Try very many random cases on the two parsers that read what a guest wrote: frames of a REPL, paths of a workspace.

`python scripts/fuzz.py frames 1000000` or `... paths 1000000 [seed]`. The cases and what must hold are those of the
tests (tests/unit/sandbox/repl/test_wire.py, tests/unit/runner/test_workspace_paths.py); there is no search for small
counterexamples here, only speed. Ends with an error at the first case that does not hold, and names its seed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from clawplane.domain.errors import ClawplaneError
from clawplane.runner.workspace_files import WorkspaceFiles

TESTS = Path(__file__).resolve().parents[1] / "tests" / "unit"
DEEDS = ("read", "write", "append", "edit", "delete", "make", "move", "list", "stat", "archive", "spill")
DEEDS_OF_A_TREE = 60


def load(path: Path) -> Any:
    """Import a file of tests."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} cannot be imported.")
    sys.path.insert(0, str(path.parent))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def frames(count: int, chance: random.Random) -> Counter[str]:
    """Give the parser damaged, changed and invented frames."""
    tests = load(TESTS / "sandbox" / "repl" / "test_wire.py")
    messages = [message for message, _ in tests.MESSAGES.values()]
    members = sorted({key for message in messages for key in message})
    seen: Counter[str] = Counter()
    for _ in range(count):
        message = chance.choice(messages)
        body = _damaged(chance, message, members)
        try:
            value = tests.wire.parse(body)
        except tests.wire.MalformedFrame:
            seen["refused"] += 1
            continue
        str(value).encode()
        seen["read"] += 1
    return seen


def _damaged(chance: random.Random, message: dict[str, Any], members: list[str]) -> bytes:
    kind = chance.randrange(4)
    if kind == 0:
        return chance.randbytes(chance.randrange(60))
    if kind == 1:
        changes = {chance.choice(members): _value(chance, 3) for _ in range(chance.randrange(4))}
        return json.dumps(message | changes).encode()
    body = bytearray(json.dumps(message).encode())
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(len(body))
        if kind == 2:
            body[at] = chance.randrange(256)
        else:
            body[at : at + chance.randrange(4)] = chance.choice(
                [b"", b"[", b"{", b'"', b"\\ud800", b"NaN", b"1e999", b","]
            )
    return bytes(body)


def _value(chance: random.Random, depth: int) -> Any:
    kind = chance.randrange(9 if depth else 7)
    if kind == 7:
        return [_value(chance, depth - 1) for _ in range(chance.randrange(4))]
    if kind == 8:
        return {_text(chance): _value(chance, depth - 1) for _ in range(chance.randrange(4))}
    plain = (None, True, chance.randrange(-(2**70), 2**70), float("nan"), float("inf"), _text(chance), chance.random())
    return plain[kind]


def _text(chance: random.Random) -> str:
    return "".join(chr(chance.choice((chance.randrange(128), 0xD800, 0, 0x1F600))) for _ in range(chance.randrange(9)))


async def paths(count: int, chance: random.Random) -> Counter[str]:
    """Do things to a workspace full of traps; nothing outside may be read or touched."""
    tests = load(TESTS / "runner" / "test_workspace_paths.py")
    steps = [*tests.ENTRIES, *tests.TRICKS]
    starts = ("", "", "/", "/workspace/", "/workspace")

    def path() -> str:
        return chance.choice(starts) + "/".join(chance.choices(steps, k=chance.randrange(1, 7)))

    seen: Counter[str] = Counter()
    while seen.total() < count:
        with tests.tree() as (root, outside):
            before, files = tests._marks(outside), WorkspaceFiles(root)
            try:
                for _ in range(min(DEEDS_OF_A_TREE, count - seen.total())):
                    told, outcome = b"", "done"
                    try:
                        told = await tests._do(files, chance.choice(DEEDS), path(), path())
                    except ClawplaneError as error:
                        outcome = error.code
                    seen[outcome] += 1
                    if tests.SECRET in told or outcome not in ("done", "invalid_argument", "not_found", "conflict"):
                        raise AssertionError(f"after {seen.total()} deeds: {outcome}")
            finally:
                files.close()
            if tests._marks(outside) != before:
                raise AssertionError(f"after {seen.total()} deeds: something outside was touched")
    return seen


def main() -> None:
    """Run what the arguments say."""
    what, count = sys.argv[1], int(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.SystemRandom().randrange(2**32)
    chance, began = random.Random(seed), time.monotonic()  # noqa: S311 - to be repeated, not to be secret
    if Path("/dev/shm").is_dir():  # noqa: S108 - only to be quick
        tempfile.tempdir = "/dev/shm"  # noqa: S108
    print(f"seed {seed}", flush=True)
    seen = frames(count, chance) if what == "frames" else asyncio.run(paths(count, chance))
    print(f"{count} {what} in {time.monotonic() - began:.0f} s: {dict(seen)}")


if __name__ == "__main__":
    main()
