"""Classes of a data set are matched to the head's by name, and what can't be matched is said in one message."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import polars as pl
import pytest

from histotune.datasets.tileset import TileSet, tile_table
from histotune.evaluation.config import EvaluationConfig
from histotune.heads.classes import match_classes, match_names, parse_classes
from histotune.tools.errors import UserError
from histotune.transfer.case import check_every_class

HEAD = ("adipose", "stroma", "tumour")
TWO = ("benign", "malignant")


def made_tiles(class_names: tuple[str, ...], labels: list[int | None]) -> TileSet:
    ids = [f"tile{row}" for row in range(len(labels))]
    table = tile_table({"tile_id": ids, "path": ids, "label": pl.Series(labels, dtype=pl.Int32)})
    return TileSet("target", table, class_names, "", "")


def names_of(tiles: TileSet) -> list[str]:
    return [tiles.class_names[label] for label in tiles.labels_N if label >= 0]


def test_labels_follow_the_heads_order() -> None:
    match = match_classes(made_tiles(("tumour", "adipose", "stroma"), [0, 1, 2, None]), HEAD)
    assert match.tiles.class_names == HEAD
    assert match.tiles.labels_N.tolist() == [2, 0, 1, -1]
    assert match.notes == ()
    same = made_tiles(HEAD, [0, 1, 2])
    assert match_classes(same, HEAD).tiles is same


@pytest.mark.parametrize("names", [*permutations(HEAD), ("malignant", "benign"), TWO])
def test_no_order_of_the_same_names_changes_what_a_tile_is(names: tuple[str, ...]) -> None:
    tiles = made_tiles(names, [*range(len(names)), 1, 0])
    head = HEAD if len(names) > 2 else TWO
    assert names_of(match_classes(tiles, head).tiles) == names_of(tiles)


@pytest.mark.parametrize(
    "names", [("normal", "tumour"), ("Negative", "Positive"), ("normal", "cancer"), ("non-tumor", "Tumor")]
)
@pytest.mark.parametrize("head", [TWO, ("malignant", "benign"), ("negative", "positive")])
def test_two_names_of_one_question_are_read_by_what_they_mean_and_said(
    names: tuple[str, str], head: tuple[str, str]
) -> None:
    positive = next(name for name in head if name in {"malignant", "positive"})
    for order in (names, names[::-1]):
        match = match_classes(made_tiles(order, [0, 1, 1]), head)
        said = names_of(match.tiles)
        assert [name == positive for name in said] == [order[label] == names[1] for label in (0, 1, 1)]
        assert match.in_own_words().class_names[head.index(positive)] == names[1]
        if match.read_as:
            assert f"{names[1]} is read as {positive}" in match.notes[0] and "--classes" in match.notes[0]


def test_spellings_of_one_name_are_matched_and_said() -> None:
    match = match_classes(made_tiles((" Tumor", "ADIPOSE", "stroma"), [0, 1, 2]), HEAD)
    assert match.tiles.labels_N.tolist() == [2, 0, 1]
    assert "ADIPOSE is read as adipose" in match.notes[0]


@pytest.mark.parametrize(
    ("names", "head"),
    [
        (("low", "high"), TWO),
        (("benign", "normal"), TWO),
        (("0", "1"), TWO),
        (("benign", "tumour"), ("normal", "benign")),
        (("a", "b"), ("b", "c")),
    ],
)
def test_names_that_say_nothing_of_each_other_are_refused(names: tuple[str, str], head: tuple[str, str]) -> None:
    with pytest.raises(UserError, match="matched by name") as problem:
        match_classes(made_tiles(names, [0, 1]), head)
    assert problem.value.value == ", ".join(names)
    assert problem.value.allowed == ", ".join(head)
    assert "--classes" in (problem.value.fix or "")


def test_the_users_reading_goes_before_every_other() -> None:
    tiles = made_tiles(("normal", "tumour"), [0, 1, 1])
    other = match_classes(tiles, TWO, {"normal": "malignant", "tumour": "benign"})
    assert names_of(other.tiles) == ["malignant", "benign", "benign"]
    several = match_classes(made_tiles(("in situ", "normal", "tumour"), [0, 1, 2]), TWO, {"in situ": "malignant",
                            "normal": "benign", "tumour": "malignant"})  # fmt: skip
    assert names_of(several.tiles) == ["malignant", "benign", "malignant"]
    assert several.in_own_words().class_names == TWO


def test_the_heads_own_reading_counts_where_the_user_says_nothing() -> None:
    tiles, known = made_tiles(("0", "1"), [0, 1]), {"0": "benign", "1": "malignant", "2": "benign"}
    assert names_of(match_classes(tiles, TWO, known=known).tiles) == list(TWO)
    turned = match_classes(tiles, TWO, {"0": "malignant", "1": "benign"}, known)
    assert names_of(turned.tiles) == ["malignant", "benign"]


def test_an_empty_name_leaves_tiles_out_and_they_are_counted() -> None:
    match = match_classes(made_tiles((*TWO, "artefact"), [0, 1, 2, 2]), TWO, {"artefact": ""})
    assert match.tiles.labels_N.tolist() == [0, 1, -1, -1]
    assert "2 tiles of artefact are left out" in match.notes[0]


@pytest.mark.parametrize("stated", [{"nrmal": "benign"}, {"normal": "benig"}])
def test_a_reading_of_what_is_not_there_is_refused_with_the_closest(stated: dict[str, str]) -> None:
    with pytest.raises(UserError) as problem:
        match_classes(made_tiles(("normal", "tumour"), [0, 1]), TWO, stated)
    assert problem.value.closest in {"normal", "benign"}


def test_a_class_without_tiles_stands_in_nobodys_way() -> None:
    match = match_classes(made_tiles((*TWO, "artefact"), [0, 1]), TWO)
    assert match.tiles.class_names == TWO
    fewer = match_classes(made_tiles(("tumour", "adipose"), [0, 1]), HEAD)
    assert fewer.tiles.labels_N.tolist() == [2, 0]


def test_tiles_without_labels_are_one_message() -> None:
    with pytest.raises(UserError, match="no tile of target has a label"):
        match_classes(made_tiles((), [None, None]), TWO)


@pytest.mark.parametrize(
    ("class_names", "told"),
    [
        (("adipose", "mucus", "tumor"), ["lacks 'stroma'", "has 'mucus'"]),
        (("adiposis", "stroma", "tumour"), ["lacks 'adipose' (closest: 'adiposis')"]),
        ((*HEAD, "mucus"), ["has 'mucus', which the head does not know"]),
    ],
)
def test_other_classes_are_refused_with_what_is_missing_and_what_is_extra(
    class_names: tuple[str, ...], told: list[str]
) -> None:
    with pytest.raises(UserError, match="matched by name") as problem:
        match_classes(made_tiles(class_names, list(range(len(class_names)))), HEAD)
    assert all(words in str(problem.value) for words in told)
    assert ("lacks" in str(problem.value)) == any("lacks" in words for words in told)


def test_the_reading_that_a_message_proposes_is_taken() -> None:
    tiles = made_tiles(("adipose", "mucus", "tumour"), [0, 1, 2])
    with pytest.raises(UserError) as problem:
        match_classes(tiles, HEAD)
    proposed = (problem.value.fix or "").split("'")[1]
    read = EvaluationConfig.model_validate({"classes": proposed}).classes
    assert read == {"mucus": "stroma"}
    assert names_of(match_classes(tiles, HEAD, read).tiles) == list(HEAD)


def test_a_scheme_of_the_data_set_that_has_the_heads_classes_is_the_fix() -> None:
    breakhis = replace(made_tiles(TWO, [0, 1]), name="breakhis")
    with pytest.raises(UserError, match="labels=all8"):
        match_classes(breakhis, ("A", "F", "PT", "TA", "DC", "LC", "MC", "PC"))
    with pytest.raises(UserError, match="labels=binary"):
        match_classes(replace(made_tiles(("TA", "MC", "F", "DC"), [0]), name="breakhis"), TWO)


def test_the_hash_of_scored_tiles_is_that_of_the_data_whatever_head_reads_them() -> None:
    tiles = made_tiles(("normal", "tumour"), [0, 1, 1])
    one, other = match_classes(tiles, TWO), match_classes(tiles, ("tumour", "normal"))
    ids = tiles.tile_ids[:2]
    assert one.fingerprint(ids) == other.fingerprint(ids) == tiles.take(np.array([0, 1])).label_fingerprint


@pytest.mark.parametrize("text", ["normal", "=benign", "a=b,a=c", "a:b"])
def test_a_reading_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="NAME-IN-THE-DATA=NAME-IN-THE-HEAD"):
        parse_classes(text)


def test_names_alone_are_matched_alike() -> None:
    assert match_names(["MSI", "MSS"], ["MSS", "MSI"]) == {"MSI": "MSI", "MSS": "MSS"}
    assert match_names(["low", "high"], TWO) == {}


def test_every_missing_class_is_named() -> None:
    check_every_class(np.array([0, 1, 2]), HEAD, "target")
    with pytest.raises(UserError, match="2 classes") as problem:
        check_every_class(np.array([1, 1]), HEAD, "target test")
    assert "adipose, tumour" in str(problem.value)


@pytest.mark.parametrize(
    ("one", "other"), [("HER2-", "HER2"), ("HER2-", "HER2+"), ("grade 2.1", "grade 21"), ("1-2", "12")]
)
def test_names_that_differ_by_more_than_spelling_are_no_match(one: str, other: str) -> None:
    assert match_names([one, "rest", "third"], [other, "rest", "third"]).get(one) is None


@pytest.mark.parametrize(
    ("one", "other"), [("Her2-", "HER2-"), ("non_tumor", "Non-Tumour"), ("1.0", "1"), ("\uff34umour", "tumor")]
)
def test_spellings_of_one_name_are_one(one: str, other: str) -> None:
    assert match_names([one, "rest", "third"], [other, "rest", "third"])[one] == other
