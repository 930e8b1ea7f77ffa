"""Give one Python exec environment variables of its own: set before it and put back after it, in the interpreter.

Done by two small cells in a namespace that no caller can name, so nothing of it is among the session's variables.
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
    async with asyncio.timeout(_SECONDS):
        await talk.forget(_HIDDEN)


async def _run(talk: Conversation, code: str) -> None:
    async with asyncio.timeout(_SECONDS):
        await talk.run(code, _HIDDEN, lambda frame: None, lambda size: size < 1 << 20)
