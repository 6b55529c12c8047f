"""What labels of the target would give: limits beside the remedies, never remedies."""

# N tiles, D columns, F masks, K classes

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.solver.logistic import fit_batch
from histotune.heads.solver.problems import FitProblems
from histotune.statistics.scores import score_predictions
from histotune.transfer.case import OracleRow
from histotune.transfer.decision import threshold_arm
from histotune.transfer.recalibrate import two_class_margins
from histotune.transfer.remedies import METRICS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.statistics.predictions import IntervalConfig
    from histotune.transfer.case import Arm, TransferCase
    from histotune.transfer.corrections import Workbench

    Float = NDArray[np.float64]
    Bool = NDArray[np.bool_]

LEAST_PENALTY = 0.01


def oracle_rows(bench: Workbench, interval: IntervalConfig) -> tuple[OracleRow, ...]:
    """Return the best threshold, the best recalibration, and a head trained on the target itself.

    Args:
        bench: The workbench.
        interval: How intervals are made.

    Returns:
        Rows; everything is learned on other groups than those it scores.
    """
    plain_NK = bench.margins(bench.case.target.x_ND)
    arms: list[tuple[str, Arm]] = [
        ("best threshold" if bench.case.n_classes == 2 else "shift per class", threshold_arm(bench, plain_NK)),
        ("best shift and scale", bench.arm(bench.recalibrated(plain_NK, scale=True), fitted=True)),
        ("head trained on the target",
         bench.arm(_own_margins(bench), fitted=True, threshold_N=np.full(len(plain_NK), 0.5))),
    ]  # fmt: skip
    return tuple(
        OracleRow(name, score_predictions(arm.predictions, METRICS, interval, within_folds=arm.fitted))
        for name, arm in arms
    )


def _own_margins(bench: Workbench) -> Float:
    """Return margins of heads trained on the other folds of the target."""
    folds = np.unique(bench.fold_N)
    margin_FNK = fit_masks(bench.case, bench.fold_N != folds[:, None])
    return np.asarray(margin_FNK[np.searchsorted(folds, bench.fold_N), np.arange(len(bench.fold_N))])


def fit_masks(case: TransferCase, mask_FN: Bool) -> Float:
    """Train a head on the target's tiles of every mask, at the penalty of the carried head.

    Args:
        case: The target's tiles, and the penalty, raised to :data:`LEAST_PENALTY`.
        mask_FN: Which tiles train.

    Returns:
        Margins of every tile by every head, (F, N, K).
    """
    target, n = case.target, len(mask_FN)
    if not n:
        return np.empty((0, len(target), case.n_classes))
    penalty_P = np.full(n, max(case.head.penalty, LEAST_PENALTY))
    found = fit_batch(target.x_ND, target.y_N, FitProblems(mask_FN, np.arange(n), penalty_P, case.n_classes))
    logit_FNK = np.swapaxes(found.weight_PKD @ target.x_ND.T, 1, 2) + found.bias_PK[:, None]
    if case.n_classes == 2:  # the fit gives the logit of class 1
        return two_class_margins(logit_FNK[..., 0])
    return np.asarray(logit_FNK - logit_FNK[..., :1])
