"""A smaller data set: named, counted, whole groups whole, the same for every order of rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from histotune.datasets.config import DatasetConfig, SubsetConfig
from histotune.datasets.read import read_dataset, take_subset
from histotune.tools.errors import UserError, UserErrors
from tests.conftest import write_breakhis
from tests.datasets.fakes import write_part
from tests.datasets.splits.cohorts import make_tiles, mixed_tiles, reordered, tiles_of_cases


def test_nothing_asked_for_changes_nothing() -> None:
    tiles = tiles_of_cases([(0, 3), (1, 3)])
    assert take_subset(tiles, SubsetConfig()) is tiles
    assert SubsetConfig(seed=3).name == ""


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (SubsetConfig(magnifications=("40X", "100X")), "40X+100X"),
        (SubsetConfig(classes=("TA", "MC"), group_fraction=0.25, seed=3), "TA+MC-groups0.25-seed3"),
        (SubsetConfig(shots=16), "16tiles-per-class-seed0"),
        (SubsetConfig(magnifications=("40X",), shots=2, shots_of="groups", seed=1), "40X-2groups-per-class-seed1"),
    ],
)
def test_the_name_says_everything_and_the_seed_where_something_is_drawn(config: SubsetConfig, name: str) -> None:
    assert config.name == name


def test_the_reader_applies_it_and_notes_what_was_kept(tmp_path: Path) -> None:
    root = write_breakhis(tmp_path, n_per_class=4, magnifications=(100, 400), n_tiles=2)
    settings_ = {"name": "breakhis", "path": root, "subset": {"magnifications": ["400X"], "group_fraction": 0.5}}
    tiles = read_dataset(DatasetConfig.model_validate(settings_))
    assert set(tiles.table["magnification"]) == {"400X"}
    assert tiles.notes[-1] == (
        "Subset 400X-groups0.5-seed0: kept 8 of 32 tiles, 4 of 8 groups (4 benign, 4 malignant)."
    )


def test_classes_are_numbered_anew_in_the_data_sets_order(tmp_path: Path) -> None:
    root = write_breakhis(tmp_path, n_per_class=2, magnifications=(100,), n_tiles=1)
    settings_ = {"name": "breakhis", "path": root, "labels": "all8", "subset": {"classes": ["DC", "A"]}}
    tiles = read_dataset(DatasetConfig.model_validate(settings_))
    assert tiles.class_names == ("A", "DC")
    assert Counter(tiles.labels_N.tolist()) == {0: 2, 1: 2}
    assert all(
        ("_A-" in tile_id) == (label == 0) for tile_id, label in zip(tiles.tile_ids, tiles.labels_N, strict=True)
    )


def test_unknown_names_are_reported_together_with_the_closest() -> None:
    tiles = tiles_of_cases([(0, 3), (1, 3)])
    with pytest.raises(UserErrors) as caught:
        take_subset(tiles, SubsetConfig(magnifications=("40X",), classes=("maligant",)))
    text = str(caught.value)
    assert "no such magnification in this data set: '40X'" in text
    assert "did you mean: malignant?" in text


def test_nothing_left_is_refused() -> None:
    with pytest.raises(UserError, match="this subset holds no tiles: 'other'"):
        take_subset(tiles_of_cases([(0, 3), (1, 3)]), SubsetConfig(classes=("other",)))


@pytest.mark.parametrize("wrong", [{"group_fraction": 0}, {"group_fraction": 1.1}, {"shots": 0}, {"shot": 1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SubsetConfig.model_validate(wrong)


@settings(max_examples=40)
@given(mixed_tiles(), st.integers(1, 1000), st.integers(0, 3), st.randoms(use_true_random=False))
def test_a_share_of_the_groups_keeps_whole_groups(tiles, permille, seed, random) -> None:  # noqa: ANN001
    config = SubsetConfig(group_fraction=permille / 1000, seed=seed)
    taken = take_subset(tiles, config)
    for group, n in Counter(taken.table["group_id"]).items():
        assert n == tiles.table.filter(pl.col("group_id") == group).height
    assert abs(taken.n_groups - tiles.n_groups * permille / 1000) <= 1
    order = list(range(len(tiles)))
    random.shuffle(order)
    assert set(take_subset(reordered(tiles, order), config).tile_ids) == set(taken.tile_ids)


@settings(max_examples=40)
@given(mixed_tiles(), st.integers(1, 12), st.integers(0, 3), st.randoms(use_true_random=False))
def test_shots_are_so_many_tiles_of_each_class(tiles, shots, seed, random) -> None:  # noqa: ANN001
    if (tiles.labels_N < 0).all():
        return
    config = SubsetConfig(shots=shots, seed=seed)
    taken = take_subset(tiles, config)
    available = Counter(label for label in tiles.labels_N.tolist() if label >= 0)
    assert Counter(taken.labels_N.tolist()) == {label: min(n, shots) for label, n in available.items()}
    few = [note for note in taken.notes if "has only" in note]
    assert len(few) == sum(n < shots for n in available.values())
    order = list(range(len(tiles)))
    random.shuffle(order)
    assert set(take_subset(reordered(tiles, order), config).tile_ids) == set(taken.tile_ids)


def test_shots_of_groups_take_them_whole_and_count_mixed_ones_for_each_class() -> None:
    groups = ["mixed"] * 4 + ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    tiles = make_tiles(groups, [0, 0, 1, 1] + [0] * 3 + [1] * 3 + [1] * 3)
    for seed in range(6):
        taken = take_subset(tiles, SubsetConfig(shots=1, shots_of="groups", seed=seed))
        kept = Counter(taken.table["group_id"])
        assert all(n == Counter(groups)[group] for group, n in kept.items())
        assert len(kept) <= 2
        assert set(taken.labels_N.tolist()) == {0, 1}
    nested = [set(take_subset(tiles, SubsetConfig(shots=n, seed=0)).tile_ids) for n in (1, 2, 4)]
    assert nested[0] < nested[1] < nested[2], "more shots of a seed contain the fewer"


def test_the_seed_changes_the_draw() -> None:
    tiles = tiles_of_cases([(i % 2, 8) for i in range(20)])
    for config in ({"shots": 4}, {"group_fraction": 0.3}, {"shots": 3, "shots_of": "groups"}):
        drawn = {
            take_subset(tiles, SubsetConfig.model_validate({**config, "seed": seed})).tile_ids for seed in range(5)
        }
        assert len(drawn) >= 4


def test_where_there_are_official_parts_only_training_is_thinned_out(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        write_part(tmp_path, part, [0, 1] * 10, [f"{part}_{i // 4}" for i in range(20)])
    settings_ = {"name": "patch_camelyon", "path": tmp_path, "subset": {"shots": 3, "seed": 2}}
    tiles = read_dataset(DatasetConfig.model_validate(settings_))
    assert Counter(tiles.table["split"]) == {"train": 6, "valid": 20, "test": 20}
    assert "Only the official train part was thinned out; valid and test are whole." in tiles.notes
    assert np.array_equal(np.sort(np.array(tiles.tile_ids)), np.array(tiles.tile_ids))
