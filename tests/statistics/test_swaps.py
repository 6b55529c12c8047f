"""An interval of a difference and its p value come from the same swaps; constant arms meet their known value."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.statistics.comparison import compare_arms, paired_difference
from histotune.statistics.intervals import resampling_units
from histotune.statistics.metrics import MetricName
from histotune.statistics.predictions import ComparisonConfig, IntervalConfig, Predictions
from histotune.statistics.sample import read_sample
from histotune.statistics.scores import score_predictions
from histotune.statistics.swaps import PermutationResult, draw_swaps, moved_groups, permute
from tests.statistics.samples import make_predictions

CONFIG = IntervalConfig(n_resamples=200)
QUICK = ComparisonConfig(n_permutations=199)


def cohort(seed: int, n_groups: int = 20, share: float = 0.7, gain: float = 0.0) -> tuple[Predictions, Predictions]:
    """Two exchangeable heads whose errors are shared within groups; ``gain`` makes the first one better."""
    rng = np.random.default_rng(seed)
    positive = np.arange(n_groups) < round(share * n_groups)
    group = np.repeat(np.arange(n_groups), rng.integers(3, 12, n_groups))
    y = positive[group].astype(np.int64)
    shared = rng.standard_normal(n_groups)[group]
    arms = []
    for better in (gain, 0.0):
        x = (1.5 + better) * y + 0.7 * shared + rng.standard_normal(n_groups)[group] + rng.standard_normal(len(y))
        arms.append(make_predictions(y, np.stack([np.zeros(len(y)), x - 0.7], axis=1), [f"g{g:03d}" for g in group]))
    return arms[0], arms[1]


def constant_over_folds(arm: Predictions, n_folds: int = 4) -> tuple[Predictions, Predictions]:
    """The same tiles in folds of groups, and an arm that says the majority of each fold's other groups."""
    groups = arm.table["group_id"].to_numpy()
    fold = np.array([int(name[1:]) % n_folds for name in groups])
    logit = np.zeros((len(arm), 2))
    for number in range(n_folds):
        share = arm.y_true_N[fold != number].mean()
        logit[fold == number, 1] = math.log(share / (1 - share))
    probe = make_predictions(arm.y_true_N, arm.logit_NK, groups.tolist(), folds=fold)
    return probe, make_predictions(arm.y_true_N, logit, groups.tolist(), folds=fold)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([6, 10, 20]),
    st.sampled_from(["auroc", "balanced_accuracy", "accuracy", "log_loss", "mcc", "ece_debiased", "auprc"]),
    st.sampled_from([0.0, 0.8]),
)
def test_the_interval_leaves_nought_out_exactly_where_p_is_small(
    seed: int, n_groups: int, metric: MetricName, gain: float
) -> None:
    a, b = cohort(seed, n_groups, share=0.5, gain=gain)
    config = IntervalConfig(min_groups_per_class=2)
    (found,) = compare_arms({"a": a, "b": b}, metric, QUICK, config)
    interval = found.difference.interval
    if interval is None:
        assert math.isnan(found.p_value) and found.difference.reason
        return
    assert interval.low <= found.difference.value <= interval.high
    assert (interval.low > 0 or interval.high < 0) == (found.p_value <= 0.05)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_reach_and_p_agree_on_every_place_of_the_observed_one(exact: bool, level: float) -> None:
    rng = np.random.default_rng(0)
    t_P = np.round(np.abs(rng.standard_normal(128)), 1)  # with ties
    for t in np.unique(np.r_[t_P, 0.0, 9.0]):
        n = int((t_P >= t - 1e-12).sum())
        p = n / 128 if exact else (n + 1) / 129
        result = PermutationResult(2.0 * float(t), 2.0, t_P, t_P, p, 1 / 128, exact)
        reach, allowed = result.reach(level)
        if allowed:
            assert (abs(result.difference) > reach) == (p <= 1 - level)


def test_the_error_of_a_difference_of_means_is_its_textbook_value() -> None:
    """Accuracy over groups of one size: the difference is a mean of paired differences of groups."""
    rng = np.random.default_rng(3)
    n_groups, size = 12, 5
    group = np.repeat(np.arange(n_groups), size)
    y = (group % 2).astype(np.int64)
    arms = [
        make_predictions(y, np.stack([np.zeros(len(y)), rng.standard_normal(len(y))], axis=1), [f"g{g}" for g in group])
        for _ in "ab"
    ]
    samples = read_sample(arms[0]), read_sample(arms[1])
    units = resampling_units(samples[0], CONFIG)
    swaps = draw_swaps(moved_groups(*samples, units), 5000, np.random.default_rng(0))
    result = permute("accuracy", samples, units, swaps)
    hits = [(arm.predicted_N == arm.y_true_N).reshape(n_groups, size).mean(axis=1) for arm in arms]
    gap = hits[0] - hits[1]
    assert result.difference == pytest.approx(gap.mean())
    assert result.error == pytest.approx(gap.std(ddof=1) / np.sqrt(n_groups))
    sign = np.where(swaps.swapped_PG, -1.0, 1.0) * gap
    t = np.abs(sign.mean(axis=1)) / (sign.std(axis=1, ddof=1) / np.sqrt(n_groups))
    np.testing.assert_allclose(np.sort(result.t_P), np.sort(t), rtol=1e-6, atol=1e-9)


def test_arms_that_differ_in_few_groups_are_never_told_apart() -> None:
    a, _ = cohort(1)
    logit = a.logit_NK.copy()
    few = np.isin(a.table["group_id"].to_numpy(), ["g000", "g001", "g019"])
    logit[few, 1] -= 3.0
    b = make_predictions(a.y_true_N, logit, a.table["group_id"].to_list())
    (found,) = compare_arms({"a": a, "b": b}, "auroc", QUICK, CONFIG)
    assert found.p_value >= found.smallest_p == 0.25
    interval = found.difference.interval
    assert interval is not None and interval.low <= 0 <= interval.high
    assert interval.high - interval.low > 2 * abs(found.difference.value)  # wider than what three swaps can show


def test_the_same_arm_twice_differs_by_nothing() -> None:
    a, _ = cohort(2)
    (found,) = compare_arms({"a": a, "b": a}, "auroc", QUICK, CONFIG)
    assert found.p_value == 1.0 and found.difference.value == 0.0
    interval = found.difference.interval
    assert interval is not None and interval.low == interval.high == 0.0
    assert interval.method == "both arms say the same of every tile"


@pytest.mark.parametrize(("metric", "known"), [("auroc", 0.5), ("balanced_accuracy", 0.5), ("mcc", 0.0)])
def test_a_constant_arm_is_compared_with_its_known_value(metric: MetricName, known: float) -> None:
    """Folds whose majorities differ measure something else, which is chance alone."""
    probe, majority = constant_over_folds(cohort(5, n_groups=22, share=0.5, gain=0.5)[0])
    (found,) = compare_arms({"probe": probe, "majority": majority}, metric, QUICK, CONFIG, within_folds=True)
    (own,) = score_predictions(probe, [metric], CONFIG, within_folds=True)
    assert own.interval is not None and found.difference.interval is not None
    ends = found.difference.interval.low, found.difference.interval.high
    assert found.difference.value == pytest.approx(own.value - known)
    assert ends == pytest.approx((own.interval.low - known, own.interval.high - known))
    assert found.known == known and f"against the known {known:g} of a constant arm" in found.in_words()
    (back,) = compare_arms({"majority": majority, "probe": probe}, metric, QUICK, CONFIG, within_folds=True)
    assert back.difference.interval is not None
    assert (back.difference.interval.low, back.difference.interval.high) == pytest.approx((-ends[1], -ends[0]))
    assert back.p_value == pytest.approx(found.p_value)
    alone = paired_difference(probe, majority, metric, CONFIG, within_folds=True)
    assert alone.interval is not None and (alone.interval.low, alone.interval.high) == pytest.approx(ends)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["auroc", "balanced_accuracy", "mcc"]), st.floats(-1.2, 0.5))
def test_p_against_a_constant_arm_never_contradicts_the_interval(seed: int, metric: MetricName, gain: float) -> None:
    probe, majority = constant_over_folds(cohort(seed, n_groups=16, share=0.5, gain=gain)[0])
    for level in (0.8, 0.95):
        config = IntervalConfig(level=level, n_resamples=200)
        (found,) = compare_arms({"p": probe, "m": majority}, metric, QUICK, config, within_folds=True)
        interval = found.difference.interval
        assert interval is not None
        assert (interval.low > 0 or interval.high < 0) == (found.p_value < 1 - level)


def test_a_family_with_a_constant_arm_is_adjusted_by_holm() -> None:
    a, b = cohort(7, gain=0.8)
    probe, majority = constant_over_folds(a)
    other = make_predictions(
        b.y_true_N, b.logit_NK, b.table["group_id"].to_list(), folds=probe.table["fold"].to_numpy()
    )
    arms = {"probe": probe, "other": other, "majority": majority}
    config = ComparisonConfig(family="against the first", n_permutations=199)
    found = compare_arms(arms, "auroc", config, CONFIG, within_folds=True)
    assert {one.correction for one in found} == {"Holm"} and all(one.p_adjusted >= one.p_value for one in found)


def test_arms_over_other_folds_are_not_swapped() -> None:
    """Ranks within one arm's folds are not those of the other's: no prediction could have come from there."""
    a, b = cohort(8)
    numbers = np.array([int(name[1:]) for name in a.table["group_id"]])
    groups = a.table["group_id"].to_list()
    first = make_predictions(a.y_true_N, a.logit_NK, groups, folds=numbers % 2)
    second = make_predictions(b.y_true_N, b.logit_NK, groups, folds=(numbers // 2) % 2)
    found = paired_difference(first, second, "auroc", CONFIG, within_folds=True)
    assert found.interval is not None and "leaving out one group" in found.interval.method
    swapped = paired_difference(first, second, "accuracy", CONFIG, within_folds=True)
    assert swapped.interval is not None and "swaps whole groups" in swapped.interval.method
    (pair,) = compare_arms({"a": first, "b": second}, "auroc", QUICK, CONFIG, within_folds=True)
    assert pair.difference.interval is not None
    assert (pair.p_value < 0.05) == (pair.difference.interval.low > 0 or pair.difference.interval.high < 0)


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["auroc", "balanced_accuracy", "log_loss"])
def test_null_rates_with_six_minority_groups(metric: MetricName) -> None:
    """Intervals that left 0 out in 1 % of such nulls were far too wide."""
    n, out = 600, 0
    for seed in range(n):
        interval = paired_difference(*cohort(20_000 + seed), metric, CONFIG).interval
        assert interval is not None
        out += interval.low > 0 or interval.high < 0
    error = 2.6 * np.sqrt(0.05 * 0.95 / n)
    assert 0.03 - error <= out / n <= 0.06 + error
