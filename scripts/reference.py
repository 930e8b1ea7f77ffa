"""Write docs/reference/ from the code; with --check, tell whether it is what the code says."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from itertools import pairwise
from pathlib import Path

from reference_diagnostics import diagnostics_page
from reference_http import http_page

from clawplane.api.errors import TABLE
from clawplane.cli.app import build_app
from clawplane.domain import errors
from clawplane.domain.errors import ClawplaneError

PROJECT = Path(__file__).resolve().parent.parent
REFERENCE = PROJECT / "docs" / "reference"
NOTE = "<!-- Made by `make reference`; do not edit. -->\n\n"


def commands() -> str:
    """Return every command with its parameters, and what the exit codes mean."""
    text = build_app().generate_docs(output_format="markdown")
    page = "\n".join(line.rstrip() for line in text.strip().splitlines())
    rows = [f"| {code} | {meaning} |" for code, meaning in sorted(exit_codes().items())]
    table = "\n".join(["| code | meaning |", "| --- | --- |", "| 0 | done |", *rows])
    return f"{NOTE}{page}\n\n## Exit codes\n\n{table}\n"


def exit_codes() -> dict[int, str]:
    """Return the exit codes of `cli/output.py` with the text that stands below each."""
    body = ast.parse((PROJECT / "src/clawplane/cli/output.py").read_text(encoding="utf-8")).body
    codes = {}
    for assigned, text in pairwise(body):
        if isinstance(assigned, ast.Assign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            codes[int(ast.literal_eval(assigned.value))] = str(text.value.value)
    return codes


def error_page() -> str:
    """Return the tree of errors with codes, both wires' answers, meanings and hints."""
    members = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ClawplaneError)]
    rows = []
    for kind in sorted(members, key=lambda kind: kind.code):
        if kind is not ClawplaneError:
            answer = TABLE[kind]
            meaning = (inspect.getdoc(kind) or "").splitlines()[0]
            wires = f"{answer.status} / {answer.code} | {answer.native_status}"
            rows.append(f"| `{kind.code}` | {wires} | {meaning} | {kind.default_hint} |")
    rows.append("| `method_not_allowed` | 405 / 11000 | 405 | A method that a path does not take. | See `Allow`. |")
    head = "| error | `/api/v2`: status / code | `/v1`: status | meaning | way out |\n| --- | --- | --- | --- | --- |"
    return f"{NOTE}{ERRORS}\n{head}\n" + "\n".join(rows) + "\n"


ERRORS = """# Errors

A refusal is `{"code", "message", "request_id", "details", "error", "hint"}`: `code` is the number of the CoreClaw wire,
`error` the name below, `message` a sentence, `hint` the way out, `details` everything that was found. On `/api/v2` the
message of some codes is fixed by that wire; the sentence is then the first of the details. The command line prints
sentence, details and hint to standard error, or with `--json` one object of `error`, `message`, `details` and `hint`.
"""


def settings_page() -> str:
    """Return every environment variable that the settings read."""
    own = PROJECT / "src" / "clawplane"
    source = "".join((own / name).read_text(encoding="utf-8") for name in ("settings.py", "session_settings.py"))
    source += "".join(path.read_text(encoding="utf-8") for path in sorted((PROJECT / "src/clawplane/cli").glob("*.py")))
    names = sorted(set(re.findall(r"\bCLAWPLANE_[A-Z_]+\b", source)))
    rows = [f"| `{name}` | {MEANINGS[name]} |" for name in names]
    return NOTE + "# Environment variables\n\n| variable | meaning |\n| --- | --- |\n" + "\n".join(rows) + "\n"


MEANINGS = {
    "CLAWPLANE_API_KEY": "for clients: the key to send; for the first start of a server: the admin key",
    "CLAWPLANE_BIND": "address to listen on; default 127.0.0.1",
    "CLAWPLANE_BODY_SECONDS": "how long the body of a request may take, uploads apart; default 60",
    "CLAWPLANE_DATA": "directory that holds everything; default `$XDG_DATA_HOME/clawplane`",
    "CLAWPLANE_EGRESS": "where Workers and sessions may connect to: public (default), listed or none",
    "CLAWPLANE_EGRESS_ALLOW": "`host[:port]` that may be reached, on private addresses too; with `listed`, all",
    "CLAWPLANE_EGRESS_DENY": "names, `*.suffix` names, addresses and networks, each with an optional `:port`",
    "CLAWPLANE_EGRESS_UPSTREAMS": "proxies by region as `REGION=socks5://user:password@host:port`; `*` = any region",
    "CLAWPLANE_ENVIRONMENTS_MAX_BYTES": "disk that a runner's environments may take; default 20 GB",
    "CLAWPLANE_ENVIRONMENTS_MAX_DAYS": "days after which an unused environment is removed; default 30",
    "CLAWPLANE_HOST_POLICY": "TOML file that bounds a runner's host tasks, when no --host-policy is given",
    "CLAWPLANE_LINK_SECONDS": "how long a download link is valid; default 3600",
    "CLAWPLANE_LOG": "debug, info, warning or error; default info",
    "CLAWPLANE_MAX_BODY_BYTES": "largest JSON body; default 8 MiB",
    "CLAWPLANE_MAX_EXPANDED_BYTES": "largest package when expanded; default 500 MB",
    "CLAWPLANE_MAX_PACKAGE_BYTES": "largest package; default 100 MB",
    "CLAWPLANE_MAX_RUNNING_RUNS": "runs of one owner that may run at once; default 1000",
    "CLAWPLANE_MAX_SUBTASKS": "subtasks of one run; default 1000",
    "CLAWPLANE_MONTH_RULE": "1 = run lists show one calendar month, as the hosted platform does; default off",
    "CLAWPLANE_OWNER": "owner part of `owner~name`; default local",
    "CLAWPLANE_PORT": "port to listen on; default 3456",
    "CLAWPLANE_PUBLIC_URL": "address that clients see, for download links behind a proxy",
    "CLAWPLANE_RUNNER_NAME": "a runner's name; default the host's",
    "CLAWPLANE_RUNNER_TOKEN": "a runner's token, when no --token-file is given",
    "CLAWPLANE_SESSIONS": "0 = this runner offers no code sessions; default 1",
    "CLAWPLANE_SESSIONS_PER_OWNER": "sessions of one owner that have not ended; default 2000",
    "CLAWPLANE_SESSION_HISTORY_DAYS": "days after its last use when a session's execs are forgotten; default 30",
    "CLAWPLANE_SESSION_LINKING_SECONDS": "how long an exec waits for a runner whose link was cut; default 2",
    "CLAWPLANE_SESSION_PLACING_SECONDS": "how long a new session waits for room on a runner; default 30",
    "CLAWPLANE_SESSION_POOL": "ready sandboxes kept for each profile, and twice as many begun; default 4, 0 = none",
    "CLAWPLANE_SESSION_PROFILES": "profiles offered: bare, data, full (separated by commas); default all",
    "CLAWPLANE_SESSION_READY": "profiles of which ready sandboxes are kept; default data",
    "CLAWPLANE_SESSION_SAVE_SECONDS": "how long sessions may save their variables when a runner leaves; default 10",
    "CLAWPLANE_SESSION_SLOTS": "live sessions at once, sleeping ones in memory included; default 1000",
    "CLAWPLANE_SESSION_SPILL_BYTES": "output of one exec kept in its workspace beyond the answer; default 16 MiB",
    "CLAWPLANE_SESSION_WAITING": "execs of one session that may run or wait; default 100",
    "CLAWPLANE_SLOTS": "subtasks a runner takes at once; default four a core, at least four",
    "CLAWPLANE_URL": "the control plane that clients and runners talk to; default http://127.0.0.1:3456",
}


def main() -> int:
    """Write or check the pages."""
    pages = {
        "commands.md": commands(),
        "errors.md": error_page(),
        "settings.md": settings_page(),
        "diagnostics.md": NOTE + diagnostics_page(PROJECT / "src/clawplane/domain"),
        "http-api.md": NOTE + http_page(),
    }
    if "--check" in sys.argv:
        stale = [
            name
            for name, text in pages.items()
            if not (REFERENCE / name).is_file() or (REFERENCE / name).read_text(encoding="utf-8") != text
        ]
        if stale:
            print(f"docs/reference is behind the code: {', '.join(stale)}; run `make reference`.")
        return 1 if stale else 0
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (REFERENCE / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
