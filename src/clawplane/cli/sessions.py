"""`clawplane session`: look after code sessions and their files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import App, Parameter

from clawplane.cli import exporting
from clawplane.cli.connection import connect
from clawplane.cli.ending import run
from clawplane.cli.output import moment, say, show_json, show_table, size, tell
from clawplane.client.sessions import Session
from clawplane.domain.errors import InvalidArgument

app = App(name="session", help="Create, list, copy, undo and end code sessions; move files.")

Json = Annotated[bool, Parameter(name="--json", negative="", help="Write JSON for machines.")]
Id = Annotated[str, Parameter(name="session", help="The session's id.")]
Output = Annotated[Path | None, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)]
_PIECE = 1 << 20


@app.command
def create(
    name: str | None = None,
    *,
    profile: Literal["bare", "data", "full"] | None = None,
    workspace: str | None = None,
    memory: int | None = None,
    cpus: float | None = None,
    sleep_after: Annotated[int | None, Parameter(name="--sleep-after")] = None,
    expires_after: Annotated[int | None, Parameter(name="--expires-after")] = None,
    json: Json = False,
) -> None:
    """Create a session and show its id; a live one of the same name is returned in its place.

    Example: `clawplane session create prices --workspace prices --profile full`

    Parameters
    ----------
    name
        What it is for.
    profile
        Packages: bare = standard library, data = numpy, pandas and matplotlib, full = many more. Default: data.
    workspace
        A named workspace to attach; its files outlive the session.
    memory
        Megabytes (2^20); default: 1024.
    cpus
        Cores; default: 2.
    sleep_after
        Seconds without use until it sleeps; 0 = never.
    expires_after
        Seconds without use until it is deleted; 0 = never.
    """

    async def work() -> Session:
        async with connect() as api:
            return await api.sessions.create(
                name=name,
                profile=profile,
                workspace=workspace,
                memory=memory,
                cpus=cpus,
                sleep_after=sleep_after,
                expires_after=expires_after,
            )

    made = run(work())
    if json:
        show_json(made)
    else:
        tell(made["id"])


@app.command(name="list")
def list_(
    *,
    all_: Annotated[bool, Parameter(name="--all", negative="")] = False,
    page: int = 1,
    limit: int = 20,
    json: Json = False,
) -> None:
    """List the sessions, newest first.

    Example: `clawplane session list --all`

    Parameters
    ----------
    all_
        Those that have ended, too.
    page
        Page number, from 1.
    limit
        Sessions on a page, 1 to 100.
    """

    async def work() -> None:
        async with connect() as api:
            found = await api.sessions.page(offset=page, limit=limit, state=None if all_ else "live")
        shown = found["sessions"]
        if json:
            show_json({"count": found["count"], "sessions": shown})
            return
        show_table(
            ["SESSION", "NAME", "STATE", "PROFILE", "EXECS", "USED", "EXPIRES"],
            [
                [
                    item["id"],
                    item.get("name", ""),
                    item["state"],
                    item.get("profile", ""),
                    item.get("exec_count", 0),
                    moment(item.get("used_at")),
                    moment(item.get("expires_at")),
                ]
                for item in shown
            ],
            empty="There are no sessions. Start one with `clawplane repl`.",
        )

    run(work())


@app.command
def show(session: Id, *, json: Json = False) -> None:
    """Show how a session stands; this does not wake it.

    Example: `clawplane session show 01J...`
    """

    async def work() -> Session:
        async with connect() as api:
            return await api.sessions.show(session)

    _show(run(work()), json=json)


@app.command
def reset(session: Id, *, json: Json = False) -> None:
    """Forget all Python variables; files stay.

    Example: `clawplane session reset 01J...`
    """
    _act(session, "reset", json=json)


@app.command
def branch(session: Id, *, name: str = "", json: Json = False) -> None:
    """Copy a live session with its variables, and show the id of the copy.

    Example: `clawplane session branch 01J... --name what-if`

    Parameters
    ----------
    name
        The copy's name.
    """
    _act(session, "branch", json=json, name=name)


@app.command
def rollback(session: Id, execs: int = 1, *, json: Json = False) -> None:
    """Bring the Python variables back to what they were before the last executions; files are not changed.

    Example: `clawplane session rollback 01J... 2`

    Parameters
    ----------
    execs
        How many executions to undo.
    """
    _act(session, "rollback", json=json, execs=execs)


@app.command
def sleep(session: Id, *, save: Annotated[bool, Parameter(negative="")] = False, json: Json = False) -> None:
    """Let a session sleep now; the next exec wakes it.

    Example: `clawplane session sleep 01J... --save`

    Parameters
    ----------
    save
        Save its variables to disk and give its memory back.
    """
    _act(session, "sleep", json=json, save=save)


@app.command
def delete(session: Id, *, json: Json = False) -> None:
    """End a session and delete its own workspace; a named workspace stays.

    Example: `clawplane session delete 01J...`
    """

    async def work() -> Session:
        async with connect() as api:
            return await api.sessions.delete(session)

    ended = run(work())
    if json:
        show_json(ended)
    else:
        say(f"{ended['id']} {ended['state']}")


@app.command
def files(
    session: Id,
    path: str = "",
    *,
    recursive: Annotated[bool, Parameter(name=["--recursive", "-r"], negative="")] = False,
    json: Json = False,
) -> None:
    """List the files of a session's workspace.

    Example: `clawplane session files 01J... -r`

    Parameters
    ----------
    path
        A directory in it.
    recursive
        With everything below.
    """

    async def work() -> None:
        async with connect() as api:
            found = await api.sessions.files(session, path, recursive=recursive)
        if json:
            show_json(found)
            return
        rows = [
            [item["path"], item["kind"], size(item["size"]), moment(item["modified_at"])] for item in found["files"]
        ]
        show_table(["PATH", "KIND", "SIZE", "CHANGED"], rows, empty="There are no files.")
        if found["more"]:
            say("There are more; name a directory.")

    run(work())


@app.command
def upload(session: Id, file: Path, path: str | None = None, *, json: Json = False) -> None:
    """Copy a file of this machine into a session's workspace.

    Example: `clawplane session upload 01J... data.csv input/data.csv`

    Parameters
    ----------
    file
        The file here.
    path
        Its path there; default: its name.
    """
    if not file.is_file():
        raise InvalidArgument(f"{file} is no file.", hint="Name a file; directories go one file at a time.")

    async def work() -> None:
        async with connect() as api:
            entry = await api.sessions.upload(session, path or file.name, _pieces(file))
        if json:
            show_json(entry)
        else:
            say(f"{entry['path']}: {size(entry['size'])}")

    run(work())


@app.command
def download(session: Id, path: str = "", *, output: Output = None) -> None:
    """Copy a file of a session's workspace, or all of them as a ZIP, to this machine.

    Example: `clawplane session download 01J... plot.png`

    Parameters
    ----------
    path
        The file there; none = the whole workspace as a ZIP.
    output
        Where to; `-` is standard output. Default: the file's name here.
    """
    target = output or Path(path.rstrip("/").rpartition("/")[2] or f"{session}.zip")

    async def work() -> None:
        async with connect() as api:
            chunks = (lambda: api.sessions.download(session, path)) if path else lambda: api.sessions.archive(session)
            if exporting.is_stream(target):
                await exporting.write_stream(chunks, target)
                return
            total = await exporting.write_file(chunks, target, lambda _: None)
        say(f"{target}: {size(total)}")

    run(work())


@app.command
def notebook(session: Id, *, output: Output = None) -> None:
    """Write what was executed in a session as a Jupyter notebook.

    Example: `clawplane session notebook 01J... --output work.ipynb`

    Parameters
    ----------
    output
        The file; default: standard output.
    """

    async def work() -> None:
        async with connect() as api:
            found = await api.sessions.notebook(session)
        text = msgspec.json.format(msgspec.json.encode(found), indent=1).decode()
        if output is None or str(output) == "-":
            tell(text)
        else:
            await asyncio.to_thread(output.write_text, text + "\n", encoding="utf-8")
            say(f"{output}: {len(found.get('cells', []))} cells")

    run(work())


def _act(session: str, what: str, *, json: bool, **body: object) -> None:
    async def work() -> Session:
        async with connect() as api:
            return await api.sessions.act(session, what, **body)

    _show(run(work()), json=json, only_id=what == "branch")


def _show(item: Session, *, json: bool, only_id: bool = False) -> None:
    if json:
        show_json(item)
    elif only_id:
        tell(item["id"])
    else:
        expires = f", expires {moment(item['expires_at'])}" if item.get("expires_at") else ""
        sleeps = f", sleeps {moment(item['sleeps_at'])}" if item.get("sleeps_at") else ""
        why = f": {item['end_reason']}" if item.get("end_reason") else ""
        tell(f"{item['id']} {item['state']}, {item.get('exec_count', 0)} execs{sleeps}{expires}{why}")


async def _pieces(file: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(file.open, "rb") as source:
        while piece := await asyncio.to_thread(source.read, _PIECE):
            yield piece
