"""What came of it: a value that is JSON at once, and the same for people."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["held", "broken", "not tried"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One attack and what happened; `not tried` says in `happened` why."""

    number: int
    title: str
    expected: str
    status: Status
    happened: str
    critical: bool
    milliseconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All attacks on one host; `features` are the findings about its kernel."""

    user: str
    cgroup_mode: str
    features: Sequence[dict[str, Any]]
    results: Sequence[Result]
    kernel: str = field(default_factory=platform.release)
    machine: str = field(default_factory=platform.machine)

    @property
    def ok(self) -> bool:
        """Tell whether every critical attack failed."""
        return not any(each.status == "broken" and each.critical for each in self.results)

    def counted(self) -> dict[str, int]:
        """Return how many attacks came to which status."""
        found = {"held": 0, "broken": 0, "not tried": 0}
        for each in self.results:
            found[each.status] += 1
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON objects."""
        return {
            "ok": self.ok,
            "user": self.user,
            "kernel": self.kernel,
            "machine": self.machine,
            "cgroup_mode": self.cgroup_mode,
            "counted": self.counted(),
            "features": list(self.features),
            "results": [asdict(each) for each in self.results],
        }

    def as_text(self) -> str:
        """Return the report for people, one attack a line."""
        lines = [
            f"Kernel {self.kernel} on {self.machine}, cgroups {self.cgroup_mode}, run as {self.user}.",
            *(f"  lacks: {each['title']}. {each['cause']}" for each in self.features if not each["ok"]),
            "",
        ]
        marks = {"held": "ok    ", "broken": "BROKEN", "not tried": "-     "}
        for each in self.results:
            line = f"{marks[each.status]} {each.number:>3}  {each.title}: {each.expected}"
            lines.append(line if each.status == "held" else f"{line} -- {each.happened}")
        counted = ", ".join(f"{count} {status}" for status, count in self.counted().items())
        lines += ["", f"{counted}." + ("" if self.ok else " This host does not isolate: run no foreign code on it.")]
        return "\n".join(lines)
