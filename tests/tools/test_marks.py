"""The words of arms and marks stand in one file, and what is stored of them never changes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from histotune.tools import marks
from histotune.tools.marks import ARMS, FLOORS, MARKS, Arm, arm_words, short_words, skipped_mark

PACKAGE = Path(__file__).parents[2] / "src" / "histotune"
HOME = PACKAGE / "tools" / "marks.py"
WORDS = {word for arm in ARMS.values() for word in (arm.id, arm.words, arm.short) if word} | set(MARKS)
STORED = (
    "probe", "fine-tuned", "probe on varied tiles", "probe, random image split", "probe, other training cases",
    "difference (random - grouped)",
    "null control", "null control, random image split", "random-weight backbone + probe",
    "random-weight backbone + probe, three draws of the weights", "colour histogram + probe", "untuned head",
    "majority class",
)  # fmt: skip


def words_in(text: str) -> list[str]:
    """Return the string literals of a module that are a word of an arm or a mark, and nothing else."""
    constants = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
    return [found.value for found in constants if isinstance(found.value, str) and found.value in WORDS]


@pytest.mark.parametrize("path", sorted(set(PACKAGE.rglob("*.py")) - {HOME}), ids=lambda path: path.stem)
def test_no_other_module_holds_one_of_the_words(path: Path) -> None:
    assert not words_in(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.j2")), ids=lambda path: path.stem)
def test_no_page_compares_with_one_of_the_words(path: Path) -> None:
    quoted = re.findall(r"""(?:"([^"]*)"|'([^']*)')""", path.read_text(encoding="utf-8"))
    assert WORDS.isdisjoint(word for pair in quoted for word in pair)


def test_a_word_is_found_wherever_it_stands() -> None:
    found = words_in('if row.arm == "probe" or f"{x}LEAKY":\n    y = {"untuned head": 1}')
    assert sorted(found) == ["LEAKY", "probe", "untuned head"]
    assert not words_in('"""The probe is LEAKY."""\nx = "a probe"')


def test_the_home_of_the_words_holds_each_once() -> None:
    found = words_in(HOME.read_text(encoding="utf-8"))
    assert sorted(found) == sorted(WORDS)


def test_what_is_stored_never_changes() -> None:
    assert tuple(ARMS) == STORED
    assert MARKS == ("LEAKY", "TOO NARROW", "SYNTHETIC", "EXTERNAL", "LABEL MOVED", "SKIPPED")
    assert all(arm.id == key for key, arm in ARMS.items())


def test_every_name_of_an_arm_is_registered() -> None:
    named = {value for name, value in vars(marks).items() if name.isupper() and isinstance(value, str)}
    assert named == {*ARMS, *MARKS}


def test_floors_stand_in_the_order_of_the_tables() -> None:
    assert [short_words(arm) for arm in FLOORS] == [
        "random weights", "colour histogram", "untuned head", "majority class",
    ]  # fmt: skip


def test_words_are_looked_up_and_an_unknown_arm_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert arm_words(marks.PROBE) == short_words(marks.PROBE) == "probe"
    assert arm_words("another arm") == short_words("another arm") == "another arm"
    monkeypatch.setitem(ARMS, marks.PROBE, Arm(marks.PROBE, "a linear probe"))
    assert arm_words(marks.PROBE) == short_words(marks.PROBE) == "a linear probe"


def test_skipped_tiles_are_counted_in_their_mark() -> None:
    assert skipped_mark(3) == "3 SKIPPED"
    assert skipped_mark(1234567) == "1,234,567 SKIPPED"
