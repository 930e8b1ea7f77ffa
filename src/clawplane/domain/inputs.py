"""Take a run's input apart and hold it against the Worker's input schema.

A submitted input is `{"parameters": {"system": {...}, "custom": {...}}}`. `parse_parameters` unwraps it,
`validate_input` fills absent keys with their defaults and then checks what the caller sent: required fields, the
top-level type, bounds and options. Values that came from a default are not checked against type, bounds and options:
published schemas hold defaults of other types (`""` for a number), and a caller cannot mend them. Nor is an inferred
type: only what was declared is demanded. Keys that no property names pass through.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import cast

from clawplane.domain.errors import InvalidArgument
from clawplane.domain.json_text import MAX_DEPTH, value_exceeds_depth
from clawplane.domain.runs import RunSystem
from clawplane.domain.schemas import CHOICE_EDITORS, InputSchema, Property, matches

MEMORY_CHOICES = (512, 1024, 2048, 4096, 8192, 16384)
"""MB; the CPU share is memory / 4096."""
CPU_CHOICES = tuple(memory / 4096 for memory in MEMORY_CHOICES)

_LARGEST = 2**31 - 1
_MOST_DETAILS = 50
_WRAPPER_HINT = 'Send {"input": {"parameters": {"custom": {...}}}}.'
_ARTICLES = {"array": "an array", "integer": "an integer", "object": "an object"}


def parse_parameters(value: object) -> tuple[dict[str, object], RunSystem]:
    """Return the custom object and the system parameters of a run's `input`. Raises InvalidArgument."""
    if not isinstance(value, dict):
        raise InvalidArgument("input must be an object", hint=_WRAPPER_HINT)
    parameters = value.get("parameters")
    if not isinstance(parameters, dict):
        raise InvalidArgument("input.parameters must be an object", hint=_WRAPPER_HINT)
    if "custom" not in parameters:
        raise InvalidArgument("input.parameters.custom is required", hint=_WRAPPER_HINT)
    return as_custom(parameters["custom"]), parse_system(parameters.get("system"))


def as_custom(value: object) -> dict[str, object]:
    """Return a custom object that is one, and not nested absurdly deep. Raises InvalidArgument."""
    if not isinstance(value, dict):
        raise InvalidArgument("custom parameters must contain a single JSON object", hint=_WRAPPER_HINT)
    if value_exceeds_depth(value, MAX_DEPTH):
        raise InvalidArgument(
            f"custom parameters nest deeper than {MAX_DEPTH} levels",
            hint="Send a flatter object, or nested JSON as text.",
        )
    return cast("dict[str, object]", value)


def validate_input(schema: InputSchema, custom: object) -> dict[str, object]:
    """Return a copy of `custom` with defaults filled in. Raises InvalidArgument that lists every problem."""
    given = as_custom(custom)
    filled = dict(given)
    for field in schema.properties:
        if field.name not in given and isinstance(field.default, (str, int, float, list, dict)):
            filled[field.name] = copy.deepcopy(field.default)
    problems: list[tuple[str, str]] = []
    for field in schema.properties:
        if field.required and is_empty(filled.get(field.name)):
            problems.append((field.name, f"{field.title} is required"))
        elif field.name in given and given[field.name] is not None:
            value, problem = _checked(field, given[field.name])
            filled[field.name] = value
            if problem:
                problems.append((field.name, problem))
    if problems:
        name, message = problems[0]
        details = [f"{name}: {message}" for name, message in problems[:_MOST_DETAILS]]
        raise InvalidArgument(message, hint=f"Correct input.parameters.custom.{name}.", details=details)
    return filled


def is_empty(value: object) -> bool:
    """Tell whether a field counts as not filled in: null, `""`, `[]` or `{}`."""
    return value is None or (isinstance(value, (str, list, dict)) and not value)


def _checked(field: Property, value: object) -> tuple[object, str]:
    """Return the value as it is delivered, and what is wrong with it (empty = nothing)."""
    if field.declared:
        if not matches(value, field.type):
            return value, f"{field.title} must be {_ARTICLES.get(field.type, 'a ' + field.type)}"
        if field.type == "integer" and isinstance(value, float):
            value = int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if field.minimum is not None and value < field.minimum:
            return value, f"{field.title} must be at least {field.minimum}"
        if field.maximum is not None and value > field.maximum:
            return value, f"{field.title} must be at most {field.maximum}"
    chooses = field.editor in CHOICE_EDITORS and field.options and not is_empty(value)
    if chooses and not _are_options(field, _chosen(value)):
        choices = ", ".join(str(choice.value) for choice in field.options[:20])
        return value, f"{field.title} must be one of: {choices}"
    return value, ""


def _chosen(value: object) -> Iterator[object]:
    if isinstance(value, list):
        yield from value
    else:
        yield value


def _are_options(field: Property, items: Iterator[object]) -> bool:
    """Tell whether all items are options; both may be many, so options are gathered once."""
    # option values may be numbers where the field is text, and the other way round
    texts = {str(choice.value) for choice in field.options if not isinstance(choice.value, bool)}
    others = {_canonical(choice.value) for choice in field.options}
    return all(
        str(item) in texts
        if isinstance(item, (str, int, float)) and not isinstance(item, bool)
        else _canonical(item) in others
        for item in items
    )


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def parse_system(value: object) -> RunSystem:
    """Return the platform parameters; absent and null ones get their defaults, unknown ones are ignored.

    Memory and CPU are one choice: memory decides when both are given, and either alone implies the other.
    Raises InvalidArgument.
    """
    if value is None:
        return RunSystem()
    if not isinstance(value, dict):
        raise InvalidArgument("input.parameters.system must be an object", hint="Leave it out, or send an object.")
    given = {key: item for key, item in value.items() if item is not None}
    memory = _memory(given)
    return RunSystem(
        cpus=memory / 4096,
        memory=memory,
        execute_limit_time_seconds=int(_amount(given, "execute_limit_time_seconds", 1800, least=1, whole=True)),
        max_total_charge=_amount(given, "max_total_charge", 0),
        max_total_traffic=int(_amount(given, "max_total_traffic", 0, whole=True)),
        proxy_region=_region(given.get("proxy_region", "")),
    )


def _memory(given: Mapping[str, object]) -> int:
    cpus = given.get("cpus")
    if cpus is not None and (isinstance(cpus, bool) or cpus not in CPU_CHOICES):
        choices = ", ".join(f"{choice:g}" for choice in CPU_CHOICES)
        raise InvalidArgument(f"cpus must be one of {choices}", hint="Correct input.parameters.system.cpus.")
    if "memory" not in given:
        return 512 if cpus is None else int(cpus * 4096)
    memory = given["memory"]
    if isinstance(memory, bool) or memory not in MEMORY_CHOICES:
        choices = ", ".join(str(choice) for choice in MEMORY_CHOICES)
        raise InvalidArgument(f"memory must be one of {choices} (MB)", hint="Correct input.parameters.system.memory.")
    return int(memory)


def _amount(given: Mapping[str, object], key: str, default: int, *, least: int = 0, whole: bool = False) -> float:
    value = given.get(key, default)
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= _LARGEST
    if not fits or (whole and not matches(value, "integer")):
        kind = "an integer" if whole else "a number"
        raise InvalidArgument(
            f"{key} must be {kind} from {least} to {_LARGEST}", hint=f"Correct input.parameters.system.{key}."
        )
    return cast("float", value)


def _region(value: object) -> str:
    if isinstance(value, str) and (not value or (len(value) == 2 and value.isascii() and value.isalpha())):
        return value.upper()
    raise InvalidArgument(
        "proxy_region must be a two-letter country code or empty", hint="Correct input.parameters.system.proxy_region."
    )
