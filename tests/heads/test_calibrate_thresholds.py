from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, recall_score

from histotune.heads.calibrate import BinaryTiles, choose_threshold, jackknife_interval, jackknife_se


def make_tiles(seed: int, n: int = 120, n_groups: int = 16, grid: int = 40) -> BinaryTiles:
    """Probabilities on a coarse grid, so that many tie."""
    rng = np.random.default_rng(seed)
    group = np.r_[np.arange(n_groups), rng.integers(0, n_groups, n - n_groups)]
    positive = group % 2 == 1
    p = np.clip(np.round((0.35 * positive + 0.65 * rng.random(n)) * grid) / grid, 0.01, 0.99)
    return BinaryTiles(p, positive, group, n_groups)


def without(tiles: BinaryTiles, group: int) -> BinaryTiles:
    keep = tiles.group_n != group
    return dataclasses.replace(
        tiles, probability_n=tiles.probability_n[keep], positive_n=tiles.positive_n[keep], group_n=tiles.group_n[keep]
    )


def score(tiles: BinaryTiles, threshold: float, rule: str, sensitivity: float) -> float:
    said = tiles.probability_n >= threshold
    if rule != "sensitivity":
        return float(balanced_accuracy_score(tiles.positive_n, said))
    reached = recall_score(tiles.positive_n, said) >= sensitivity - 1e-12
    return float(recall_score(~tiles.positive_n, ~said)) if reached else -1.0


@pytest.mark.parametrize("rule", ["balanced-accuracy", "youden", "sensitivity"])
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), sensitivity=st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_no_cut_is_better_than_the_chosen_one(rule: str, seed: int, sensitivity: float) -> None:
    tiles = make_tiles(seed)
    found = choose_threshold(tiles, rule, sensitivity)  # type: ignore[arg-type]
    assert found.rule == rule
    cuts = np.r_[np.unique(tiles.probability_n), 1.01]
    best = max(score(tiles, cut, rule, sensitivity) for cut in cuts)
    assert score(tiles, found.threshold, rule, sensitivity) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("rule", ["balanced-accuracy", "sensitivity"])
def test_the_interval_is_the_jackknife_of_a_loop(rule: str) -> None:
    tiles = make_tiles(3, n=300, grid=10_000)
    found = choose_threshold(tiles, rule, 0.9)  # type: ignore[arg-type]
    left_out = np.array([
        choose_threshold(without(tiles, g), rule, 0.9).threshold  # type: ignore[arg-type]
        for g in range(tiles.n_groups)
    ])  # fmt: skip
    logit = np.log(left_out / (1 - left_out))
    low, high = jackknife_interval(float(np.log(found.threshold / (1 - found.threshold))), logit)
    assert found.interval is not None
    np.testing.assert_allclose(
        [found.interval.low, found.interval.high], 1 / (1 + np.exp(-np.array([low, high]))), rtol=1e-9
    )
    assert found.interval.low < found.threshold < found.interval.high


def test_row_order_changes_nothing() -> None:
    tiles, order = make_tiles(5), np.random.default_rng(0).permutation(120)
    shuffled = BinaryTiles(tiles.probability_n[order], tiles.positive_n[order], tiles.group_n[order], tiles.n_groups)
    assert choose_threshold(shuffled, "youden", 0.9) == choose_threshold(tiles, "youden", 0.9)


def test_the_middle_of_a_gap_is_taken_and_few_groups_are_not_tuned_on() -> None:
    p = np.repeat([0.2, 0.3, 0.7, 0.9], 10)
    positive, group = p > 0.5, np.arange(40)
    found = choose_threshold(BinaryTiles(p, positive, group, 40), "balanced-accuracy", 0.9)
    assert (found.threshold, found.interval) == (0.5, None)
    assert "the same whichever group is left out" in found.reason
    few = choose_threshold(BinaryTiles(p, positive, group // 5, 8), "balanced-accuracy", 0.9)
    assert (few.threshold, few.rule, few.interval) == (0.5, "0.5", None)
    assert "lies in 4 groups, and 5 are needed" in few.reason
    assert choose_threshold(BinaryTiles(p, positive, group, 40), "0.5", 0.9).threshold == 0.5


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    x = np.random.default_rng(0).standard_normal(30)
    left_out = (x.sum() - x) / 29
    assert jackknife_se(left_out) == pytest.approx(x.std(ddof=1) / np.sqrt(30))
    low, high = jackknife_interval(x.mean(), left_out)
    assert (high - low) / 2 == pytest.approx(2.04523 * x.std(ddof=1) / np.sqrt(30), rel=1e-5)
