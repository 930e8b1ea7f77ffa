"""Put a session's variables on disk and back, and say which of them came through.

The guest writes and reads them itself, through a file that the runner has opened: the runner never looks inside, and
what is in there can harm nobody but the session that wrote it. A saved file is believed to be whole only after it was
given its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, field
from typing import Final

import msgspec

from clawplane.domain.errors import ClawplaneError
from clawplane.runner.sessions.interpreter import Gone
from clawplane.runner.sessions.places import Kept, Places
from clawplane.runner.sessions.python_side import PythonSide
from clawplane.sandbox.policy import MIB

ROOM: Final = 2048 * MIB
LARGEST: Final = 512 * MIB
_SHARE: Final = 0.5
_NAMES_SECONDS: Final = 5.0
_MOST_NAMES: Final = 500


@dataclass(slots=True)
class Memory:
    """What a session brought along from an earlier life."""

    exec_count: int = 0
    restored: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def take_notes(self) -> list[str]:
        """Return what the next answer has to tell, once."""
        notes, self.notes = self.notes, []
        return notes


@dataclass(frozen=True, slots=True)
class Report:
    """What came of saving."""

    saved: bool
    sentence: str
    lost: tuple[str, ...] = ()


class Saver:
    """Saves one session; at most `seconds` for all of it."""

    def __init__(self, places: Places, kept: Kept, seconds: float) -> None:
        self.seconds = seconds
        self._places = places
        self._kept = kept

    async def save(self, python: PythonSide, exec_count: int, expires_at: int | None) -> Report:
        """Write the variables; when that cannot be, note what is lost."""
        self._kept = msgspec.structs.replace(self._kept, exec_count=exec_count, expires_at=expires_at)
        if python.fresh:
            self.note(saved=False, names=())
            return Report(True, "there were no variables to save")
        path = self._places.saved(self._kept.session)
        fresh = path.with_suffix(".new")
        names: tuple[str, ...] = ()
        try:
            async with asyncio.timeout(self.seconds):
                names = await python.names()
                file = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                try:
                    kept = await python.save(file, largest=LARGEST, seconds=self.seconds * _SHARE, room=ROOM)
                finally:
                    os.close(file)
        except (Gone, ClawplaneError, TimeoutError, OSError) as error:
            fresh.unlink(missing_ok=True)
            self.note(saved=False, names=names)
            return Report(False, f"the variables could not be saved: {error or 'it took too long'}", names)
        await python.close()  # whoever could still write to it is gone before it counts
        fresh.rename(path)
        self.note(saved=True, names=tuple(dict.fromkeys((*kept.names, *(each.name for each in kept.lost)))))
        lost = tuple(f"{each.name} ({each.reason})" for each in kept.lost)
        return Report(True, f"{len(kept.names)} variables were saved", _bounded(lost))

    async def remember(self, python: PythonSide, exec_count: int) -> None:
        """Write down which variables there are, so that their loss can be told by name."""
        self._kept = msgspec.structs.replace(self._kept, exec_count=exec_count)
        with contextlib.suppress(Gone, ClawplaneError, TimeoutError):
            async with asyncio.timeout(_NAMES_SECONDS):
                self.note(saved=False, names=await python.names(), alive=True)

    def note(self, *, saved: bool, names: tuple[str, ...], alive: bool = False) -> None:
        """Write down how the session stands, for its next life; `alive` while this one goes on."""
        self._kept = msgspec.structs.replace(self._kept, saved=saved, alive=alive, names=_bounded(names))
        self._places.write(self._kept)


async def recalled(places: Places, kept: Kept, python: PythonSide) -> Memory:
    """Bring back what is saved of a session; what does not come back is told by name."""
    memory = Memory(exec_count=kept.exec_count)
    if not kept.saved:
        memory.lost = kept.names
        memory.notes.append(_sentence((), kept.names, crashed=kept.alive))
        return memory
    try:
        file = os.open(places.saved(kept.session), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            async with asyncio.timeout(60.0):
                found = await python.restore(file)
        finally:
            os.close(file)
    except (Gone, ClawplaneError, TimeoutError, OSError) as error:
        await python.drop()
        memory.lost = kept.names
        memory.notes.append(f"{_sentence((), kept.names)} They could not be read back: {error or 'it took too long'}.")
        return memory
    memory.restored = _bounded(found.names)
    lost = {each.name: f"{each.name} ({each.reason})" for each in found.lost}
    missing = [name for name in kept.names if name not in lost and name not in set(found.names)]
    memory.lost = _bounded((*lost.values(), *missing))
    memory.notes.append(_sentence(memory.restored, memory.lost))
    return memory


def _sentence(restored: tuple[str, ...], lost: tuple[str, ...], *, crashed: bool = False) -> str:
    back = f"came back: {', '.join(restored)}" if restored else "no variable came back"
    gone = f"; lost: {', '.join(lost)}" if lost else ""
    why = "lost its memory, because its runner or its sandbox had ended" if crashed else "was asleep"
    return f"The session {why}, and its interpreter is a new one; {back}{gone}. Files in the workspace are kept."


def _bounded(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name[:200] for name in names[:_MOST_NAMES])
