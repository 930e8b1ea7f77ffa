"""Run the command line as users do: as a process of its own, against a server that a test plays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

CLAWPLANE = (sys.executable, "-m", "clawplane")

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Server:
    """Answers each `METHOD path` (without query) as `answers` says: an envelope's data, or a function that writes."""

    url: str
    answers: dict[str, Any] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            server.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
            operation = f"{self.command} {self.path.partition('?')[0]}"
            server.seen.append(f"{self.command} {self.path}")
            server.keys.append(self.headers.get("Authorization"))
            answer = server.answers.get(operation)
            if callable(answer):
                answer(self)
                self.close_connection = True
                return
            found = operation in server.answers
            body = (
                {"code": 0, "data": answer} if found else {"code": 11004, "error": "not_found", "message": "Nothing."}
            )
            data = json.dumps(body).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _answer

        def log_message(self, *_: Any) -> None:
            return

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    played = Server("")
    listener = ThreadingHTTPServer(("127.0.0.1", 0), _handler(played))
    played.url = f"http://127.0.0.1:{listener.server_address[1]}"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield played
    listener.shutdown()
    thread.join()
    listener.server_close()


@pytest.fixture
def environment(server: Server, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLAWPLANE_", "XDG_"))}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept | {
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "CLAWPLANE_URL": server.url,
        "NO_COLOR": "1",
        "COLUMNS": "100",
    }


@pytest.fixture
def clawplane(environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command to its end."""

    def run(*arguments: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"capture_output": True, "text": True, "cwd": tmp_path} | options
        return subprocess.run(
            [*CLAWPLANE, *arguments], env=environment | (env or {}), timeout=60, check=False, **options
        )

    return run
