"""How often each method's interval holds the truth in one setting."""

# N tiles of all repeats, R repeats, G groups, B resamples, M sums

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from benchmarks.coverage.cohort import HELD, CellSpec, Cohorts, holds_classes, simulate, true_values
from histotune.statistics import bounds, sums
from histotune.statistics.evaluators import PairsEvaluator, SumsEvaluator, ThresholdEvaluator
from histotune.statistics.intervals import metric_scale
from histotune.statistics.methods import METHODS, Evidence, clustered_variance, method_bounds
from histotune.statistics.resampling import draw_counts
from histotune.statistics.tables import threshold_evaluator, win_matrix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from histotune.statistics.evaluators import Evaluator
    from histotune.statistics.methods import Method

    Float = NDArray[np.float64]

LEVEL = 0.95
BLOCK = 100
STUDENTISED_THRESHOLDS = 50
"""Up to this many groups the studentised bootstrap of AUPRC is judged: its slopes cost four more products."""
SUM_METRICS = (
    "accuracy", "balanced_accuracy", "macro_f1", "mcc", "log_loss", "brier", "ece", "ece_debiased",
)  # fmt: skip
THRESHOLD_METRICS = ("auprc", "sensitivity_at_95_specificity")


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
    truths, tallies = true_values(spec), {}
    strata = bounds.Strata.of(holds_classes(spec))
    for start in range(0, n_repeats, BLOCK):
        n = min(BLOCK, n_repeats - start)
        cohorts = simulate(spec, n, rng)
        draws = draw_counts(strata.holds_GK, n_resamples, int(rng.integers(2**31)), spec.n_groups)
        counts_BG = np.concatenate(list(draws))
        for name, evidence in _evidence(cohorts, n, counts_BG, strata):
            for method in METHODS:
                if not _given(method, evidence):
                    continue
                found = method_bounds(method, evidence, strata, metric_scale(name), LEVEL)
                low_R, high_R = _with_flat(name, found, evidence, strata, spec.prevalence)
                tallies.setdefault((name, method), Tally()).add(low_R, high_R, truths[name])
    return tallies


def _with_flat(name, found, evidence, strata, prevalence):  # noqa: ANN001, ANN202
    return found


def _given(method: Method, evidence: Evidence) -> bool:
    if method == "studentised":
        return evidence.drawn is not None and np.isfinite(evidence.drawn.se_xB).any()
    return method != "obuchowski-t" or evidence.obuchowski_x is not None


def _evidence(
    cohorts: Cohorts, n_repeats: int, counts_BG: Float, strata: bounds.Strata
) -> Iterator[tuple[str, Evidence]]:
    """Yield every metric's evidence over the repeats."""
    ones_1G = np.ones((1, counts_BG.shape[1]))
    for name, evaluator in _batched(cohorts, n_repeats, counts_BG.shape[1]):
        drawn = bounds.Resampled(evaluator(counts_BG), _errors(evaluator, counts_BG, strata))
        yield name, Evidence(
            evaluator(ones_1G)[..., 0], evaluator.without_each(), drawn, clustered_variance(evaluator, strata)
        )
    rows = np.flatnonzero(np.r_[True, np.diff(cohorts.repeat_N) > 0, True])
    rows[-1] = len(cohorts.repeat_N)
    for name in THRESHOLD_METRICS:
        specificity = None if name == "auprc" else HELD
        parts = [_thresholds(cohorts, slice(a, b), counts_BG, strata, specificity) for a, b in zip(rows, rows[1:], strict=False)]
        yield name, Evidence(
            np.array([part.point_x for part in parts]),
            np.stack([part.without_xG for part in parts]),
            bounds.Resampled(
                np.stack([part.drawn.values_xB for part in parts]), np.stack([part.drawn.se_xB for part in parts])
            ),
        )


def _batched(cohorts: Cohorts, n_repeats: int, n_groups: int) -> Iterator[tuple[str, Evaluator]]:
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
        }[name]()
        columns = [np.bincount(unit_N, weights=c, minlength=n_repeats * n_groups) for c in tiles.addend_NM.T]
        addend_RGM = np.stack(columns, axis=1).reshape(n_repeats, n_groups, -1)
        yield name, SumsEvaluator(addend_RGM, tiles.finish, tiles.gradient)
    tables = [
        win_matrix(y_N[rows] == 1, cohorts.x_N[rows], cohorts.group_N[rows], n_groups)
        for rows in (cohorts.repeat_N == repeat for repeat in range(n_repeats))
    ]
    yield "auroc", PairsEvaluator((np.stack([w for w, _ in tables]),), (np.stack([p for _, p in tables]),))


def _thresholds(
    cohorts: Cohorts, rows: slice, counts_BG: Float, strata: bounds.Strata, specificity: float | None
) -> Evidence:
    """Return the evidence of one repeat, in single precision: counts are exact in it."""
    n_groups = counts_BG.shape[1]
    evaluator = threshold_evaluator(
        cohorts.y_N[rows] == 1, cohorts.x_N[rows], cohorts.group_N[rows], n_groups, specificity
    )
    if isinstance(evaluator, ThresholdEvaluator):
        single = [getattr(evaluator, part).astype(np.float32) for part in ("gained_GU", "positives_above_GU", "above_GU")]
        evaluator = ThresholdEvaluator(*single, evaluator.negatives_G, specificity)
    values_B = evaluator(counts_BG)
    few = n_groups <= STUDENTISED_THRESHOLDS
    se_B = _errors(evaluator, counts_BG, strata) if few else np.full(len(counts_BG), np.nan)
    return Evidence(evaluator(np.ones((1, n_groups)))[0], evaluator.without_each(), bounds.Resampled(values_B, se_B))


def _errors(evaluator: Evaluator, counts_BG: Float, strata: bounds.Strata) -> Float:
    if not evaluator.smooth:
        return np.asarray(np.nan)
    return bounds.slope_se(evaluator.slope(counts_BG), counts_BG, strata)
