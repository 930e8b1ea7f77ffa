"""Find the credentials in a request: `Authorization: Bearer`, `api-key`, `X-API-Key`, or `?token=`.

Any valid one suffices.
"""

from __future__ import annotations

from starlette.requests import HTTPConnection

from clawplane.domain.access import Caller
from clawplane.domain.errors import InvalidToken
from clawplane.flows.access import Access


def secrets_in(connection: HTTPConnection) -> list[str]:
    """Return the credentials of a request in order of preference, each once."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    found = [
        token.strip() if scheme.lower() == "bearer" else "",
        connection.headers.get("api-key", "").strip(),
        connection.headers.get("x-api-key", "").strip(),
        connection.query_params.get("token", "").strip(),
    ]
    return list(dict.fromkeys(secret for secret in found if secret))


async def authenticate(connection: HTTPConnection, access: Access) -> Caller:
    """Return who calls; raises AuthenticationRequired without a credential, InvalidToken when none is valid."""
    found = secrets_in(connection)
    if not found and connection.headers.get("authorization", "").strip():
        raise InvalidToken("The Authorization header holds no Bearer token.")
    for secret in found[:-1]:
        try:
            return await access.authenticate(secret)
        except InvalidToken:
            continue
    return await access.authenticate(found[-1] if found else None)
