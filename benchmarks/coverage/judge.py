"""How often each method's interval holds the truth in one setting."""

# N tiles of all repeats, R repeats, G groups, B resamples, M sums

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from benchmarks.coverage.cohort import HELD, CellSpec, Cohorts, simulate, true_values
from histotune.statistics import bounds
from histotune.statistics import metrics as metrics_module
from histotune.statistics.bounds import (
    BOOTSTRAPS,
    FROM_RESAMPLES,
    METHODS,
    IntervalEvidence,
    agreed_bounds,
    all_agree,
    method_bounds,
    metric_scale,
    structural_components,
)
from histotune.statistics.evaluators import (
    PairsEvaluator,
    SumsEvaluator,
    ThresholdEvaluator,
    threshold_evaluator,
    win_matrix,
)
from histotune.statistics.metrics import ThresholdWalk
from histotune.statistics.sample import class_signatures, draw_counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from histotune.statistics.bounds import Method
    from histotune.statistics.evaluators import Evaluator
    from histotune.statistics.metrics import MetricName

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

LEVEL = 0.95
LEAST_GROUPS = 5
"""Cohorts with fewer groups of a class get no interval, here as in the package."""
BLOCK = 20
"""Cohorts that share how often each group was drawn."""
STUDENTISED_THRESHOLDS = 50
"""Up to this many groups the studentised bootstrap of AUPRC is judged: its slopes cost four more products."""
SUM_METRICS: tuple[MetricName, ...] = (
    "accuracy", "balanced_accuracy", "macro_f1", "mcc", "log_loss", "brier", "ece", "ece_debiased",
    "patient_recognition_rate",
)  # fmt: skip
THRESHOLD_METRICS: tuple[MetricName, ...] = ("auprc", "sensitivity_at_95_specificity")
JUDGED: tuple[MetricName, ...] = (*SUM_METRICS, "auroc", *THRESHOLD_METRICS)
KINKED: tuple[MetricName, ...] = ("sensitivity_at_95_specificity", "ece", "ece_debiased")


@dataclass
class Tally:
    """Counts over cohorts for one metric and method.

    Attributes:
        n: Cohorts with an interval.
        n_held: Whose interval holds the truth.
        n_below: Whose interval lies above the truth.
        widths: Width of every interval.
    """

    n: int = 0
    n_held: int = 0
    n_below: int = 0
    widths: list[float] = field(default_factory=list)

    def add(self, low_R: Float, high_R: Float, truth: float) -> None:
        """Count the cohorts whose interval exists."""
        given = np.isfinite(low_R) & np.isfinite(high_R)
        self.n += int(given.sum())
        self.n_held += int((given & (low_R <= truth) & (truth <= high_R)).sum())
        self.n_below += int((given & (truth < low_R)).sum())
        self.widths += (high_R - low_R)[given].tolist()


@dataclass
class Judged:
    """What was found in one setting.

    Attributes:
        tallies: By metric and method.
        values: The metric's value in every cohort that gets intervals: how far its true sampling interval reaches.
    """

    tallies: dict[tuple[str, Method], Tally] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)

    def true_width(self, name: str) -> float:
        """Return the distance of the central 95 % of the values: the width that an interval needs."""
        low, high = np.nanquantile(self.values[name], [0.025, 0.975])
        return float(high - low)


@dataclass(frozen=True)
class Plan:
    """What is judged.

    Attributes:
        n_repeats: Cohorts.
        n_resamples: Resamples of the bootstraps; the cohorts of a block share how often each group was drawn.
        seed: Seed of the study.
        methods: Which methods; resamples are drawn only where one needs them.
        metrics: Which metrics.
    """

    n_repeats: int
    n_resamples: int
    seed: int
    methods: tuple[Method, ...] = METHODS
    metrics: tuple[str, ...] = JUDGED

    def judges(self, method: Method, name: str) -> bool:
        """Whether a method is judged for a metric: errors from resamples only where there are kinks."""
        return method in self.methods and (method not in FROM_RESAMPLES or name in KINKED)

    def resamples(self, name: str) -> bool:
        """Whether a metric needs resamples."""
        return any(self.judges(method, name) for method in BOOTSTRAPS)


def judge_cell(spec: CellSpec, plan: Plan) -> Judged:
    """Simulate one setting and count.

    Args:
        spec: The setting; in the world ``fixed`` intervals are conditional on the mix of classes, elsewhere not.
        plan: What is judged, and how often.

    Returns:
        A tally per metric and method.
    """
    rng = np.random.default_rng([plan.seed, *spec.name.encode()])
    truths, found = true_values(spec), Judged()
    for start in range(0, plan.n_repeats, BLOCK):
        n = min(BLOCK, plan.n_repeats - start)
        cohorts = simulate(spec, n, rng)
        strata = strata_of(spec, cohorts, n)
        draws = draw_counts(strata.stratum_G, plan.n_resamples, int(rng.integers(2**31)))
        counts_BG = np.concatenate(list(draws))
        given_R = np.broadcast_to(strata.rarest >= LEAST_GROUPS, n)
        for name, evidence in _evidence(cohorts, plan, counts_BG, strata):
            found.values.setdefault(name, []).extend(evidence.point_x[given_R].tolist())
            for method in METHODS:
                if not plan.judges(method, name) or not _given(method, evidence):
                    continue
                with np.errstate(invalid="ignore"):
                    bounds_R = method_bounds(method, evidence, strata, metric_scale(name), LEVEL)
                low_R, high_R = _with_flat(name, bounds_R, evidence, strata, spec.prevalence)
                tally = found.tallies.setdefault((name, method), Tally())
                tally.add(low_R[given_R], high_R[given_R], truths[name])
    return found


@dataclass(frozen=True)
class ManyStrata(bounds.Strata):
    """Groups of one kind in several cohorts, which differ in how many hold each class."""

    rarest_R: Int | None = None

    @property
    def rarest(self) -> Int:
        """Groups that hold the rarest class, by cohort."""
        return np.asarray(self.rarest_R)


def strata_of(spec: CellSpec, cohorts: Cohorts, n_repeats: int) -> bounds.Strata:
    """Return the kinds of groups, as the package makes them: all alike, or by class where the mix is fixed."""
    unit_N = cohorts.repeat_N * spec.n_groups + cohorts.group_N
    holds_UK = class_signatures(cohorts.y_N, unit_N, n_repeats * spec.n_groups, 2)
    holds_RGK = holds_UK.reshape(n_repeats, spec.n_groups, 2)
    if spec.world == "fixed":  # the same groups hold the same classes in every cohort
        return bounds.Strata.of(holds_RGK[0])
    rarest_R = holds_RGK.sum(axis=1).min(axis=1)
    return ManyStrata(np.zeros(spec.n_groups, np.int64), holds_RGK[0], rarest_R)


def _with_flat(
    name: MetricName, found: tuple[Float, Float], evidence: IntervalEvidence, strata: bounds.Strata, prevalence: float
) -> tuple[Float, Float]:
    """Put the exact bound where every group agrees, as the package does; none where a group can't be left out."""
    agree_R = all_agree(evidence)
    exact = agreed_bounds(name, evidence.point_x, strata, LEVEL, np.asarray(prevalence), metric_scale(name))
    without_RG = evidence.point_x[:, None] if evidence.without_xG is None else evidence.without_xG
    whole_R = np.isfinite(without_RG).all(axis=1)
    low_R, high_R = (
        np.where(whole_R, np.where(agree_R, ours, theirs), np.nan) for ours, theirs in zip(exact, found, strict=True)
    )
    return low_R, high_R


def _given(method: Method, evidence: IntervalEvidence) -> bool:
    if method in ("percentile", "bca", *FROM_RESAMPLES):
        return evidence.drawn is not None
    if method == "studentised":
        return evidence.drawn is not None and bool(np.isfinite(evidence.drawn.se_xB).any())
    return method != "obuchowski-t" or evidence.components_xG is not None


def _evidence(
    cohorts: Cohorts, plan: Plan, counts_BG: Float, strata: bounds.Strata
) -> Iterator[tuple[MetricName, IntervalEvidence]]:
    """Yield every metric's evidence over the repeats."""
    n_repeats, n_groups = int(cohorts.repeat_N[-1]) + 1, counts_BG.shape[1]
    ones_1G = np.ones((1, n_groups))
    for name, evaluator in _batched(cohorts, plan, n_repeats, n_groups):
        drawn = None
        if plan.resamples(name):
            se_xB = _errors(evaluator, counts_BG, strata) if plan.judges("studentised", name) else np.asarray(np.nan)
            drawn = bounds.Resampled(evaluator(counts_BG), se_xB)
        components = structural_components(evaluator, n_groups)
        yield name, IntervalEvidence(evaluator(ones_1G)[..., 0], evaluator.without_each(), drawn, components)
    if not set(THRESHOLD_METRICS) & set(plan.metrics):
        return
    starts = np.searchsorted(cohorts.repeat_N, np.arange(n_repeats + 1))
    found = [_thresholds(cohorts, slice(*ends), plan, counts_BG, strata) for ends in pairwise(starts.tolist())]
    for metric, parts in zip(THRESHOLD_METRICS, zip(*found, strict=True), strict=True):
        if metric in plan.metrics:
            yield metric, _stacked(parts)


def _stacked(parts: tuple[IntervalEvidence, ...]) -> IntervalEvidence:
    """Return the evidence of several repeats as one."""
    drawn = [part.drawn for part in parts if part.drawn is not None]
    return IntervalEvidence(
        np.stack([part.point_x for part in parts]),
        np.stack([part.without_xG for part in parts if part.without_xG is not None]),
        bounds.Resampled(np.stack([one.values_xB for one in drawn]), np.stack([one.se_xB for one in drawn]))
        if drawn
        else None,
    )


def _batched(cohorts: Cohorts, plan: Plan, n_repeats: int, n_groups: int) -> Iterator[tuple[MetricName, Evaluator]]:
    """Yield the evaluators of sums and pairs, with the repeats as the first axis."""
    p_N = expit(cohorts.logit_N)
    p_N2, decided_N = np.stack([1.0 - p_N, p_N], axis=1), (p_N >= 0.5).astype(np.int64)
    unit_N = cohorts.repeat_N * n_groups + cohorts.group_N
    y_N = cohorts.y_N
    for name in (name for name in SUM_METRICS if name in plan.metrics):
        tiles = {
            "accuracy": lambda: metrics_module.accuracy_sums(y_N, decided_N),
            "balanced_accuracy": lambda: metrics_module.balanced_accuracy_sums(y_N, decided_N, 2),
            "macro_f1": lambda: metrics_module.macro_f1_sums(y_N, decided_N, 2),
            "mcc": lambda: metrics_module.mcc_sums(y_N, decided_N, 2),
            "log_loss": lambda: metrics_module.log_loss_sums(y_N, p_N2),
            "brier": lambda: metrics_module.brier_sums(y_N, p_N2),
            "ece": lambda: metrics_module.ece_sums(y_N, p_N2),
            "ece_debiased": lambda: metrics_module.ece_debiased_sums(y_N, p_N2),
            "patient_recognition_rate": lambda: metrics_module.patient_recognition_sums(y_N, decided_N, unit_N),
        }[name]()
        columns = [np.bincount(unit_N, weights=c, minlength=n_repeats * n_groups) for c in tiles.addend_NM.T]
        addend_RGM = np.stack(columns, axis=1).reshape(n_repeats, n_groups, -1).astype(np.float64)
        yield name, SumsEvaluator(addend_RGM, tiles.finish, tiles.gradient)
    if "auroc" not in plan.metrics:
        return
    tables = [
        win_matrix(y_N[rows] == 1, cohorts.x_N[rows], cohorts.group_N[rows], n_groups)
        for rows in (cohorts.repeat_N == repeat for repeat in range(n_repeats))
    ]
    yield "auroc", PairsEvaluator(np.stack([w for w, _ in tables]), np.stack([p for _, p in tables]))


def _thresholds(
    cohorts: Cohorts, rows: slice, plan: Plan, counts_BG: Float, strata: bounds.Strata
) -> tuple[IntervalEvidence, ...]:
    """Return the evidence of one repeat for AUPRC and sensitivity, which share their products."""
    n_groups = counts_BG.shape[1]
    tables = threshold_evaluator(cohorts.y_N[rows] == 1, cohorts.x_N[rows], cohorts.group_N[rows], n_groups)
    if not isinstance(tables, ThresholdEvaluator):
        raise TypeError("a cohort too large for tables")
    weights_WG = np.vstack([np.ones(n_groups), 1.0 - np.eye(n_groups), counts_BG])
    single_WG = weights_WG.astype(np.float32)  # whole numbers: exact
    positives_WU, all_WU = single_WG @ tables.positives_above_GU, single_WG @ tables.above_GU
    negatives_W = weights_WG @ tables.negatives_G
    evidence = []
    for metric, specificity in zip(THRESHOLD_METRICS, (None, HELD), strict=True):
        used = slice(None) if plan.resamples(metric) else slice(n_groups + 1)
        walk = ThresholdWalk(negatives_W[used], specificity)
        walk.step(positives_WU[used], all_WU[used])
        values_W, drawn = walk.value(), None
        if plan.resamples(metric):
            se_B = np.full(len(counts_BG), np.nan)
            if specificity is None and n_groups <= STUDENTISED_THRESHOLDS and plan.judges("studentised", metric):
                se_B = _errors(tables, counts_BG, strata)
            drawn = bounds.Resampled(values_W[n_groups + 1 :], se_B)
        evidence.append(IntervalEvidence(values_W[0], values_W[1 : n_groups + 1], drawn))
    return tuple(evidence)


def _errors(evaluator: Evaluator, counts_BG: Float, strata: bounds.Strata) -> Float:
    if not evaluator.smooth:
        return np.asarray(np.nan)
    return bounds.slope_se(evaluator.slope(counts_BG), counts_BG, strata)
