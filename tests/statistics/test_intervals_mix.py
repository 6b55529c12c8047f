"""Whether the mix of classes is chance or choice: unconditional intervals by default, conditional ones named so."""

from __future__ import annotations

import numpy as np
import pytest

from histotune.statistics.bounds import Strata, jackknife_variance, metric_scale
from histotune.statistics.curves import curve_bands
from histotune.statistics.evaluators import make_evaluator
from histotune.statistics.intervals import PointEstimate, earned_interval, p_against, resampling_units
from histotune.statistics.metrics import METRIC_NAMES, MetricName
from histotune.statistics.predictions import IntervalConfig, Predictions
from histotune.statistics.sample import draw_counts, read_sample
from histotune.statistics.scores import score_predictions
from tests.statistics.samples import make_predictions, random_predictions

FIXED, SAMPLED = IntervalConfig(mix="fixed"), IntervalConfig()
OF_THE_MIX: tuple[MetricName, ...] = ("accuracy", "macro_f1", "mcc", "auprc", "log_loss", "brier")
"""Metrics whose value another mix of classes changes."""


def one_sided_head(n_groups: int = 40, seed: int = 0, share: float = 0.7) -> Predictions:
    """Groups of one class; the head is right about most positive tiles and wrong about most negative ones."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_groups), 10)
    y = (group < round(share * n_groups)).astype(np.int64)
    margin = 1.5 + 0.6 * y + 0.4 * rng.standard_normal(n_groups)[group] + rng.standard_normal(len(y))
    return make_predictions(y, np.stack([np.zeros(len(y)), margin], axis=1), [f"g{g:02d}" for g in group])


def width(predictions: Predictions, name: MetricName, config: IntervalConfig) -> float:
    (score,) = score_predictions(predictions, [name], config)
    assert score.interval is not None, score.reason
    return score.interval.high - score.interval.low


@pytest.mark.parametrize("name", OF_THE_MIX)
def test_the_mix_is_part_of_the_error_unless_it_was_chosen(name: MetricName) -> None:
    predictions = one_sided_head()
    assert width(predictions, name, SAMPLED) > 1.03 * width(predictions, name, FIXED)


@pytest.mark.parametrize("name", ["auroc", "balanced_accuracy"])
def test_metrics_that_weigh_classes_alike_hardly_know_the_mix(name: MetricName) -> None:
    predictions = one_sided_head()
    assert width(predictions, name, SAMPLED) == pytest.approx(width(predictions, name, FIXED), rel=0.08)


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_only_the_conditional_interval_says_that_it_is_one(name: MetricName) -> None:
    predictions = random_predictions(n=400, n_groups=40, mixed=0.0)
    for config, said in ((SAMPLED, False), (FIXED, True)):
        (score,) = score_predictions(predictions, [name], config)
        if score.interval is not None:
            assert ("conditional on the mix of classes" in score.interval.method) == said
    assert "conditional" not in curve_bands(predictions, SAMPLED).method
    assert "conditional on the mix of classes" in curve_bands(predictions, FIXED).method


def test_the_error_of_an_accuracy_is_that_of_a_mean_over_all_groups() -> None:
    """Groups of one size: the accuracy is the mean of theirs, whatever their class."""
    predictions = one_sided_head(n_groups=30)
    sample = read_sample(predictions)
    hits_G = (sample.predicted_N == sample.y_N).reshape(30, 10).mean(axis=1)
    for config, strata in ((SAMPLED, [slice(0, 30)]), (FIXED, [slice(0, 21), slice(21, 30)])):
        units = resampling_units(sample, config)
        evaluator = make_evaluator("accuracy", sample, units.unit_N, units.n_units, within_folds=False)
        variance, _ = jackknife_variance(evaluator.without_each(), units.strata)
        parts = [hits_G[part] for part in strata]
        expected = sum(len(part) ** 2 / 30**2 * part.var(ddof=1) / len(part) for part in parts)
        # leaving a group out leaves 29: within kinds the factor of the whole stays
        slack = 1e-9 if config is SAMPLED else 0.1
        assert float(variance) == pytest.approx(expected, rel=slack)


def test_resamples_of_a_sampled_mix_vary_in_it() -> None:
    holds = np.eye(2, dtype=bool)[np.r_[np.zeros(12, int), np.ones(28, int)]]
    for strata, spread in ((Strata.pooled(holds), np.sqrt(40 * 0.3 * 0.7)), (Strata.of(holds), 0.0)):
        counts = np.concatenate(list(draw_counts(strata.stratum_G, 2000, seed=0)))
        assert (counts.sum(axis=1) == 40).all()
        assert counts[:, :12].sum(axis=1).std() == pytest.approx(spread, rel=0.1, abs=1e-9)
    assert Strata.pooled(holds).rarest == Strata.of(holds).rarest == 12


@pytest.mark.parametrize("name", ["auroc", "accuracy", "mcc", "log_loss", "sensitivity_at_95_specificity"])
@pytest.mark.parametrize("method", ["auto", "studentised", "percentile"])
def test_p_of_a_known_value_is_where_the_interval_reaches_it(name: MetricName, method: str) -> None:
    config = IntervalConfig(method=method, n_resamples=300)  # type: ignore[arg-type]
    predictions = random_predictions(n=300, n_groups=24)
    units = resampling_units(read_sample(predictions), config)
    evaluator = make_evaluator(name, units.sample, units.unit_N, units.n_units, within_folds=False)
    (score,) = score_predictions(predictions, [name], config)
    estimate = PointEstimate(name, evaluator, score.value, metric_scale(name))
    assert score.interval is not None
    width = score.interval.high - score.interval.low
    for known in (score.interval.low - 0.02 * width, score.interval.low + 0.02 * width, score.value):
        p = p_against(estimate, known, units)
        assert (p < 0.05) == (known < score.interval.low)
    assert p_against(estimate, score.interval.high + 5e-3 * width, units) < 0.05


def test_an_added_variance_widens_and_degrees_of_freedom_are_those_of_the_sum() -> None:
    rng = np.random.default_rng(1)
    without = 0.8 + 0.01 * rng.standard_normal(20)
    strata = Strata.pooled(np.ones((20, 2), bool))
    plain = earned_interval(("auroc", 0.8), without, strata, SAMPLED)
    more = earned_interval(("auroc", 0.8), without, strata, SAMPLED, (0.002, 3.0))
    nothing = earned_interval(("auroc", 0.8), without, strata, SAMPLED, (0.0, 3.0))
    assert plain is not None and more is not None
    assert nothing == plain
    assert more.low < plain.low < 0.8 < plain.high < more.high
    agree = earned_interval(("auroc", 1.0), np.ones(20), strata, SAMPLED)
    assert agree is not None and agree.method.startswith("exact bound")
    spread = earned_interval(("auroc", 0.9), np.full(20, 0.9), strata, SAMPLED, (0.001, 2.0))
    assert spread is not None and spread.low < 0.9 < spread.high and "jackknife" in spread.method
    assert earned_interval(("log_loss", 0.5), np.full(20, 0.5), strata, SAMPLED) is None
