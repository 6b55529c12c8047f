"""Confusion matrix, sensitivity and specificity equal scikit-learn's, with intervals where groups allow them."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import confusion_matrix, recall_score

from histotune.evaluation.decisions import find_decisions, with_decisions
from histotune.evaluation.findings import Decisions, Finding, Findings, ScoredArm, findings_from_dict
from histotune.statistics.predictions import IntervalConfig, Predictions
from histotune.statistics.scores import score_predictions
from tests.statistics.samples import make_predictions, random_predictions

INTERVAL = IntervalConfig()


def decided(predictions: Predictions) -> Decisions:
    return find_decisions(predictions, INTERVAL)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_counts_and_rates_equal_scikit_learns(n_classes: int) -> None:
    predictions = random_predictions(n=260, n_groups=30, n_classes=n_classes, seed=3)
    found = decided(predictions)
    y_N, said_N = predictions.y_true_N, predictions.predicted_N
    assert np.array(found.counts).tolist() == confusion_matrix(y_N, said_N, labels=range(n_classes)).tolist()
    for label, rates in enumerate(found.rates):
        assert rates.sensitivity.value == pytest.approx(recall_score(y_N == label, said_N == label))
        assert rates.specificity.value == pytest.approx(recall_score(y_N != label, said_N != label))
        for score in (rates.sensitivity, rates.specificity):
            assert score.interval is not None
            assert score.interval.low < score.value < score.interval.high
            assert score.n_groups > 0
    balanced = score_predictions(predictions, ["balanced_accuracy"], INTERVAL)[0].value
    assert np.mean([rates.sensitivity.value for rates in found.rates]) == pytest.approx(balanced)


def test_of_two_classes_each_is_the_others_mirror() -> None:
    found = decided(random_predictions(n=200, n_groups=24, seed=1))
    one, other = found.rates
    assert (one.sensitivity.value, one.sensitivity.interval) == (other.specificity.value, other.specificity.interval)
    assert (one.specificity.value, one.specificity.interval) == (other.sensitivity.value, other.sensitivity.interval)


def test_an_interval_is_over_groups_and_not_over_tiles() -> None:
    base = random_predictions(n=120, n_groups=20, seed=5)
    copies = pl.concat(
        base.table.with_columns(pl.format("{}-{}", "tile_id", pl.lit(copy)).alias("tile_id")) for copy in range(10)
    )
    one, many = decided(base).rates[1].sensitivity, decided(Predictions(copies, base.class_names)).rates[1].sensitivity
    assert one.interval is not None and many.interval is not None
    assert many.value == pytest.approx(one.value)
    assert many.interval.high - many.interval.low == pytest.approx(one.interval.high - one.interval.low, rel=1e-6)


def test_the_thresholds_used_are_kept() -> None:
    base = random_predictions(n=100, n_groups=16)
    own = base.table.with_columns(threshold=pl.when(pl.col("fold") < 2).then(0.3).otherwise(0.7))
    assert decided(Predictions(own, base.class_names)).thresholds == (0.3, 0.7)
    assert decided(Predictions(base.table, base.class_names, threshold=0.4)).thresholds == (0.4,)
    assert decided(random_predictions(n_classes=3)).thresholds == ()


def test_where_there_is_no_interval_the_reason_stands() -> None:
    y = np.repeat([0, 1], 30)
    groups = [f"g{row // 3}" if row < 30 else f"h{row // 10}" for row in range(60)]
    right = make_predictions(y, np.stack([np.zeros(60), 4.0 * (y - 0.5)], axis=1), groups)
    first, second = decided(right).rates
    assert first.sensitivity.interval is None and "decided alike" in first.sensitivity.reason
    assert "3 groups; an interval needs 5" in second.sensitivity.reason or "decided alike" in second.sensitivity.reason
    lone = decided(Predictions(right.table.filter(y_true=0), right.class_names))
    assert np.isnan(lone.rates[1].sensitivity.value) and "no tile" in lone.rates[1].sensitivity.reason
    assert np.isnan(lone.rates[0].specificity.value)
    unknown = make_predictions(y, np.random.default_rng(0).normal(size=(60, 2)), [None] * 60)
    assert "group ids are missing" in decided(unknown).rates[0].sensitivity.reason


def test_only_the_probes_rows_get_decisions_and_they_survive_the_file() -> None:
    base = random_predictions(n=160, n_groups=20)
    half = pl.when(pl.int_range(pl.len()) % 2 == 0).then(pl.lit("d 40X")).otherwise(pl.lit("d 100X"))
    predictions = Predictions(base.table.with_columns(domain=half), base.class_names)
    rows = [
        ScoredArm(arm, domain, "t", 1.0, ()) for arm in ("probe", "majority class") for domain in ("d 40X", "d 100X")
    ]
    found = with_decisions(rows, predictions, INTERVAL)
    assert [row.decisions is not None for row in found] == [True, True, False, False]
    assert found[0].decisions is not None and found[1].decisions is not None
    assert sum(map(sum, found[0].decisions.counts)) == 80
    assert found[0].decisions.counts != found[1].decisions.counts
    whole = Findings("t", "", "b", "v", (), (Finding("in-domain", "t", "p", found),), (), "s", "c")
    again = findings_from_dict(asdict(whole)).findings[0].rows
    assert again[0].decisions == found[0].decisions and again[2].decisions is None
    old = asdict(whole)
    for row in old["findings"][0]["rows"]:
        row.pop("decisions")  # as runs of before have it
    assert findings_from_dict(old).findings[0].rows[0].decisions is None
