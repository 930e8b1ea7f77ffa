"""Read what a package declares to depend on: requirements.txt, package.json, go.mod and go.sum.

Only names and pins are read, for diagnostics; the installers read the files themselves.
"""

from __future__ import annotations

import re
from typing import cast

import msgspec

from clawplane.domain.json_text import JsonError, parse

_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[([^\]]*)\])?\s*(.*)")
_GO_REQUIRE = re.compile(r"(?:require\s+)?([\w.~/-]+\.[\w.~/-]+)\s+(v[\w.+-]+)")

_MOST_LINES, _LONGEST_LINE = 5000, 500


class Declared(msgspec.Struct, frozen=True):
    """One declared dependency: normalised name, extras, the rest of its line, and where it stands."""

    name: str
    extras: frozenset[str]
    specifier: str
    line: int

    def pinned_to(self, version: str) -> bool:
        """Tell whether it is pinned to exactly this version."""
        return re.match(r"===?\s*" + re.escape(version) + r"\s*(?:;|--|$)", self.specifier) is not None

    @property
    def pinned(self) -> bool:
        """Tell whether it is pinned to one version."""
        return self.specifier.startswith("==") and "*" not in self.specifier


def normalised(name: str) -> str:
    """Return a distribution's name the way package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_requirements(text: str) -> dict[str, Declared]:
    """Return the requirements by normalised name; options, references and URLs without a name are skipped."""
    found: dict[str, Declared] = {}
    for number, raw in enumerate(text.replace("\\\n", "  ").splitlines()[:_MOST_LINES], 1):
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        match = None if line.startswith("-") else _REQUIREMENT.match(line)
        if match is None or match[3].startswith((":", "/")):
            continue
        extras = frozenset(part.strip().lower() for part in (match[2] or "").split(","))
        name = normalised(match[1])
        found.setdefault(name, Declared(name, extras, match[3].strip(), number))
    return found


class NodeManifest(msgspec.Struct, frozen=True):
    """What package.json says; `error` when it is no JSON object."""

    main: object = None
    type: object = None
    dependencies: frozenset[str] = frozenset()
    error: str = ""


def read_package_json(data: bytes) -> NodeManifest:
    """Return what can be read of a package.json; never raises."""
    try:
        value = parse(data)
    except JsonError as error:
        return NodeManifest(error=str(error))
    if not isinstance(value, dict):
        return NodeManifest(error="its root is not an object")
    names: set[str] = set()
    for key in ("dependencies", "optionalDependencies", "peerDependencies"):
        group = value.get(key)
        if isinstance(group, dict):
            names.update(cast("dict[str, object]", group))
    return NodeManifest(value.get("main"), value.get("type"), frozenset(names))


def read_go_mod(text: str) -> dict[str, tuple[str, int]]:
    """Return required modules with version and line."""
    found: dict[str, tuple[str, int]] = {}
    for number, raw in enumerate(text.splitlines()[:_MOST_LINES], 1):
        match = _GO_REQUIRE.match(raw[:_LONGEST_LINE].split("//")[0].strip())
        if match is not None and not raw.lstrip().startswith(("module", "replace", "exclude")):
            found[match[1]] = (match[2], number)
    return found


def read_go_sum(text: str) -> set[tuple[str, str]]:
    """Return the (module, version) pairs that go.sum knows."""
    parts = (line.split() for line in text.splitlines())
    return {(part[0], part[1].removesuffix("/go.mod")) for part in parts if len(part) >= 3}
