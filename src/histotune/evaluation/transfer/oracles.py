"""What labels of the target would give: limits beside the remedies, never remedies."""

# N tiles, D columns, F masks

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.evaluation.transfer.decision import threshold_arm
from histotune.evaluation.transfer.records import OracleRow
from histotune.evaluation.transfer.remedies import METRICS
from histotune.heads.logistic import fit_batch
from histotune.heads.problems import FitProblems
from histotune.statistics.scores import score_predictions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.evaluation.transfer.arms import Workbench
    from histotune.evaluation.transfer.contrast import Arm
    from histotune.evaluation.transfer.records import Side
    from histotune.statistics.config import IntervalConfig

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
    plain_N = bench.margins(bench.case.target.x_ND)
    arms: list[tuple[str, Arm]] = [
        ("best threshold", threshold_arm(bench, plain_N)),
        ("best shift and scale", bench.arm(bench.recalibrated(plain_N, scale=True), fitted=True)),
        ("head trained on the target",
         bench.arm(_own_margins(bench), fitted=True, threshold_N=np.full(len(plain_N), 0.5))),
    ]  # fmt: skip
    return tuple(
        OracleRow(name, score_predictions(arm.predictions, METRICS, interval, within_folds=arm.fitted))
        for name, arm in arms
    )


def _own_margins(bench: Workbench) -> Float:
    """Return margins of heads trained on the other folds of the target."""
    folds = np.unique(bench.fold_N)
    margin_FN = fit_masks(bench.case.target, bench.fold_N != folds[:, None], bench.case.head.penalty)
    return np.asarray(margin_FN[np.searchsorted(folds, bench.fold_N), np.arange(len(bench.fold_N))])


def fit_masks(side: Side, mask_FN: Bool, penalty: float) -> Float:
    """Train a head on the tiles of every mask.

    Args:
        side: The tiles.
        mask_FN: Which tiles train.
        penalty: L2 penalty; at least :data:`LEAST_PENALTY`.

    Returns:
        Margin of every tile by every head, (F, N).
    """
    if not len(mask_FN):
        return np.empty((0, len(side)))
    n = len(mask_FN)
    problems = FitProblems(mask_FN, np.arange(n), np.full(n, max(penalty, LEAST_PENALTY)), n_classes=2)
    found = fit_batch(side.x_ND, side.y_N, problems)
    return np.asarray(found.weight_PKD[:, 0] @ side.x_ND.T + found.bias_PK[:, :1])
