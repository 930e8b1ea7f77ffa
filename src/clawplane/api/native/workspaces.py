"""Named workspaces, and what this installation's runners can isolate."""

from __future__ import annotations

from starlette.responses import Response

from clawplane.api.calls import Call
from clawplane.api.native import session_shapes as shapes
from clawplane.api.native.exec_answers import json_reply
from clawplane.domain import session_rules as rules


async def list_workspaces(call: Call) -> Response:
    """Return the caller's named workspaces."""
    return json_reply(shapes.WorkspaceList(workspaces=await call.flows.sessions.workspaces(call.caller)))


async def delete_workspace(call: Call) -> Response:
    """Delete a named workspace with its files."""
    await call.flows.sessions.delete_workspace(call.caller, rules.check_workspace(call.path("name")))
    return json_reply(shapes.Done())


async def capabilities(call: Call) -> Response:
    """Tell what sessions can be: profiles, limits, and the runners that hold them with what their hosts offer."""
    runners = [runner for runner in await call.flows.leases.runners() if "sessions" in runner.capabilities]
    return json_reply(
        shapes.Capabilities(
            ready=any(runner.connected and not runner.draining for runner in runners),
            runners=[
                shapes.RunnerCapabilities(
                    id=runner.id,
                    name=runner.name,
                    connected=runner.connected,
                    draining=runner.draining,
                    slots=runner.slots.get("sessions", 0),
                    labels=runner.labels,
                )
                for runner in runners
            ],
        )
    )
