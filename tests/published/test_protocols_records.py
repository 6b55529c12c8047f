"""Metrics of many confusion matrices, ties, means and spreads."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from histotune.published.protocols import (
    ProtocolArm,
    ProtocolData,
    ProtocolRun,
    decided,
    metric_of_counts,
    metric_value,
)


def test_metrics_of_counts_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 80)
    predicted = rng.integers(0, 4, (25, 80))
    predicted[0] = 2
    counts = np.stack([np.bincount(y * 4 + row, minlength=16).reshape(4, 4) for row in predicted])
    peers = {"balanced_accuracy": balanced_accuracy_score, "macro_f1": lambda t, p: f1_score(t, p, average="macro")}
    for metric, peer in peers.items():
        expected = [peer(y, row) for row in predicted]
        np.testing.assert_allclose(metric_of_counts(metric, counts), expected)
        np.testing.assert_allclose([metric_value(metric, y, row, 4) for row in predicted], expected)


def test_ties_go_to_the_lower_class_and_shares_stay_shares() -> None:
    share = decided(np.array([[0.5, 0.5], [0.4, 0.6], [1.0, 0.0]]))
    assert (share[:, 1] >= 0.5).tolist() == [False, True, False]
    np.testing.assert_allclose(share.sum(axis=1), 1.0)
    assert np.abs(share - [[0.5, 0.5], [0.4, 0.6], [1.0, 0.0]]).max() < 1e-8


def test_mean_and_spread() -> None:
    runs = tuple(ProtocolRun(value, np.zeros((1, 2))) for value in (0.5, 0.7, 0.9))
    arm = ProtocolArm("a", "macro_f1", runs)
    assert (arm.mean, arm.sd) == (pytest.approx(0.7), pytest.approx(0.2))
    assert np.isnan(ProtocolArm("a", "macro_f1", runs[:1]).sd)
    assert np.isnan(ProtocolArm("a", "macro_f1", (*runs, ProtocolRun(float("nan"), np.zeros((1, 2))))).mean)


def test_rows_that_lie_together_are_a_view() -> None:
    x = np.arange(20.0, dtype=np.float32).reshape(10, 2)
    none = np.zeros(0, np.int64)
    data = ProtocolData(x, np.zeros(10, np.int64), 2, none, none, none)
    assert np.shares_memory(data.take(np.arange(3, 7)), x)
    for rows in (np.array([3, 4, 6]), np.array([4, 3]), none):
        assert (data.take(rows) == x[rows]).all() and not np.shares_memory(data.take(rows), x)
