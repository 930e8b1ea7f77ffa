"""What an operator decides about host tasks on one runner: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from clawplane.domain.errors import InvalidArgument
from clawplane.domain.host_tasks import MAX_TIMEOUT_MS, RUNNER_TIMEOUT_MS
from clawplane.domain.task_api_variables import clamped
from clawplane.runner.host.policy import HostPolicy, read_policy


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """Sizes in bytes.

    slots: tasks at once; timeout_ms: of tasks that name none; file_bytes: what a read returns at most;
    spill_bytes: what is kept on disk of one stream.
    """

    slots: int = 5
    timeout_ms: int = RUNNER_TIMEOUT_MS
    file_bytes: int = 10 << 20
    spill_bytes: int = 256 << 20
    policy: HostPolicy = field(default_factory=HostPolicy)


def host_settings(environ: Mapping[str, str], policy: Path | None) -> HostSettings:
    """Read MAX_CONCURRENT and CC_TIMEOUT (clamped, defaults for what is no number) and the policy file.

    Raises InvalidArgument when the policy cannot be read or understood.
    """
    return HostSettings(
        slots=clamped(environ, "MAX_CONCURRENT", 5, 1, 50),
        timeout_ms=clamped(environ, "CC_TIMEOUT", RUNNER_TIMEOUT_MS, 1000, MAX_TIMEOUT_MS),
        policy=HostPolicy() if policy is None else _policy(policy),
    )


def _policy(file: Path) -> HostPolicy:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(f"The host policy cannot be read: {error.strerror}: {file}.") from None
    except UnicodeDecodeError:
        raise InvalidArgument(f"The host policy is no text: {file}.") from None
    return read_policy(text, str(file))
