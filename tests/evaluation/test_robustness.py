"""Robustness index: the definition in a plain double loop, its ends, and what refuses it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from histotune.evaluation import robustness
from histotune.evaluation.config import EvaluationConfig
from histotune.evaluation.external import study_target
from histotune.evaluation.findings import RobustnessTable
from histotune.evaluation.held_out import ArmMaterial, StudySettings, study_source
from histotune.evaluation.material import Material, ScoredRows, build_predictions, spread_order
from histotune.evaluation.robustness import (
    EmbeddedArm,
    RobustnessSettings,
    Square,
    cross,
    nearest_of_other_groups,
    robustness_score,
    score_robustness,
    sum_tallies,
    tally_square,
)
from histotune.evaluation.scoring import score_domains
from histotune.heads.config import SweepConfig
from histotune.heads.neighbours import ExclusionCodes, nearest_neighbours
from histotune.statistics.predictions import IntervalConfig
from histotune.tools.marks import PROBE

MakeMaterial = Callable[..., Material]
INTERVAL = IntervalConfig()
SETTINGS = RobustnessSettings(5, 0, INTERVAL)


def made_square(
    *, class_effect: float = 0.5, site_effect: float = 0.5, n_groups: int = 16, per_group: int = 5, seed: int = 0,
    mixed: bool = False,
) -> Square:  # fmt: skip
    """Groups of one class and one site each, or holding both classes where ``mixed``."""
    rng = np.random.default_rng(seed)
    group_N = np.repeat(np.arange(n_groups), per_group)
    site_N = group_N // 2 % 2
    class_N = np.arange(len(group_N)) % 2 if mixed else group_N % 2
    x_ND = rng.normal(size=(len(group_N), 12)) + 0.6 * rng.normal(size=(n_groups, 12))[group_N]
    x_ND[:, 0] += 4 * class_effect * (2 * class_N - 1)
    x_ND[:, 1] += 4 * site_effect * (2 * site_N - 1)
    return Square(x_ND.astype(np.float32), class_N, site_N, group_N)


def plain_counts(square: Square, k: int, keep_N: NDArray[np.bool_]) -> tuple[int, int]:
    """SO and OS of the kept tiles, tile by tile."""
    x_ND = square.x_ND.astype(np.float64)
    same_class = same_site = 0
    rows = np.flatnonzero(keep_N)
    for i in rows:
        cosines = []
        for j in rows:
            if square.group_N[j] != square.group_N[i]:
                cosine = x_ND[i] @ x_ND[j] / (np.linalg.norm(x_ND[i]) * np.linalg.norm(x_ND[j]))
                cosines.append((-cosine, j))
        for _, j in sorted(cosines)[:k]:
            alike = square.class_N[i] == square.class_N[j], square.site_N[i] == square.site_N[j]
            same_class += alike == (True, False)
            same_site += alike == (False, True)
    return same_class, same_site


@pytest.mark.parametrize(("k", "mixed"), [(1, False), (7, False), (7, True), (200, False)])
def test_counts_equal_a_plain_double_loop_whole_and_without_each_group(k: int, mixed: bool) -> None:
    square = made_square(mixed=mixed, n_groups=9)
    found = tally_square(square, k, 11)  # two groups hold no tile here
    everything_N = np.ones(len(square.group_N), np.bool_)
    assert (found.same_class, found.same_site) == plain_counts(square, k, everything_N)
    for group in range(11):
        expected = plain_counts(square, k, square.group_N != group)
        assert (found.same_class_G[group], found.same_site_G[group]) == expected
    assert found.index == found.same_class / (found.same_class + found.same_site)


def test_neighbours_equal_those_of_the_heads() -> None:
    square = made_square(n_groups=30, per_group=20)
    ours_NJ = nearest_of_other_groups(square.x_ND, square.group_N, 9)
    theirs = nearest_neighbours(square.x_ND, square.x_ND, 9, exclude=ExclusionCodes(square.group_N, square.group_N))
    np.testing.assert_array_equal(ours_NJ, theirs.index_QJ)


def test_too_few_allowed_neighbours_are_marked() -> None:
    square = made_square(n_groups=3, per_group=4)
    near_NJ = nearest_of_other_groups(square.x_ND, square.group_N, 100)
    assert near_NJ.shape == (12, 12)
    assert ((near_NJ >= 0).sum(axis=1) == 8).all()


def test_chance_is_the_average_over_blind_draws() -> None:
    square, rng = made_square(mixed=True, n_groups=7), np.random.default_rng(0)
    same_class_N = same_site_N = 0.0
    for i in range(len(square.group_N)):
        allowed = np.flatnonzero(square.group_N != square.group_N[i])
        drawn = np.concatenate([rng.choice(allowed, 6, replace=False) for _ in range(400)])
        class_N, site_N = square.class_N[drawn] == square.class_N[i], square.site_N[drawn] == square.site_N[i]
        same_class_N += (class_N & ~site_N).mean() * 6
        same_site_N += (~class_N & site_N).mean() * 6
    found = tally_square(square, 6, 7)
    assert found.random_same_class == pytest.approx(same_class_N, rel=0.02)
    assert found.chance == pytest.approx(same_class_N / (same_class_N + same_site_N), abs=0.01)
    assert tally_square(made_square(), 6, 16).chance == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("class_effect", "site_effect", "low", "high"),
    [(5.0, 0.0, 0.99, 1.0), (0.0, 5.0, 0.0, 0.01), (0.0, 0.0, 0.4, 0.6), (1.0, 1.0, 0.4, 0.6)],
)
def test_the_class_wins_the_site_wins_or_nobody_does(
    class_effect: float, site_effect: float, low: float, high: float
) -> None:
    square = made_square(class_effect=class_effect, site_effect=site_effect, n_groups=80, per_group=8)
    assert low <= tally_square(square, 11, 80).index <= high


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_scaling_an_embedding_changes_nothing(factor: float) -> None:
    square = made_square()
    scaled = replace(square, x_ND=square.x_ND * np.float32(factor))
    own_length_N1 = np.random.default_rng(1).uniform(0.5, 2.0, (len(square.x_ND), 1)).astype(np.float32)
    lengths = replace(square, x_ND=square.x_ND * own_length_N1)
    for other in (scaled, lengths):
        assert tally_square(other, 7, 16).index == tally_square(square, 7, 16).index


def test_exchanging_class_and_site_mirrors_the_index() -> None:
    square = made_square(class_effect=0.7, site_effect=0.2)
    other = replace(square, class_N=square.site_N, site_N=square.class_N)
    assert tally_square(other, 7, 16).index == pytest.approx(1.0 - tally_square(square, 7, 16).index)


def test_a_sum_of_squares_counts_all_their_neighbours() -> None:
    one, two = (tally_square(made_square(seed=seed), 5, 16) for seed in (0, 1))
    both = sum_tallies([one, two])
    assert both.index == (one.same_class + two.same_class) / (
        one.same_class + two.same_class + one.same_site + two.same_site
    )
    np.testing.assert_array_equal(both.same_site_G, one.same_site_G + two.same_site_G)


def with_sites(data: Material, n_sites: int = 2, column: str = "site", unknown: int = 0) -> Material:
    """Give groups sites in turn, so that classes and sites are crossed; embeddings show both."""
    group = pl.col("group_id").str.slice(1).cast(pl.Int64)
    place = pl.when(group < unknown).then(None).otherwise(pl.format("S{}", group // 2 % n_sites)).alias(column)
    tiles = replace(data.tiles, table=data.tiles.table.with_columns(place))
    number_N = tiles.table[column].fill_null("S0").str.slice(1).cast(pl.Int64).to_numpy()
    matrix_ND = data.embeddings.matrix_ND.copy()
    matrix_ND[:, 0] += 2.0 * number_N
    return replace(data, tiles=tiles, embeddings=replace(data.embeddings, matrix_ND=matrix_ND))


def everything(data: Material) -> NDArray[np.int64]:
    return np.arange(len(data.tiles))


def tables(data: Material, settings: RobustnessSettings = SETTINGS) -> tuple[RobustnessTable, ...]:
    n = len(data.tiles)
    even_NK, zero_NK = np.full((n, 2), 0.5), np.zeros((n, 2))
    scored = ScoredRows(everything(data), zero_NK, even_NK, ["h"] * n, np.zeros(n, np.int64), 0, "s")
    predictions = build_predictions(data, scored)
    probes = score_domains(PROBE, predictions, "somewhere", IntervalConfig(method="jackknife-t"), ("EXTERNAL",))
    arms = [EmbeddedArm(PROBE, data, ("pooled",)), EmbeddedArm("colour histogram + probe", data, ("pooled",))]
    return score_robustness(arms, predictions, probes, settings)


def test_an_index_with_its_interval_for_every_domain_and_arm(material: MakeMaterial) -> None:
    data = with_sites(material(n_groups=40))
    (table,) = tables(data)
    assert table.column == "site"
    assert [(row.arm, row.domain, row.marks) for row in table.rows] == [
        (arm, domain, ("EXTERNAL",)) for domain in ("toy 100X", "toy 400X")
        for arm in (PROBE, "colour histogram + probe")
    ]  # fmt: skip
    for row in table.rows:
        (score,) = row.scores
        assert score.n_tiles == 240 and score.n_groups == 40 and score.chance == pytest.approx(0.5)
        assert score.interval is not None and not score.reason
        assert 0.0 < score.interval.low < score.value < score.interval.high < 1.0
        assert "query and as neighbour" in score.interval.method
    assert "60 tiles of each class at each site" in table.notes[0]
    assert tables(data, replace(SETTINGS, k=0)) == ()
    assert tables(material()) == ()


def test_row_order_changes_nothing(material: MakeMaterial) -> None:
    data = with_sites(material(n_groups=24))
    order = np.random.default_rng(3).permutation(len(data.tiles))
    assert tables(data.take(order)) == tables(data)


def test_three_sites_make_three_pairs_and_unknown_ones_are_left_out(material: MakeMaterial) -> None:
    data = with_sites(material(n_groups=36), 3, "scanner", unknown=4)
    (table,) = tables(data)
    assert table.column == "scanner"
    assert table.notes[0] == "24 tiles of unknown scanner are left out."
    assert "3 such pairs, counted together" in table.notes[1]


def test_unequal_cells_are_cut_to_the_smallest_and_keep_many_groups(material: MakeMaterial) -> None:
    data = with_sites(material(n_groups=24))
    dropped = data.tiles.table["group_id"].is_in(["g15", "g19", "g23"])  # three of six malignant groups at one site
    crossing = cross(data.tiles, np.flatnonzero(~dropped.to_numpy()), "site", SETTINGS)
    (square,) = crossing.squares
    cell = data.tiles.table[square.rows].group_by("label", "site").agg(pl.len(), pl.col("group_id").n_unique())
    assert cell["len"].to_list() == [36] * 4
    assert cell.sort("group_id")["group_id"].to_list() == [3, 6, 6, 6]


def test_large_cells_are_drawn_from(material: MakeMaterial, monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_sites(material(n_groups=24))
    monkeypatch.setattr(robustness, "MAX_CELL", 18)
    crossing = cross(data.tiles, everything(data), "site", SETTINGS)
    (square,) = crossing.squares
    counts = data.tiles.table[square.rows].group_by("group_id").len()["len"].to_list()
    assert len(square.rows) == 72 and counts == [3] * 24
    other = cross(data.tiles, everything(data), "site", replace(SETTINGS, seed=1))
    assert not np.array_equal(other.squares[0].rows, square.rows)


def test_sites_that_hold_one_class_each_have_no_index(material: MakeMaterial) -> None:
    data = material(n_groups=24)
    tiles = replace(data.tiles, table=data.tiles.table.with_columns(site=pl.format("S{}", "label")))
    (table,) = tables(replace(data, tiles=tiles))
    assert len(table.rows) == 2  # one per domain; floors have no index either
    (score,) = table.rows[0].scores
    assert math.isnan(score.value) and score.interval is None
    assert "no two classes are both found at two sites" in score.reason


def test_one_case_per_cell_can_not_be_told_from_its_site(material: MakeMaterial) -> None:
    (table,) = tables(with_sites(material(n_groups=4, tiles_per_group=20)))
    assert math.isnan(table.rows[0].scores[0].value)


def test_few_groups_or_none_refuse_the_interval_not_the_value(material: MakeMaterial) -> None:
    few = with_sites(material(n_groups=8))
    score = tables(few)[0].rows[0].scores[0]
    assert score.interval is None and "'benign' has 4 groups" in score.reason and math.isfinite(score.value)
    lost = replace(few.tiles, table=few.tiles.table.with_columns(group_id=pl.lit(None, dtype=pl.String)))
    crossing = cross(lost, everything(few), "site", SETTINGS)
    score = robustness_score(few.embeddings, ("pooled",), crossing, SETTINGS)
    assert score.interval is None and "group ids are missing" in score.reason and score.n_groups == 0


def test_groups_that_all_agree_get_the_exact_bound(material: MakeMaterial) -> None:
    data = with_sites(material(n_groups=24, class_effect=30.0, group_effect=0.1))
    score = tables(data)[0].rows[0].scores[0]
    assert score.value == 1.0 and score.interval is not None
    assert score.interval.low == pytest.approx(0.05 ** (1 / 24)) and score.interval.high == 1.0


def test_very_many_sites_make_a_note(material: MakeMaterial) -> None:
    (table,) = tables(with_sites(material(n_groups=64), 32))
    assert not table.rows and table.notes == ("32 values are too many for an index.",)


def test_a_study_states_the_index_beside_the_held_out_score(material: MakeMaterial) -> None:
    data = with_sites(material(n_groups=24))
    evaluation = EvaluationConfig(train_magnification="100X", outer_folds=3, leak_price=False, robustness_k=5)
    settings = StudySettings(evaluation, SweepConfig(penalties=(0.1, 1.0), folds=3), INTERVAL)
    found = study_source((ArmMaterial(PROBE, data),), settings)
    inside, across = found.findings
    assert [row.domain for row in inside.robustness[0].rows] == ["toy 100X"]
    assert across.robustness == ()


def test_every_beginning_of_a_draw_is_spread_over_groups() -> None:
    groups = ["a"] * 50 + ["b"] * 3 + ["c"] * 10
    ids = [f"t{number}" for number in range(len(groups))]
    order = spread_order(ids, groups, 0)
    assert sorted(order) == list(range(63))
    for n, expected in ((3, (1, 1, 1)), (9, (3, 3, 3)), (13, (5, 3, 5)), (23, (10, 3, 10))):
        drawn = [groups[row] for row in order[:n]]
        assert tuple(drawn.count(name) for name in "abc") == expected
    shuffled = np.random.default_rng(0).permutation(63)
    again = spread_order([ids[row] for row in shuffled], [groups[row] for row in shuffled], 0)
    assert [ids[row] for row in order] == [ids[shuffled[row]] for row in again]


def test_direct_training_has_an_index_and_its_map_only_without_a_source(material: MakeMaterial) -> None:
    data = with_sites(material(n_groups=24, magnifications=("100X",)))
    part = pl.when(pl.col("group_id") < "g12").then(pl.lit("train")).otherwise(pl.lit("test")).alias("split")
    data = replace(data, tiles=replace(data.tiles, table=data.tiles.table.with_columns(part)))
    evaluation = EvaluationConfig(outer_folds=3, leak_price=False, robustness_k=5)
    settings = StudySettings(evaluation, SweepConfig(penalties=(0.1, 1.0), folds=3), INTERVAL)
    arms = (ArmMaterial(PROBE, data),)
    alone = study_target(arms, None, settings, "test")
    (direct,) = alone.findings
    assert direct.robustness[0].rows[0].scores[0].n_tiles == 72
    assert alone.embedding_map is not None and len(alone.embedding_map) == 72
    beside = study_target(arms, study_source(arms, settings), settings, "test")
    external, direct = beside.findings
    assert not external.robustness and direct.robustness
    assert beside.embedding_map is None
