"""Set up logging for a daemon: one line an event on stderr, no colours, no secrets."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class _Utc(logging.Formatter):
    """Format times as UTC with milliseconds, and let nothing that is logged look like another record.

    A record is one line without control characters; the lines of a traceback follow it, each indented.
    """

    converter = staticmethod(time.gmtime)
    default_msec_format = "%s.%03dZ"
    default_time_format = "%Y-%m-%dT%H:%M:%S"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        return super().formatMessage(record).replace("\n", "\\n")

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return _indented(super().formatStack(stack_info))

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))


def configure(level: str, *, name: str) -> None:
    """Send records of `level` and above to stderr, each with the daemon's `name`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Utc(f"%(asctime)s %(levelname)-7s {name} %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS.get(level.lower(), logging.INFO))
    for noisy in ("httpx", "httpcore", "websockets", "asyncio", "hpack", "uvicorn"):
        logging.getLogger(noisy).setLevel(max(root.level, logging.WARNING))
