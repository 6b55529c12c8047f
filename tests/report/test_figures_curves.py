from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from histotune.statistics.curves import class_matrix, precision_points, reliability_bins, roc_points


@st.composite
def scored_tiles(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(2, 60))
    event_N = draw(hnp.arrays(bool, n))
    event_N[:2] = [True, False]
    score_N = draw(hnp.arrays(np.int64, n, elements=st.integers(0, 8))) / 8.0
    return event_N, score_N


@given(scored_tiles())
def test_roc_has_the_area_of_sklearn_with_ties(tiles: tuple[np.ndarray, np.ndarray]) -> None:
    false_P, true_P = roc_points(*tiles)
    assert np.trapezoid(true_P, false_P) == pytest.approx(roc_auc_score(*tiles), abs=1e-12)
    assert (false_P[0], true_P[0], false_P[-1], true_P[-1]) == (0, 0, 1, 1)


@given(scored_tiles())
def test_roc_has_no_point_that_sklearn_lacks(tiles: tuple[np.ndarray, np.ndarray]) -> None:
    expected_false, expected_true, _ = roc_curve(*tiles, drop_intermediate=True)
    false_P, true_P = roc_points(*tiles)
    assert set(zip(false_P, true_P, strict=True)) <= set(zip(expected_false, expected_true, strict=True))


def test_roc_ignores_the_order_of_rows() -> None:
    rng = np.random.default_rng(1)
    event_N, score_N, order = rng.random(200) < 0.3, rng.integers(0, 20, 200) / 20, rng.permutation(200)
    for one, other in zip(roc_points(event_N, score_N), roc_points(event_N[order], score_N[order]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_long_roc_is_thinned_and_keeps_its_area() -> None:
    rng = np.random.default_rng(2)
    event_N = rng.random(20_000) < 0.5
    score_N = rng.normal(size=20_000) + event_N
    full, thin = roc_points(event_N, score_N, max_points=100_000), roc_points(event_N, score_N)
    assert len(thin[0]) <= 300 < len(full[0])
    assert np.trapezoid(thin[1], thin[0]) == pytest.approx(np.trapezoid(full[1], full[0]), abs=2e-3)


def test_roc_refuses_one_class() -> None:
    with pytest.raises(ValueError, match="both classes"):
        roc_points(np.ones(4, bool), np.arange(4.0))


def test_reliability_bins_equal_sklearn() -> None:
    rng = np.random.default_rng(3)
    probability_N = rng.random(500)
    event_N = rng.random(500) < probability_N
    bins = reliability_bins(event_N, probability_N)
    observed, mean = calibration_curve(event_N, probability_N, n_bins=10)
    np.testing.assert_allclose([item.observed for item in bins], observed)
    np.testing.assert_allclose([item.mean_probability for item in bins], mean)
    assert sum(item.n_tiles for item in bins) == 500


def test_certain_predictions_stay_within_the_outer_bins() -> None:
    bins = reliability_bins(np.array([False, True]), np.array([0.0, 1.0]))
    assert [(item.low, item.high) for item in bins] == [(0.0, 0.1), (0.9, 1.0)]


def test_class_matrix_reads_arrays_and_the_lists_of_a_parquet_file() -> None:
    values = [[0.1, 0.9], [0.7, 0.3]]
    for dtype in (pl.Array(pl.Float64, 2), pl.List(pl.Float64)):
        table = pl.DataFrame({"probability": pl.Series(values, dtype=dtype)})
        np.testing.assert_array_equal(class_matrix(table, "probability"), values)


@given(scored_tiles())
def test_precision_steps_have_the_area_of_sklearn_with_ties(tiles: tuple[np.ndarray, np.ndarray]) -> None:
    recall_P, precision_P = precision_points(*tiles)
    area = np.sum(np.diff(recall_P) * precision_P[1:])
    assert area == pytest.approx(average_precision_score(*tiles), abs=1e-12)
    assert recall_P[0] == 0 and recall_P[-1] == 1 and (np.diff(recall_P) >= 0).all()


def test_long_precision_steps_are_thinned_and_keep_their_area() -> None:
    rng = np.random.default_rng(2)
    event_N = rng.random(20_000) < 0.3
    score_N = rng.normal(size=20_000) + event_N
    recall_P, precision_P = precision_points(event_N, score_N)
    assert len(recall_P) <= 300
    area = np.sum(np.diff(recall_P) * precision_P[1:])
    assert area == pytest.approx(average_precision_score(event_N, score_N), abs=4e-3)
