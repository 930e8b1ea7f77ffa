"""Decide what an environment has to contain: plain values from a Worker's dependency files, no effects."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Literal, assert_never

from clawplane.builder.errors import ManifestRefused
from clawplane.builder.requirements import FILE_NAME, Requirement, read_requirements

FORMAT = "1"
"""Part of every fingerprint: raise it when environments of older builds must not be used any more."""

Language = Literal["python", "node", "go"]

BASE_REQUIREMENTS = (Requirement("grpcio", versions=(">=1.80.0",)), Requirement("protobuf", versions=(">=6.31.1",)))
"""What the SDK's generated code imports and Workers rarely list."""

MAXIMUM_MANIFEST_BYTES = 1 << 20
MAXIMUM_LOCK_BYTES = 16 << 20
_SECTIONS = ("dependencies", "optionalDependencies", "overrides")
_PUBLISHED = re.compile(r"(?!\.)[^/:\\@]*")
_ALIAS = re.compile(r"(?i)npm:(?:@[\w.-]+/)?[\w.-]+(?:@[^/:\\@]*)?")


@dataclass(frozen=True, slots=True)
class PythonPlan:
    """Requirements to install, base ones included, sorted; `added` are the names the Worker did not pin itself."""

    requirements: tuple[Requirement, ...]
    added: tuple[str, ...] = ()
    language: Literal["python"] = "python"

    @property
    def text(self) -> str:
        """The requirements file the installer is given."""
        return "".join(f"{requirement}\n" for requirement in self.requirements)


@dataclass(frozen=True, slots=True)
class NodePlan:
    """The manifest and, when there is one, the lock file, byte for byte; both empty when nothing is to be installed."""

    manifest: bytes = b""
    lock: bytes | None = None
    language: Literal["node"] = "node"


@dataclass(frozen=True, slots=True)
class GoPlan:
    """A compiled Worker brings everything with it."""

    language: Literal["go"] = "go"


Plan = PythonPlan | NodePlan | GoPlan


def plan_python(requirements: bytes | None) -> PythonPlan:
    """Plan for the bytes of requirements.txt (None: there is no such file); a pin of the Worker's own wins."""
    file = read_requirements(requirements or b"")
    decided = {requirement.name for requirement in file.requirements if requirement.versions}
    added = tuple(base for base in BASE_REQUIREMENTS if base.name not in decided)
    if file.hashes_demanded:
        for requirement in (*added, *file.requirements):
            if not requirement.hashes:
                raise ManifestRefused(
                    FILE_NAME,
                    0,
                    f"demands hashes, but {requirement.name} has none.",
                    f"Pin `{requirement.name}==VERSION --hash=sha256:...`, or remove --require-hashes.",
                )
    wanted = sorted({*file.requirements, *added}, key=str)
    return PythonPlan(tuple(wanted), tuple(base.name for base in added))


def plan_node(manifest: bytes | None, lock: bytes | None) -> NodePlan:
    """Plan for the bytes of package.json and package-lock.json; None stands for a file that is not there."""
    if manifest is None:
        return NodePlan()
    content = _read_object("package.json", manifest, MAXIMUM_MANIFEST_BYTES)
    for section in _SECTIONS:
        _check_sources(section, content.get(section, {}))
    if content.get("workspaces"):
        raise ManifestRefused("package.json", 0, '"workspaces" are not installed.', "Publish or inline the packages.")
    if lock is not None:
        locked = _read_object("package-lock.json", lock, MAXIMUM_LOCK_BYTES)
        if not isinstance(locked.get("lockfileVersion"), int):
            raise ManifestRefused("package-lock.json", 0, 'has no "lockfileVersion".', "Write it with `npm install`.")
    if lock is None and not any(content.get(section) for section in _SECTIONS[:2]):
        return NodePlan()
    return NodePlan(manifest, lock)


def plan_go() -> GoPlan:
    """Plan for a compiled Worker."""
    return GoPlan()


def fingerprint(plan: Plan, *, runtime: str, platform: str, configuration: str) -> str:
    """Name an environment: sha256 (64 hex digits) of everything that decides its content.

    runtime: language version, as in "cpython-3.11.2"; platform: as in "linux-x86_64-glibc2.36";
    configuration: digest of where packages come from and how they are chosen.
    """
    match plan:
        case PythonPlan():
            content = [plan.text.encode()]
        case NodePlan():
            content = [plan.manifest, plan.lock if plan.lock is not None else b"-"]
        case GoPlan():
            content = []
            runtime = configuration = ""
        case _:
            assert_never(plan)
    digest = hashlib.sha256()
    for part in (FORMAT.encode(), plan.language.encode(), runtime.encode(), platform.encode(), configuration.encode()):
        digest.update(hashlib.sha256(part).digest())
    for part in content:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _read_object(file: str, content: bytes, maximum: int) -> dict[str, Any]:
    if len(content) > maximum:
        raise ManifestRefused(file, 0, f"is larger than {maximum} bytes.", "Is this the file npm wrote?")
    try:
        value = json.loads(content)
    except RecursionError:
        raise ManifestRefused(file, 0, "is nested too deeply.", "Is this the file npm wrote?") from None
    except UnicodeDecodeError:
        raise ManifestRefused(file, 0, "is not UTF-8 text.", "Save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise ManifestRefused(file, error.lineno, f"is not JSON: {error.msg}.", "Correct the file.") from None
    except ValueError:  # Python refuses to read an integer of thousands of digits
        raise ManifestRefused(file, 0, "holds a number with too many digits.", "Is this the file npm wrote?") from None
    if not isinstance(value, dict):
        raise ManifestRefused(file, 0, "is not a JSON object.", 'Write `{"name": "...", "dependencies": {}}`.')
    return value


def _check_sources(section: str, entries: object) -> None:
    """Refuse dependencies that come from anywhere but the registry; nested objects occur in overrides."""
    if not isinstance(entries, dict):
        raise ManifestRefused("package.json", 0, f'"{section}" is not an object.', 'Write {"name": "version"}.')
    for name, wanted in entries.items():
        if isinstance(wanted, dict) and section == "overrides":
            _check_sources(section, wanted)
        elif not isinstance(wanted, str):
            raise ManifestRefused("package.json", 0, f'"{section}.{name}" is not a string.', 'Write "^1.2.3".')
        elif not _PUBLISHED.fullmatch(wanted.strip()) and not _ALIAS.fullmatch(wanted.strip()):
            raise ManifestRefused(
                "package.json",
                0,
                f'"{section}.{name}" does not come from the registry.',
                'Name a published version, as in "^1.2.3".',
            )
