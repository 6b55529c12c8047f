"""Bands of curves equal a plain loop over scikit-learn's curves of resampled groups."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from histotune.statistics import bands
from histotune.statistics.bands import FPR_GRID_M, RECALL_GRID_M, curve_bands
from histotune.statistics.config import IntervalConfig
from histotune.statistics.intervals import resampling_units
from histotune.statistics.records import Predictions
from histotune.statistics.resampling import draw_counts, read_sample

Float = NDArray[np.float64]


def scored(
    seed: int = 0, n_groups: int = 18, n_classes: int = 2, n_levels: int | None = 15, n_tiles: int = 4
) -> Predictions:
    """Tiles whose scores are shifted by group; with ``n_levels`` they tie."""
    rng = np.random.default_rng(seed)
    group_N = np.repeat(np.arange(n_groups), rng.integers(1, 2 * n_tiles, n_groups))
    y_N = np.where(rng.random(len(group_N)) < 0.2, (group_N + 1) % n_classes, group_N % n_classes)
    logit_NK = rng.normal(size=(len(y_N), n_classes)) + 1.2 * np.eye(n_classes)[y_N]
    logit_NK += rng.normal(size=(n_groups, n_classes))[group_N]
    if n_levels is not None:
        logit_NK = np.round(logit_NK * n_levels / 8) * 8 / n_levels
    probability_NK = np.exp(logit_NK) / np.exp(logit_NK).sum(axis=1, keepdims=True)
    n = len(y_N)
    table = pl.DataFrame({
        "tile_id": [f"t{row:05d}" for row in range(n)], "group_id": [f"g{group}" for group in group_N],
        "source_patient_id": [None] * n, "slide_id": [None] * n, "domain": ["d"] * n,
        "fold": pl.Series([0] * n, dtype=pl.Int32), "seed": pl.Series([0] * n, dtype=pl.Int32), "y_true": y_N,
        "logit": pl.Series(logit_NK, dtype=pl.Array(pl.Float64, n_classes)),
        "probability": pl.Series(probability_NK, dtype=pl.Array(pl.Float64, n_classes)),
        "head_id": ["h"] * n, "split_hash": ["s"] * n, "view": ["v"] * n, "input_mpp": [0.5] * n,
    })  # fmt: skip
    return Predictions(table, tuple(f"c{index}" for index in range(n_classes)))


def read_roc(event: NDArray[np.bool_], score: Float) -> list[float]:
    fpr, tpr, _ = roc_curve(event, score, drop_intermediate=False)
    values = []
    for place in FPR_GRID_M:
        left = int(np.flatnonzero(fpr <= place + 1e-9)[-1])
        last = left == len(fpr) - 1
        way = 0.0 if last else max(0.0, (place - fpr[left]) / (fpr[left + 1] - fpr[left]))
        values.append(float(tpr[left] if last else tpr[left] + way * (tpr[left + 1] - tpr[left])))
    return values


def read_precision(event: NDArray[np.bool_], score: Float) -> list[float]:
    precision, recall, _ = precision_recall_curve(event, score)
    # scikit-learn lists thresholds upwards, so that the last one reaching a recall is the highest
    return [float(precision[np.flatnonzero(recall[:-1] >= place - 1e-9)[-1]]) for place in RECALL_GRID_M]


def loop(predictions: Predictions, config: IntervalConfig, label: int) -> tuple[Float, Float]:
    """Limits (2, M) of both curves: resample tiles group by group, one curve at a time."""
    sample = read_sample(predictions)
    units = resampling_units(sample, config)
    n_classes = len(predictions.class_names)
    score_N = sample.score_NK[:, 1] - sample.score_NK[:, 0] if n_classes == 2 else sample.score_NK[:, label]
    roc, precision = [], []
    for counts_G in np.concatenate(list(draw_counts(units.strata.holds_GK, config.n_resamples, config.seed))):
        rows = np.repeat(np.arange(len(score_N)), counts_G[units.unit_N].astype(int))
        event, score = sample.y_N[rows] == label, score_N[rows]
        roc.append(read_roc(event, score))
        precision.append(read_precision(event, score))
    limits = [0.025, 0.975]
    return np.quantile(roc, limits, axis=0), np.quantile(precision, limits, axis=0)


@pytest.mark.parametrize(("n_classes", "n_levels"), [(2, 15), (2, None), (3, None)])
def test_bands_equal_a_loop_over_sklearn(n_classes: int, n_levels: int | None) -> None:
    predictions = scored(n_classes=n_classes, n_levels=n_levels, n_groups=9 * n_classes)
    config = IntervalConfig(n_resamples=100, seed=3)
    found = curve_bands(predictions, config)
    assert [one.label for one in found.classes] == ([1] if n_classes == 2 else [0, 1, 2]) and not found.reason
    for one in found.classes:
        roc, precision = loop(predictions, config, one.label)
        np.testing.assert_allclose([one.roc.low_M, one.roc.high_M], roc, atol=1e-9)
        np.testing.assert_allclose([one.precision_recall.low_M, one.precision_recall.high_M], precision, atol=1e-9)


def test_order_of_rows_changes_nothing() -> None:
    predictions = scored()
    shuffled = Predictions(predictions.table.sample(fraction=1, shuffle=True, seed=1), predictions.class_names)
    one, other = (curve_bands(part, IntervalConfig()).classes[0] for part in (predictions, shuffled))
    np.testing.assert_array_equal(one.roc.low_M, other.roc.low_M)
    np.testing.assert_array_equal(one.precision_recall.high_M, other.precision_recall.high_M)


def test_many_scores_are_thinned_without_being_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = scored(n_groups=40, n_levels=None, n_tiles=100)
    config = IntervalConfig(n_resamples=100)
    thin = curve_bands(predictions, config).classes[0]
    monkeypatch.setattr(bands, "MAX_THRESHOLDS", 10**6)
    full = curve_bands(predictions, config).classes[0]
    np.testing.assert_allclose(thin.roc.low_M, full.roc.low_M, atol=5e-3)
    np.testing.assert_allclose(thin.precision_recall.low_M, full.precision_recall.low_M, atol=2e-2)
    assert not np.array_equal(thin.roc.low_M, full.roc.low_M)


def test_groups_make_wider_bands_than_tiles() -> None:
    predictions = scored(n_groups=20, n_tiles=20)
    by_group = curve_bands(predictions, IntervalConfig())
    by_tile = curve_bands(predictions, IntervalConfig(cluster="tile"))
    width = [np.mean(one.classes[0].roc.high_M - one.classes[0].roc.low_M) for one in (by_group, by_tile)]
    assert width[0] > 1.5 * width[1] and "TOO NARROW" in by_tile.method and "TOO NARROW" not in by_group.method


def test_no_band_where_intervals_are_refused() -> None:
    few = curve_bands(scored(n_groups=6), IntervalConfig())
    assert not few.classes and "an interval needs 5" in few.reason and few.of_class(1) is None
    unknown = scored()
    table = unknown.table.with_columns(group_id=pl.lit(None, dtype=pl.String))
    assert "group ids are missing" in curve_bands(Predictions(table, unknown.class_names), IntervalConfig()).reason


def test_a_perfect_ranking_has_a_band_without_width() -> None:
    predictions = scored()
    logit = np.eye(2)[predictions.y_true_N] * 3.0
    table = predictions.table.with_columns(pl.Series("logit", logit, dtype=pl.Array(pl.Float64, 2)))
    band = curve_bands(Predictions(table, predictions.class_names), IntervalConfig()).classes[0]
    assert (band.roc.low_M == 1).all() and (band.precision_recall.low_M == 1).all()
