"""Read the files of a deployment strictly: whatever these readers do not understand is an error.

There is no container engine here, so nobody else checks these files before they are used.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

INSTRUCTIONS = {
    "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT",
    "CMD",
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One instruction of a Dockerfile."""

    name: str
    text: str

    def words(self) -> list[str]:
        """Return the words of an exec form, or those between spaces."""
        if self.text.startswith("["):
            words: list[str] = json.loads(self.text)
            return words
        return self.text.split()


def dockerfile(text: str) -> list[list[Step]]:
    """Return the stages of a Dockerfile, each begun by its FROM."""
    stages: list[list[Step]] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        assert not line.endswith("\\"), "this reader knows no continued lines"
        name, _, rest = line.partition(" ")
        assert name in INSTRUCTIONS, f"unknown instruction: {line}"
        if name == "FROM":
            stages.append([])
        assert stages, "a Dockerfile begins with FROM"
        stages[-1].append(Step(name, rest.strip()))
    return stages


def yaml(text: str) -> Any:
    """Return the content of a YAML file made of maps, lists of scalars, and scalars, indented by two spaces."""
    lines = [
        (len(line) - len(line.lstrip()), line.strip())
        for line in text.splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]
    assert all(not depth % 2 for depth, _ in lines)
    value, left = _block(lines, 0)
    assert not left, left
    return value


def _block(lines: list[tuple[int, str]], depth: int) -> tuple[Any, list[tuple[int, str]]]:
    if lines and lines[0][1].startswith("- "):
        entries = []
        while lines and lines[0][0] == depth:
            assert lines[0][1].startswith("- "), lines[0]
            entries.append(_scalar(lines.pop(0)[1][2:]))
        return entries, lines
    found: dict[str, Any] = {}
    while lines and lines[0][0] == depth:
        line = lines.pop(0)[1]
        match = re.fullmatch(r"([\w-]+):(?: (.+))?", line)
        assert match is not None, f"not understood: {line}"
        key, value = match[1], match[2]
        assert key not in found, f"{key} is there twice"
        if value is not None:
            found[key] = _scalar(value)
        elif lines and lines[0][0] == depth + 2:
            found[key], lines = _block(lines, depth + 2)
        else:
            found[key] = None
    return found, lines


def _scalar(text: str) -> Any:
    if text.startswith('"'):
        return json.loads(text)
    assert re.fullmatch(r"[\w./:-]+", text), f"quote this: {text}"
    assert text.lower() not in {"yes", "no", "on", "off", "null"}, f"quote this: {text}"
    return {"true": True, "false": False}.get(text, text)


def filled(text: str, variables: dict[str, str]) -> str:
    """Return a text of a compose file with its variables, as compose fills them in."""

    def fill(match: re.Match[str]) -> str:
        value = variables.get(match["name"], "")
        if match["kind"] == ":?":
            assert value, match["other"]
        return value or (match["other"] if match["kind"] == ":-" else "")

    return re.sub(r"\$\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<other>[^}]*))?\}", fill, text)


def environment(text: str) -> dict[str, str]:
    """Return what an environment file sets."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Z_]+=\S*", line) for line in lines), "an environment file takes NAME=value alone"
    return dict(line.split("=", 1) for line in lines)
