"""Divide one run's input into the inputs of its subtasks.

`fields` mode (the schema's `concurrency.fields`) makes one subtask per meaningful item of every active field: a union,
never a product. Fields that `remove_fields` names are set aside while any other field has items. `legacy` mode (the
schema's `b`) knows one field. Without either there is one subtask. In every subtask a primitive item stays in its field
as the only element; an object item replaces the field by its own members.

Two rules differ from the platform's documentation because production and published Workers do: a value that is no array
means "no items" rather than an error, and an item may carry a member named like its field (the item wins).

Items are counted before any subtask is built, so that an input of a million items costs a scan, not a million copies.
The submitted object is never changed; subtask inputs share its values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from clawplane.domain.errors import InvalidArgument
from clawplane.domain.schemas import InputSchema

DEFAULT_LIMIT = 1000
_LONGEST_REGEX = 1000


def split(schema: InputSchema, custom: Mapping[str, object], *, limit: int = DEFAULT_LIMIT) -> list[dict[str, object]]:
    """Return the subtask inputs, in order. Raises InvalidArgument with the platform's own sentence."""
    if schema.fields:
        return _split_fields(schema, custom, limit)
    if schema.legacy_key:
        return _split_legacy(schema.legacy_key, custom, limit)
    if schema.only_blank_fields:
        raise _refusal("concurrency fields must have at least one field", "Name a property in concurrency.fields.")
    return [dict(custom)]


def _split_fields(schema: InputSchema, custom: Mapping[str, object], limit: int) -> list[dict[str, object]]:
    set_aside = frozenset(schema.remove_fields)
    preferred = [field for field in schema.fields if field not in set_aside]
    items = {field: meaningful_items(field, custom.get(field)) for field in preferred}
    removed: tuple[str, ...] = schema.remove_fields
    if not any(items.values()):
        items = {field: meaningful_items(field, custom.get(field)) for field in schema.fields}
        removed = ()
    count = sum(map(len, items.values()))
    if count == 0:
        if any(_is_scalar(custom.get(field)) for field in schema.fields):
            return [dict(custom)]
        raise _refusal(
            "concurrency fields have no non-empty fields", f"Fill at least one of: {', '.join(schema.fields)}."
        )
    _check_count(count, limit)
    blank = {**custom, **{field: [""] for field in schema.fields}}
    for key in removed:
        blank.pop(key, None)
    return [_subtask(blank, field, item) for field, found in items.items() for item in found]


def _split_legacy(key: str, custom: Mapping[str, object], limit: int) -> list[dict[str, object]]:
    if key not in custom:
        raise _refusal(f"missing concurrency field [{key}]", f"Send `{key}` as an array with at least one item.")
    if _is_scalar(custom[key]):
        return [dict(custom)]
    items = meaningful_items(key, custom[key])
    if not items:
        raise _refusal(f"concurrency field [{key}] is empty", f"Put at least one item into `{key}`.")
    _check_count(len(items), limit)
    rest = {name: value for name, value in custom.items() if name != key}
    return [_subtask(rest, key, item) for item in items]


def _subtask(base: Mapping[str, object], field: str, item: object) -> dict[str, object]:
    if isinstance(item, dict):
        return {**{key: value for key, value in base.items() if key != field}, **item}
    return {**base, field: [item]}


def _check_count(count: int, limit: int) -> None:
    if count > limit:
        raise _refusal(
            f"concurrency_num ({count}) exceeds limit ({limit})",
            "Send fewer items per run, or raise the subtask limit.",
        )


def _is_scalar(value: object) -> bool:
    return value is not None and not isinstance(value, list)


def meaningful_items(field: str, value: object) -> list[object]:
    """Return the items of an array that start a subtask; none for what is no array. Raises InvalidArgument."""
    if not isinstance(value, list):
        return []
    found: list[object] = []
    objects = False
    for index, item in enumerate(value):
        if isinstance(item, list):
            raise _refusal(
                f"item at index {index} in [{field}] must be an object or primitive value", "Flatten the nested array."
            )
        if is_blank(item):
            continue
        if not found:
            objects = isinstance(item, dict)
        elif isinstance(item, dict) is not objects:
            raise _refusal(
                f"field [{field}] must not mix object and primitive items", "Send all items in the same form."
            )
        found.append(item)
    return found


def is_blank(value: object) -> bool:
    """Tell whether an item means nothing: null, blank text, `[]`, or an object of nothing else."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, dict):
        return all(map(is_blank, value.values()))
    if isinstance(value, list):
        return not value
    return value is None


def limits_problems(limits: object, fields: Sequence[str]) -> list[str]:
    """Return what is wrong with `concurrency.limits`, which changes neither the number nor the input of subtasks."""
    if limits is None:
        return []
    if not isinstance(limits, list):
        return ["limits must be an array"]
    known = frozenset(fields)
    return [problem for item in limits if (problem := _limit_problem(item, known))]


def _limit_problem(item: object, fields: frozenset[str]) -> str:
    if not isinstance(item, dict):
        return "limits must hold objects"
    field = item.get("field")
    if not isinstance(field, str) or not field.strip():
        return "limits.field is required"
    if field.strip() not in fields:
        return f"limits.field {field.strip()} is not in concurrency.fields"
    most = item.get("max")
    if isinstance(most, bool) or not isinstance(most, (int, float)) or most <= 0:
        return "limits.max must be greater than 0"
    regex = item.get("regex")
    if regex is None or regex == "":
        return ""
    try:
        usable = isinstance(regex, str) and len(regex) <= _LONGEST_REGEX and re.compile(regex) is not None
    except (re.error, RecursionError, OverflowError):
        usable = False
    return "" if usable else "limits.regex invalid"


def _refusal(message: str, hint: str) -> InvalidArgument:
    return InvalidArgument(message, hint=hint)
