"""Try every trial by grouped cross-validation inside each training set, choose one, and refit it on all its tiles."""

# N tiles, n tiles of one training set, K classes, T trials, G groups, B resamples

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.heads.calibrate import (
    MIN_GROUPS,
    BinaryTiles,
    CrossFitted,
    calibrate,
    choose_threshold,
    group_chunks,
)
from histotune.heads.family import (
    Family,
    FoldPlan,
    SweepData,
    SweepSupport,
    SweepTask,
    Trial,
    check_task,
    parts_without_folds,
    training_set,
)
from histotune.heads.head import (
    NO_HASHES,
    Decision,
    Head,
    NestedEstimate,
    SweepResult,
    calibrated_logits,
    hidden_units,
    softmax,
)
from histotune.heads.select import (
    choose_trial,
    describe_selection,
    group_means,
    left_out_means,
    paired_differences,
    ranking_scores,
    score_trials,
    tile_losses,
)
from histotune.heads.solver.problems import scale_floor
from histotune.heads.sweep_memory import check_memory
from histotune.statistics.bounds import Strata
from histotune.statistics.evaluators import PairsEvaluator, win_matrix
from histotune.statistics.intervals import earned_interval
from histotune.statistics.metrics import balanced_accuracy_sums, weighted_auroc
from histotune.statistics.predictions import IntervalConfig
from histotune.statistics.sample import class_signatures, draw_counts
from histotune.tools.devices import find_device

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from histotune.embeddings.space import Embeddings
    from histotune.heads.config import Honesty, SelectionRule, SweepConfig
    from histotune.heads.family import OutOfFold, Refit, TrainingSet
    from histotune.heads.head import Calibration, Selection
    from histotune.heads.select import TrialScores
    from histotune.statistics.metrics import MetricName

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


CONTEXT = ("trained_on", "backbone", "arm", "family")
OUTCOME = ("log_loss", "log_loss_se", "auroc", "converged", "diverged", "chosen")
"""Columns of a table of trials before and behind the trials' own settings."""
N_RESAMPLES = 500
MOST_UNITS = 2048
MAX_UNDEFINED_SHARE = 0.05
BIAS_CORRECTED_NOTE = "covers the choice among trials; scores are those of out-of-fold logits, not calibrated"
NESTED_NOTE = "covers the choice among trials, the refit, the calibration and the threshold"


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
            lies in a single fold; the fits of many classes take more memory than there is; or every trial diverged.
        ValueError: Shapes differ.

    Example:
        >>> result, = sweep(embeddings, task, SweepConfig())  # doctest: +SKIP
        >>> result.head.penalty  # doctest: +SKIP
        0.1
    """
    check_task(len(embeddings), task)
    poolings = config.poolings or (task.default_pooling,)
    check_memory(task, max(len(embeddings.columns(pooling)) for pooling in poolings), config)
    family = make_family(config)
    procedure = Procedure(family, tuple(family.trials(poolings)), config)
    used = np.flatnonzero(task.train_sets_SN.any(axis=0))
    data = SweepData(embeddings, used, task.labels_N[used], len(task.class_names), support or SweepSupport())
    plan = FoldPlan(config.folds, config.seed, task.fold_labels)
    parts = [
        training_set(embeddings.tile_ids, task, np.flatnonzero(train_N), used, plan) for train_N in task.train_sets_SN
    ]
    honesty = _nested_estimate_by_set(task, config)
    outer = [
        outer_parts(part, data, task, procedure) if how == "nested" else []
        for part, how in zip(parts, honesty, strict=True)
    ]
    solved = solve_parts(data, [*parts, *(one for group in outer for one in group)], procedure)
    rest = iter(solved[len(parts) :])
    results = []
    for one, how, group in zip(solved[: len(parts)], honesty, outer, strict=True):
        selection = _selection(data, procedure, one, how, [next(rest) for _ in group])
        n_fits = sum(len(procedure.trials) * part.n_folds + 1 for part in (one.part, *group))
        results.append(_result(data, task, procedure, one, selection, n_fits))
    return tuple(results)


def _selection(data: SweepData, procedure: Procedure, one: Solved, how: Honesty, outer: Sequence[Solved]) -> Selection:
    """Describe a choice, with an estimate of the whole procedure where one is asked for."""
    selection = describe_selection(one.scores, procedure.trials, one.choice, procedure.config.selection_rule)
    if how == "bias-corrected":
        return bias_corrected(selection, one, data.y_n[one.part.rows], procedure)
    return nested(selection, one.part, outer, data, procedure) if how == "nested" else selection


def _nested_estimate_by_set(task: SweepTask, config: SweepConfig) -> list[Honesty]:
    """Return how each training set's procedure is estimated; leaky folds can't be honest."""
    sets = range(len(task.train_sets_SN)) if task.nested_estimate_sets is None else task.nested_estimate_sets
    return [
        config.honesty if s in sets and task.fold_labels == "grouped" else "none"
        for s in range(len(task.train_sets_SN))
    ]


def _result(
    data: SweepData, task: SweepTask, procedure: Procedure, solved: Solved, selection: Selection, n_fits: int
) -> SweepResult:
    """Build the record of one training set."""
    part = solved.part
    logit_NK = np.full((len(task.labels_N), data.n_classes), np.nan)
    logit_NK[data.used[part.rows]] = solved.found.logit_TnK[solved.choice]
    head = _head(data, task.class_names, procedure, solved, selection)
    auroc_T = ranking_scores(solved.found, data.y_n[part.rows], part)
    trials = _trials_table(procedure.trials, solved, auroc_T)
    return SweepResult(head, trials, logit_NK, n_fits, solved.refit.loss_E)


def _head(
    data: SweepData, class_names: tuple[str, ...], procedure: Procedure, solved: Solved, selection: Selection
) -> Head:
    """Build the record of a refitted head."""
    trial, refit, part = procedure.trials[solved.choice], solved.refit, solved.part
    embeddings, sha256_N32, columns = data.embeddings, data.embeddings.sha256_N32, refit.columns
    return Head(
        weight_KD=refit.weight_KD,
        bias_K=refit.bias_K,
        pooling=trial.pooling,
        columns=tuple(embeddings.columns(trial.pooling).tolist()),
        class_names=class_names,
        backbone=embeddings.space.backbone,
        space_key=embeddings.space.key,
        compatibility_key=embeddings.space.compatibility_key,
        penalty=float(trial.settings().get("penalty", 0.0)),
        n_tiles=part.n_tiles,
        n_groups=part.n_groups,
        train_groups=part.groups,
        hidden=refit.hidden,
        calibration=solved.calibration,
        decision=solved.decision,
        family=procedure.family.name,
        selection=selection,
        train_sha256_N32=NO_HASHES if sha256_N32 is None else distinct_rows(sha256_N32[data.used[part.rows]]),
        scale_floor_D=None if columns is None or not columns.is_floored else floor_of(columns.std_D),
        train_mean_D=None if columns is None else np.ascontiguousarray(columns.mean_D),
        train_std_D=None if columns is None else np.ascontiguousarray(columns.std_D),
    )


def floor_of(std_D: Float) -> Float:
    """Return the least standard deviation that each column was divided by."""
    return np.broadcast_to(scale_floor(std_D), std_D.shape).copy()


def distinct_rows(sha256_N32: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return content hashes sorted, each once."""
    words_N4 = np.ascontiguousarray(sha256_N32).view(">u8").astype(np.uint64)  # numbers in the order of the bytes
    order = np.lexsort(words_N4.T[::-1])
    is_new = np.ones(len(order), dtype=np.bool_)
    is_new[1:] = (np.diff(words_N4[order].view(np.int64), axis=0) != 0).any(axis=1)
    return np.asarray(sha256_N32[order[is_new]])


def _trials_table(trials: Sequence[Trial], solved: Solved, auroc_T: NDArray[np.float64]) -> pl.DataFrame:
    """Return a row per trial."""
    found, refit, scores = solved.found, solved.refit, solved.scores
    # The chosen trial counts as converged, or diverged, by its refit as well.
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
    """Return the family that a config asks for."""
    if config.family == "logistic":
        from histotune.heads.linear import LogisticFamily

        return LogisticFamily(config)
    if config.family == "ridge":
        from histotune.heads.linear import RidgeFamily

        return RidgeFamily(config)
    from histotune.heads.sgd.sgd_family import SgdFamily

    return SgdFamily(config)


def require_device(config: SweepConfig) -> None:
    """Find out before anything is embedded whether the device that a sweep asks for is there."""
    device = config.sgd.device if config.family == "sgd" else config.device
    if device == "cuda" and config.family != "ridge":
        find_device("cuda")


# ------------------------------------------------------------------------------
# The whole procedure on some training sets: try, choose, refit, calibrate, decide


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
    """Run the procedure on every training set, all in one batch."""
    trials, rule = procedure.trials, procedure.config.selection_rule
    found = procedure.family.out_of_fold(data, parts, trials)
    scores = [score_trials(one, data.y_n[part.rows], part, rule) for one, part in zip(found, parts, strict=True)]
    choices = [choose_trial(one, trials, rule) for one in scores]
    refits = procedure.family.refit(data, [(part, trials[choice]) for part, choice in zip(parts, choices, strict=True)])
    return [
        Solved(part, one, score, choice, refit, *_finish(one.logit_TnK[choice], data, part, procedure.config))
        for part, one, score, choice, refit in zip(parts, found, scores, choices, refits, strict=True)
    ]


def _finish(logit_nK: Float, data: SweepData, part: TrainingSet, config: SweepConfig) -> tuple[Calibration, Decision]:
    """Calibrate the chosen trial's out-of-fold logits and choose a threshold on the probabilities."""
    y_n = data.y_n[part.rows]
    crossfitted = CrossFitted(logit_nK, y_n, part.group_n, part.n_groups, part.fold_n)
    calibration = calibrate(crossfitted, config.calibration)
    if logit_nK.shape[1] != 2:
        return calibration, Decision(reason="several classes: the most probable one")
    probability_nK = softmax(calibrated_logits(calibration, logit_nK))
    tiles = BinaryTiles(probability_nK[:, 1], y_n == 1, part.group_n, part.n_groups)
    return calibration, choose_threshold(tiles, config.threshold, config.sensitivity)


# ------------------------------------------------------------------------------
# What a sweep's whole procedure is worth on groups it never saw; the selected score itself is optimistic.
# "bias-corrected": BBC-CV (Tsamardinos, Greasidou & Borboudakis, Machine Learning 2018) over groups: choose on a
# resample of the groups, score that choice on the groups left out, average; no fit is repeated. "nested": the procedure
# is run without each fold in turn, calibration and threshold included, and scored on it


def bias_corrected(selection: Selection, solved: Solved, y_n: Int, procedure: Procedure) -> Selection:
    """Add the bias-corrected estimates to a selection."""
    part, config = solved.part, procedure.config
    if part.n_groups < MIN_GROUPS:
        return replace(selection, note=f"no honest estimate: {part.n_groups} groups, and {MIN_GROUPS} are needed")
    # Resamples that leave no group out are dropped; the loss of a resample is that of its own choice, averaged over the
    # groups it left out.
    n_classes = solved.found.logit_TnK.shape[2]
    holds_GK = class_signatures(y_n, part.group_n, part.n_groups, n_classes)
    count_BG = np.concatenate(list(draw_counts(Strata.of(holds_GK).stratum_G, N_RESAMPLES, config.seed)))
    count_BG = count_BG[(count_BG == 0).any(axis=1)]
    if solved.scores.ranks:
        choice_B = ranked_choices(solved, y_n, procedure.trials, count_BG)
    else:
        choice_B = resample_choices(solved, procedure.trials, config.selection_rule, count_BG)
    out_BG = (count_BG == 0).astype(np.float64)
    strata, share_T = Strata.pooled(holds_GK), np.bincount(choice_B, minlength=len(procedure.trials)) / len(choice_B)
    out_BG = (count_BG == 0).astype(np.float64)
    loss_BG = solved.scores.loss_TG[choice_B]
    mean_loss = float(((loss_BG * out_BG).sum(axis=1) / out_BG.sum(axis=1)).mean())
    # Its error: leaving out one group at a time, among the choices in the shares that resamples made them.
    loss_G = share_T[share_T > 0] @ solved.scores.loss_TG[share_T > 0]
    found = [_group_score("log_loss", mean_loss, left_out_means(loss_G), strata)]
    if n_classes == 2:
        found.append(_out_of_bag_auroc(solved, y_n, choice_B, out_BG, share_T))
    return replace(selection, honesty="bias-corrected", honest=_defined(found), note=BIAS_CORRECTED_NOTE)


def resample_choices(solved: Solved, trials: Sequence[Trial], rule: SelectionRule, count_BG: Float) -> Int:
    """Return the trial that the rule chooses on every resample of the groups (B,)."""
    usable = np.flatnonzero(solved.scores.usable_T)
    order = np.array(sorted(usable.tolist(), key=lambda t: (-trials[t].strength, t)))  # the first of equals wins
    loss_TG = solved.scores.loss_TG[order]
    best_B = np.argmin(count_BG @ loss_TG.T, axis=1)
    if rule != "one-se":
        return np.asarray(order[best_B])
    kind = np.array([f"{trials[t].class_weight} {trials[t].pooling}" for t in order])
    chosen = []
    for best, count_G in zip(best_B.tolist(), count_BG, strict=True):
        # One standard error: the strongest trial of the same kind whose loss is not above the best by more than that.
        difference_T, se_T = paired_differences(loss_TG, best, count_G)
        rival_T = (kind == kind[best]) & (difference_T <= se_T)
        rival_T[best] = True
        chosen.append(order[int(np.argmax(rival_T))])
    return np.array(chosen)


def ranked_choices(solved: Solved, y_n: Int, trials: Sequence[Trial], count_BG: Float) -> Int:
    """Return the trial of highest AUROC on every resample of the groups (B,), of equal ones that of least loss."""
    part, usable = solved.part, np.flatnonzero(solved.scores.usable_T)
    order = np.array(sorted(usable.tolist(), key=lambda t: (-trials[t].strength, t)))
    # More groups than that are drawn by the block: the table of wins grows with their square.
    n_units = min(part.n_groups, MOST_UNITS)
    unit_n, unit_G = part.group_n % n_units, np.arange(part.n_groups) % n_units
    of_unit_GU = (unit_G[:, None] == np.arange(n_units)) / np.bincount(unit_G)
    value_BO = np.empty((len(count_BG), len(order)))
    for place, t in enumerate(order):
        margin_n = solved.found.logit_TnK[t][:, 1] - solved.found.logit_TnK[t][:, 0]
        wins = PairsEvaluator(*win_matrix(y_n == 1, margin_n, unit_n, n_units, part.fold_n))
        value_BO[:, place] = wins(count_BG @ of_unit_GU)
    loss_BO = count_BG @ solved.scores.loss_TG[order].T
    # a resample without a pair within any fold has no AUROC: its loss decides
    lowest_BO = np.where(value_BO >= np.nanmax(value_BO, axis=1, keepdims=True, initial=0.0) - 1e-12, loss_BO, np.inf)
    return np.asarray(order[np.argmin(np.where(np.isfinite(value_BO), lowest_BO, loss_BO), axis=1)])


def _out_of_bag_auroc(solved: Solved, y_n: Int, choice_B: Int, out_BG: Float, share_T: Float) -> NestedEstimate:
    """Return the mean AUROC of every resample's choice on the groups it left out."""
    part, values_B = solved.part, np.full(len(choice_B), np.nan)
    # More groups than that are left out by the block: the table of wins grows with their square.
    n_units = min(part.n_groups, MOST_UNITS)
    unit_n, ranked, left_out_U = part.group_n % n_units, 0.0, np.zeros(n_units)
    for t in np.unique(choice_B):
        logit_nK, members = solved.found.logit_TnK[t], np.flatnonzero(choice_B == t)
        for chunk in group_chunks(len(members), part.n_tiles):
            rows = members[chunk]
            values_B[rows] = weighted_auroc(y_n, logit_nK, out_BG[rows][:, part.group_n], part.fold_n)
        margin_n = logit_nK[:, 1] - logit_nK[:, 0]
        wins = PairsEvaluator(*win_matrix(y_n == 1, margin_n, unit_n, n_units, part.fold_n))
        ranked += share_T[t] * float(wins(np.ones((1, n_units)))[0])
        left_out_U += share_T[t] * wins.without_each()
    defined = values_B[np.isfinite(values_B)]
    if not len(defined):
        return NestedEstimate("auroc", float("nan"))
    value = float(defined.mean())
    if len(defined) < (1.0 - MAX_UNDEFINED_SHARE) * len(values_B):
        return NestedEstimate("auroc", value)
    strata = Strata.pooled(class_signatures(y_n, unit_n, n_units, 2))
    return _group_score("auroc", value, left_out_U - ranked + value, strata)


def outer_parts(part: TrainingSet, data: SweepData, task: SweepTask, procedure: Procedure) -> list[TrainingSet]:
    """Return the training set without each of its folds, inner folds dealt anew among the groups that stay."""
    return parts_without_folds(part, (data.embeddings.tile_ids, task, data.used), procedure.config.seed)


def nested(
    selection: Selection, part: TrainingSet, outer: Sequence[Solved], data: SweepData, procedure: Procedure
) -> Selection:
    """Add the nested estimates to a selection."""
    # Every fold's tiles are scored by the head, the calibration and the threshold that were found without them.
    y_n = data.y_n[part.rows]
    logit_nK, said_n = np.empty((part.n_tiles, data.n_classes)), np.empty(part.n_tiles, np.int64)
    for fold, solved in enumerate(outer):
        held = np.flatnonzero(part.fold_n == fold)
        x_nD = data.matrix(procedure.trials[solved.choice].pooling)[part.rows[held]]
        logit_nK[held] = calibrated_logits(solved.calibration, refit_logits(solved.refit, x_nD))
        p_nK = softmax(logit_nK[held])
        binary = data.n_classes == 2
        said_n[held] = p_nK[:, 1] >= solved.decision.threshold if binary else p_nK.argmax(axis=1)
    strata = Strata.pooled(class_signatures(y_n, part.group_n, part.n_groups, data.n_classes))
    loss_G = tile_losses(logit_nK[None], y_n)[0] @ group_means(part.group_n, part.n_groups)
    found = [_group_score("log_loss", float(loss_G.mean()), left_out_means(loss_G), strata)]
    if data.n_classes == 2:
        found.append(
            _weighted_score("auroc", (part, strata), lambda w_Bn: weighted_auroc(y_n, logit_nK, w_Bn, part.fold_n))
        )
    recalls = balanced_accuracy_sums(y_n, said_n, data.n_classes)
    found.append(_weighted_score("balanced_accuracy", (part, strata), recalls.value))
    return replace(selection, honesty="nested", honest=_defined(found), note=NESTED_NOTE)


def _defined(scores: list[NestedEstimate]) -> tuple[NestedEstimate, ...]:
    """Leave out what no tile could define."""
    return tuple(score for score in scores if np.isfinite(score.value))


def refit_logits(refit: Refit, x_nD: NDArray[np.floating]) -> Float:
    """Return the logits of a refitted trial on raw columns of its pooling (n, K)."""
    raw_nD = x_nD.astype(np.float64)
    unit_nH = raw_nD if refit.hidden is None else hidden_units(refit.hidden, raw_nD)
    return np.asarray(unit_nH @ refit.weight_KD.T + refit.bias_K)


def _weighted_score(
    name: MetricName, over: tuple[TrainingSet, Strata], metric: Callable[[Float], Float]
) -> NestedEstimate:
    """Return a metric of weighted tiles with the interval that it earned."""
    part, strata = over
    left_out_G = np.empty(part.n_groups)
    for groups in group_chunks(part.n_groups, part.n_tiles):
        left_out_G[groups] = metric((part.group_n != groups[:, None]).astype(np.float64))
    return _group_score(name, float(metric(np.ones((1, part.n_tiles)))[0]), left_out_G, strata)


def _group_score(name: MetricName, value: float, left_out_G: Float, strata: Strata) -> NestedEstimate:
    """Return an estimate with the interval that its metric earned; none with too few groups."""
    if len(left_out_G) < MIN_GROUPS:
        return NestedEstimate(name, value)
    return NestedEstimate(name, value, earned_interval((name, value), left_out_G, strata, IntervalConfig()))
