"""Score predictions: values with their intervals, n and reasons."""

# N tiles, K classes, G units, B resamples

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.statistics.intervals import Estimate, make_intervals, resampling_units
from histotune.statistics.methods import metric_scale
from histotune.statistics.metrics import METRIC_NAMES, MetricName, metric_kind
from histotune.statistics.predictions import Score
from histotune.statistics.ranking import fold_rows
from histotune.statistics.resampling import read_sample
from histotune.statistics.tables import make_evaluator
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.statistics.config import IntervalConfig
    from histotune.statistics.evaluators import Evaluator
    from histotune.statistics.intervals import Units
    from histotune.statistics.predictions import Interval, Predictions, Weighting
    from histotune.statistics.resampling import Sample

RANKING = ("auroc", "auprc", "sensitivity_at_95_specificity", "specificity_at_95_sensitivity")
CLIPPED = "no more than chance alone adds, so it is cut off at 0, where leaving out groups tells nothing of its error"
DECIDING = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "patient_recognition_rate")


def score_predictions(
    predictions: Predictions,
    metrics: Sequence[MetricName],
    interval: IntervalConfig,
    *,
    within_folds: bool = False,
) -> tuple[Score, ...]:
    """Return one score per metric, with intervals over whole groups.

    An interval is conditional on the trained head: it says how the value varies with the groups that are scored, not
    with those that trained the head.

    Args:
        predictions: The scored tiles; every one labelled.
        metrics: What to compute.
        interval: How intervals are made.
        within_folds: The predictions are cross-fitted: AUROC compares only tiles that one head scored (same ``fold``),
            because scores of different heads share no scale; other metrics pool all tiles.

    Returns:
        Scores in the order of ``metrics``; NaN with a reason where undefined.

    Raises:
        UserError: Unknown metric, an unlabelled tile, or a probability that is not finite.

    Example:
        >>> auroc, = score_predictions(predictions, ["auroc"], IntervalConfig())  # doctest: +SKIP
        >>> f"{auroc.value:.3f} [{auroc.interval.low:.3f}, {auroc.interval.high:.3f}]"  # doctest: +SKIP
        '0.912 [0.861, 0.948]'
    """
    for name in metrics:
        check_metric(name)
    sample = read_sample(predictions)
    units = resampling_units(sample, interval)
    found = [_estimate_or_reason(name, sample, units, interval, within_folds=within_folds) for name in metrics]
    estimates, refusals = [estimate for estimate, _ in found], [reason for _, reason in found]
    wanted = [e for e, reason in zip(estimates, refusals, strict=True) if e is not None and not reason]
    made = iter(make_intervals(wanted, sample, units, interval))
    return tuple(
        make_score(name, float("nan") if estimate is None else estimate.value,
                   (None, reason) if reason else next(made), sample)
        for name, estimate, reason in zip(metrics, estimates, refusals, strict=True)
    )  # fmt: skip


def _estimate_or_reason(
    name: MetricName, sample: Sample, units: Units, interval: IntervalConfig, *, within_folds: bool
) -> tuple[Estimate | None, str]:
    """Return a metric's value, and why it or its interval is missing; empty where neither is."""
    if reason := undefined_reason(name, sample):
        return None, reason
    estimate = _estimate(name, sample, units, within_folds=within_folds)
    if np.isnan(estimate.value):
        return estimate, undefined_value(name)
    if name == "ece_debiased" and estimate.value == 0.0:
        return estimate, CLIPPED
    return estimate, interval_refusal(name, sample, units, interval)


def _estimate(name: MetricName, sample: Sample, units: Units, *, within_folds: bool) -> Estimate:
    evaluator = make_evaluator(name, sample, units.unit_N, units.n_units, within_folds=within_folds)
    scale = metric_scale(name, sample.n_classes)
    constant = _is_constant(name, sample, within_folds=within_folds)
    return Estimate(name, evaluator, point_value(evaluator, units), scale, constant)


def _is_constant(name: MetricName, sample: Sample, *, within_folds: bool) -> bool:
    """Whether every tile that is compared with another gets the same score or decision."""
    if name in DECIDING:
        return bool((sample.predicted_N == sample.predicted_N[0]).all())
    if name not in RANKING:
        return False
    folds = fold_rows(sample.fold_N if within_folds and name == "auroc" else None, len(sample.y_N))
    return all(bool((sample.score_NK[rows] == sample.score_NK[rows[0]]).all()) for rows in folds)


def check_metric(name: str) -> None:
    """Refuse an unknown metric.

    Raises:
        UserError: With the closest name.
    """
    if name not in METRIC_NAMES:
        raise UserError("unknown metric", value=name, allowed=", ".join(METRIC_NAMES),
                        closest=closest_name(name, METRIC_NAMES))  # fmt: skip


def point_value(evaluator: Evaluator, units: Units) -> float:
    """Return the metric on the tiles as they are."""
    return float(evaluator(np.ones((1, units.n_units)))[0])


def undefined_reason(name: MetricName, sample: Sample) -> str:
    """Return why a metric has no value on these tiles; empty where it has one."""
    if not len(sample.y_N):
        return "no tiles"
    if name == "patient_recognition_rate" and sample.patient_N is None:
        return "the authors' patient ids are missing for some tiles"
    kind = metric_kind(name, sample.n_classes)
    if kind.binary_only and sample.n_classes != 2:
        return f"{name} is defined for two classes, not {sample.n_classes}"
    if kind.needs_every_class:
        counts = np.bincount(sample.y_N, minlength=sample.n_classes)
        missing = [label for label, count in zip(sample.class_names, counts, strict=True) if count == 0]
        if missing:
            return f"no tile of class {', '.join(repr(label) for label in missing)}"
    return ""


def undefined_value(name: MetricName) -> str:
    """Return why a metric came out as NaN although every class it needs is there."""
    if name == "mcc":
        return "every tile has the same label, or gets the same decision"
    return "no positive and negative tile of one fold can be compared"


def interval_refusal(name: MetricName, sample: Sample, units: Units, interval: IntervalConfig) -> str:
    """Return why a metric gets no interval; empty where it gets one."""
    if units.refusal:
        return units.refusal
    if name == "patient_recognition_rate" and sample.patient_N is not None:
        if interval.cluster == "tile":
            return "a patient's rate can't be resampled tile by tile"
        pairs = np.unique(np.stack([sample.patient_N, units.unit_N]), axis=1)
        if pairs.shape[1] > len(np.unique(sample.patient_N)):
            return "a patient of the authors lies in several groups"
    return ""


def chance_level(name: MetricName, sample: Sample) -> float:
    """Return what a random ranking or a constant decision gets; NaN where there is no such level."""
    if not len(sample.y_N):
        return float("nan")
    if name in ("auroc", "mcc"):
        return 0.5 if name == "auroc" else 0.0
    if name == "auprc":
        return float((sample.y_N == 1).mean()) if sample.n_classes == 2 else 1.0 / sample.n_classes
    if name == "balanced_accuracy":
        return 1.0 / sample.n_classes
    if name == "accuracy":
        return float(np.bincount(sample.y_N).max() / len(sample.y_N))
    return float("nan")


def make_score(name: MetricName, value: float, interval: tuple[Interval | None, str], sample: Sample) -> Score:
    """Put a value, its interval (or the reason for none), n and chance level together."""
    found, reason = interval
    weighting: Weighting = "group" if name == "patient_recognition_rate" else "tile"
    return Score(name, value, found, len(sample.y_N), sample.n_groups, weighting, reason, chance_level(name, sample))
