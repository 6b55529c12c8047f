"""Try every trial by grouped cross-validation inside each training set, choose one, and refit it on all its tiles."""

# N tiles, n tiles of one training set, K classes, T trials

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.heads.families import SweepData, SweepSupport, make_family
from histotune.heads.records import Head, SweepResult
from histotune.heads.select import best_trial, ranking_scores, score_trials
from histotune.heads.task import FoldPlan, SweepTask, TrainingSet, check_task, training_set

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.embeddings.records import Embeddings
    from histotune.heads.config import SweepConfig
    from histotune.heads.families import Family, OutOfFold, Refit, Trial
    from histotune.heads.select import TrialScores

__all__ = ["SweepSupport", "SweepTask", "sweep"]


def sweep(
    embeddings: Embeddings, task: SweepTask, config: SweepConfig, support: SweepSupport | None = None
) -> tuple[SweepResult, ...]:
    """Choose and refit a head on every training set.

    The choice falls on the lowest out-of-fold log-loss, every group weighing the same; ties go to the stronger
    penalty, then to the pooling named first.

    Args:
        embeddings: One row per tile of the task.
        task: Labels, groups and training sets.
        config: What is tried.
        support: Solved fits to read and add to, and who watches; None keeps nothing.

    Returns:
        One result per training set, in order.

    Raises:
        UserError: A training set holds unlabelled tiles, one class only, fewer groups than folds, or a class that
            lies in a single fold; or every trial diverged.
        ValueError: Shapes differ.

    Example:
        >>> result, = sweep(embeddings, task, SweepConfig())  # doctest: +SKIP
        >>> result.head.penalty  # doctest: +SKIP
        0.1
    """
    check_task(len(embeddings), task)
    family = make_family(config)
    trials = family.trials(config.poolings or (task.default_pooling,))
    used = np.flatnonzero(task.train_sets_SN.any(axis=0))
    data = SweepData(embeddings, used, task.labels_N[used], len(task.class_names), support or SweepSupport())
    plan = FoldPlan(config.folds, config.seed, task.fold_labels)
    parts = [
        training_set(embeddings.tile_ids, task, (np.flatnonzero(train_N), used), plan) for train_N in task.train_sets_SN
    ]
    found = family.out_of_fold(data, parts, trials)
    scores = [score_trials(one, data.y_n[part.rows], part) for one, part in zip(found, parts, strict=True)]
    choices = [best_trial(one, trials) for one in scores]
    refits = family.refit(data, [(part, trials[choice]) for part, choice in zip(parts, choices, strict=True)])
    return tuple(
        _result((data, task, family), trials, (parts[s], found[s], scores[s]), (choices[s], refits[s]))
        for s in range(len(parts))
    )


def _result(
    context: tuple[SweepData, SweepTask, Family],
    trials: Sequence[Trial],
    tried: tuple[TrainingSet, OutOfFold, TrialScores],
    outcome: tuple[int, Refit],
) -> SweepResult:
    """Build the record of one training set."""
    data, task, family = context
    part, found, scores = tried
    choice, refit = outcome
    logit_NK = np.full((len(task.labels_N), data.n_classes), np.nan)
    logit_NK[data.used[part.rows]] = found.logit_TnK[choice]
    head = _head(data.embeddings, trials[choice], refit, (part, task.class_names, family.name))
    auroc_T = ranking_scores(found, data.y_n[part.rows], part)
    table = _trials_table(trials, scores, auroc_T, (found, choice, refit))
    return SweepResult(head, table, logit_NK, n_fits=len(trials) * part.n_folds + 1)


def _head(
    embeddings: Embeddings, trial: Trial, refit: Refit, context: tuple[TrainingSet, tuple[str, ...], str]
) -> Head:
    """Build the record of a refitted head."""
    part, class_names, family = context
    return Head(
        weight_KD=refit.weight_KD,
        bias_K=refit.bias_K,
        pooling=trial.pooling,
        columns=tuple(embeddings.columns(trial.pooling).tolist()),
        class_names=class_names,
        backbone=embeddings.space.backbone,
        space_key=embeddings.space.key,
        meaning_key=embeddings.space.meaning_key,
        penalty=float(trial.settings().get("penalty", 0.0)),
        n_tiles=part.n_tiles,
        n_groups=part.n_groups,
        train_groups=tuple(sorted(part.groups)),
        hidden=refit.hidden,
        family=family,
    )


def _trials_table(
    trials: Sequence[Trial],
    scores: TrialScores,
    auroc_T: NDArray[np.float64],
    outcome: tuple[OutOfFold, int, Refit],
) -> pl.DataFrame:
    """Return a row per trial."""
    found, choice, refit = outcome
    chosen_T = np.arange(len(trials)) == choice
    settings = [trial.settings() for trial in trials]
    return pl.DataFrame(
        {
            "pooling": ["+".join(trial.pooling) for trial in trials],
            "class_weight": [trial.class_weight for trial in trials],
            **{name: [one[name] for one in settings] for name in settings[0]},
            "log_loss": scores.log_loss_T,
            "log_loss_se": scores.log_loss_se_T,
            "auroc": auroc_T,
            "converged": found.converged_T & (refit.converged | ~chosen_T),
            "diverged": found.diverged_T | (refit.diverged & chosen_T),
            "chosen": chosen_T,
        }
    )
