"""Contrasts equal the paired differences of the statistics room; independent differences their two variances."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
import scipy.stats

from histotune.statistics.comparison import paired_difference
from histotune.statistics.metrics import MetricName
from histotune.statistics.predictions import IntervalConfig, Predictions
from histotune.transfer.case import TransferCase
from histotune.transfer.corrections import make_workbench, two_class_margins
from histotune.transfer.differences import Contrasts, independent_difference

Transfers = Callable[..., TransferCase]
INTERVAL = IntervalConfig()


@pytest.mark.parametrize("metric", ["auroc", "balanced_accuracy", "log_loss"])
def test_two_arms_equal_the_paired_difference(transfer: Transfers, metric: MetricName) -> None:
    bench = make_workbench(transfer(), 4, 0)
    margin = bench.margins(bench.case.target.x_ND)
    noise = two_class_margins(np.random.default_rng(0).normal(size=len(margin)))
    a, b = bench.arm(margin), bench.arm(margin + noise)
    found = Contrasts(INTERVAL).score(metric, ((1.0, a), (-1.0, b)))
    peer = paired_difference(a.predictions, b.predictions, metric, INTERVAL)
    assert found.value == pytest.approx(peer.value, abs=1e-12)
    # a sum of several arms is not swapped: its interval is that of leaving out one group, by hand here
    groups = a.predictions.table["group_id"].to_numpy()
    names = np.unique(groups)
    without_G = [
        paired_difference(
            a.predictions.where(pl.col("group_id") != name),
            b.predictions.where(pl.col("group_id") != name),
            metric,
            FEW,
        ).value
        for name in names
    ]
    error = np.sqrt((len(names) - 1) * np.var(without_G))
    middle, reach = (found.interval.low + found.interval.high) / 2, (found.interval.high - found.interval.low) / 2
    assert middle == pytest.approx(peer.value) and reach > 1.96 * error
    assert reach == pytest.approx(error * scipy.stats.t.ppf(0.975, freedom(without_G, a.predictions)), rel=1e-6)


FEW = IntervalConfig(min_groups_per_class=10**6)


def freedom(without_G: list[float], predictions: Predictions) -> float:
    """Satterthwaite's degrees of freedom from the kurtosis, at most the groups of the rarer class less one."""
    square = (np.array(without_G) - np.mean(without_G)) ** 2
    found = 2 * square.sum() ** 2 / ((square**2).sum() - square.sum() ** 2 / len(square))
    held = predictions.table.group_by("y_true").agg(pl.col("group_id").n_unique())["group_id"]
    return float(np.clip(found, 1.0, held.min() - 1.0))  # type: ignore[operator]


def test_differences_of_differences_add_up(transfer: Transfers) -> None:
    bench = make_workbench(transfer(), 4, 0)
    margin = bench.margins(bench.case.target.x_ND)
    arms = [bench.arm(scale * margin) for scale in (1.0, 2.0, 4.0)]
    contrasts = Contrasts(INTERVAL)
    whole = contrasts.score("log_loss", ((1.0, arms[2]), (-1.0, arms[0])))
    parts = [contrasts.score("log_loss", ((1.0, arms[i + 1]), (-1.0, arms[i]))).value for i in (0, 1)]
    assert whole.value == pytest.approx(sum(parts))


def test_an_independent_difference_covers_no_difference_about_as_often_as_it_says(transfer: Transfers) -> None:
    inside = 0
    for seed in range(60):
        case = transfer(seed=seed)
        bench = make_workbench(case, 4, 0)
        target = bench.arm(bench.margins(case.target.x_ND)).predictions
        found = independent_difference(case.source_predictions, target, "auroc", INTERVAL, folds=(False, False))
        inside += found.interval.low <= 0.0 <= found.interval.high
    assert inside >= 52  # 95 % of 60, less three standard errors


def test_too_few_groups_refuse_the_interval_and_say_so(transfer: Transfers) -> None:
    case = transfer(target_labels=[0, 0, 0, 1, 1, 1])
    bench = make_workbench(case, 4, 0)
    target = bench.arm(bench.margins(case.target.x_ND)).predictions
    found = independent_difference(case.source_predictions, target, "auroc", INTERVAL, folds=(False, False))
    assert found.interval is None
    assert found.reason.startswith("target: class")


def test_arms_that_rank_alike_get_no_interval_but_the_reason(transfer: Transfers) -> None:
    bench = make_workbench(transfer(), 4, 0)
    margin = bench.margins(bench.case.target.x_ND)
    found = Contrasts(INTERVAL).score(
        "auroc", ((1.0, bench.arm(margin + np.array([0.0, 1.0]))), (-1.0, bench.arm(margin)))
    )
    assert (found.value, found.interval) == (0.0, None)
    assert found.reason.startswith("unchanged")
