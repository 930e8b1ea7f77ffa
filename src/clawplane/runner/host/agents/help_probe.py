"""Learn once what an installed CLI understands, from its own help.

A program is asked when it is first used and again when its file changes. A program that says nothing usable within its
time is treated as one of unknown age: the adapter then uses the arguments that old versions understood.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clawplane.runner.host.agents.turn import Launch, Spawn

_DEEPEST: Final = 10
"""Option lists are indented less than this; flags further in are only mentioned in a description."""
_FLAG: Final = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")
_MOST_HELP: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Help:
    """The flags that a program lists, and its whole help text; no flags: nothing is known of it."""

    flags: frozenset[str]
    text: str

    @property
    def known(self) -> bool:
        """Tell whether the program could be asked at all."""
        return bool(self.flags)

    def __contains__(self, flag: str) -> bool:
        return flag in self.flags

    def says(self, word: str) -> bool:
        """Tell whether the help mentions a word, such as a value of a flag, whatever the line breaks."""
        return word in self.text


UNKNOWN: Final = Help(frozenset(), "")


def read_help(text: str) -> Help:
    """Return the flags of a help text as commander, clap and yargs print them."""
    flags: set[str] = set()
    for line in text.splitlines():
        entry = line.lstrip()
        if entry.startswith("-") and len(line) - len(entry) < _DEEPEST:
            flags.update(_FLAG.findall(re.split(r"\s{2,}", entry, maxsplit=1)[0]))
    return Help(frozenset(flags), text)


class HelpProbe:
    """Remembers what programs say of themselves; tasks that come at once ask once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: dict[tuple[str, ...], tuple[tuple[int, int], Help]] = {}
        self._asking: dict[tuple[str, ...], asyncio.Lock] = {}

    async def of(self, words: tuple[str, ...], *, cwd: str, env: Mapping[str, str], spawn: Spawn) -> Help:
        """Return what `words --help` says; `words` is the path of a program and possibly a sub-command."""
        stamp = _stamp(words[0])
        async with self._asking.setdefault(words, asyncio.Lock()):
            known = self._known.get(words)
            if known is None or known[0] != stamp:
                help_, sure = await self._ask(words, cwd, env, spawn)
                if not sure:
                    return help_
                known = self._known[words] = (stamp, help_)
        return known[1]

    async def _ask(self, words: tuple[str, ...], cwd: str, env: Mapping[str, str], spawn: Spawn) -> tuple[Help, bool]:
        """Return what was learnt, and whether it will be so the next time."""
        launch = Launch(argv=(*words, "--help"), cwd=cwd, env=env, stdin=b"", seconds=self._seconds)
        ended = await spawn(launch, _unheard)
        if ended.exit_code != 0:
            return UNKNOWN, not (ended.timed_out or ended.stopped)
        return read_help(f"{ended.stdout}\n{ended.stderr}"[:_MOST_HELP]), True


def _unheard(_: str, __: str) -> None:
    """Help is read when it is whole."""


def _stamp(program: str) -> tuple[int, int]:
    try:
        found = Path(program).stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)
