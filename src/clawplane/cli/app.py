"""The command line: one place where all commands hang."""

from __future__ import annotations

from cyclopts import App

import clawplane
from clawplane.cli import daemons, keys, runs, workers
from clawplane.cli.init import init


def build_app() -> App:
    """Return the command line application."""
    app = App(
        name="clawplane",
        help="Run Workers isolated on your own machine: upload a ZIP, get rows.",
        version=clawplane.__version__,
        help_epilogue="Variables: CLAWPLANE_URL, CLAWPLANE_API_KEY, CLAWPLANE_DATA, NO_COLOR. "
        "On one machine nothing needs to be set.",
    )
    app.command(daemons.up)
    app.command(daemons.serve)
    app.command(daemons.runner)
    app.command(daemons.doctor)
    app.command(init)
    app.command(workers.app)
    app.command(runs.app)
    app.command(keys.app)
    app.register_install_completion_command()
    return app
