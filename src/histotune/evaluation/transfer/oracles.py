"""What labels of the target would give: limits beside the remedies, never remedies."""

# N tiles, D columns, F masks

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.evaluation.transfer.decision import threshold_arm
from histotune.evaluation.transfer.records import FewShotPoint, OracleRow
from histotune.evaluation.transfer.remedies import METRICS
from histotune.heads.logistic import fit_batch
from histotune.heads.problems import FitProblems
from histotune.statistics.scores import score_predictions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.evaluation.transfer.arms import Workbench
    from histotune.evaluation.transfer.config import TransferConfig
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


def few_shot_curve(bench: Workbench, config: TransferConfig) -> tuple[FewShotPoint, ...]:
    """Return the AUROC of heads trained on few labelled target groups, on all other groups.

    Args:
        bench: The workbench.
        config: Points, draws and seed.

    Returns:
        Points that the target's groups allow: each class keeps as many groups for scoring as train, at least two.
    """
    target = bench.case.target
    codes = np.unique(np.array(target.groups), return_inverse=True)[1]
    majority_G = np.bincount(codes, weights=target.y_N == 1) / np.bincount(codes) >= 0.5
    by_class = [np.flatnonzero(majority_G == label) for label in (False, True)]
    fewest = min(len(groups) for groups in by_class)
    sizes = [size for size in config.few_shot if fewest - size >= max(2, min(size, 5))]
    rng = np.random.default_rng(config.seed)
    drawn = [
        (size, np.concatenate([rng.choice(groups, size, replace=False) for groups in by_class]))
        for size in sizes
        for _ in range(config.draws)
    ]
    if not drawn:
        return ()
    mask_FN = np.stack([np.isin(codes, groups) for _, groups in drawn])
    kept = [len(np.unique(target.y_N[mask_N])) == 2 for mask_N in mask_FN]
    values: dict[int, list[float]] = {size: [] for size in sizes}
    margin_FN = _fit_masks(target, mask_FN[kept], bench.case.head.penalty)
    for size, margin_N, mask_N in zip(
        [size for (size, _), keep in zip(drawn, kept, strict=True) if keep], margin_FN, mask_FN[kept], strict=True
    ):
        values[size].append(_auroc(margin_N[~mask_N], target.y_N[~mask_N] == 1))
    return tuple(
        FewShotPoint(size, float(np.mean(found)), float(np.std(found, ddof=1)), len(found))
        for size, found in values.items()
        if len(found) > 1
    )


def _own_margins(bench: Workbench) -> Float:
    """Return margins of heads trained on the other folds of the target."""
    folds = np.unique(bench.fold_N)
    margin_FN = _fit_masks(bench.case.target, bench.fold_N != folds[:, None], bench.case.head.penalty)
    return np.asarray(margin_FN[np.searchsorted(folds, bench.fold_N), np.arange(len(bench.fold_N))])


def _fit_masks(side: Side, mask_FN: Bool, penalty: float) -> Float:
    """Return the margin of every tile by a head of every mask."""
    if not len(mask_FN):
        return np.empty((0, len(side)))
    n = len(mask_FN)
    problems = FitProblems(mask_FN, np.arange(n), np.full(n, max(penalty, LEAST_PENALTY)), n_classes=2)
    found = fit_batch(side.x_ND, side.y_N, problems)
    return np.asarray(found.weight_PKD[:, 0] @ side.x_ND.T + found.bias_PK[:, :1])


def _auroc(margin_n: Float, positive_n: Bool) -> float:
    from scipy.stats import rankdata

    n_positive = int(positive_n.sum())
    ranks_n = rankdata(margin_n)
    wins = ranks_n[positive_n].sum() - n_positive * (n_positive + 1) / 2.0
    return float(wins / (n_positive * (len(margin_n) - n_positive)))
