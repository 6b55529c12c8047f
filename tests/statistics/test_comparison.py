from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import polars as pl
import pytest

from histotune.statistics import evaluators
from histotune.statistics.comparison import compare_arms, holm, max_t, paired_difference
from histotune.statistics.intervals import resampling_units
from histotune.statistics.metrics import MetricName
from histotune.statistics.predictions import ComparisonConfig, IntervalConfig, Predictions
from histotune.statistics.sample import read_sample
from histotune.statistics.scores import RANKING, score_predictions
from histotune.statistics.swaps import PermutationResult, Swaps, draw_swaps, least_p, moved_groups, permute
from histotune.tools.errors import UserError
from tests.statistics.samples import make_predictions, random_predictions

CONFIG = IntervalConfig(n_resamples=100)


def noisy(a: Predictions, seed: int, scale: float = 0.5, shift: float = 0.0) -> Predictions:
    """The same tiles under another head: new noise, and ``shift`` towards the true class."""
    noise = np.random.default_rng(seed).normal(0, scale, len(a))
    logit = a.logit_NK + np.stack([np.zeros(len(a)), noise + shift * (2 * a.y_true_N - 1)], axis=1)
    return make_predictions(a.y_true_N, logit, a.table["group_id"].to_list(), folds=a.table["fold"].to_numpy())


def cohort(seed: int, n_groups: int = 14, n_tiles: int = 8, strength: float = 1.0) -> list[np.ndarray]:
    """Labels, groups, and two exchangeable heads whose errors are shared within groups."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_groups), n_tiles)
    y = group % 2
    shared = rng.standard_normal(n_groups)[group]
    heads = [strength * y + shared + rng.standard_normal(n_groups)[group] + rng.standard_normal(len(y)) for _ in "ab"]
    return [y, group, *heads]


def arms_of(y: np.ndarray, group: np.ndarray, *heads: np.ndarray) -> list[Predictions]:
    ids = [f"g{g:02d}" for g in group]
    return [make_predictions(y, np.stack([np.zeros(len(y)), head], axis=1), ids) for head in heads]


@pytest.mark.parametrize("metric", ["balanced_accuracy", "log_loss", "auroc"])
def test_listed_swaps_equal_swapping_rows_by_hand(metric: MetricName) -> None:
    y, group, a, b = cohort(0, n_groups=10, n_tiles=3)
    if metric == "auroc":  # ranks are what is swapped
        a, b = (np.argsort(np.argsort(head)).astype(float) for head in (a, b))
    first, second = arms_of(y, group, a, b)
    samples = read_sample(first), read_sample(second)
    units = resampling_units(samples[0], CONFIG)
    swaps = draw_swaps(np.ones(10, bool), 2000, np.random.default_rng(0))
    assert swaps.exact
    assert len(swaps.swapped_PG) == 1024
    result = permute(metric, samples, units, swaps)
    refuse = IntervalConfig(min_groups_per_class=10**6)
    for number in range(0, 1024, 97):
        moved = swaps.swapped_PG[number][group]
        one, two = arms_of(y, group, np.where(moved, b, a), np.where(moved, a, b))
        values = [score_predictions(arm, [metric], refuse)[0].value for arm in (one, two)]
        assert result.permuted_P[number] == pytest.approx(values[0] - values[1], abs=1e-12)
    assert result.smallest_p == 2 / 1024
    assert result.p_value == pytest.approx((result.t_P >= result.t - 1e-12).mean())


@pytest.mark.parametrize(("n_classes", "within_folds"), [(2, False), (2, True), (3, False)])
def test_permuted_wins_equal_ranking_anew(monkeypatch: pytest.MonkeyPatch, n_classes: int, within_folds: bool) -> None:
    first = random_predictions(n=300, n_groups=40, n_classes=n_classes)
    noise = np.random.default_rng(1).normal(0, 0.5, first.logit_NK.shape)
    fold, ids = first.table["fold"].to_numpy(), first.table["group_id"].to_list()
    second = make_predictions(first.y_true_N, first.logit_NK + noise, ids, folds=fold)
    samples = read_sample(first), read_sample(second)
    units = resampling_units(samples[0], CONFIG)
    swaps = draw_swaps(np.ones(units.n_units, bool), 150, np.random.default_rng(0))

    def permuted(**limits: int) -> PermutationResult:
        for name, value in limits.items():
            monkeypatch.setattr(evaluators, name, value)
        return permute("auroc", samples, units, swaps, within_folds=within_folds)

    whole = permuted()
    blocks = permuted(MAX_DENSE=0, WIN_BLOCK=700)  # a few scores at a time
    np.testing.assert_array_equal(blocks.permuted_P, whole.permuted_P)
    anew = permuted(MAX_PAIRS=0)
    np.testing.assert_allclose(anew.permuted_P, whole.permuted_P, atol=1e-12)
    assert whole.p_value == blocks.p_value
    # ranked anew there are no slopes, so differences are compared as they are
    assert (anew.error, whole.error < 1) == (1.0, True)
    extreme = np.abs(anew.permuted_P) >= abs(anew.difference) - 1e-12
    assert anew.p_value == (extreme.sum() + 1) / 151


def test_wins_in_blocks_equal_counting_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    positive, score, unit = rng.random(200) < 0.4, rng.integers(0, 30, 200) / 7.0, rng.integers(0, 9, 200)
    expected = np.zeros((9, 9))
    for i, j in product(np.flatnonzero(positive), np.flatnonzero(~positive)):
        expected[unit[i], unit[j]] += 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
    for block in (1, 9, 50, 10**6):
        monkeypatch.setattr(evaluators, "WIN_BLOCK", block)
        np.testing.assert_array_equal(evaluators.win_matrix(positive, score, unit, 9)[0], expected)


def test_all_assignments_are_listed_once() -> None:
    moved = np.array([True, False, True, True])
    swaps = draw_swaps(moved, 99, np.random.default_rng(0))
    assert {tuple(row) for row in swaps.swapped_PG[:, moved].tolist()} == set(product([False, True], repeat=3))
    assert not swaps.swapped_PG[:, 1].any()
    many = draw_swaps(np.ones(30, bool), 99, np.random.default_rng(0))
    assert not many.exact
    assert many.swapped_PG.shape == (99, 30)
    assert least_p(30, many) == 0.01
    assert least_p(0, swaps) == 1.0


def rejection_rate(metric: MetricName, n_sets: int, seed: int) -> float:
    rejected = 0
    for number in range(n_sets):
        first, second = arms_of(*cohort(seed + number))
        samples = read_sample(first), read_sample(second)
        units = resampling_units(samples[0], CONFIG)
        swaps = draw_swaps(moved_groups(*samples, units), 199, np.random.default_rng(number))
        rejected += permute(metric, samples, units, swaps).p_value <= 0.05
    return rejected / n_sets


@pytest.mark.parametrize("metric", ["auroc", "balanced_accuracy"])
def test_false_positives_at_the_null(metric: MetricName) -> None:
    assert rejection_rate(metric, 150, 1000) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["auroc", "balanced_accuracy", "log_loss", "macro_f1", "auprc"])
def test_false_positives_at_the_null_over_many_sets(metric: MetricName) -> None:
    ranked = 0.01 if metric in RANKING else 0.0  # ranks within an arm make the test approximate: docs/intervals.md
    assert 0.03 <= rejection_rate(metric, 2000, 10_000) <= 0.05 + ranked + 3 * np.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["auroc", "balanced_accuracy", "log_loss"])
def test_paired_intervals_cover_no_difference_at_the_null(metric: MetricName) -> None:
    from histotune.statistics.comparison import paired_difference

    held = 0
    for seed in range(1000):
        interval = paired_difference(*arms_of(*cohort(50_000 + seed, n_groups=30)), metric, CONFIG).interval
        assert interval is not None
        held += interval.low <= 0 <= interval.high
    assert 0.92 <= held / 1000 <= 0.985


def test_tiles_that_move_alone_would_reject_too_often() -> None:
    """Why groups move together: the same cohorts, each tile its own group."""
    rejected = 0
    for number in range(60):
        y, _, a, b = cohort(1000 + number)
        first, second = arms_of(y, np.arange(len(y)), a, b)
        samples = read_sample(first), read_sample(second)
        units = resampling_units(samples[0], CONFIG)
        swaps = draw_swaps(moved_groups(*samples, units), 199, np.random.default_rng(number))
        rejected += permute("balanced_accuracy", samples, units, swaps).p_value <= 0.05
    assert rejected / 60 > 0.15


def test_a_better_head_is_found() -> None:
    a = random_predictions(n=300, n_groups=24)
    better = noisy(a, 1, shift=1.5)
    (found,) = compare_arms({"probe": a, "tuned": better}, "auroc", ComparisonConfig(n_permutations=999), CONFIG)
    assert found.difference.value < 0
    assert found.p_value <= 0.01
    assert found.p_adjusted == found.p_value
    assert (found.correction, found.n_family, found.exact) == ("none", 1, False)
    assert found.smallest_p == 0.001
    assert found.in_words().endswith("(smallest attainable 0.001; 999 swaps drawn)")
    assert found.difference.interval is not None
    assert found.difference.interval.high < 0


def test_a_family_over_the_same_tiles_is_adjusted_by_max_t() -> None:
    a = random_predictions(n=300, n_groups=24)
    arms = {"a": a, "b": noisy(a, 1), "c": noisy(a, 2), "d": noisy(a, 3, shift=1.5)}
    found = compare_arms(arms, "balanced_accuracy", ComparisonConfig(n_permutations=999), CONFIG)
    assert [(c.first, c.second) for c in found] == [
        ("a", "b"),
        ("a", "c"),
        ("a", "d"),
        ("b", "c"),
        ("b", "d"),
        ("c", "d"),
    ]
    assert {c.correction for c in found} == {"max-T"}
    raw, adjusted = np.array([c.p_value for c in found]), np.array([c.p_adjusted for c in found])
    assert (adjusted >= raw - 1e-12).all()
    assert (adjusted <= np.array(holm(list(raw))) + 0.05).all()
    assert adjusted[2] <= 0.05 < adjusted[0]
    again = compare_arms(arms, "balanced_accuracy", ComparisonConfig(n_permutations=999), CONFIG)
    assert [c.p_adjusted for c in again] == [c.p_adjusted for c in found]


def test_pairs_on_different_tiles_are_adjusted_by_holm() -> None:
    a, other = random_predictions(n=200, n_groups=16), random_predictions(n=200, n_groups=16, seed=5)
    arms = {"a": a, "b": noisy(a, 1, shift=1.0), "x": other, "y": noisy(other, 2)}
    config = ComparisonConfig(family=(("a", "b"), ("x", "y")), n_permutations=499)
    found = compare_arms(arms, "auroc", config, CONFIG)
    assert {c.correction for c in found} == {"Holm"}
    assert "adjusted by Holm over 2 comparisons: p = " in found[0].in_words()
    assert [c.p_adjusted for c in found] == pytest.approx(holm([c.p_value for c in found]))


def test_holm_worked_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_max_t_of_the_same_comparison_twice_costs_nothing() -> None:
    y, group, a, b = cohort(3, n_groups=10)
    samples = tuple(read_sample(arm) for arm in arms_of(y, group, a, b))
    units = resampling_units(samples[0], CONFIG)
    swaps = draw_swaps(np.ones(10, bool), 2000, np.random.default_rng(0))
    result = permute("accuracy", samples, units, swaps)  # type: ignore[arg-type]
    assert max_t([result, result], swaps) == [result.p_value, result.p_value]
    flat = dataclasses.replace(result, difference=0.0, t_P=np.zeros_like(result.t_P))
    assert max_t([flat], Swaps(swaps.swapped_PG, exact=True)) == [1.0]


def test_scale_of_a_heads_scores_does_not_matter_to_ranks() -> None:
    y, group, a, b = cohort(4, n_groups=16)
    config = ComparisonConfig(n_permutations=499)
    plain = compare_arms(dict(zip("ab", arms_of(y, group, a, b), strict=True)), "auroc", config, CONFIG)[0]
    scaled = compare_arms(dict(zip("ab", arms_of(y, group, a, 0.1 * b + 7), strict=True)), "auroc", config, CONFIG)[0]
    assert (plain.difference.value, plain.p_value) == pytest.approx((scaled.difference.value, scaled.p_value))


def test_row_order_and_names_of_groups_change_nothing() -> None:
    a = random_predictions(n=200, n_groups=16)
    b = noisy(a, 1, shift=0.3)
    config = ComparisonConfig(n_permutations=199)
    (before,) = compare_arms({"a": a, "b": b}, "auroc", config, CONFIG, within_folds=True)
    shuffled = dataclasses.replace(b, table=b.table[np.random.default_rng(0).permutation(len(b))])
    (after,) = compare_arms({"a": a, "b": shuffled}, "auroc", config, CONFIG, within_folds=True)
    assert before == after
    renamed = [
        dataclasses.replace(arm, table=arm.table.with_columns(group_id="zz" + pl.col("group_id"))) for arm in (a, b)
    ]
    (other,) = compare_arms(dict(zip("ab", renamed, strict=True)), "auroc", config, CONFIG, within_folds=True)
    assert before == other


def test_what_can_not_be_compared_is_refused_or_said() -> None:
    a = random_predictions()
    with pytest.raises(UserError, match="did you mean: probe"):
        compare_arms({"probe": a, "b": a}, "auroc", ComparisonConfig(family=(("prob", "b"),)), CONFIG)
    with pytest.raises(UserError, match="itself"):
        compare_arms({"probe": a}, "auroc", ComparisonConfig(family=(("probe", "probe"),)), CONFIG)
    with pytest.raises(UserError, match="same tiles"):
        compare_arms({"a": a, "b": a.where(pl.col("fold") > 0)}, "auroc", ComparisonConfig(), CONFIG)
    few = random_predictions(n_groups=8, mixed=0.0)
    (found,) = compare_arms({"a": few, "b": noisy(few, 1)}, "auroc", ComparisonConfig(), CONFIG)
    assert np.isnan(found.p_value)
    assert "needs 5" in found.difference.reason
    assert found.in_words().startswith("no p value: class 'class0' has 4 groups")
    (same,) = compare_arms({"a": a, "b": a}, "auroc", ComparisonConfig(), CONFIG)
    assert (same.p_value, same.in_words()) == (1.0, "p = 1 (of its interval)")


@pytest.mark.parametrize("metric", ["auroc", "balanced_accuracy", "log_loss"])
def test_an_arm_compared_with_its_like_differs_by_nothing(metric: MetricName) -> None:
    """Two runs that say the same of every tile differ by 0 for sure; nothing is left to chance."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(14) % 2, 6)
    logit = np.stack([np.zeros(len(y)), y + rng.standard_normal(len(y))], axis=1)
    one = make_predictions(y, logit, [f"g{group:02d}" for group in np.repeat(np.arange(14), 6)])
    found = paired_difference(one, one, metric, IntervalConfig())
    assert found.value == 0.0 and found.interval is not None
    assert (found.interval.low, found.interval.high) == (0.0, 0.0)
    assert found.interval.method == "both arms say the same of every tile"
    (compared,) = compare_arms({"a": one, "b": one}, metric, ComparisonConfig(n_permutations=99), IntervalConfig())
    assert (compared.p_value, compared.difference.value) == (1.0, 0.0)
