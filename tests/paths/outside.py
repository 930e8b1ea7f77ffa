"""An outside for sessions, and a session to reach it from.

The outside is a web server on this host. The operator allows it by a name, and `localhost` is none for that: to a
session it is the session itself.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import json
import shutil
import socket
import ssl
import subprocess
import tarfile
import threading
import zipfile
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

PAGE = b"0123456789" * 500
MEGABYTE = 1 << 20


def own_name() -> tuple[str, str]:
    """Return a name of this host that is not `localhost`, and its address; where there is none, an address for both."""
    for name in (socket.gethostname().lower(), "ip6-localhost", "localhost.localdomain"):
        try:
            address = str(socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
            with socket.create_server((address, 0)):
                return name, address
        except OSError:
            continue
    return "127.0.0.2", "127.0.0.2"


class Pages(http.server.SimpleHTTPRequestHandler):
    """Files of a directory, a page, a place that takes bytes, and redirects to wherever the query says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/redirect":
            self.send_response(302)
            self.send_header("Location", query)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path == "/page":
            self._answer(PAGE)
        elif path == "/megabytes":
            self._answer(b"x" * 3 * MEGABYTE)
        else:
            super().do_GET()

    def do_POST(self) -> None:
        size = len(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        self._answer(b"%d" % size)

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        return


@contextmanager
def served(address: str, root: Path, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve a directory, over TLS with a context; yield the port."""
    server = http.server.ThreadingHTTPServer((address, 0), functools.partial(Pages, directory=str(root)))
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def publish(root: Path) -> None:
    """Lay out a Python package, an npm package and a repository as their programs fetch them over HTTP."""
    page = root / "simple" / "tinyparcel"
    page.mkdir(parents=True)
    with zipfile.ZipFile(page / "tinyparcel-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tinyparcel.py", "WORD = 'from the index'\n")
        wheel.writestr("tinyparcel-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tinyparcel\nVersion: 1.0\n")
        wheel.writestr(
            "tinyparcel-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tinyparcel-1.0.dist-info/RECORD", "")
    (page / "index.html").write_text('<!DOCTYPE html>\n<a href="tinyparcel-1.0-py3-none-any.whl">tinyparcel</a>')
    (root / "npm").mkdir()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        manifest = {"name": "tinyparcel", "version": "1.0.0", "main": "index.js"}
        for name, text in (("package.json", json.dumps(manifest)), ("index.js", "module.exports = 'from npm'\n")):
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    (root / "tinyparcel-1.0.0.tgz").write_bytes(packed.getvalue())
    (root / "npm.integrity").write_text("sha512-" + b64encode(hashlib.sha512(packed.getvalue()).digest()).decode())


def publish_npm(root: Path, url: str) -> None:
    """Write the registry's document, whose addresses are absolute."""
    dist = {"tarball": f"{url}/tinyparcel-1.0.0.tgz", "integrity": (root / "npm.integrity").read_text()}
    version = {"name": "tinyparcel", "version": "1.0.0", "main": "index.js", "dist": dist}
    document = {"name": "tinyparcel", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    (root / "npm" / "tinyparcel").write_text(json.dumps(document))


def publish_repository(root: Path) -> None:
    """Make a repository that can be cloned from any web server that serves files."""
    work, bare = root / "work", root / "tiny.git"
    who = ("-c", "user.name=Ann", "-c", "user.email=ann@example.com")
    work.mkdir()
    (work / "read.me").write_text("from the repository\n")
    for command in (
        ("init", "-q", "-b", "trunk", str(work)),
        ("-C", str(work), "add", "read.me"),
        ("-C", str(work), *who, "commit", "-q", "-m", "Begin"),
        ("clone", "-q", "--bare", str(work), str(bare)),
        ("-C", str(bare), "update-server-info"),
    ):
        subprocess.run(["git", *command], check=True, capture_output=True)


def certified(root: Path, name: str) -> ssl.SSLContext | None:
    """Make a certificate for a name, to be served as ca.pem too; None on a host without openssl."""
    if shutil.which("openssl") is None:
        return None
    kind = "IP" if name[0].isdigit() else "DNS"
    key, certificate = root.parent / "key.pem", root / "ca.pem"
    kept = ("-keyout", str(key), "-out", str(certificate))
    wanted = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={kind}:{name}")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *wanted, *kept],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@dataclass
class Outside:
    """What is out there."""

    name: str
    port: int
    tls_port: int | None
    closed_port: int
    """Allowed, and nobody listens there."""
    root: Path

    @property
    def url(self) -> str:
        return f"http://{self.name}:{self.port}"

    def allow(self, plane: Any) -> None:
        """Start a plane whose operator allows this by its name and ports."""
        ports = {self.port, self.closed_port, self.tls_port or self.port}
        allowed = ",".join(f"{self.name}:{port}" for port in sorted(ports))
        environment = plane.environment | {"CLAWPLANE_EGRESS_ALLOW": allowed}
        plane.spawn("up", "--port", str(plane.port), "--data", str(plane.data), until="Ready:", environment=environment)


@contextmanager
def outside_in(directory: Path) -> Iterator[Outside]:
    """Serve all this from a directory."""
    root = directory / "root"
    root.mkdir()
    name, address = own_name()
    publish(root)
    if shutil.which("git"):
        publish_repository(root)
    context = certified(root, name)
    with (
        socket.socket() as bound,  # and not listening: a port that refuses for as long as this file runs
        served(address, root) as port,
        served(address, root, context) as tls_port,
    ):
        bound.bind((address, 0))
        here = Outside(name, port, tls_port if context else None, bound.getsockname()[1], root)
        publish_npm(root, here.url)
        yield here


@dataclass
class Session:
    """A session as an agent uses it."""

    http: httpx.Client
    id: str

    def run(self, tool: str, text: str, **more: Any) -> dict[str, Any]:
        body = {"command" if tool == "shell" else "code": text, "session_id": self.id, "timeout": 100, **more}
        answer = self.http.post(f"/v1/tools/execute_{tool}", json=body)
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def shell(self, command: str) -> dict[str, Any]:
        """Run a command that has to succeed."""
        result = self.run("shell", command)
        assert result["error"] is None, (result["error"], result["stdout"], result["stderr"], result["egress"])
        return result

    def has(self, program: str) -> bool:
        return self.run("shell", f"command -v {program}")["error"] is None


def new_session(client: httpx.Client, **options: Any) -> Session:
    """Create a session."""
    answer = client.post("/v1/sessions", json={"profile": "bare"} | options)
    assert answer.status_code == 201, answer.text
    return Session(client, answer.json()["id"])


def entries(result: Mapping[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """Return an answer's ledger by host and port; each pair has one line here."""
    found = {(entry["host"], entry["port"]): entry for entry in result["egress"]}
    assert len(found) == len(result["egress"])
    return found


def only_entry(result: Mapping[str, Any], host: str, port: int) -> dict[str, Any]:
    """Return the one line of an answer's ledger."""
    assert list(entries(result)) == [(host, port)]
    return entries(result)[host, port]
