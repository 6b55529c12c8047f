"""Score predictions: values with their intervals, n and reasons."""

# N tiles, K classes, G units, B resamples

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.errors import UserError, closest_name
from histotune.statistics.intervals import bootstrap_values, percentile_interval, resampling_units
from histotune.statistics.metrics import METRIC_NAMES, MetricName
from histotune.statistics.records import Score
from histotune.statistics.resampling import make_evaluator, read_sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.statistics.config import IntervalConfig
    from histotune.statistics.intervals import Units
    from histotune.statistics.records import Interval, Predictions, Weighting
    from histotune.statistics.resampling import Evaluator, Sample

__all__ = ["METRIC_NAMES", "MetricName", "score_predictions"]
NEEDS_EVERY_CLASS = ("balanced_accuracy", "macro_f1", "auroc", "auprc")


def score_predictions(
    predictions: Predictions,
    metrics: Sequence[MetricName],
    interval: IntervalConfig,
    *,
    within_folds: bool = False,
) -> tuple[Score, ...]:
    """Return one score per metric, with intervals from resampling whole groups.

    Args:
        predictions: The scored tiles; every one labelled.
        metrics: What to compute. AUPRC is defined for two classes.
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
    reasons = [undefined_reason(name, sample) for name in metrics]
    evaluators = {
        name: make_evaluator(name, sample, units.unit_N, units.n_units, within_folds=within_folds)
        for name, reason in zip(metrics, reasons, strict=True)
        if not reason
    }
    context = (sample, units, interval)
    resampled = [name for name in evaluators if not interval_refusal(name, sample, units, interval)]
    drawn = bootstrap_values([evaluators[name] for name in resampled], sample, units, interval) if resampled else []
    values_B = dict(zip(resampled, drawn, strict=True))
    scores = []
    for name, undefined in zip(metrics, reasons, strict=True):
        if undefined:
            scores.append(make_score(name, float("nan"), (None, undefined), sample))
            continue
        value = point_value(evaluators[name], units)
        scores.append(make_score(name, value, interval_of(name, value, values_B.get(name), context), sample))
    return tuple(scores)


def interval_of(
    name: MetricName, value: float, values_B: NDArray[np.float64] | None, context: tuple[Sample, Units, IntervalConfig]
) -> tuple[Interval | None, str]:
    """Return the interval, or None and why there is none.

    Args:
        name: The metric.
        value: Its value.
        values_B: Its values on the resamples; None where it was not resampled.
        context: The tiles, what is resampled, and how.

    Returns:
        (interval, "") or (None, reason).
    """
    sample, units, config = context
    if np.isnan(value):
        return None, "no positive and negative tile of one fold can be compared"
    if values_B is None:
        return None, interval_refusal(name, sample, units, config)
    return percentile_interval(values_B, config)


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
    if name == "auprc" and sample.n_classes != 2:
        return f"AUPRC is defined for two classes, not {sample.n_classes}"
    if name in NEEDS_EVERY_CLASS:
        counts = np.bincount(sample.y_N, minlength=sample.n_classes)
        missing = [label for label, count in zip(sample.class_names, counts, strict=True) if count == 0]
        if missing:
            return f"no tile of class {', '.join(repr(label) for label in missing)}"
    return ""


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
    if name == "auroc":
        return 0.5
    if name == "auprc" and sample.n_classes == 2:
        return float((sample.y_N == 1).mean())
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
