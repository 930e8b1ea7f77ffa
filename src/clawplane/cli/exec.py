"""`clawplane exec`: run a piece of code in a code session."""

from __future__ import annotations

import sys
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from clawplane.cli.connection import connect
from clawplane.cli.ending import run
from clawplane.cli.exec_printer import ExecPrinter, save_directory
from clawplane.cli.output import FAILED, say, show_json
from clawplane.client.sessions import Answer
from clawplane.domain.errors import InternalError, InvalidArgument

app = App(name="exec", help="Run Python, a shell command or JavaScript in an isolated session.")

Code = Annotated[str | None, Parameter(allow_leading_hyphen=True, help="The code; `-` reads standard input.")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExecOptions:
    """Options of every exec."""

    file: Annotated[
        Path | None, Parameter(allow_leading_hyphen=True, help="A file that holds the code; `-` as above.")
    ] = None
    session: Annotated[str | None, Parameter(help="The session to go on in; default: a new one, which is named.")] = (
        None
    )
    timeout: Annotated[float | None, Parameter(help="Seconds, at most 120; default: 30.")] = None
    save: Annotated[Path | None, Parameter(help="Keep images among the results in this directory.")] = None
    json: Annotated[bool, Parameter(negative="", help="Write the whole answer as JSON when it is over.")] = False


_NO_OPTIONS = ExecOptions()


@app.command
def python(code: Code = None, *, options: ExecOptions = _NO_OPTIONS) -> None:
    """Run Python; variables stay for the next exec of the same session.

    Output appears as it comes, then the value of the last expression. Exit code 0 when the code ended well, 1 when not.

    Example: `clawplane exec python 'import pandas; pandas.__version__'`
    """
    _execute("python", code, options)


@app.command
def shell(code: Code = None, *, options: ExecOptions = _NO_OPTIONS) -> None:
    """Run a command in bash, in the workspace of the session.

    Example: `clawplane exec shell 'curl -sI https://example.org | head -1' --session 01J...`
    """
    _execute("shell", code, options)


@app.command
def node(code: Code = None, *, options: ExecOptions = _NO_OPTIONS) -> None:
    """Run JavaScript with Node.js.

    Example: `clawplane exec node --file script.js`
    """
    _execute("node", code, options)


def _execute(tool: str, code: str | None, options: ExecOptions) -> None:
    text = _source(code, options.file)  # before the loop: a Ctrl-C has to end a read from the terminal
    printer = ExecPrinter(save=save_directory(options.save), quiet=options.json)

    async def work() -> Answer:
        async with connect() as api:
            events = api.sessions.execute(tool, text, session=options.session, timeout=options.timeout)
            async with aclosing(events):
                async for event in events:
                    if event["type"] == "session" and options.session is None and not options.json:
                        say(f"session {event.get('session_id')}")
                    if event["type"] == "end":
                        return event["result"]
                    printer.show(event)
        raise InternalError("The exec ended without a result.")

    answer = run(work())
    if options.json:
        show_json(answer)
    else:
        printer.end(answer)
    if answer["error"] is not None:
        raise SystemExit(FAILED)


def _source(code: str | None, file: Path | None) -> str:
    if (code is None) == (file is None):
        raise InvalidArgument("Give the code itself or --file, one of the two.", hint="`-` reads standard input.")
    if "-" in (code, str(file)):
        data = sys.stdin.buffer.read()
    elif file is not None:
        data = file.read_bytes()
    else:
        return str(code)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"The code is no UTF-8 at byte {error.start}.", hint="Save it as UTF-8.") from None
