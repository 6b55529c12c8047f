from __future__ import annotations

import dataclasses
from itertools import combinations

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from histotune.statistics import evaluators as evaluators_module
from histotune.statistics.bounds import Strata
from histotune.statistics.comparison import paired_difference
from histotune.statistics.evaluators import make_evaluator
from histotune.statistics.intervals import over_resamples, resampling_units
from histotune.statistics.metrics import METRIC_NAMES, MetricName, metric_kind
from histotune.statistics.predictions import IntervalConfig, Predictions
from histotune.statistics.sample import draw_counts, read_sample
from histotune.statistics.scores import score_predictions
from histotune.tools.errors import UserError
from tests.statistics.samples import make_predictions, random_predictions

CONFIG = IntervalConfig(n_resamples=200)
ALL = list(METRIC_NAMES)


def one(predictions: Predictions, metric: MetricName, config: IntervalConfig = CONFIG, **options: bool):  # noqa: ANN201
    return score_predictions(predictions, [metric], config, **options)[0]


def test_values_equal_sklearns() -> None:
    predictions = random_predictions()
    y, p = predictions.y_true_N, predictions.probability_NK
    predicted = (p[:, 1] >= 0.5).astype(int)
    expected = {
        "accuracy": sk.accuracy_score(y, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(y, predicted),
        "macro_f1": sk.f1_score(y, predicted, average="macro"),
        "auroc": sk.roc_auc_score(y, predictions.logit_NK[:, 1]),
        "auprc": sk.average_precision_score(y, predictions.logit_NK[:, 1]),
        "log_loss": sk.log_loss(y, p),
        "brier": sk.brier_score_loss(y, p[:, 1]),
    }
    for score in score_predictions(predictions, list(expected), CONFIG):
        assert score.value == pytest.approx(expected[score.name], abs=1e-12)
        assert score.interval is not None
        assert score.interval.low <= score.value <= score.interval.high
        assert score.interval.method == (
            "t interval from leaving out one group at a time (jackknife), longer towards the long tail"
        )
        assert (score.n_tiles, score.n_groups, score.reason) == (120, 16, "")


def test_chance_levels() -> None:
    predictions = random_predictions(n_classes=2)
    y = predictions.y_true_N
    chance = {score.name: score.chance for score in score_predictions(predictions, ALL, CONFIG)}
    assert chance["auroc"] == 0.5
    assert chance["auprc"] == pytest.approx(y.mean())
    assert chance["accuracy"] == pytest.approx(max(y.mean(), 1 - y.mean()))
    assert chance["balanced_accuracy"] == 0.5
    assert one(random_predictions(n_classes=4), "balanced_accuracy").chance == 0.25


def resampled_rows(counts_G: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    return np.concatenate([np.flatnonzero(group_N == g) for g in range(len(counts_G)) for _ in range(int(counts_G[g]))])


@pytest.mark.parametrize("dense", [True, False], ids=["pair counts", "tile by tile"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("within_folds", [False, True])
def test_bootstrap_equals_a_loop_over_resampled_tiles(
    monkeypatch: pytest.MonkeyPatch, dense: bool, n_classes: int, within_folds: bool
) -> None:
    if not dense:
        monkeypatch.setattr(evaluators_module, "MAX_DENSE", 0)
        monkeypatch.setattr(evaluators_module, "MAX_PAIRS", 0)
    config = IntervalConfig(n_resamples=100)
    sample = read_sample(random_predictions(n_classes=n_classes))
    units = resampling_units(sample, config)
    names: list[MetricName] = [
        "auroc",
        "balanced_accuracy",
        "macro_f1",
        "log_loss",
        *(["auprc"] if n_classes == 2 else []),
    ]
    evaluators = [
        make_evaluator(name, sample, units.unit_N, units.n_units, within_folds=within_folds) for name in names
    ]
    chunks = over_resamples(lambda counts: [evaluate(counts) for evaluate in evaluators], units, config.n_resamples)
    values = {name: np.concatenate(parts) for name, parts in zip(names, zip(*chunks, strict=True), strict=True)}
    counts = np.concatenate(list(draw_counts(units.strata.stratum_G, config.n_resamples, config.seed)))
    for b in range(0, config.n_resamples, 7):
        rows = resampled_rows(counts[b], units.unit_N)
        y, p, predicted = sample.y_N[rows], sample.probability_NK[rows], sample.predicted_N[rows]
        assert values["balanced_accuracy"][b] == pytest.approx(sk.balanced_accuracy_score(y, predicted), abs=1e-12)
        assert values["macro_f1"][b] == pytest.approx(sk.f1_score(y, predicted, average="macro"), abs=1e-12)
        assert values["log_loss"][b] == pytest.approx(sk.log_loss(y, p), abs=1e-12)
        if n_classes == 2:
            score = sample.score_NK[rows, 1] - sample.score_NK[rows, 0]
            assert values["auprc"][b] == pytest.approx(sk.average_precision_score(y, score), abs=1e-12)
            expected = slow_auroc(y, score, sample.fold_N[rows] if within_folds else np.zeros(len(rows)))
        else:
            folds = sample.fold_N[rows] if within_folds else np.zeros(len(rows))
            expected = np.mean([slow_auroc(y == k, sample.score_NK[rows, k], folds) for k in range(n_classes)])
        assert values["auroc"][b] == pytest.approx(expected, abs=1e-12)


def slow_auroc(y: np.ndarray, score: np.ndarray, fold: np.ndarray) -> float:
    wins = pairs = 0.0
    for k in np.unique(fold):
        rows = fold == k
        n_pairs = int((y[rows] == 1).sum()) * int((y[rows] == 0).sum())
        if n_pairs:
            wins += n_pairs * sk.roc_auc_score(y[rows], score[rows])
            pairs += n_pairs
    return wins / pairs


def test_resamples_keep_the_number_of_groups_of_every_kind() -> None:
    kinds = Strata.of(np.array([[1, 0]] * 6 + [[0, 1]] * 7 + [[1, 1]] * 3, dtype=bool)).stratum_G
    counts = np.concatenate(list(draw_counts(kinds, 300, seed=0)))
    assert counts.shape == (300, 16)
    np.testing.assert_array_equal(counts[:, :6].sum(axis=1), 6)
    np.testing.assert_array_equal(counts[:, 6:13].sum(axis=1), 7)
    np.testing.assert_array_equal(counts[:, 13:].sum(axis=1), 3)
    np.testing.assert_allclose(counts.mean(axis=0), 1.0, atol=0.3)
    again = np.concatenate(list(draw_counts(kinds, 300, seed=0)))
    np.testing.assert_array_equal(counts, again)
    assert (counts != np.concatenate(list(draw_counts(kinds, 300, seed=1)))).any()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_row_order_changes_no_bit(n_classes: int) -> None:
    predictions = random_predictions(n_classes=n_classes)
    order = np.random.default_rng(1).permutation(len(predictions))
    shuffled = dataclasses.replace(predictions, table=predictions.table[order])
    metrics = [name for name in ALL if n_classes == 2 or not metric_kind(name).binary_only]
    for within_folds in (False, True):
        before = score_predictions(predictions, metrics, CONFIG, within_folds=within_folds)
        after = score_predictions(shuffled, metrics, CONFIG, within_folds=within_folds)
        assert [(s.value, s.interval) for s in before] == [(s.value, s.interval) for s in after]


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(["auroc", "auprc", "balanced_accuracy", "macro_f1", "brier", "ece"]))
def test_properties_of_every_score(seed: int, metric: MetricName) -> None:
    predictions = random_predictions(n=60, n_groups=12, seed=seed)
    score = one(predictions, metric)
    assert 0.0 <= score.value <= 1.0
    assert score.interval is not None
    assert 0.0 <= score.interval.low <= score.interval.high <= 1.0
    renamed = predictions.table.with_columns(group_id=pl.col("group_id").str.replace("g", "zz").str.reverse())
    relabelled = one(dataclasses.replace(predictions, table=renamed), metric)
    assert (relabelled.value, relabelled.interval) == (score.value, score.interval)


def test_wider_level_gives_wider_interval_and_seed_decides() -> None:
    predictions = random_predictions()
    narrow, wide = (one(predictions, "auroc", IntervalConfig(level=level)).interval for level in (0.5, 0.99))
    assert narrow is not None
    assert wide is not None
    assert wide.low < narrow.low < narrow.high < wide.high
    drawn = [one(predictions, "auroc", IntervalConfig(method="percentile", seed=seed)).interval for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_groups_widen_intervals_where_tiles_of_a_group_agree() -> None:
    group = np.repeat(np.arange(20), 20)
    y = group % 2
    shift = np.random.default_rng(0).standard_normal(20)[group]
    logit = np.stack([np.zeros(400), shift + 0.7 * y], axis=1)
    predictions = make_predictions(y, logit, [f"g{g}" for g in group])
    by_group = one(predictions, "auroc").interval
    by_tile = one(predictions, "auroc", IntervalConfig(cluster="tile", n_resamples=200)).interval
    assert by_group is not None
    assert by_tile is not None
    assert by_group.high - by_group.low > 2 * (by_tile.high - by_tile.low)
    assert "TOO NARROW" in by_tile.method
    assert "TOO NARROW" not in by_group.method


def test_missing_groups_refuse_the_interval_and_name_the_way_out() -> None:
    predictions = random_predictions()
    groups = [None, *predictions.table["group_id"][1:]]
    predictions = dataclasses.replace(
        predictions, table=predictions.table.with_columns(group_id=pl.Series(groups, dtype=pl.String))
    )
    score = one(predictions, "auroc")
    assert score.interval is None
    assert "--cluster tile" in score.reason
    assert np.isfinite(score.value)
    assert score.n_groups == 0
    by_tile = one(predictions, "auroc", IntervalConfig(cluster="tile", n_resamples=100))
    assert by_tile.interval is not None
    assert "TOO NARROW" in by_tile.interval.method


def test_too_few_groups_of_a_class_refuse_the_interval() -> None:
    score = one(random_predictions(n_groups=8, mixed=0.0), "auroc")
    assert score.interval is None
    assert score.reason == "class 'class0' has 4 groups; class 'class1' has 4 groups; an interval needs 5"
    assert one(random_predictions(n_groups=10, mixed=0.0), "auroc").interval is not None


@pytest.mark.parametrize("method", ["auto", "percentile", "bca", "studentised", "obuchowski-t"])
def test_a_perfect_score_gets_an_exact_bound_over_groups(method) -> None:  # noqa: ANN001
    y = np.arange(40) % 2
    predictions = make_predictions(y, np.stack([np.zeros(40), 2.0 * y - 1], axis=1), [f"g{i % 20}" for i in range(40)])
    config = IntervalConfig(n_resamples=100, method=method)
    auroc, auprc, accuracy, mcc = score_predictions(predictions, ["auroc", "auprc", "accuracy", "mcc"], config)
    share_10, share_20 = 1 - 0.05 ** (1 / 10), 1 - 0.05 ** (1 / 20)
    assert (auroc.value, auroc.interval.low, auroc.interval.high) == (1.0, pytest.approx(1 - share_10), 1.0)
    assert (accuracy.value, accuracy.interval.low) == (1.0, pytest.approx(1 - share_20))
    assert mcc.interval.low == pytest.approx(1 - 2 * share_10)
    assert auprc.interval.low == pytest.approx(1 - share_10 * np.log((1 + share_10) / share_10))
    assert "10 independent groups" in auroc.interval.method
    assert "20 independent groups" in accuracy.interval.method


def test_a_constant_head_gets_no_interval_where_its_value_holds_by_construction() -> None:
    predictions = random_predictions()
    constant = make_predictions(predictions.y_true_N, np.zeros((120, 2)), predictions.table["group_id"].to_list())
    auroc, balanced, accuracy, mcc = score_predictions(
        constant, ["auroc", "balanced_accuracy", "accuracy", "mcc"], CONFIG
    )
    assert (auroc.value, balanced.value) == (0.5, 0.5)
    assert auroc.interval is None
    assert balanced.interval is None
    assert "by construction" in auroc.reason
    assert accuracy.interval is not None
    assert np.isnan(mcc.value)
    assert "same decision" in mcc.reason


def test_a_missing_class_is_nan_with_the_reason() -> None:
    predictions = random_predictions().where(pl.col("y_true") == 0)
    for score in score_predictions(predictions, ["auroc", "auprc", "balanced_accuracy", "macro_f1"], CONFIG):
        assert np.isnan(score.value)
        assert score.interval is None
        assert score.reason == "no tile of class 'class1'"
    accuracy = one(predictions, "accuracy")
    assert np.isfinite(accuracy.value)
    assert accuracy.interval is None
    assert "class 'class1' has 0 groups" in accuracy.reason


def test_no_tiles_and_no_comparable_pair_are_nan_with_the_reason() -> None:
    empty = random_predictions().where(pl.col("y_true") > 5)
    assert [score.reason for score in score_predictions(empty, ["auroc", "accuracy"], CONFIG)] == ["no tiles"] * 2
    predictions = random_predictions(mixed=0.0)
    split = predictions.table.with_columns(fold=pl.col("y_true"))
    apart = one(dataclasses.replace(predictions, table=split), "auroc", within_folds=True)
    assert np.isnan(apart.value)
    assert "one fold" in apart.reason


def test_patient_recognition_rate() -> None:
    predictions = random_predictions()
    score = one(predictions, "patient_recognition_rate")
    p = predictions.probability_NK[:, 1] >= 0.5
    table = predictions.table.with_columns(hit=pl.Series(p == predictions.y_true_N))
    expected = table.group_by("source_patient_id").agg(pl.col("hit").mean())["hit"].mean()
    assert score.value == pytest.approx(expected)
    assert score.weighting == "group"
    assert score.interval is not None
    crossing = predictions.table.with_columns(source_patient_id=pl.lit("one"))
    crossed = one(dataclasses.replace(predictions, table=crossing), "patient_recognition_rate")
    assert crossed.interval is None
    assert "several groups" in crossed.reason
    unknown = predictions.table.with_columns(source_patient_id=pl.lit(None, dtype=pl.String))
    assert np.isnan(one(dataclasses.replace(predictions, table=unknown), "patient_recognition_rate").value)


def test_threshold_moves_decisions_and_not_rankings() -> None:
    predictions = random_predictions()
    strict = dataclasses.replace(predictions, threshold=0.9)
    p = predictions.probability_NK[:, 1]
    expected = sk.balanced_accuracy_score(predictions.y_true_N, p >= 0.9)
    assert one(strict, "balanced_accuracy").value == pytest.approx(expected)
    assert one(strict.where(pl.col("fold") >= 0), "balanced_accuracy").value == pytest.approx(expected)
    assert one(strict, "auroc").value == one(predictions, "auroc").value


def test_what_can_not_be_scored_is_refused() -> None:
    predictions = random_predictions()
    with pytest.raises(UserError, match="did you mean: auroc"):
        one(predictions, "aurok")  # type: ignore[arg-type]
    unlabelled = predictions.table.with_columns(y_true=pl.lit(None, dtype=pl.Int32))
    with pytest.raises(UserError, match="without a label"):
        one(dataclasses.replace(predictions, table=unlabelled), "auroc")
    assert "two classes" in one(random_predictions(n_classes=3), "sensitivity_at_95_specificity").reason


def test_paired_difference_equals_the_difference_and_is_narrower_for_similar_heads() -> None:
    a = random_predictions()
    noise = np.random.default_rng(9).normal(0, 0.3, len(a))
    logit = a.logit_NK + np.stack([np.zeros(len(a)), noise], axis=1)
    b = make_predictions(a.y_true_N, logit, a.table["group_id"].to_list(), folds=a.table["fold"].to_numpy())
    for metric in ("auroc", "auprc", "balanced_accuracy"):
        difference = paired_difference(a, b, metric, CONFIG)
        assert difference.name == f"{metric} difference"
        assert difference.value == pytest.approx(one(a, metric).value - one(b, metric).value, abs=1e-12)
        assert difference.chance == 0.0
        assert difference.interval is not None
        alone = one(a, metric).interval
        assert alone is not None
        assert difference.interval.high - difference.interval.low < alone.high - alone.low
        opposite = paired_difference(b, a, metric, CONFIG)
        assert opposite.interval is not None
        assert opposite.interval.low == pytest.approx(-difference.interval.high)


def test_paired_difference_aligns_rows_and_says_when_nothing_differs() -> None:
    a = random_predictions()
    shuffled = dataclasses.replace(a, table=a.table[np.random.default_rng(0).permutation(len(a))])
    same = paired_difference(a, shuffled, "auroc", CONFIG, within_folds=True)
    assert same.value == 0.0
    assert same.interval is not None
    assert same.interval.low == same.interval.high == 0.0
    assert same.interval.method == "both arms say the same of every tile"


def test_paired_difference_refuses_other_tiles_or_labels() -> None:
    a = random_predictions()
    with pytest.raises(UserError, match="same tiles"):
        paired_difference(a, a.where(pl.col("fold") > 0), "auroc", CONFIG)
    flipped = dataclasses.replace(a, table=a.table.with_columns(y_true=(1 - pl.col("y_true")).cast(pl.Int32)))
    with pytest.raises(UserError, match="labels or groups"):
        paired_difference(a, flipped, "auroc", CONFIG)
    twice = dataclasses.replace(a, table=pl.concat([a.table, a.table]))
    with pytest.raises(UserError, match="each tile once"):
        paired_difference(twice, twice, "auroc", CONFIG)


@pytest.mark.parametrize("within_folds", [False, True])
@pytest.mark.parametrize("dense", [True, False])
def test_auroc_over_pairs_of_classes_equals_a_loop(
    monkeypatch: pytest.MonkeyPatch, within_folds: bool, dense: bool
) -> None:
    if not dense:
        monkeypatch.setattr(evaluators_module, "MAX_DENSE", 0)
    predictions = dataclasses.replace(random_predictions(n_classes=4, n=200, n_groups=28), ranking="pairs")
    y, logit, fold = predictions.y_true_N, predictions.logit_NK, predictions.table["fold"].to_numpy()
    values = []
    for low, high in combinations(range(4), 2):
        rows = np.isin(y, (low, high))
        same = fold[rows] if within_folds else np.zeros(rows.sum(), int)
        values.append(slow_auroc(y[rows] == high, (logit[:, high] - logit[:, low])[rows], same))
    score = one(predictions, "auroc", within_folds=within_folds)
    assert score.value == pytest.approx(np.mean(values), abs=1e-12)
    assert score.interval is not None
    assert score.interval.low < score.value < score.interval.high


def test_auroc_over_pairs_does_not_change_with_shifts_scale_or_the_mix_of_classes() -> None:
    drawn = random_predictions(n_classes=3)
    y, groups, logit = drawn.y_true_N, list(drawn.table["group_id"]), np.round(8.0 * drawn.logit_NK) / 8.0  # exact ties
    predictions = dataclasses.replace(make_predictions(y, logit, groups), ranking="pairs")
    moved = make_predictions(y, 0.5 * logit + np.array([0.0, 1.5, -2.0]), groups)
    assert one(dataclasses.replace(moved, ranking="pairs"), "auroc").value == one(predictions, "auroc").value
    against_rest = dataclasses.replace(predictions, ranking="rest")
    assert one(moved, "auroc").value != pytest.approx(one(against_rest, "auroc").value)
    twice = predictions.table.filter(pl.col("y_true") == 1).with_columns(pl.col("tile_id") + " again")
    mixed = dataclasses.replace(predictions, table=pl.concat([predictions.table, twice]))
    assert one(mixed, "auroc").value == pytest.approx(one(predictions, "auroc").value, abs=1e-12)
    for metric in ("auprc", "accuracy", "log_loss"):
        assert one(predictions, metric).value == one(against_rest, metric).value


def test_two_classes_have_one_pair() -> None:
    predictions = random_predictions()
    assert one(predictions, "auroc") == one(dataclasses.replace(predictions, ranking="pairs"), "auroc")


def test_decisions_made_otherwise_count_before_the_threshold() -> None:
    predictions = random_predictions(n_classes=3)
    decided = dataclasses.replace(
        predictions, table=predictions.table.with_columns(pl.col("y_true").alias("predicted"))
    )
    assert one(decided, "balanced_accuracy").value == 1.0
    assert one(decided, "log_loss").value == one(predictions, "log_loss").value
