"""Hold-outs: whole groups, the share within one group of the wish, classes in proportion."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.datasets.splits.folds import grouped_holdout
from histotune.datasets.splits.split import shared_groups
from histotune.tools.errors import UserError
from tests.datasets.splits.cohorts import groups_by_side, make_tiles, mixed_tiles, reordered, tiles_of_cases


@settings(max_examples=50)
@given(mixed_tiles(), st.integers(1, 99), st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_share_is_within_one_group_of_the_wish_whatever_the_order(tiles, percent, seed, random) -> None:  # noqa: ANN001
    split = grouped_holdout(tiles, percent, seed)
    assert split.sides == ("train", "test")
    assert shared_groups(tiles, split).groups == ()
    sides = split.side_of_tiles(tiles)
    assert None not in sides
    n_test = len(groups_by_side(tiles, sides)["test"])
    assert abs(n_test - percent * tiles.n_groups / 100) <= 1
    order = list(range(len(tiles)))
    random.shuffle(order)
    assert grouped_holdout(reordered(tiles, order), percent, seed).side_by_key == split.side_by_key


def test_beyond_the_search_the_share_and_the_classes_still_fit() -> None:
    tiles = tiles_of_cases([(0, 1 + i % 7) for i in range(150)] + [(1, 1 + i % 11) for i in range(50)])
    split = grouped_holdout(tiles, 20, 3)
    held_out = [key for key, side in split.side_by_key.items() if side == "test"]
    by_class = Counter("benign" if int(key.removeprefix("case-")) < 150 else "malignant" for key in held_out)
    assert by_class == {"benign": 30, "malignant": 10}
    n_tiles = sum(side == "test" for side in split.side_of_tiles(tiles))
    assert abs(n_tiles / len(tiles) - 0.2) < 0.04


def test_a_class_of_one_group_stays_in_training() -> None:
    for seed in range(5):
        split = grouped_holdout(tiles_of_cases([(0, 9)] * 6 + [(1, 9)] * 6 + [(2, 4)]), 40, seed)
        assert split.side_by_key["case-12"] == "train"


def test_the_seed_is_followed_and_named() -> None:
    tiles = tiles_of_cases([(i % 2, 10) for i in range(20)])
    splits = [grouped_holdout(tiles, 20, seed) for seed in range(6)]
    assert splits[3].name == "holdout-20-seed3"
    assert splits[3] == grouped_holdout(tiles, 20, 3)
    assert len({split.split_hash for split in splits}) >= 4


def test_unknown_groups_are_named_and_leaky() -> None:
    split = grouped_holdout(make_tiles([None, None, "a", "b"], [0, 1, 0, 1]), 50, 0)
    assert split.name == "partly-grouped-holdout-50-seed0"
    assert split.leaky
    assert any("The group of 2 tiles is unknown" in note for note in split.notes)


def test_what_can_not_be_held_out_is_refused() -> None:
    with pytest.raises(UserError, match="at least 2 groups, and these tiles come from 1"):
        grouped_holdout(make_tiles(["a", "a"], [0, 1]), 20, 0)
    with pytest.raises(UserError, match="allowed: 1 to 99"):
        grouped_holdout(make_tiles(["a", "b"], [0, 1]), 100, 0)
