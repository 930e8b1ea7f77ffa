"""`clawplane task-api`, `server`, `worker`, `reconciler`: host tasks under the Task API's names and variables."""

from __future__ import annotations

import logging
import os
from typing import Annotated, Final

from cyclopts import Parameter

from clawplane import logs
from clawplane.cli.daemons import Data, HostPolicy, Log, refuse, run_server, unusable
from clawplane.cli.output import FAILED
from clawplane.cli.pairs import pairs_of
from clawplane.domain.errors import ClawplaneError
from clawplane.domain.worker_tokens import checked_token
from clawplane.settings import data_directory, log_level_of, serve_settings

_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - the contract's own default

_log = logging.getLogger(__name__)


def task_api(
    *,
    data: Data = None,
    bind: Annotated[
        str | None, Parameter(name="--bind", help="Address to listen on. Default CLAWPLANE_BIND, then 0.0.0.0: all.")
    ] = None,
    port: Annotated[
        int | None, Parameter(name="--port", help="Port. Default WORKER_PORT, then PORT, then 3456.")
    ] = None,
    log: Log = None,
) -> None:
    """Start the control plane as a Task API server (also `clawplane server`): `serve`, for openclaw's runners and bots.

    Clients and runners show WORKER_TOKEN; without one of 16 characters or more it ends with exit code 1. It listens on
    all addresses unless told otherwise, for runners that poll from elsewhere; put TLS before it on an open network.

    Example: `WORKER_TOKEN=$(openssl rand -hex 32) clawplane task-api --data /srv/clawplane`
    """
    try:
        checked_token("WORKER_TOKEN", os.environ.get("WORKER_TOKEN", ""))
        settings = serve_settings(
            data=data,
            bind=bind or os.environ.get("CLAWPLANE_BIND") or _EVERYWHERE,
            port=port,
            log_level=log,
        )
    except ClawplaneError as error:
        refuse(error, code=FAILED)
    run_server(settings, None)


def worker(
    *,
    data: Data = None,
    name: Annotated[str | None, Parameter(name="--name")] = None,
    label: Annotated[list[str] | None, Parameter(name="--label", negative="")] = None,
    host_policy: HostPolicy = None,
    log: Log = None,
) -> None:
    """Do host tasks for a Task API server (also `clawplane reconciler`): poll it, run them, report, send callbacks.

    Reads WORKER_URL, WORKER_TOKEN, MAX_CONCURRENT and the other variables of the Task API. Works with any server that
    speaks it; reports and callbacks that cannot be delivered wait on disk. Whoever may submit tasks there acts on this
    machine with all the rights of this user. SIGINT or SIGTERM ends it within five seconds.

    Example: `WORKER_URL=http://control-plane:3456 WORKER_TOKEN=... clawplane worker`

    Parameters
    ----------
    name
        Shown in lists; default: the host's name.
    label
        NAME=VALUE; repeat the option for several.
    """
    from clawplane import worker_wiring  # noqa: PLC0415 - the daemon's imports would slow down every other command

    try:
        settings = worker_wiring.worker_settings(
            os.environ,
            data=data_directory(data, os.environ),
            name=name or os.environ.get("CLAWPLANE_RUNNER_NAME") or os.uname().nodename,
            labels=pairs_of("--label", label),
            policy=host_policy,
        )
        logs.configure(log_level_of(log, os.environ), name="worker")
    except ClawplaneError as error:
        refuse(error, code=FAILED)
    environ = dict(os.environ)
    worker_wiring.wipe_secrets()
    os.environ.pop("CLAUDECODE", None)
    try:
        worker_wiring.run(settings, environ)
    except ClawplaneError as error:
        refuse(error, code=FAILED)
    except OSError as error:
        refuse(unusable(settings.data, error), code=FAILED)
    except Exception:
        _log.exception("the runner ends by a defect")
        raise SystemExit(FAILED) from None
