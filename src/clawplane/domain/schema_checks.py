"""Say what is wrong with a Worker's schemas, with the codes of the platform's own tools.

`FATAL_CODES` are the findings with which an upload is refused: the schema cannot be read as a form at all. All others
are reported at their severity and accepted, because the platform runs Workers that have them: an unknown editor hides
one field, a default of another type is only a prefilled value, a rule that names no property splits nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import cast

from clawplane.domain.diagnostics import Diagnostic, Severity
from clawplane.domain.json_text import JsonError, line_of, parse
from clawplane.domain.schemas import (
    CHOICE_EDITORS,
    EDITORS,
    FIELD_TYPES,
    LIST_EDITORS,
    MAX_SCHEMA_BYTES,
    InputSchema,
    OutputSchema,
    Property,
    matches,
    read_input_schema,
    read_output_schema,
    type_of,
)
from clawplane.domain.splitting import limits_problems

INPUT_FILE, OUTPUT_FILE = "input_schema.json", "output_schema.json"

FATAL_CODES = frozenset(
    {
        "input_schema_root_invalid",
        "input_schema_properties_invalid",
        "input_property_invalid",
        "input_property_missing_name",
        "input_property_duplicate_name",
        "input_property_unsupported_type",
        "input_schema_b_invalid",
        "input_schema_concurrency_invalid",
        "input_schema_concurrency_fields_invalid",
        "input_schema_concurrency_remove_fields_invalid",
        "output_schema_root_invalid",
        "output_column_invalid",
        "output_column_missing_name",
        "output_column_duplicate_name",
        "output_column_unsupported_type",
    }
)

_ROOT_KEYS = frozenset({"description", "properties", "concurrency", "b"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_MOST_FINDINGS, _MOST_UNKNOWN = 200, 20
_NAME_MEMBER = re.compile(r'"name"\s{0,20}:\s{0,20}"([^"\\]*+)"')
_RESULT_CAPS = re.compile(
    r"(max|limit)_?(items?|rows?|results?|count|records?)|(items?|rows?|results?)_?(limit|max)", re.I
)
_EDITOR_FITS: dict[str, tuple[str, ...]] = {
    "input": ("string", "integer", "number"),
    "textarea": ("string",),
    "number": ("integer", "number"),
    "select": ("string", "integer", "number", "array"),
    "radio": ("string", "integer", "number"),
    "checkbox": ("array",),
    "switch": ("boolean",),
    "datepicker": ("string",),
    "requestList": ("array",),
    "requestListSource": ("array",),
    "stringList": ("array",),
    "json": ("object",),
}


class _Findings:
    """Collect findings about one file; knows where a name stands in its text."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._lines: dict[str, list[int]] = {}
        counted, line = 0, 1
        for match in _NAME_MEMBER.finditer(text):
            line += text.count("\n", counted, match.start())
            counted = match.start()
            self._lines.setdefault(match[1], []).append(line)
        self.found: list[Diagnostic] = []

    def add(self, code: str, severity: Severity, message: str, hint: str, line: int | None = None) -> None:
        if len(self.found) < _MOST_FINDINGS:
            self.found.append(Diagnostic(code, severity, message, self._file, line, hint))

    def line(self, value: str, occurrence: int = 1) -> int | None:
        """Return the line of the n-th `"name": value`, None when it is written in another way."""
        lines = self._lines.get(value, [])
        return lines[occurrence - 1] if len(lines) >= occurrence else None


def check_input_schema(data: bytes) -> tuple[InputSchema | None, list[Diagnostic]]:
    """Return the input schema (None when it cannot be read) and everything found about it."""
    findings = _Findings(INPUT_FILE, data.decode("utf-8", "replace"))
    value = _parsed(findings, data, "input_schema_root_invalid", dict, 'Write {"properties": [...]}.')
    if not isinstance(value, dict):
        return None, findings.found
    document = cast("dict[str, object]", value)
    for key in sorted(document.keys() - _ROOT_KEYS)[:_MOST_UNKNOWN]:
        hint = "Remove it; only description, properties, concurrency and b are read."
        line = line_of(data.decode("utf-8", "replace"), json.dumps(key, ensure_ascii=False))
        findings.add("input_schema_unknown_root_key", "warn", f"The key {key[:80]!r} means nothing here.", hint, line)
    properties = document.get("properties")
    if isinstance(properties, list):
        _check_properties(findings, properties)
    else:
        findings.add(
            "input_schema_properties_invalid",
            "error",
            "`properties` is not an array.",
            "List the form fields in an array.",
        )
    schema = read_input_schema(document)
    _check_splitting(findings, document, schema)
    return schema, findings.found


def _parsed(findings: _Findings, data: bytes, code: str, kind: type, hint: str) -> object:
    try:
        value = parse(data, max_bytes=MAX_SCHEMA_BYTES)
    except JsonError as error:
        findings.add(code, "error", f"It is not valid JSON: {error.reason}.", hint, error.line)
        return None
    if not isinstance(value, kind):
        wanted = "an object" if kind is dict else "an array"
        findings.add(code, "error", f"Its root is not {wanted}.", hint, 1)
        return None
    return value


def _check_properties(findings: _Findings, properties: list[object]) -> None:
    seen: dict[str, int] = {}
    for index, item in enumerate(properties):
        if not isinstance(item, dict):
            findings.add(
                "input_property_invalid", "error", f"Property {index} is not an object.", "Describe it as an object."
            )
            continue
        name = item.get("name")
        if not isinstance(name, str) or not name.strip():
            findings.add("input_property_missing_name", "error", f"Property {index} has no name.", "Give it a `name`.")
            continue
        seen[name] = seen.get(name, 0) + 1
        line = findings.line(name, seen[name])
        if seen[name] > 1:
            findings.add("input_property_duplicate_name", "error", f"The name {name!r} is taken.", "Rename one.", line)
            continue
        if not _NAME.fullmatch(name):
            hint = "Use letters, digits and underscores, and begin with a letter or underscore."
            findings.add("input_property_name_invalid", "error", f"The name {name[:80]!r} is unusual.", hint, line)
        _check_property(findings, item, line)


def _check_property(findings: _Findings, item: dict[str, object], line: int | None) -> None:
    field = read_input_schema({"properties": [item]}).properties[0]

    def add(code: str, severity: Severity, message: str, hint: str) -> None:
        findings.add(code, severity, f"{field.name}: {message}", hint, line)

    if "type" in item and not field.declared:
        types = ", ".join(FIELD_TYPES)
        add(
            "input_property_unsupported_type", "error", f"type {item['type']!r:.80} is unknown.", f"Use one of {types}."
        )
    if "editor" in item and field.editor not in EDITORS:
        add(
            "input_property_unsupported_editor",
            "error",
            f"editor {item['editor']!r:.80} is unknown; the field will not be shown.",
            f"Use one of {', '.join(sorted(EDITORS))}.",
        )
    for key in ("title", "type", "editor", "description", "required"):
        if key not in item:
            add(f"input_property_missing_{key}", "warn", f"`{key}` is missing.", f"Add `{key}`.")
    if "required" in item and not isinstance(item["required"], bool):
        add(
            "input_property_required_invalid", "error", "`required` is no boolean and is ignored.", "Use true or false."
        )
    if field.required and item.get("default") is None:
        add("input_required_missing_default", "warn", "it is required and has no default.", "Add a `default`.")
    _check_editor(add, field)
    _check_default(add, field, item)
    _check_attributes(add, field, item)


_Add = Callable[[str, Severity, str, str], None]


def _check_editor(add: _Add, field: Property) -> None:
    fits = _EDITOR_FITS.get(field.editor)
    if fits and field.declared and field.type not in fits:
        message = f"editor {field.editor} usually has type {' or '.join(fits)}, not {field.type}."
        add("input_editor_type_mismatch", "warn", message, "The value is delivered according to its type.")
    if field.editor == "select" and field.declared and field.multiple is not (field.type == "array"):
        message = "a select with `multiple` delivers an array, one without a single value."
        add("input_select_multiple_type_mismatch", "warn", message, "Set type array exactly when `multiple` is true.")
    if field.type in ("integer", "number") and _RESULT_CAPS.fullmatch(field.name) and field.name != "max_results":
        add("input_max_results_naming", "warn", "a cap on results is called max_results.", "Rename it to max_results.")


def _check_default(add: _Add, field: Property, item: dict[str, object]) -> None:
    default = item.get("default")
    if default is None:
        return
    if field.declared and not matches(default, field.type):
        message = f"its default is of type {type_of(default)}, not {field.type}."
        add("input_default_type_mismatch", "error", message, "Give a default of the declared type.")
    if field.editor in ("requestList", "stringList") and isinstance(default, list):
        odd = next((index for index, part in enumerate(default) if not isinstance(part, (str, dict))), None)
        if odd is not None:
            message = f"item {odd} of its default is neither text nor an object."
            add("input_default_list_item_invalid", "error", message, "Use strings or objects.")


def _check_attributes(add: _Add, field: Property, item: dict[str, object]) -> None:
    if field.editor in CHOICE_EDITORS and not field.options:
        add("input_options_invalid", "warn", "it offers no options.", "Add `options`: [{label, value}].")
    if field.editor == "requestListSource":
        _check_params(add, item.get("param_list"))
    for key in ("sectionCaption", "sectionDescription"):
        if key in item and not isinstance(item[key], str):
            add("input_section_invalid", "warn", f"`{key}` is no text.", "Write it as a string.")
    for key, bound in (("minimum", field.minimum), ("maximum", field.maximum)):
        if key in item and bound is None:
            add("input_bounds_invalid", "warn", f"`{key}` is no number.", "Write it as a number.")
    if field.minimum is not None and field.maximum is not None and field.minimum > field.maximum:
        add("input_bounds_invalid", "warn", "`minimum` is above `maximum`.", "Exchange them.")


def _check_params(add: _Add, params: object) -> None:
    if not isinstance(params, list) or not params:
        add("input_param_list_invalid", "warn", "it has no columns.", "Add `param_list`: [{param, title, editor}].")
        return
    for index, param in enumerate(params):
        if not isinstance(param, dict) or not isinstance(param.get("param", param.get("name")), str):
            add("input_param_list_invalid", "warn", f"column {index} has no `param`.", "Name the key it fills.")
        elif "editor" in param and not (isinstance(param["editor"], str) and param["editor"] in EDITORS):
            message = f"column {index} has the unknown editor {param['editor']!r:.80}."
            add("input_param_unsupported_editor", "error", message, f"Use one of {', '.join(sorted(EDITORS))}.")


def _check_splitting(findings: _Findings, document: dict[str, object], schema: InputSchema) -> None:
    types = {field.name: field for field in schema.properties}
    legacy = document.get("b")
    if legacy is not None and not isinstance(legacy, str):
        findings.add("input_schema_b_invalid", "error", "`b` is no text.", "Name one property in `b`.")
    if schema.legacy_key and not schema.fields:
        line = findings.line(schema.legacy_key)
        message = f"`b` names {schema.legacy_key!r:.80}"
        if schema.legacy_key not in types:
            findings.add(
                "input_schema_b_missing_property", "error", f"{message}, which is no property.", "Add it.", line
            )
        elif not _splittable(types[schema.legacy_key]):
            hint = "Give it type array; any other value runs as one subtask."
            findings.add("input_schema_b_not_array", "warn", f"{message}, which is no array.", hint, line)
    concurrency = document.get("concurrency")
    if concurrency is None:
        return
    if not isinstance(concurrency, dict):
        findings.add(
            "input_schema_concurrency_invalid", "error", "`concurrency` is not an object.", 'Write {"fields": []}.'
        )
        return
    for key in ("fields", "remove_fields"):
        if concurrency.get(key) is not None and not isinstance(concurrency[key], list):
            code = f"input_schema_concurrency_{key}_invalid"
            findings.add(code, "error", f"`concurrency.{key}` is not an array.", "List property names.")
    for code, severity, message, hint in _concurrency_findings(concurrency, schema, types):
        findings.add(code, severity, message, hint)


def _concurrency_findings(
    concurrency: dict[str, object], schema: InputSchema, types: dict[str, Property]
) -> Iterator[tuple[str, Severity, str, str]]:
    known = frozenset(schema.fields)
    for name in schema.fields:
        if name not in types:
            message = f"concurrency.fields names {name!r:.80}, which is no property."
            yield (
                "input_schema_concurrency_field_missing_property",
                "error",
                message,
                "Add the property or remove the name.",
            )
        elif not _splittable(types[name]):
            message = f"concurrency.fields names {name!r:.80}, which is no array."
            yield "input_schema_concurrency_field_not_array", "warn", message, "Give it type array."
    for name in schema.remove_fields:
        if name not in known:
            message = f"concurrency.remove_fields names {name!r:.80}, which is not in concurrency.fields."
            yield (
                "input_schema_concurrency_remove_field_not_in_fields",
                "error",
                message,
                "Add it to fields, or remove it.",
            )
    if schema.only_blank_fields:
        message = "concurrency fields must have at least one field"
        yield "input_schema_concurrency_fields_blank", "error", message, "Name a property, or remove concurrency."
    for problem in limits_problems(concurrency.get("limits"), schema.fields):
        yield "input_schema_concurrency_limits_invalid", "error", problem, "Write {field, max} with an optional regex."


def _splittable(field: Property) -> bool:
    return field.type == "array" or (not field.declared and field.editor in LIST_EDITORS)


def check_output_schema(data: bytes) -> tuple[OutputSchema | None, list[Diagnostic]]:
    """Return the output schema (None when it cannot be read) and everything found about it."""
    findings = _Findings(OUTPUT_FILE, data.decode("utf-8", "replace"))
    value = _parsed(findings, data, "output_schema_root_invalid", list, 'Write [{"name": "...", "type": "string"}].')
    if not isinstance(value, list):
        return None, findings.found
    seen: dict[str, int] = {}
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            findings.add(
                "output_column_invalid", "error", f"Column {index} is not an object.", "Describe it as an object."
            )
            continue
        name = item.get("name")
        if not isinstance(name, str) or not name.strip():
            findings.add("output_column_missing_name", "error", f"Column {index} has no name.", "Give it a `name`.")
            continue
        seen[name] = seen.get(name, 0) + 1
        line = findings.line(name, seen[name])
        if seen[name] > 1:
            findings.add(
                "output_column_duplicate_name", "error", f"The name {name!r:.80} is taken.", "Rename one.", line
            )
        if item.get("type") is None:
            message, hint = f"{name}: `type` is missing; it is taken as string.", "Add `type`."
            findings.add("output_column_missing_type", "error", message, hint, line)
        elif item["type"] not in FIELD_TYPES:
            message = f"{name}: type {item['type']!r:.80} is unknown."
            findings.add(
                "output_column_unsupported_type", "error", message, f"Use one of {', '.join(FIELD_TYPES)}.", line
            )
    return read_output_schema(value), findings.found
