from __future__ import annotations

import pytest

from clawplane.domain.task_api_variables import clamped, first_of, is_on


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("7ms", 7),
        ("+7", 7),
        ("0", 1),
        ("-3", 1),
        ("11", 10),
        pytest.param("9" * 5000, 10, id="of five thousand digits"),
        ("", 5),
        ("x7", 5),
    ],
)
def test_a_number_is_read_as_far_as_it_goes_and_clamped(text: str, number: int) -> None:
    assert clamped({"N": text}, "N", 5, 1, 10) == number


def test_a_number_that_is_not_given_is_the_default() -> None:
    assert clamped({}, "N", 5, 1, 10) == 5


def test_an_empty_variable_is_passed_over_for_the_next() -> None:
    assert first_of({"A": "", "B": "b", "C": "c"}, "A", "B", "C") == "b"
    assert first_of({}, "A") == ""


@pytest.mark.parametrize("unset", [True, False])
def test_a_switch_is_on_by_four_words_and_what_is_empty_means_what_the_caller_says(unset: bool) -> None:
    assert all(is_on({"S": text}, "S", unset=unset) for text in ("1", "true", " YES", "On"))
    assert not any(is_on({"S": text}, "S", unset=unset) for text in ("0", "off", "enabled"))
    assert is_on({"S": "  "}, "S", unset=unset) is is_on({}, "S", unset=unset) is unset
