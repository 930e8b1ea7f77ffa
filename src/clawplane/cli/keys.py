"""`clawplane keys`: create, list and revoke API keys."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from clawplane.cli.connection import connect
from clawplane.cli.ending import run
from clawplane.cli.output import moment, say, show_json, show_table, tell

app = App(name="keys", help="Create, list and revoke API keys.")

ScopeName = Literal["admin", "workers", "sessions", "host", "host_runner", "read", "runner"]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Write JSON for machines.")]


@app.command
def create(
    name: str = "key",
    *,
    scope: Annotated[list[ScopeName] | None, Parameter(name="--scope", negative="")] = None,
    runner: Annotated[str | None, Parameter(name="--runner")] = None,
    json: Json = False,
) -> None:
    """Create a key and show it once.

    Example: `clawplane keys create ci --scope workers --scope read`

    Parameters
    ----------
    name
        What the key is for, shown in the list.
    scope
        What it may do; repeat for several. Default: workers. `runner` is for `clawplane runner`, `host_runner` to poll.
    runner
        The id of a runner that has to use this key from now on: a runner's id belongs to the key it first came with.
    """

    async def work() -> None:
        async with connect() as api:
            answer = await api.keys.create(name, list(scope or (["runner"] if runner else ["workers"])), runner=runner)
        if json:
            show_json(answer)
        else:
            tell(answer["key"])
            say("This key is shown once; only its hash is kept.")

    run(work())


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """List the keys without their secrets."""

    async def work() -> None:
        async with connect() as api:
            keys = await api.keys.all()
        if json:
            show_json(keys)
            return
        show_table(
            ["ID", "NAME", "SCOPES", "CREATED", "STATE"],
            [
                [
                    key["id"],
                    key["name"],
                    ",".join(key["scopes"]),
                    moment(key["created_at"]),
                    "revoked" if key["revoked_at"] else "valid",
                ]
                for key in keys
            ],
            empty="There are no keys.",
        )

    run(work())


@app.command
def revoke(key_id: str, *, json: Json = False) -> None:
    """Revoke a key at once.

    Example: `clawplane keys revoke 01KPD6M5YQADCQKGVKPDZVYC63`

    Parameters
    ----------
    key_id
        The id that `clawplane keys list` shows.
    """

    async def work() -> None:
        async with connect() as api:
            await api.keys.revoke(key_id)
        if json:
            show_json({"revoked": key_id})
        else:
            say(f"Revoked {key_id}.")

    run(work())
