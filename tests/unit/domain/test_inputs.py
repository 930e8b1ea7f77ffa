"""Inputs: unwrapping, defaults, and a sentence with the field's title for every wrong value."""

from __future__ import annotations

import time
from typing import Any

import pytest

from clawplane.domain.errors import InvalidArgument
from clawplane.domain.inputs import as_custom, parse_parameters, parse_system, validate_input
from clawplane.domain.runs import RunSystem
from clawplane.domain.schemas import load_input_schema, read_input_schema


def check(field: dict[str, Any], custom: dict[str, Any]) -> dict[str, object]:
    return validate_input(read_input_schema({"properties": [{"name": "keyword", "title": "Keyword", **field}]}), custom)


def test_unwraps_system_and_custom() -> None:
    custom, system = parse_parameters({"parameters": {"system": {"proxy_region": "de"}, "custom": {"n": 2**63}}})
    assert custom == {"n": 2**63}
    assert system == RunSystem(proxy_region="DE")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"keyword": "coffee"}, "input.parameters must be an object"),
        ([{"keyword": "coffee"}], "input must be an object"),
        ({"parameters": {"system": {}}}, "input.parameters.custom is required"),
        ({"parameters": {"custom": [{}]}}, "custom parameters must contain a single JSON object"),
        ({"parameters": {"custom": {}, "system": []}}, "input.parameters.system must be an object"),
    ],
)
def test_refuses_an_input_without_its_wrapper(value: object, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_parameters(value)
    assert caught.value.message == message
    assert caught.value.hint


def test_refuses_an_input_that_nests_too_deep() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(InvalidArgument, match="deeper than 100 levels"):
        as_custom(deep)


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_demands_a_required_field_by_its_title(value: object) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check({"required": True}, {"keyword": value})
    assert caught.value.message == "Keyword is required"
    assert caught.value.details == ("keyword: Keyword is required",)


def test_ignores_a_required_that_is_no_boolean() -> None:
    assert check({"required": "yes"}, {}) == {}


def test_fills_absent_keys_before_the_required_check_and_never_shares_the_default() -> None:
    schema = read_input_schema({"properties": [{"name": "urls", "default": [{"url": "x"}], "required": True}]})
    first = validate_input(schema, {})
    assert first == {"urls": [{"url": "x"}]}
    assert first["urls"] is not schema.properties[0].default
    assert validate_input(schema, {"urls": ["mine"]}) == {"urls": ["mine"]}


def test_does_not_hold_a_caller_to_the_type_of_a_default() -> None:
    assert check({"type": "integer", "default": ""}, {}) == {"keyword": ""}


def test_passes_unknown_keys_through() -> None:
    assert check({}, {"other": 1}) == {"other": 1}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("string", "x", 5),
        ("integer", 2**70, "5"),
        ("integer", 3, 3.5),
        ("number", 3, "3"),
        ("number", 3.5, True),
        ("boolean", True, 1),
        ("array", ["x", {"y": 1}], "x"),
        ("object", {"a": 1}, [1]),
    ],
)
def test_holds_the_top_level_type(kind: str, good: object, bad: object) -> None:
    assert check({"type": kind}, {"keyword": good}) == {"keyword": good}
    with pytest.raises(InvalidArgument, match=rf"^Keyword must be an? {kind}$"):
        check({"type": kind}, {"keyword": bad})


def test_delivers_a_whole_number_as_an_integer() -> None:
    assert repr(check({"type": "integer"}, {"keyword": 3.0})) == "{'keyword': 3}"


def test_does_not_demand_a_type_that_nobody_declared() -> None:
    assert check({}, {"keyword": ["a"]}) == {"keyword": ["a"]}


def test_checks_bounds_and_options() -> None:
    bounded = {"type": "integer", "minimum": 1, "maximum": 5}
    assert check(bounded, {"keyword": 5}) == {"keyword": 5}
    with pytest.raises(InvalidArgument, match="Keyword must be at most 5"):
        check(bounded, {"keyword": 6})
    with pytest.raises(InvalidArgument, match="Keyword must be at least 1"):
        check(bounded, {"keyword": 0})
    choices = {"editor": "select", "options": [{"label": "One", "value": 1}, {"label": "Two", "value": "two"}]}
    for value in (1, "1", "two", ["two", 1], ""):
        assert check(choices, {"keyword": value}) == {"keyword": value}
    for value in ("three", True, ["two", "x"]):
        with pytest.raises(InvalidArgument, match="Keyword must be one of: 1, two"):
            check(choices, {"keyword": value})


def test_options_of_every_kind_are_recognised() -> None:
    values = [True, None, {"a": 1, "b": [2]}, [1], 2]
    choices = {"editor": "checkbox", "type": "array", "options": [{"label": "x", "value": value} for value in values]}
    given = {"keyword": [True, {"b": [2], "a": 1}, [1], "2", 2.0]}
    with pytest.raises(InvalidArgument, match="must be one of"):
        check(choices, given)
    assert check(choices, {"keyword": given["keyword"][:-1]})
    with pytest.raises(InvalidArgument, match="must be one of"):
        check(choices, {"keyword": [False]})


def test_many_items_among_many_options_cost_their_sum_and_not_their_product() -> None:
    choices = [{"label": "x", "value": f"v{number}"} for number in range(20_000)]
    field = {"editor": "checkbox", "type": "array", "options": choices}
    began = time.process_time()
    check(field, {"keyword": ["v19999"] * 50_000})
    assert time.process_time() - began < 5


def test_lists_every_problem() -> None:
    schema = load_input_schema(
        '{"properties":[{"name":"a","title":"A","required":true},{"name":"b","title":"B","type":"integer"}]}'
    )
    with pytest.raises(InvalidArgument) as caught:
        validate_input(schema, {"b": "x"})
    assert caught.value.details == ("a: A is required", "b: B must be an integer")


def test_system_parameters_have_defaults_and_pair_memory_with_cpu() -> None:
    assert parse_system(None) == parse_system({}) == RunSystem()
    assert parse_system({"memory": 2048}) == RunSystem(memory=2048, cpus=0.5)
    assert parse_system({"cpus": 4}) == RunSystem(memory=16384, cpus=4)
    assert parse_system({"memory": 1024, "cpus": 4, "unknown": 1}) == RunSystem(memory=1024, cpus=0.25)


@pytest.mark.parametrize(
    "system",
    [
        {"memory": 700},
        {"memory": True},
        {"cpus": 3},
        {"execute_limit_time_seconds": 0},
        {"execute_limit_time_seconds": "60"},
        {"max_total_charge": -1},
        {"max_total_traffic": 1.5},
        {"proxy_region": "USA"},
        {"proxy_region": 1},
    ],
)
def test_refuses_a_system_parameter_and_names_it(system: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_system(system)
    key = next(iter(system))
    assert key in caught.value.message
    assert key in caught.value.hint
