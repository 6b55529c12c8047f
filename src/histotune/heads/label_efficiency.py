"""How a head gets better with more training groups: nested subsets of the groups, several draws, grouped folds.

In every fold the groups outside it are put into a random order, and heads are trained on its first 4, 8, 16, ...
groups, so that a larger subset holds the smaller ones. Each head is scored on the fold's own groups. The settings
(penalty) of each subset size are chosen anew, on the other folds: a small training set wants another penalty than a
large one.
"""

# n tiles of the training set, G groups, K classes, T trials, M draws

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.heads.family import FoldPlan, SweepData, SweepSupport, TrainingSet, check_task, full_logits, training_set
from histotune.heads.select import group_means, tile_losses
from histotune.heads.sweep import make_family
from histotune.statistics.evaluators import make_evaluator, sums_evaluator
from histotune.statistics.intervals import earned_interval, resampling_units
from histotune.statistics.metrics import mean_sums
from histotune.statistics.sample import Sample, class_signatures
from histotune.statistics.scores import point_value
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from histotune.embeddings.space import Embeddings
    from histotune.heads.config import SweepConfig
    from histotune.heads.family import Family, Refit, SweepTask, Trial
    from histotune.heads.head import Head
    from histotune.statistics.evaluators import Evaluator
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.predictions import IntervalConfig

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

SMALLEST = 4
MAX_VALUES = 2**26
"""Fits x tiles of one solver call."""
SCHEMA = {
    "metric": pl.String, "n_groups": pl.Int64, "n_tiles": pl.Float64, "value": pl.Float64,
    "low": pl.Float64, "high": pl.Float64, "n_draws": pl.Int64, "method": pl.String,
}  # fmt: skip
WITH_DRAWS = ", the variance of the mean over draws added"


@dataclass(frozen=True)
class Subset:
    """Training groups of one head: the first ``size`` of a draw's order, without those of a fold."""

    draw: int
    size: int
    fold: int
    part: TrainingSet


def label_efficiency(
    embeddings: Embeddings,
    task: SweepTask,
    head: Head,
    config: SweepConfig,
    interval: IntervalConfig,
    support: SweepSupport | None = None,
) -> pl.DataFrame:
    """Score heads trained on more and more groups.

    Args:
        embeddings: One row per tile of the task.
        task: Labels and groups; its last training set counts.
        head: The head that the sweep chose, whose pooling is used.
        config: What was swept.
        interval: How intervals are made.
        support: Solved fits to read and add to.

    Returns:
        A row per metric and number of groups: ``metric`` (``log_loss``, group-balanced; ``balanced_accuracy``;
        ``auroc`` in binary tasks, within folds), ``n_groups``, ``n_tiles`` (mean), ``value`` (mean over draws),
        ``low``, ``high`` (null where refused), ``n_draws``, ``method`` (or why there is no interval).

    Raises:
        UserError: Folds that hold single tiles, or too few groups for two sizes.
    """
    check_task(len(embeddings), task)
    if task.fold_labels != "grouped":
        raise UserError("score against the number of groups needs folds that keep groups together")
    rows = np.flatnonzero(task.train_sets_SN[-1])
    data = SweepData(embeddings, rows, task.labels_N[rows], len(task.class_names), support or SweepSupport())
    part = training_set(embeddings.tile_ids, task, rows, rows, FoldPlan(config.folds, config.seed))
    family = make_family(config)
    trials = [trial for trial in family.trials((head.pooling,)) if trial.pooling == head.pooling]
    subsets = _subsets(part, data.y_n, data.n_classes, config)
    logit_by_size = _out_of_fold(data, part, family, trials, subsets)
    by_metric = _metrics(data, part)
    records = []
    for size, logit_MnK in logit_by_size.items():
        n_tiles = float(np.mean([one.part.n_tiles for one in subsets if one.size == size]))
        samples = [_sample(logit_nK, data, part, task.class_names) for logit_nK in logit_MnK]
        for name, evaluate in by_metric.items():
            value, low, high, method = _with_interval(name, evaluate, samples, interval)
            records.append((name, size, n_tiles, value, low, high, len(samples), method))
    return pl.DataFrame(records, schema=SCHEMA, orient="row").sort("metric", "n_groups", descending=[True, False])


def nested_orders(holds_GK: NDArray[np.bool_], n_draws: int, rng: np.random.Generator) -> Int:
    """Return random orders of the groups whose beginnings hold each kind of group in proportion."""
    _, kind_G = np.unique(holds_GK, axis=0, return_inverse=True)
    kind_G = kind_G.ravel()
    orders = []
    for _ in range(n_draws):
        # Stratified: the i-th of m groups of a kind, in random order, stands at (i + u) / m with one u per kind, so
        # that every beginning of the order holds i of m of each kind, up to one.
        place_G = np.empty(len(kind_G))
        for kind in np.unique(kind_G):
            members = np.flatnonzero(kind_G == kind)
            place_G[rng.permutation(members)] = (np.arange(len(members)) + rng.random()) / len(members)
        orders.append(np.argsort(place_G, kind="stable"))
    return np.stack(orders)


def check_label_efficiency(tile_ids: Sequence[str], task: SweepTask, config: SweepConfig) -> None:
    """Find out before anything is embedded whether there are groups enough for a score against their number."""
    if config.label_efficiency.draws and task.fold_labels == "grouped":
        rows = np.flatnonzero(task.train_sets_SN[-1])
        part = training_set(tile_ids, task, rows, rows, FoldPlan(config.folds, config.seed))
        _subsets(part, task.labels_N[rows], len(task.class_names), config)


def _subsets(part: TrainingSet, label_n: Int, n_classes: int, config: SweepConfig) -> list[Subset]:
    """Draw the nested subsets of every fold; sizes at which one lacks a class are left out."""
    settings = config.label_efficiency
    rng = np.random.Generator(np.random.PCG64([settings.seed, settings.draws]))
    # The draw follows the groups' names, so that row order changes nothing: in their order stand which classes a group
    # holds, its fold, and the random nested orders.
    by_name = np.argsort(np.array(part.groups))
    rank_G = np.argsort(by_name)
    holds_GK = class_signatures(label_n[part.rows], rank_G[part.group_n], part.n_groups, n_classes)
    fold_G = np.empty(part.n_groups, np.int64)
    fold_G[rank_G[part.group_n]] = part.fold_n
    orders = nested_orders(holds_GK, settings.draws, rng)
    most = int(min((fold_G != fold).sum() for fold in range(part.n_folds)))
    sizes = [size for size in settings.sizes or _default_sizes(most) if size <= most]
    found = []
    for size in sizes:
        here = [
            (draw, fold, order_G[fold_G[order_G] != fold][:size])
            for draw, order_G in enumerate(orders)
            for fold in range(part.n_folds)
        ]
        if all(holds_GK[groups].any(axis=0).sum() == n_classes for _, _, groups in here):
            found += [
                Subset(draw, size, fold, _take(part, np.isin(rank_G[part.group_n], groups)))
                for draw, fold, groups in here
            ]
    if len({one.size for one in found}) < 2:
        raise UserError(
            "score against the number of training groups needs at least two sizes whose subsets hold every class",
            value=f"{most} training groups in a fold; sizes {sizes}",
            fix="--set sweep.label_efficiency.draws=0 leaves it out",
        )
    return found


def _default_sizes(most: int) -> list[int]:
    """4, 8, 16, ... and all there are."""
    return sorted({most, *(2**power for power in range(2, 20) if SMALLEST <= 2**power < 0.8 * most)})


def _take(part: TrainingSet, inside_n: NDArray[np.bool_]) -> TrainingSet:
    """The tiles of some groups as a training set of its own, without folds."""
    names = tuple(dict.fromkeys(part.groups[code] for code in part.group_n[inside_n]))
    code = {name: number for number, name in enumerate(names)}
    group_n = np.array([code[part.groups[old]] for old in part.group_n[inside_n]], np.int64)
    return TrainingSet(part.rows[inside_n], np.zeros(int(inside_n.sum()), np.int64), group_n, names, 1)


def _out_of_fold(
    data: SweepData, part: TrainingSet, family: Family, trials: Sequence[Trial], subsets: Sequence[Subset]
) -> dict[int, Float]:
    """Return logits (M, n, K) by size, each tile's from a head of its fold with the settings the other folds chose."""
    n_draws = max(one.draw for one in subsets) + 1
    logit_by_size: dict[int, Float] = {}
    x_nD = data.matrix(trials[0].pooling)[part.rows]
    for size in dict.fromkeys(one.size for one in subsets):
        logit_MTnK = np.full((n_draws, len(trials), part.n_tiles, data.n_classes), np.nan)
        for chunk in _chunks([one for one in subsets if one.size == size], len(trials) * part.n_tiles):
            refits = iter(family.refit(data, [(one.part, trial) for one in chunk for trial in trials]))
            for one in chunk:
                held_n = part.fold_n == one.fold
                for t in range(len(trials)):
                    logit_MTnK[one.draw, t, held_n] = _logits(next(refits), x_nD[held_n])
        logit_by_size[size] = np.stack([_cross_chosen(logit_TnK, data, part) for logit_TnK in logit_MTnK])
    return logit_by_size


def _chunks(subsets: Sequence[Subset], values_each: int) -> Iterator[Sequence[Subset]]:
    """Yield as many subsets as one solver call takes."""
    step = max(1, MAX_VALUES // values_each)
    for start in range(0, len(subsets), step):
        yield subsets[start : start + step]


def _logits(refit: Refit, x_nD: NDArray[np.floating]) -> Float:
    """Logits (n, K) of one refitted head; NaN where it diverged."""
    from histotune.heads.head import hidden_units

    if refit.diverged:
        return np.full((len(x_nD), len(refit.bias_K)), np.nan)
    units = x_nD if refit.hidden is None else hidden_units(refit.hidden, x_nD.astype(np.float64))
    return np.asarray(full_logits(refit.weight_KD[None], refit.bias_K[None], units)[0])


def _cross_chosen(logit_TnK: Float, data: SweepData, part: TrainingSet) -> Float:
    """Take each fold's logits from the trial with the lowest group-balanced loss on the other folds."""
    # Mean over groups of each group's mean loss on the other folds; the trial of the lowest gives this fold's logits.
    loss_Tn = tile_losses(logit_TnK, data.y_n[part.rows])
    chosen_nK = np.empty(logit_TnK.shape[1:])
    for fold in range(part.n_folds):
        others_n = part.fold_n != fold
        _, group_n = np.unique(part.group_n[others_n], return_inverse=True)
        loss_T = (loss_Tn[:, others_n] @ group_means(group_n, int(group_n.max()) + 1)).mean(axis=1)
        loss_T = np.where(np.isfinite(loss_T), loss_T, np.inf)
        chosen_nK[~others_n] = logit_TnK[int(loss_T.argmin()), ~others_n]
    return chosen_nK


def _sample(logit_nK: Float, data: SweepData, part: TrainingSet, class_names: tuple[str, ...]) -> Sample:
    """The scored tiles as the metrics take them."""
    from histotune.heads.head import softmax

    probability_nK = softmax(logit_nK)
    score_nK = logit_nK - logit_nK[:, :1] if len(class_names) == 2 else probability_nK
    return Sample(
        y_N=data.y_n[part.rows],
        probability_NK=probability_nK,
        score_NK=score_nK,
        predicted_N=probability_nK.argmax(axis=1),
        fold_N=part.fold_n,
        patient_N=None,
        group_N=part.group_n,
        class_names=class_names,
        order=np.arange(part.n_tiles),
        tile_ids=pl.Series("tile_id", data.embeddings.tile_ids).gather(data.used[part.rows]),
    )


def _metrics(data: SweepData, part: TrainingSet) -> dict[MetricName, Callable[[Sample], Evaluator]]:
    """Return each metric as a function of a draw's tiles that gives a function of group weights."""

    def library(name: MetricName) -> Callable[[Sample], Evaluator]:
        """Return the evaluator of a metric of the library."""
        return lambda sample: make_evaluator(name, sample, part.group_n, part.n_groups, within_folds=True)

    def group_loss(sample: Sample) -> Evaluator:
        """Return the evaluator of the mean of the groups' log-losses."""
        loss_n = -np.log(np.maximum(sample.probability_NK[np.arange(len(sample.y_N)), sample.y_N], 1e-300))
        loss_G = loss_n @ group_means(part.group_n, part.n_groups)
        return sums_evaluator(mean_sums(loss_G), np.arange(part.n_groups), part.n_groups)

    found: dict[MetricName, Callable[[Sample], Evaluator]] = {"log_loss": group_loss}
    found["balanced_accuracy"] = library("balanced_accuracy")
    if data.n_classes == 2:
        found["auroc"] = library("auroc")
    return found


def _with_interval(
    name: MetricName, evaluate: Callable[[Sample], Evaluator], samples: Sequence[Sample], config: IntervalConfig
) -> tuple[float, float | None, float | None, str]:
    """Return the mean over draws and its interval: over the scored groups, and over the draws."""
    units = resampling_units(samples[0], config)
    evaluators = [evaluate(sample) for sample in samples]
    value_M = np.array([point_value(one, units) for one in evaluators])
    value = float(value_M.mean())
    if units.refusal or config.cluster != "group" or not np.isfinite(value):
        return value, None, None, units.refusal or "intervals need groups"
    # The groups that are scored are those of every draw, so that the mean is left without each of them as a whole; who
    # trained is another chance, independent of it: the variance of the mean over draws is added.
    without_G = np.mean([one.without_each() for one in evaluators], axis=0)
    n_draws = len(samples)
    more = (float(value_M.var(ddof=1)) / n_draws, n_draws - 1.0) if n_draws > 1 else None
    found = earned_interval((name, value), without_G, units.strata, config, more)
    if found is None:
        return value, None, None, "degenerate: no group and no draw changes the value, which says nothing of its error"
    return value, found.low, found.high, found.method + (WITH_DRAWS if more else "")
