"""`clawplane mcp`: the tools for an agent on this machine, over standard input and output."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from clawplane.cli.connection import address
from clawplane.cli.output import say
from clawplane.domain.errors import InvalidArgument


def mcp(*, remote: Annotated[bool, Parameter(name="--remote", negative="")] = False) -> None:
    """Speak MCP on standard input and output, for an agent that starts its tools as processes.

    The tools are those of the control plane that CLAWPLANE_URL names, or of the one on this machine; which of them are
    listed is up to the key. Everything else that is said goes to standard error. An agent that speaks HTTP needs no
    such process: it connects to URL/mcp.

    Example: `clawplane mcp`, in the configuration of an agent as `{"command": "clawplane", "args": ["mcp"]}`

    Parameters
    ----------
    remote
        Offer the one tool mac_remote, as the MCP server of openclaw-worker does, and a second one that fetches late
        results. Variables: MAC_WORKER_URL (default http://127.0.0.1:3456) and MAC_WORKER_TOKEN.
    """
    if sys.stdin.isatty():
        raise InvalidArgument(
            "`clawplane mcp` is started by an agent, which speaks to it over a pipe.",
            hint="Enter it into the agent's configuration, or use `clawplane repl` yourself.",
        )
    from clawplane.cli.ending import run  # noqa: PLC0415

    if remote:
        from clawplane.cli.mcp_remote import remote_on_standard_streams  # noqa: PLC0415

        run(remote_on_standard_streams())
        return
    place = address()
    from clawplane.cli.mcp_bridge import bridge  # noqa: PLC0415 - the SDK takes half a second to import

    run(bridge(place.url, place.key, say))
