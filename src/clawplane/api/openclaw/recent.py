"""List what people lately did with the agent CLIs on this host: the session files that these leave.

Files are strangers' text: lines that are no JSON are skipped, only the beginning of a file is read, and only of the
newest files.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from clawplane.api.openclaw.values import bounded_int, trim
from clawplane.api.openclaw.visits import Reply, Visit, answer

_LIMIT: Final = 10
_MAX_LIMIT: Final = 20
_DAYS: Final = 7
_TOPIC: Final = 150
_NO_TOPIC: Final = "(no topic)"
_MAX_READ: Final = 1 << 20
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$", re.IGNORECASE)
_SLASH: Final = re.compile(r"\s*(?:<@[^>]*>|@\S+)?\s*/\S")


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    modified: float
    size: int


async def claude(visit: Visit) -> Reply:
    """Answer with the newest sessions of Claude Code; a root that cannot be read is told, with 200."""
    limit = bounded_int(visit.query.first("limit"), _LIMIT, 1, _MAX_LIMIT)
    try:
        sessions = await asyncio.to_thread(claude_sessions, visit.house.options.claude_root, limit)
    except OSError as error:
        return answer({"sessions": [], "error": f"The session directory cannot be read: {error.strerror}"})
    return answer({"sessions": sessions})


async def codex(visit: Visit) -> Reply:
    """Answer with the newest sessions of Codex of the last seven days."""
    limit = bounded_int(visit.query.first("limit"), _LIMIT, 1, _MAX_LIMIT)
    today = datetime.fromtimestamp(visit.house.clock.now_ms() / 1000).astimezone()
    return answer({"sessions": await asyncio.to_thread(codex_sessions, visit.house.options.codex_root, today, limit)})


def claude_sessions(root: Path, limit: int) -> list[dict[str, Any]]:
    """Return the newest session files below `root`, one directory per project; raises OSError."""
    files = [file for project in sorted(root.iterdir()) for file in _files(project)]
    return [
        {
            "sessionId": file.path.stem,
            "project": file.path.parent.name,
            **_told(file, _claude_topic(file.path)),
        }
        for file in _newest(files, limit)
    ]


def codex_sessions(root: Path, today: datetime, limit: int) -> list[dict[str, Any]]:
    """Return the newest session files of the last days below `root`/YYYY/MM/DD; `today` in local time."""
    files: list[_File] = []
    for back in range(_DAYS):
        files += _files(root / (today - timedelta(days=back)).strftime("%Y/%m/%d"))
    return [
        {"sessionId": _codex_id(file.path.stem), **_told(file, _codex_topic(file.path))}
        for file in _newest(files, limit)
    ]


def _files(directory: Path) -> Iterator[_File]:
    try:
        entries = sorted(directory.glob("*.jsonl"))
    except OSError:
        return
    for path in entries:
        try:
            known = path.stat()
        except OSError:
            continue
        yield _File(path, known.st_mtime, known.st_size)


def _newest(files: Iterable[_File], limit: int) -> list[_File]:
    return sorted(files, key=lambda file: file.modified, reverse=True)[:limit]


def _told(file: _File, topic: str | None) -> dict[str, Any]:
    modified = datetime.fromtimestamp(file.modified, UTC).isoformat(timespec="milliseconds")
    return {
        "lastModified": modified.replace("+00:00", "Z"),
        "sizeKB": int(file.size / 1024 + 0.5),
        "topic": topic or _NO_TOPIC,
    }


def _codex_id(stem: str) -> str:
    found = _UUID.search(stem)
    return stem if found is None else found[0]


def _claude_topic(path: Path) -> str | None:
    return next((topic for line in _lines(path) if (topic := _user_text(line)) is not None), None)


def _codex_topic(path: Path) -> str | None:
    for line in _lines(path):
        payload = line.get("payload")
        told = payload if isinstance(payload, dict) else {}
        if line.get("type") == "event_msg" and told.get("type") == "user_message":
            text = _cut(told.get("message"))
            if text is not None and _SLASH.match(text) is None:
                return text
        elif (text := _user_text(line)) is not None:
            return text
    return None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects at the beginning of a file, line by line."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_READ)
    except OSError:
        return
    for line in text.split(b"\n"):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _user_text(line: dict[str, Any]) -> str | None:
    message = line.get("message")
    if not isinstance(message, dict) or message.get("role") != "user":
        return None
    content = message.get("content")
    if isinstance(content, list):
        texts = (each for each in content if isinstance(each, dict) and each.get("type") == "text")
        content = next(texts, {}).get("text")
    return _cut(content)


def _cut(text: object) -> str | None:
    return (trim(text)[:_TOPIC] or None) if isinstance(text, str) else None
