"""The reader of cells: what is one, what is missing, what is refused, and what the settings make of it."""

from __future__ import annotations

import unicodedata

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.datasets.cells import CellRules, Cells, clean, is_missing, read_ids, read_labels, whole_numbers
from histotune.datasets.look_alikes import alike_groups

ASK, JOIN, EXACT = CellRules(), CellRules("join"), CellRules("exact")
MISSING = [
    "nan",
    "NaN",
    "NA",
    "N/A",
    "n/a",
    "None",
    "none",
    "null",
    "NULL",
    "",
    "  ",
    "<NA>",
    "NaT",
    "#N/A",
    "-",
    "?",
    " nan ",
]
CELL = st.text("aAbB17.0- \u00e4\u0308", max_size=4) | st.sampled_from(MISSING) | st.text(max_size=5)
COLUMN = st.lists(st.none() | CELL, max_size=15)


def ids(cells: list[str | None], rules: CellRules = ASK) -> Cells:
    return read_ids(pl.Series("group_id", cells, dtype=pl.String), "group", rules)


def labels(cells: list[str | None], rules: CellRules = ASK) -> Cells:
    return read_labels(pl.Series("label", cells, dtype=pl.String), rules)


@pytest.mark.parametrize("word", MISSING)
def test_what_programs_write_for_a_missing_value_is_missing(word: str) -> None:
    assert is_missing(word)
    for read in (ids, labels):
        found = read(["a", word, word, None])
        assert found.values.to_list() == ["a", None, None, None]
        assert any("of 2 tiles is written" in note for note in found.notes) == bool(word.strip())


@pytest.mark.parametrize("word", ["Nancy", "nano", "no", "0", "N", "A", "NASH", "normal", "nullipara", "1", "unknown"])
def test_names_are_not_missing(word: str) -> None:
    assert not is_missing(word)


def test_a_dash_beside_a_plus_is_a_label() -> None:
    assert labels(["+", "-", "+"]).values.to_list() == ["+", "-", "+"]
    assert labels(["tumour", "-"]).values.to_list() == ["tumour", None]
    assert ids(["+", "-"]).values.to_list() == ["+", None]


def test_words_are_missing_or_names_as_asked_for() -> None:
    assert labels(["none", "mild"], CellRules(not_missing=("none",))).values.to_list() == ["none", "mild"]
    assert ids(["unknown", "p1"], CellRules(also_missing=("Unknown",))).values.to_list() == [None, "p1"]
    note = ids(["unknown", "unknown", "p1"]).notes[0]
    assert "The group of 2 tiles is 'unknown', which counts as one group" in note
    assert "--set 'source.also_missing=[\"unknown\"]'" in note
    note = labels(["none", "mild"]).notes[0]
    assert "--set 'source.not_missing=[\"none\"]' keeps it" in note


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (["1", "1.0", "0"], ["1", "1", "0"]),
        (["1", "1.0", "True", "0", "False", "true"], ["1", "1", "1", "0", "0", "1"]),
        (["1.0", "0.0", None], ["1", "0", None]),
        (["True", "TRUE", "false"], ["TRUE", "TRUE", "false"]),
        (["0.5", "0.50", "1"], ["0.5", "0.5", "1"]),
        (["true", "maybe"], ["true", "maybe"]),
        (["2", "True"], ["2", "True"]),
        (["1 ", "\u00a01"], ["1", "1"]),
        (["b\u00f6se", "bo\u0308se"], ["b\u00f6se", "b\u00f6se"]),
    ],
)
def test_labels_of_one_value_are_one_class(cells: list[str | None], names: list[str | None]) -> None:
    assert labels(cells).values.to_list() == names
    assert not labels(cells).errors


def test_what_was_made_one_is_said() -> None:
    assert labels(["1", "1.0", "True"]).notes == ("Labels of one value are one class: '1.0' is '1', 'True' is '1'.",)
    assert labels(["1.0", "0.0"]).notes == ()


def test_look_alikes_are_refused_together_with_both_settings() -> None:
    found = ids(["Pat1", "pat1", "7", "007", "7.0", "x"])
    text = str(found.errors[0])
    assert "'007' and '7' and '7.0'; 'Pat1' and 'pat1'" in text
    assert "--set source.ids=join" in text and "--set source.ids=exact" in text
    assert "different classes" in str(labels(["Tumour", "tumour"]).errors[0])


def test_look_alikes_are_joined_or_kept_apart_as_asked_for() -> None:
    cells = ["Pat1", "pat1", "7", "007", "7.0", "x", None]
    joined = ids(cells, JOIN)
    assert joined.values.to_list() == ["Pat1", "Pat1", "7", "7", "7", "x", None]
    assert "were joined, as asked for by ids=join: '007' and '7' and '7.0'; 'Pat1' and 'pat1'" in joined.notes[0]
    kept = ids(cells, EXACT)
    assert kept.values.to_list() == cells
    assert "were kept apart" in kept.notes[0]


def test_a_column_of_whole_floats_is_one_of_numbers() -> None:
    assert ids(["7.0", "12.0", "nan"]).values.to_list() == ["7", "12", None]
    assert whole_numbers(pl.Series(["7.0", "x"])).to_list() == ["7.0", "x"]


# ---- Whatever the cells ----


@given(COLUMN)
@settings(max_examples=300)
def test_missing_is_missing_and_the_rest_keeps_its_place(cells: list[str | None]) -> None:
    for rules in (ASK, JOIN, EXACT):
        values = ids(cells, rules).values.to_list()
        assert [value is None for value in values] == [cell is None or is_missing(cell) for cell in cells]


@given(COLUMN)
@settings(max_examples=300)
def test_after_joining_nothing_looks_alike_and_nothing_is_split(cells: list[str | None]) -> None:
    for read in (ids, labels):
        joined, kept = read(cells, JOIN), read(cells, EXACT)
        assert not joined.errors and not kept.errors
        pairs = dict.fromkeys(zip(kept.values.to_list(), joined.values.to_list(), strict=True))
        assert len({before for before, _ in pairs}) == len(pairs)  # one name becomes one name
    assert alike_groups(ids(cells, JOIN).values.drop_nulls()) == []


@given(COLUMN)
@settings(max_examples=300)
def test_without_a_setting_it_is_refused_exactly_where_joining_would_change_something(cells: list[str | None]) -> None:
    asked, joined, kept = ids(cells), ids(cells, JOIN), ids(cells, EXACT)
    assert bool(asked.errors) == bool(alike_groups(kept.values.drop_nulls()))
    if not asked.errors:
        assert asked.values.to_list() == joined.values.to_list() == kept.values.to_list()


@given(COLUMN, st.randoms())
@settings(max_examples=200)
def test_the_order_of_rows_changes_nothing(cells: list[str | None], random: object) -> None:
    for rules in (ASK, JOIN, EXACT):
        named = dict(zip(cells, ids(cells, rules).values.to_list(), strict=True))
        shuffled = list(cells)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        assert dict(zip(shuffled, ids(shuffled, rules).values.to_list(), strict=True)) == named


@given(COLUMN, st.sampled_from(["NFC", "NFD"]), st.sampled_from(["", " ", "\t", "\u00a0", "\u3000", "\ufeff"]))
@settings(max_examples=200)
def test_spaces_around_and_forms_of_unicode_change_nothing(cells: list[str | None], form: str, space: str) -> None:
    other = [None if cell is None else f"{space}{unicodedata.normalize(form, cell)}{space}" for cell in cells]  # type: ignore[arg-type]
    assert ids(other, EXACT).values.to_list() == ids(cells, EXACT).values.to_list()
    assert labels(other, JOIN).values.to_list() == labels(cells, JOIN).values.to_list()


@given(COLUMN)
@settings(max_examples=200)
def test_what_was_read_is_read_the_same_again(cells: list[str | None]) -> None:
    for read in (ids, labels):
        for rules in (JOIN, EXACT):
            once = read(cells, rules).values
            assert read(once.to_list(), rules).values.to_list() == once.to_list()


@given(st.text(max_size=10))
@settings(max_examples=300)
def test_a_clean_cell_is_clean(cell: str) -> None:
    assert clean(clean(cell)) == clean(cell) == clean(f" {cell}\u00a0")
