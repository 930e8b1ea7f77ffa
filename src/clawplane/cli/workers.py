"""`clawplane workers`: push, list, show and remove Workers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

from cyclopts import App, Parameter

from clawplane.cli.connection import Api, connect, tell_lost
from clawplane.cli.ending import run
from clawplane.cli.output import FAILED, log_text, plain, say, show_json, show_table, size, tell
from clawplane.cli.progress import Progress, progress
from clawplane.client.packing import pack
from clawplane.client.workers import Finding, Version
from clawplane.domain.errors import InvalidArgument

app = App(name="workers", help="Push, list, show and remove Workers.")

Json = Annotated[bool, Parameter(name="--json", negative="", help="Write JSON for machines.")]
_LOG_SHOWN = 20


@contextmanager
def _package(path: Path, bar: Progress) -> Iterator[BinaryIO]:
    """Open a ZIP, or pack a directory into a temporary one."""
    if path.is_dir():
        with tempfile.TemporaryFile() as temporary:
            packed = cast("BinaryIO", temporary)
            bar.update(f"Packing {path}")
            pack(path, packed, on_file=lambda count: bar.update(f"Packing {path}", f"{count} files"))
            yield packed
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}.", hint="Name a Worker's directory or its ZIP file.") from None
    with file:
        if not file.seekable():
            raise InvalidArgument(f"{path} is no regular file.", hint="Name a Worker's directory or its ZIP file.")
        yield file


def _print_findings(findings: list[Finding]) -> None:
    for item in findings:
        place = item["file"] or "package"
        if item["line"]:
            place += f":{item['line']}"
        say(f"{item['severity']}: {plain(place)}: {plain(item['message'])} [{plain(item['code'])}]")
        if item["hint"] and item["severity"] == "error":
            say(f"  hint: {plain(item['hint'])}")


async def _upload(
    api: Api, package: BinaryIO, bar: Progress, *, name: str, title: str | None, version: str | None
) -> Version:
    total = package.seek(0, 2)
    package.seek(0)
    phase = f"Uploading {name}"
    bar.update(phase)

    def sent(count: int) -> None:
        bar.update(phase, f"{size(count)} of {size(total)}" if count < total else "the package is being checked")

    return await api.workers.push(package, total, name=name, title=title or name, version=version, on_sent=sent)


async def _follow_build(api: Api, pushed: Version, bar: Progress) -> tuple[Version, list[str]]:
    """Wait for the end of a build; return the version as it is then, and the build's log."""
    bar.update("Building")
    lines: list[str] = []
    log = api.workers.build_log(pushed["worker"], pushed["version"], on_lost=tell_lost(bar.note))
    async with aclosing(log):
        async for entry in log:
            text = log_text(entry["content"]).rstrip()
            lines.append(text)
            bar.update("Building", text.rpartition("\n")[2])
    return await api.workers.version(pushed["worker"], pushed["version"]), lines


def _print_pushed(pushed: Version, built: Version, log: list[str]) -> None:
    _print_findings(pushed["diagnostics"])
    if built["status"] == "failed":
        for line in log[-_LOG_SHOWN:]:
            say(f"  {line}")
        say(f"error: The build of {built['path']} {built['version']} failed: {plain(built['build_error'])}")
        return
    if pushed["unchanged"]:
        say("Nothing has changed since this version was pushed.")
    tell(plain(f"{built['path']} {built['version']} {built['status']}"))


@app.command
def push(
    path: Path,
    *,
    name: Annotated[str | None, Parameter(name="--name")] = None,
    title: str | None = None,
    version: str | None = None,
    wait: Annotated[bool, Parameter(name="--wait", negative="--no-wait")] = True,
    json: Json = False,
) -> None:
    """Upload a Worker and wait until its environment is built.

    A directory is packed first, without version control, caches, installed dependencies and logs. What the checks of
    the package find is printed; the exit code is 1 when it is refused or the build fails. Interrupting the command
    leaves the build going on.

    Example: `clawplane workers push ./prices --version v1.2.0`

    Parameters
    ----------
    path
        The Worker's directory, or its ZIP file.
    name
        The Worker's name; default: the directory's or file's own name. Created when it does not exist.
    title
        The title people see; default: the name.
    version
        The version, such as v1.2.0; default: the next one.
    wait
        Follow the build to its end.
    """
    chosen = name or (path.absolute().resolve().name if path.is_dir() else path.stem)
    if not chosen:
        raise InvalidArgument(f"{path} gives the Worker no name.", hint="Name it with --name.")

    async def work() -> tuple[Version, Version, list[str]]:
        async with connect() as api:
            pushed = await _upload(api, package, bar, name=chosen, title=title, version=version)
            if not wait:
                return pushed, pushed, []
            return pushed, *await _follow_build(api, pushed, bar)

    with progress(f"Reading {path}", quiet=json) as bar, _package(path, bar) as package:
        pushed, built, log = run(work())
    if json:
        show_json(cast("dict[str, Any]", built) | {"unchanged": pushed["unchanged"], "log": log})
    else:
        _print_pushed(pushed, built, log)
    if built["status"] == "failed":
        raise SystemExit(FAILED)


@app.command(name="list")
def list_(*, keyword: str = "", page: int = 1, limit: int = 20, json: Json = False) -> None:
    """List the Workers, newest first.

    Example: `clawplane workers list --keyword price`

    Parameters
    ----------
    keyword
        Show only those whose title, slug or path contains this.
    page
        Page number, from 1.
    limit
        Workers on a page, 1 to 100.
    """

    async def work() -> None:
        async with connect() as api:
            workers = await api.workers.page(offset=page, limit=limit, keyword=keyword)
        if json:
            show_json(workers)
            return
        none = "There are no Workers. Push one with `clawplane workers push DIRECTORY`."
        show_table(
            ["PATH", "TITLE", "SLUG"],
            [[worker["path"], worker["title"], worker["slug"]] for worker in workers],
            empty=none if page == 1 and not keyword else "No Worker is on this page.",
        )

    run(work())


@app.command
def show(worker: str, *, json: Json = False) -> None:
    """Show a Worker and its versions.

    Example: `clawplane workers show local~prices`

    Parameters
    ----------
    worker
        The Worker's slug, or owner~name.
    """

    async def work() -> None:
        async with connect() as api:
            answer = await api.workers.show(worker)
        if json:
            show_json(answer)
            return
        tell(plain(f"{answer['title']}  {answer['path']}  {answer['slug']}"))
        if answer["description"]:
            tell(answer["description"])
        show_table(
            ["VERSION", "LANGUAGE", "STATUS", "SIZE", "NOTE"],
            [
                [item["version"], item["language"], item["status"], size(item["package_size"]), item["build_error"]]
                for item in answer["versions"]
            ],
            empty="It has no versions.",
        )

    run(work())


@app.command
def remove(worker: str, *, json: Json = False) -> None:
    """Remove a Worker; its runs and their rows stay.

    Example: `clawplane workers remove local~prices`

    Parameters
    ----------
    worker
        The Worker's slug, or owner~name.
    """

    async def work() -> None:
        async with connect() as api:
            await api.workers.remove(worker)
        if json:
            show_json({"removed": worker})
        else:
            say(f"Removed {worker}.")

    run(work())
