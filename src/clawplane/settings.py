"""What an operator can set: frozen values read once from flags and the environment, effects come later.

Flags win over environment variables, those over defaults. Only wiring and the command line read this module; everybody
else is handed values.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from clawplane.domain.errors import InvalidArgument
from clawplane.host_settings import HostBounds, host_bounds, task_api_port
from clawplane.logs import LEVELS
from clawplane.session_settings import SessionBounds, SessionChoices, session_bounds, session_choices
from clawplane.variables import entries, whole_number

DEFAULT_PORT = 3456
MIB = 1 << 20
SHORTEST_SECRET = 16
EgressMode = Literal["public", "listed", "none"]

_EGRESS_MODES: Final[Mapping[str, EgressMode]] = {"public": "public", "listed": "listed", "none": "none"}
_LONGEST_DRAIN = 86_400
_OWNER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


class Secret(str):
    """Text that never shows itself in a repr or a log."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The control plane's settings. Sizes in bytes, times in seconds."""

    data: Path
    bind: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    public_url: str | None = None
    owner: str = "local"
    admin_key: Secret | None = None
    max_running_runs: int = 1000
    max_subtasks: int = 1000
    max_package: int = 100 * 1000 * 1000
    max_expanded: int = 500 * 1000 * 1000
    max_body: int = 8 * MIB
    body_seconds: int = 60
    unread_seconds: int = 60
    """How long an answer may lie without its client taking anything of it."""
    month_rule: bool = False
    link_lifetime: int = 3600
    sessions: SessionBounds = SessionBounds()
    host: HostBounds = HostBounds()
    database: Path | None = None
    """The database's file; None: the usual name in `data`."""
    log_level: str = "info"
    loop: str = "uvloop"

    @property
    def url(self) -> str:
        """Return the address that clients are told."""
        return self.public_url or self.local_url

    @property
    def local_url(self) -> str:
        """Return the address under which this host reaches the API, whatever proxy stands before it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.bind, self.bind)  # noqa: S104 - compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


class EgressChoices(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator decides about connections of Workers and sessions to the outside; the runner reads the lists.

    Upstream proxies may hold credentials.
    """

    mode: EgressMode = "public"
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    upstreams: tuple[Secret, ...] = ()


class RunnerDaemonSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A runner's settings."""

    data: Path
    url: str
    token: Secret
    name: str
    slots: int
    build_slots: int = 2
    labels: dict[str, str] = {}
    unsafe_no_sandbox: bool = False
    drain_seconds: float = 30.0
    environment_max_bytes: int = 20_000 * MIB
    environment_max_age_days: float = 30.0
    egress: EgressChoices = EgressChoices()
    sessions: SessionChoices = SessionChoices()
    host_tasks: bool = False
    host_policy: Path | None = None
    token_file: Path | None = None
    log_level: str = "info"


def data_directory(given: Path | None, environment: Mapping[str, str]) -> Path:
    """Return the directory that holds everything: the flag, CLAWPLANE_DATA, or the XDG data directory."""
    if given is not None:
        return _expanded(given)
    if named := environment.get("CLAWPLANE_DATA"):
        return _expanded(Path(named))
    return _base(environment, "XDG_DATA_HOME", ".local/share") / "clawplane"


def state_directory(environment: Mapping[str, str]) -> Path:
    """Return the XDG state directory, where a server leaves its address for the command line of the same user."""
    return _base(environment, "XDG_STATE_HOME", ".local/state") / "clawplane"


def _base(environment: Mapping[str, str], variable: str, below_home: str) -> Path:
    named = environment.get(variable, "")
    if named.startswith("/"):  # the XDG specification has relative ones ignored
        return Path(named)
    home = environment.get("HOME", "")
    return (Path(home) if home.startswith("/") else _expanded(Path("~"))) / below_home


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        hint = "Name the data directory with --data or CLAWPLANE_DATA."
        raise InvalidArgument(f"This user has no home directory for {str(path)!r}.", hint=hint) from None


def default_slots() -> int:
    """Return how many subtasks a runner takes at once by default: four for each core, since most of them wait."""
    return max(4, 4 * len(os.sched_getaffinity(0)))


def checked_url(name: str, text: str) -> str:
    """Return an address without its trailing slash; raises InvalidArgument that names the variable or option."""
    hint = f"Set {name} to an address such as http://127.0.0.1:{DEFAULT_PORT}."
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        plain = text.isprintable() and " " not in text and not parts.query and not parts.fragment
    except ValueError:
        good = plain = False
    else:
        if parts.username is not None or parts.password is not None:
            raise InvalidArgument(f"{name} holds a user name or password.", hint="Give the key in CLAWPLANE_API_KEY.")
    if not good or not plain:
        raise InvalidArgument(f"{name} is not an http:// or https:// address: {text!r}.", hint=hint)
    return text.rstrip("/")


def checked_slots(slots: int) -> int:
    """Return a number of slots; raises InvalidArgument when it is out of range."""
    return _within("--slots", slots, 1, 4096)


def _within(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise InvalidArgument(f"{name} is out of range: {value}.", hint=f"Set it to {low} .. {high}.")
    return value


def log_level_of(given: str | None, environment: Mapping[str, str], *, default: str = "info") -> str:
    """Return the log level of a flag or CLAWPLANE_LOG; raises InvalidArgument."""
    level = (given or environment.get("CLAWPLANE_LOG") or default).lower()
    if level not in LEVELS:
        hint = f"Use one of {', '.join(LEVELS)}."
        raise InvalidArgument(f"{'--log' if given else 'CLAWPLANE_LOG'} is no log level: {level!r}.", hint=hint)
    return level


def _switch(environment: Mapping[str, str], name: str) -> bool:
    text = environment.get(name, "").strip().lower()
    if text in {"1", "true", "yes", "on"}:
        return True
    if text in {"", "0", "false", "no", "off"}:
        return False
    raise InvalidArgument(f"{name} is neither on nor off: {text!r}.", hint="Set it to 1 or 0.")


def _secret(name: str, text: str, hint: str) -> Secret:
    """Return a key or token that an HTTP header can carry; the error never shows it."""
    if len(text) < SHORTEST_SECRET:
        raise InvalidArgument(f"{name} is shorter than {SHORTEST_SECRET} characters.", hint=hint)
    if not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidArgument(f"{name} holds characters that a key cannot have.", hint=hint)
    return Secret(text)


def read_token(file: Path) -> Secret:
    """Return the runner token that a file holds."""
    hint = "Create a token with `clawplane keys create --scope runner` and write it to that file."
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise InvalidArgument(f"The token file cannot be read: {error.strerror}: {file}", hint=hint) from None
    except UnicodeDecodeError:
        raise InvalidArgument(f"The token file holds no text: {file}", hint=hint) from None
    return _secret(f"The token in {file}", text, hint)


def serve_settings(
    *,
    data: Path | None = None,
    bind: str | None = None,
    port: int | None = None,
    log_level: str | None = None,
    quiet: bool = False,
    environment: Mapping[str, str] | None = None,
) -> ServeSettings:
    """Read the control plane's settings from flags (None = not given) and the environment.

    `quiet` logs warnings only, unless the operator says otherwise.
    """
    env = os.environ if environment is None else environment
    key = env.get("CLAWPLANE_API_KEY")
    public = env.get("CLAWPLANE_PUBLIC_URL")
    database = _task_database(data, env)
    # PORT means many things; it is heeded where the Task API's own token says that this is one
    default_port = task_api_port(env) if env.get("WORKER_TOKEN") else DEFAULT_PORT
    return ServeSettings(
        data=data_directory(data, env) if database is None else database.with_name(f"{database.name}.d"),
        database=database,
        bind=bind or env.get("CLAWPLANE_BIND") or "127.0.0.1",
        port=whole_number(env, "CLAWPLANE_PORT", default_port, low=1, high=65_535)
        if port is None
        else _within("--port", port, 1, 65_535),
        public_url=checked_url("CLAWPLANE_PUBLIC_URL", public) if public else None,
        owner=_owner(env.get("CLAWPLANE_OWNER") or "local"),
        admin_key=_secret("CLAWPLANE_API_KEY", key, "Choose a long random key, or unset it to get one.")
        if key
        else None,
        max_running_runs=whole_number(env, "CLAWPLANE_MAX_RUNNING_RUNS", 1000, low=1, high=1_000_000),
        max_subtasks=whole_number(env, "CLAWPLANE_MAX_SUBTASKS", 1000, low=1, high=100_000),
        max_package=whole_number(env, "CLAWPLANE_MAX_PACKAGE_BYTES", 100_000_000, low=1000, high=10_000_000_000),
        max_expanded=whole_number(env, "CLAWPLANE_MAX_EXPANDED_BYTES", 500_000_000, low=1000, high=50_000_000_000),
        max_body=whole_number(env, "CLAWPLANE_MAX_BODY_BYTES", 8 * MIB, low=1024, high=1 << 30),
        body_seconds=whole_number(env, "CLAWPLANE_BODY_SECONDS", 60, low=1, high=3600),
        unread_seconds=whole_number(env, "CLAWPLANE_UNREAD_SECONDS", 60, low=1, high=3600),
        month_rule=_switch(env, "CLAWPLANE_MONTH_RULE"),
        link_lifetime=whole_number(env, "CLAWPLANE_LINK_SECONDS", 3600, low=1, high=30 * 86_400),
        sessions=session_bounds(env),
        host=host_bounds(env),
        log_level=log_level_of(log_level, env, default="warning" if quiet else "info"),
    )


def _task_database(data: Path | None, environment: Mapping[str, str]) -> Path | None:
    """Return the database that WORKER_TASK_DB names; only where no data directory is named, which comes first."""
    named = environment.get("WORKER_TASK_DB", "").strip()
    if not named or data is not None or environment.get("CLAWPLANE_DATA"):
        return None
    return _expanded(Path(named))


def _owner(name: str) -> str:
    if not _OWNER.fullmatch(name):
        hint = "Use letters, digits, dots, dashes and underscores."
        raise InvalidArgument(f"CLAWPLANE_OWNER cannot be part of owner~name: {name!r}.", hint=hint)
    return name


def runner_settings(
    *,
    data: Path | None = None,
    url: str | None = None,
    token_file: Path | None = None,
    name: str | None = None,
    slots: int | None = None,
    labels: Mapping[str, str] | None = None,
    unsafe_no_sandbox: bool = False,
    drain_seconds: float = 30.0,
    host_tasks: bool = False,
    host_policy: Path | None = None,
    log_level: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> RunnerDaemonSettings:
    """Read a runner's settings; its token comes from a file or CLAWPLANE_RUNNER_TOKEN, never from a flag."""
    env = os.environ if environment is None else environment
    if not 0 <= drain_seconds <= _LONGEST_DRAIN:
        hint = f"Set it to 0 .. {_LONGEST_DRAIN} seconds."
        raise InvalidArgument(f"--drain is out of range: {drain_seconds}.", hint=hint)
    return RunnerDaemonSettings(
        data=data_directory(data, env),
        url=checked_url(
            "--url" if url else "CLAWPLANE_URL", url or env.get("CLAWPLANE_URL") or f"http://127.0.0.1:{DEFAULT_PORT}"
        ),
        token=_runner_token(token_file, env),
        name=name or env.get("CLAWPLANE_RUNNER_NAME") or os.uname().nodename,
        slots=whole_number(env, "CLAWPLANE_SLOTS", default_slots(), low=1, high=4096)
        if slots is None
        else checked_slots(slots),
        labels=dict(labels or {}),
        unsafe_no_sandbox=unsafe_no_sandbox,
        drain_seconds=drain_seconds,
        environment_max_bytes=whole_number(
            env, "CLAWPLANE_ENVIRONMENTS_MAX_BYTES", 20_000 * MIB, low=MIB, high=1 << 50
        ),
        environment_max_age_days=whole_number(env, "CLAWPLANE_ENVIRONMENTS_MAX_DAYS", 30, low=1, high=36_500),
        egress=_egress(env),
        sessions=session_choices(env),
        host_tasks=host_tasks,
        host_policy=host_policy or (_expanded(Path(named)) if (named := env.get("CLAWPLANE_HOST_POLICY")) else None),
        token_file=token_file,
        log_level=log_level_of(log_level, env),
    )


def _egress(environment: Mapping[str, str]) -> EgressChoices:
    mode = environment.get("CLAWPLANE_EGRESS", "").strip().lower() or "public"
    if mode not in _EGRESS_MODES:
        hint = f"Set it to {', '.join(_EGRESS_MODES)}."
        raise InvalidArgument(f"CLAWPLANE_EGRESS is unknown: {mode[:40]!r}.", hint=hint)
    return EgressChoices(
        mode=_EGRESS_MODES[mode],
        allow=entries(environment, "CLAWPLANE_EGRESS_ALLOW"),
        deny=entries(environment, "CLAWPLANE_EGRESS_DENY"),
        upstreams=tuple(map(Secret, entries(environment, "CLAWPLANE_EGRESS_UPSTREAMS"))),
    )


def _runner_token(file: Path | None, environment: Mapping[str, str]) -> Secret:
    if file is not None:
        return read_token(file)
    hint = (
        "Create one with `clawplane keys create --scope runner`; give it with --token-file or CLAWPLANE_RUNNER_TOKEN."
    )
    token = environment.get("CLAWPLANE_RUNNER_TOKEN", "").strip()
    if not token:
        raise InvalidArgument("This runner has no token.", hint=hint)
    return _secret("CLAWPLANE_RUNNER_TOKEN", token, hint)


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server on this host listens and the key that its own user's command line may use."""

    url: str
    key: str


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, durably and in one step."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_connection(environment: Mapping[str, str]) -> Connection | None:
    """Return what the last server of this user on this host left for the command line, or None."""
    for directory in _connection_places(environment):
        try:
            left = msgspec.json.decode((directory / "connection.json").read_bytes(), type=Connection)
            return msgspec.structs.replace(left, url=checked_url("connection.json", left.url))
        except (OSError, msgspec.DecodeError, InvalidArgument):
            continue
    return None


def _connection_places(environment: Mapping[str, str]) -> Iterator[Path]:
    if environment.get("CLAWPLANE_DATA"):
        yield data_directory(None, environment)
    with contextlib.suppress(InvalidArgument):  # no home: nothing was left there
        yield state_directory(environment)


def write_connection(connection: Connection, data: Path, environment: Mapping[str, str]) -> None:
    """Leave the address and the local key where the same user's command line finds them."""
    text = msgspec.json.encode(connection).decode()
    write_private(data / "connection.json", text)
    try:
        write_private(state_directory(environment) / "connection.json", text)
    except (OSError, InvalidArgument):
        return  # a service user may have no home; CLAWPLANE_DATA still leads to the first file
