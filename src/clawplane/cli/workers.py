"""`clawplane workers`: push, list, show and remove Workers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

from cyclopts import App, Parameter

from clawplane.cli.connection import Api, connect
from clawplane.cli.output import FAILED, Progress, log_text, out, plain, progress, run, say, show_json, show_table, size
from clawplane.client.packing import pack
from clawplane.domain.errors import InvalidArgument

app = App(name="workers", help="Push, list, show and remove Workers.")

Json = Annotated[bool, Parameter(name="--json", negative="", help="Write JSON for machines.")]


@contextmanager
def _package(path: Path) -> Iterator[BinaryIO]:
    """Open a ZIP, or pack a directory into a temporary one."""
    if path.is_dir():
        with tempfile.TemporaryFile() as temporary:
            packed = cast("BinaryIO", temporary)
            pack(path, packed)
            packed.seek(0)
            yield packed
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}.", hint="Name a Worker's directory or its ZIP file.") from None
    with file:
        yield file


def _print_diagnostics(diagnostics: list[dict[str, Any]]) -> None:
    for item in diagnostics:
        place = item.get("file") or "package"
        if item.get("line"):
            place += f":{item['line']}"
        say(f"{plain(item['severity'])}: {plain(place)}: {plain(item['message'])} [{plain(item['code'])}]")
        if item.get("hint") and item["severity"] == "error":
            say(f"  hint: {plain(item['hint'])}")


async def _follow_build(api: Api, worker: str, version: str, bar: Progress) -> dict[str, Any]:
    lines: list[str] = []
    async for entry in api.workers.build_log(worker, version):
        text = log_text(str(entry["content"])).rstrip()
        lines.append(text)
        bar.update(f"Building: {text.splitlines()[-1] if text else ''}"[:160])
    built = await api.workers.version(worker, version)
    built["log"] = lines
    return built


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
    chosen = name or (path.resolve().name if path.is_dir() else path.stem)

    async def work() -> None:
        async with connect() as api:
            with _package(path) as package, progress(f"Uploading {chosen}", quiet=json) as bar:
                total = package.seek(0, 2)
                package.seek(0)
                answer = await api.workers.push(
                    package,
                    total,
                    name=chosen,
                    title=title or chosen,
                    version=version,
                    on_sent=lambda sent: bar.update(f"Uploading {chosen}: {size(sent)} of {size(total)}"),
                )
                built = answer
                if wait:
                    bar.update("Building")
                    built = await _follow_build(api, answer["worker"], answer["version"], bar)
        if json:
            show_json(built)
        else:
            _print_diagnostics(answer.get("diagnostics", []))
            if built["status"] == "failed":
                for line in built.get("log", [])[-20:]:
                    say(f"  {line}")
                say(f"The build of {answer['path']} {answer['version']} failed: {plain(built.get('build_error'))}")
            else:
                out().print(f"{answer['path']} {answer['version']} {built['status']}")
        if built["status"] == "failed":
            raise SystemExit(FAILED)

    run(work())


@app.command(name="list")
def list_(*, keyword: str = "", page: int = 1, limit: int = 20, json: Json = False) -> None:
    """List the Workers, newest first.

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
        show_table(
            ["PATH", "TITLE", "SLUG"],
            [[worker["path"], worker["title"], worker["slug"]] for worker in workers],
            empty="There are no Workers. Push one with `clawplane workers push DIRECTORY`.",
        )

    run(work())


@app.command
def show(worker: str, *, json: Json = False) -> None:
    """Show a Worker and its versions.

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
        out().print(f"{plain(answer['title'])}  {answer['path']}  {answer['slug']}", markup=False)
        if answer.get("description"):
            out().print(plain(answer["description"]), markup=False)
        show_table(
            ["VERSION", "LANGUAGE", "STATUS", "SIZE", "NOTE"],
            [
                [item["version"], item["language"], item["status"], size(item["package_size"]), item.get("build_error")]
                for item in answer["versions"]
            ],
            empty="It has no versions.",
        )

    run(work())


@app.command
def remove(worker: str, *, json: Json = False) -> None:
    """Remove a Worker; its runs and their rows stay.

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
