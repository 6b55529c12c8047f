"""Names: what they promise, whatever the order of rows and files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.datasets.config import DatasetConfig
from histotune.datasets.read import read_dataset
from histotune.datasets.splits.named import is_split_name, named_split
from histotune.datasets.splits.split import shared_groups
from histotune.tools.errors import UserError
from tests.conftest import write_breakhis
from tests.datasets.splits.cohorts import cases, make_tiles, mixed_tiles, reordered, tiles_of_cases


@settings(max_examples=50)
@given(mixed_tiles(), st.integers(2, 5), st.integers(0, 4), st.randoms(use_true_random=False))
def test_grouped_folds_cover_each_tile_once_and_tear_no_group_apart(tiles, n_folds, seed, random) -> None:  # noqa: ANN001
    n_folds = min(n_folds, tiles.n_groups)
    split = named_split(f"grouped-{n_folds}-seed{seed}", tiles)
    assert split.sides == tuple(str(fold) for fold in range(n_folds))
    assert None not in split.side_of_tiles(tiles)
    assert shared_groups(tiles, split).groups == ()
    assert not split.leaky
    assert named_split(split.name, tiles) == split
    order = list(range(len(tiles)))
    random.shuffle(order)
    assert named_split(split.name, reordered(tiles, order)).side_by_key == split.side_by_key


@settings(max_examples=30)
@given(cases(min_size=6, max_size=30), st.integers(2, 6), st.integers(0, 9))
def test_cases_of_each_class_differ_by_at_most_one_between_folds(sizes, n_folds, seed) -> None:  # noqa: ANN001
    split = named_split(f"grouped-{n_folds}-seed{seed}", tiles_of_cases(sizes))
    totals = Counter(split.side_by_key.values())
    assert max(totals.values()) - min(totals.values()) <= 1
    for label in {label for label, _ in sizes}:
        counts = Counter(split.side_by_key[f"case-{i:02d}"] for i, (own, _) in enumerate(sizes) if own == label)
        per_fold = [counts[str(fold)] for fold in range(n_folds)]
        assert max(per_fold) - min(per_fold) <= 1


def test_another_seed_is_another_split_where_there_is_room() -> None:
    rng = np.random.default_rng(0)
    tiles = tiles_of_cases([(int(rng.integers(0, 2)), int(rng.integers(5, 60))) for _ in range(24)])
    for form, at_least in (("grouped-5", 8), ("random-images-5", 8), ("holdout-25", 6)):  # the evenest are few
        hashes = {named_split(f"{form}-seed{seed}", tiles, allow_leaky=True).split_hash for seed in range(8)}
        assert len(hashes) >= at_least, form


def test_the_order_of_files_changes_nothing(tmp_path: Path) -> None:
    tree = write_breakhis(tmp_path / "tree", n_per_class=4, magnifications=(100,), n_tiles=2)
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(tree.rglob("*.png"), reverse=True)):
        (flat / str(number % 3)).mkdir(exist_ok=True)
        path.rename(flat / str(number % 3) / path.name)
    there = read_dataset(DatasetConfig(name="breakhis", path=flat))
    again = write_breakhis(tmp_path / "again", n_per_class=4, magnifications=(100,), n_tiles=2)
    here = read_dataset(DatasetConfig(name="breakhis", path=again))
    assert named_split("grouped-4-seed2", here).split_hash == named_split("grouped-4-seed2", there).split_hash


def test_random_images_need_a_yes_and_stay_marked() -> None:
    tiles = make_tiles(["a"] * 6 + ["b"] * 7, [0] * 6 + [1] * 7)
    with pytest.raises(UserError, match="--allow-leaky"):
        named_split("random-images-3-seed0", tiles)
    split = named_split("random-images-3-seed0", tiles, allow_leaky=True)
    assert (split.leaky, split.unit, split.kind) == (True, "tile", "folds")
    sides = split.side_of_tiles(tiles)
    for label in (0, 1):
        sizes = Counter(side for side, own in zip(sides, tiles.labels_N, strict=True) if own == label)
        assert max(sizes.values()) - min(sizes.values()) <= 1
    ungrouped = named_split("random-images-3-seed0", make_tiles([None] * 9, [0, 1, 0] * 3), allow_leaky=True)
    assert ungrouped.leaky
    with pytest.raises(UserError, match="allowed: 2 to 13"):
        named_split("random-images-14-seed0", tiles, allow_leaky=True)


def test_unknown_groups_are_marked_not_refused() -> None:
    split = named_split("grouped-2-seed0", make_tiles([None, None, "a", "b"], [0, 1, 0, 1]))
    assert split.leaky
    assert split.name == "partly-grouped-2-seed0"
    assert "The group of 2 tiles is unknown" in split.notes[-1]


def test_fewer_groups_than_folds_stays_an_error() -> None:
    with pytest.raises(UserError, match="5 folds need at least 5 groups"):
        named_split("grouped-5-seed0", tiles_of_cases([(0, 3), (1, 3)]))


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("grouped-5", "grouped-5-seed0"),
        ("hold-out-20-seed0", "holdout-20-seed0"),
        ("evaa", "eva"),
        ("thunderr", "thunder"),
        ("pcam-oficial", "pcam-official"),
        ("random-image-5-seed0", "random-images-5-seed0"),
        ("author-5", "authors-5"),
    ],
)
def test_an_unknown_name_gives_the_closest_and_the_forms(name: str, closest: str) -> None:
    assert not is_split_name(name)
    with pytest.raises(UserError) as caught:
        named_split(name, tiles_of_cases([(0, 3), (1, 3)]))
    assert f"did you mean: {closest}?" in str(caught.value)
    assert "allowed: grouped-K-seedS" in str(caught.value)
