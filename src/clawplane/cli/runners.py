"""`clawplane runners`: who could do work, and who does."""

from __future__ import annotations

import time
from typing import Annotated, Any, cast

from cyclopts import Parameter

from clawplane.cli.connection import Api, connect
from clawplane.cli.ending import run
from clawplane.cli.output import show_json, show_table
from clawplane.client.host_tasks import HostRunner, Runner
from clawplane.domain.errors import NotImplementedHere
from clawplane.domain.ids import POLLS


def runners(*, json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """List the runners: what each takes, how much it has of host tasks, and when it was last heard of.

    Example: `clawplane runners`

    Parameters
    ----------
    json
        Write JSON for machines.
    """

    async def work() -> None:
        async with connect() as api:
            known, hosts = await api.host.runners(), await _hosts(api)
        if json:
            show_json([cast("dict[str, Any]", each) | {"host": hosts.get(_bare(each["id"]))} for each in known])
            return
        now = time.time()
        show_table(
            ["RUNNER", "STATE", "LAST HEARD", "VERSION", "TAKES", "HOST TASKS", "LABELS", "ID"],
            [_row(each, hosts.get(_bare(each["id"])), now) for each in known],
            empty="There are no runners. Start one with `clawplane runner`.",
        )

    run(work())


async def _hosts(api: Api) -> dict[str, HostRunner]:
    try:
        return {each["id"]: each for each in await api.host.host_runners()}
    except NotImplementedHere:
        return {}


def _bare(runner: str) -> str:
    return runner.removeprefix(POLLS)


def _row(runner: Runner, host: HostRunner | None, now: float) -> list[object]:
    state = "away" if not runner["connected"] else "draining" if runner["draining"] else "connected"
    groups = sorted({caps for caps in runner["capabilities"] if "@" not in caps})
    takes = [f"host ({', '.join(host['takes'])})" if caps == "host" and host else caps for caps in groups]
    load = "" if host is None else f"{host['running']} of {host['slots']}" if host["slots"] else str(host["running"])
    labels = ",".join(f"{name}={value}" for name, value in sorted(runner["labels"].items()))
    return [
        runner["name"],
        state,
        _ago(now - runner["last_seen"] / 1000),
        runner["version"],
        ", ".join(takes),
        load,
        labels,
        _bare(runner["id"]),
    ]


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return f"{max(int(seconds), 0)} s ago"
