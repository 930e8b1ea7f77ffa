"""What an operator can set: frozen values read once from flags and the environment, effects come later.

Flags win over environment variables, those over defaults. Only wiring and the command line read this module; everybody
else is handed values.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from clawplane.domain.errors import InvalidArgument

DEFAULT_PORT = 3456
MIB = 1 << 20


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
    month_rule: bool = False
    link_lifetime: int = 3600
    log_level: str = "info"
    loop: str = "uvloop"

    @property
    def url(self) -> str:
        """Return the address under which clients on this host reach the API."""
        everywhere = self.bind in {"0.0.0.0", "::"}  # noqa: S104 - compared, not bound
        host = "127.0.0.1" if everywhere else self.bind
        return self.public_url or f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


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
    log_level: str = "info"


def data_directory(given: Path | None, environment: Mapping[str, str]) -> Path:
    """Return the directory that holds everything: the flag, CLAWPLANE_DATA, or the XDG data directory."""
    if given is not None:
        return given.expanduser().absolute()
    if named := environment.get("CLAWPLANE_DATA"):
        return Path(named).expanduser().absolute()
    base = environment.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "clawplane"


def state_directory(environment: Mapping[str, str]) -> Path:
    """Return the XDG state directory, where a server leaves its address for the command line of the same user."""
    base = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "clawplane"


def default_slots() -> int:
    """Return how many subtasks a runner takes at once by default: four for each core, since most of them wait."""
    return max(4, 4 * len(os.sched_getaffinity(0)))


def whole_number(environment: Mapping[str, str], name: str, default: int, *, low: int, high: int) -> int:
    """Return the integer in variable `name`; raises InvalidArgument that names it when it is none or out of range."""
    text = environment.get(name)
    if text is None or not text.strip():
        return default
    try:
        value = int(text)
    except ValueError:
        raise InvalidArgument(f"{name} is not a whole number: {text!r}", hint=f"Set it to {low} .. {high}.") from None
    if not low <= value <= high:
        raise InvalidArgument(f"{name} is out of range: {value}", hint=f"Set it to {low} .. {high}.")
    return value


def serve_settings(
    *,
    data: Path | None = None,
    bind: str | None = None,
    port: int | None = None,
    log_level: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> ServeSettings:
    """Read the control plane's settings from flags (None = not given) and the environment."""
    env = os.environ if environment is None else environment
    key = env.get("CLAWPLANE_API_KEY")
    if key is not None and len(key) < 16:
        raise InvalidArgument(
            "CLAWPLANE_API_KEY is shorter than 16 characters.", hint="Choose a long random key, or unset it to get one."
        )
    return ServeSettings(
        data=data_directory(data, env),
        bind=bind or env.get("CLAWPLANE_BIND") or "127.0.0.1",
        port=port if port is not None else whole_number(env, "CLAWPLANE_PORT", DEFAULT_PORT, low=1, high=65_535),
        public_url=env.get("CLAWPLANE_PUBLIC_URL") or None,
        owner=env.get("CLAWPLANE_OWNER") or "local",
        admin_key=Secret(key) if key else None,
        max_running_runs=whole_number(env, "CLAWPLANE_MAX_RUNNING_RUNS", 1000, low=1, high=1_000_000),
        max_subtasks=whole_number(env, "CLAWPLANE_MAX_SUBTASKS", 1000, low=1, high=100_000),
        max_package=whole_number(env, "CLAWPLANE_MAX_PACKAGE_BYTES", 100_000_000, low=1000, high=10_000_000_000),
        max_expanded=whole_number(env, "CLAWPLANE_MAX_EXPANDED_BYTES", 500_000_000, low=1000, high=50_000_000_000),
        max_body=whole_number(env, "CLAWPLANE_MAX_BODY_BYTES", 8 * MIB, low=1024, high=1 << 30),
        month_rule=env.get("CLAWPLANE_MONTH_RULE", "") in {"1", "true", "yes"},
        link_lifetime=whole_number(env, "CLAWPLANE_LINK_SECONDS", 3600, low=1, high=30 * 86_400),
        log_level=log_level or env.get("CLAWPLANE_LOG") or "info",
    )


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
    log_level: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> RunnerDaemonSettings:
    """Read a runner's settings; its token comes from a file or CLAWPLANE_RUNNER_TOKEN, never from a flag."""
    env = os.environ if environment is None else environment
    token = env.get("CLAWPLANE_RUNNER_TOKEN", "")
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise InvalidArgument(
                f"The token file cannot be read: {error.strerror}: {token_file}",
                hint="Create a token with `clawplane keys create --scope runner` and write it to that file.",
            ) from None
    if not token:
        raise InvalidArgument(
            "This runner has no token.",
            hint="Create one with `clawplane keys create --scope runner` and give it with --token-file or "
            "CLAWPLANE_RUNNER_TOKEN.",
        )
    return RunnerDaemonSettings(
        data=data_directory(data, env),
        url=(url or env.get("CLAWPLANE_URL") or f"http://127.0.0.1:{DEFAULT_PORT}").rstrip("/"),
        token=Secret(token),
        name=name or env.get("CLAWPLANE_RUNNER_NAME") or os.uname().nodename,
        slots=slots if slots is not None else whole_number(env, "CLAWPLANE_SLOTS", default_slots(), low=1, high=4096),
        labels=dict(labels or {}),
        unsafe_no_sandbox=unsafe_no_sandbox,
        drain_seconds=drain_seconds,
        log_level=log_level or env.get("CLAWPLANE_LOG") or "info",
    )


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
    places = [state_directory(environment) / "connection.json"]
    if named := environment.get("CLAWPLANE_DATA"):
        places.insert(0, Path(named).expanduser() / "connection.json")
    for place in places:
        try:
            return msgspec.json.decode(place.read_bytes(), type=Connection)
        except (OSError, msgspec.DecodeError):
            continue
    return None


def write_connection(connection: Connection, data: Path, environment: Mapping[str, str]) -> None:
    """Leave the address and the local key where the same user's command line finds them."""
    text = msgspec.json.encode(connection).decode()
    write_private(data / "connection.json", text)
    try:
        write_private(state_directory(environment) / "connection.json", text)
    except OSError:
        return  # a service user may have no home; CLAWPLANE_DATA still leads to the first file
