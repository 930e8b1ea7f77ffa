"""Return the page of environment variables: the names from the code, what they mean from here."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Final

OWN: Final = {
    "CLAWPLANE_API_KEY": "for clients: the key to send; for the first start of a server: the admin key",
    "CLAWPLANE_BIND": "address to listen on; default 127.0.0.1, for `clawplane task-api` 0.0.0.0 (all addresses)",
    "CLAWPLANE_BODY_SECONDS": "how long the body of a request may take, uploads apart; default 60",
    "CLAWPLANE_DATA": "directory that holds everything; default `$XDG_DATA_HOME/clawplane`",
    "CLAWPLANE_EGRESS": "where Workers and sessions may connect to: public (default), listed or none",
    "CLAWPLANE_EGRESS_ALLOW": "`host[:port]` that may be reached, on private addresses too; with `listed`, all",
    "CLAWPLANE_EGRESS_DENY": "names, `*.suffix` names, addresses and networks, each with an optional `:port`",
    "CLAWPLANE_EGRESS_UPSTREAMS": "proxies by region as `REGION=socks5://user:password@host:port`; `*` = any region",
    "CLAWPLANE_ENVIRONMENTS_MAX_BYTES": "disk that a runner's environments may take; default 20 GB",
    "CLAWPLANE_ENVIRONMENTS_MAX_DAYS": "days after which an unused environment is removed; default 30",
    "CLAWPLANE_HOST_ANSWER_SECONDS": "how long the link of a question about a host task answers it; default 86400",
    "CLAWPLANE_HOST_CLIENT_TOKEN": "a token that submits and fetches host tasks over the Task API, and polls none",
    "CLAWPLANE_HOST_CLIENT_TOKEN_PREVIOUS": "the one before it, while it is being replaced",
    "CLAWPLANE_HOST_GRACE_MS": "ms that a fetched result can still be read (`peek`); default 1800000, 0 .. 604800000",
    "CLAWPLANE_HOST_ON_LOSS": "what becomes of a host task whose runner is lost: requeue (default), fail or hold; "
    "for single types as `command=fail`",
    "CLAWPLANE_HOST_POLICY": "TOML file that bounds a runner's host tasks, when no --host-policy is given",
    "CLAWPLANE_HOST_RATE": "requests a minute that one key may send to the Task API, polls apart; default 0, no limit",
    "CLAWPLANE_HOST_RUNNER_TOKEN": "a token that polls and reports over the Task API, and submits nothing",
    "CLAWPLANE_HOST_RUNNER_TOKEN_PREVIOUS": "the one before it, while it is being replaced",
    "CLAWPLANE_HOST_STRICT_PATHS": "1 = file tasks whose path has a `..` that changes it are refused; default off",
    "CLAWPLANE_LINK_SECONDS": "how long a download link is valid; default 3600",
    "CLAWPLANE_LOG": "debug, info, warning or error; default info",
    "CLAWPLANE_MAX_BODY_BYTES": "largest JSON body; default 8 MiB",
    "CLAWPLANE_MAX_EXPANDED_BYTES": "largest package when expanded; default 500 MB",
    "CLAWPLANE_MAX_PACKAGE_BYTES": "largest package; default 100 MB",
    "CLAWPLANE_MAX_RUNNING_RUNS": "runs of one owner that may run at once; default 1000",
    "CLAWPLANE_MAX_SUBTASKS": "subtasks of one run; default 1000",
    "CLAWPLANE_MONTH_RULE": "1 = run lists show one calendar month, as the hosted platform does; default off",
    "CLAWPLANE_OWNER": "owner part of `owner~name`; default local",
    "CLAWPLANE_PORT": "port to listen on; default 3456, where WORKER_TOKEN is set WORKER_PORT, then PORT, then 3456",
    "CLAWPLANE_PUBLIC_URL": "address that clients see, for the links of downloads and of questions behind a proxy",
    "CLAWPLANE_RUNNER_NAME": "a runner's name; default the host's",
    "CLAWPLANE_RUNNER_TOKEN": "a runner's token, when no --token-file is given",
    "CLAWPLANE_SERVER_CALLBACKS": "1 = the server sends the chat messages of all host tasks; default off: runners that "
    "poll send their own",
    "CLAWPLANE_SESSIONS": "0 = this runner offers no code sessions; default 1",
    "CLAWPLANE_SESSIONS_PER_OWNER": "sessions of one owner that have not ended; default 2000",
    "CLAWPLANE_SESSION_HISTORY_DAYS": "days after its last use when a session's execs are forgotten; default 30",
    "CLAWPLANE_SESSION_LINKING_SECONDS": "how long an exec waits for a runner whose link was cut; default 2",
    "CLAWPLANE_SESSION_PLACING_SECONDS": "how long a new session waits for room on a runner; default 30",
    "CLAWPLANE_SESSION_POOL": "ready sandboxes kept for each profile of CLAWPLANE_SESSION_READY, and half as many "
    "begun, for sessions that those do not suit; default as many as a fortieth of the memory holds, 4 to 64; 0 = none",
    "CLAWPLANE_SESSION_PROFILES": "profiles offered: bare, data, full (separated by commas); default all",
    "CLAWPLANE_SESSION_READY": "profiles of which ready sandboxes are kept; default data",
    "CLAWPLANE_SESSION_SAVE_SECONDS": "how long sessions may save their variables when a runner leaves; default 10",
    "CLAWPLANE_SESSION_SLOTS": "live sessions at once, sleeping ones in memory included; default 1000",
    "CLAWPLANE_SESSION_SPILL_BYTES": "output of one exec kept in its workspace beyond the answer; default 16 MiB",
    "CLAWPLANE_SESSION_WAITING": "execs of one session that may run or wait; default 100",
    "CLAWPLANE_SLOTS": "subtasks a runner takes at once; default four a core, at least four",
    "CLAWPLANE_UNREAD_SECONDS": "how long a client may take nothing of an answer before it is hung up on; default 60",
    "CLAWPLANE_URL": "the control plane that clients and runners talk to; default http://127.0.0.1:3456",
    "CLAWPLANE_WEBHOOK_PRIVATE": "1 = webhooks may go to private addresses; default off",
    "CLAWPLANE_WEBHOOK_SECRET": "key of the signature of webhooks; without it none is sent",
}

_NO_SETTINGS: Final = {"CLAWPLANE_HOST_TASK"}
"""Set by a runner for what it starts, never read as a choice."""

TASK_API: Final = {
    "WORKER_TOKEN": (
        "both",
        "the token of the Task API, 16 characters or more; without one `task-api` and `worker` do not start",
    ),
    "WORKER_TOKEN_PREVIOUS": ("server", "the one before it, while it is being replaced"),
    "WORKER_PORT": ("server", "port to listen on; default PORT, then 3456"),
    "PORT": ("server", "port to listen on where WORKER_PORT is not set; read only where WORKER_TOKEN is set"),
    "WORKER_TASK_DB": (
        "server",
        "the SQLite file of everything; default: `clawplane.db` in the data directory, which "
        "comes first where --data or CLAWPLANE_DATA names one",
    ),
    "WORKER_TASK_RETENTION_MS": (
        "server",
        "age at which a task that waits expires; default 1200000, 60000 .. 604800000",
    ),
    "WORKER_RESULT_RETENTION_MS": (
        "server",
        "age at which a result nobody fetched goes; default 1800000, 60000 .. 604800000",
    ),
    "WORKER_SESSION_RETENTION_MS": (
        "server",
        "idle time after which a conversation is forgotten; default 1800000, 60000 .. 2592000000",
    ),
    "WORKER_EVENT_RETENTION_DAYS": ("server", "days that the records of host tasks stay; default 14, 1 .. 3650"),
    "WORKER_MAX_EVENTS": ("server", "records that stay; default 2000, 100 .. 500000"),
    "CALLBACK_CHANNEL": (
        "server",
        "chat channel of tasks that name none, where the server sends; default DEFAULT_CALLBACK_CHANNEL, then none",
    ),
    "DEFAULT_CALLBACK_CHANNEL": ("server", "older name of CALLBACK_CHANNEL"),
    "CALLBACK_API_BASE_URL": ("both", "the chat's API; default DISCORD_API_BASE_URL, then https://discord.com/api/v10"),
    "DISCORD_API_BASE_URL": ("both", "older name of CALLBACK_API_BASE_URL"),
    "CALLBACK_BOT_TOKEN": ("both", "the bot's token for chat messages; default DISCORD_BOT_TOKEN, then none is sent"),
    "DISCORD_BOT_TOKEN": ("both", "older name of CALLBACK_BOT_TOKEN"),
    "DISCORD_PROXY": ("both", "HTTP proxy to the chat's API; default none"),
    "OPENCLAW_HOOKS_URL": ("both", "gateway hook that is told before the chat; with OPENCLAW_HOOKS_TOKEN"),
    "OPENCLAW_HOOKS_TOKEN": ("both", "token of that hook"),
    "CLAUDE_PROJECTS_DIR": ("both", "where Claude Code keeps conversations; default `~/.claude/projects`"),
    "CODEX_SESSIONS_DIR": ("both", "where Codex keeps conversations; default `~/.codex/sessions`"),
    "WORKER_URL": ("runner", "the server to poll; default http://127.0.0.1:3456"),
    "MAX_CONCURRENT": ("runner", "tasks at once; default 5, 1 .. 50"),
    "POLL_INTERVAL": ("runner", "ms between looks for a free slot while all are taken; default 500, 50 .. 60000"),
    "LONG_POLL_WAIT": (
        "runner",
        "ms that a poll stays open; default 30000, 1000 .. 300000; the server ends it at 60000",
    ),
    "WORKER_DIRECT_CALLBACK": ("runner", "off = the server sends this runner's chat messages; default on"),
    "WORKER_SHELL": ("runner", "the shell of commands; default zsh, then SHELL, then bash, then sh"),
    "SHELL": ("runner", "see WORKER_SHELL"),
    "CC_TIMEOUT": ("runner", "ms for tasks that name no time-out; default 600000, 1000 .. 86400000"),
    "CC_MODELS": ("runner", "models that Claude Code tries in turn, a comma list; default CC_MODEL, then its own"),
    "CC_MODEL": ("runner", "one model; see CC_MODELS"),
    "CC_LOG_PATH": ("runner", "file that gets the agents' output live; default `/tmp/cc-live.log`"),
    "CLAUDE_PATH": ("runner", "the program of Claude Code; default `claude` on PATH"),
    "CODEX_PATH": ("runner", "the program of Codex; default `codex` on PATH"),
    "GEMINI_PATH": ("runner", "the program of Gemini CLI; default `gemini` on PATH"),
    "GEMINI_REPLY_HINT": (
        "runner",
        "text that asks Gemini for an answer in words; `off` = none, default a built-in one",
    ),
    "RUNNER_SESSION_CACHE_FILE": (
        "runner",
        "file that maps conversations to the providers' ids; default `/tmp/openclaw-runner-session-cache.json`",
    ),
    "RUNNER_SESSION_RETENTION_MS": (
        "runner",
        "idle time after which an entry of it goes; default 1800000, 60000 .. 2592000000",
    ),
    "MAC_WORKER_URL": ("tool", "the server that `clawplane mcp --remote` talks to; default http://127.0.0.1:3456"),
    "MAC_WORKER_TOKEN": ("tool", "its WORKER_TOKEN, or a key with the scope `host`"),
}

OTHERS: Final = {
    "HOME": "home of what is below `~`; host tasks start there",
    "XDG_DATA_HOME": "default directory of data; default `~/.local/share`",
    "XDG_STATE_HOME": "where a server leaves its address for the command line; default `~/.local/state`",
    "NO_COLOR": "set to anything: no colours",
    "PATH": "where runners look for node and for the agent CLIs",
}

_HEAD: Final = """# Environment variables

Flags win over variables. A variable of clawplane's own that holds nonsense is refused by name when a daemon starts.

| variable | meaning |
| --- | --- |
"""

_TASK_API_HEAD: Final = """
## The Task API's own

Host tasks keep the names that openclaw-worker's servers and runners know. What is out of bounds is clamped, what cannot
be read gives the default; `WORKER_EVENT_DB` and `CALLBACK_CONTAINER` may be set and mean nothing. *server* is
`clawplane task-api`, `serve` or `up`; *runner* is `clawplane worker`, and for what concerns the tasks themselves
(neither the way to the server nor callbacks) `clawplane runner --host-tasks` too; *tool* is `clawplane mcp --remote`.

| variable | read by | meaning |
| --- | --- | --- |
"""

_OTHERS_HEAD: Final = """
## Everybody's

| variable | meaning |
| --- | --- |
"""

_FOOT: Final = """
A runner installs packages from the indexes, and through the proxies, that its own environment and files name:
`PIP_INDEX_URL`, `UV_DEFAULT_INDEX`, `HTTPS_PROXY`, `NO_PROXY`, `pip.conf`, `uv.toml`, `.npmrc` and their kin.
"""


def settings_page(package: Path) -> str:
    """Return the page; raises ValueError when a name stands in the code below `package` or in OWN, but not in both."""
    told = set(OWN) - {name for name in OWN if name.endswith("_PREVIOUS")}
    if different := (names_in(package) - _NO_SETTINGS) ^ told:
        raise ValueError(f"In the code or in OWN, not in both: {', '.join(sorted(different))}.")
    tasks = "".join(f"| `{name}` | {who} | {meaning} |\n" for name, (who, meaning) in TASK_API.items())
    return _HEAD + _rows(OWN) + _TASK_API_HEAD + tasks + _OTHERS_HEAD + _rows(OTHERS) + _FOOT


def names_in(package: Path) -> set[str]:
    """Return every CLAWPLANE_ name that is a text of its own in the code."""
    names = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_name(node.value):
                names.add(node.value)
    return names


def _is_name(text: str) -> bool:
    return (
        text.startswith("CLAWPLANE_")
        and len(text) > len("CLAWPLANE_")
        and text.replace("_", "").isalpha()
        and (text.isupper())
    )


def _rows(meanings: Mapping[str, str]) -> str:
    return "".join(f"| `{name}` | {meanings[name]} |\n" for name in sorted(meanings))
