"""The command line: one place where all commands hang; each is imported when it is called, so none waits for all."""

from __future__ import annotations

import sys
from importlib import import_module

from cyclopts import App
from cyclopts.exceptions import CycloptsError

import clawplane
from clawplane.cli.ending import conclude
from clawplane.cli.output import plain

ENVIRONMENT = (
    "Environment: CLAWPLANE_URL and CLAWPLANE_API_KEY name the control plane and the key, CLAWPLANE_DATA the data "
    "directory, NO_COLOR turns colours off. On one machine nothing needs to be set."
)
EXIT_CODES = (
    "Exit codes: 0 done; 1 refused, or the run or build failed; 2 wrong command line; 70 a defect of clawplane; "
    "78 a daemon that cannot start like this; 130 Ctrl-C; 141 the reader of the output went away; 143 SIGTERM. "
    "`task run` and `task result` end with the exit code of the task, 124 when it ran out of time, 125 without one."
)


COMMANDS = {
    "up": ("daemons", "up"),
    "serve": ("daemons", "serve"),
    "runner": ("daemons", "runner"),
    "task-api": ("task_api", "task_api"),
    "server": ("task_api", "task_api"),
    "worker": ("task_api", "worker"),
    "reconciler": ("task_api", "worker"),
    "doctor": ("daemons", "doctor"),
    "init": ("init", "init"),
    "workers": ("workers", "app"),
    "runs": ("runs", "app"),
    "task": ("task", "app"),
    "events": ("events", "app"),
    "runners": ("runners", "runners"),
    "keys": ("keys", "app"),
    "exec": ("exec", "app"),
    "session": ("sessions", "app"),
    "repl": ("repl", "repl"),
    "mcp": ("mcp", "mcp"),
    "selftest": ("selftest", "selftest"),
}
"""Each command with the module and the name in it that it is made of."""


def build_app(*, lazy: bool = False) -> App:
    """Return the command line application; `lazy` leaves commands unread, and so without a summary, until called."""
    app = App(
        name="clawplane",
        help="Run Workers and code sessions isolated on your own machine, and host tasks on machines that you own.",
        version=clawplane.__version__,
        help_epilogue=f"{ENVIRONMENT}\n\n{EXIT_CODES}",
        error_formatter=_usage_error,
    )
    for name, (module, attribute) in COMMANDS.items():
        place = f"clawplane.cli.{module}"
        app.command(f"{place}:{attribute}" if lazy else getattr(import_module(place), attribute), name=name)
    app.register_install_completion_command(
        help="Install completion for bash, zsh or fish in your own start-up files, and say where."
    )
    return app


def start() -> int:
    """Run the command that the arguments name and return the exit code."""
    return conclude(build_app(lazy=len(sys.argv) > 1 and sys.argv[1] in COMMANDS))


def _usage_error(error: CycloptsError) -> str:
    where = " ".join(error.command_chain or ())
    help_ = f"clawplane {where} --help".replace("  ", " ")
    return f"error: {plain(error)}\nhint: See `{help_}`."
