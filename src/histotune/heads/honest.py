"""What a sweep's whole procedure is worth on groups it never saw; the selected score itself is optimistic.

``bias-corrected``: BBC-CV (Tsamardinos, Greasidou & Borboudakis, Machine Learning 2018) over groups: choose on a
resample of the groups, score that choice on the groups left out, average. No fit is repeated.
``nested``: the procedure is run without each fold in turn, calibration and threshold included, and scored on it.
"""

# n tiles of one training set, K classes, T trials, G groups, B resamples

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histotune.heads.apply import calibrated_logits, hidden_units, softmax
from histotune.heads.head import HonestScore
from histotune.heads.jackknife import MIN_GROUPS, group_chunks, group_interval, jackknife_interval
from histotune.heads.select import group_means, paired_differences, tile_losses
from histotune.heads.task import FoldPlan, training_set
from histotune.statistics.evaluators import class_signatures, draw_counts
from histotune.statistics.metrics import balanced_accuracy_sums, weighted_auroc
from histotune.statistics.predictions import Interval

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from histotune.heads.config import SelectionRule
    from histotune.heads.family import Refit, SweepData, Trial
    from histotune.heads.head import Selection
    from histotune.heads.solve import Procedure, Solved
    from histotune.heads.task import SweepTask, TrainingSet

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

N_RESAMPLES = 500
LEVEL = 0.95
MAX_UNDEFINED_SHARE = 0.05
BIAS_CORRECTED_NOTE = "covers the choice among trials; scores are those of out-of-fold logits, not calibrated"
NESTED_NOTE = "covers the choice among trials, the refit, the calibration and the threshold"


def bias_corrected(selection: Selection, solved: Solved, y_n: Int, procedure: Procedure) -> Selection:
    """Add the bias-corrected estimates to a selection.

    Args:
        selection: The record of the choice.
        solved: What the sweep found.
        y_n: Label per tile of the training set.
        procedure: Trials, rule and seed.

    Returns:
        The record with log-loss and, in binary tasks, AUROC (within inner folds).
    """
    part, config = solved.part, procedure.config
    if part.n_groups < MIN_GROUPS:
        return replace(selection, note=f"no honest estimate: {part.n_groups} groups, and {MIN_GROUPS} are needed")
    n_classes = solved.found.logit_TnK.shape[2]
    holds_GK = class_signatures(y_n, part.group_n, part.n_groups, n_classes)
    count_BG = np.concatenate(list(draw_counts(holds_GK, N_RESAMPLES, config.seed)))
    count_BG = count_BG[(count_BG == 0).any(axis=1)]
    choice_B = resample_choices(solved, procedure.trials, config.selection_rule, count_BG)
    out_BG = (count_BG == 0).astype(np.float64)
    loss_BG = solved.scores.loss_TG[choice_B]
    found = [_bootstrap_score("log_loss", (loss_BG * out_BG).sum(axis=1) / out_BG.sum(axis=1))]
    if n_classes == 2:
        found.append(_bootstrap_score("auroc", _out_of_bag_auroc(solved, y_n, choice_B, out_BG)))
    return replace(selection, honesty="bias-corrected", honest=_defined(found), note=BIAS_CORRECTED_NOTE)


def resample_choices(solved: Solved, trials: Sequence[Trial], rule: SelectionRule, count_BG: Float) -> Int:
    """Return the trial that the rule chooses on every resample of the groups (B,)."""
    usable = np.flatnonzero(solved.scores.usable_T)
    order = np.array(sorted(usable.tolist(), key=lambda t: (-trials[t].strength, t)))  # the first of equals wins
    loss_TG = solved.scores.loss_TG[order]
    best_B = np.argmin(count_BG @ loss_TG.T, axis=1)
    if rule == "best":
        return np.asarray(order[best_B])
    kind = np.array([f"{trials[t].class_weight} {trials[t].pooling}" for t in order])
    chosen = []
    for best, count_G in zip(best_B.tolist(), count_BG, strict=True):
        difference_T, se_T = paired_differences(loss_TG, best, count_G)
        rival_T = (kind == kind[best]) & (difference_T <= se_T)
        rival_T[best] = True
        chosen.append(order[int(np.argmax(rival_T))])
    return np.array(chosen)


def _out_of_bag_auroc(solved: Solved, y_n: Int, choice_B: Int, out_BG: Float) -> Float:
    """Return the AUROC of every resample's choice on the groups it left out (B,); NaN where there is no pair."""
    part, values_B = solved.part, np.full(len(choice_B), np.nan)
    for t in np.unique(choice_B):
        members = np.flatnonzero(choice_B == t)
        for chunk in group_chunks(len(members), part.n_tiles):
            rows = members[chunk]
            weight_Bn = out_BG[rows][:, part.group_n]
            values_B[rows] = weighted_auroc(y_n, solved.found.logit_TnK[t], weight_Bn, part.fold_n)
    return values_B


def _bootstrap_score(name: str, values_B: Float) -> HonestScore:
    """Return the mean over resamples and their percentiles."""
    defined = values_B[np.isfinite(values_B)]
    if not len(defined):
        return HonestScore(name, float("nan"))
    if len(defined) < (1.0 - MAX_UNDEFINED_SHARE) * len(values_B):
        return HonestScore(name, float(defined.mean()))
    low, high = np.quantile(defined, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    method = f"bias-corrected cross-validation, {len(values_B)} resamples of groups"
    return HonestScore(name, float(defined.mean()), Interval(float(low), float(high), LEVEL, method))


def outer_parts(part: TrainingSet, data: SweepData, task: SweepTask, procedure: Procedure) -> list[TrainingSet]:
    """Return the training set without each of its folds, inner folds dealt anew among the groups that stay.

    Args:
        part: The training set.
        data: The sweep's data.
        task: Labels and groups.
        procedure: Number of folds and seed.

    Raises:
        UserError: Too few groups of a class stay for inner folds.
    """
    parts = []
    for fold in range(part.n_folds):
        tiles = data.used[part.fold_train_rows(fold)]
        n_groups = len({task.groups[tile] for tile in tiles})
        plan = FoldPlan(min(part.n_folds, n_groups), procedure.config.seed, task.fold_labels)
        parts.append(training_set(data.embeddings.tile_ids, task, (tiles, data.used), plan))
    return parts


def nested(
    selection: Selection, part: TrainingSet, outer: Sequence[Solved], context: tuple[SweepData, Procedure]
) -> Selection:
    """Add the nested estimates to a selection.

    Args:
        selection: The record of the choice on the whole training set.
        part: The training set; its folds are the outer folds.
        outer: The procedure without each fold, in their order.
        context: Data and trials.

    Returns:
        The record with log-loss of calibrated probabilities, and in binary tasks AUROC (within outer folds) and
        balanced accuracy at each outer head's own threshold.
    """
    data, procedure = context
    y_n = data.y_n[part.rows]
    logit_nK, said_n = np.empty((part.n_tiles, data.n_classes)), np.empty(part.n_tiles, np.int64)
    for fold, solved in enumerate(outer):
        held = np.flatnonzero(part.fold_n == fold)
        x_nD = data.matrix(procedure.trials[solved.choice].pooling)[part.rows[held]]
        logit_nK[held] = calibrated_logits(solved.calibration, refit_logits(solved.refit, x_nD))
        p_nK = softmax(logit_nK[held])
        binary = data.n_classes == 2
        said_n[held] = p_nK[:, 1] >= solved.decision.threshold if binary else p_nK.argmax(axis=1)
    loss_G = tile_losses(logit_nK[None], y_n)[0] @ group_means(part.group_n, part.n_groups)
    total = loss_G.sum()
    left_out_G = (total - loss_G) / max(part.n_groups - 1, 1)
    found = [_jackknife_score("log_loss", float(loss_G.mean()), left_out_G)]
    if data.n_classes == 2:
        found.append(_weighted_score("auroc", part, lambda w_Bn: weighted_auroc(y_n, logit_nK, w_Bn, part.fold_n)))
    recalls = balanced_accuracy_sums(y_n, said_n, data.n_classes)
    found.append(_weighted_score("balanced_accuracy", part, recalls.value))
    return replace(selection, honesty="nested", honest=_defined(found), note=NESTED_NOTE)


def _defined(scores: list[HonestScore]) -> tuple[HonestScore, ...]:
    """Leave out what no tile could define."""
    return tuple(score for score in scores if np.isfinite(score.value))


def refit_logits(refit: Refit, x_nD: NDArray[np.floating]) -> Float:
    """Return the logits of a refitted trial on raw columns of its pooling (n, K)."""
    raw_nD = x_nD.astype(np.float64)
    unit_nH = raw_nD if refit.hidden is None else hidden_units(refit.hidden, raw_nD)
    return np.asarray(unit_nH @ refit.weight_KD.T + refit.bias_K)


def _weighted_score(name: str, part: TrainingSet, metric: Callable[[Float], Float]) -> HonestScore:
    """Return a metric of weighted tiles with its group-jackknife interval."""
    left_out_G = np.empty(part.n_groups)
    for groups in group_chunks(part.n_groups, part.n_tiles):
        left_out_G[groups] = metric((part.group_n != groups[:, None]).astype(np.float64))
    return _jackknife_score(name, float(metric(np.ones((1, part.n_tiles)))[0]), left_out_G)


def _jackknife_score(name: str, value: float, left_out_G: Float) -> HonestScore:
    if len(left_out_G) < MIN_GROUPS or not np.isfinite(left_out_G).all():
        return HonestScore(name, value)
    return HonestScore(name, value, group_interval(jackknife_interval(value, left_out_G), len(left_out_G)))
