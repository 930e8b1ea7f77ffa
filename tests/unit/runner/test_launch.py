"""Warm interpreters: made beside, used when there, remembered, and given up gracefully."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from clawplane.builder.errors import BuildFailed
from clawplane.builder.tools import PythonRuntime
from clawplane.runner import launch
from clawplane.runner.launch import WarmInterpreters
from clawplane.sandbox.launch import Sandbox
from clawplane.sandbox.policy import Policy, ReadOnly

WARM = {"grpcio": "1.80.0", "protobuf": "6.31.1"}
FINGERPRINT = "a" * 64


@dataclass(frozen=True)
class Installed:
    language: str = "python"
    warm: dict[str, str] = field(default_factory=lambda: dict(WARM))


class Layers:
    """Hands out an empty layer, or fails; notes what was asked."""

    def __init__(self, root: Path) -> None:
        self.path = root / FINGERPRINT / "tree"
        self.path.mkdir(parents=True)
        self.asked: list[dict[str, str]] = []
        self.came = asyncio.Event()
        self.failure: Exception | None = None

    async def ensure_warm_layer(self, warm: dict[str, str], *, launcher: object) -> Path:
        self.asked.append(warm)
        self.came.set()
        if self.failure is not None:
            raise self.failure
        return self.path


@pytest.fixture(autouse=True)
def nothing_preloaded(monkeypatch) -> None:
    monkeypatch.setattr(launch, "PRELOADED", ("colorsys",))


@pytest.fixture
async def sandbox(tmp_path: Path):
    opened = await Sandbox.open(state_directory=tmp_path / "sandbox")
    yield opened
    await opened.close()


@pytest.fixture
async def layers(tmp_path: Path) -> Layers:
    return Layers(tmp_path)


@pytest.fixture
async def warm(sandbox, layers, tmp_path: Path):
    made = interpreters(sandbox, layers, tmp_path)
    yield made
    await made.close()


def interpreters(sandbox, layers, tmp_path: Path) -> WarmInterpreters:
    runtime = PythonRuntime(Path(sys.executable).resolve(), "cpython", "3.11")
    return WarmInterpreters(sandbox, layers, None, runtime, memory=tmp_path / "warm.json")


async def is_warm(warm: WarmInterpreters, tmp_path: Path) -> str:
    """Run a script that tells whether `colorsys` was imported before it began."""
    (tmp_path / "code").mkdir(exist_ok=True)
    (tmp_path / "code" / "main.py").write_text("import sys; print('colorsys' in sys.modules)")
    policy = Policy(mounts=(ReadOnly(str(tmp_path / "code"), "/code"),))
    python = str(Path(sys.executable).resolve())
    async with warm.started(policy, Installed(), [python, "/code/main.py"], site=()) as process:
        blocks = [block async for _, block in process.output()]
        await process.wait()
    return b"".join(blocks).decode().strip()


async def zygote_made(warm: WarmInterpreters) -> None:
    while any(each.making is not None for each in warm._warm.values()):
        await asyncio.gather(*(each.making for each in warm._warm.values() if each.making is not None))


async def test_the_first_start_is_plain_and_makes_a_zygote_for_the_next(warm, layers, tmp_path: Path) -> None:
    assert await is_warm(warm, tmp_path) == "False"
    await zygote_made(warm)
    assert await is_warm(warm, tmp_path) == "True"
    assert layers.asked == [WARM]
    assert warm.layers() == {FINGERPRINT}


async def test_an_environment_without_the_sdks_libraries_gets_no_zygote(warm, layers) -> None:
    warm.begin(Installed(warm={"grpcio": "1.80.0"}))
    warm.begin(Installed(language="node"))
    await zygote_made(warm)
    assert layers.asked == []


async def test_a_zygote_that_cannot_be_made_is_not_tried_again_at_once(warm, layers) -> None:
    layers.failure = BuildFailed("no wheels")
    for _ in range(3):
        warm.begin(Installed())
        await zygote_made(warm)
    assert len(layers.asked) == 1


async def test_after_a_restart_what_was_warm_is_made_warm_again(warm, layers, sandbox, tmp_path: Path) -> None:
    warm.begin(Installed())
    await zygote_made(warm)
    successor = interpreters(sandbox, layers, tmp_path)
    successor.recall()
    await zygote_made(successor)
    assert layers.asked == [WARM, WARM]


async def test_a_damaged_memory_is_ignored(warm, layers, tmp_path: Path) -> None:
    (tmp_path / "warm.json").write_text("[[")
    warm.recall()
    await zygote_made(warm)
    assert layers.asked == []


async def test_only_a_few_zygotes_are_kept(warm, monkeypatch) -> None:
    monkeypatch.setattr(launch, "_MOST_ZYGOTES", 1)
    for version in ("1.80.0", "1.81.0"):
        warm.begin(Installed(warm={**WARM, "grpcio": version}))
        await zygote_made(warm)
    assert [dict(versions)["grpcio"] for versions in warm._warm] == ["1.81.0"]
