"""Classes of a target are matched to the head's by name, and what can't be matched is said in one message."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from histotune.datasets.tileset import TileSet, tile_table
from histotune.tools.errors import UserError
from histotune.transfer.case import check_every_class, match_classes

HEAD = ("adipose", "stroma", "tumour")


def made_tiles(class_names: tuple[str, ...], labels: list[int | None]) -> TileSet:
    ids = [f"tile{row}" for row in range(len(labels))]
    table = tile_table({"tile_id": ids, "path": ids, "label": pl.Series(labels, dtype=pl.Int32)})
    return TileSet("target", table, class_names, "", "")


def test_labels_follow_the_heads_order() -> None:
    tiles = match_classes(made_tiles(("tumour", "adipose", "stroma"), [0, 1, 2, None]), HEAD)
    assert tiles.class_names == HEAD
    assert tiles.labels_N.tolist() == [2, 0, 1, -1]
    same = made_tiles(HEAD, [0, 1, 2])
    assert match_classes(same, HEAD) is same


def test_two_classes_are_read_by_their_order_whatever_their_names() -> None:
    tiles = made_tiles(("normal", "tumour"), [0, 1])
    assert match_classes(tiles, ("benign", "malignant")) is tiles
    with pytest.raises(UserError, match="needs a target of two classes"):
        match_classes(made_tiles(HEAD, [0, 1, 2]), ("benign", "malignant"))


@pytest.mark.parametrize(
    ("class_names", "told"),
    [
        (
            ("adipose", "mucus", "tumor"),
            ["lacks 'stroma', 'tumour' (closest: 'tumor')", "has 'mucus', 'tumor' (closest"],
        ),
        (("adipose", "stroma"), ["lacks 'tumour'"]),
        ((*HEAD, "mucus"), ["has 'mucus', which the head does not know"]),
    ],
)
def test_other_classes_are_refused_with_what_is_missing_and_what_is_extra(
    class_names: tuple[str, ...], told: list[str]
) -> None:
    with pytest.raises(UserError, match="matched by name") as problem:
        match_classes(made_tiles(class_names, [0, 1]), HEAD)
    assert all(words in str(problem.value) for words in told)
    assert ("lacks" in str(problem.value)) == any("lacks" in words for words in told)


def test_a_scheme_of_the_data_set_that_has_the_heads_classes_is_the_fix() -> None:
    breakhis = replace(made_tiles(("benign", "malignant"), [0, 1]), name="breakhis")
    with pytest.raises(UserError, match="labels=all8"):
        match_classes(breakhis, ("A", "F", "PT", "TA", "DC", "LC", "MC", "PC"))
    with pytest.raises(UserError, match="labels=binary"):
        match_classes(replace(made_tiles(("TA", "MC", "F", "DC"), [0]), name="breakhis"), ("benign", "malignant"))


def test_every_missing_class_is_named() -> None:
    check_every_class(np.array([0, 1, 2]), HEAD, "target")
    with pytest.raises(UserError, match="2 classes") as problem:
        check_every_class(np.array([1, 1]), HEAD, "target test")
    assert "adipose, tumour" in str(problem.value)
