"""What programs in a real session reach by the proxy variables alone, and what the answer's ledger tells of it."""

from __future__ import annotations

import importlib.util
import io
import re
import zipfile
from pathlib import Path

import httpx
import pytest
from outside import MEGABYTE, PAGE, Outside, Session, entries, new_session, only_entry


@pytest.fixture(scope="module")
def session(open_http: httpx.Client, outside: Outside) -> Session:
    """A session whose indexes are those of the outside; nothing else of its environment is ours."""
    environment = {
        "PIP_INDEX_URL": f"{outside.url}/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_TRUSTED_HOST": outside.name,
        "npm_config_registry": f"{outside.url}/npm",
    }
    return new_session(open_http, environment=environment)


# Programs, by the variables alone


def test_curl_gets_a_page_and_the_answer_counts_what_passed(session: Session, outside: Outside) -> None:
    result = session.shell(f"curl -sSf {outside.url}/page")
    assert result["stdout"] == PAGE.decode()
    entry = only_entry(result, outside.name, outside.port)
    assert (entry["verdict"], entry["reason"], entry["connections"]) == ("allowed", "", 1)
    assert len(PAGE) < entry["received"] < len(PAGE) + 1000
    assert 0 < entry["sent"] < 1000


def test_curl_gets_a_page_over_tls_through_a_tunnel(session: Session, outside: Outside) -> None:
    if outside.tls_port is None:
        pytest.skip("openssl is not installed, so there is no certificate")
    session.shell(f"curl -sSf -o ca.pem {outside.url}/ca.pem")
    result = session.shell(f"curl -sSf --cacert ca.pem https://{outside.name}:{outside.tls_port}/page")
    assert result["stdout"] == PAGE.decode()
    entry = only_entry(result, outside.name, outside.tls_port)
    assert entry["verdict"] == "allowed"
    assert len(PAGE) < entry["received"] < len(PAGE) + 10_000


def test_megabytes_are_counted_in_the_direction_in_which_they_went(session: Session, outside: Outside) -> None:
    down = session.shell(f"curl -sSf {outside.url}/megabytes | wc -c")
    up = session.shell(f"head -c {2 * MEGABYTE} /dev/zero | curl -sSf --data-binary @- {outside.url}/")
    assert (down["stdout"].strip(), up["stdout"]) == (str(3 * MEGABYTE), str(2 * MEGABYTE))
    downs, ups = (only_entry(result, outside.name, outside.port) for result in (down, up))
    assert 0 <= downs["received"] - 3 * MEGABYTE < 1000
    assert downs["sent"] < 1000
    assert 0 <= ups["sent"] - 2 * MEGABYTE < 1000
    assert ups["received"] < 1000


def test_pip_installs_what_python_then_imports(session: Session, outside: Outside) -> None:
    if not session.has("pip"):
        pytest.skip("pip is not installed on this host")
    installed = session.shell("pip download -q --no-deps -d got tinyparcel && ls got && pip install -q tinyparcel")
    assert installed["stdout"] == "tinyparcel-1.0-py3-none-any.whl\n"
    assert only_entry(installed, outside.name, outside.port)["verdict"] == "allowed"
    used = session.run("python", "import tinyparcel\ntinyparcel.WORD")
    assert used["results"][0]["text/plain"] == "'from the index'", used
    assert used["egress"] == []


def test_git_clones_a_repository(session: Session, outside: Outside) -> None:
    if not session.has("git"):
        pytest.skip("git is not installed on this host")
    cloned = session.shell(f"git clone -q {outside.url}/tiny.git && cat tiny/read.me")
    assert cloned["stdout"] == "from the repository\n"
    assert only_entry(cloned, outside.name, outside.port)["verdict"] == "allowed"


def test_npm_reads_its_registry_and_installs_what_node_then_requires(session: Session, outside: Outside) -> None:
    if not session.has("npm"):
        pytest.skip("npm is not installed on this host")
    installed = session.shell("npm view tinyparcel version && npm install --silent --no-audit tinyparcel")
    assert installed["stdout"].startswith("1.0.0\n")
    assert only_entry(installed, outside.name, outside.port)["verdict"] == "allowed"
    assert session.run("node", "console.log(require('tinyparcel'))")["stdout"] == "from npm\n"


def test_fetch_of_node_gets_a_page(session: Session, outside: Outside) -> None:
    version = re.match(r"v(\d+)\.(\d+)", session.run("shell", "node --version")["stdout"])
    if version is None or int(version[1]) == 23 or (int(version[1]), int(version[2])) < (22, 21):
        pytest.skip("the host's Node.js has no proxy variables yet")
    result = session.run("node", f"fetch('{outside.url}/page').then(r => r.text()).then(t => console.log(t.length))")
    assert result["stdout"] == f"{len(PAGE)}\n", result
    assert only_entry(result, outside.name, outside.port)["verdict"] == "allowed"


REQUESTS = """
try:
    import requests
except ImportError:
    from pip._vendor import requests
"""
LIBRARIES = {
    "urllib": "import urllib.request\nprint(len(urllib.request.urlopen(URL).read()))",
    "requests": f"{REQUESTS}print(len(requests.get(URL).content))",
    "httpx": "import sys\nsys.path.insert(0, 'httpx.zip')\nimport httpx\nprint(len(httpx.get(URL).content))",
}


def packed(*modules: str) -> bytes:
    """Return those of some pure packages that this interpreter has, as a ZIP to import from."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in modules:
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None:
                continue
            origin = Path(spec.origin)
            files = sorted(origin.parent.rglob("*")) if origin.name == "__init__.py" else [origin]
            for file in files:
                if file.is_file() and file.suffix in {".py", ".pem", ".typed"}:
                    archive.write(file, str(file.relative_to(origin.parents[1 if origin.name == "__init__.py" else 0])))
    return buffer.getvalue()


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_of_python_gets_a_page(session: Session, outside: Outside, library: str) -> None:
    if library == "requests" and session.run("shell", f"python3 - <<'.'{REQUESTS}.")["error"]:
        pytest.skip("neither requests nor pip is installed on this host")
    if library == "httpx":
        files = packed("httpx", "httpcore", "h11", "anyio", "sniffio", "idna", "certifi", "typing_extensions")
        path = f"/v1/sessions/{session.id}/files/content"
        assert session.http.put(path, params={"path": "httpx.zip"}, content=files).status_code == 201
    result = session.shell(f"python3 - <<'.'\nURL = {outside.url + '/page'!r}\n{LIBRARIES[library]}\n.")
    assert result["stdout"] == f"{len(PAGE)}\n", result["stderr"]
    assert only_entry(result, outside.name, outside.port)["verdict"] == "allowed"


def test_the_ledger_of_an_exec_tells_what_was_allowed_what_failed_and_what_was_refused(
    session: Session, outside: Outside
) -> None:
    urls = f"{outside.url}/page http://{outside.name}:{outside.closed_port}/ http://10.0.0.1/ {outside.url}/page"
    result = session.run("shell", f"for url in {urls}; do curl -s -o /dev/null $url; done")
    told = {
        place: (entry["verdict"], entry["connections"], entry["reason"]) for place, entry in entries(result).items()
    }
    assert told == {
        (outside.name, outside.port): ("allowed", 2, ""),
        (outside.name, outside.closed_port): ("failed", 1, "the connection was refused"),
        ("10.0.0.1", 80): ("denied", 1, "it is a private address"),
    }
    assert session.run("shell", "true")["egress"] == []
