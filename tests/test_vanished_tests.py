"""The script that names vanished tests: a move is none, a dropped parameter is one, an idle reason is told."""

from __future__ import annotations

from scripts.vanished_tests import REASONS, Reason, judge, name_of, read_reasons

BEFORE = ["tests/a.py::test_one[x]", "tests/a.py::test_one[y]", "tests/a.py::Group::test_two", "tests/b.py::test_two"]


def test_a_test_is_known_by_name_and_parameters() -> None:
    assert name_of("tests/a/b.py::Group::test_one[c::d]") == "Group::test_one[c::d]"


def test_a_moved_file_makes_nothing_vanish() -> None:
    moved = [one.replace("tests/", "tests/room/") for one in BEFORE]
    assert judge(BEFORE, moved, []) == judge(BEFORE, BEFORE, [])
    assert judge(BEFORE, moved, []).unexplained == ()


def test_a_dropped_parameter_and_a_dropped_twin_are_named() -> None:
    assert judge(BEFORE, BEFORE[1:], []).unexplained == ("test_one[x]",)
    twice = [*BEFORE, "tests/c.py::test_one[x]"]
    assert judge(twice, BEFORE, []).unexplained == ("test_one[x]",)


def test_a_reason_explains_what_it_names_and_no_more() -> None:
    reasons = [Reason("test_one[[]*]", "never"), Reason("test_one[*]", "merged"), Reason("test_three", "gone")]
    verdict = judge(BEFORE, BEFORE[3:], reasons)
    assert verdict.explained == (("test_one[x]", "merged"), ("test_one[y]", "merged"))
    assert verdict.unexplained == ("Group::test_two",)
    assert verdict.idle == ("test_one[[]*]", "test_three")


def test_the_written_reasons_can_be_read() -> None:
    assert all(reason.why for reason in read_reasons(REASONS))
