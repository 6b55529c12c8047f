"""From predictions to a row of a finding: which metrics, which marks, which intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.evaluation.findings import TOO_NARROW, ScoredArm, domain_order
from histotune.statistics.evaluators import make_evaluator, read_sample
from histotune.statistics.scores import score_predictions

if TYPE_CHECKING:
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.predictions import IntervalConfig, Predictions


def metrics_for(predictions: Predictions) -> tuple[MetricName, ...]:
    """Return the metrics that these predictions allow, AUROC first.

    Args:
        predictions: What is scored.

    Returns:
        Metric names; AUPRC and operating points in binary tasks only, patient recognition rate where the authors' ids
        are known (their image recognition rate is the accuracy).
    """
    metrics: list[MetricName] = ["auroc", "balanced_accuracy", "accuracy", "macro_f1", "mcc"]
    binary = len(predictions.class_names) == 2
    if binary:
        metrics.insert(1, "auprc")
    if predictions.table["source_patient_id"].null_count() == 0:
        metrics.append("patient_recognition_rate")
    points: tuple[MetricName, ...] = ("sensitivity_at_95_specificity", "specificity_at_95_sensitivity")
    return (*metrics, "log_loss", "brier", "ece_debiased", *(points if binary else ()))


def score_domains(
    arm: str, predictions: Predictions, trained_on: str, interval: IntervalConfig, marks: tuple[str, ...]
) -> tuple[ScoredArm, ...]:
    """Score an arm on each of its domains.

    Args:
        arm: Name of the arm.
        predictions: Its predictions, over one or several domains.
        trained_on: What trained it.
        interval: How intervals are made.
        marks: Marks of the data sets involved (SYNTHETIC, EXTERNAL, LEAKY).

    Returns:
        A row per domain, in the order of the domain's scale or name.
    """
    if interval.cluster == "tile":
        marks = (*marks, TOO_NARROW)
    within_folds = predictions.table["fold"].n_unique() > 1
    rows = []
    for domain in sorted(predictions.table["domain"].unique(), key=domain_order):
        part = predictions.where(pl.col("domain") == domain)
        scores = score_predictions(part, metrics_for(part), interval, within_folds=within_folds)
        rows.append(ScoredArm(arm, domain, trained_on, median_mpp(part), scores, marks))
    return tuple(rows)


def plain_value(predictions: Predictions, name: MetricName) -> float:
    """Return a metric's value alone, without an interval; AUROC within folds.

    Args:
        predictions: What is scored.
        name: The metric.
    """
    sample = read_sample(predictions)
    evaluator = make_evaluator(name, sample, np.zeros(len(sample.y_N), np.int64), 1, within_folds=True)
    return float(evaluator(np.ones((1, 1)))[0])


def median_mpp(predictions: Predictions) -> float:
    """Return the median input_mpp, um/px; NaN where no tile's scale is known."""
    values = predictions.table["input_mpp"].drop_nulls().drop_nans()
    return float(np.round(values.median(), 4)) if len(values) else float("nan")  # type: ignore[arg-type]
