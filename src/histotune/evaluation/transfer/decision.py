"""The decision loss split: prevalence, then threshold, then calibration; each one more number learned elsewhere."""

# N tiles

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histotune.evaluation.transfer.recalibrate import sigmoid
from histotune.evaluation.transfer.records import DecisionPart
from histotune.heads.thresholds import BinaryTiles, choose_threshold

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.evaluation.transfer.arms import Workbench
    from histotune.evaluation.transfer.contrast import Arm, Contrasts
    from histotune.statistics.records import Score

    Float = NDArray[np.float64]


@dataclass(frozen=True)
class DecisionSteps:
    """The head's scores and what one more correction makes of them, each learned on other target groups.

    Attributes:
        plain: As they are.
        prevalence: At the target's prevalence.
        threshold: With any shift: what the prevalence does not explain is a moved cut.
        calibration: With any shift and scale.
    """

    plain: Arm
    prevalence: Arm
    threshold: Arm
    calibration: Arm


def decision_steps(bench: Workbench, margin_N: Float, *, fitted: bool = False) -> DecisionSteps:
    """Correct margins step by step.

    Args:
        bench: The workbench.
        margin_N: Margins to correct.
        fitted: They come from a fit per fold.

    Returns:
        The steps.
    """
    return DecisionSteps(
        plain=bench.arm(margin_N, fitted=fitted),
        prevalence=bench.arm(bench.prior_corrected(margin_N, labels=True), fitted=True),
        threshold=bench.arm(bench.recalibrated(margin_N, scale=False), fitted=True),
        calibration=bench.arm(bench.recalibrated(margin_N, scale=True), fitted=True),
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


def threshold_arm(bench: Workbench, margin_N: Float) -> Arm:
    """Return the head with the threshold of best balanced accuracy on labels of tuning groups: an oracle.

    Args:
        bench: The workbench.
        margin_N: Margins of the target.

    Returns:
        The arm; margins as they are, a threshold per fold.
    """
    target = bench.case.target
    threshold_N = np.empty(len(margin_N))
    codes = np.unique(np.array(target.groups), return_inverse=True)[1]
    for fold in np.unique(bench.fold_N):
        tune_N = bench.fold_N != fold
        group_n = np.unique(codes[tune_N], return_inverse=True)[1]
        tiles = BinaryTiles(sigmoid(margin_N[tune_N]), target.y_N[tune_N] == 1, group_n, int(group_n.max()) + 1)
        threshold_N[~tune_N] = choose_threshold(tiles, "balanced-accuracy", 0.95).threshold
    return bench.arm(margin_N, threshold_N=threshold_N)
