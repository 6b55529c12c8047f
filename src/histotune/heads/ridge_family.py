"""Ridge classification as a family: closed form, its scores turned into logits by one factor per trial.

Scores of least squares on -1 and 1 are no log-odds, and the choice among trials goes by log-loss. So every trial's
scores are multiplied by one positive factor of least group-balanced log-loss: a fold's factor comes from the
out-of-fold scores of the other folds, the refit's from those of all folds. It changes no ranking within a fold.
"""

# n tiles of a training set, K classes, T trials, B rows of weights (one per fold, then all folds)

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.datasets.splits.folds import assign_group_folds
from histotune.heads.calibrate import CrossFitted, fit_temperatures
from histotune.heads.linear import LogisticFamily, PenaltyTrial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.heads.config import SweepConfig
    from histotune.heads.family import OutOfFold, Refit, SweepData, Trial
    from histotune.heads.solver.problems import FitProblems, FitSolution
    from histotune.heads.task import TrainingSet

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

SCALE_FOLDS = 5
"""Folds by group that scale a training set which has none of its own."""


class RidgeFamily(LogisticFamily):
    """Ridge classifiers, one decomposition for all penalties of a training mask.

    Args:
        config: Penalties and class weightings.
    """

    name = "ridge"

    def __init__(self, config: SweepConfig) -> None:
        super().__init__(config)
        self._factors: dict[tuple[PenaltyTrial, bytes], float] = {}

    def refit(self, data: SweepData, chosen: Sequence[tuple[TrainingSet, Trial]]) -> list[Refit]:
        """See :class:`~histotune.heads.family.Family`."""
        self._find_factors(data, chosen)
        factors = [self._factors[_own(trial), _key(part)] for part, trial in chosen]
        refits = super().refit(data, chosen)
        return [
            replace(one, weight_KD=factor * one.weight_KD, bias_K=factor * one.bias_K)
            for one, factor in zip(refits, factors, strict=True)
        ]

    def _find_factors(self, data: SweepData, chosen: Sequence[tuple[TrainingSet, Trial]]) -> None:
        """Scale what :meth:`out_of_fold` has not: training sets without folds get folds by group for it."""
        missing: dict[bytes, tuple[TrainingSet, list[Trial]]] = {}
        for part, trial in chosen:
            if (_own(trial), _key(part)) not in self._factors:
                missing.setdefault(_key(part), (part, []))[1].append(trial)
        together: dict[tuple[Trial, ...], list[TrainingSet]] = {}
        for part, trials in missing.values():
            if part.n_groups < 2:  # nothing can be left out
                self._factors |= {(_own(trial), _key(part)): 1.0 for trial in trials}
            else:
                together.setdefault(tuple(dict.fromkeys(trials)), []).append(part)
        for trials_of, parts in together.items():
            folded = [part if part.n_folds > 1 else self._with_folds(data, part) for part in parts]
            unwatched = replace(data, support=replace(data.support, watch=None))
            self.out_of_fold(unwatched, folded, trials_of)

    def _with_folds(self, data: SweepData, part: TrainingSet) -> TrainingSet:
        """Deal a training set's groups into folds."""
        units = [part.groups[code] for code in part.group_n]
        n_folds = min(SCALE_FOLDS, part.n_groups)
        fold_by_unit = assign_group_folds(units, data.y_n[part.rows], data.n_classes, n_folds, self._config.seed)
        return replace(part, fold_n=np.array([fold_by_unit[unit] for unit in units], np.int64), n_folds=n_folds)

    def _finish(
        self,
        data: SweepData,
        parts: Sequence[TrainingSet],
        trials: Sequence[Trial],
        where: tuple[Int, list[OutOfFold]],
    ) -> None:
        members, found = where
        for part, one in zip(parts, found, strict=True):
            for t, trial in zip(members, trials, strict=True):
                factor_B = score_factors(
                    CrossFitted(one.logit_TnK[t], data.y_n[part.rows], part.group_n, part.n_groups, part.fold_n)
                )
                one.logit_TnK[t] *= factor_B[part.fold_n, None]
                self._factors[_own(trial), _key(part)] = float(factor_B[-1])

    def _solve(self, x_nD: NDArray[np.floating], data: SweepData, problems: FitProblems) -> FitSolution:
        return data.support.fits.fit_ridge(x_nD, data.y_n, problems)


def score_factors(found: CrossFitted) -> Float:
    """Return the factors that make logits of out-of-fold scores.

    Args:
        found: Out-of-fold scores in the place of logits.

    Returns:
        Each fold's factor, fitted on the other folds, then that of all folds; all positive. The scores' own size is
        taken out first, since strong penalties shrink it by orders of magnitude.
    """
    n_folds = int(found.fold_n.max()) + 1
    weight_n = found.tile_weights()
    weight_Bn = np.vstack([weight_n * (found.fold_n != np.arange(n_folds)[:, None]), weight_n])
    spread_n = np.ptp(found.logit_nK, axis=1) ** 2
    size_B = np.sqrt(weight_Bn @ spread_n / np.maximum(weight_Bn.sum(axis=1), np.finfo(float).tiny))
    factor_B = np.ones(n_folds + 1)
    for b in np.flatnonzero((size_B > 0) & np.isfinite(size_B)):
        temperature = fit_temperatures(found.logit_nK / size_B[b], found.y_n, weight_Bn[b : b + 1])[0]
        factor_B[b] = 1.0 / (size_B[b] * temperature)
    return factor_B


def _key(part: TrainingSet) -> bytes:
    return part.rows.tobytes()


def _own(trial: Trial) -> PenaltyTrial:
    if not isinstance(trial, PenaltyTrial):
        raise TypeError(f"{trial} is no trial of a penalised head")
    return trial
