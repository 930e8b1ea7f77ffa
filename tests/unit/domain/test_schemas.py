"""Schemas: lenient reading, inferred types, and a code for every finding."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clawplane.domain.errors import InvalidArgument
from clawplane.domain.schema_checks import FATAL_CODES, check_input_schema, check_output_schema
from clawplane.domain.schemas import Column, load_input_schema, load_output_schema, read_input_schema

FULL = {"title": "T", "description": "D", "required": False}


def codes(document: object) -> list[str]:
    return [found.code for found in check_input_schema(json.dumps(document).encode())[1]]


def field(**members: Any) -> list[str]:
    return codes({"properties": [{"name": "x", "type": "string", "editor": "input", **FULL, **members}]})


def test_reads_a_property_that_has_nothing_but_a_name() -> None:
    (only,) = read_input_schema({"properties": [{"name": "x"}]}).properties
    assert (only.title, only.type, only.declared, only.required) == ("x", "string", False, False)


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ({"editor": "number"}, "number"),
        ({"editor": "switch"}, "boolean"),
        ({"editor": "requestList"}, "array"),
        ({"editor": "requestListSource"}, "array"),
        ({"editor": "requestListSources"}, "array"),
        ({"editor": "stringList"}, "array"),
        ({"editor": "checkbox"}, "array"),
        ({"editor": "json"}, "object"),
        ({"editor": "input", "default": 4}, "integer"),
        ({"default": 4.5}, "number"),
        ({"default": True}, "boolean"),
        ({"default": []}, "array"),
        ({"default": {}}, "object"),
        ({"default": None}, "string"),
        ({"editor": "text"}, "string"),
    ],
)
def test_infers_a_missing_type(members: dict[str, Any], kind: str) -> None:
    assert read_input_schema({"properties": [{"name": "x", **members}]}).properties[0].type == kind


@pytest.mark.parametrize(
    ("document", "code", "severity"),
    [
        ([], "input_schema_root_invalid", "error"),
        ({"properties": {}}, "input_schema_properties_invalid", "error"),
        ({}, "input_schema_properties_invalid", "error"),
        ({"properties": ["x"]}, "input_property_invalid", "error"),
        ({"properties": [{"title": "x"}]}, "input_property_missing_name", "error"),
        ({"properties": [{"name": " "}]}, "input_property_missing_name", "error"),
        ({"properties": [{"name": "1 x"}]}, "input_property_name_invalid", "error"),
        ({"properties": [{"name": "x"}, {"name": "x"}]}, "input_property_duplicate_name", "error"),
        ({"properties": [], "b": 5}, "input_schema_b_invalid", "error"),
        ({"properties": [], "b": "x"}, "input_schema_b_missing_property", "error"),
        ({"properties": [{"name": "x"}], "b": "x"}, "input_schema_b_not_array", "warn"),
        ({"properties": [], "more": 1}, "input_schema_unknown_root_key", "warn"),
        ({"properties": [], "concurrency": []}, "input_schema_concurrency_invalid", "error"),
        ({"properties": [], "concurrency": {"fields": "x"}}, "input_schema_concurrency_fields_invalid", "error"),
        (
            {"properties": [], "concurrency": {"remove_fields": "x"}},
            "input_schema_concurrency_remove_fields_invalid",
            "error",
        ),
        (
            {"properties": [], "concurrency": {"fields": [], "remove_fields": ["x"]}},
            "input_schema_concurrency_remove_field_not_in_fields",
            "error",
        ),
        (
            {"properties": [], "concurrency": {"fields": ["x"]}},
            "input_schema_concurrency_field_missing_property",
            "error",
        ),
        (
            {"properties": [{"name": "x"}], "concurrency": {"fields": ["x"]}},
            "input_schema_concurrency_field_not_array",
            "warn",
        ),
        ({"properties": [], "concurrency": {"fields": [" "]}}, "input_schema_concurrency_fields_blank", "error"),
        (
            {"properties": [], "concurrency": {"fields": ["x"], "limits": [{}]}},
            "input_schema_concurrency_limits_invalid",
            "error",
        ),
    ],
)
def test_reports_what_is_wrong_with_an_input_schema(document: object, code: str, severity: str) -> None:
    found = [one for one in check_input_schema(json.dumps(document).encode())[1] if one.code == code]
    assert found
    assert found[0].severity == severity
    assert found[0].hint


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"type": "text"}, "input_property_unsupported_type"),
        ({"type": ["string"]}, "input_property_unsupported_type"),
        ({"editor": "text"}, "input_property_unsupported_editor"),
        ({"required": "yes"}, "input_property_required_invalid"),
        ({"default": 5}, "input_default_type_mismatch"),
        ({"type": "array", "editor": "stringList", "default": [5]}, "input_default_list_item_invalid"),
        ({"type": "boolean"}, "input_editor_type_mismatch"),
        (
            {"editor": "select", "multiple": True, "options": [{"label": "a", "value": "a"}]},
            "input_select_multiple_type_mismatch",
        ),
        ({"required": True}, "input_required_missing_default"),
        ({"editor": "radio"}, "input_options_invalid"),
        ({"type": "array", "editor": "requestListSource"}, "input_param_list_invalid"),
        (
            {"type": "array", "editor": "requestListSource", "param_list": [{"param": "url", "editor": ["x"]}]},
            "input_param_unsupported_editor",
        ),
        ({"sectionCaption": 5}, "input_section_invalid"),
        ({"minimum": "1"}, "input_bounds_invalid"),
        ({"minimum": 2, "maximum": 1}, "input_bounds_invalid"),
        ({"name": "max_items", "type": "integer", "editor": "number"}, "input_max_results_naming"),
    ],
)
def test_reports_what_is_wrong_with_a_property(members: dict[str, Any], code: str) -> None:
    assert field(**members) == [code]


def test_finds_nothing_wrong_with_all_twelve_editors_in_order() -> None:
    choice = {"options": [{"label": "a", "value": 1}]}
    assert field() == field(editor="textarea") == field(editor="datepicker") == []
    assert field(editor="number", type="integer") == field(editor="switch", type="boolean", default=False) == []
    assert field(editor="select", **choice) == field(editor="radio", **choice) == []
    assert field(editor="checkbox", type="array", **choice) == field(editor="json", type="object") == []
    assert field(editor="requestList", type="array", default=[{"key": "v"}, "v"]) == []
    assert field(editor="stringList", type="array", default=["a", {"string": "b"}]) == []
    assert field(editor="requestListSource", type="array", param_list=[{"param": "url", "editor": "input"}]) == []


def test_only_what_cannot_be_read_as_a_form_is_fatal() -> None:
    for code in ("input_property_unsupported_editor", "input_default_type_mismatch", "input_schema_b_missing_property"):
        assert code not in FATAL_CODES
    assert "input_property_duplicate_name" in FATAL_CODES


def test_names_the_line() -> None:
    text = b'{"properties": [\n {"name": "x"},\n {"title": "a",\n  "name": "x"}\n]}'
    duplicate = next(one for one in check_input_schema(text)[1] if one.code == "input_property_duplicate_name")
    assert (duplicate.file, duplicate.line) == ("input_schema.json", 4)
    assert check_input_schema(b'{\n"properties": [}')[1][0].line == 2


def test_a_megabyte_of_nesting_is_one_clear_sentence() -> None:
    schema, found = check_input_schema(b'{"properties":' + b"[" * 900_000)
    assert schema is None
    assert [one.message for one in found] == ["It is not valid JSON: it nests deeper than 100 levels."]


def test_numbers_beyond_two_to_the_fifty_third_survive() -> None:
    schema = load_input_schema('{"properties":[{"name":"x","default":9007199254740993123}]}')
    assert schema.properties[0].default == 9007199254740993123


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"a":NaN}', "[" * 100_000, '{"a":1e999}', "1" * 5000, b"\xff"]
)
def test_loading_refuses_with_the_platforms_own_sentence(text: str | bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        load_input_schema(text)
    assert caught.value.message == "input_schema is not a valid json"


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({}, "output_schema_root_invalid"),
        ([5], "output_column_invalid"),
        ([{"type": "string"}], "output_column_missing_name"),
        ([{"name": "x", "type": "string"}] * 2, "output_column_duplicate_name"),
        ([{"name": "x"}], "output_column_missing_type"),
        ([{"name": "x", "type": "text"}], "output_column_unsupported_type"),
    ],
)
def test_reports_what_is_wrong_with_an_output_schema(document: object, code: str) -> None:
    (found,) = check_output_schema(json.dumps(document).encode())[1]
    assert (found.code, found.severity) == (code, "error")


def test_output_columns_have_header_formats() -> None:
    columns = load_output_schema(
        '[{"name":"a","type":"string","description":"A"},{"name":"n","type":"number"}]'
    ).columns
    assert columns[0] == Column("a", "string", "A")
    assert [column.format for column in columns] == ["text", "number"]
