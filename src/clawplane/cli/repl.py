"""`clawplane repl`: a terminal on a remote Python session.

Lines are read on the main thread, with the standard library's `readline`; code runs between two prompts in an event
loop that stays open. So Ctrl-C means what it means in Python: at the prompt it drops what was typed, during an exec it
interrupts the exec, and a second one stops waiting for it. The session outlives the terminal.
"""

from __future__ import annotations

import ast
import asyncio
import codeop
import os
import signal
from collections.abc import Coroutine, Iterator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from clawplane.cli.connection import Api, connect
from clawplane.cli.exec_printer import ExecPrinter
from clawplane.cli.output import fail, plain, say, size, tell
from clawplane.domain.errors import ClawplaneError, Conflict, Forbidden, InvalidArgument, InvalidToken, NotFound

T = TypeVar("T")

HELP: Final = """\
%reset       forget all variables
%undo [N]    bring the variables back to before the last N executions
%files [DIR] list the workspace
!COMMAND     run a command in bash
Ctrl-C interrupts, Ctrl-D or exit() leaves; the session stays."""

_HISTORY: Final = 1000
_FAREWELLS: Final = frozenset({"exit", "exit()", "quit", "quit()"})
_HOPELESS: Final = (InvalidToken, Forbidden)


def repl(session: str | None = None) -> None:
    """Open a Python prompt on a session; without one a new session is made, and its id shown.

    %reset forgets all variables, %undo goes back, %files lists the workspace, !COMMAND runs a shell command.

    Example: `clawplane repl 01J...`

    Parameters
    ----------
    session
        The session to go on in.
    """
    with asyncio.Runner() as loop, _history():
        connection = connect()
        api = loop.run(connection.__aenter__())
        try:
            opened = loop.run(_opened(api, session))
            Terminal(loop, api, opened).converse()
        finally:
            loop.run(connection.__aexit__(None, None, None))


async def _opened(api: Api, session: str | None) -> str:
    found = await (api.sessions.create() if session is None else api.sessions.show(session))
    if found["state"] == "ended":
        raise Conflict(
            f"The session {found['id']} has ended. {found.get('end_reason') or ''}".rstrip(),
            hint="Start another with `clawplane repl`.",
        )
    say(f"session {found['id']}, {found.get('profile', '')}; %help for help")
    return found["id"]


class Statements:
    """Collect lines to statements, as Python's own prompt does."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._compiler = codeop.CommandCompiler()
        self._compiler.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

    @property
    def prompt(self) -> str:
        """Return what to ask with."""
        return "... " if self._lines else ">>> "

    def take(self, line: str) -> str | None:
        """Return the statement that this line completes; one that is wrong counts as complete."""
        if not self._lines and line.lstrip().startswith(("%", "!")):
            return line.strip()
        self._lines.append(line)
        source = "\n".join(self._lines)
        if not source.strip():
            self.drop()
            return None
        try:
            if self._compiler(source, "<input>", "single") is None:
                return None
        except (SyntaxError, ValueError, OverflowError):
            pass  # the session says what is wrong with it
        self.drop()
        return source

    def drop(self) -> None:
        """Forget what was typed."""
        self._lines.clear()


class Terminal:
    """One conversation with one session."""

    def __init__(self, loop: asyncio.Runner, api: Api, session: str) -> None:
        self._loop = loop
        self._api = api
        self._session = session

    def converse(self) -> None:
        """Read and execute until the end of the input; raises ClawplaneError when going on is hopeless."""
        statements = Statements()
        while True:
            try:
                statement = statements.take(input(statements.prompt))
            except EOFError:
                say("")
                return
            except KeyboardInterrupt:
                say("\nKeyboardInterrupt")
                statements.drop()
                continue
            if statement is None:
                continue
            if statement in _FAREWELLS:
                return
            try:
                self._loop.run(self._do(statement))
            except KeyboardInterrupt:
                say("KeyboardInterrupt")
            except _HOPELESS:
                raise
            except NotFound as error:
                if "session" in error.message:
                    raise
                fail(error)
            except ClawplaneError as error:
                if isinstance(error, Conflict) and self._loop.run(self._has_ended()):
                    raise
                fail(error)

    async def _has_ended(self) -> bool:
        try:
            return (await self._api.sessions.show(self._session))["state"] == "ended"
        except ClawplaneError:
            return False  # what was wrong before is what is told

    async def _do(self, statement: str) -> None:
        if statement.startswith("!"):
            await self._execute("shell", statement[1:])
        elif statement.startswith("%"):
            await self._command(*statement[1:].split())
        else:
            await self._execute("python", statement)

    async def _command(self, name: str = "help", *words: str) -> None:
        sessions = self._api.sessions
        match name, *words:
            case ["reset"]:
                await sessions.act(self._session, "reset")
                say("All variables are forgotten.")
            case ["undo", *count] if len(count) < 2 and all(word.isdecimal() for word in count):
                execs = int(count[0]) if count else 1
                await sessions.act(self._session, "rollback", execs=execs)
                say(f"Back before the last {execs} execution{'' if execs == 1 else 's'}.")
            case ["files", *path] if len(path) < 2:
                for item in (await sessions.files(self._session, *path))["files"]:
                    tell(f"{size(item['size']):>10}  {plain(item['path'])}{'/' if item['kind'] == 'directory' else ''}")
            case ["help"]:
                say(HELP)
            case _:
                raise InvalidArgument(f"%{name} is no command of this prompt, or not like this.", hint="See %help.")

    async def _execute(self, tool: str, code: str) -> None:
        printer = ExecPrinter()
        async with aclosing(self._api.sessions.execute(tool, code, session=self._session)) as events:
            with _interrupting(self._api, self._session):
                async for event in events:
                    if event["type"] == "end":
                        printer.end(event["result"])
                        return
                    printer.show(event)


@contextmanager
def _interrupting(api: Api, session: str) -> Iterator[None]:
    """Let the first Ctrl-C interrupt what the session runs, and the second end the waiting for it."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    asked: list[asyncio.Task[None]] = []

    def interrupt() -> None:
        if not asked:
            asked.append(loop.create_task(_quietly(api.sessions.interrupt(session))))
        elif task is not None:
            task.cancel()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    except asyncio.CancelledError:
        if len(asked) == 0:
            raise
        raise KeyboardInterrupt from None
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)


async def _quietly(work: Coroutine[Any, Any, None]) -> None:
    with suppress(ClawplaneError):  # the exec's own stream says what is wrong with the connection
        await work


@contextmanager
def _history() -> Iterator[None]:
    """Keep what was typed for the next time, in a file that only this user reads."""
    try:
        import readline  # noqa: PLC0415 - not every Python has it, and only a prompt needs it
    except ImportError:
        yield
        return
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    path = state / "clawplane" / "repl_history"
    readline.parse_and_bind("tab: self-insert")
    readline.set_history_length(_HISTORY)
    with suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            readline.write_history_file(path)
