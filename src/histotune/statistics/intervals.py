"""Percentile bootstrap over groups, and the reasons to refuse one."""

# N tiles, G units (groups, or tiles where asked), B resamples

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.devices import one_blas_thread
from histotune.statistics.records import Interval
from histotune.statistics.resampling import class_signatures, draw_counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.statistics.config import IntervalConfig
    from histotune.statistics.resampling import Evaluator, Sample

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

MAX_UNDEFINED_SHARE = 0.05
MIN_WIDTH = 1e-12
SMALL_TILES = 5000
"""Up to this many tiles the bootstrap runs on one thread."""


@dataclass(frozen=True)
class Units:
    """What is resampled.

    Attributes:
        unit_N: Unit per tile.
        n_units: Number of units.
        refusal: Why no interval can be given; empty where one can.
    """

    unit_N: Int
    n_units: int
    refusal: str = ""


def resampling_units(sample: Sample, config: IntervalConfig) -> Units:
    """Return the units of the bootstrap, with the reason where there can't be one.

    Args:
        sample: The scored tiles.
        config: Cluster and the least number of groups per class.

    Returns:
        Groups, or tiles with ``cluster="tile"``.
    """
    tiles = np.arange(len(sample.y_N))
    if config.cluster == "tile":
        units = Units(tiles, len(tiles))
    elif sample.group_N is None:
        return Units(tiles, len(tiles), "group ids are missing for some tiles, so an interval would be too narrow; "
                                        "--cluster tile gives one, marked TOO NARROW")  # fmt: skip
    else:
        units = Units(sample.group_N, sample.n_groups)
    holds = class_signatures(sample.y_N, units.unit_N, units.n_units, sample.n_classes)
    per_class = holds.sum(axis=0)
    if (per_class >= config.min_groups_per_class).all():
        return units
    short = "; ".join(
        f"class {name!r} has {count} {config.cluster}s"
        for name, count in zip(sample.class_names, per_class.tolist(), strict=True)
        if count < config.min_groups_per_class
    )
    return Units(units.unit_N, units.n_units, f"{short}; an interval needs {config.min_groups_per_class}")


def bootstrap_values(
    evaluators: Sequence[Evaluator], sample: Sample, units: Units, config: IntervalConfig
) -> list[Float]:
    """Return each evaluator's value on the same resamples.

    Args:
        evaluators: Functions of unit counts.
        sample: The scored tiles.
        units: What is resampled.
        config: Number of resamples and seed.

    Returns:
        Values (B,) per evaluator.
    """
    holds = class_signatures(sample.y_N, units.unit_N, units.n_units, sample.n_classes)
    with one_blas_thread(len(sample.y_N) <= SMALL_TILES):
        chunks = [
            [evaluate(counts_BG) for evaluate in evaluators]
            for counts_BG in draw_counts(holds, config.n_resamples, config.seed, len(sample.y_N))
        ]
    return [np.concatenate(values) for values in zip(*chunks, strict=True)]


def percentile_interval(values_B: Float, config: IntervalConfig) -> tuple[Interval | None, str]:
    """Return the central quantiles of the resampled values, or None and the reason.

    Args:
        values_B: The metric on every resample; NaN where undefined.
        config: Level, number of resamples and cluster.

    Returns:
        (interval, "") or (None, reason).
    """
    defined = values_B[np.isfinite(values_B)]
    n_undefined = len(values_B) - len(defined)
    if n_undefined > MAX_UNDEFINED_SHARE * len(values_B):
        return None, f"undefined on {n_undefined} of {len(values_B)} resamples"
    tail = (1.0 - config.level) / 2.0
    low, high = np.quantile(defined, [tail, 1.0 - tail])
    if high - low <= MIN_WIDTH:
        return None, "degenerate: (nearly) every resample gives the same value, which says nothing about its error"
    return Interval(float(low), float(high), config.level, method_text(config, n_undefined)), ""


def method_text(config: IntervalConfig, n_undefined: int = 0) -> str:
    """Return the method in words, as every table prints it."""
    text = f"percentile bootstrap over {config.cluster}s, {config.n_resamples} resamples, class-stratified"
    if n_undefined:
        text += f", {n_undefined} undefined resamples left out"
    if config.cluster == "tile":
        text += "; TOO NARROW: tiles of one case are not independent"
    return text
