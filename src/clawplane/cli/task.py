"""`clawplane task`: commands, file operations and prompts on machines that you own."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

import msgspec
from cyclopts import App, Parameter

from clawplane.cli.connection import Api, connect, tell_lost
from clawplane.cli.ending import run as run_async
from clawplane.cli.log_printer import print_log
from clawplane.cli.output import moment, plain, say, show_json, show_table, tell
from clawplane.cli.task_options import TaskOptions, body_of
from clawplane.cli.task_watch import Watch, exit_code_of, result_now, say_why_it_failed
from clawplane.client.host_tasks import ENDED, HostTask
from clawplane.domain.errors import NotFound

app = App(name="task", help="Run commands, file operations and agent CLIs on machines that you own.")

Json = Annotated[bool, Parameter(name="--json", negative="", help="Write JSON for machines.")]
Id = Annotated[str, Parameter(name="task", help="The task's id; default: the most recent one.")]
Needed = Annotated[str, Parameter(name="task", help="The task's id.")]
ToolUse = Annotated[
    str, Parameter(name="--tool-use", help="The id of one tool use of a running agent; default: the task itself.")
]
Words = Annotated[str, Parameter(help="The command, path or prompt.")]

_NO_OPTIONS = TaskOptions()


async def _id(api: Api, task: str) -> str:
    if task != "last":
        return task
    found = (await api.host.page(limit=1))["list"]
    if not found:
        raise NotFound("There are no host tasks.", hint="Start one with `clawplane task run COMMAND`.")
    return found[0]["id"]


@app.command
def run(*words: Words, options: TaskOptions = _NO_OPTIONS, json: Json = False) -> None:
    """Do something on a runner's machine, show its output as it comes, and end with its exit code.

    One word is a line for the shell of that machine, several are one command and its arguments. Put `--` before a
    command that has options of its own. While nothing is printed for a second, standard error says what is waited for.
    Ctrl-C cancels the task. Exit code 124 when it ran out of time, 125 when it ended without an exit code: cancelled,
    refused, lost, or not started.

    With --type claude, codex or gemini the words are a prompt for that agent CLI, and its answer is printed.

    Example: `clawplane task run --runner mac -- git -C project pull`
    """
    body = body_of(words, options)  # before the loop: a Ctrl-C has to end a read from the terminal

    async def work() -> int:
        async with connect() as api:
            made = await api.host.submit(body)
            watch = Watch(api, made["task"], quiet=json, agent=options.agent, binary=options.binary)
            found = await watch.to_the_end()
            if json:
                show_json(found)
            elif found["result"] is not None:
                watch.show_rest(found["result"])
                say_why_it_failed(found)
            return exit_code_of(found)

    raise SystemExit(run_async(work()))


@app.command
def submit(*words: Words, options: TaskOptions = _NO_OPTIONS, json: Json = False) -> None:
    """Submit a task and show its id at once; it is done when a runner has time for it.

    Takes the same words and options as `clawplane task run`.

    Example: `clawplane task submit --type claude --session review "Review the last commit" --cwd project`
    """
    body = body_of(words, options)

    async def work() -> None:
        async with connect() as api:
            made = await api.host.submit(body)
        if json:
            show_json(made)
            return
        tell(made["task"]["id"])
        if made["replayed"]:
            say("This task was there: its key was used before.")

    run_async(work())


@app.command(name="list")
def list_(
    *,
    status: Literal["pending", "running", "completed", "failed"] | None = None,
    type_: Annotated[
        Literal["command", "file-write", "file-read", "file-edit", "claude-cli", "codex-cli", "gemini-cli"] | None,
        Parameter(name="--type"),
    ] = None,
    session: str | None = None,
    runner: str | None = None,
    limit: int = 20,
    before: str | None = None,
    json: Json = False,
) -> None:
    """List the tasks that are kept, newest first.

    Example: `clawplane task list --status running`

    Parameters
    ----------
    status
        Only tasks in this state.
    type_
        Only tasks of this type.
    session
        Only tasks of this conversation.
    runner
        Only tasks that the runner with this id has or had.
    limit
        How many, 1 to 500.
    before
        Go on behind a page; its JSON names this as `next`.
    """
    filters = {"status": status, "type": type_, "session_id": session, "runner": runner}

    async def work() -> None:
        async with connect() as api:
            page = await api.host.page(**filters, limit=limit, before=before)
        if json:
            show_json(page)
            return
        show_table(
            ["TASK", "TYPE", "STATUS", "CREATED", "WHAT"],
            [
                [task["id"], task["type"], _state(task), moment(task["created_at"]), task["summary"]]
                for task in page["list"]
            ],
            empty="There are no host tasks. Start one with `clawplane task run COMMAND`.",
        )
        if page["next"]:
            say(f"More with --before {plain(page['next'])}")

    run_async(work())


def _state(task: HostTask) -> str:
    if task["status"] == "pending" and task["approval"] == "waiting":
        return "pending (approval)"
    return f"{task['status']} ({task['reason']})" if task["reason"] else task["status"]


@app.command
def show(task: Id = "last", *, json: Json = False) -> None:
    """Show a task: what it asks for, how it stands, and why.

    Example: `clawplane task show`
    """

    async def work() -> None:
        async with connect() as api:
            found = await api.host.show(await _id(api, task))
            why = await api.host.explain(found["id"])
        if json:
            show_json(cast("dict[str, Any]", found) | {"explanation": why})
            return
        rows = [[name, _shown(name, value)] for name, value in found.items() if value not in (None, "", [], {}, 0)]
        show_table(["MEMBER", "VALUE"], rows, empty="")
        tell(plain(why["reason"]))
        if why["hint"]:
            say(f"hint: {plain(why['hint'])}")

    run_async(work())


def _shown(name: str, value: Any) -> str:
    if name.endswith("_at") or name == "not_before":
        return moment(value)
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


@app.command
def logs(
    task: Id = "last",
    *,
    follow: Annotated[
        bool, Parameter(name=["--follow", "-f"], negative="", help="Go on until the task has ended.")
    ] = False,
    json: Json = False,
) -> None:
    """Print what a task has printed, line by line, with the time.

    Example: `clawplane task logs --follow`
    """

    async def work() -> None:
        async with connect() as api:
            task_id = await _id(api, task)
            await api.host.show(task_id)  # an unknown one is refused before anything is followed
            entries = api.host.follow(task_id, on_lost=tell_lost(say)) if follow else api.host.log(task_id)
            await print_log(entries, json=json)

    run_async(work())


@app.command
def result(
    task: Id = "last",
    *,
    wait: Annotated[float, Parameter(help="Seconds to wait for its end.")] = 0,
    binary: Annotated[bool, Parameter(negative="", help="Write the very bytes of a file that was read.")] = False,
    json: Json = False,
) -> None:
    """Print the output of a task that has ended, and end with its exit code. It can be asked for again.

    Exit codes are those of `clawplane task run`; 1 when the task has not ended.

    Example: `clawplane task result --wait 600`
    """

    async def work() -> int:
        async with connect() as api:
            found = await result_now(api, await _id(api, task), wait=wait)
            agent = found["task"]["type"].endswith("-cli")
            if json:
                show_json(found)
            elif found["result"] is not None:
                Watch(api, found["task"], quiet=True, agent=agent, binary=binary).show_rest(found["result"])
                say_why_it_failed(found)
            return exit_code_of(found)

    raise SystemExit(run_async(work()))


@app.command
def cancel(task: Needed, *, json: Json = False) -> None:
    """End a task that waits, or stop one that runs, with everything that it started.

    Example: `clawplane task cancel 7d0f9a3e-8c1b-4d5e-9f00-3f6a1c2b4d5e`
    """
    _act(task, "cancel", json=json)


@app.command
def approve(task: Needed, *, tool_use: ToolUse = "", json: Json = False) -> None:
    """Let a task start that waits for a yes, or let a running agent use a tool.

    Example: `clawplane task approve 7d0f9a3e-8c1b-4d5e-9f00-3f6a1c2b4d5e`
    """
    _act(task, "approve", tool_use=tool_use, json=json)


@app.command
def refuse(
    task: Needed,
    *,
    tool_use: ToolUse = "",
    reason: Annotated[str, Parameter(help="For a tool use: what the agent is told.")] = "",
    json: Json = False,
) -> None:
    """Let a task fail that waits for a yes, or refuse an agent the use of a tool.

    Example: `clawplane task refuse 7d0f9a3e-8c1b-4d5e-9f00-3f6a1c2b4d5e`
    """
    _act(task, "refuse", tool_use=tool_use, reason=reason, json=json)


@app.command
def retry(task: Needed, *, json: Json = False) -> None:
    """Submit an ended task again and show the id of the new one.

    Example: `clawplane task retry 7d0f9a3e-8c1b-4d5e-9f00-3f6a1c2b4d5e`
    """
    _act(task, "retry", json=json)


def _act(task: str, what: str, *, json: bool, **body: str) -> None:
    async def work() -> None:
        async with connect() as api:
            found = await api.host.act(task, what, **{name: value for name, value in body.items() if value})
        if json:
            show_json(found)
        elif what == "retry":
            tell(found["id"])
        else:
            say(f"{found['id']} is {_state(found)}{'' if found['status'] in ENDED else ' now'}.")

    run_async(work())


@app.command
def explain(task: Id = "last", *, json: Json = False) -> None:
    """Say why a task is not running, and what can be done about it.

    Example: `clawplane task explain`
    """

    async def work() -> None:
        async with connect() as api:
            why = await api.host.explain(await _id(api, task))
        if json:
            show_json(why)
            return
        tell(plain(why["reason"]))
        if why["hint"]:
            say(f"hint: {plain(why['hint'])}")

    run_async(work())


@app.command(name="tool-uses")
def tool_uses(task: Id = "last", *, json: Json = False) -> None:
    """List the tool uses of a running agent that wait for `task approve` or `task refuse`.

    Example: `clawplane task tool-uses`
    """

    async def work() -> None:
        async with connect() as api:
            found = await api.host.tool_uses(await _id(api, task))
        if json:
            show_json(found)
            return
        show_table(
            ["TOOL USE", "TOOL", "ASKED", "DETAIL"],
            [[use["id"], use["tool"], moment(use["asked_at"]), use["detail"]] for use in found],
            empty="Nothing waits for a person.",
        )

    run_async(work())
