"""The longer side towards the long tail, errors from resamples and the square-root scale against plain loops."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
import scipy.stats

from histotune.statistics import bounds
from histotune.statistics.bounds import METHODS, IntervalEvidence, Method, method_bounds
from histotune.statistics.predictions import Interval, IntervalConfig, Predictions
from histotune.statistics.scores import score_predictions
from tests.statistics.samples import make_predictions, random_predictions

ONE_KIND = bounds.Strata.of(np.ones((40, 1), bool))
TWO_KINDS = bounds.Strata.of(np.array([[1, 0]] * 6 + [[0, 1]] * 9, bool))


def test_skewness_of_a_mean_is_its_textbook_value() -> None:
    x = np.random.default_rng(0).exponential(size=40)
    without = (x.sum() - x) / 39
    expected = scipy.stats.skew(x, bias=False) / sqrt(40)
    assert bounds.jackknife_skewness(without, ONE_KIND) == pytest.approx(expected, rel=1e-9)
    assert bounds.jackknife_skewness(-without, ONE_KIND) == pytest.approx(-expected, rel=1e-9)
    assert bounds.jackknife_skewness(np.full(40, 0.5), ONE_KIND) == 0


def test_skewness_and_resampled_variance_of_two_kinds_by_a_loop() -> None:
    rng = np.random.default_rng(1)
    without, values = rng.exponential(size=15), rng.standard_normal(50)
    third = variance = drawn = 0.0
    for rows in (range(6), range(6, 15)):
        n, middle = len(rows), sum(without[g] for g in rows) / len(rows)
        pulls = [(middle - without[g]) * (n - 1) / n for g in rows]
        third += sum(pull**3 for pull in pulls) * n**2 / ((n - 1) * (n - 2))
        variance += sum(pull**2 for pull in pulls) * n / (n - 1)
        drawn += sum(pull**2 for pull in pulls)
    assert bounds.jackknife_skewness(without, TWO_KINDS) == pytest.approx(third / variance**1.5)
    found = bounds.resampled_variance(np.r_[values, np.nan], without, TWO_KINDS)
    assert found == pytest.approx(values.var(ddof=1) * variance / drawn)


def test_resampled_variance_of_a_mean_is_its_textbook_error() -> None:
    x = np.random.default_rng(2).standard_normal(40)
    means = x[np.random.default_rng(3).integers(0, 40, (200_000, 40))].mean(axis=1)
    found = bounds.resampled_variance(means, (x.sum() - x) / 39, ONE_KIND)
    assert found == pytest.approx(x.var(ddof=1) / 40, rel=0.02)


def test_the_long_side_alone_is_lengthened() -> None:
    point, se, df, linear = np.asarray(0.4), np.asarray(0.03), np.asarray(9.0), bounds.Scale(linear=True)
    t = scipy.stats.t.ppf(0.975, 9)
    longer = t * (1 + 0.2 * t * 0.5)
    plain = bounds.t_bounds(point, se, df, linear, 0.95)
    np.testing.assert_allclose(plain, [0.4 - 0.03 * t, 0.4 + 0.03 * t])
    np.testing.assert_allclose(bounds.t_bounds(point, se, df, linear, 0.95, 0.5), [plain[0], 0.4 + 0.03 * longer])
    np.testing.assert_allclose(bounds.t_bounds(point, se, df, linear, 0.95, -0.5), [0.4 - 0.03 * longer, plain[1]])


def test_the_square_root_scale_by_hand() -> None:
    root = bounds.Scale(root=True)
    value, step = np.array([0.01, 0.04, 0.5]), 1e-7
    np.testing.assert_allclose(root.back(root.forward(value)), value)
    np.testing.assert_allclose(root.slope(value), (root.forward(value + step) - root.forward(value)) / step, rtol=1e-4)
    low, high = bounds.t_bounds(np.array([0.01, 0.9]), np.array([0.02, 0.5]), np.array([9.0, 9.0]), root, 0.95)
    t = scipy.stats.t.ppf(0.975, 9)
    assert low[0] == 0  # sqrt(0.01) = 0.1 less t times 0.02 / 0.2
    assert high[0] == pytest.approx((0.1 + t * 0.1) ** 2)
    assert high[1] == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [bounds.Scale(), bounds.Scale(0.0, float("inf")), bounds.Scale(root=True)])
def test_many_data_sets_at_once_equal_one_by_one_in_any_order(method: Method, scale: bounds.Scale) -> None:
    rng = np.random.default_rng(4)
    point = rng.uniform(0.2, 0.8, 7)
    without = point[:, None] + 0.02 * rng.standard_normal((7, 15))
    drawn = point[:, None] + 0.05 * rng.standard_normal((7, 80))
    errors = 0.05 * rng.uniform(0.5, 2.0, (7, 80))
    all_at_once = method_bounds(
        method, IntervalEvidence(point, without, bounds.Resampled(drawn, errors)), TWO_KINDS, scale, 0.95
    )
    order = rng.permutation(15)
    shuffled = bounds.Strata(TWO_KINDS.stratum_G[order], TWO_KINDS.holds_GK[order])
    for row in range(7):
        one = IntervalEvidence(point[row], without[row][order], bounds.Resampled(drawn[row][::-1], errors[row][::-1]))
        found = method_bounds(method, one, shuffled, scale, 0.95)
        np.testing.assert_allclose(found, [all_at_once[0][row], all_at_once[1][row]], rtol=1e-9)


def test_monotone_transforms_of_the_scores_and_row_order_change_no_interval_of_a_ranking() -> None:
    first = random_predictions(n=300, n_groups=24, n_classes=2)
    score = first.logit_NK[:, 1] - first.logit_NK[:, 0]
    ids = first.table["group_id"].to_list()
    stretched = make_predictions(first.y_true_N, np.stack([np.zeros(len(score)), 2.0 * score**3 + score], axis=1), ids)
    shuffled = Predictions(first.table.sample(fraction=1, shuffle=True, seed=1), first.class_names)
    names = ("auroc", "auprc", "sensitivity_at_95_specificity", "specificity_at_95_sensitivity")
    for method in ("auto", "skewed-t", "resampled-t"):
        config = IntervalConfig(method=method, n_resamples=100)
        expected = [score.interval for score in score_predictions(first, names, config)]
        assert None not in expected
        for other in (stretched, shuffled):
            assert [score.interval for score in score_predictions(other, names, config)] == expected


def test_an_error_from_resamples_takes_400_of_them_at_most() -> None:
    predictions = random_predictions(n=300, n_groups=24)

    def interval(n_resamples: int) -> Interval | None:
        config = IntervalConfig(method="resampled-t", n_resamples=n_resamples)
        return score_predictions(predictions, ["sensitivity_at_95_specificity"], config)[0].interval

    found = interval(2000)
    assert found == interval(400) != interval(100)
    assert found is not None
    assert "error from 400 resamples of groups" in found.method
