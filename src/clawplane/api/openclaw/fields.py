"""Read the additive fields of a submission: where, when, by whose leave. Unlike the old ones they are strict.

Null counts as absent. A bad value is refused with a sentence that names the field.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from clawplane.domain.errors import InvalidArgument
from clawplane.domain.host_tasks import MOST_PRIORITY, OnLoss, Target, Work
from clawplane.flows.host_tasks import TaskRequest

MAX_ID: Final = 200
"""Characters of a task's or a conversation's id."""

_MAX_PATH: Final = 4096
_MAX_ENTRIES: Final = 128
_MAX_VALUE: Final = 32 << 10
_MAX_DELAY_MS: Final = 30 * 86_400_000
_MAX_URL: Final = 2048
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LABEL: Final = re.compile(r"[A-Za-z0-9._/:-]{0,128}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")


def request_of(
    work: Work, body: Mapping[str, Any], *, headers: Mapping[bytes, bytes], endpoint: str, channel: str | None = None,
    token: str | None = None, arrived_at: str = "",
) -> TaskRequest:  # fmt: skip
    """Return a submission with its additive fields; raises InvalidArgument."""
    key = headers.get(b"idempotency-key", b"").decode("latin-1").strip()
    if key and _KEY.fullmatch(key) is None:
        raise InvalidArgument("Idempotency-Key: use 1 to 200 printable ASCII characters without spaces")
    return TaskRequest(
        work=work,
        priority=_whole_number(body, "priority", -MOST_PRIORITY, MOST_PRIORITY),
        delay_ms=_whole_number(body, "delay", 0, _MAX_DELAY_MS),
        on_loss=_on_loss(body),
        approval=_approval(body),
        target=_target(body),
        cwd=_directory(body),
        env=_environment(body),
        labels=_labels(body.get("labels"), "labels"),
        callback_channel=channel,
        callback_token=token,
        callback_url=_address(body),
        arrived_at=arrived_at,
        idempotency_key=key,
        request_digest=_digest(endpoint, body) if key else "",
    )


def asks(body: Mapping[str, Any]) -> bool:
    """Tell whether a person is to be asked, before the task or during it."""
    return body.get("approval") in (True, "tools")


def tool_approval(body: Mapping[str, Any]) -> str:
    """Return "tools" when every tool use of an agent shall wait for a person."""
    return "tools" if body.get("approval") == "tools" else ""


def budget(body: Mapping[str, Any]) -> float | None:
    """Return what an agent may spend, in dollars."""
    value = body.get("budgetUsd")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1_000_000:
        raise InvalidArgument("budgetUsd: use a number of dollars above 0")
    return float(value)


def tools(body: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tools that an agent may use; none means its CLI's own default."""
    value = body.get("tools")
    if value is None:
        return ()
    fits = isinstance(value, list) and len(value) <= _MAX_ENTRIES
    if not fits or not all(isinstance(each, str) and 0 < len(each) <= MAX_ID for each in value):
        raise InvalidArgument(f"tools: use a list of up to {_MAX_ENTRIES} names")
    return tuple(value)


def _whole_number(body: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = body.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidArgument(f"{name}: use a whole number from {low} to {high}")
    return value


def _on_loss(body: Mapping[str, Any]) -> OnLoss | None:
    value = body.get("onLoss")
    if value is None:
        return None
    try:
        return OnLoss(value)
    except ValueError:
        raise InvalidArgument("onLoss: use requeue, fail or hold") from None


def _approval(body: Mapping[str, Any]) -> bool:
    value = body.get("approval")
    if value in (None, False, "tools"):
        return False
    if value is not True:
        raise InvalidArgument('approval: use true, false or "tools"')
    return True


def _target(body: Mapping[str, Any]) -> Target:
    value = body.get("target")
    if value is None:
        return Target()
    if isinstance(value, str):
        value = {"runner": value}
    if not isinstance(value, dict) or not value.keys() <= {"runner", "labels"}:
        raise InvalidArgument("target: use a runner's name, or an object with runner or labels")
    runner = value.get("runner") or ""
    if runner and (not isinstance(runner, str) or _NAME.fullmatch(runner) is None):
        raise InvalidArgument("target.runner: use a runner's name of letters, digits, dots, dashes and underscores")
    labels = _labels(value.get("labels"), "target.labels")
    if runner and labels:
        raise InvalidArgument("target: use either runner or labels")
    return Target(runner=runner, labels=labels)


def _labels(value: object, name: str) -> dict[str, str]:
    if value is None:
        return {}
    fits = isinstance(value, dict) and len(value) <= _MAX_ENTRIES
    if not isinstance(value, dict) or not fits or not all(_is_label(key, each) for key, each in value.items()):
        raise InvalidArgument(f"{name}: use an object of names and texts, of letters, digits and . _ - / : only")
    return dict(value)


def _is_label(key: object, value: object) -> bool:
    return (
        isinstance(key, str)
        and isinstance(value, str)
        and _NAME.fullmatch(key) is not None
        and _LABEL.fullmatch(value) is not None
    )


def parsed_labels(text: str) -> dict[str, str]:
    """Return labels written as `key=value,key=value`; raises InvalidArgument."""
    pairs = [entry.partition("=") for entry in text.split(",") if entry.strip()]
    return _labels({key.strip(): value.strip() for key, _, value in pairs}, "labels")


def named(value: str, name: str) -> str:
    """Return a runner's name, which may be empty; raises InvalidArgument."""
    if value and _NAME.fullmatch(value) is None:
        raise InvalidArgument(f"{name}: use letters, digits, dots, dashes and underscores")
    return value


def _directory(body: Mapping[str, Any]) -> str | None:
    value = body.get("cwd")
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or len(value) > _MAX_PATH or "\0" in value:
        raise InvalidArgument(f"cwd: use a path of up to {_MAX_PATH} characters")
    return value


def _environment(body: Mapping[str, Any]) -> dict[str, str]:
    value = body.get("env")
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > _MAX_ENTRIES:
        raise InvalidArgument(f"env: use an object of up to {_MAX_ENTRIES} variables")
    for key, each in value.items():
        if _VARIABLE.fullmatch(key) is None:
            raise InvalidArgument(f"env: {key[:40]!r} is no name of a variable")
        if not isinstance(each, str) or len(each) > _MAX_VALUE or "\0" in each:
            raise InvalidArgument(f"env.{key[:40]}: use a text of up to {_MAX_VALUE} characters")
    return dict(value)


def _address(body: Mapping[str, Any]) -> str:
    value = body.get("callbackUrl")
    if value is None:
        return ""
    problem = InvalidArgument("callbackUrl: use an address such as https://example.com/hook")
    if not isinstance(value, str) or len(value) > _MAX_URL or not value.isascii() or not value.isprintable():
        raise problem
    try:
        parts = urlsplit(value)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.username
    except ValueError:
        raise problem from None
    if not fits or " " in value:
        raise problem
    return value


def _digest(endpoint: str, body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(f"{endpoint}\n{text}".encode()).hexdigest()
