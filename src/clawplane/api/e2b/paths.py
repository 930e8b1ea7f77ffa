"""Name the files of a workspace as E2B clients do.

A relative path is below the home directory, which here is the workspace; `/home/user`, the home of E2B's own sandboxes,
is taken for it too, and answers say where the file really is.
"""

from __future__ import annotations

from typing import Final

from clawplane.domain.errors import InvalidArgument

WORKSPACE: Final = "/workspace"
_HOMES: Final = (WORKSPACE, "/home/user")


def inner(path: str, field: str = "path") -> str:
    """Return a client's path relative to the workspace ("" = the workspace); raises InvalidArgument outside of it."""
    if path.startswith("~/") or path == "~":
        path = path[2:]
    for home in _HOMES:
        if path == home or path.startswith(home + "/"):
            path = path[len(home) :].lstrip("/")
            break
    if path.startswith("/"):
        raise InvalidArgument(
            f"{field}: {path[:200]!r} is outside of {WORKSPACE}.",
            hint=f"File calls reach {WORKSPACE} only; run a command for other files.",
        )
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{field}: it is no UTF-8.", hint="Percent-encode the path as UTF-8.") from None
    names = [name for name in path.split("/") if name not in ("", ".")]
    if ".." in names:
        raise InvalidArgument(f"{field}: {path[:200]!r} leads upwards.", hint="Write the path without `..`.")
    return "/".join(names)


def named(path: str, field: str = "path") -> str:
    """Return a client's path like `inner`, but refuse the workspace itself."""
    found = inner(path, field)
    if not found:
        raise InvalidArgument(f"{field}: it names no file.", hint="Give the path of a file.")
    return found


def outer(path: str) -> str:
    """Return a path of the workspace as clients see it."""
    return f"{WORKSPACE}/{path}" if path else WORKSPACE


def check_user(user: str) -> None:
    """Raise InvalidArgument for a user that a session does not have."""
    if user not in ("", "user"):
        raise InvalidArgument(f"user: there is no user {user[:64]!r} in a session.", hint="Leave it out.")
