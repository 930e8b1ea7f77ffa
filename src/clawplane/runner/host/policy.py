"""What a runner lets host tasks do: kinds of tasks, commands by pattern, directories. Guard rails, and no sandbox.

A policy is a TOML file of the operator's, on the runner's own host:

    groups = ["command", "files", "claude"]     # kinds of tasks; default: all that can be done here
    directories = ["~/src"]                     # where commands and agents may start; default: anywhere
    roots = ["~", "/srv/data"]                  # what file tasks may touch; "*" is everything
    background = "end"                          # or "keep": what a command leaves running is left alone

    [commands]
    allow = ["git *", "npm run *", "re:make( -j\\d+)? \\w+"]
    deny = ["*rm -rf /*"]
    variables = ["LANG", "APP_*"]               # what tasks may set; default: anything, but nothing with an allow list
    prefix_filter = false                       # the list of plain program names of the openclaw worker

Deny goes before allow. With an allow list, *each* part of a command (between ; & | && || and line ends) must match one
of its patterns, and what cannot be judged part by part (substitutions, redirections, groups) is refused; a pattern that
begins with `re:` is a regular expression for the whole of a part. Tasks then set no variables but those named, because
a shell can be told by variables (BASH_ENV, PATH, HOME) what to run before it runs what was allowed.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from clawplane.domain.errors import InvalidArgument
from clawplane.domain.host_tasks import GROUPS

BY_PREFIX: Final = "Command rejected by prefix filter"
BY_POLICY: Final = "Command rejected by policy"
_PREFIXES: Final = (
    "git npm node npx ls cat head tail grep find wc echo pwd date which env docker docker-compose curl wget cd mkdir "
    "cp mv touch chmod pip python python3 claude codex gemini brew cargo go rustc sed awk sort uniq cut tr test bash "
    "zsh sh du df uname whoami hostname tar zip unzip gzip gunzip"
)
PREFIXES: Final = tuple(_PREFIXES.split())
FORBIDDEN: Final = (
    r"[;&|]\s*rm\s+-rf\s+/",
    r">\s*/etc/",
    r"\bsudo\b",
    r"\beval\b",
    r"\$\(",
    r"`",
)
_KEYS: Final = {"groups", "directories", "roots", "background", "commands"}
_COMMAND_KEYS: Final = {"allow", "deny", "prefix_filter", "prefixes", "forbidden", "variables"}
_PLAIN_VARIABLE: Final = re.compile(r"\w")
_HINT: Final = "See docs/how-to/host-policy.md for the keys of a host policy."


@dataclass(frozen=True, slots=True)
class CommandPolicy:
    """Which commands run. Empty lists restrict nothing."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    prefix_filter: bool = False
    prefixes: tuple[str, ...] = PREFIXES
    forbidden: tuple[str, ...] = FORBIDDEN
    variables: tuple[str, ...] | None = None

    def refuses(self, command: str, variables: Iterable[str] = ()) -> str:
        """Return why a command with variables of its own is refused, or ""."""
        allowed = self.variables if self.variables is not None else () if self.allow else ("*",)
        if not all(any(fnmatchcase(name, each) for each in allowed) for name in variables):
            return BY_POLICY
        parts = simple_parts(command)
        spelled = [" ".join(text.split()) for text in (command, *(parts or ()))]
        if any(_matches(text, pattern) for pattern in self.deny for text in spelled):
            return BY_POLICY
        if self.allow and not (parts and all(any(_matches(part, each) for each in self.allow) for part in parts)):
            return BY_POLICY
        if self.prefix_filter and not self._passes_prefixes(command.strip()):
            return BY_PREFIX
        return ""

    def _passes_prefixes(self, command: str) -> bool:
        name = re.match(r"[\w.+-]+", command)
        if name is None or name.group() not in self.prefixes:
            return False
        return not any(re.search(pattern, command) for pattern in self.forbidden)


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """An operator's decisions about one runner; `roots` None means the contract's own, ("*",) everything."""

    groups: tuple[str, ...] = GROUPS
    directories: tuple[str, ...] = ()
    roots: tuple[str, ...] | None = None
    background: Literal["end", "keep"] = "end"
    commands: CommandPolicy = field(default_factory=CommandPolicy)


def read_policy(text: str, name: str) -> HostPolicy:
    """Return the policy of a TOML text; raises InvalidArgument that names the file and the key."""
    try:
        read = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"{name} is no TOML: {error}.", hint=_HINT) from None
    _known(read, _KEYS, name)
    commands = read.get("commands", {})
    if not isinstance(commands, dict):
        raise InvalidArgument(f"{name}: commands is no table.", hint=_HINT)
    _known(commands, _COMMAND_KEYS, f"{name}: commands")
    groups = _texts(read, "groups", name, GROUPS)
    if unknown := [group for group in groups if group not in GROUPS]:
        raise InvalidArgument(f"{name}: groups has {unknown[0]!r}.", hint=f"Choose from {', '.join(GROUPS)}.")
    background = read.get("background", "end")
    if background not in ("end", "keep"):
        raise InvalidArgument(f"{name}: background is {background!r}.", hint='Set it to "end" or "keep".')
    prefix_filter = commands.get("prefix_filter", False)
    if not isinstance(prefix_filter, bool):
        raise InvalidArgument(f"{name}: commands.prefix_filter is neither true nor false.", hint=_HINT)
    where = f"{name}: commands"
    return HostPolicy(
        groups=groups,
        directories=_texts(read, "directories", name, ()),
        roots=_texts(read, "roots", name, ()) if "roots" in read else None,
        background=background,
        commands=CommandPolicy(
            allow=_patterns(commands, "allow", where, ()),
            deny=_patterns(commands, "deny", where, ()),
            prefix_filter=prefix_filter,
            variables=_texts(commands, "variables", where, ()) if "variables" in commands else None,
            prefixes=_texts(commands, "prefixes", where, PREFIXES),
            forbidden=tuple(
                each.removeprefix("re:")
                for each in _patterns(
                    {"forbidden": [f"re:{each}" for each in _texts(commands, "forbidden", where, FORBIDDEN)]},
                    "forbidden",
                    where,
                    (),
                )
            ),
        ),
    )


def simple_parts(command: str) -> list[str] | None:
    """Return the simple commands of a shell text; None when it holds what cannot be judged part by part.

    Text in quotes is part of its command. Whatever shells disagree about, or read again (all of `$` but plain
    variables, backslashes in single quotes, $'...'), cannot be judged.
    """
    parts: list[str] = []
    part: list[str] = []
    quote = ""
    text = command.strip()
    at = 0
    while at < len(text):
        character, following = text[at], text[at + 1 : at + 2]
        at += 1
        if quote == "'":
            if character == "\\":
                return None
            quote = "" if character == "'" else quote
        elif character == "\\":
            if following in ("", "\n"):
                return None
            part.append(character)
            character = following
            at += 1
        elif character in "`\0" or (character == "$" and not _PLAIN_VARIABLE.match(following)):
            return None
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in ";&|\n":
            parts.append("".join(part))
            part = []
            continue
        elif character in "()<>{}#!":
            return None
        part.append(character)
    parts.append("".join(part))
    return None if quote else [each for one in parts if (each := one.strip())]


def _matches(text: str, pattern: str) -> bool:
    if pattern.startswith("re:"):
        return re.fullmatch(pattern[3:], text, re.DOTALL) is not None
    return fnmatchcase(text, pattern)


def _known(table: Mapping[str, Any], keys: set[str], name: str) -> None:
    if unknown := sorted(set(table) - keys):
        raise InvalidArgument(f"{name} has an unknown key: {unknown[0][:40]!r}.", hint=_HINT)


def _texts(table: Mapping[str, Any], key: str, name: str, default: Sequence[str]) -> tuple[str, ...]:
    value = table.get(key, list(default))
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise InvalidArgument(f"{name}: {key} is no list of texts.", hint=_HINT)
    return tuple(value)


def _patterns(table: Mapping[str, Any], key: str, name: str, default: Sequence[str]) -> tuple[str, ...]:
    found = _texts(table, key, name, default)
    for pattern in found:
        if pattern.startswith("re:"):
            try:
                re.compile(pattern[3:])
            except re.error as error:
                raise InvalidArgument(f"{name}: {key} has a bad pattern {pattern!r}: {error}.", hint=_HINT) from None
    return found
