"""Sets hold the true class as often as asked for over new groups, and not where tiles are taken for independent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histotune.heads.conformal import (
    MAX_CALIBRATION_TILES,
    HeldOutTiles,
    conformal_members,
    conformal_rule,
    group_quantile,
    group_share,
    held_out_tiles,
    spread_over_groups,
)
from histotune.heads.head import Calibration, Decision, Head
from histotune.tools.errors import UserError

HEAD = Head(
    np.array([[0.0], [1.0]]), np.zeros(2), ("pooled",), (0,), ("benign", "malignant"), "tiny", "space", "meaning", 0.1
)


def cohort(rng: np.random.Generator, n_groups: int, largest: int = 30) -> HeldOutTiles:
    """Return tiles of groups of very different sizes, alike within a group; large groups are the hard ones."""
    sizes = rng.integers(1, largest, n_groups)
    group_n = np.repeat(np.arange(n_groups), sizes)
    label_G = rng.integers(0, 2, n_groups)
    hard_G = sizes > largest / 2
    effect_G = rng.normal(np.where(hard_G, 0.2, 2.0), 1.0)
    margin_n = effect_G[group_n] + rng.normal(0, 0.5, len(group_n))
    right_n = 1 / (1 + np.exp(-2 * margin_n))
    label_n = label_G[group_n]
    probability_nK = np.where(label_n[:, None] == np.arange(2), right_n[:, None], 1 - right_n[:, None])
    return HeldOutTiles(probability_nK.astype(np.float32), label_n.astype(np.int32), group_n.astype(np.int32), n_groups)


def covered(tiles: HeldOutTiles, limit: float) -> float:
    members_nK = conformal_members(HEAD, tiles.probability_nK.astype(np.float64), limit)
    return group_share(members_nK[np.arange(len(tiles.label_n)), tiles.label_n], tiles.group_n)


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_new_groups_are_covered_as_asked_for(coverage: float) -> None:
    rng = np.random.default_rng(0)
    found, measured = [], []
    for _ in range(80):
        rule = conformal_rule(HEAD, cohort(rng, 40), coverage)
        measured.append(rule.measured)
        found.append(covered(cohort(rng, 200), rule.limit))
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) > coverage - 3 * error
    assert np.mean(found) < coverage + 0.05, "the sets are wider than they need to be"
    assert np.mean(measured) == pytest.approx(np.mean(found), abs=0.02), "what is printed is what new groups get"


def test_tiles_taken_for_independent_would_cover_less() -> None:
    """Where a few groups give most tiles, and those are easy, the others pay."""
    rng = np.random.default_rng(1)
    by_group, by_tile = [], []
    for _ in range(60):
        sizes = np.where(np.arange(40) < 4, 200, 2)
        group_n = np.repeat(np.arange(40), sizes)
        effect_G = np.where(sizes > 100, 4.0, 0.6) + rng.normal(0, 0.6, 40)
        right_n = 1 / (1 + np.exp(-effect_G[group_n]))
        tiles = HeldOutTiles(
            np.stack([1 - right_n, right_n], axis=1).astype(np.float32), np.ones(len(group_n), np.int32),
            group_n.astype(np.int32), 40,
        )  # fmt: skip
        new_n = 1 / (1 + np.exp(-(0.6 + rng.normal(0, 0.6, 400))))
        new = HeldOutTiles(
            np.stack([1 - new_n, new_n], axis=1).astype(np.float32), np.ones(400, np.int32),
            np.arange(400, dtype=np.int32), 400,
        )  # fmt: skip
        limits = (group_quantile(tiles.score_n, tiles.group_n, 0.9), float(np.quantile(tiles.score_n, 0.9)))
        by_group.append(covered(new, limits[0]))
        by_tile.append(covered(new, limits[1]))
    assert np.mean(by_group) > 0.85
    assert np.mean(by_tile) < np.mean(by_group) - 0.05


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.floats(0.05, 0.95))
def test_the_quantile_of_one_tile_per_group_is_that_of_split_conformal_prediction(
    seed: int, n: int, level: float
) -> None:
    value_n = np.random.default_rng(seed).normal(size=n)
    rank = int(np.ceil(level * (n + 1) - 1e-9))  # Vovk's (n + 1)-th rank
    expected = np.inf if rank > n else np.sort(value_n)[rank - 1]
    assert group_quantile(value_n, np.arange(n, dtype=np.int32), level) == expected


def test_copies_of_a_groups_tiles_change_nothing() -> None:
    rng = np.random.default_rng(2)
    value_n, group_n = rng.normal(size=50), np.repeat(np.arange(10), 5).astype(np.int32)
    many = np.where(group_n == 3, 7, 1)
    same = group_quantile(np.repeat(value_n, many), np.repeat(group_n, many), 0.8)
    assert same == group_quantile(value_n, group_n, 0.8)


def test_a_set_is_never_empty_and_always_holds_what_is_said() -> None:
    head = replace(HEAD, decision=Decision(threshold=0.2))
    probability_NK = np.array([[0.7, 0.3], [0.5, 0.5], [0.95, 0.05]])
    members_NK = conformal_members(head, probability_NK, 0.1)
    assert members_NK.tolist() == [[False, True], [False, True], [True, False]]


def test_a_coverage_that_the_groups_cannot_give_is_refused() -> None:
    tiles = cohort(np.random.default_rng(3), 40)
    for coverage in (0.98, 1.0, 0.3, float("nan")):
        with pytest.raises(UserError, match="can't give this coverage"):
            conformal_rule(HEAD, tiles, coverage)
    assert np.isfinite(conformal_rule(HEAD, tiles, 0.975).limit)


def test_what_is_said_names_groups_tiles_and_classes() -> None:
    words = conformal_rule(HEAD, cohort(np.random.default_rng(4), 40)).words(HEAD.class_names)
    assert "40 training groups" in words and "asked for: 90 %" in words and "benign" in words
    assert "not for one image" in words


def test_held_out_tiles_are_calibrated_and_those_that_did_not_train_are_left_out() -> None:
    head = replace(HEAD, calibration=Calibration(temperature=2.0))
    logit_NK = np.array([[0.0, 2.0], [np.nan, np.nan], [0.0, -4.0], [0.0, 1.0]])
    kept = held_out_tiles(head, logit_NK, np.array([1, 0, 0, -1]), ("b", "a", "a", "c"), np.random.default_rng(0))
    np.testing.assert_allclose(kept.probability_nK[:, 1], 1 / (1 + np.exp([-1.0, 2.0])), rtol=1e-6)
    assert kept.label_n.tolist() == [1, 0] and kept.group_n.tolist() == [1, 0] and kept.n_groups == 2


@given(st.integers(0, 2**32 - 1), st.integers(1, 80))
def test_few_of_many_are_spread_over_the_groups(seed: int, n_most: int) -> None:
    rng = np.random.default_rng(seed)
    group_n = rng.integers(0, 8, 60)
    kept = spread_over_groups(group_n, n_most, rng)
    assert len(kept) == min(n_most, 60) == len(set(kept.tolist()))
    assert (np.diff(kept) > 0).all()
    taken, there = np.bincount(group_n[kept], minlength=8), np.bincount(group_n, minlength=8)
    exhausted = taken == there
    assert np.ptp(taken[~exhausted]) <= 1 if (~exhausted).sum() else True
    assert not exhausted.any() or exhausted.all() or taken[exhausted].max() <= taken[~exhausted].min() + 1


def test_very_many_tiles_are_bounded() -> None:
    n = MAX_CALIBRATION_TILES + 5_000
    groups = tuple(f"g{number % 50}" for number in range(n))
    kept = held_out_tiles(HEAD, np.zeros((n, 2)), np.zeros(n, np.int64), groups, np.random.default_rng(0))
    assert len(kept.label_n) == MAX_CALIBRATION_TILES
    assert kept.n_groups == 50
