"""Name Workers and their versions: `owner~name` paths, names from titles, `v1.0.1`."""

from __future__ import annotations

import re
import unicodedata

from clawplane.domain.errors import InvalidArgument

_PART = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_VERSION = re.compile(r"v?(\d{1,9})\.(\d{1,9})\.(\d{1,9})")
FIRST_VERSION = "v1.0.0"
_LONGEST_NAME = 64


def slugify(title: str) -> str:
    """Return a Worker's name made from its title: lower case, hyphens for everything but letters and digits.

    A title without a single ASCII letter or digit gives `worker`.
    """
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:_LONGEST_NAME].strip("-") or "worker"


def parse_path(path: str) -> tuple[str, str] | None:
    """Return owner and name of `owner~name` (or `owner/name`), None when `path` is no such thing."""
    owner, mark, name = path.replace("/", "~").partition("~")
    if mark and _PART.fullmatch(owner.lower()) and _PART.fullmatch(name.lower()):
        return owner, name
    return None


def parse_version(version: str) -> tuple[int, int, int]:
    """Return the numbers of `v1.2.3` (the `v` may be missing). Raises InvalidArgument."""
    match = _VERSION.fullmatch(version.strip())
    if match is None:
        raise InvalidArgument(f"version {version[:80]!r} is not like v1.0.1", hint="Use three numbers, such as v1.0.1.")
    return int(match[1]), int(match[2]), int(match[3])


def format_version(numbers: tuple[int, int, int]) -> str:
    """Return `v1.2.3`."""
    return f"v{numbers[0]}.{numbers[1]}.{numbers[2]}"


def next_version(version: str | None) -> str:
    """Return the version after `version` (last number plus one); the first one for None. Raises InvalidArgument."""
    if version is None:
        return FIRST_VERSION
    major, minor, patch = parse_version(version)
    return format_version((major, minor, patch + 1))
