"""Create, list and revoke keys."""

from __future__ import annotations

from starlette.responses import Response

from clawplane.api import replies
from clawplane.api.calls import Call
from clawplane.api.native import shapes


async def create_key(call: Call) -> Response:
    """Create a key; its secret is in this answer and nowhere else."""
    request = await call.body(shapes.CreateKey)
    key, secret = await call.flows.access.create(
        name=request.name,
        scopes=request.scopes,
        owner=request.owner or call.caller.owner,
        expires_at=request.expires_at,
        runner=request.runner,
    )
    body = shapes.NewKeyBody(key.id, key.name, key.owner, shapes.scopes_of(key), key.created_at, secret)
    return replies.success(call, body, status=201)


async def list_keys(call: Call) -> Response:
    """Return all keys."""
    keys = await call.flows.access.all()
    return replies.success(call, shapes.KeyList([shapes.key_body(key) for key in keys]))


async def revoke_key(call: Call) -> Response:
    """Revoke a key at once."""
    await call.flows.access.revoke(call.path("keyId"))
    return replies.done(call)
