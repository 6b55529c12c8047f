"""The record of a split: sides in order, a hash of what counts, tiles found by group or by id."""

from __future__ import annotations

from dataclasses import replace

from histotune.datasets.splits.split import Split, note_outside
from tests.datasets.splits.cohorts import make_tiles


def test_sides_come_in_their_order() -> None:
    assert Split("x", "parts", "group", {"a": "test", "b": "train", "c": "valid"}).sides == ("train", "valid", "test")
    assert Split("x", "folds", "group", {str(i): str(11 - i) for i in range(12)}).sides == tuple(map(str, range(12)))


def test_the_hash_speaks_of_unit_and_sides_alone() -> None:
    split = Split("x", "folds", "group", {"a": "0", "b": "1"})
    same = Split("y", "folds", "group", {"b": "1", "a": "0"}, leaky=True, notes=("n",), partial=True)
    assert split.split_hash == same.split_hash
    assert len(split.split_hash) == 64
    assert replace(split, unit="tile").split_hash != split.split_hash
    assert replace(split, side_by_key={"a": "1", "b": "0"}).split_hash != split.split_hash
    assert split.title == f"x (hash {split.split_hash[:12]})"


def test_tiles_are_found_by_group_or_by_id() -> None:
    tiles = make_tiles(["a", None, "b"], [0, 0, 1])
    by_group = Split("x", "parts", "group", {"a": "train", "tile:tile-00001": "test"}, partial=True)
    assert by_group.side_of_tiles(tiles) == ("train", "test", None)
    by_tile = Split("x", "parts", "tile", {"tile-00002": "test"})
    assert by_tile.side_of_tiles(tiles) == (None, None, "test")


def test_tiles_without_a_side_are_counted_once() -> None:
    tiles = make_tiles(["a", "b", "c"], [0, 0, 1])
    split = note_outside(Split("x", "parts", "group", {"a": "train"}, notes=("first",)), tiles)
    assert split.notes == ("first", "2 tiles take no part in this split.")
    assert note_outside(split, tiles.take([0, 1])).notes == ("first", "1 tile takes no part in this split.")  # type: ignore[arg-type]
    assert note_outside(split, tiles.take([0])).notes == ("first",)  # type: ignore[arg-type]
