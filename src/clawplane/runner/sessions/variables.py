"""What we ask of an interpreter by small cells of our own, in a namespace that no caller can name.

One Python exec gets environment variables of its own, set before it and put back after it; and after `pip install` in
the shell, the interpreter looks again for directories that were not there when it began.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from clawplane.runner.sessions.interpreter import Conversation

_HIDDEN: Final = "(environment)"
_SECONDS: Final = 5.0
_SET: Final = """\
import os
old = {{name: os.environ.get(name) for name in {new!r}}}
os.environ.update({new!r})
"""
_LOOK_AGAIN: Final = "import importlib; importlib.invalidate_caches()"
_PUT_BACK: Final = """\
for name, value in old.items():
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
"""


@asynccontextmanager
async def variables(talk: Conversation, wanted: Mapping[str, str]) -> AsyncIterator[None]:
    """Have these variables set meanwhile; raises Gone."""
    if not wanted:
        yield
        return
    await _run(talk, _SET.format(new=dict(wanted)))
    yield
    await _run(talk, _PUT_BACK)
    await _forget(talk)


async def look_again(talk: Conversation) -> None:
    """Let imports find what was installed since the interpreter began; raises Gone, TimeoutError."""
    await _run(talk, _LOOK_AGAIN)
    await _forget(talk)


async def _forget(talk: Conversation) -> None:
    async with asyncio.timeout(_SECONDS):
        await talk.forget(_HIDDEN)


async def _run(talk: Conversation, code: str) -> None:
    async with asyncio.timeout(_SECONDS):
        await talk.run(code, _HIDDEN, lambda frame: None, lambda size: size < 1 << 20)
