"""Item 63 of the attack list, over every dialect that takes a session's id: plain HTTP, MCP and E2B.

The attacker has a key of its own with the scope `sessions`, knows the victim's session id, and guesses others. The
operations are taken from the server's own document and tool list, so that a new one is attacked from its first day.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from e2b import AuthenticationException, NotFoundException
from e2b_code_interpreter import E2B
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

PATHS = Path(__file__).parents[1] / "paths" / "conftest.py"
SECRET = "the victim's own"
UNKNOWN = "01K" + "0" * 23
STRANGE_IDS = [
    "..",
    "../../etc",
    "%2e%2e%2f",
    "' OR '1'='1",
    "a" * 5000,
    "\u202e\u0000",
    "\U0001f600",
    "*",
    "%",
    "0",
    "null",
]
ARGUMENTS: dict[str, Any] = {
    "code": "print(open('/workspace/own.txt').read(), kept)",
    "command": "cat /workspace/own.txt",
    "path": "own.txt",
    "content": "overwritten",
    "old": "victim",
    "new": "attacker",
    "old_text": "victim",
    "new_text": "attacker",
    "to": "taken.txt",
    "tool": "python",
    "execs": 1,
}


class Tenants:
    """A server with two tenants; the victim has a session with a variable and a file."""

    def __init__(self, plane: Any) -> None:
        self.url: str = plane.url
        with plane.http() as admin:
            self.victim_key = _key(admin, "victim")
            self.attacker_key = _key(admin, "attacker")
        self.victim = self.http(self.victim_key)
        self.attacker = self.http(self.attacker_key)
        self.session = new_session(self.victim)
        made = run(self.victim, self.session, f"kept = {SECRET!r}\nopen('/workspace/own.txt', 'w').write(kept)")
        assert made["error"] is None

    def http(self, key: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=60, trust_env=False)

    def e2b(self, key: str) -> E2B:
        return E2B(api_key=key, api_url=self.url, sandbox_url=self.url)

    @asynccontextmanager
    async def mcp(self, key: str) -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as http,
            Client(streamable_http_client(f"{self.url}/mcp", http_client=http), mode="auto") as client,
        ):
            yield client

    def operations(self) -> list[tuple[str, str]]:
        """Return (method, path) of everything that names a session in its path."""
        document = self.attacker.get("/openapi.json").json()
        return [
            (method.upper(), path)
            for path, methods in document["paths"].items()
            for method in methods
            if re.search(r"\{session\w*\}", path, re.IGNORECASE)
        ]

    def tools(self) -> list[str]:
        """Return the tools that plain HTTP offers."""
        document = self.attacker.get("/openapi.json").json()
        return [path.rpartition("/")[2] for path in document["paths"] if path.startswith("/v1/tools/")]

    def attack(self, method: str, path: str, session_id: str) -> httpx.Response:
        """Send one operation with everything that it may ask for."""
        path = re.sub(r"\{\w+\}", _quoted(session_id), path)
        query = {"path": "own.txt"}
        if method in ("GET", "DELETE"):
            return self.attacker.request(method, path, params=query)
        if method == "PUT":
            return self.attacker.put(path, params=query, content=b"overwritten")
        return self.ask(path, ARGUMENTS, query)

    def tool(self, tool: str, session_id: str) -> httpx.Response:
        """Call one tool with everything that it may ask for."""
        return self.ask(f"/v1/tools/{tool}", ARGUMENTS | {"session_id": session_id})

    def ask(self, path: str, body: dict[str, Any], query: dict[str, str] | None = None) -> httpx.Response:
        """Post what an operation knows of `body`: a refusal of a field names those that there are."""
        answer = self.attacker.post(path, params=query, json=body)
        known = re.search(r"The fields are: ([\w, ]+)\.", answer.text)
        if known is None:
            return answer
        fields = known[1].split(", ")
        return self.attacker.post(path, params=query, json={name: body[name] for name in fields if name in body})

    def intact(self) -> bool:
        """Tell whether the victim's session is as it was; no word of the attacker ran in it."""
        result = run(self.victim, self.session, "import os; (kept, open('own.txt').read(), sorted(os.listdir('.')))")
        shown = result["results"][0]["text/plain"] if result["results"] else result["error"]
        return bool(shown == repr((SECRET, SECRET, ["own.txt"])))


def _key(admin: httpx.Client, owner: str) -> str:
    answer = admin.post("/v1/keys", json={"name": owner, "owner": owner, "scopes": ["sessions"]})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["data"]["key"])


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


def new_session(http: httpx.Client) -> str:
    answer = http.post("/v1/sessions", json={"profile": "bare"})
    assert answer.status_code < 300, answer.text
    body = answer.json()
    body = body.get("data", body)
    return str(body.get("session_id") or body["id"])


def run(http: httpx.Client, session_id: str, code: str) -> dict[str, Any]:
    answer = http.post("/v1/tools/execute_python", json={"session_id": session_id, "code": code})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    found = importlib.util.spec_from_file_location("paths_conftest", PATHS)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["paths_conftest"] = module
    found.loader.exec_module(module)
    plane = module.Plane(tmp_path_factory.mktemp("plane"))
    plane.up()
    try:
        opened = Tenants(plane)
        yield opened
        opened.victim.close()
        opened.attacker.close()
    finally:
        plane.stop()


def test_another_tenants_id_is_as_unknown_as_any_other_over_http(tenants: Tenants) -> None:
    operations = tenants.operations()
    assert len(operations) > 10
    for method, path in operations:
        foreign, unknown = (tenants.attack(method, path, found) for found in (tenants.session, UNKNOWN))
        assert foreign.status_code == unknown.status_code == 404, (method, path, foreign.text)
        alike = [answer.text.replace(found, "ID") for answer, found in ((foreign, tenants.session), (unknown, UNKNOWN))]
        assert _without_request_id(alike[0]) == _without_request_id(alike[1])
        assert SECRET not in foreign.text
    assert tenants.intact()


def test_another_tenants_id_opens_no_tool(tenants: Tenants) -> None:
    tools = tenants.tools()
    assert len(tools) >= 4
    for tool in tools:
        foreign, unknown = (tenants.tool(tool, found) for found in (tenants.session, UNKNOWN))
        assert foreign.status_code == unknown.status_code == 404, (tool, foreign.text)
        assert SECRET not in foreign.text
    assert tenants.intact()


async def test_another_tenants_id_opens_no_tool_over_mcp(tenants: Tenants) -> None:
    async with tenants.mcp(tenants.attacker_key) as client:
        tools = [tool for tool in (await client.list_tools()).tools if "session_id" in tool.input_schema["properties"]]
        assert len(tools) > 8
        for tool in tools:
            named = {name: ARGUMENTS[name] for name in tool.input_schema.get("required", []) if name in ARGUMENTS}
            result = await client.call_tool(tool.name, named | {"session_id": tenants.session})
            assert result.is_error, tool.name
            assert "there is no session" in str(result.content), (tool.name, result.content)
            assert SECRET not in str(result.content)
    assert tenants.intact()


def test_another_tenants_id_is_as_unknown_as_any_other_to_e2b_clients(tenants: Tenants) -> None:
    attacker = tenants.e2b(tenants.attacker_key)
    for session_id in (tenants.session, UNKNOWN):
        assert attacker.Sandbox.kill(session_id) is False
        for attempt in (attacker.Sandbox.connect, attacker.Sandbox.get_info, attacker.Sandbox.pause):
            with pytest.raises(NotFoundException):
                attempt(session_id)
    assert attacker.Sandbox.list().next_items() == []
    assert tenants.intact()


def test_the_token_of_a_sandbox_opens_no_other_one(tenants: Tenants) -> None:
    own = tenants.e2b(tenants.attacker_key).Sandbox.create("bare")
    try:
        headers = {"E2b-Sandbox-Port": "49983", "X-Access-Token": own._envd_access_token}
        for session_id in (tenants.session, UNKNOWN, "", ".."):
            for method, path, port in (
                ("GET", "/files?path=own.txt", "49983"),
                ("POST", "/files?path=own.txt", "49983"),
                ("POST", "/process.Process/List", "49983"),
                ("POST", "/filesystem.Filesystem/ListDir", "49983"),
                ("POST", "/execute", "49999"),
                ("GET", "/contexts", "49999"),
            ):
                with httpx.Client(trust_env=False, timeout=60) as http:
                    answer = http.request(
                        method,
                        f"{tenants.url}{path}",
                        headers=headers | {"E2b-Sandbox-Id": session_id, "E2b-Sandbox-Port": port},
                        json=None if method == "GET" else {"code": "print(kept)"},
                    )
                assert answer.status_code in (401, 404, 405), (session_id, path, answer.text)
                assert SECRET not in answer.text
    finally:
        own.kill()
    with pytest.raises(AuthenticationException):
        tenants.e2b(secrets.token_hex(24)).Sandbox.connect(tenants.session)
    assert tenants.intact()


def test_no_id_is_a_path_or_a_query_to_the_server(tenants: Tenants) -> None:
    own = new_session(tenants.attacker)
    for strange in [*STRANGE_IDS, f"{own}/../{tenants.session}", f"{tenants.session}\n", f"{own},{tenants.session}"]:
        for method, path in tenants.operations():
            answer = tenants.attack(method, path, strange)
            assert 400 <= answer.status_code < 500, (method, path, strange, answer.text)
            assert SECRET not in answer.text
        for tool in tenants.tools():
            answer = tenants.tool(tool, strange)
            assert 400 <= answer.status_code < 500, (tool, strange, answer.text)
        answer = tenants.attacker.get(f"/sandboxes/{_quoted(strange)}", headers={"X-API-KEY": tenants.attacker_key})
        assert 400 <= answer.status_code < 500, (strange, answer.text)
    tenants.attacker.delete(f"/v1/sessions/{own}")
    assert tenants.intact()


def test_nothing_of_a_deleted_session_is_found_by_its_id_or_by_its_successors(tenants: Tenants) -> None:
    client = tenants.e2b(tenants.victim_key)
    sandbox = client.Sandbox.create("bare")
    sandbox.files.write("left.txt", "left behind")
    left = sandbox.run_code("left = 'left behind'\nopen('/tmp/left', 'w').write(left)\nimport os\nos.getuid()").text
    sandbox.kill()
    for method, path in tenants.operations():
        answer = tenants.attack(method, path, sandbox.sandbox_id)
        assert answer.status_code == 404, (method, path, answer.text)
    assert not sandbox.is_running()
    for attempt in (lambda: sandbox.files.read("left.txt"), lambda: sandbox.run_code("left")):
        with pytest.raises(Exception, match="not found"):
            attempt()
    for _ in range(5):
        successor = new_session(tenants.attacker)
        code = "import os\n(os.getuid(), 'left' in globals(), os.listdir('/workspace'), os.path.exists('/tmp/left'))"
        shown = run(tenants.attacker, successor, code)["results"][0]["text/plain"]
        assert shown.endswith("False, [], False)"), (left, shown)
        tenants.attacker.delete(f"/v1/sessions/{successor}")


async def test_a_session_that_is_deleted_while_it_is_asked_never_answers_as_another(tenants: Tenants) -> None:
    async with httpx.AsyncClient(
        base_url=tenants.url, headers={"Authorization": f"Bearer {tenants.attacker_key}"}, timeout=60, trust_env=False
    ) as http:

        async def race(number: int) -> None:
            made = (await http.post("/v1/sessions", json={"profile": "bare"})).json()
            made = made.get("data", made)
            session_id = made.get("session_id") or made["id"]
            ask = {"session_id": session_id, "code": f"mine = {number}"}
            assert (await http.post("/v1/tools/execute_python", json=ask)).json()["error"] is None
            again = ask | {"code": "mine"}
            asked = [http.post("/v1/tools/execute_python", json=again) for _ in range(2)]
            answers = await asyncio.gather(*asked, http.delete(f"/v1/sessions/{session_id}"))
            for answer in answers[:2]:
                if answer.status_code == 200 and answer.json()["error"] is None:
                    assert answer.json()["results"][0]["text/plain"] == str(number)
            late = await http.post("/v1/tools/execute_python", json=again)
            assert late.status_code in (404, 409, 410), late.text

        for begin in range(0, 40, 8):
            async with asyncio.TaskGroup() as races:  # one that fails ends the others before the client is closed
                for number in range(begin, begin + 8):
                    races.create_task(race(number))
    assert tenants.intact()


def _without_request_id(text: str) -> str:
    return re.sub(r"req-[0-9a-f]+", "req", text)
