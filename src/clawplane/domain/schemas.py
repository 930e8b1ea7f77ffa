"""Read `input_schema.json` and `output_schema.json`.

Reading is lenient, because published Workers are: a property needs nothing but a name, a missing type is inferred,
parts that make no sense are left out. What is wrong with a schema is said by `schema_checks`; what is read here is what
a run goes by. A schema that passed the upload always loads.

| the input schema object | here |
| --- | --- |
| `description`, `properties[]` | `description`, `properties` |
| `concurrency.fields`, `.remove_fields` | `fields`, `remove_fields`: strings, trimmed, blanks and repetitions dropped |
| `b` | `legacy_key`, trimmed |
| the object itself | `document`, for the wire |
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import msgspec

from clawplane.domain.errors import InvalidArgument
from clawplane.domain.json_text import JsonError, parse

FieldType = Literal["string", "integer", "number", "boolean", "array", "object"]
FIELD_TYPES: tuple[str, ...] = get_args(FieldType)

LIST_EDITORS = frozenset({"requestList", "requestListSource", "stringList", "checkbox"})
CHOICE_EDITORS = frozenset({"select", "radio", "checkbox"})
EDITORS = LIST_EDITORS | CHOICE_EDITORS | {"input", "textarea", "number", "switch", "datepicker", "json"}
MAX_SCHEMA_BYTES = 1_000_000

_EDITOR_TYPES: dict[str, FieldType] = {"number": "number", "switch": "boolean", "json": "object"}
_OLD_SPELLINGS = {"requestListSources": "requestListSource"}


class Choice(msgspec.Struct, frozen=True):
    """One option of a select, radio or checkbox."""

    label: str
    value: object


class Property(msgspec.Struct, frozen=True, kw_only=True):
    """One form field. `declared` tells whether the type was written down or inferred; no default is UNSET."""

    name: str
    title: str
    type: FieldType
    declared: bool
    editor: str
    description: str = ""
    required: bool = False
    default: object = msgspec.UNSET
    options: tuple[Choice, ...] = ()
    multiple: bool = False
    minimum: float | None = None
    maximum: float | None = None


class InputSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What a Worker asks for and how its runs are split; see the table above."""

    description: str = ""
    properties: tuple[Property, ...] = ()
    fields: tuple[str, ...] = ()
    remove_fields: tuple[str, ...] = ()
    only_blank_fields: bool = False
    """`concurrency.fields` holds something, but no usable name."""
    legacy_key: str = ""
    document: dict[str, object] = {}


class Column(msgspec.Struct, frozen=True):
    """One declared result column."""

    name: str
    type: FieldType
    description: str = ""

    @property
    def format(self) -> str:
        """Return the column's format in a result header."""
        return "text" if self.type == "string" else self.type


class OutputSchema(msgspec.Struct, frozen=True):
    """The declared result columns, in order."""

    columns: tuple[Column, ...] = ()


def load_input_schema(data: bytes | str) -> InputSchema:
    """Return the input schema in JSON text. Raises InvalidArgument when it is no JSON object with properties."""
    try:
        value = parse(data, max_bytes=MAX_SCHEMA_BYTES)
    except JsonError as error:
        raise InvalidArgument(
            "input_schema is not a valid json", hint="Mend input_schema.json and upload it again.", details=[str(error)]
        ) from None
    if not isinstance(value, dict):
        raise InvalidArgument(
            "input_schema is not a valid json", hint="It must be an object with a `properties` array."
        )
    return read_input_schema(cast("dict[str, object]", value))


def read_input_schema(document: dict[str, object]) -> InputSchema:
    """Return what can be read of an input schema object; never raises."""
    properties = document.get("properties")
    concurrency = document.get("concurrency")
    rules = concurrency if isinstance(concurrency, dict) else {}
    fields = _names(rules.get("fields"))
    legacy = document.get("b")
    return InputSchema(
        description=_text(document.get("description")),
        properties=tuple(_properties(properties if isinstance(properties, list) else [])),
        fields=fields,
        remove_fields=_names(rules.get("remove_fields")),
        only_blank_fields=bool(rules.get("fields")) and isinstance(rules.get("fields"), list) and not fields,
        legacy_key=legacy.strip() if isinstance(legacy, str) else "",
        document=document,
    )


def load_output_schema(data: bytes | str) -> OutputSchema:
    """Return the output schema in JSON text. Raises InvalidArgument when it is no JSON array."""
    try:
        value = parse(data, max_bytes=MAX_SCHEMA_BYTES)
    except JsonError as error:
        raise InvalidArgument(
            "output_schema is not a valid json",
            hint="Mend output_schema.json and upload it again.",
            details=[str(error)],
        ) from None
    if not isinstance(value, list):
        raise InvalidArgument("output_schema is not a valid json", hint="It must be an array of columns.")
    return read_output_schema(value)


def read_output_schema(document: list[object]) -> OutputSchema:
    """Return the columns that can be read, the first of each name; never raises."""
    columns: dict[str, Column] = {}
    for item in document:
        if isinstance(item, dict) and isinstance(item.get("name"), str) and item["name"]:
            kind = item.get("type")
            column = Column(item["name"], _field_type(kind) or "string", _text(item.get("description")))
            columns.setdefault(column.name, column)
    return OutputSchema(tuple(columns.values()))


def infer_type(editor: str, default: object) -> FieldType:
    """Return the type of a property that declares none: by its editor, else by its default, else string."""
    if editor in LIST_EDITORS:
        return "array"
    if editor in _EDITOR_TYPES:
        return _EDITOR_TYPES[editor]
    return type_of(default) or "string"


def type_of(value: object) -> FieldType | None:
    """Return the narrowest field type of a JSON value; None for null and what is no JSON."""
    if isinstance(value, bool):
        return "boolean"
    for kind, name in _KINDS:
        if isinstance(value, kind):
            return name
    return None


_KINDS: tuple[tuple[type, FieldType], ...] = (
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)


def matches(value: object, declared: FieldType) -> bool:
    """Tell whether a JSON value is of a declared type; 3.0 is an integer, true is no number."""
    kind = type_of(value)
    if declared == "number":
        return kind in ("integer", "number")
    if declared == "integer":
        return kind == "integer" or (isinstance(value, float) and value.is_integer())
    return kind == declared


def _properties(items: list[object]) -> list[Property]:
    found: dict[str, Property] = {}
    for item in items:
        if isinstance(item, dict) and isinstance(item.get("name"), str) and item["name"].strip():
            field = _property(item)
            found.setdefault(field.name, field)
    return list(found.values())


def _property(item: dict[str, object]) -> Property:
    name = cast("str", item["name"])
    editor = _text(item.get("editor"))
    editor = _OLD_SPELLINGS.get(editor, editor)
    default = item.get("default", msgspec.UNSET)
    declared = _field_type(item.get("type"))
    return Property(
        name=name,
        title=_text(item.get("title")) or name,
        type=declared or infer_type(editor, default),
        declared=declared is not None,
        editor=editor,
        description=_text(item.get("description")),
        required=item.get("required") is True,
        default=default,
        options=_choices(item.get("options")),
        multiple=item.get("multiple") is True,
        minimum=_number(item.get("minimum")),
        maximum=_number(item.get("maximum")),
    )


def _choices(value: object) -> tuple[Choice, ...]:
    if not isinstance(value, list):
        return ()
    choices = []
    for item in value:
        if isinstance(item, dict) and "value" in item:
            choices.append(Choice(_text(item.get("label")) or str(item["value"]), item["value"]))
        elif isinstance(item, (str, int, float)):
            choices.append(Choice(str(item), item))
    return tuple(choices)


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    stripped = (item.strip() for item in value if isinstance(item, str))
    return tuple(dict.fromkeys(name for name in stripped if name))


def _field_type(value: object) -> FieldType | None:
    return cast("FieldType", value) if isinstance(value, str) and value in FIELD_TYPES else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
