"""A Worker's way out: the SOCKS5 proxy of its variables, through the real server, runner and sandbox."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

CLIENT = """
import os, socket, sys
from sdk import CoreSDK

def ask(url_host, port, path, login=None, offer=b"\\x02"):
    host, _, proxy_port = os.environ["PROXY_DOMAIN"].partition(":")
    user, _, password = (login or os.environ["PROXY_AUTH"]).partition(":")
    with socket.create_connection((host, int(proxy_port)), 20) as proxy:
        stream = proxy.makefile("rwb", buffering=0)
        stream.write(b"\\x05" + bytes([len(offer)]) + offer)
        if stream.read(2) != b"\\x05\\x02":
            return "no method"
        stream.write(b"\\x01" + bytes([len(user)]) + user.encode() + bytes([len(password)]) + password.encode())
        if stream.read(2) != b"\\x01\\x00":
            return "wrong login"
        name = url_host.encode()
        stream.write(b"\\x05\\x01\\x00\\x03" + bytes([len(name)]) + name + port.to_bytes(2, "big"))
        code = stream.read(10)[1]
        if code:
            return f"code {code}"
        stream.write(f"GET {path} HTTP/1.0\\r\\nHost: {url_host}\\r\\n\\r\\n".encode())
        got = b""
        while block := stream.read(65536):
            got += block
        return got.partition(b"\\r\\n\\r\\n")[2].decode()
given = CoreSDK.Parameter.get_input_json_dict()
def push(**row):
    CoreSDK.Result.push_data(row)
"""
SCHEMA = {"properties": [{"name": "port", "type": "integer", "editor": "number", "default": 1}]}
PAGE = b"0123456789" * 50


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = PAGE if self.path == "/page" else b"x" * (int(self.path.removeprefix("/bytes/")))
        self.send_response(200)
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            return  # the relay was cut

    def log_message(self, *arguments: Any) -> None:
        return


@pytest.fixture(scope="module")
def pages() -> Iterator[int]:
    """A web server on this host's loopback; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def way_out(make_plane: Callable[..., Any], pages: int) -> Any:
    """A plane whose operator lets Workers reach that server by the name localhost."""
    plane = make_plane()
    environment = plane.environment | {"CLAWPLANE_EGRESS_ALLOW": f"localhost:{pages}"}
    plane.spawn("up", "--port", str(plane.port), "--data", str(plane.data), until="Ready:", environment=environment)
    return plane


def run_with(plane: Any, worker: str, system: dict[str, Any], custom: dict[str, Any]) -> dict[str, Any]:
    with plane.http() as client:
        body = {"input": {"parameters": {"system": {"cpus": 1, **system}, "custom": custom}}}
        started = client.post(f"/api/v2/workers/{worker}/runs", json=body).json()
        run: dict[str, Any] = plane.wait(started["data"]["run_slug"])
        return run


def traffic(plane: Any, slug: str) -> int:
    with plane.http() as client:
        return int(client.get(f"/api/v2/worker-runs/{slug}").json()["data"]["traffic"])


def test_a_worker_reaches_what_the_operator_allows_and_nothing_else_and_is_counted(way_out: Any, pages: int) -> None:
    code = """
port = given["port"]
page = ask("localhost", port, "/page")
push(what="allowed", got=str(len(page)))
push(what="address", got=ask("127.0.0.1", port, "/page"))
push(what="decimal", got=ask("2130706433", port, "/page"))
push(what="metadata", got=ask("169.254.169.254", 80, "/"))
push(what="other port", got=ask("localhost", port + 1 if port < 65535 else 1, "/page"))
push(what="wrong login", got=ask("localhost", port, "/page", login="u:p"))
push(what="no login", got=ask("localhost", port, "/page", offer=b"\\x00"))
"""
    worker = way_out.push("egress", CLIENT + code, schema=SCHEMA)
    run = way_out.run(worker, port=pages)
    assert run["status"] == "succeeded", way_out.log(run["slug"])
    assert {row["what"]: row["got"] for row in way_out.rows(run["slug"])} == {
        "allowed": str(len(PAGE)),
        "address": "code 2",
        "decimal": "code 2",
        "metadata": "code 2",
        "other port": "code 2",
        "wrong login": "wrong login",
        "no login": "no method",
    }
    log = way_out.log(run["slug"])
    assert f"127.0.0.1:{pages} is not allowed: it is a loopback address." in log
    assert "169.254.169.254:80 is not allowed: it is a cloud metadata address." in log
    assert len(PAGE) < traffic(way_out, run["slug"]) < len(PAGE) + 1000


def test_a_run_that_uses_up_its_traffic_is_stopped_and_says_so(way_out: Any, pages: int) -> None:
    code = """
push(got=str(len(ask("localhost", given["port"], "/bytes/600000"))))
push(got=str(len(ask("localhost", given["port"], "/bytes/600000"))))
import time
time.sleep(60)
"""
    worker = way_out.push("hungry", CLIENT + code, schema=SCHEMA)
    run = run_with(way_out, worker, {"max_total_traffic": 1}, {"port": pages})
    assert run["status"] == "failed"
    assert "reached the run's limit of 1 MB of network traffic" in way_out.log(run["slug"])
    assert 600_000 < traffic(way_out, run["slug"]) <= 1 << 20


def test_all_parts_of_a_run_share_its_traffic(way_out: Any, pages: int) -> None:
    schema = {
        "b": "url",
        "properties": [
            {"name": "url", "type": "array", "editor": "requestList"},
            {"name": "port", "type": "integer", "editor": "number", "default": 1},
        ],
    }
    code = """
part = given["url"]["url"] if isinstance(given["url"], dict) else given["url"]
if part.endswith("waits"):
    import time
    time.sleep(60)
push(got=str(len(ask("localhost", given["port"], "/bytes/700000"))))
"""
    worker = way_out.push("parts", CLIENT + code, schema=schema)
    urls = [{"url": f"https://{name}"} for name in ("a", "b", "waits")]
    run = run_with(way_out, worker, {"max_total_traffic": 1}, {"port": pages, "url": urls})
    assert run["status"] == "succeeded"  # two parts did what they were for
    assert "The run has used up its 1 MB of network traffic; the rest is stopped." in way_out.log(run["slug"])
    assert traffic(way_out, run["slug"]) > 1_400_000


def test_an_operators_mistake_is_named_when_the_runner_starts(make_plane: Callable[..., Any]) -> None:
    plane = make_plane()
    environment = {**os.environ, **plane.environment, "CLAWPLANE_EGRESS_ALLOW": "10.0.0.0/8"}
    with pytest.raises(AssertionError, match=r"CLAWPLANE_EGRESS_ALLOW: '10\.0\.0\.0/8' names no single host"):
        plane.spawn("up", "--port", str(plane.port), "--data", str(plane.data), until="Ready:", environment=environment)
