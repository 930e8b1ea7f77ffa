"""`clawplane up`, `serve`, `runner` and `doctor`: the long-running half of the command line."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import secrets
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

from cyclopts import Parameter

from clawplane import logs
from clawplane.cli.output import FAILED, REFUSED, USAGE, fail, log_text, say, show_json, tell
from clawplane.cli.pairs import pairs_of
from clawplane.cli.supervise import Child, supervise
from clawplane.domain.errors import ClawplaneError, InvalidArgument
from clawplane.settings import (
    ServeSettings,
    checked_slots,
    data_directory,
    read_token,
    runner_settings,
    serve_settings,
    write_private,
)

Data = Annotated[
    Path | None, Parameter(name="--data", help="Directory that holds everything. Variable: CLAWPLANE_DATA.")
]
Bind = Annotated[str | None, Parameter(name="--bind", help="Address to listen on. Default 127.0.0.1.")]
Port = Annotated[int | None, Parameter(name="--port", help="Port to listen on. Default 3456.")]
Log = Annotated[str | None, Parameter(name="--log", help="debug, info, warning or error. Variable: CLAWPLANE_LOG.")]
Slots = Annotated[int | None, Parameter(name="--slots", help="Subtasks at once. Default: four a core.")]
Unsafe = Annotated[
    bool,
    Parameter(
        name="--unsafe-no-sandbox",
        negative="",
        help="Run Workers WITHOUT isolation when this host cannot isolate them: they can read and change all that this "
        "user can. Never for code you did not write.",
    ),
]
HostTasks = Annotated[
    bool,
    Parameter(
        name="--host-tasks",
        negative="",
        help="Take host tasks, too: shell commands, file operations and agent CLIs WITH ALL RIGHTS of this user. "
        "Whoever may submit host tasks can do here what this user can.",
    ),
]
HostPolicy = Annotated[
    Path | None,
    Parameter(name="--host-policy", help="TOML file that bounds host tasks: kinds, commands, directories."),
]
Parent = Annotated[int | None, Parameter(name="--parent", show=False)]

_PR_SET_PDEATHSIG = 1


def _end_with(parent: int | None) -> None:
    """Be sent SIGTERM when the supervisor dies, however it dies."""
    if parent is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(FAILED)


def _leave_in_order() -> None:
    """Let SIGTERM and SIGINT end this process through its `finally` clauses, with exit code 0.

    The HTTP server takes both while it serves and raises them again when it has shut down, which by default would end
    the process right there, with the store still open.
    """

    def leave(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # the store is being closed: whoever is impatient has SIGKILL
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)


def refuse(error: ClawplaneError, *, code: int | None = None) -> NoReturn:
    """Say why nothing can be started, and end this process."""
    fail(error)
    raise SystemExit(code or (USAGE if isinstance(error, InvalidArgument) else REFUSED)) from None


def unusable(path: Path, error: OSError) -> InvalidArgument:
    """Return what is told when a file or directory of a daemon's own cannot be used."""
    reason = error.strerror or str(error)
    return InvalidArgument(f"{error.filename or path} cannot be used: {reason}.", hint="Choose another with --data.")


def up(
    *,
    data: Data = None,
    bind: Bind = None,
    port: Port = None,
    slots: Slots = None,
    unsafe_no_sandbox: Unsafe = False,
    host_tasks: HostTasks = False,
    host_policy: HostPolicy = None,
    log: Log = None,
) -> None:
    """Start everything on this machine: the control plane and one runner, in the foreground.

    The first start makes the data directory and an API key, which is printed once, unless CLAWPLANE_API_KEY names one.
    Ctrl-C (or SIGTERM) ends it within 10 seconds: work that is under way is handed back and starts again next time.

    Example: `clawplane up --data /srv/clawplane --bind 0.0.0.0 --port 8080`
    """
    try:
        settings = serve_settings(data=data, bind=bind, port=port, log_level=log, quiet=True)
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        token_file = settings.data / "runner-token"
        if not token_file.exists():
            write_private(token_file, secrets.token_hex(32))
        if slots is not None:
            checked_slots(slots)
    except OSError as error:
        refuse(unusable(settings.data, error))
    except ClawplaneError as error:
        refuse(error)
    shared = ["--data", str(settings.data), "--log", settings.log_level]
    serve_child = Child(
        "serve",
        [*shared, "--bind", settings.bind, "--port", str(settings.port), "--runner-token-file", str(token_file)],
    )
    runner_child = Child(
        "runner",
        [*shared, "--url", settings.local_url, "--token-file", str(token_file), "--drain", "2"]
        + (["--slots", str(slots)] if slots else [])
        + (["--unsafe-no-sandbox"] if unsafe_no_sandbox else [])
        + (["--host-tasks"] if host_tasks else [])
        + (["--host-policy", str(host_policy)] if host_policy else []),
        without=["CLAWPLANE_API_KEY", "CLAWPLANE_RUNNER_TOKEN"],
    )
    raise SystemExit(asyncio.run(supervise(serve_child, runner_child, settings.local_url)))


def serve(
    *,
    data: Data = None,
    bind: Bind = None,
    port: Port = None,
    runner_token_file: Annotated[Path | None, Parameter(name="--runner-token-file")] = None,
    log: Log = None,
    parent: Parent = None,
) -> None:
    """Start the control plane alone: API, queue and store.

    Runs wait until a runner has connected; see `clawplane runner`. Ctrl-C (or SIGTERM) ends it.

    Example: `clawplane serve --bind 0.0.0.0 --data /srv/clawplane`

    Parameters
    ----------
    runner_token_file
        A file with a token that runners may use, beside those made with `clawplane keys create --scope runner`.
    """
    _end_with(parent)
    try:
        settings = serve_settings(data=data, bind=bind, port=port, log_level=log)
        token = read_token(runner_token_file) if runner_token_file else None
    except ClawplaneError as error:
        refuse(error)
    run_server(settings, token)


def run_server(settings: ServeSettings, runner_token: str | None) -> None:
    """Run the control plane until a signal; says why and ends this process when it cannot start."""
    logs.configure(settings.log_level, name="serve")
    _leave_in_order()
    from clawplane import wiring  # noqa: PLC0415 - the servers' imports would slow down every other command

    try:
        wiring.serve(settings, runner_token=runner_token, announce=_announce)
    except ClawplaneError as error:
        refuse(error, code=REFUSED)
    except OSError as error:
        if error.filename is not None or error.errno == errno.ENOSPC:
            refuse(unusable(settings.data, error), code=REFUSED)
        reason = error.strerror or str(error)
        hint = "Choose another address with --bind or --port, or stop what listens there."
        refuse(
            InvalidArgument(f"Cannot listen on {settings.bind} port {settings.port}: {reason}.", hint=hint),
            code=REFUSED,
        )


def _announce(url: str, key: str | None) -> None:
    say(f"clawplane listens on {url}")
    if key is not None:
        say("This is the admin key of this installation. It is shown once; only its hash is kept:")
        tell(key)
        sys.stdout.flush()


def runner(
    *,
    data: Data = None,
    url: Annotated[str | None, Parameter(name="--url", help="The control plane. Variable: CLAWPLANE_URL.")] = None,
    token_file: Annotated[Path | None, Parameter(name="--token-file")] = None,
    name: Annotated[str | None, Parameter(name="--name")] = None,
    slots: Slots = None,
    label: Annotated[list[str] | None, Parameter(name="--label", negative="")] = None,
    unsafe_no_sandbox: Unsafe = False,
    host_tasks: HostTasks = False,
    host_policy: HostPolicy = None,
    poll: Annotated[bool, Parameter(name="--poll", negative="")] = False,
    drain: float = 30.0,
    log: Log = None,
    parent: Parent = None,
) -> None:
    """Start a runner: it reaches out to the control plane, opens no port, and runs what it is offered.

    The first SIGTERM (or Ctrl-C) drains it: no new work, what runs is given some seconds. A second one ends it at once.

    Example: `clawplane runner --url http://control-plane:3456 --token-file token --slots 16 --label zone=a`

    Parameters
    ----------
    token_file
        A file with the runner's token. Variable: CLAWPLANE_RUNNER_TOKEN.
    name
        Shown in lists; default: the host's name.
    label
        NAME=VALUE; repeat the option for several.
    poll
        Poll a Task API for host tasks and do nothing else; the same as `clawplane worker`, see there.
    drain
        Seconds that running work is given after the first signal; then it is stopped and starts elsewhere.
    """
    _end_with(parent)
    if poll:
        from clawplane.cli.task_api import worker  # noqa: PLC0415 - it is built on this module

        worker(data=data, name=name, label=label, host_policy=host_policy, log=log)
        return
    try:
        settings = runner_settings(
            data=data,
            url=url,
            token_file=token_file,
            name=name,
            slots=slots,
            labels=pairs_of("--label", label),
            unsafe_no_sandbox=unsafe_no_sandbox,
            drain_seconds=drain,
            host_tasks=host_tasks,
            host_policy=host_policy,
            log_level=log,
        )
    except ClawplaneError as error:
        refuse(error)
    logs.configure(settings.log_level, name="runner")
    from clawplane import wiring  # noqa: PLC0415 - see serve

    try:
        wiring.run_runner(settings)
    except ClawplaneError as error:
        refuse(error, code=REFUSED)
    except OSError as error:
        refuse(unusable(settings.data, error), code=REFUSED)


def doctor(*, data: Data = None, json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """Report what this host offers for isolating Workers, and how to mend what it lacks.

    What a runner of the data directory has found when it attacked its own sandbox is told, too. Exit code 0 when
    Workers can run isolated here, 1 when something they need is missing.

    Example: `clawplane doctor --json`

    Parameters
    ----------
    json
        Write JSON for machines.
    """
    from clawplane import wiring  # noqa: PLC0415 - see serve

    try:
        findings = wiring.doctor(data_directory(data, os.environ))
    except ClawplaneError as error:
        refuse(error)
    if json:
        show_json(findings)
    else:
        for finding in findings:
            _print_finding(finding)
    if any(finding["critical"] and not finding["ok"] for finding in findings):
        sys.exit(FAILED)


def _print_finding(finding: dict[str, Any]) -> None:
    mark = "ok  " if finding["ok"] else ("FAIL" if finding["critical"] else "warn")
    tell(f"{mark}  {finding['title']}")
    if finding["ok"]:
        return
    if finding["cause"]:
        tell(f"      {log_text(finding['cause'])}")
    tell(f"      -> {log_text(finding['remedy'])}")
