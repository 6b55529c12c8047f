"""How often each method's interval holds the truth in one setting."""

# N tiles of all repeats, R repeats, G groups, B resamples, M sums

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from benchmarks.coverage.cohort import HELD, CellSpec, Cohorts, holds_classes, simulate, true_values
from histotune.statistics import bounds, sums
from histotune.statistics.evaluators import PairsEvaluator, SumsEvaluator, ThresholdEvaluator
from histotune.statistics.methods import (
    METHODS,
    Evidence,
    agreed_bounds,
    all_agree,
    method_bounds,
    metric_scale,
    structural_components,
)
from histotune.statistics.ranking import ThresholdWalk
from histotune.statistics.resampling import draw_counts
from histotune.statistics.tables import threshold_evaluator, win_matrix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from histotune.statistics.evaluators import Evaluator
    from histotune.statistics.methods import Method
    from histotune.statistics.metrics import MetricName

    Float = NDArray[np.float64]

LEVEL = 0.95
BLOCK = 20
"""Cohorts that share how often each group was drawn."""
STUDENTISED_THRESHOLDS = 50
"""Up to this many groups the studentised bootstrap of AUPRC is judged: its slopes cost four more products."""
SUM_METRICS: tuple[MetricName, ...] = (
    "accuracy", "balanced_accuracy", "macro_f1", "mcc", "log_loss", "brier", "ece", "ece_debiased",
    "patient_recognition_rate",
)  # fmt: skip
THRESHOLD_METRICS: tuple[MetricName, ...] = ("auprc", "sensitivity_at_95_specificity")


@dataclass
class Tally:
    """Counts over repeats for one metric and method."""

    n: int = 0
    n_held: int = 0
    n_below: int = 0
    width: float = 0.0

    def add(self, low_R: Float, high_R: Float, truth: float) -> None:
        """Count the repeats whose interval exists."""
        given = np.isfinite(low_R) & np.isfinite(high_R)
        self.n += int(given.sum())
        self.n_held += int((given & (low_R <= truth) & (truth <= high_R)).sum())
        self.n_below += int((given & (truth < low_R)).sum())
        self.width += float((high_R - low_R)[given].sum())


def judge_cell(spec: CellSpec, n_repeats: int, n_resamples: int, seed: int) -> dict[tuple[str, Method], Tally]:
    """Simulate one setting and count.

    Args:
        spec: The setting.
        n_repeats: Cohorts.
        n_resamples: Resamples of the bootstraps; the cohorts of a block share how often each group was drawn.
        seed: Seed of the setting.

    Returns:
        A tally per metric and method.
    """
    rng = np.random.default_rng([seed, *spec.name.encode()])
    truths = true_values(spec)
    tallies: dict[tuple[str, Method], Tally] = {}
    strata = bounds.Strata.of(holds_classes(spec))
    for start in range(0, n_repeats, BLOCK):
        n = min(BLOCK, n_repeats - start)
        cohorts = simulate(spec, n, rng)
        draws = draw_counts(strata.holds_GK, n_resamples, int(rng.integers(2**31)))
        counts_BG = np.concatenate(list(draws))
        for name, evidence in _evidence(cohorts, n, counts_BG, strata):
            for method in METHODS:
                if not _given(method, evidence):
                    continue
                found = method_bounds(method, evidence, strata, metric_scale(name), LEVEL)
                low_R, high_R = _with_flat(name, found, evidence, strata, spec.prevalence)
                tallies.setdefault((name, method), Tally()).add(low_R, high_R, truths[name])
    return tallies


def _with_flat(
    name: MetricName, found: tuple[Float, Float], evidence: Evidence, strata: bounds.Strata, prevalence: float
) -> tuple[Float, Float]:
    """Put the exact bound where every group agrees, as the package does."""
    agree_R = all_agree(evidence)
    exact = agreed_bounds(name, evidence.point_x, strata, LEVEL, np.asarray(prevalence), metric_scale(name))
    low_R, high_R = (np.where(agree_R, ours, theirs) for ours, theirs in zip(exact, found, strict=True))
    return low_R, high_R


def _given(method: Method, evidence: Evidence) -> bool:
    if method == "studentised":
        return evidence.drawn is not None and bool(np.isfinite(evidence.drawn.se_xB).any())
    return method != "obuchowski-t" or evidence.components_xG is not None


def _evidence(
    cohorts: Cohorts, n_repeats: int, counts_BG: Float, strata: bounds.Strata
) -> Iterator[tuple[MetricName, Evidence]]:
    """Yield every metric's evidence over the repeats."""
    ones_1G = np.ones((1, counts_BG.shape[1]))
    for name, evaluator in _batched(cohorts, n_repeats, counts_BG.shape[1]):
        drawn = bounds.Resampled(evaluator(counts_BG), _errors(evaluator, counts_BG, strata))
        yield (
            name,
            Evidence(
                evaluator(ones_1G)[..., 0],
                evaluator.without_each(),
                drawn,
                structural_components(evaluator, counts_BG.shape[1]),
            ),
        )
    starts = np.searchsorted(cohorts.repeat_N, np.arange(n_repeats + 1))
    found = [_thresholds(cohorts, slice(*ends), counts_BG, strata) for ends in pairwise(starts.tolist())]
    for metric, parts in zip(THRESHOLD_METRICS, zip(*found, strict=True), strict=True):
        yield (
            metric,
            Evidence(
                np.stack([part.point_x for part in parts]),
                np.stack([part.without_xG for part in parts if part.without_xG is not None]),
                bounds.Resampled(
                    np.stack([part.drawn.values_xB for part in parts if part.drawn is not None]),
                    np.stack([part.drawn.se_xB for part in parts if part.drawn is not None]),
                ),
            ),
        )


def _batched(cohorts: Cohorts, n_repeats: int, n_groups: int) -> Iterator[tuple[MetricName, Evaluator]]:
    """Yield the evaluators of sums and pairs, with the repeats as the first axis."""
    p_N = expit(cohorts.logit_N)
    p_N2, decided_N = np.stack([1.0 - p_N, p_N], axis=1), (p_N >= 0.5).astype(np.int64)
    unit_N = cohorts.repeat_N * n_groups + cohorts.group_N
    y_N = cohorts.y_N
    for name in SUM_METRICS:
        tiles = {
            "accuracy": lambda: sums.accuracy_sums(y_N, decided_N),
            "balanced_accuracy": lambda: sums.balanced_accuracy_sums(y_N, decided_N, 2),
            "macro_f1": lambda: sums.macro_f1_sums(y_N, decided_N, 2),
            "mcc": lambda: sums.mcc_sums(y_N, decided_N, 2),
            "log_loss": lambda: sums.log_loss_sums(y_N, p_N2),
            "brier": lambda: sums.brier_sums(y_N, p_N2),
            "ece": lambda: sums.ece_sums(y_N, p_N2),
            "ece_debiased": lambda: sums.ece_debiased_sums(y_N, p_N2),
            "patient_recognition_rate": lambda: sums.patient_recognition_sums(y_N, decided_N, unit_N),
        }[name]()
        columns = [np.bincount(unit_N, weights=c, minlength=n_repeats * n_groups) for c in tiles.addend_NM.T]
        addend_RGM = np.stack(columns, axis=1).reshape(n_repeats, n_groups, -1).astype(np.float64)
        yield name, SumsEvaluator(addend_RGM, tiles.finish, tiles.gradient)
    tables = [
        win_matrix(y_N[rows] == 1, cohorts.x_N[rows], cohorts.group_N[rows], n_groups)
        for rows in (cohorts.repeat_N == repeat for repeat in range(n_repeats))
    ]
    yield "auroc", PairsEvaluator((np.stack([w for w, _ in tables]),), (np.stack([p for _, p in tables]),))


def _thresholds(cohorts: Cohorts, rows: slice, counts_BG: Float, strata: bounds.Strata) -> tuple[Evidence, ...]:
    """Return the evidence of one repeat for AUPRC and sensitivity, which share their products."""
    n_groups = counts_BG.shape[1]
    tables = threshold_evaluator(cohorts.y_N[rows] == 1, cohorts.x_N[rows], cohorts.group_N[rows], n_groups)
    if not isinstance(tables, ThresholdEvaluator):
        raise TypeError("a cohort too large for tables")
    weights_WG = np.vstack([np.ones(n_groups), counts_BG, 1.0 - np.eye(n_groups)])
    single_WG = weights_WG.astype(np.float32)  # whole numbers: exact
    positives_WU, all_WU = single_WG @ tables.positives_above_GU, single_WG @ tables.above_GU
    se_B = np.full(len(counts_BG), np.nan)
    evidence = []
    for specificity in (None, HELD):
        walk = ThresholdWalk(weights_WG @ tables.negatives_G, specificity)
        walk.step(positives_WU, all_WU)
        values_W = walk.value()
        if specificity is None and n_groups <= STUDENTISED_THRESHOLDS:
            se_B = _errors(tables, counts_BG, strata)
        drawn = bounds.Resampled(values_W[1:-n_groups], se_B)
        evidence.append(Evidence(values_W[0], values_W[-n_groups:], drawn))
        se_B = np.full(len(counts_BG), np.nan)
    return tuple(evidence)


def _errors(evaluator: Evaluator, counts_BG: Float, strata: bounds.Strata) -> Float:
    if not evaluator.smooth:
        return np.asarray(np.nan)
    return bounds.slope_se(evaluator.slope(counts_BG), counts_BG, strata)
