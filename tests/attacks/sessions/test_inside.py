"""What the selftest tries in a sandbox of its own, tried in a live session, in its own interpreter; and more of that.

Items 5 and 7 to 30, 32 to 35, 37, 52, 64, 65 and 68 of the attack list.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from clawplane.sandbox.policy import Verdict
from clawplane.sandbox.selftest.items import PRELUDE, Outcome
from clawplane.sandbox.selftest.running import attacks

TRIED: Final = {5, *range(7, 19), *range(20, 31), 32, 52}
CANARY: Final = "/path/of/the/canary"
FOUND: Final = {
    f"{each.number} {each.title}": number
    for number, each in enumerate(attacks(CANARY))
    if each.number in TRIED and not each.mounts
}
STATUS: Final = {f"Cap{name}": "0" * 16 for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} | {
    "NoNewPrivs": "1",
    "Seccomp": "2",
}
PRIVILEGES: Final = {
    "python": "print(open('/proc/self/status').read())",
    "shell": "cat /proc/self/status",
    "node": "console.log(require('fs').readFileSync('/proc/self/status', 'utf8'))",
    "a shell of python's": "import subprocess\nprint(subprocess.run(['sh', '-c', 'sh -c \"cat /proc/self/status\"'], "
    "capture_output=True, text=True).stdout)",
    "a shell of node's": "console.log(require('child_process').execSync('sh -c \"cat /proc/self/status\"').toString())",
}
DESCRIPTORS: Final = {
    "python": "import os\nfor n in os.listdir('/proc/self/fd'):\n    try: print(n, os.readlink('/proc/self/fd/' + n))\n"
    "    except OSError: pass",
    "shell": "cd /proc/$$/fd; for n in *; do printf '%s ' $n; readlink $n; done; true",
    "node": "const fs = require('fs'); for (const n of fs.readdirSync('/proc/self/fd'))"
    " { try { console.log(n, fs.readlinkSync('/proc/self/fd/' + n)) } catch {} }",
}


def tool_of(name: str) -> str:
    """Return the tool that runs what has this name."""
    return name if name in ("python", "shell", "node") else name.rpartition(" ")[2].removesuffix("'s")


def need_node(name: str) -> None:
    if "node" in name and shutil.which("node") is None:
        pytest.skip("node is not installed")


@pytest.mark.parametrize("name", FOUND)
def test_what_the_selftest_tries_fails_in_a_live_session_too(house: Any, begin: Callable[..., Any], name: str) -> None:
    """5, 7 to 18, 20 to 30, 32, 52"""
    attack = attacks(str(house.directory / "canary"))[FOUND[name]]
    if attack.needs and shutil.which(attack.needs) is None:
        pytest.skip(f"{attack.needs} is not installed")
    session = begin()
    code = PRELUDE + attack.code.replace("'/home', ", "")  # where a session's own home is
    if attack.argv:
        code = f"import subprocess\nprint(subprocess.run({attack.argv!r}, capture_output=True, text=True).stdout)"
    result = session.python(code, timeout=60)
    assert result["status"] == "ok", result
    outcome = Outcome(result["stdout"], result["stderr"], Verdict(reason="exit", exit_code=0), cgroups=True)
    assert attack.judge(outcome) == ""
    assert session.value("1 + 1") == "2"


@pytest.mark.parametrize("name", PRIVILEGES)
def test_no_process_of_a_session_has_a_privilege(session: Any, name: str) -> None:
    """29"""
    need_node(name)
    printed = session.run(tool_of(name), PRIVILEGES[name])["stdout"].splitlines()
    found = {line.partition(":")[0]: line.partition(":")[2].strip() for line in printed}
    assert {each: found[each] for each in STATUS} == STATUS


@pytest.mark.parametrize("tool", DESCRIPTORS)
def test_a_session_has_its_streams_and_its_control_socket_and_nothing_else(session: Any, tool: str) -> None:
    """68"""
    need_node(tool)
    lines = session.run(tool, DESCRIPTORS[tool])["stdout"].splitlines()
    found = dict(line.split(" ", 1) for line in lines if " " in line.strip())
    standard = [found.pop(number) for number in "012"]
    assert standard[0].startswith(("/dev/null", "pipe:", "/memfd:"))
    assert standard[1].startswith("pipe:")
    assert standard[2].startswith("pipe:")
    left = [target for target in found.values() if not target.endswith("/fd") and target not in standard]
    if tool == "python":
        assert [target.partition(":")[0] for target in left] == ["socket"]
    elif tool == "shell":
        assert left == []
    else:
        assert all(target.startswith(("anon_inode:", "pipe:", "/dev/null")) for target in left)


def test_two_sessions_share_no_pipe_no_socket_and_no_namespace(begin: Callable[..., Any]) -> None:
    """13, 35, 68"""
    look = (
        "import os\n"
        "pipes = [os.readlink(f'/proc/self/fd/{n}') for n in (1, 2)]\n"
        "spaces = [os.readlink(f'/proc/self/ns/{n}') for n in ('net', 'pid', 'mnt', 'ipc', 'uts')]\n"
        "print(*pipes, *spaces)"
    )
    first, second = (set(begin().python(look)["stdout"].split()) for _ in range(2))
    own = {os.readlink(f"/proc/self/ns/{name}") for name in ("net", "pid", "mnt", "ipc", "uts")}
    assert len(first) == len(second) == 7
    assert not first & second
    assert not own & (first | second)


def test_nothing_of_the_platform_is_visible_inside(house: Any, session: Any) -> None:
    """7, 16, 37: the keys, the tokens and our variables are nowhere to be read."""
    tokens = [house.plane.key, (house.plane.data / "runner-token").read_text().strip()]
    code = """
import os
seen = [open(f'/proc/{pid}/{name}', 'rb').read() for pid in os.listdir('/proc') if pid.isdigit() and pid != '1'
        for name in ('environ', 'cmdline', 'mountinfo', 'status')]
for top in ('/etc', '/run', '/tmp', '/dev', '/workspace'):
    for place, _, names in os.walk(top):
        for name in names:
            path = os.path.join(place, name)
            if os.path.isfile(path) and not os.path.islink(path):
                try: seen.append(open(path, 'rb').read(1 << 20))
                except OSError: pass
print(b'\\n'.join(seen).decode(errors='replace'))
"""
    answer = session.python(code, raw=True)
    assert "PATH=" in answer["stdout"] or "PWD" in answer["stdout"], answer
    shown = answer["stdout"] + session.shell("env; cat /proc/self/mounts", raw=True)["stdout"]
    for token in tokens:
        assert token not in shown
    assert not [line for line in shown.splitlines() if "CLAWPLANE" in line]


HOOK: Final = "import os; os.system('grep -hE \"^(Cap|NoNewPrivs|Seccomp:)\" /proc/self/status >> /tmp/hooked')\n"


def test_hooks_run_after_everything_is_locked_or_not_at_all(begin: Callable[..., Any]) -> None:
    """30, 65, 66: reserved names are the guest's own, and looked at by processes that are locked in already."""
    site = f"/workspace/.local/lib/python{'.'.join(map(str, sys.version_info[:2]))}/site-packages"
    environment = {
        "PYTHONSTARTUP": "/workspace/hook.py",
        "PYTHONPATH": f"{site}:/workspace",
        "NODE_OPTIONS": "--require /workspace/hook.js",
        "BASH_ENV": "/workspace/hook.sh",
        "ENV": "/workspace/hook.sh",
        "LD_PRELOAD": "/workspace/evil.so",
        "LD_LIBRARY_PATH": "/workspace",
        "PATH": "/workspace:/usr/local/bin:/usr/bin:/bin",
    }
    session = begin(environment=environment)
    for path in ("hook.py", "sitecustomize.py", "usercustomize.py", f"{site}/sitecustomize.py", f"{site}/evil.pth"):
        assert session.call("workspace_write", path=path, content=HOOK).status_code == 200
    shell_hook = "grep -hE '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status >> /tmp/hooked\n"
    session.call("workspace_write", path="hook.sh", content=shell_hook)
    node_hook = f"require('child_process').execSync({shell_hook.strip()!r})"
    session.call("workspace_write", path="hook.js", content=node_hook)
    session.reset()
    assert session.value("1 + 1") == "2"
    assert session.shell("python3 -c 1; bash -c true; echo $((1 + 1))")["stdout"] == "2\n"
    if shutil.which("node"):
        assert session.run("node", "console.log(1 + 1)")["stdout"] == "2\n"
    lines = session.shell("cat /tmp/hooked")["stdout"].splitlines()
    assert lines, "no hook ran at all: this test tries nothing"
    found = {(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)}
    assert found == set(STATUS.items())


VALUES: Final = [
    "'",
    '"',
    "\n",
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    "\\",
    "\u202e",
    "x" * 30_000,
    "=",
]


@pytest.mark.parametrize("tool", ["python", "shell", "node"])
def test_values_of_the_environment_are_never_code(begin: Callable[..., Any], tool: str) -> None:
    """65"""
    need_node(tool)
    values = {f"V{number}": value for number, value in enumerate(VALUES)}
    once = {"W0": "$(touch pwned)'\"\n"}
    session = begin(environment=values)
    look = 'import json, os\nprint(json.dumps({n: os.environ[n] for n in os.environ if n[0] in "VW"}))'
    code = {
        "python": look,
        "shell": f"python3 -c '{look}'",
        "node": "const own = Object.entries(process.env).filter(([n]) => /^[VW]/.test(n));"
        "console.log(JSON.stringify(Object.fromEntries(own)))",
    }[tool]
    printed = session.run(tool, code, environment=once, raw=True)
    found = {name: value for name, value in json.loads(printed["stdout"]).items() if name[1:].isdigit()}
    assert found == values | once
    assert "pwned" not in session.shell("ls")["stdout"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"environment": {"A=B": "x"}}, "environment"),
        ({"environment": {"A B": "x"}}, "environment"),
        ({"environment": {"$(id)": "x"}}, "environment"),
        ({"environment": {"A": "x\0y"}}, "environment.A"),
        ({"environment": {"A": 5}}, "environment.A"),
        ({"environment": {"A": "x" * 100_000}}, "environment.A"),
        ({"workspace": "../../etc"}, "workspace"),
        ({"workspace": "a;b"}, "workspace"),
        ({"name": "$(id)"}, "name"),
        ({"profile": "bare; id"}, "profile"),
        ({"memory": float("nan")}, "memory"),
        ({"processes": -1}, "processes"),
        ({"egress": {"mode": "everything"}}, "egress"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)) + str(len(repr(value))),
)
def test_options_that_are_no_options_are_refused_by_name(house: Any, options: dict[str, Any], field: str) -> None:
    """64, 65"""
    body = json.dumps({"profile": "bare", **options})
    answer = house.http.post("/v1/sessions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == (413 if len(body) > 100_000 else 422), answer.text
    assert answer.json()["error"].startswith(f"{field}:")


DIRECTORIES: Final = {
    "../..": (400, "`directory` contains `..`."),
    "/etc": (400, "`directory` is absolute."),
    "/workspace/../etc": (400, "`directory` contains `..`."),
    "a\0b": (422, "directory: it holds a NUL character."),
    "x" * 5000: (413, "directory: 5000 bytes are more than 4096."),
    "no/such": (400, "The command could not be started: /workspace/no/such: No such file or directory."),
    "-P": (400, "The command could not be started: /workspace/-P: No such file or directory."),
    "$(id)": (400, "The command could not be started: /workspace/$(id): No such file or directory."),
}


@pytest.mark.parametrize("directory", DIRECTORIES, ids=lambda text: repr(text)[:20])
def test_a_working_directory_is_within_the_workspace(session: Any, directory: str) -> None:
    """64"""
    status, error = DIRECTORIES[directory]
    answer = session.http.post(f"{session.path}/exec", json={"tool": "shell", "code": "pwd", "directory": directory})
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert session.shell("pwd")["stdout"] == "/workspace\n"


def test_ports_of_a_session_are_its_own(house: Any, begin: Callable[..., Any]) -> None:
    """32, 35: what listens inside is reached by nobody outside, and what listens outside by nobody inside."""
    first, second = begin(), begin()
    port = house.plane.port
    code = (
        "import socket\nheld = []\n"
        f"for host in ('0.0.0.0', '127.0.0.1'):\n"
        "    one = socket.socket(); one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n"
        f"    one.bind((host, {port})); one.listen(); held.append(one.getsockname())\n"
        "held"
    )
    assert first.value(code).count(str(port)) == 2  # its own loopback has room for the control plane's number
    assert house.http.get("/healthz").status_code == 200
    reach = (
        f"import socket\ntry: socket.create_connection(('127.0.0.1', {port}), 2)\n"
        "except OSError as problem: print(problem.errno)"
    )
    assert second.python(reach)["stdout"].strip() == "111"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
        listens = first.python(f"other = socket.socket(); other.bind(('0.0.0.0', {number})); other.listen()")
        assert listens["error"] is None, listens
    with socket.socket() as outside:
        outside.settimeout(2)
        assert outside.connect_ex(("127.0.0.1", number)) != 0


SPELLINGS: Final = (
    "127.0.0.1",
    "localhost",
    "0.0.0.0",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.1",
    "169.254.169.254",
    "172.17.0.1",
    "10.0.0.1",
)


def test_no_spelling_of_the_host_is_reached_through_the_proxy(house: Any, session: Any) -> None:
    """32, 33, 34: the session's own proxies refuse them, say so, and note it in the ledger of the exec."""
    code = f"""
import socket, struct
def http(host):
    with socket.create_connection(('127.0.0.1', 3128), 5) as one:
        one.sendall(f'CONNECT {{host}}:{house.plane.port} HTTP/1.1\\r\\nHost: {{host}}\\r\\n\\r\\n'.encode())
        return one.recv(4096).split()[1].decode()
def socks(host):
    name = host.strip('[]').encode()
    with socket.create_connection(('127.0.0.1', 1080), 5) as one:
        one.sendall(b'\\x05\\x01\\x00'); one.recv(2)
        one.sendall(b'\\x05\\x01\\x00\\x03' + bytes([len(name)]) + name + struct.pack('>H', {house.plane.port}))
        return one.recv(10)[1]
for host in {SPELLINGS!r}: print(host, http(host), socks(host))
"""
    result = session.python(code, timeout=60)
    assert result["error"] is None, result
    for line in result["stdout"].splitlines():
        _host, status, reply = line.split()
        assert status == "403", line
        assert reply in ("2", "8"), line
    assert {entry["verdict"] for entry in result["egress"]} == {"denied"}


def test_names_leak_nothing_where_no_proxy_is_asked(session: Any) -> None:
    """33: there is no resolver and no way for a packet; a name is only looked up when the rules let it pass."""
    secret = secrets.token_hex(20)
    code = f"""
import errno, socket
def tried(function, *arguments):
    try: function(*arguments)
    except OSError as problem: return type(problem).__name__ + ' ' + errno.errorcode.get(problem.errno, '')
    return 'done'
query = b'\\x12\\x34\\x01\\x00\\x00\\x01' + bytes(6) + b'\\x28' + b'{secret}' + b'\\x07example\\x00\\x00\\x01\\x00\\x01'
for server in ('127.0.0.1', '127.0.0.53', '1.1.1.1', '8.8.8.8'):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.settimeout(1); udp.connect(('127.0.0.1', 9))
    print(tried(lambda: (udp.connect((server, 53)), udp.send(query), udp.recv(512))))
    tcp = socket.socket(); tcp.settimeout(1)
    print(tried(tcp.connect, (server, 53)))
print(tried(socket.getaddrinfo, '{secret}.example', 80))
"""
    said = session.python(code, timeout=60)
    assert said["error"] is None, said
    assert "done" not in said["stdout"], said["stdout"]
    assert said["egress"] == []


def test_a_listed_session_looks_up_no_other_name(begin: Callable[..., Any]) -> None:
    """33, 34"""
    session = begin(egress={"mode": "listed", "allow": ["allowed.example"]})
    labels = "a" * 63
    code = f"""
import socket
names = ['{labels}.evil.example', 'evil@allowed.example', 'allowed.example.evil.example',
         'allowed.example%00.evil.example',
         'xn--allowed-.example', 'ALLOWED.EXAMPLE.evil']
for name in names:
    with socket.create_connection(('127.0.0.1', 3128), 5) as one:
        one.sendall(f'CONNECT {{name}}:443 HTTP/1.1\\r\\nHost: allowed.example\\r\\n\\r\\n'.encode())
        print(one.recv(4096).split()[1].decode())
"""
    result = session.python(code, timeout=60)
    assert result["error"] is None, result
    statuses = result["stdout"].split()
    assert len(statuses) == 6
    assert set(statuses) <= {"400", "403"}, statuses
    assert all(entry["verdict"] == "denied" for entry in result["egress"])


def test_a_path_of_the_host_is_not_where_a_session_stands(house: Any, session: Any) -> None:
    """68"""
    here = session.value("import os\n[os.getcwd(), os.readlink('/proc/self/cwd'), os.readlink('/proc/self/root')]")
    assert here == "['/workspace', '/workspace', '/']"
    mounts = session.shell("cut -d' ' -f5 /proc/self/mountinfo")["stdout"].split()
    assert not [point for point in mounts if point.startswith(str(house.directory))]
    assert str(Path.home()) not in mounts


CONFUSING: Final = {
    "bytes that are no text": (b"a\xff\xfeb", "a\ufffd\ufffdb"),
    "a lone surrogate": (b"a\xed\xa0\x80b", "a\ufffd\ufffd\ufffdb"),
    "NUL": (b"a\0b", "ab"),
    "a line that is written over": (b"10 %\r50 %\r100 %\n", "100 %\n"),
    "colours": (b"\x1b[31mred\x1b[0m", "red"),
    "a title": (b"\x1b]0;pwned\x07text", "text"),
    "the clipboard": (b"\x1b]52;c;cHduZWQ=\x07text", "text"),
    "a screen that is cleared": (b"kept\x1b[2J\x1b[Htext", "kepttext"),
    "a byte order mark": (b"\xef\xbb\xbftext", "\ufefftext"),
    "a line separator": ("a\u2028b".encode(), "a\u2028b"),
    "an emoji": ("\U0001f600".encode(), "\U0001f600"),
}


@pytest.mark.parametrize("name", CONFUSING)
def test_confusing_bytes_are_shown_as_text_and_whole_when_asked_for(session: Any, name: str) -> None:
    """43, 67: whoever shows an answer shows no escape of the guest's; `raw` is for who wants the bytes as text."""
    written, shown = CONFUSING[name]
    code = f"import os\nfor byte in {written!r}: os.write(1, bytes([byte]))"  # every character is cut
    assert session.python(code)["stdout"] == shown
    octal = "".join(f"\\{byte:03o}" for byte in written)
    assert session.shell(f"printf '{octal}'")["stdout"] == shown
