"""The difference between two heads on the same tiles, with the groups resampled together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from histotune.statistics.bounds import Scale
from histotune.statistics.evaluators import DifferenceEvaluator
from histotune.statistics.intervals import Estimate, make_intervals, resampling_units
from histotune.statistics.metrics import metric_kind
from histotune.statistics.predictions import Score
from histotune.statistics.resampling import read_sample
from histotune.statistics.scores import (
    check_metric,
    interval_refusal,
    point_value,
    undefined_reason,
    undefined_value,
)
from histotune.statistics.tables import make_evaluator
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.statistics.config import IntervalConfig
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.predictions import Predictions, Weighting
    from histotune.statistics.resampling import Sample


def paired_difference(
    a: Predictions, b: Predictions, metric: MetricName, interval: IntervalConfig, *, within_folds: bool = False
) -> Score:
    """Return metric(a) - metric(b) with an interval over the same groups for both.

    Args:
        a: Predictions of the first head.
        b: Predictions of the second head, for the same tiles, in any order.
        metric: What to compare.
        interval: How the interval is made.
        within_folds: Both are cross-fitted; AUROC compares only tiles of one fold, each arm by its own folds.

    Returns:
        The difference, named such as "auroc difference".

    Raises:
        UserError: The tiles, labels, groups or classes of the two arms differ, or the metric is unknown.
    """
    check_metric(metric)
    sample_a, sample_b = read_sample(a), read_sample(b)
    check_same_tiles(a, b, sample_a, sample_b)
    name, n_tiles = f"{metric} difference", len(sample_a.y_N)
    units = resampling_units(sample_a, interval)
    reason = undefined_reason(metric, sample_a) or undefined_reason(metric, sample_b)
    if reason:
        return Score(name, float("nan"), None, n_tiles, sample_a.n_groups, reason=reason, chance=0.0)
    first, second = (
        make_evaluator(metric, sample, units.unit_N, units.n_units, within_folds=within_folds)
        for sample in (sample_a, sample_b)
    )
    evaluator, kind = DifferenceEvaluator(first, second), metric_kind(metric, sample_a.n_classes)
    width = kind.high - kind.low
    value, found = point_value(evaluator, units), None
    reason = undefined_value(metric) if math.isnan(value) else interval_refusal(metric, sample_a, units, interval)
    if not reason:
        estimate = Estimate(metric, evaluator, value, Scale(-width, width, linear=True))
        found, reason = make_intervals([estimate], sample_a, units, interval)[0]
    weighting: Weighting = "group" if metric == "patient_recognition_rate" else "tile"
    return Score(name, value, found, n_tiles, sample_a.n_groups, weighting, reason, chance=0.0)


def check_same_tiles(a: Predictions, b: Predictions, sample_a: Sample, sample_b: Sample) -> None:
    """Refuse arms that do not describe the same tiles."""
    ids_a, ids_b = a.table["tile_id"].gather(sample_a.order), b.table["tile_id"].gather(sample_b.order)
    if ids_a.n_unique() != len(ids_a) or ids_b.n_unique() != len(ids_b):
        raise UserError("a paired comparison needs each tile once per arm", fix="compare one seed or draw at a time")
    if a.class_names != b.class_names or ids_a.to_list() != ids_b.to_list():
        only = len(set(ids_a) ^ set(ids_b))
        raise UserError(
            "a paired comparison needs the same tiles and classes in both arms",
            value=f"{only} tiles lie in one arm only; classes {a.class_names} and {b.class_names}",
            fix="score both heads on the same tiles",
        )
    same_groups = a.table["group_id"].gather(sample_a.order).equals(b.table["group_id"].gather(sample_b.order))
    if not (sample_a.y_N == sample_b.y_N).all() or not same_groups:
        raise UserError("labels or groups of the same tiles differ between the two arms",
                        fix="score both heads against one tile table")  # fmt: skip
