"""Floors show what they are worth: known values of a constant head, and random weights drawn three times."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from histotune.datasets.splits.split import tile_groups
from histotune.datasets.tileset import TileSet
from histotune.embeddings.space import Embeddings
from histotune.evaluation import floors
from histotune.evaluation.config import EvaluationConfig
from histotune.evaluation.floors import KNOWN, twin_rows
from histotune.evaluation.held_out import ArmMaterial, SourceStudy, StudySettings, study_source
from histotune.evaluation.material import Material
from histotune.heads.config import SweepConfig
from histotune.statistics.predictions import IntervalConfig
from histotune.tools.marks import MAJORITY, PROBE, RANDOM_SEEDS, RANDOM_WEIGHTS
from tests.evaluation.conftest import Cohort, make_material

MakeMaterial = Callable[..., Material]
SETTINGS = StudySettings(
    EvaluationConfig(
        train_magnification="100X", outer_folds=4, leak_price=False, permutations=99, floors=("majority",)
    ),
    SweepConfig(penalties=(0.01, 0.1), folds=3),
    IntervalConfig(n_resamples=200),
)


def uneven() -> Material:
    """Eight groups of one class and seven of the other: some folds have the other majority."""
    whole = make_material(Cohort(n_groups=16))
    kept = np.flatnonzero(np.array(tile_groups(whole.tiles)) != "g15")
    return whole.take(kept)


def test_the_majority_over_folds_shows_its_known_values() -> None:
    study = study_source((ArmMaterial(PROBE, uneven()),), SETTINGS)
    row = study.findings[0].row(MAJORITY)
    for name, known in (("auroc", 0.5), ("balanced_accuracy", 0.5), ("mcc", 0.0)):
        score = row.score(name)
        assert (score.value, score.interval, score.reason) == (known, None, KNOWN)
    assert row.score("log_loss").reason != KNOWN and row.score("accuracy").interval is not None
    own = next(one.predictions for one in study.scored if one.arm == MAJORITY).where(pl.col("domain") == "toy 100X")
    assert len({tuple(row) for row in own.table["probability"].to_list()}) > 1  # its folds say different things
    paired = {pair.difference.name: pair for pair in study.findings[0].paired}
    probe = study.findings[0].row(PROBE)
    for name in ("auroc", "balanced_accuracy"):
        pair = paired[f"{name} difference"]
        assert pair.difference.value == pytest.approx(probe.score(name).value - 0.5)
        assert "against the known 0.5 of a constant arm" in pair.p_words


def redrawn(material: Material, seed: int) -> Material:
    """The tiles as other random weights see them."""
    rng = np.random.default_rng(seed)
    dim = material.embeddings.matrix_ND.shape[1]
    turned = material.embeddings.matrix_ND @ rng.normal(size=(dim, dim)).astype(np.float32)
    embeddings: Embeddings = dataclasses.replace(material.embeddings, matrix_ND=turned)
    return dataclasses.replace(material, embeddings=embeddings)


def with_twins(whole: Material, twins: tuple[Material, ...]) -> SourceStudy:
    return study_source((ArmMaterial(PROBE, whole), ArmMaterial(RANDOM_WEIGHTS, redrawn(whole, 0))), SETTINGS, twins)


def test_random_weights_are_drawn_three_times_and_their_spread_stands_behind_the_floor(material: MakeMaterial) -> None:
    whole = material()
    rows = twin_rows(whole.tiles, "100X", seed=0)
    study = with_twins(whole, tuple(redrawn(whole.take(rows), seed) for seed in (1, 2)))
    arms = [row.arm for row in study.findings[0].rows]
    assert arms.index(RANDOM_SEEDS) == arms.index(RANDOM_WEIGHTS) + 1
    spread, first = (study.findings[0].row(arm).score("auroc") for arm in (RANDOM_SEEDS, RANDOM_WEIGHTS))
    assert spread.interval.low < spread.value < spread.interval.high
    assert spread.interval.low <= first.value <= spread.interval.high  # all tiles are few enough here
    assert "3 draws of random weights" in spread.interval.method
    assert "not a confidence interval" in spread.interval.method
    assert spread.n_tiles == first.n_tiles and spread.n_groups == first.n_groups
    assert RANDOM_SEEDS not in [row.arm for row in with_twins(whole, ()).findings[0].rows]


@pytest.mark.parametrize(("n_groups", "tiles_per_group"), [(16, 6), (300, 10), (20, 400)])
def test_twins_see_at_most_a_thousand_tiles_of_whole_groups_where_these_are_small(
    n_groups: int, tiles_per_group: int
) -> None:
    tiles: TileSet = make_material(
        Cohort(n_groups=n_groups, tiles_per_group=tiles_per_group, magnifications=("100X",))
    ).tiles
    rows = twin_rows(tiles, "100X", seed=0)
    assert len(rows) == min(len(tiles), len(rows)) and len(rows) <= floors.MOST_TWIN_TILES
    assert (np.diff(rows) > 0).all()
    groups = np.array(tile_groups(tiles))
    sizes = np.unique(groups[rows], return_counts=True)[1]
    if tiles_per_group < 100:
        assert (sizes == tiles_per_group).all()
    else:  # ten whole groups don't fit: some tiles of each
        assert len(sizes) == n_groups and (sizes == 1000 // n_groups).all()
    assert np.bincount(tiles.labels_N[rows]).min() > 0.4 * len(rows)
    order = np.random.default_rng(0).permutation(len(tiles))
    mixed = tiles.take(order)
    again = twin_rows(mixed, "100X", seed=0)
    assert {mixed.tile_ids[row] for row in again} == {tiles.tile_ids[row] for row in rows}


def test_only_the_training_magnification_counts(material: MakeMaterial) -> None:
    tiles = material().tiles
    rows = twin_rows(tiles, "400X", seed=0)
    assert set(tiles.table["magnification"].gather(rows)) == {"400X"}
    assert len(twin_rows(tiles, None, seed=0)) == len(tiles)
