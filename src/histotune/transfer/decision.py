"""The decision loss split: prevalence, then threshold, then calibration; each one more number learned elsewhere."""

# N tiles, n tuning tiles of a fold, K classes

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.calibrate import BinaryTiles, choose_threshold
from histotune.heads.head import softmax
from histotune.transfer.case import DecisionPart
from histotune.transfer.recalibrate import fit_affine

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.statistics.predictions import Score
    from histotune.transfer.case import Arm
    from histotune.transfer.corrections import Workbench
    from histotune.transfer.differences import Contrasts

    Float = NDArray[np.float64]
    Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class DecisionSteps:
    """The head's scores and what one more correction makes of them, each learned on other target groups.

    Attributes:
        plain: As they are.
        prevalence: At the target's prevalence.
        threshold: With any shift per class: what the prevalence does not explain is a moved cut.
        calibration: With any shift and scale.
    """

    plain: Arm
    prevalence: Arm
    threshold: Arm
    calibration: Arm


def decision_steps(bench: Workbench, margin_NK: Float, *, fitted: bool = False) -> DecisionSteps:
    """Correct margins step by step.

    Args:
        bench: The workbench.
        margin_NK: Margins to correct.
        fitted: They come from a fit per fold.

    Returns:
        The steps.
    """
    return DecisionSteps(
        plain=bench.arm(margin_NK, fitted=fitted),
        prevalence=bench.arm(bench.prior_corrected(margin_NK, labels=True), fitted=True),
        threshold=bench.arm(bench.recalibrated(margin_NK, scale=False), fitted=True),
        calibration=bench.arm(bench.recalibrated(margin_NK, scale=True), fitted=True),
    )


def decision_parts(steps: DecisionSteps, contrasts: Contrasts, level: float | None = None) -> tuple[DecisionPart, ...]:
    """Return the log-loss that each step takes away; the three add up to the whole decision loss.

    Args:
        steps: From :func:`decision_steps`.
        contrasts: Makes the intervals.
        level: Nominal coverage; None takes the config's.

    Returns:
        Prevalence, threshold, calibration.
    """

    def part(before: Arm, after: Arm) -> Score:
        return contrasts.score("log_loss", ((1.0, before), (-1.0, after)), level)

    return (
        DecisionPart("prevalence", part(steps.plain, steps.prevalence)),
        DecisionPart("threshold", part(steps.prevalence, steps.threshold)),
        DecisionPart("calibration", part(steps.threshold, steps.calibration)),
    )


def part_terms(steps: DecisionSteps, cause: str) -> tuple[tuple[float, Arm], ...]:
    """Return a part of the decision loss as weights and arms, for contrasts between parts."""
    before, after = {
        "prevalence": (steps.plain, steps.prevalence),
        "threshold": (steps.prevalence, steps.threshold),
        "calibration": (steps.threshold, steps.calibration),
    }[cause]
    return ((1.0, before), (-1.0, after))


def threshold_arm(bench: Workbench, margin_NK: Float) -> Arm:
    """Return the head with the cut of best balanced accuracy on labels of tuning groups: an oracle.

    Two classes have one threshold, the best by count. Several have a shift each: those of least log-loss, beside a
    common scale, where every class weighs the same.

    Args:
        bench: The workbench.
        margin_NK: Margins of the target.

    Returns:
        The arm; margins as they are, decisions by what was learned on the other folds.
    """
    if bench.case.n_classes == 2:
        return bench.arm(margin_NK, threshold_N=_thresholds(bench, margin_NK))
    shifted_NK = bench.per_fold(margin_NK, lambda z_NK, tune_N: _evenly_shifted(bench, z_NK, tune_N))
    return bench.deciding_arm(margin_NK, shifted_NK.argmax(axis=1))


def _thresholds(bench: Workbench, margin_NK: Float) -> Float:
    """Return the threshold of every tile's fold."""
    target, p_N = bench.case.target, softmax(margin_NK)[:, 1]
    threshold_N = np.empty(len(p_N))
    codes = np.unique(np.array(target.groups), return_inverse=True)[1]
    for fold in np.unique(bench.fold_N):
        tune_N = bench.fold_N != fold
        group_n = np.unique(codes[tune_N], return_inverse=True)[1]
        tiles = BinaryTiles(p_N[tune_N], target.y_N[tune_N] == 1, group_n, int(group_n.max()) + 1)
        threshold_N[~tune_N] = choose_threshold(tiles, "balanced-accuracy", 0.95).threshold
    return threshold_N


def _evenly_shifted(bench: Workbench, margin_NK: Float, tune_N: Bool) -> Float:
    """Return margins as they are decided on; unchanged where no tuning group holds one of the classes."""
    y_n, n_classes = bench.case.target.y_N[tune_N], bench.case.n_classes
    tiles_K = np.bincount(y_n, minlength=n_classes)
    if not tiles_K.all():
        return margin_NK
    weight_n = len(y_n) / (n_classes * tiles_K[y_n])
    return fit_affine(margin_NK[tune_N], y_n, scale=True, weight_n=weight_n)(margin_NK)
