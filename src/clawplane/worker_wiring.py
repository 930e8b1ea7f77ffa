"""The composition root's part for runners that poll a Task API."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import uvloop

from clawplane.runner.host.environment import wipe_secrets
from clawplane.runner.host.poll_settings import PollSettings, poll_settings
from clawplane.runner.host.worker import run_worker

_DIRECTORY = "worker"


def worker_settings(
    environ: Mapping[str, str], *, data: Path, name: str, labels: Mapping[str, str], policy: Path | None
) -> PollSettings:
    """Read a polling runner's settings, whose own directory is below `data`; raises InvalidArgument."""
    return poll_settings(environ, data=data / _DIRECTORY, name=name, labels=labels, policy=policy)


def run(settings: PollSettings, environ: Mapping[str, str]) -> None:
    """Poll until SIGINT or SIGTERM; raises ClawplaneError when it cannot start."""
    os.umask(0o077)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_worker(settings, environ=environ))


__all__ = ["run", "wipe_secrets", "worker_settings"]
