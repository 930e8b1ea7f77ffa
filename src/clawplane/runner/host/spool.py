"""Keep ends of tasks on disk until they are acknowledged: durable before they are told, removed when they are heard.

One private file each, written beside its name and renamed, with the directory synced. What cannot be read at a start is
put aside as `.unreadable` and said; a spool that cannot be written costs durability, never the task.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import Final

import msgspec

from clawplane.domain.ids import JobId
from clawplane.domain.leases import Finish
from clawplane.runner.host import private

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}")
_ENDING: Final = ".end"
_PREFIX: Final = "job-"

_log = logging.getLogger(__name__)


class Spool:
    """A private directory of bodies by name. Every method works on the disk and may take milliseconds."""

    def __init__(self, directory: Path) -> None:
        """Open the directory, made if need be; raises private.NotPrivate and OSError."""
        self._descriptor = private.open_directory(directory)
        self._path = directory

    def close(self) -> None:
        """Let go of the directory."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def put(self, name: str, body: bytes) -> None:
        """Keep a body durably, in place of an earlier one; raises OSError, and ValueError for a bad name."""
        private.write(_file(name), body, directory=self._descriptor)

    def remove(self, name: str) -> None:
        """Forget a body; one that is not there is forgotten already."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_file(name), dir_fd=self._descriptor)

    def load(self) -> dict[str, bytes]:
        """Return everything that is kept, oldest first; leftovers of writes that were cut short are removed."""
        found: dict[str, bytes] = {}
        for name in sorted(private.names(self._descriptor), key=self._changed):
            if name.startswith("."):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self._descriptor)
            elif name.endswith(_ENDING):
                try:
                    body = private.read(name, directory=self._descriptor)
                except OSError as error:
                    _log.warning("An end in %s is not used: %s", self._path, error)
                    continue
                if body is not None:
                    found[name.removesuffix(_ENDING)] = body
        return found

    def set_aside(self, name: str) -> None:
        """Keep a body that nobody can read under another name, for a person to look at."""
        _log.warning("An end in %s cannot be read; it is kept as %s.unreadable", self._path, name)
        with contextlib.suppress(OSError):
            os.rename(_file(name), f"{name}.unreadable", src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def _changed(self, name: str) -> float:
        try:
            return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_mtime
        except OSError:
            return 0.0


class SpooledEnds:
    """The ends of this runner's own leases, for the link."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._kept: set[tuple[JobId, int]] = set()

    def load(self) -> list[Finish]:
        """Return the ends that an earlier life of this runner could not report."""
        finishes = []
        for name, body in self._spool.load().items():
            if not name.startswith(_PREFIX):
                continue  # of a runner that polls, in the same directory
            try:
                finish = msgspec.msgpack.decode(body, type=Finish)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                self._spool.set_aside(name)
                continue
            self._kept.add((finish.claim.job, finish.claim.fence))
            finishes.append(finish)
        return finishes

    def put(self, finish: Finish) -> None:
        """Keep an end; what the disk refuses is logged, and then lasts as long as this process."""
        claim = finish.claim
        try:
            self._spool.put(_name(claim.job, claim.fence), msgspec.msgpack.encode(finish))
            self._kept.add((claim.job, claim.fence))
        except OSError as error:
            _log.error("The end of job %d could not be spooled: %s", claim.job, error)

    def remove(self, job: JobId, fence: int) -> None:
        """Forget an end that was acknowledged, or that nobody wants."""
        if (job, fence) in self._kept:
            self._kept.discard((job, fence))
            try:
                self._spool.remove(_name(job, fence))
            except OSError as error:
                _log.warning("The spooled end of job %d could not be removed: %s", job, error)


def _name(job: JobId, fence: int) -> str:
    return f"{_PREFIX}{job}-{fence}"


def _file(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:40]!r} cannot name a spooled end")
    return f"{name}{_ENDING}"
