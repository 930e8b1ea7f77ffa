"""Answers of a control plane as sessions give them: without an envelope, and as streams."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any

SESSION = {
    "id": "01S",
    "state": "running",
    "name": "tries",
    "profile": "data",
    "exec_count": 3,
    "created_at": 1_000,
    "used_at": 2_000,
    "sleeps_at": 302_000,
    "expires_at": 86_402_000,
    "end_reason": "",
}
ANSWER = {"stdout": "", "stderr": "", "error": None, "session_id": "01S", "exec_id": "01E", "status": "ok"}


def plain(value: Any, status: int = 200) -> Any:
    """Answer with a value as it is."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def refused(status: int, code: str, sentence: str) -> Any:
    """Refuse as sessions do."""
    return plain({"error": sentence, "code": code, "hint": "Do it differently.", "request_id": "r"}, status)


def stream(*events: dict[str, Any], result: dict[str, Any] | None = None) -> Any:
    """Answer an exec with a stream that ends with `result`, or breaks off when there is none."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/x-ndjson")
        handler.send_header("Connection", "close")
        handler.end_headers()
        last = [] if result is None else [{"type": "end", "result": ANSWER | result}]
        for item in ({"type": "session", "session_id": "01S", "exec_id": "01E"}, *events, *last):
            handler.wfile.write(json.dumps(item).encode() + b"\n")

    return answer


class Waiting:
    """An exec that runs until it is interrupted."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.interrupted = threading.Event()

    def execute(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer the exec."""
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(b'{"type":"stdout","text":"running\\n"}\n')
        handler.wfile.flush()
        self.began.set()
        self.interrupted.wait(20)
        last = {"type": "end", "result": ANSWER | {"error": "KeyboardInterrupt", "status": "cancelled"}}
        handler.wfile.write(json.dumps(last).encode() + b"\n")

    def interrupt(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer the interrupt."""
        self.interrupted.set()
        plain({"done": True})(handler)
