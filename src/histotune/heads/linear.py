"""Logistic regression as a family: (class weighting x training set x fold x penalty) of a pooling in one call."""

# n rows, D columns, K classes, T trials, P fits, F masks, B rows of weights (one per fold, then all folds)

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from histotune.datasets.splits.folds import assign_group_folds
from histotune.heads.calibrate import CrossFitted, fit_temperatures
from histotune.heads.family import (
    OutOfFold,
    Refit,
    full_logits,
    sample_weights,
    tell,
    trials_by_pooling,
    with_zero_class,
)
from histotune.heads.solver.coordinates import is_small
from histotune.heads.solver.problems import FitProblems, FitSettings
from histotune.tools.devices import find_device
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.heads.config import ClassWeight, SweepConfig
    from histotune.heads.family import SweepData, TrainingSet, Trial
    from histotune.heads.solver.problems import FitSolution

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


@dataclass(frozen=True)
class PenaltyTrial:
    """One pooling, class weighting and L2 penalty."""

    pooling: tuple[str, ...]
    class_weight: ClassWeight
    penalty: float

    @property
    def strength(self) -> float:
        """The penalty."""
        return self.penalty

    def settings(self) -> dict[str, float | int | str]:
        """Return the penalty."""
        return {"penalty": self.penalty}


def penalty_trials(config: SweepConfig, poolings: Sequence[tuple[str, ...]]) -> tuple[PenaltyTrial, ...]:
    """Return (pooling x class weighting x penalty), the penalty running fastest."""
    for penalty in config.penalties:
        if not penalty > 0:
            raise UserError("a penalty must be positive", value=penalty, fix="--set sweep.penalties=[0.01,0.1,1]")
    return tuple(
        PenaltyTrial(pooling, class_weight, penalty)
        for pooling in poolings
        for class_weight in config.class_weights
        for penalty in config.penalties
    )


class LogisticFamily:
    """L2 logistic regression, solved exactly."""

    name = "logistic"

    def __init__(self, config: SweepConfig) -> None:
        self._config = config

    def trials(self, poolings: Sequence[tuple[str, ...]]) -> tuple[PenaltyTrial, ...]:
        """See :class:`~histotune.heads.family.Family`."""
        return penalty_trials(self._config, poolings)

    def out_of_fold(self, data: SweepData, parts: Sequence[TrainingSet], trials: Sequence[Trial]) -> list[OutOfFold]:
        """See :class:`~histotune.heads.family.Family`."""
        found = [OutOfFold.empty(len(trials), part.n_tiles, data.n_classes) for part in parts]
        n_done = 0
        for members in trials_by_pooling(trials):
            self._fill(data, parts, [trials[t] for t in members], members, found)
            self._finish(data, parts, [trials[t] for t in members], members, found)
            n_done += len(members)
            tell(data, parts, trials, members, found, n_done)
        return found

    def _fill(
        self,
        data: SweepData,
        parts: Sequence[TrainingSet],
        trials: Sequence[Trial],
        members: NDArray[np.int64],
        found: list[OutOfFold],
    ) -> None:
        """Solve the trials of one pooling on all folds in one call, and write their logits."""
        x_nD = data.matrix(trials[0].pooling)
        # One mask per fold and class weighting; fits run fold by fold and, within a fold, trial by trial.
        weightings = tuple(dict.fromkeys(trial.class_weight for trial in trials))
        folds = [(part, fold) for part in parts for fold in range(part.n_folds)]
        masks = [
            sample_weights(part.fold_train_rows(fold), data.y_n, weighting)
            for part, fold in folds
            for weighting in weightings
        ]
        of_trial_T = np.array([weightings.index(trial.class_weight) for trial in trials])
        mask_P = (np.arange(len(folds))[:, None] * len(weightings) + of_trial_T).ravel()
        penalty_P = np.tile([trial.strength for trial in trials], len(folds))
        solution = self._solve(x_nD, data, FitProblems(np.stack(masks), mask_P, penalty_P, data.n_classes))
        fits, of_part = slice(0, 0), {id(part): out for part, out in zip(parts, found, strict=True)}
        for part, fold in folds:
            fits = slice(fits.stop, fits.stop + len(trials))
            out, held = of_part[id(part)], np.flatnonzero(part.fold_n == fold)
            logit_TnK = full_logits(solution.weight_PKD[fits], solution.bias_PK[fits], x_nD[part.rows[held]])
            out.logit_TnK[np.ix_(members, held)] = logit_TnK
            out.converged_T[members] &= solution.converged_P[fits]

    def refit(self, data: SweepData, chosen: Sequence[tuple[TrainingSet, Trial]]) -> list[Refit]:
        """See :class:`~histotune.heads.family.Family`; all sets that chose one pooling are solved together."""
        refitted: dict[int, Refit] = {}
        for pooling in dict.fromkeys(trial.pooling for _, trial in chosen):
            members = [index for index, (_, trial) in enumerate(chosen) if trial.pooling == pooling]
            masks: dict[tuple[int, str], tuple[int, NDArray[np.float64]]] = {}  # trials of one set share its mask
            for index in members:
                part, trial = chosen[index]
                if (id(part), trial.class_weight) not in masks:
                    weight_n = sample_weights(part.rows, data.y_n, trial.class_weight)
                    masks[id(part), trial.class_weight] = (len(masks), weight_n)
            # One fit per chosen trial, on the mask of its training set and class weighting.
            mask_P = np.array([masks[id(chosen[i][0]), chosen[i][1].class_weight][0] for i in members])
            penalty_P = np.array([chosen[index][1].strength for index in members])
            mask_Fn = np.stack([weight_n for _, weight_n in masks.values()])
            problems = FitProblems(mask_Fn, mask_P, penalty_P, data.n_classes)
            solution = self._solve(data.matrix(pooling), data, problems)
            for row, index in enumerate(members):
                weight_KD, bias_K = with_zero_class(solution.weight_PKD[row], solution.bias_PK[row])
                refitted[index] = Refit(weight_KD, bias_K, bool(solution.converged_P[row]))
        return [refitted[index] for index in range(len(chosen))]

    def _finish(
        self,
        data: SweepData,
        parts: Sequence[TrainingSet],
        trials: Sequence[Trial],
        members: NDArray[np.int64],
        found: list[OutOfFold],
    ) -> None:
        """Make logits of the scores of one pooling's trials; those of logistic regression are logits."""

    def _solve(self, x_nD: NDArray[np.floating], data: SweepData, problems: FitProblems) -> FitSolution:
        device = solver_device(self._config.device, x_nD.shape, problems)
        settings = FitSettings(max_iterations=self._config.max_iterations, device=device)
        return data.support.fits.fit_batch(x_nD, data.y_n, problems, settings)


def solver_device(choice: Literal["auto", "cpu", "cuda"], shape: tuple[int, ...], problems: FitProblems) -> str:
    """Return where some problems are solved."""
    if choice == "cpu":
        return "cpu"
    n_rows = int(np.asarray(problems.mask_FN, dtype=np.bool_).sum(axis=1).max())
    if choice == "auto" and is_small(n_rows, shape[1], len(problems.mask_FN)):
        return "cpu"
    return find_device(choice).kind


# ------------------------------------------------------------------------------
# Ridge classification as a family. Scores of least squares on -1 and 1 are no log-odds, but the choice goes by
# log-loss: every trial's scores are multiplied by one positive factor of least group-balanced log-loss, a fold's from
# the out-of-fold scores of the other folds, the refit's from those of all. It changes no ranking within a fold


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
        members: NDArray[np.int64],
        found: list[OutOfFold],
    ) -> None:
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
    """Return the factors that make logits of out-of-fold scores."""
    # Row b of the weights leaves fold b out, the last one keeps all. Scores are brought to size 1 first, so that the
    # factor 1 / (size T) is found within the bounds of a temperature.
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
