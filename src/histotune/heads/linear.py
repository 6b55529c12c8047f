"""Logistic regression as a family: (class weighting x training set x fold x penalty) of a pooling in one call."""

# n rows, D columns, K classes, T trials, P fits, F masks, B rows of weights (one per fold, then all folds)

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import product
from typing import TYPE_CHECKING, Literal

import numpy as np

from histotune.datasets.splits.folds import assign_group_folds
from histotune.heads.calibrate import CrossFitted, fit_temperatures
from histotune.heads.family import Family, Refit, Trial, full_logits, sample_weights, with_zero_class
from histotune.heads.fit_cache import FitCache, inputs_of
from histotune.heads.head import TrainingColumns
from histotune.heads.solver.coordinates import is_small
from histotune.heads.solver.problems import FitProblems, FitSettings
from histotune.tools.devices import find_device
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.heads.config import SweepConfig
    from histotune.heads.family import Outcomes, SweepData, TrainingSet
    from histotune.heads.solver.problems import FitSolution

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


class LogisticFamily(Family):
    """L2 logistic regression, solved exactly: (pooling x class weighting x penalty), the penalty running fastest."""

    name = "logistic"

    def trials(self, poolings: Sequence[tuple[str, ...]]) -> tuple[Trial, ...]:
        """See :class:`~histotune.heads.family.Family`."""
        for penalty in self.config.penalties:
            if not penalty > 0:
                raise UserError("a penalty must be positive", value=penalty, fix="--set sweep.penalties=[0.01,0.1,1]")
        return tuple(Trial(*one) for one in product(poolings, self.config.class_weights, self.config.penalties))

    def fill(
        self, data: SweepData, parts: Sequence[TrainingSet], trials: Sequence[Trial], members: Int, found: Outcomes
    ) -> None:
        """See :class:`~histotune.heads.family.Family`; all folds are solved in one call."""
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
        problems = FitProblems(np.stack(masks), mask_P, penalty_P, data.n_classes)
        held = [np.flatnonzero(part.fold_n == fold) for part, fold in folds]
        rows = [part.rows[held_n] for (part, _), held_n in zip(folds, held, strict=True)]
        logits, converged_FT = self._held_out(x_nD, data, problems, rows)
        of_part = {id(part): out for part, out in zip(parts, found, strict=True)}
        for number, (part, _) in enumerate(folds):
            out = of_part[id(part)]
            out.logit_TnK[np.ix_(members, held[number])] = logits[number]
            out.converged_T[members] &= converged_FT[number]

    def _held_out(
        self, x_nD: NDArray[np.floating], data: SweepData, problems: FitProblems, rows: Sequence[Int]
    ) -> tuple[list[Float], NDArray[np.bool_]]:
        """Solve the trials of every fold; return their logits (T, n, K) on its held-out rows, and which converged.

        Kept is whichever takes less room: the logits, of which the weights are not needed any more, or the weights.
        """
        n_folds, n_trials = len(rows), len(problems.penalty_P) // len(rows)
        n_held = [len(one) for one in rows]

        def solved(fits: FitCache) -> dict[str, NDArray[np.generic]]:
            """Return the held-out logits of all folds and trials, solved anew."""
            found = self._solve(x_nD, data, problems, fits)
            ranges = [slice(number * n_trials, (number + 1) * n_trials) for number in range(n_folds)]
            logits = [
                full_logits(found.weight_PKD[one], found.bias_PK[one], x_nD[held])
                for one, held in zip(ranges, rows, strict=True)
            ]
            own = slice(1, None) if data.n_classes == 2 else slice(None)  # zeros of class 0 need not be kept
            return {"logit_TnK": np.concatenate(logits, axis=1)[:, :, own], "converged_P": found.converged_P}

        if sum(n_held) * n_trials < len(problems.penalty_P) * x_nD.shape[1]:
            inputs = inputs_of(x_nD, data.y_n, problems) | {"held": np.concatenate(rows), "n_held": np.array(n_held)}
            kept = data.support.fits.recall(inputs, self._facts(x_nD, problems), lambda: solved(FitCache()))
        else:
            kept = solved(data.support.fits)
        logit_TnK = np.asarray(kept["logit_TnK"], np.float64)
        if data.n_classes == 2:
            logit_TnK = np.concatenate([np.zeros_like(logit_TnK), logit_TnK], axis=2)
        converged_FT = np.asarray(kept["converged_P"], np.bool_).reshape(n_folds, n_trials)
        return np.split(logit_TnK, np.cumsum(n_held)[:-1], axis=1), converged_FT

    def refit_together(self, data: SweepData, chosen: Sequence[tuple[TrainingSet, Trial]]) -> list[Refit]:
        """See :class:`~histotune.heads.family.Family`."""
        # One fit per chosen trial, on the mask of its training set and class weighting.
        keys = [(id(part), trial.class_weight) for part, trial in chosen]
        place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        first = [chosen[keys.index(key)] for key in place]
        mask_Fn = np.stack([sample_weights(part.rows, data.y_n, trial.class_weight) for part, trial in first])
        mask_P, penalty_P = np.array([place[key] for key in keys]), np.array([trial.strength for _, trial in chosen])
        x_nD = data.matrix(chosen[0][1].pooling)
        problems = FitProblems(mask_Fn, mask_P, penalty_P, data.n_classes)
        solution = self._solve(x_nD, data, problems, data.support.fits)
        columns = [TrainingColumns(*one) for one in zip(solution.mean_FD, solution.std_FD, strict=True)]
        return [
            Refit(*with_zero_class(weight_KD, bias_K), bool(converged), columns=columns[mask])
            for weight_KD, bias_K, converged, mask in zip(
                solution.weight_PKD, solution.bias_PK, solution.converged_P, mask_P, strict=True
            )
        ]

    def _solve(self, x_nD: NDArray[np.floating], data: SweepData, problems: FitProblems, fits: FitCache) -> FitSolution:
        return fits.fit_batch(x_nD, data.y_n, problems, self._settings(x_nD, problems))

    def _facts(self, x_nD: NDArray[np.floating], problems: FitProblems) -> dict[str, object]:
        """Return what decides the held-out logits besides the arrays."""
        settings = asdict(self._settings(x_nD, problems)) if self.name == "logistic" else {}
        return {"solver": f"{self.name}, held-out logits", "n_classes": problems.n_classes, **settings}

    def _settings(self, x_nD: NDArray[np.floating], problems: FitProblems) -> FitSettings:
        device = solver_device(self.config.device, x_nD.shape, problems)
        return FitSettings(max_iterations=self.config.max_iterations, device=device)


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
        self._factors: dict[tuple[Trial, bytes], float] = {}

    def refit(self, data: SweepData, chosen: Sequence[tuple[TrainingSet, Trial]]) -> list[Refit]:
        """See :class:`~histotune.heads.family.Family`."""
        self._find_factors(data, chosen)
        factors = [self._factors[trial, _key(part)] for part, trial in chosen]
        refits = super().refit(data, chosen)
        return [
            replace(one, weight_KD=factor * one.weight_KD, bias_K=factor * one.bias_K)
            for one, factor in zip(refits, factors, strict=True)
        ]

    def _find_factors(self, data: SweepData, chosen: Sequence[tuple[TrainingSet, Trial]]) -> None:
        """Scale what :meth:`out_of_fold` has not: training sets without folds get folds by group for it."""
        missing: dict[bytes, tuple[TrainingSet, list[Trial]]] = {}
        for part, trial in chosen:
            if (trial, _key(part)) not in self._factors:
                missing.setdefault(_key(part), (part, []))[1].append(trial)
        together: dict[tuple[Trial, ...], list[TrainingSet]] = {}
        for part, trials in missing.values():
            if part.n_groups < 2:  # nothing can be left out
                self._factors |= {(trial, _key(part)): 1.0 for trial in trials}
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
        fold_by_unit = assign_group_folds(units, data.y_n[part.rows], data.n_classes, n_folds, self.config.seed)
        return replace(part, fold_n=np.array([fold_by_unit[unit] for unit in units], np.int64), n_folds=n_folds)

    def fill(
        self, data: SweepData, parts: Sequence[TrainingSet], trials: Sequence[Trial], members: Int, found: Outcomes
    ) -> None:
        """See :class:`~histotune.heads.family.Family`; scores become logits."""
        super().fill(data, parts, trials, members, found)
        for part, one in zip(parts, found, strict=True):
            for t, trial in zip(members, trials, strict=True):
                factor_B = score_factors(
                    CrossFitted(one.logit_TnK[t], data.y_n[part.rows], part.group_n, part.n_groups, part.fold_n)
                )
                one.logit_TnK[t] *= factor_B[part.fold_n, None]
                self._factors[trial, _key(part)] = float(factor_B[-1])

    def _solve(self, x_nD: NDArray[np.floating], data: SweepData, problems: FitProblems, fits: FitCache) -> FitSolution:
        return fits.fit_ridge(x_nD, data.y_n, problems)


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
