"""The whole procedure on some training sets: try, choose, refit, calibrate, decide."""

# n tiles of one training set, K classes

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.heads.apply import calibrated_logits, softmax
from histotune.heads.calibrate import CrossFitted, calibrate
from histotune.heads.head import Decision
from histotune.heads.select import choose_trial, score_trials
from histotune.heads.thresholds import BinaryTiles, choose_threshold

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from histotune.heads.config import SweepConfig
    from histotune.heads.family import Family, OutOfFold, Refit, SweepData, Trial
    from histotune.heads.head import Calibration
    from histotune.heads.select import TrialScores
    from histotune.heads.task import TrainingSet


@dataclass(frozen=True)
class Procedure:
    """What is done on every training set.

    Attributes:
        family: What fits.
        trials: What is tried.
        config: How one is chosen, calibrated and given a threshold.
    """

    family: Family
    trials: tuple[Trial, ...]
    config: SweepConfig


@dataclass(frozen=True)
class Solved:
    """What the procedure found on one training set.

    Attributes:
        part: The training set.
        found: Out-of-fold logits of every trial.
        scores: Their losses.
        choice: The chosen trial.
        refit: It, fitted on all tiles of the set.
        calibration: From the chosen trial's out-of-fold logits.
        decision: From its calibrated out-of-fold probabilities.
    """

    part: TrainingSet
    found: OutOfFold
    scores: TrialScores
    choice: int
    refit: Refit
    calibration: Calibration
    decision: Decision


def solve_parts(data: SweepData, parts: Sequence[TrainingSet], procedure: Procedure) -> list[Solved]:
    """Run the procedure on every training set, all in one batch.

    Args:
        data: Embeddings and labels; only a set's own tiles bear on what is found on it.
        parts: Training sets with their folds.
        procedure: What to do.

    Returns:
        One record per training set.

    Raises:
        UserError: Every trial of a set diverged.
    """
    trials, rule = procedure.trials, procedure.config.selection_rule
    found = procedure.family.out_of_fold(data, parts, trials)
    scores = [score_trials(one, data.y_n[part.rows], part) for one, part in zip(found, parts, strict=True)]
    choices = [choose_trial(one, trials, rule) for one in scores]
    refits = procedure.family.refit(data, [(part, trials[choice]) for part, choice in zip(parts, choices, strict=True)])
    solved = []
    for part, one, score, choice, refit in zip(parts, found, scores, choices, refits, strict=True):
        calibration, decision = _finish(one.logit_TnK[choice], data.y_n[part.rows], part, procedure.config)
        solved.append(Solved(part, one, score, choice, refit, calibration, decision))
    return solved


def _finish(
    logit_nK: NDArray[np.float64], y_n: NDArray[np.int64], part: TrainingSet, config: SweepConfig
) -> tuple[Calibration, Decision]:
    """Calibrate the chosen trial's out-of-fold logits and choose a threshold on the probabilities."""
    crossfitted = CrossFitted(logit_nK, y_n, part.group_n, part.n_groups, part.fold_n)
    calibration = calibrate(crossfitted, config.calibration)
    if logit_nK.shape[1] != 2:
        return calibration, Decision(reason="several classes: the most probable one")
    probability_nK = softmax(calibrated_logits(calibration, logit_nK))
    tiles = BinaryTiles(probability_nK[:, 1], y_n == 1, part.group_n, part.n_groups)
    return calibration, choose_threshold(tiles, config.threshold, config.sensitivity)
