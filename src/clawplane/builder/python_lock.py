"""Write and read the lock of a Python environment: what was installed, for which hosts, with the hashes of its files.

    # made for cpython-3.11 on linux-x86_64-glibc2.36
    six==1.17.0 --hash=sha256:4721... --hash=sha256:ff70...

It is a requirements file, so an operator can install it anywhere; the first line is ours. Hashes are those the index
names for a version, source distributions included; an index that names none leaves lines without. A lock comes back
over the network and may stem from a build in which set-up code ran: it is read by the same strict parser as a
Worker's own file, so it cannot point anywhere, and only names, exact versions and hashes of it reach an installer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from clawplane.builder.errors import BuildFailed, ManifestRefused
from clawplane.builder.plan import MAXIMUM_LOCK_BYTES, PythonPlan
from clawplane.builder.requirements import Requirement, read_requirements

_MADE_FOR = re.compile(r"# made for (?P<host>[\x20-\x7e]{1,200})")


@dataclass(frozen=True)
class PythonLock:
    """Exact versions, sorted by name; `made_for` is empty when the lock does not say it."""

    made_for: str
    pins: tuple[Requirement, ...]

    @property
    def text(self) -> str:
        """The lock as it is kept."""
        return f"# made for {self.made_for}\n{_lines(self.pins)}"

    @property
    def bare(self) -> str:
        """The exact versions alone, for an installer that takes them from a cache which was checked when it filled."""
        return _lines(replace(pin, hashes=()) for pin in self.pins)

    @cached_property
    def versions(self) -> dict[str, str]:
        """Version by canonical name."""
        return {pin.name: pin.versions[0].removeprefix("==") for pin in self.pins}

    def demanded(self, plan: PythonPlan) -> PythonLock:
        """Return the lock with the hashes that the Worker's own file demands in place of those the index named."""
        own = {wanted.name: wanted.hashes for wanted in plan.requirements if wanted.hashes}
        return replace(self, pins=tuple(replace(pin, hashes=own.get(pin.name, pin.hashes)) for pin in self.pins))

    def with_hashes(self, found: PythonLock) -> PythonLock:
        """Return the lock with the hashes that `found` has for the very same versions."""
        hashes = {(pin.name, pin.versions): pin.hashes for pin in found.pins}
        return replace(
            self, pins=tuple(replace(pin, hashes=hashes.get((pin.name, pin.versions), ())) for pin in self.pins)
        )

    @property
    def unchecked(self) -> list[str]:
        """Names without a hash."""
        return [pin.name for pin in self.pins if not pin.hashes]


def read_python_lock(text: str) -> PythonLock:
    """Parse a lock; raises BuildFailed for anything but names with exact versions."""
    try:
        pins = read_requirements(text.encode(), maximum=MAXIMUM_LOCK_BYTES).requirements
    except ManifestRefused as error:
        raise BuildFailed(f"The lock cannot be read: {error}") from None
    for pin in pins:
        if len(pin.versions) != 1 or not re.match(r"==[^=*]+$", pin.versions[0]) or pin.marker or pin.extras:
            raise BuildFailed(f"The lock cannot be read: {pin.name} has no exact version. Build the version again.")
    heading = _MADE_FOR.fullmatch(text.partition("\n")[0])
    return PythonLock(heading["host"] if heading else "", tuple(sorted(pins, key=str)))


def _lines(pins: Iterable[Requirement]) -> str:
    return "".join(f"{pin}\n" for pin in pins)
