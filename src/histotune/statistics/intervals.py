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
from histotune.statistics.bounds import Method  # noqa: TC001  (a name of this file has this type)
from histotune.statistics.metrics import MetricName  # noqa: TC001  (a saved record is read by its types)
from histotune.statistics.predictions import Interval
from histotune.statistics.sample import class_signatures, draw_counts
from histotune.tools.devices import map_small, one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

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
SMALLEST_P, HALVINGS = 1e-9, 45
CONSTANT = "degenerate: every tile gets the same score or decision, so the value holds by construction"
SAME = "degenerate: (nearly) every resample gives the same value, which says nothing about its error"


@dataclass(frozen=True)
class Units:
    """What is resampled or left out.

    Attributes:
        sample: The scored tiles.
        config: How intervals are made.
        unit_N: Unit per tile.
        n_units: Number of units.
        strata: Kinds of units, within which they are drawn and left out: one, or by the classes they hold.
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
        more: A variance that is added, and its degrees of freedom, as of the draws that the value is the mean of.
    """

    name: MetricName
    evaluator: Evaluator
    value: float
    scale: bounds.Scale
    constant: bool = False
    more: tuple[float, float] | None = None


def resampling_units(sample: Sample, config: IntervalConfig) -> Units:
    """Return the units, with the reason where there can be no interval."""
    refusal = ""
    if config.cluster == "tile" or sample.group_N is None:
        unit_N, n_units = np.arange(len(sample.y_N)), len(sample.y_N)
    else:
        unit_N, n_units = sample.group_N, sample.n_groups
    holds_GK = class_signatures(sample.y_N, unit_N, n_units, sample.n_classes)
    strata = bounds.Strata.pooled(holds_GK) if config.mix == "sampled" else bounds.Strata.of(holds_GK)
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
    with one_blas_thread(len(units.sample.y_N) <= SMALL_TILES):
        drawn = _resamples(wanted, units)
        return [_interval(estimate, method, drawn.get(id(estimate)), units) for estimate, method in wanted]


def _resamples(wanted: Sequence[tuple[PointEstimate, Method]], units: Units) -> dict[int, bounds.Resampled]:
    """Return values on resamples by the id of their estimate, where the method needs them."""
    errors = [one for one in wanted if one[1] in bounds.FROM_RESAMPLES]
    bootstraps = [one for one in wanted if one[1] in bounds.BOOTSTRAPS and one not in errors]
    return {
        id(estimate): found
        for some, n in ((bootstraps, units.config.n_resamples), (errors, _n_error(units.config)))
        for (estimate, _), found in zip(some, _draw(some, units, n), strict=True)
    }


def over_resamples(function: Callable[[Float], T], units: Units, n_resamples: int) -> list[T]:
    """Apply a function to chunks of resamples, side by side on one BLAS thread each where all counts fit in memory."""
    counts = draw_counts(units.strata.stratum_G, n_resamples, units.config.seed)
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
        method = default_method(estimate.name)
    return "jackknife-t" if method == "studentised" and not estimate.evaluator.smooth else method


def _n_error(config: IntervalConfig) -> int:
    return min(config.n_resamples, ERROR_RESAMPLES)


def _draw(wanted: Sequence[tuple[PointEstimate, Method]], units: Units, n_resamples: int) -> Iterator[bounds.Resampled]:
    """Yield values, and errors where the method needs them, on shared resamples."""
    if not wanted:
        return

    def draw(counts_BG: Float) -> list[tuple[Float, Float]]:
        """Evaluate all estimates on some resamples, with standard errors where the method wants them."""
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
    config, evidence = units.config, _evidence(estimate, method, drawn, units)
    if isinstance(evidence, str):
        return None, evidence
    low, high = _bounds_at(estimate, method, evidence, units, config.level)
    agree = _all_agree(evidence)
    if agree and (estimate.constant or np.isinf(estimate.scale.high)):
        return None, CONSTANT if estimate.constant else SAME
    if agree:
        n = int(bounds.independent_units(estimate.name, units.strata))
        return Interval(low, high, config.level, exact_words(n, config)), ""
    # Equal bounds: a debiased error clipped at zero, or a head that says one class of groups of one size.
    if not high - low > bounds.FLAT:
        return None, SAME
    without = evidence.components_xG is None and method == "obuchowski-t"
    text = method_text("jackknife-t" if without else method, config, _n_undefined(drawn))
    studied = units.sample.n_classes == 2 and config.cluster == "group" and config.level == 0.95
    coverage = None
    if studied and not estimate.scale.linear:
        coverage = simulated_coverage(estimate.name, method, estimate.value, units.strata.holds_GK, config.mix)
    return Interval(low, high, config.level, text, coverage), ""


def _evidence(
    estimate: PointEstimate, method: Method, drawn: bounds.Resampled | None, units: Units
) -> bounds.IntervalEvidence | str:
    """Return what the bounds are made from, or why there can be none."""
    n_undefined = _n_undefined(drawn)
    if drawn is not None and n_undefined > MAX_UNDEFINED_SHARE * len(drawn.values_xB):
        return f"undefined on {n_undefined} of {len(drawn.values_xB)} resamples"
    without_G = None if method == "percentile" else estimate.evaluator.without_each()
    if without_G is not None and not np.isfinite(without_G).all():
        return "undefined without one of the groups"
    components = bounds.structural_components(estimate.evaluator, units.n_units) if method == "obuchowski-t" else None
    return bounds.IntervalEvidence(np.asarray(estimate.value), without_G, drawn, components, estimate.more)


def _n_undefined(drawn: bounds.Resampled | None) -> int:
    return 0 if drawn is None else int((~np.isfinite(drawn.values_xB)).sum())


def _all_agree(evidence: bounds.IntervalEvidence) -> bool:
    """Whether nothing tells how wrong the value is."""
    return bool(bounds.all_agree(evidence)) and not (evidence.more and evidence.more[0] > 0.0)


def _bounds_at(
    estimate: PointEstimate, method: Method, evidence: bounds.IntervalEvidence, units: Units, level: float
) -> tuple[float, float]:
    """Return the bounds at a level: the exact ones where all units agree."""
    if _all_agree(evidence):
        sample, value = units.sample, np.asarray(estimate.value)
        prevalence = np.asarray((sample.y_N == 1).mean() if sample.n_classes == 2 else 1.0 / sample.n_classes)
        low, high = bounds.agreed_bounds(estimate.name, value, units.strata, level, prevalence, estimate.scale)
    else:
        low, high = bounds.method_bounds(method, evidence, units.strata, estimate.scale, level)
    return float(low), float(high)


def p_against(estimate: PointEstimate, known: float, units: Units) -> float:
    """Return the two-sided p value of a known value: 1 less the level at which the interval just reaches it.

    It is that interval's own, so the two never contradict: p is below 1 - level exactly where the interval leaves the
    known value out. NaN where there is no interval.

    Args:
        estimate: The value.
        known: What it would be by chance.
        units: Units and how intervals are made.

    Returns:
        p, at least the smallest that is searched (1e-9), or that the resamples allow.
    """
    if make_intervals([estimate], units)[0][0] is None:
        return math.nan
    method = _method_of(estimate, units)
    drawn = _resamples([(estimate, method)], units).get(id(estimate))
    evidence = _evidence(estimate, method, drawn, units)
    if isinstance(evidence, str):
        return math.nan
    least, most = math.log(SMALLEST_P if drawn is None else 1.0 / (len(drawn.values_xB) + 1)), 0.0
    # Bounds move outwards as the level rises: halve the range of log p in which they pass the known value.
    for _ in range(HALVINGS):
        middle = 0.5 * (least + most)
        low, high = _bounds_at(estimate, method, evidence, units, 1.0 - math.exp(middle))
        least, most = (least, middle) if not low <= known <= high else (middle, most)
    return math.exp(most)


def earned_interval(
    estimate: tuple[MetricName, float],
    without_G: Float,
    strata: bounds.Strata,
    config: IntervalConfig,
    more: tuple[float, float] | None = None,
) -> Interval | None:
    """Return the interval that smooth metrics earned, from the value without each group alone.

    Args:
        estimate: The metric and its value.
        without_G: The value without each group.
        strata: Kinds of groups.
        config: Its level and mix count.
        more: A variance that is added, and its degrees of freedom, as of the draws that the value is the mean of.

    Returns:
        The interval; None where nothing is known of the error.
    """
    (name, value), point = estimate, np.asarray(estimate[1])
    if not (np.isfinite(value) and np.isfinite(without_G).all()):
        return None
    evidence, scale = bounds.IntervalEvidence(point, without_G, more=more), bounds.metric_scale(name)
    if not _all_agree(evidence):
        low, high = bounds.method_bounds(SMOOTH, evidence, strata, scale, config.level)
        return Interval(float(low), float(high), config.level, method_text(SMOOTH, config))
    if np.isinf(scale.high):
        return None
    low, high = bounds.agreed_bounds(name, point, strata, config.level, np.asarray(0.5), scale)
    words = exact_words(int(bounds.independent_units(name, strata)), config)
    return Interval(float(low), float(high), config.level, words)


def exact_words(n_units: int, config: IntervalConfig) -> str:
    """Return the method of an exact bound in words."""
    text = f"exact bound over {n_units} independent {config.cluster}s that all agree (Clopper-Pearson, rule of three)"
    return text + narrow_words(config)


def method_text(method: Method, config: IntervalConfig, n_undefined: int = 0) -> str:
    """Return the method in words, as every table prints it."""
    names = {"percentile": "percentile", "bca": "BCa (bias-corrected, accelerated)", "studentised": "studentised"}
    if method in names:
        text = f"{names[method]} bootstrap over {config.cluster}s, {config.n_resamples} resamples"
    elif method in ("jackknife-t", "skewed-t"):
        text = f"t interval from leaving out one {config.cluster} at a time (jackknife)"
    elif method in bounds.FROM_RESAMPLES:
        text = f"t interval, error from {_n_error(config)} resamples of {config.cluster}s"
    else:
        text = f"t interval from DeLong's components summed by {config.cluster} (Obuchowski 1997)"
    text += mix_words(config) + (", longer towards the long tail" if method in bounds.LENGTHENED else "")
    if n_undefined:
        text += f", {n_undefined} undefined resamples left out"
    return text + narrow_words(config)


def mix_words(config: IntervalConfig) -> str:
    """Return what an interval says that takes the number of groups of each class as given; empty elsewhere."""
    return ", class-stratified (conditional on the mix of classes)" if config.mix == "fixed" else ""


def narrow_words(config: IntervalConfig) -> str:
    """Return the warning that an interval over single tiles carries; empty over groups."""
    return "; TOO NARROW: tiles of one case are not independent" if config.cluster == "tile" else ""


# ------------------------------------------------------------------------------
# What the coverage study found: the method that each metric earned, and the coverage simulated nearest to a case


SMOOTH: Method = "skewed-t"
"""What every metric without kinks earned."""
EARNED: dict[MetricName, Method] = {
    "sensitivity_at_95_specificity": "resampled-skewed-t",
    "specificity_at_95_sensitivity": "resampled-skewed-t",
    "ece": "resampled-t",
    "ece_debiased": "resampled-t",
}


def default_method(name: MetricName) -> Method:
    """Return the method that a metric earned in the coverage study."""
    return EARNED.get(name, SMOOTH)


@dataclass(frozen=True)
class StudiedCell:
    """Simulated coverage of one metric in one setting.

    Attributes:
        metric: The metric.
        world: How scores, sizes and classes of groups are drawn, as benchmarks/coverage/cohort.py says.
        design: ``one-class``: every group holds one class; ``mixed``: groups hold both; ``both``: every second does.
        n_groups: Number of groups.
        auroc: True AUROC of the setting.
        icc: Share of the group effect in a score's variance.
        truth: The metric's true value.
        coverage: By method; a method that was not judged is missing.
    """

    metric: MetricName
    world: str
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


def simulated_coverage(
    name: MetricName, method: Method, value: float, holds_GK: NDArray[np.bool_], mix: str = "sampled"
) -> float | None:
    """Return the coverage simulated nearest to a case.

    Nearest means the same kind of groups (most hold one class, or most hold both), then the nearest number of groups,
    then in each world the nearest true value; of the worlds and of the correlations within groups, which nobody knows,
    the worst one.
    """
    kind = kind_of_groups(holds_GK)
    if name == "specificity_at_95_sensitivity":
        name = "sensitivity_at_95_specificity"  # its mirror image
    designs = ("one-class",) if kind == "one-class" else ("mixed", "both")
    fixed = mix == "fixed" and kind == "one-class"
    cells = [
        cell
        for cell in studied_cells()
        if cell.metric == name
        and cell.design in designs
        and (cell.world == "fixed") == fixed
        and method in cell.coverage
    ]
    if not cells:
        return None
    least = min(abs(math.log(cell.n_groups / len(holds_GK))) for cell in cells)
    near = [cell for cell in cells if abs(math.log(cell.n_groups / len(holds_GK))) <= least + 1e-9]
    by_world = [[cell for cell in near if cell.world == world] for world in {cell.world for cell in near}]
    return min(_at_nearest_value(some, method, value) for some in by_world)


def _at_nearest_value(cells: Sequence[StudiedCell], method: Method, value: float) -> float:
    """Return the least coverage among the cells whose true value is nearest."""
    gap = min(abs(cell.truth - value) for cell in cells)
    return min(cell.coverage[method] for cell in cells if abs(cell.truth - value) <= gap + 1e-3)


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
