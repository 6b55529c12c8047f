"""Try every trial by grouped cross-validation inside each training set, choose one, and refit it on all its tiles."""

# N tiles, n tiles of one training set, K classes, T trials

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.heads.family import Family, SweepData, SweepSupport, Trial
from histotune.heads.head import Head, SweepResult
from histotune.heads.honest import bias_corrected, nested, outer_parts
from histotune.heads.select import describe_selection, ranking_scores
from histotune.heads.solve import Procedure, solve_parts
from histotune.heads.task import FoldPlan, SweepTask, check_task, training_set
from histotune.tools.devices import find_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.embeddings.space import Embeddings
    from histotune.heads.config import Honesty, SweepConfig
    from histotune.heads.head import Selection
    from histotune.heads.solve import Solved


def sweep(
    embeddings: Embeddings, task: SweepTask, config: SweepConfig, support: SweepSupport | None = None
) -> tuple[SweepResult, ...]:
    """Choose and refit a head on every training set.

    The choice falls on the lowest out-of-fold log-loss, every group weighing the same; ties go to the stronger
    penalty, then to the pooling named first. Everything else that is fitted (temperature, threshold) comes from the
    chosen trial's out-of-fold logits.

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
    procedure = Procedure(family, tuple(family.trials(config.poolings or (task.default_pooling,))), config)
    used = np.flatnonzero(task.train_sets_SN.any(axis=0))
    data = SweepData(embeddings, used, task.labels_N[used], len(task.class_names), support or SweepSupport())
    plan = FoldPlan(config.folds, config.seed, task.fold_labels)
    parts = [
        training_set(embeddings.tile_ids, task, (np.flatnonzero(train_N), used), plan) for train_N in task.train_sets_SN
    ]
    honesty = _honesty_by_set(task, config)
    outer = [
        outer_parts(part, data, task, procedure) if how == "nested" else []
        for part, how in zip(parts, honesty, strict=True)
    ]
    solved = solve_parts(data, [*parts, *(one for group in outer for one in group)], procedure)
    rest = iter(solved[len(parts) :])
    results = []
    for one, how, group in zip(solved[: len(parts)], honesty, outer, strict=True):
        selection = _selection((data, procedure), one, how, [next(rest) for _ in group])
        n_fits = sum(len(procedure.trials) * part.n_folds + 1 for part in (one.part, *group))
        results.append(_result((data, task, procedure), one, selection, n_fits))
    return tuple(results)


def _selection(context: tuple[SweepData, Procedure], one: Solved, how: Honesty, outer: Sequence[Solved]) -> Selection:
    """Describe a choice, with an estimate of the whole procedure where one is asked for."""
    data, procedure = context
    selection = describe_selection(one.scores, procedure.trials, one.choice, procedure.config.selection_rule)
    if how == "bias-corrected":
        return bias_corrected(selection, one, data.y_n[one.part.rows], procedure)
    return nested(selection, one.part, outer, context) if how == "nested" else selection


def _honesty_by_set(task: SweepTask, config: SweepConfig) -> list[Honesty]:
    """Return how each training set's procedure is estimated; leaky folds can't be honest."""
    sets = range(len(task.train_sets_SN)) if task.honest_sets is None else task.honest_sets
    return [
        config.honesty if s in sets and task.fold_labels == "grouped" else "none"
        for s in range(len(task.train_sets_SN))
    ]


def _result(
    context: tuple[SweepData, SweepTask, Procedure], solved: Solved, selection: Selection, n_fits: int
) -> SweepResult:
    """Build the record of one training set."""
    data, task, procedure = context
    part = solved.part
    logit_NK = np.full((len(task.labels_N), data.n_classes), np.nan)
    logit_NK[data.used[part.rows]] = solved.found.logit_TnK[solved.choice]
    head = _head(data.embeddings, solved, selection, (task.class_names, procedure))
    auroc_T = ranking_scores(solved.found, data.y_n[part.rows], part)
    trials = _trials_table(procedure.trials, solved, auroc_T)
    return SweepResult(head, trials, logit_NK, n_fits, solved.refit.loss_E)


def _head(
    embeddings: Embeddings, solved: Solved, selection: Selection, context: tuple[tuple[str, ...], Procedure]
) -> Head:
    """Build the record of a refitted head."""
    class_names, procedure = context
    trial, refit, part = procedure.trials[solved.choice], solved.refit, solved.part
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
        train_groups=part.groups,
        hidden=refit.hidden,
        calibration=solved.calibration,
        decision=solved.decision,
        family=procedure.family.name,
        selection=selection,
    )


def _trials_table(trials: Sequence[Trial], solved: Solved, auroc_T: NDArray[np.float64]) -> pl.DataFrame:
    """Return a row per trial."""
    found, refit, scores = solved.found, solved.refit, solved.scores
    chosen_T = np.arange(len(trials)) == solved.choice
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


def make_family(config: SweepConfig) -> Family:
    """Return the family that a config asks for.

    Args:
        config: What is tried.

    Returns:
        The family, ready to list its trials.
    """
    if config.family == "logistic":
        from histotune.heads.linear import LogisticFamily

        return LogisticFamily(config)
    if config.family == "ridge":
        from histotune.heads.ridge_family import RidgeFamily

        return RidgeFamily(config)
    from histotune.heads.sgd.family import SgdFamily

    return SgdFamily(config)


def require_device(config: SweepConfig) -> None:
    """Find out before anything is embedded whether the device that a sweep asks for is there.

    Args:
        config: What is tried.

    Raises:
        UserError: A GPU was asked for and none can be used.
    """
    device = config.sgd.device if config.family == "sgd" else config.device
    if device == "cuda" and config.family != "ridge":
        find_device("cuda")


CONTEXT = ("trained_on", "backbone", "arm", "family")


OUTCOME = ("log_loss", "log_loss_se", "auroc", "converged", "diverged", "chosen")
