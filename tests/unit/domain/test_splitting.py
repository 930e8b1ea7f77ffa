"""Splitting: the worked examples and every sentence of the contract."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clawplane.domain.errors import InvalidArgument
from clawplane.domain.schemas import InputSchema, read_input_schema
from clawplane.domain.splitting import limits_problems, meaningful_items, split


def fields(*names: object, remove: tuple[str, ...] = (), b: object = None) -> InputSchema:
    return read_input_schema(
        {"properties": [], "concurrency": {"fields": [*names], "remove_fields": [*remove]}, "b": b}
    )


MAPS = fields("keywords", "google_maps_urls", "place_ids", remove=("keywords",))
URL_LEGACY = read_input_schema({"properties": [], "b": " url "})
URLS_LEGACY = read_input_schema({"properties": [], "b": "urls"})


@pytest.mark.parametrize(
    ("schema", "custom", "expected"),
    [
        (
            MAPS,
            {
                "keywords": ["pizza", "iphone"],
                "google_maps_urls": ["urlA", "urlB"],
                "place_ids": [],
                "base_location": "NY",
            },
            [
                {"google_maps_urls": ["urlA"], "place_ids": [""], "base_location": "NY"},
                {"google_maps_urls": ["urlB"], "place_ids": [""], "base_location": "NY"},
            ],
        ),
        (
            MAPS,
            {"keywords": ["pizza"], "google_maps_urls": [], "place_ids": [""]},
            [{"keywords": ["pizza"], "google_maps_urls": [""], "place_ids": [""]}],
        ),
        (
            URL_LEGACY,
            {"url": [{"url": "https://a"}, {"url": "https://b"}]},
            [{"url": "https://a"}, {"url": "https://b"}],
        ),
        (fields("keywords"), {"keywords": [{"keyword": "coffee"}], "n": 1}, [{"keyword": "coffee", "n": 1}]),
        (fields("keywords"), {"keywords": ["coffee"], "n": 1}, [{"keywords": ["coffee"], "n": 1}]),
        (
            URLS_LEGACY,
            {"urls": [{"url": "p1"}, {"url": "p2"}], "location": "x"},
            [{"url": "p1", "location": "x"}, {"url": "p2", "location": "x"}],
        ),
    ],
)
def test_splits_as_the_worked_examples_do(
    schema: InputSchema, custom: dict[str, Any], expected: list[dict[str, Any]]
) -> None:
    assert split(schema, custom) == expected


def test_makes_a_union_over_fields_and_never_a_product() -> None:
    assert split(fields("a", "b"), {"a": [1, 2], "b": [3]}) == [
        {"a": [1], "b": [""]},
        {"a": [2], "b": [""]},
        {"a": [""], "b": [3]},
    ]


def test_an_item_that_holds_a_member_named_like_its_field_wins() -> None:
    assert split(fields("url"), {"url": [{"url": "https://a"}]}) == [{"url": "https://a"}]


def test_without_a_rule_there_is_one_subtask_with_the_input_unchanged() -> None:
    assert split(read_input_schema({"properties": []}), {"a": [1, 2]}) == [{"a": [1, 2]}]


def test_fields_win_over_b_and_b_counts_when_fields_are_blank() -> None:
    assert split(fields("a", b="c"), {"a": [1], "c": [1, 2]}) == [{"a": [1], "c": [1, 2]}]
    assert split(fields(" ", 5, b="c"), {"c": [1, 2]}) == [{"c": [1]}, {"c": [2]}]


def test_field_names_are_trimmed_and_counted_once() -> None:
    assert split(fields(" a ", "a"), {"a": [1]}) == [{"a": [1]}]


@pytest.mark.parametrize("value", ["https://a", 0, False, {"url": "x"}, ""])
@pytest.mark.parametrize("schema", [fields("url", "other"), URL_LEGACY])
def test_a_scalar_under_a_splitting_field_runs_as_one_subtask(schema: InputSchema, value: object) -> None:
    assert split(schema, {"url": value, "n": 1}) == [{"url": value, "n": 1}]


def test_a_scalar_beside_a_field_with_items_is_no_item() -> None:
    assert split(fields("a", "b"), {"a": "text", "b": ["x"]}) == [{"a": [""], "b": ["x"]}]


@pytest.mark.parametrize(
    ("item", "kept"),
    [
        (None, False),
        ("  ", False),
        ({}, False),
        ({"a": "", "b": {"c": None}, "d": []}, False),
        ({"a": "", "b": 0}, True),
        (0, True),
        (False, True),
        ("x", True),
    ],
)
def test_drops_items_that_mean_nothing(item: object, kept: bool) -> None:
    assert meaningful_items("f", [item]) == ([item] if kept else [])


@pytest.mark.parametrize(
    ("schema", "custom", "message"),
    [
        (fields(" ", ""), {}, "concurrency fields must have at least one field"),
        (fields("a", "b"), {"a": [], "b": [""]}, "concurrency fields have no non-empty fields"),
        (fields("a"), {}, "concurrency fields have no non-empty fields"),
        (URL_LEGACY, {}, "missing concurrency field [url]"),
        (URL_LEGACY, {"url": [{}, ""]}, "concurrency field [url] is empty"),
        (URL_LEGACY, {"url": None}, "concurrency field [url] is empty"),
        (fields("a"), {"a": ["x", ["y"]]}, "item at index 1 in [a] must be an object or primitive value"),
        (fields("a"), {"a": ["x", {"k": 1}]}, "field [a] must not mix object and primitive items"),
        (fields("a"), {"a": list(range(1001))}, "concurrency_num (1001) exceeds limit (1000)"),
        (URL_LEGACY, {"url": list(range(1001))}, "concurrency_num (1001) exceeds limit (1000)"),
    ],
)
def test_refuses_with_the_platforms_own_sentence(schema: InputSchema, custom: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        split(schema, custom)
    assert caught.value.message == message
    assert caught.value.hint


def test_a_thousand_items_are_still_accepted() -> None:
    assert len(split(fields("a"), {"a": list(range(1000))})) == 1000


@pytest.mark.parametrize(
    ("limit", "problem"),
    [
        ({"max": 1}, "limits.field is required"),
        ({"field": "x", "max": 1}, "limits.field x is not in concurrency.fields"),
        ({"field": "a", "max": 0}, "limits.max must be greater than 0"),
        ({"field": "a"}, "limits.max must be greater than 0"),
        ({"field": "a", "max": 1, "regex": "("}, "limits.regex invalid"),
        ({"field": "a", "max": 1, "regex": "^x"}, None),
    ],
)
def test_names_what_is_wrong_with_the_limits(limit: object, problem: str | None) -> None:
    assert limits_problems([limit], ("a",)) == ([problem] if problem else [])


PRIMITIVES = st.none() | st.booleans() | st.integers() | st.text(max_size=3)
OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "k", "v"]), PRIMITIVES, max_size=3)
ARRAYS = st.lists(PRIMITIVES, max_size=5) | st.lists(OBJECTS, max_size=5)
CUSTOMS = st.dictionaries(st.sampled_from(["a", "b", "c", "n"]), ARRAYS | PRIMITIVES, max_size=4)
SCHEMAS = st.builds(
    lambda names, remove: fields(*names, remove=tuple(remove)),
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, unique=True),
    st.lists(st.sampled_from(["a", "b", "c", "n"]), unique=True),
)


@given(SCHEMAS, CUSTOMS)
def test_makes_one_subtask_per_meaningful_item_and_never_changes_the_input(
    schema: InputSchema, custom: dict[str, Any]
) -> None:
    before = copy.deepcopy(custom)
    preferred = [name for name in schema.fields if name not in schema.remove_fields]
    counted = sum(len(meaningful_items(name, custom.get(name))) for name in preferred)
    counted = counted or sum(len(meaningful_items(name, custom.get(name))) for name in schema.fields)
    scalar = any(custom.get(name) is not None and not isinstance(custom[name], list) for name in schema.fields)
    if counted or scalar:
        parts = split(schema, custom)
        assert len(parts) == (counted or 1)
        assert counted or parts == [custom]
    else:
        with pytest.raises(InvalidArgument):
            split(schema, custom)
    assert custom == before
