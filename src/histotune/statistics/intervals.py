"""Which interval a metric gets, over which units, and the reasons to refuse one."""

# N tiles, K classes, G units (groups, or tiles where asked), B resamples

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import TypeAdapter

from histotune.statistics import bounds
from histotune.statistics.metrics import MetricName  # noqa: TC001  (a saved record is read by its types)
from histotune.statistics.predictions import Interval
from histotune.statistics.sample import class_signatures, draw_counts
from histotune.tools.devices import map_small, one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from histotune.statistics.bounds import Method
    from histotune.statistics.evaluators import Evaluator
    from histotune.statistics.predictions import IntervalConfig
    from histotune.statistics.sample import Sample

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


MAX_UNDEFINED_SHARE = 0.05
SMALL_TILES = 5000
"""Up to this many tiles the bootstrap runs on one thread."""
MAX_COUNTS = 2**24
ERROR_RESAMPLES = 400
"""Resamples that an error is read from: more move it by less than 4 per cent."""
T = TypeVar("T")
SAME = "degenerate: (nearly) every resample gives the same value, which says nothing about its error"


@dataclass(frozen=True)
class Units:
    """What is resampled or left out.

    Attributes:
        sample: The scored tiles.
        config: How intervals are made.
        unit_N: Unit per tile.
        n_units: Number of units.
        strata: Kinds of units by the classes they hold.
        refusal: Why no interval can be given; empty where one can.
    """

    sample: Sample
    config: IntervalConfig
    unit_N: Int
    n_units: int
    strata: bounds.Strata
    refusal: str = ""


@dataclass(frozen=True)
class PointEstimate:
    """A value that wants an interval.

    Attributes:
        name: The metric, or the metric whose difference it is.
        evaluator: The value as a function of unit weights.
        value: The value on the tiles as they are.
        scale: Its range, and the scale of t intervals.
        constant: By construction every unit agrees, as for a head that gives every tile the same score.
    """

    name: MetricName
    evaluator: Evaluator
    value: float
    scale: bounds.Scale
    constant: bool = False


def resampling_units(sample: Sample, config: IntervalConfig) -> Units:
    """Return the units, with the reason where there can be no interval."""
    refusal = ""
    if config.cluster == "tile" or sample.group_N is None:
        unit_N, n_units = np.arange(len(sample.y_N)), len(sample.y_N)
    else:
        unit_N, n_units = sample.group_N, sample.n_groups
    strata = bounds.Strata.of(class_signatures(sample.y_N, unit_N, n_units, sample.n_classes))
    if config.cluster == "group" and sample.group_N is None:
        refusal = (
            "group ids are missing for some tiles, so an interval would be too narrow; "
            "--cluster tile gives one, marked TOO NARROW"
        )
    elif (strata.per_class_K < config.min_groups_per_class).any():
        short = "; ".join(
            f"class {name!r} has {count} {config.cluster}s"
            for name, count in zip(sample.class_names, strata.per_class_K.tolist(), strict=True)
            if count < config.min_groups_per_class
        )
        refusal = f"{short}; an interval needs {config.min_groups_per_class}"
    return Units(sample, config, unit_N, n_units, strata, refusal)


def make_intervals(estimates: Sequence[PointEstimate], units: Units) -> list[tuple[Interval | None, str]]:
    """Return the interval of each value, or None and why there is none; bootstraps share their resamples."""
    wanted = [(estimate, _method_of(estimate, units)) for estimate in estimates]
    n_resamples = units.config.n_resamples
    with one_blas_thread(len(units.sample.y_N) <= SMALL_TILES):
        bootstraps = [one for one in wanted if one[1] in bounds.BOOTSTRAPS and one[1] != "resampled-t"]
        errors = [one for one in wanted if one[1] == "resampled-t"]
        drawn = {
            id(estimate): found
            for some, n in ((bootstraps, n_resamples), (errors, _n_error(units.config)))
            for (estimate, _), found in zip(some, _draw(some, units, n), strict=True)
        }
        return [_interval(estimate, method, drawn.get(id(estimate)), units) for estimate, method in wanted]


def over_resamples(function: Callable[[Float], T], units: Units, n_resamples: int) -> list[T]:
    """Apply a function to chunks of resamples, side by side on one BLAS thread each where all counts fit in memory."""
    counts = draw_counts(units.strata.holds_GK, n_resamples, units.config.seed)
    if len(units.sample.y_N) <= SMALL_TILES or n_resamples * units.n_units > MAX_COUNTS:
        return [function(counts_BG) for counts_BG in counts]
    return map_small(function, list(counts), small=True)


def _method_of(estimate: PointEstimate, units: Units) -> Method:
    """Return the method asked for, or the one that the coverage study gives this metric."""
    method = units.config.method
    if method == "auto":
        if units.config.cluster == "tile":
            return "percentile"  # leaving out one of very many tiles costs more and says no more
        if estimate.scale.linear:
            return "jackknife-t"  # a paired difference is nearly symmetric: nothing for the study's bootstrap to mend
        method = default_method(estimate.name, units.n_units)
    return "jackknife-t" if method == "studentised" and not estimate.evaluator.smooth else method


def _n_error(config: IntervalConfig) -> int:
    return min(config.n_resamples, ERROR_RESAMPLES)


def _draw(wanted: Sequence[tuple[PointEstimate, Method]], units: Units, n_resamples: int) -> Iterator[bounds.Resampled]:
    """Yield values, and errors where the method needs them, on shared resamples."""
    if not wanted:
        return

    def draw(counts_BG: Float) -> list[tuple[Float, Float]]:
        parts = []
        for estimate, method in wanted:
            se_B = np.full(len(counts_BG), np.nan)
            if method == "studentised":
                se_B = bounds.slope_se(estimate.evaluator.slope(counts_BG), counts_BG, units.strata)
            parts.append((estimate.evaluator(counts_BG), se_B))
        return parts

    for parts in zip(*over_resamples(draw, units, n_resamples), strict=True):
        yield bounds.Resampled(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _interval(
    estimate: PointEstimate, method: Method, drawn: bounds.Resampled | None, units: Units
) -> tuple[Interval | None, str]:
    config = units.config
    n_undefined = 0 if drawn is None else int((~np.isfinite(drawn.values_xB)).sum())
    if drawn is not None and n_undefined > MAX_UNDEFINED_SHARE * len(drawn.values_xB):
        return None, f"undefined on {n_undefined} of {len(drawn.values_xB)} resamples"
    without_G = None if method == "percentile" else estimate.evaluator.without_each()
    if without_G is not None and not np.isfinite(without_G).all():
        return None, "undefined without one of the groups"
    components = bounds.structural_components(estimate.evaluator, units.n_units) if method == "obuchowski-t" else None
    evidence = bounds.IntervalEvidence(np.asarray(estimate.value), without_G, drawn, components)
    if bool(bounds.all_agree(evidence)):
        return _agreed(estimate, units)
    low, high = bounds.method_bounds(method, evidence, units.strata, estimate.scale, config.level)
    # Equal bounds: a debiased error clipped at zero, or a head that says one class of groups of one size.
    if not high - low > bounds.FLAT:
        return None, SAME
    text = method_text(method if components or method != "obuchowski-t" else "jackknife-t", config, n_undefined)
    studied = units.sample.n_classes == 2 and config.cluster == "group" and config.level == 0.95
    coverage = None
    if studied and not estimate.scale.linear:
        coverage = simulated_coverage(estimate.name, method, estimate.value, units.strata.holds_GK)
    return Interval(float(low), float(high), config.level, text, coverage), ""


def _agreed(estimate: PointEstimate, units: Units) -> tuple[Interval | None, str]:
    """Return the exact bound where all units agree, or why there is none."""
    if estimate.constant:
        return None, "degenerate: every tile gets the same score or decision, so the value holds by construction"
    if np.isinf(estimate.scale.high):
        return None, SAME
    sample, level, value = units.sample, units.config.level, np.asarray(estimate.value)
    prevalence = np.asarray((sample.y_N == 1).mean() if sample.n_classes == 2 else 1.0 / sample.n_classes)
    low, high = bounds.agreed_bounds(estimate.name, value, units.strata, level, prevalence, estimate.scale)
    n = bounds.independent_units(estimate.name, units.strata)
    return Interval(float(low), float(high), level, exact_words(n, units.config)), ""


def exact_words(n_units: int, config: IntervalConfig) -> str:
    """Return the method of an exact bound in words."""
    text = f"exact bound over {n_units} independent {config.cluster}s that all agree (Clopper-Pearson, rule of three)"
    return text + narrow_words(config)


def method_text(method: Method, config: IntervalConfig, n_undefined: int = 0) -> str:
    """Return the method in words, as every table prints it."""
    names = {"percentile": "percentile", "bca": "BCa (bias-corrected, accelerated)", "studentised": "studentised"}
    if method in names:
        text = f"{names[method]} bootstrap over {config.cluster}s, {config.n_resamples} resamples, class-stratified"
    elif method in ("jackknife-t", "skewed-t"):
        text = f"t interval from leaving out one {config.cluster} at a time (jackknife), class-stratified"
        text += ", longer towards the long tail" if method == "skewed-t" else ""
    elif method == "resampled-t":
        text = f"t interval, error from {_n_error(config)} resamples of {config.cluster}s, class-stratified"
    else:
        text = f"t interval from DeLong's components summed by {config.cluster} (Obuchowski 1997)"
    if n_undefined:
        text += f", {n_undefined} undefined resamples left out"
    return text + narrow_words(config)


def narrow_words(config: IntervalConfig) -> str:
    """Return the warning that an interval over single tiles carries; empty over groups."""
    return "; TOO NARROW: tiles of one case are not independent" if config.cluster == "tile" else ""


# ------------------------------------------------------------------------------
# What the coverage study found: the method that each metric earned, and the coverage simulated nearest to a case


STUDENTISED_FROM = 35
"""Groups from which the studentised bootstrap holds the AUROC better than the jackknife."""
EARNED: dict[MetricName, Method] = {
    "auprc": "skewed-t",
    "log_loss": "skewed-t",
    "sensitivity_at_95_specificity": "resampled-t",
    "specificity_at_95_sensitivity": "resampled-t",
    "ece_debiased": "resampled-t",
}
"""Every other metric earned the jackknife's t."""


def default_method(name: MetricName, n_groups: int) -> Method:
    """Return the method that a metric earned in the coverage study."""
    if name == "auroc" and n_groups >= STUDENTISED_FROM:
        return "studentised"
    return EARNED.get(name, "jackknife-t")


@dataclass(frozen=True)
class StudiedCell:
    """Simulated coverage of one metric in one setting.

    Attributes:
        metric: The metric.
        design: ``one-class``: every group holds one class; ``mixed``: every group holds both.
        n_groups: Number of groups.
        auroc: True AUROC of the setting.
        icc: Share of the group effect in a score's variance.
        truth: The metric's true value.
        coverage: By method; a method that was not judged is missing.
    """

    metric: MetricName
    design: str
    n_groups: int
    auroc: float
    icc: float
    truth: float
    coverage: dict[str, float]


@cache
def studied_cells() -> tuple[StudiedCell, ...]:
    """Return every cell of the study, in the order of the file."""
    rows = [
        row | {"coverage": {name: value for name, value in row.items() if name in bounds.METHODS and value}}
        for row in _studied("coverage.csv")
    ]
    return TypeAdapter(tuple[StudiedCell, ...]).validate_python(rows)


def _studied(name: str) -> list[dict[str, Any]]:
    """Read a table of the study: texts by column."""
    return list(csv.DictReader(files("histotune.statistics").joinpath(name).read_text(encoding="utf-8").splitlines()))


def kind_of_groups(holds_GK: NDArray[np.bool_]) -> str:
    """Return the study's kind that is nearest: most groups hold one class, or most hold both."""
    return "one-class" if (holds_GK.sum(axis=1) == 1).mean() >= 0.5 else "mixed"


def simulated_coverage(name: MetricName, method: Method, value: float, holds_GK: NDArray[np.bool_]) -> float | None:
    """Return the coverage simulated nearest to a case.

    Nearest means the same kind of groups (most hold one class, or most hold both), then the nearest number of groups,
    then the nearest true value; of the correlations within groups, which nobody knows, the worse one.
    """
    design = kind_of_groups(holds_GK)
    if name == "specificity_at_95_sensitivity":
        name = "sensitivity_at_95_specificity"  # its mirror image
    cells = [
        cell for cell in studied_cells() if cell.metric == name and cell.design == design and method in cell.coverage
    ]
    if not cells:
        return None
    least = min(abs(math.log(cell.n_groups / len(holds_GK))) for cell in cells)
    near = [cell for cell in cells if abs(math.log(cell.n_groups / len(holds_GK))) <= least + 1e-9]
    gap = min(abs(cell.truth - value) for cell in near)
    return min(cell.coverage[method] for cell in near if abs(cell.truth - value) <= gap + 1e-3)


@dataclass(frozen=True)
class BandCoverage:
    """Simulated coverage of bands around ROC and precision-recall curves, over places and settings.

    Attributes:
        design: Kind of groups, as in :class:`StudiedCell`.
        n_groups: Number of groups.
        least: Of the place and setting that is covered least.
        most: Of the one that is covered most.
    """

    design: str
    n_groups: int
    least: float
    most: float


@cache
def studied_bands() -> tuple[BandCoverage, ...]:
    """Return what was simulated of bands, by kind and number of groups."""
    return TypeAdapter(tuple[BandCoverage, ...]).validate_python(_studied("band_coverage.csv"))


def simulated_band_coverage(holds_GK: NDArray[np.bool_]) -> BandCoverage:
    """Return what was simulated of bands with the same kind and the nearest number of groups."""
    design = kind_of_groups(holds_GK)
    bands = [band for band in studied_bands() if band.design == design]
    return min(bands, key=lambda band: abs(math.log(band.n_groups / len(holds_GK))))
