from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from histotune.tools.errors import UserError, UserErrors, closest_name, raise_together


def test_message_says_what_value_closest_allowed_and_fix_in_reading_order() -> None:
    error = UserError("unknown backbone", value="midnigth", allowed="lite0, midnight", closest="midnight", fix="do it")
    assert str(error).splitlines() == [
        "unknown backbone: 'midnigth'",
        "  did you mean: midnight?",
        "  allowed: lite0, midnight",
        "  fix: do it",
    ]


def test_message_leaves_out_what_is_not_known() -> None:
    assert str(UserError("this folder is empty")) == "this folder is empty"


@pytest.mark.parametrize("value", [0, False, ""])
def test_falsy_values_are_still_shown(value: object) -> None:
    assert repr(str(value)) in str(UserError("too few folds", value=value))


def test_exception_arguments_hold_the_whole_message() -> None:
    error = UserError("unknown field", value="x", fix="histotune config show")
    assert error.args == (str(error),)


def test_several_errors_are_shown_together() -> None:
    errors = [UserError("first", fix="a"), UserError("second", value=3)]
    with pytest.raises(UserErrors) as caught:
        raise_together(errors)
    assert caught.value.errors == tuple(errors)
    assert str(caught.value) == "first\n  fix: a\nsecond: '3'"


def test_a_single_error_is_raised_as_it_is() -> None:
    error = UserError("alone")
    with pytest.raises(UserError) as caught:
        raise_together([error])
    assert caught.value is error


def test_no_error_raises_nothing() -> None:
    raise_together([])


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("midnigth", "midnight"), ("MIDNIGHT", "midnight"), ("lite", "lite0"), ("zzzz", None), ("", None)],
)
def test_closest_name(typed: str, expected: str | None) -> None:
    assert closest_name(typed, ["midnight", "lite0", "uni"]) == expected


def test_closest_name_keeps_the_spelling_of_the_known_name() -> None:
    assert closest_name("kaiko-ai/midnite", ["kaiko-ai/Midnight"]) == "kaiko-ai/Midnight"


def test_closest_name_of_nothing() -> None:
    assert closest_name("midnight", []) is None


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, unique_by=str.lower), st.data())
def test_a_known_name_is_its_own_closest(names: list[str], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(names))
    assert closest_name(name, names) == name


def test_a_name_in_a_message_begins_no_line_at_the_margin() -> None:
    text = str(UserError("no class", value="a\nerror: b", allowed="x\nerror: y\n  z", fix="rm 'x\nverdict: ok'"))
    assert text.splitlines()[1:] == ["  allowed: x", "    error: y", "  z", "  fix: rm 'x", "    verdict: ok'"]
    assert text.splitlines()[0] == "no class: 'a\\nerror: b'"
