"""Find conversations where the CLIs keep them: what is on the disk decides whether there is something to resume.

    Claude   PROJECTS/<directory, its path with other characters than letters and digits as ->/<id>.jsonl
    Codex    SESSIONS/YYYY/MM/DD/rollout-<time>-<id>.jsonl
    Gemini   HOME/tmp/<project>/chats/session-<time>-<first 8 characters of the id>.json[l], its directory in
             HOME/tmp/<project>/.project_root

Ids come from outside: what is not made of letters, digits and dashes is never looked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_CODEX_ID: Final = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$", re.IGNORECASE
)
_SHORT: Final = 32
"""A shorter id is a prefix."""
_CODEX_DAYS: Final = 30
_HEAD: Final = 1 << 20
"""How much of a transcript is read for its directory."""


@dataclass(frozen=True, slots=True)
class Found:
    """A conversation on the disk: its whole id and the directory that it belongs to, if that is known and exists."""

    id: str
    cwd: str | None


def claude_session(projects: Path, wanted: str, *, prefix: bool = False) -> Found | None:
    """Return the conversation of an id in any project; with `prefix` the newest one whose id starts so."""
    if not _ID.fullmatch(wanted):
        return None
    if prefix:
        files = [file for file in _jsonl(projects) if file.stem.startswith(wanted)] if len(wanted) < _SHORT else []
    else:
        files = [file for directory in _directories(projects) if (file := directory / f"{wanted}.jsonl").is_file()]
    newest = _newest(files)
    return Found(newest.stem, _claude_directory(newest)) if newest else None


def codex_session(sessions: Path, wanted: str, today: date, *, prefix: bool = False) -> Found | None:
    """Return the newest conversation of the last 30 days whose id is `wanted`, or with `prefix` starts with it."""
    if not _ID.fullmatch(wanted):
        return None
    lowered = wanted.lower()
    for back in range(-1, _CODEX_DAYS):  # the CLI may live in a time zone ahead of ours
        day = today - timedelta(days=back)
        found: list[Path] = []
        with suppress(OSError):
            for file in (sessions / f"{day:%Y}" / f"{day:%m}" / f"{day:%d}").glob("*.jsonl"):
                id_ = _codex_id(file)
                if id_.lower() == lowered or (prefix and id_.lower().startswith(lowered)):
                    found.append(file)
        newest = _newest(found)
        if newest:
            return Found(_codex_id(newest), _codex_directory(newest))
    return None


def gemini_session(gemini_home: Path, wanted: str) -> Found | None:
    """Return the conversation of an id, looked up by the part of it that its file is named after."""
    if not _ID.fullmatch(wanted) or len(wanted) < 8:
        return None
    with suppress(OSError):
        newest = _newest(list(gemini_home.glob(f"tmp/*/chats/session-*-{wanted[:8].lower()}.json*")))
        if newest:
            with suppress(OSError, ValueError):
                return Found(wanted, _existing((newest.parents[1] / ".project_root").read_text().strip()))
            return Found(wanted, None)
    return None


def _directories(root: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from (each for each in root.iterdir() if each.is_dir())


def _jsonl(root: Path) -> Iterator[Path]:
    for directory in _directories(root):
        with suppress(OSError):
            yield from directory.glob("*.jsonl")


def _newest(files: list[Path]) -> Path | None:
    dated: list[tuple[int, str, Path]] = []
    for file in files:
        with suppress(OSError):
            dated.append((file.stat().st_mtime_ns, file.name, file))
    return max(dated)[2] if dated else None


def _codex_id(file: Path) -> str:
    match = _CODEX_ID.search(file.stem)
    return match.group() if match else file.stem


def _claude_directory(transcript: Path) -> str | None:
    """Return the directory whose name in the projects is this transcript's; the name alone cannot be turned back."""
    for line in _records(transcript):
        cwd = line.get("cwd")
        if isinstance(cwd, str) and re.sub(r"[^A-Za-z0-9]", "-", cwd) == transcript.parent.name:
            return _existing(cwd)
    return None


def _codex_directory(rollout: Path) -> str | None:
    for line in _records(rollout):
        payload = line.get("payload")
        if line.get("type") == "session_meta" and isinstance(payload, dict):
            cwd = payload.get("cwd")
            return _existing(cwd) if isinstance(cwd, str) else None
    return None


def _existing(directory: str) -> str | None:
    return directory if directory and Path(directory).is_absolute() and Path(directory).is_dir() else None


def _records(file: Path) -> Iterator[dict[str, Any]]:
    with suppress(OSError), file.open("rb") as opened:
        for line in opened.read(_HEAD).splitlines():
            with suppress(ValueError, RecursionError):
                said = json.loads(line)
                if isinstance(said, dict):
                    yield said
