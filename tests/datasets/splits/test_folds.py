"""Folds: grouped, balanced, independent of row order, the same everywhere."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from histotune.datasets.splits.folds import (
    assign_group_folds,
    fold_per_tile,
    grouped_folds,
    random_image_folds_like,
)
from histotune.datasets.splits.split import tile_groups
from histotune.datasets.tileset import TileSet, tile_table
from histotune.tools.errors import UserError
from histotune.tools.files import hash_json

# Frozen: the folds of seed 0 and 1 must stay what they are on every platform and with every version.
GOLDEN_GROUPS = [f"14-{100 + i}" for i in range(12)]
GOLDEN_SIZES = [1, 30, 7, 12, 3, 9, 22, 5, 14, 2, 40, 8]
GOLDEN_LABELS = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
GOLDEN = {
    0: {
        "14-100": 0,
        "14-101": 1,
        "14-102": 0,
        "14-103": 2,
        "14-104": 3,
        "14-105": 3,
        "14-106": 2,
        "14-107": 1,
        "14-108": 3,
        "14-109": 2,
        "14-110": 0,
        "14-111": 1,
    },
    1: {
        "14-100": 0,
        "14-101": 2,
        "14-102": 0,
        "14-103": 3,
        "14-104": 1,
        "14-105": 3,
        "14-106": 1,
        "14-107": 2,
        "14-108": 1,
        "14-109": 3,
        "14-110": 0,
        "14-111": 2,
    },
}


def check_disjoint(groups: list[str], fold_N: np.ndarray) -> None:
    """Refuse an assignment that puts one group on two sides."""
    fold_by_group: dict[str, int] = {}
    torn = set()
    for group, fold in zip(groups, fold_N.tolist(), strict=True):
        if fold_by_group.setdefault(group, fold) != fold:
            torn.add(group)
    if torn:
        raise ValueError(f"{len(torn)} groups lie on two sides of the split: {', '.join(sorted(torn)[:5])}")


@st.composite
def tilings(draw: st.DrawFn) -> tuple[list[str], np.ndarray, int]:
    """Groups of tiles with labels; most groups hold one class, some several, some tiles are unlabelled."""
    n_classes = draw(st.integers(2, 4))
    groups, labels = [], []
    for group in range(draw(st.integers(2, 25))):
        main = draw(st.integers(0, n_classes - 1))
        for label in draw(st.lists(st.one_of(st.just(main), st.integers(-1, n_classes - 1)), min_size=1, max_size=12)):
            groups.append(f"case-{group}")
            labels.append(label)
    return groups, np.array(labels, dtype=np.int64), n_classes


def golden_rows() -> tuple[list[str], np.ndarray]:
    groups = [group for group, size in zip(GOLDEN_GROUPS, GOLDEN_SIZES, strict=True) for _ in range(size)]
    labels = [label for label, size in zip(GOLDEN_LABELS, GOLDEN_SIZES, strict=True) for _ in range(size)]
    return groups, np.array(labels, dtype=np.int64)


def make_tiles(groups: list[str | None], labels: list[int | None]) -> TileSet:
    ids = [f"tile-{i:04d}" for i in range(len(groups))]
    table = tile_table({"tile_id": ids, "group_id": groups, "label": labels})
    return TileSet("toy", table, ("benign", "malignant"), licence="CC0", citation="none")


@pytest.mark.parametrize("seed", GOLDEN)
def test_folds_stay_what_they_are(seed: int) -> None:
    groups, labels_N = golden_rows()
    assert assign_group_folds(groups, labels_N, n_classes=2, n_folds=4, seed=seed) == GOLDEN[seed]


@settings(max_examples=150)
@given(tilings(), st.integers(2, 6), st.integers(0, 5), st.randoms(use_true_random=False))
def test_row_order_changes_nothing(tiling, n_folds, seed, random) -> None:  # noqa: ANN001
    groups, labels_N, n_classes = tiling
    n_folds = min(n_folds, len(set(groups)))
    folds = assign_group_folds(groups, labels_N, n_classes, n_folds, seed)
    order = list(range(len(groups)))
    random.shuffle(order)
    shuffled = assign_group_folds([groups[i] for i in order], labels_N[order], n_classes, n_folds, seed)
    assert shuffled == folds
    assert list(shuffled) == list(folds)


@settings(max_examples=150)
@given(tilings(), st.integers(2, 6), st.integers(0, 5))
def test_every_tile_is_in_one_fold_and_no_fold_is_empty(tiling, n_folds, seed) -> None:  # noqa: ANN001
    groups, labels_N, n_classes = tiling
    n_folds = min(n_folds, len(set(groups)))
    folds = assign_group_folds(groups, labels_N, n_classes, n_folds, seed)
    assert set(folds) == set(groups)
    assert set(folds.values()) == set(range(n_folds))
    fold_N = np.array([folds[group] for group in groups])
    check_disjoint(groups, fold_N)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), min_size=6, max_size=40), st.integers(2, 6),
    st.integers(0, 9),
)  # fmt: skip
def test_group_counts_per_class_differ_by_at_most_one(cases, n_folds, seed) -> None:  # noqa: ANN001
    groups = [f"case-{i}" for i, (_, size) in enumerate(cases) for _ in range(size)]
    labels_N = np.array([label for label, size in cases for _ in range(size)])
    folds = assign_group_folds(groups, labels_N, n_classes=3, n_folds=n_folds, seed=seed)
    for label in {label for label, _ in cases}:
        counts = Counter(folds[f"case-{i}"] for i, (own, _) in enumerate(cases) if own == label)
        per_fold = [counts[fold] for fold in range(n_folds)]
        assert max(per_fold) - min(per_fold) <= 1


def test_a_class_with_fewer_groups_than_folds_is_spread_and_the_rest_fills_up() -> None:
    groups = ["a1", "a2", *(f"b{i}" for i in range(8))]
    folds = assign_group_folds(groups, np.array([0, 0] + [1] * 8), n_classes=2, n_folds=5, seed=3)
    assert folds["a1"] != folds["a2"]
    assert sorted(Counter(folds.values()).values()) == [2, 2, 2, 2, 2]


def test_mixed_groups_spread_over_the_folds() -> None:
    # four tumour slides hold both classes, eight normal slides hold one: every fold gets one and two of them
    groups, labels = [], []
    for i in range(4):
        groups += [f"tumour-{i}"] * 20
        labels += [0] * 12 + [1] * 8
    for i in range(8):
        groups += [f"normal-{i}"] * 10
        labels += [0] * 10
    folds = assign_group_folds(groups, np.array(labels), n_classes=2, n_folds=4, seed=0)
    assert sorted(folds[f"tumour-{i}"] for i in range(4)) == [0, 1, 2, 3]
    assert Counter(folds[f"normal-{i}"] for i in range(8)) == {0: 2, 1: 2, 2: 2, 3: 2}


def test_tiles_are_balanced_too_and_groups_better_than_scikit_learn_balances_them() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(10, 60, 67)
    labels = (np.arange(67) >= 20).astype(np.int64)
    groups = [f"case-{i}" for i, size in enumerate(sizes) for _ in range(size)]
    labels_N = np.repeat(labels, sizes)
    tile_spread, group_spread, theirs = [], [], []
    for seed in range(10):
        folds = assign_group_folds(groups, labels_N, n_classes=2, n_folds=5, seed=seed)
        tile_spread.append(np.ptp(np.bincount([folds[group] for group in groups], minlength=5)))
        group_spread.append(np.ptp(list(Counter(folds.values()).values())))
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        sides = [set(np.array(groups)[test]) for _, test in splitter.split(labels_N, labels_N, groups)]
        theirs.append(np.ptp([len(side) for side in sides]))
    assert max(tile_spread) <= 0.2 * len(groups) / 5
    assert max(group_spread) <= 1 <= max(theirs)


def test_the_seed_changes_the_folds_and_the_hash() -> None:
    groups, labels_N = golden_rows()
    folds = [assign_group_folds(groups, labels_N, 2, 4, seed) for seed in range(6)]
    assert len({hash_json(fold) for fold in folds}) >= 4


def test_fewer_groups_than_folds_is_refused_with_the_fix() -> None:
    with pytest.raises(UserError) as caught:
        assign_group_folds(["a", "b", "c"], np.array([0, 1, 1]), n_classes=2, n_folds=5, seed=0)
    message = str(caught.value)
    assert "5 folds need at least 5 groups, and these tiles come from 3 groups" in message
    assert "allowed: 2 to 3 folds" in message
    assert "--set sweep.folds=3" in message
    assert "--set evaluation.outer_folds=3" in message


@pytest.mark.parametrize("groups", [[], ["a", "a"]])
def test_no_folds_from_less_than_two_groups(groups: list[str]) -> None:
    with pytest.raises(UserError, match="at least 2 groups"):
        assign_group_folds(groups, np.zeros(len(groups), np.int64), n_classes=2, n_folds=2, seed=0)


def test_one_fold_is_no_cross_validation() -> None:
    with pytest.raises(UserError, match="at least 2 folds"):
        assign_group_folds(["a", "b"], np.array([0, 1]), n_classes=2, n_folds=1, seed=0)


def test_labels_outside_the_classes_and_unequal_lengths_are_bugs() -> None:
    with pytest.raises(ValueError, match="label 2 lies outside"):
        assign_group_folds(["a", "b"], np.array([0, 2]), n_classes=2, n_folds=2, seed=0)
    with pytest.raises(ValueError):
        assign_group_folds(["a", "b", "c"], np.array([0, 1]), n_classes=2, n_folds=2, seed=0)


def test_folds_of_a_tile_set_cover_parts_of_it() -> None:
    tiles = make_tiles(["a", "a", "b", "c", "d"], [0, 0, 1, 0, 1])
    folds = grouped_folds(tiles, n_folds=2, seed=0)
    assert folds.name == "grouped-2-seed0"
    assert not folds.leaky
    fold_N = fold_per_tile(tiles, folds)
    assert fold_N.dtype == np.int64
    part = tiles.take(np.array([4, 1]))
    assert fold_per_tile(part, folds).tolist() == fold_N[[4, 1]].tolist()
    with pytest.raises(ValueError, match="not part of grouped-2-seed0"):
        fold_per_tile(make_tiles(["z"], [0]), folds)


def test_tiles_without_group_never_group_together_and_mark_the_folds_leaky() -> None:
    tiles = make_tiles([None, None, "a", "a"], [0, 1, 0, 1])
    assert tile_groups(tiles) == ("tile:tile-0000", "tile:tile-0001", "a", "a")
    folds = grouped_folds(tiles, n_folds=2, seed=0)
    assert folds.leaky
    assert folds.name == "partly-grouped-2-seed0"
    alone = grouped_folds(make_tiles([None, None, None], [0, 1, 1]), n_folds=3, seed=0)
    assert alone.leaky
    assert alone.name == "ungrouped-3-seed0"
    assert sorted(alone.side_by_key.values()) == ["0", "1", "2"]


@settings(max_examples=100)
@given(tilings(), st.integers(0, 5))
def test_a_random_image_split_keeps_fold_sizes_and_class_counts(tiling, seed) -> None:  # noqa: ANN001
    groups, labels_N, n_classes = tiling
    folds = assign_group_folds(groups, labels_N, n_classes, 2, seed)
    fold_N = np.array([folds[group] for group in groups])
    random_N = random_image_folds_like(fold_N, labels_N, seed)
    assert random_N.dtype == np.int64
    assert Counter(zip(labels_N.tolist(), random_N.tolist(), strict=True)) == Counter(
        zip(labels_N.tolist(), fold_N.tolist(), strict=True)
    )


def test_a_random_image_split_tears_groups_apart_and_follows_its_seed() -> None:
    groups, labels_N = golden_rows()
    folds = assign_group_folds(groups, labels_N, 2, 4, 0)
    fold_N = np.array([folds[group] for group in groups])
    first = random_image_folds_like(fold_N, labels_N, 0)
    assert np.array_equal(first, random_image_folds_like(fold_N, labels_N, 0))
    assert not np.array_equal(first, random_image_folds_like(fold_N, labels_N, 1))
    with pytest.raises(ValueError, match="two sides of the split"):
        check_disjoint(groups, first)
    with pytest.raises(ValueError, match="differ in shape"):
        random_image_folds_like(fold_N, labels_N[:-1], 0)


def test_a_leak_is_named() -> None:
    with pytest.raises(ValueError, match="1 groups lie on two sides of the split: b"):
        check_disjoint(["a", "b", "a", "b"], np.array([0, 0, 0, 1]))
