"""Whatever is wrong with an input has its documented code and a message, leaves nothing half done, and harms nobody."""

from __future__ import annotations

import io
import json
import socket
import stat
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

STALLED_SECONDS = 2
"""How long a server of this file's own waits for a body that stopped coming."""

GOOD = {"main.py": "print('hello')\n", "input_schema.json": '{"properties": []}', "output_schema.json": "[]"}


def zipped(files: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            if isinstance(content, zipfile.ZipInfo):
                archive.writestr(content, name)
            else:
                archive.writestr(name, content)
    return buffer.getvalue()


def encrypted() -> bytes:
    data = bytearray(zipped(GOOD))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(signature, at + 4)
    return bytes(data)


def symlinked() -> bytes:
    link = zipfile.ZipInfo("passwd")
    link.create_system = 3
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    return zipped({**GOOD, "/etc/passwd": link})


def lying_bomb() -> bytes:
    data = bytearray(zipped({**GOOD, "zeros.bin": b"\0" * 30_000_000}))
    for signature, size in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.rfind(signature, 0, data.rfind(b"zeros.bin") if signature == b"PK\x01\x02" else len(data))
        struct.pack_into("<I", data, at + size, 1000)
    return bytes(data)


PACKAGES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "package_empty"),
    "without-files": (lambda: zipped({}), "package_empty"),
    "text": (lambda: b"this is no archive, whatever its name says", "package_not_a_zip"),
    "truncated": (lambda: zipped({**GOOD, "data.bin": bytes(range(256)) * 400})[:-40], "package_truncated"),
    "encrypted": (encrypted, "package_encrypted"),
    "nested": (lambda: zipped({f"prices/{name}": text for name, text in GOOD.items()}), "package_entry_nested"),
    "traversing": (lambda: zipped({**GOOD, "../../evil.py": "x"}), "package_path_traversal"),
    "absolute": (lambda: zipped({**GOOD, "/etc/cron.d/evil": "x"}), "package_path_absolute"),
    "symlinked": (symlinked, "package_symlink"),
    "case-colliding": (lambda: zipped({**GOOD, "README.md": "a", "readme.MD": "b"}), "package_case_collision"),
    "bomb": (lambda: zipped({**GOOD, "zeros.bin": b"\0" * 60_000_000}), "package_bomb"),
    "lying-bomb": (lying_bomb, "package_bomb"),
    "two-entries": (lambda: zipped({**GOOD, "main.js": "x"}), "multiple_entry_files"),
    "no-entry": (lambda: zipped({"input_schema.json": "{}"}), "missing_required_file"),
}

PROPERTY = '{"name": "n", "type": "integer", "editor": "number"}'
SCHEMAS: dict[str, tuple[str, str, str]] = {
    "no-json": ("input_schema.json", '{"properties": [', "input_schema_root_invalid"),
    "no-object": ("input_schema.json", "[]", "input_schema_root_invalid"),
    "no-array": ("input_schema.json", '{"properties": {}}', "input_schema_properties_invalid"),
    "no-name": ("input_schema.json", '{"properties": [{"type": "string"}]}', "input_property_missing_name"),
    "wrong-type": (
        "input_schema.json",
        '{"properties": [{"name": "n", "type": "strng"}]}',
        "input_property_unsupported_type",
    ),
    "duplicate": ("input_schema.json", f'{{"properties": [{PROPERTY}, {PROPERTY}]}}', "input_property_duplicate_name"),
    "deep": ("input_schema.json", "[" * 490_000 + "]" * 490_000, "input_schema_root_invalid"),
    "over-a-megabyte": ("input_schema.json", "[" * 600_000 + "]" * 600_000, "package_file_too_large"),
    "output-no-json": ("output_schema.json", "[", "output_schema_root_invalid"),
    "output-object": ("output_schema.json", "{}", "output_schema_root_invalid"),
    "output-duplicate": (
        "output_schema.json",
        '[{"name": "a", "type": "string"}, {"name": "a", "type": "string"}]',
        "output_column_duplicate_name",
    ),
}


def refuse(plane: Any, name: str, data: bytes, code: str) -> None:
    """Upload a package that has to be refused with `code`, and see that nothing of it stays."""
    with plane.http() as http:
        answer = http.post(
            "/v1/workers", params={"name": name}, content=data, headers={"Content-Type": "application/zip"}
        )
        body = answer.json()
        assert (answer.status_code, body["code"], body["error"]) == (400, 11000, "invalid_argument")
        assert any(code in detail for detail in body["details"]), body
        assert body["message"]
        assert body["hint"]
        assert http.get(f"/v1/workers/local~{name}").status_code == 404


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_is_wrong_is_refused_with_the_code_of_its_fault(plane: Any, name: str) -> None:
    make, code = PACKAGES[name]
    refuse(plane, f"package-{name}", make(), code)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_that_is_wrong_refuses_the_package_and_is_named(plane: Any, name: str) -> None:
    file, text, code = SCHEMAS[name]
    refuse(plane, f"schema-{name}", zipped({**GOOD, file: text}), code)


def test_the_command_line_shows_every_finding_of_a_refused_package_and_exits_with_1(plane: Any, tmp_path: Path) -> None:
    file = tmp_path / "broken.zip"
    file.write_bytes(zipped({**GOOD, "../x": "", "a\\b": ""}))
    refused = plane.cli("workers", "push", str(file), check=False)
    assert refused.returncode == 1
    assert "package_path_traversal" in refused.stderr
    assert "package_path_backslash" in refused.stderr
    assert "hint: " in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_empty_file_pushed_from_the_command_line_is_refused_as_empty(plane: Any, tmp_path: Path) -> None:
    (tmp_path / "nothing.zip").write_bytes(b"")
    refused = plane.cli("workers", "push", str(tmp_path / "nothing.zip"), "--json", check=False)
    assert refused.returncode == 1
    error = json.loads(refused.stderr)
    assert error["error"] == "invalid_argument"
    assert "package_empty" in error["details"][0]


FORM = {
    "properties": [
        {"name": "query", "title": "Query", "type": "string", "required": True},
        {"name": "n", "title": "Number", "type": "integer", "maximum": 10},
        {"name": "url", "type": "array", "editor": "requestList"},
    ],
    "b": "url",
}
URLS = [{"url": "https://a"}]
INPUTS: dict[str, tuple[Any, int, str]] = {
    "no-input": ({}, 400, "input"),
    "no-object": ({"input": "tea"}, 400, "input must be an object"),
    "flat": ({"input": {"query": "tea"}}, 400, "input.parameters must be an object"),
    "custom-is-a-list": (
        {"input": {"parameters": {"custom": []}}},
        400,
        "custom parameters must contain a single JSON",
    ),
    "missing-field": ({"input": {"parameters": {"custom": {"url": URLS}}}}, 400, "Query is required"),
    "empty-field": ({"input": {"parameters": {"custom": {"query": "", "url": URLS}}}}, 400, "Query is required"),
    "wrong-type": (
        {"input": {"parameters": {"custom": {"query": "tea", "n": "3", "url": URLS}}}},
        400,
        "Number must be an integer",
    ),
    "out-of-range": (
        {"input": {"parameters": {"custom": {"query": "tea", "n": 11, "url": URLS}}}},
        400,
        "Number must be at most 10",
    ),
    "no-part": (
        {"input": {"parameters": {"custom": {"query": "tea", "url": []}}}},
        400,
        "concurrency field [url] is empty",
    ),
    "1001-parts": (
        {"input": {"parameters": {"custom": {"query": "tea", "url": [{"url": f"u{n}"} for n in range(1001)]}}}},
        400,
        "concurrency_num (1001) exceeds limit (1000)",
    ),
    "unknown-memory": (
        {"input": {"parameters": {"custom": {"query": "tea", "url": URLS}, "system": {"memory": 3}}}},
        400,
        "memory must be one of",
    ),
    "unknown-member": ({"input": {"parameters": {"custom": {}}}, "inputs": 1}, 422, "inputs"),
}


@pytest.fixture(scope="module")
def form(plane: Any) -> str:
    """A Worker whose input has rules."""
    return str(plane.push("bad-input-form", "print(1)", schema=FORM))


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_that_does_not_fit_is_refused_and_no_run_is_created(plane: Any, form: str, name: str) -> None:
    body, status, message = INPUTS[name]
    with plane.http() as http:
        before = http.get("/api/v2/worker-runs", params={"worker_id": form}).json()["data"]["count"]
        answer = http.post(f"/api/v2/workers/{form}/runs", json=body)
        after = http.get("/api/v2/worker-runs", params={"worker_id": form}).json()["data"]["count"]
    refusal = answer.json()
    assert (answer.status_code, refusal["code"]) == (status, 11000)
    assert message in " ".join([refusal["message"], *(refusal["details"] or [])])
    assert after == before


def test_the_command_line_names_the_field_that_is_missing(plane: Any, form: str) -> None:
    refused = plane.cli("runs", "start", form, "--input", '{"url": [{"url": "a"}]}', check=False)
    assert refused.returncode == 1
    assert "Query is required" in refused.stderr
    assert "custom.query" in refused.stderr


UNKNOWN: list[tuple[str, str, int, int]] = [
    ("GET", "/api/v2/workers/local~nobody", 404, 11004),
    ("POST", "/api/v2/workers/local~nobody/runs", 400, 50001),
    ("GET", "/api/v2/worker-runs/01ARZ3NDEKTSV4RRFFQ69G5FAV", 404, 11004),
    ("GET", "/api/v2/worker-runs/..%2f..%2fetc", 404, 11004),
    ("POST", "/api/v2/worker-runs/01ARZ3NDEKTSV4RRFFQ69G5FAV/abort", 404, 11004),
    ("GET", "/api/v2/worker-runs/01ARZ3NDEKTSV4RRFFQ69G5FAV/result", 404, 11004),
    ("GET", "/v1/runs/01ARZ3NDEKTSV4RRFFQ69G5FAV/log", 404, 11004),
    ("GET", "/v1/workers/local~nobody", 404, 11004),
    ("DELETE", "/v1/keys/nothing", 404, 11004),
    ("GET", "/v1/downloads/forged.link", 401, 12002),
    ("GET", "/v9/nowhere", 404, 11004),
    ("DELETE", "/api/v2/workers", 405, 11000),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), UNKNOWN)
def test_an_id_that_nothing_answers_to_is_refused_in_the_envelope(
    plane: Any, method: str, path: str, status: int, code: int
) -> None:
    body = {"input": {"parameters": {"custom": {}}}} if path.endswith("/runs") else None
    with plane.http() as http:
        answer = http.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert {"code", "message", "request_id"} <= set(answer.json())


def test_every_command_that_takes_an_id_says_that_it_is_unknown(plane: Any) -> None:
    commands = [
        ("workers", "show", "local~nobody"),
        ("workers", "remove", "local~nobody"),
        ("runs", "start", "local~nobody"),
        ("runs", "show", "nothing"),
        ("runs", "logs", "nothing"),
        ("runs", "results", "nothing"),
        ("runs", "export", "nothing"),
        ("runs", "abort", "nothing"),
        ("runs", "rerun", "nothing"),
        ("keys", "revoke", "nothing"),
    ]
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda command: plane.cli(*command, check=False), commands):
            assert done.returncode == 1, done.args
            assert done.stdout == ""
            assert done.stderr.startswith("error: There is no ") or "no key" in done.stderr.lower(), done.stderr
            assert "Traceback" not in done.stderr


KEYS: dict[str, tuple[dict[str, str], int]] = {
    "none": ({}, 12001),
    "unknown": ({"Authorization": f"Bearer scraper_api_{'0' * 48}"}, 12002),
    "empty": ({"api-key": ""}, 12001),
    "another-scheme": ({"Authorization": "Basic YTpi"}, 12002),
    "very-long": ({"api-key": "x" * 30_000}, 12002),
    "not-ascii": ({"api-key": "schl\xfcssel"}, 12002),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_wrong_key_is_refused_as_wrong_and_a_missing_one_as_missing(plane: Any, name: str) -> None:
    headers, code = KEYS[name]
    raw = [(header.encode(), value.encode("latin-1")) for header, value in headers.items()]
    answer = httpx.get(f"{plane.url}/api/v2/workers", headers=raw, trust_env=False)
    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert answer.headers["www-authenticate"] == "Bearer"


def test_a_key_without_the_scope_may_read_and_nothing_else(plane: Any, form: str) -> None:
    key = plane.cli("keys", "create", "reader", "--scope", "read").stdout.strip()
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=plane.url, headers=headers, trust_env=False) as http:
        assert http.get("/api/v2/workers").status_code == 200
        refused = http.post(f"/api/v2/workers/{form}/runs", json={"input": {"parameters": {"custom": {}}}})
    assert (refused.status_code, refused.json()["error"]) == (403, "forbidden")
    assert "workers" in " ".join(refused.json()["details"])


def test_a_body_that_is_too_large_is_refused_before_it_is_read(plane: Any, form: str) -> None:
    with plane.http() as http:
        answer = http.post(f"/api/v2/workers/{form}/runs", content=b" " * (9 << 20))
    assert (answer.status_code, answer.json()["code"], answer.json()["error"]) == (413, 11000, "too_large")
    head = f"POST /v1/workers?name=big HTTP/1.1\r\nHost: x\r\napi-key: {plane.key}\r\n"
    with _sent(plane, f"{head}Content-Type: application/zip\r\nContent-Length: 900000000\r\n\r\n") as connection:
        assert " 413 " in _status_line(connection, 10)


def test_a_body_that_never_ends_is_cut_off_at_the_limit(plane: Any, form: str) -> None:
    head = f"POST /api/v2/workers/{form}/runs HTTP/1.1\r\nHost: x\r\napi-key: {plane.key}\r\n"
    with _sent(plane, f"{head}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n") as connection:
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        sent = 0
        try:
            while sent < 256 << 20:
                connection.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
        assert sent < 128 << 20  # the limit, and what a client may go on sending after its answer


@pytest.mark.parametrize(
    "body", ["[" * 100_000, '{"input": ' + '{"a":' * 200 + "1" + "}" * 201, '{"input": 1', "\ud800"]
)
def test_a_body_that_is_too_deep_or_no_json_is_refused(plane: Any, form: str, body: str) -> None:
    with plane.http() as http:
        answer = http.post(f"/api/v2/workers/{form}/runs", content=body.encode("utf-8", "surrogatepass"))
    assert (answer.status_code, answer.json()["code"], answer.json()["error"]) == (422, 11000, "invalid_schema")


def _sent(plane: Any, text: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", plane.port))
    connection.sendall(text.encode())
    return connection


def _status_line(connection: socket.socket, seconds: float) -> str:
    connection.settimeout(seconds)
    return connection.recv(4096).decode("latin-1").partition("\r\n")[0]


ROWS = """
import grpc, sdk, sdk_pb2
push = lambda text: sdk._result.PushData(sdk_pb2.Data(jsonString=text))
for text in ("{", "", "[1]", "nan", "{\\"a\\": NaN}", "\\x00", "[" * 100_000, "{\\"n\\": 1}"):
    push(text)
try:
    push("{\\"x\\": \\"" + "y" * (65 << 20) + "\\"}")
except grpc.RpcError as error:
    sdk.CoreSDK.Log.error("refused: " + error.code().name)
push("{\\"n\\": 2}")
"""
MANY = "import sys\nfor n in range(1_000_000):\n    sys.stdout.write(f'line {n}\\n')\n"
LONG = """
import sys
for _ in range(100):
    sys.stdout.write("x" * 1_000_000)
print()
print("after the long line")
"""


@pytest.fixture(scope="module")
def guests(plane: Any) -> dict[str, dict[str, Any]]:
    """Three Workers that say too much, run at the same time."""
    workers = {
        name: plane.push(f"says-{name}", main) for name, main in (("rows", ROWS), ("many", MANY), ("long", LONG))
    }
    slugs = {name: plane.start(worker) for name, worker in workers.items()}
    return {name: plane.wait(slug) for name, slug in slugs.items()}


def test_rows_that_are_no_json_are_kept_as_text_and_one_that_is_too_large_is_refused(
    plane: Any, guests: dict[str, dict[str, Any]]
) -> None:
    run = guests["rows"]
    assert run["status"] == "succeeded", plane.log(run["slug"])
    rows = plane.rows(run["slug"])
    assert [row["n"] for row in rows if isinstance(row, dict) and "n" in row] == [1, 2]
    unreadable = [row for row in rows if isinstance(row, dict) and "__parse_error" in row]
    assert "{" in [row["__raw"] for row in unreadable]
    log = plane.log(run["slug"])
    assert "refused: RESOURCE_EXHAUSTED" in log
    assert "A row is no readable JSON" in log


def test_a_million_log_lines_arrive_in_order(plane: Any, guests: dict[str, dict[str, Any]]) -> None:
    run = guests["many"]
    assert run["status"] == "succeeded"
    expected = 0
    with plane.http() as http:
        link = http.get(f"/api/v2/worker-runs/{run['slug']}/log").json()["data"]["all_logs_url"]
        with http.stream("GET", link) as log:
            for line in log.iter_lines():
                if line.startswith("line "):
                    assert line == f"line {expected}"
                    expected += 1
    assert expected == 1_000_000


def test_a_log_line_of_100_mb_is_cut_with_a_mark_and_the_next_line_follows(
    plane: Any, guests: dict[str, dict[str, Any]]
) -> None:
    run = guests["long"]
    assert run["status"] == "succeeded"
    lines = plane.log(run["slug"]).splitlines()
    cut = next(line for line in lines if "x" * 1000 in line)
    assert len(cut) < 300_000
    assert "100000000 bytes" in cut
    assert any(line.endswith("after the long line") for line in lines)


HOSTILE = """
import glob, json, os, socket, sys
def attempt(action):
    try:
        return str(action())
    except BaseException as error:
        return type(error).__name__
seen = {
    "token": attempt(lambda: open(DATA + "/runner-token").read()),
    "data": attempt(lambda: os.listdir(DATA)),
    "plane": attempt(lambda: socket.create_connection(("127.0.0.1", PORT), 3)),
    "write": attempt(lambda: open("/usr/evil", "w")),
    "keys": [name for name in os.environ if "CLAWPLANE" in name],
    "processes": len([p for p in os.listdir("/proc") if p.isdigit()]),
    "setuid": attempt(lambda: os.setuid(0) or os.listdir("/root")),
}
"""
SET_UP = HOSTILE + "raise SystemExit('SEEN ' + json.dumps(seen))\n"


def _source(directory: Path, name: str, set_up: str) -> None:
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": f"def build_wheel(*_):\n    exec({set_up!r})\n",
        "PKG-INFO": f"Metadata-Version: 2.2\nName: {name}\nVersion: 1\n",
    }
    with tarfile.open(directory / f"{name}-1.tar.gz", "w:gz") as archive:
        for path, text in files.items():
            member = tarfile.TarInfo(f"{name}-1/{path}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


@pytest.fixture
def own(make_plane: Callable[..., Any]) -> Any:
    """A plane with a directory of packages of its own, links that live for a second, and little patience."""
    plane = make_plane()
    plane.packages = plane.data / "packages"
    plane.packages.mkdir()
    environment = plane.environment | {
        "UV_FIND_LINKS": str(plane.packages),
        "CLAWPLANE_LINK_SECONDS": "1",
        "CLAWPLANE_BODY_SECONDS": str(STALLED_SECONDS),
    }
    arguments = ("up", "--port", str(plane.port), "--data", str(plane.data))
    plane.spawn(*arguments, until="Ready:", environment=environment)
    return plane


def test_set_up_code_sees_nothing_a_link_expires_and_what_points_elsewhere_is_refused_with_its_line(
    own: Any, make_package: Any
) -> None:
    _source(own.packages, "evilpackage", f"DATA = {str(own.data)!r}\nPORT = {own.port}\n{SET_UP}")
    pushed = {}
    for name, requirement in (
        ("set-up", "evilpackage==1"),
        ("local", "./evilpackage"),
        ("nowhere", "no-such-package-anywhere==9.9.9"),
    ):
        file = own.data / f"{name}.zip"
        file.write_bytes(make_package("print(1)", files={"requirements.txt": f"grpcio\nprotobuf\n{requirement}\n"}))
        pushed[name] = own.cli("workers", "push", str(file), "--json", check=False)
        assert pushed[name].returncode == 1, name
    built = {name: json.loads(done.stdout) for name, done in pushed.items()}
    assert {version["status"] for version in built.values()} == {"failed"}
    assert "requirements.txt:3" in built["local"]["build_error"]
    assert "no-such-package-anywhere" in built["nowhere"]["build_error"]
    seen = json.loads("\n".join(built["set-up"]["log"]).partition("SEEN ")[2].splitlines()[0])
    assert seen["keys"] == []
    assert seen["processes"] < 20
    assert all(seen[name].endswith("Error") for name in ("token", "data", "plane", "write", "setuid")), seen
    refused = own.cli("runs", "start", "local~set-up", check=False)
    assert "build" in refused.stderr

    run = own.run(own.push("good", "print(1)"))
    with own.http() as http:
        link = http.get(f"/api/v2/worker-runs/{run['slug']}/result/export", params={"format": "csv"}).json()["data"]
        until = time.monotonic() + 30
        while (answer := http.get(link["download_url"])).status_code == 200 and time.monotonic() < until:
            pass
    assert (answer.status_code, answer.json()["code"]) == (401, 12002)
    assert "expired" in answer.json()["message"]


def test_a_body_that_stops_coming_is_given_up_when_its_time_is_over(own: Any) -> None:
    head = f"POST /v1/keys HTTP/1.1\r\nHost: x\r\napi-key: {own.key}\r\nContent-Length: 100\r\n\r\n{{"
    since = time.monotonic()
    with _sent(own, head) as connection:
        assert " 400 " in _status_line(connection, 60)
    assert time.monotonic() - since >= STALLED_SECONDS


def test_after_all_this_the_plane_is_healthy_and_nothing_half_done_is_left(plane: Any, form: str) -> None:
    with plane.http() as http:
        assert http.get("/healthz").status_code == 200
        names = {
            worker["name"] for worker in http.get("/api/v2/workers", params={"limit": 100}).json()["data"]["scraper"]
        }
    assert not any(name.startswith(("package-", "schema-")) for name in names)
    assert list((plane.data / "spool").iterdir()) == []
    run = plane.run(form, query="tea", url=URLS)
    assert run["status"] == "succeeded"
