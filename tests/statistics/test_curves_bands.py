"""Bands of curves equal a plain loop over scikit-learn's curves of resampled groups."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import scipy.stats
from benchmarks.coverage.bands import JUDGED, PLACES, judge_bands, true_curves
from benchmarks.coverage.cohort import CellSpec, Design, World, simulate
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve, roc_curve

from histotune.statistics import bounds, curves
from histotune.statistics.curves import FPR_GRID_M, RECALL_GRID_M, Places, Thresholds, curve_bands, rising_limits
from histotune.statistics.intervals import resampling_units, studied_bands
from histotune.statistics.predictions import IntervalConfig, Predictions
from histotune.statistics.sample import draw_counts, read_sample
from tests.statistics.samples import make_predictions

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


def loop(predictions: Predictions, config: IntervalConfig, label: int) -> tuple[Float, Float, Float]:
    """Both curves' values, on all tiles (M,), on resamples (B, M), without each group (G, M): one curve at a time."""
    sample = read_sample(predictions)
    units = resampling_units(sample, config)
    n_classes = len(predictions.class_names)
    score_N = sample.score_NK[:, 1] - sample.score_NK[:, 0] if n_classes == 2 else sample.score_NK[:, label]

    def read(counts_G: Float) -> list[float]:
        rows = np.repeat(np.arange(len(score_N)), counts_G[units.unit_N].astype(int))
        event, score = sample.y_N[rows] == label, score_N[rows]
        return read_roc(event, score) + read_precision(event, score)

    drawn = np.concatenate(list(draw_counts(units.strata.stratum_G, config.n_resamples, config.seed)))
    ones = np.ones(units.n_units)
    without = [read(ones - row) for row in np.eye(units.n_units)]
    return np.array(read(ones)), np.array([read(row) for row in drawn]), np.array(without)


def limits_by_hand(predictions: Predictions, config: IntervalConfig, found: tuple[Float, Float, Float]) -> Float:
    """t intervals on the logit scale; on the value's own at its ends; the rule of three where nothing moves."""
    strata = resampling_units(read_sample(predictions), config).strata
    limits = []
    for value, drawn, without in zip(found[0], found[1].T, found[2].T, strict=True):
        if np.ptp(np.r_[without, value]) < 1e-9:
            share = 1 - 0.05 ** (1 / min(strata.per_class_K.min(), len(without) // strata.holds_GK.shape[1]))
            limits.append((value - share * value, value + share * (1 - value)))
            continue
        df = float(bounds.jackknife_variance(without, strata)[1])
        reach = scipy.stats.t.ppf(0.975, df) * np.sqrt(bounds.resampled_variance(drawn, without, strata))
        if 0 < value < 1:
            steps = np.log(value / (1 - value)) + np.array([-reach, reach]) / (value * (1 - value))
            limits.append(tuple(1 / (1 + np.exp(-steps))))
        else:
            limits.append((max(value - reach, 0.0), min(value + reach, 1.0)))
    for place in range(1, len(FPR_GRID_M)):  # a sensitivity never falls
        limits[place] = max(limits[place - 1][0], limits[place][0]), limits[place][1]
    for place in reversed(range(len(FPR_GRID_M) - 1)):
        limits[place] = limits[place][0], min(limits[place + 1][1], limits[place][1])
    return np.array(limits).T


@pytest.mark.parametrize(("n_classes", "n_levels"), [(2, 15), (2, None), (3, None)])
def test_bands_equal_a_loop_over_sklearn(n_classes: int, n_levels: int | None) -> None:
    predictions = scored(n_classes=n_classes, n_levels=n_levels, n_groups=9 * n_classes)
    config = IntervalConfig(n_resamples=100, seed=3)
    found = curve_bands(predictions, config)
    assert [one.label for one in found.classes] == ([1] if n_classes == 2 else [0, 1, 2]) and not found.reason
    by_tile = curve_bands(predictions, config.model_copy(update={"cluster": "tile"}))
    for one, tiles in zip(found.classes, by_tile.classes, strict=True):
        expected = limits_by_hand(predictions, config, loop(predictions, config, one.label))
        roc, precision = [one.roc.low_M, one.roc.high_M], [one.precision_recall.low_M, one.precision_recall.high_M]
        np.testing.assert_allclose(np.hstack([roc, precision]), expected, atol=1e-7)
        drawn = loop(predictions, config.model_copy(update={"cluster": "tile"}), one.label)[1]
        quantiles = np.quantile(drawn[:, : len(FPR_GRID_M)], [0.025, 0.975], axis=0)
        np.testing.assert_allclose([tiles.roc.low_M, tiles.roc.high_M], quantiles, atol=1e-9)


def test_limits_of_a_rising_curve_rise_around_it() -> None:
    rng = np.random.default_rng(0)
    curve_M = np.sort(rng.random(50))
    low_M, high_M = curve_M - 0.3 * rng.random(50), curve_M + 0.3 * rng.random(50)
    risen = rising_limits(low_M, high_M)
    assert all((np.diff(limit_M) >= 0).all() for limit_M in risen)
    assert (low_M <= risen[0]).all() and (risen[0] <= curve_M).all()
    assert (curve_M <= risen[1]).all() and (risen[1] <= high_M).all()
    assert rising_limits(np.array([0.2, np.nan, 0.1]), np.ones(3))[0].tolist() == [0.2, 0.2, 0.2]


def test_order_of_rows_changes_nothing() -> None:
    predictions = scored()
    shuffled = Predictions(predictions.table.sample(fraction=1, shuffle=True, seed=1), predictions.class_names)
    one, other = (curve_bands(part, IntervalConfig()).classes[0] for part in (predictions, shuffled))
    np.testing.assert_array_equal(one.roc.low_M, other.roc.low_M)
    np.testing.assert_array_equal(one.precision_recall.high_M, other.precision_recall.high_M)


def test_many_scores_are_thinned_without_being_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = scored(n_groups=40, n_levels=None, n_tiles=100)
    sample = read_sample(predictions)
    units = resampling_units(sample, IntervalConfig())
    counts = list(draw_counts(units.strata.stratum_G, 100, 0))
    places = Places(np.array(FPR_GRID_M), np.array(RECALL_GRID_M))

    def read() -> Float:
        table = Thresholds.of(sample.y_N == 1, sample.score_NK[:, 1], units.unit_N, units.n_units)
        evidence = table.read(places, counts, without_each=False)
        assert evidence.drawn is not None
        return np.column_stack([evidence.point_x, evidence.drawn.values_xB])

    thin = read()
    monkeypatch.setattr(curves, "MAX_THRESHOLDS", 10**6)
    full = read()
    roc = slice(len(FPR_GRID_M))
    np.testing.assert_allclose(thin[roc], full[roc], atol=8e-3)
    np.testing.assert_allclose(thin[len(FPR_GRID_M) :], full[len(FPR_GRID_M) :], atol=4e-2)
    assert np.abs(thin - full).mean() < 1e-3  # single curves, so that single tiles show
    assert not np.array_equal(thin, full)


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


def test_a_perfect_ranking_has_the_exact_bound() -> None:
    predictions = scored()
    logit = np.eye(2)[predictions.y_true_N] * 3.0
    table = predictions.table.with_columns(pl.Series("logit", logit, dtype=pl.Array(pl.Float64, 2)))
    perfect = Predictions(table, predictions.class_names)
    strata = resampling_units(read_sample(perfect), IntervalConfig()).strata
    expected = 0.05 ** (1 / min(strata.per_class_K.min(), len(strata.stratum_G) // 2))
    band = curve_bands(perfect, IntervalConfig()).classes[0]
    np.testing.assert_allclose(band.roc.low_M, expected)
    np.testing.assert_allclose(band.precision_recall.low_M, expected)
    assert (band.roc.high_M == 1).all()


def test_bands_name_the_coverage_simulated_nearest() -> None:
    few, many = curve_bands(scored(n_groups=20), IntervalConfig()), curve_bands(scored(n_groups=60), IntervalConfig())
    assert few.coverage is not None and few.coverage.n_groups == 20 and few.coverage in studied_bands()
    assert many.coverage is not None and many.coverage.n_groups == 50
    assert curve_bands(scored(n_classes=3, n_groups=27), IntervalConfig()).coverage is None
    assert curve_bands(scored(), IntervalConfig(level=0.9)).coverage is None


@pytest.mark.parametrize(
    ("world", "design", "icc"), [("plain", "mixed", 0.1), ("rough", "one-class", 0.2), ("rough", "both", 0.2)]
)
def test_the_true_curves_are_those_of_many_tiles(world: World, design: Design, icc: float) -> None:
    spec = CellSpec(world, design, 200, 0.9, icc)
    cohorts = simulate(spec, 100, np.random.default_rng(0))
    fpr, tpr, _ = roc_curve(cohorts.y_N, cohorts.x_N)
    precision, recall, _ = precision_recall_curve(cohorts.y_N, cohorts.x_N)
    roc = np.interp(PLACES.fpr_M, fpr, tpr)
    at_recall = np.interp(PLACES.recall_M, recall[::-1], precision[::-1])
    np.testing.assert_allclose(np.r_[roc, at_recall], true_curves(spec), atol=0.01)


def test_a_small_simulation_of_bands_covers() -> None:
    tallies = judge_bands(CellSpec("plain", "one-class", 20, 0.9, 0.5), 60, 100, seed=1)
    place = JUDGED["roc", 0.2]
    assert 50 <= tallies[place, "resampled-t"].n <= 60  # cohorts with five groups of each class
    assert tallies[place, "resampled-t"].n_held / 60 >= 0.8
    assert tallies[place, "percentile"].n_held < tallies[place, "resampled-t"].n_held


def test_resamples_of_one_class_are_left_out_of_a_band() -> None:
    """Five groups of a class among 14: some resamples draw none of them."""
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(14), 6)
    y = (group < 5).astype(np.int64)
    logit = np.stack([np.zeros(len(y)), 1.5 * y + rng.standard_normal(len(y))], axis=1)
    predictions = make_predictions(y, logit, [f"g{g:02d}" for g in group])
    sample = read_sample(predictions)
    units = resampling_units(sample, IntervalConfig())
    counts = np.concatenate(list(draw_counts(units.strata.stratum_G, 4000, 0)))
    assert (counts[:, :5].sum(axis=1) == 0).any()
    (bands,) = curve_bands(predictions, IntervalConfig()).classes
    for band in (bands.roc, bands.precision_recall):
        assert np.isfinite(band.low_M).all() and np.isfinite(band.high_M).all()
