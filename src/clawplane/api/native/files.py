"""Hand out files: exports and logs behind signed links, packages and locks to runners."""

from __future__ import annotations

import re
from typing import Final

from starlette.responses import Response

from clawplane.api import replies
from clawplane.api.calls import Call
from clawplane.domain.errors import NotFound

_BLOB: Final = re.compile(r"(packages|locks)/[0-9a-f]{64}")


async def download(call: Call) -> Response:
    """Stream what a signed link names; no key is needed."""
    file = await call.flows.results.download(call.path("token"))
    headers = {
        "Content-Disposition": f'attachment; filename="{file.filename}"',
        "Cache-Control": "no-store",
        "Access-Control-Expose-Headers": "Content-Disposition",
    }
    return replies.stream(call, file.chunks, media_type=file.media_type, headers=headers)


async def read_blob(call: Call) -> Response:
    """Stream a package or a lock to a runner."""
    key = call.path("key")
    size = await call.flows.blobs.size(key) if _BLOB.fullmatch(key) else None
    if size is None:
        raise NotFound("There is no such blob.")
    return replies.stream(
        call,
        call.flows.blobs.read(key),
        media_type="application/octet-stream",
        headers={"Content-Length": str(size)},
    )
