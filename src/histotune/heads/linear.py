"""Logistic regression as a family: (class weighting x training set x fold x penalty) of a pooling in one call."""

# n rows, D columns, K classes, T trials, P fits, F masks

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from histotune.heads.family import OutOfFold, Refit, full_logits, sample_weights, tell, with_zero_class
from histotune.heads.features import is_small
from histotune.heads.solver.problems import FitProblems, FitSettings
from histotune.tools.devices import find_device
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.heads.config import ClassWeight, SweepConfig
    from histotune.heads.family import SweepData, Trial
    from histotune.heads.solver.problems import FitSolution
    from histotune.heads.task import TrainingSet


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
    """Return (pooling x class weighting x penalty), the penalty running fastest.

    Args:
        config: Weightings and penalties.
        poolings: Sets of column blocks.

    Returns:
        All trials of a penalised family.

    Raises:
        UserError: A penalty is not positive.
    """
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
        found = [
            OutOfFold(
                np.empty((len(trials), part.n_tiles, data.n_classes)),
                np.ones(len(trials), bool),
                np.zeros(len(trials), bool),
            )
            for part in parts
        ]
        n_done = 0
        for pooling in dict.fromkeys(trial.pooling for trial in trials):
            members = np.array([t for t, trial in enumerate(trials) if trial.pooling == pooling])
            self._fill(data, parts, [trials[t] for t in members], (members, found))
            self._finish(data, parts, [trials[t] for t in members], (members, found))
            n_done += len(members)
            tell(data, parts, trials, (members, found), n_done)
        return found

    def _fill(
        self,
        data: SweepData,
        parts: Sequence[TrainingSet],
        trials: Sequence[Trial],
        where: tuple[NDArray[np.int64], list[OutOfFold]],
    ) -> None:
        """Solve the trials of one pooling on all folds in one call, and write their logits."""
        members, found = where
        x_nD = data.matrix(trials[0].pooling)
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
        where: tuple[NDArray[np.int64], list[OutOfFold]],
    ) -> None:
        """Make logits of the scores of one pooling's trials; those of logistic regression are logits."""

    def _solve(self, x_nD: NDArray[np.floating], data: SweepData, problems: FitProblems) -> FitSolution:
        device = solver_device(self._config.device, x_nD.shape, problems)
        settings = FitSettings(max_iterations=self._config.max_iterations, device=device)
        return data.support.fits.fit_batch(x_nD, data.y_n, problems, settings)


def solver_device(choice: Literal["auto", "cpu", "cuda"], shape: tuple[int, ...], problems: FitProblems) -> str:
    """Return where some problems are solved.

    Args:
        choice: ``auto`` leaves small problems to the processor, and asks for no GPU then.
        shape: Rows and columns of the matrix.
        problems: The problems.

    Returns:
        ``cpu`` or ``cuda``.

    Raises:
        UserError: ``cuda`` was asked for and none can be used.
    """
    if choice == "cpu":
        return "cpu"
    n_rows = int(np.asarray(problems.mask_FN, dtype=np.bool_).sum(axis=1).max())
    if choice == "auto" and is_small(n_rows, shape[1], len(problems.mask_FN)):
        return "cpu"
    return find_device(choice).kind
