"""Try every penalty and pooling by grouped cross-validation inside each training set, all fits of a pooling at once."""

# N tiles, D columns of a pooling, K classes, S training sets, F folds, P penalties

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from histotune.datasets.splits.folds import assign_group_folds
from histotune.errors import UserError
from histotune.heads.lbfgs import loss_terms
from histotune.heads.logistic import FitProblems, FitSettings, fit_batch
from histotune.heads.records import Head, SweepResult
from histotune.statistics.metrics import auroc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.embeddings.records import Embeddings
    from histotune.heads.config import SweepConfig
    from histotune.heads.logistic import FitSolution

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class SweepTask:
    """What to learn from.

    Attributes:
        labels_N: Label per tile; -1 where unlabelled.
        groups: Group key per tile.
        class_names: Names by label index.
        train_sets_SN: One row per training set: which tiles may be learned from.
        fold_labels: ``grouped`` folds keep groups together; ``image`` folds deal single tiles, which leaks and is
            there to measure the price of leaking.
        default_pooling: Pooling to try where the config names none.
    """

    labels_N: NDArray[np.int64]
    groups: tuple[str, ...]
    class_names: tuple[str, ...]
    train_sets_SN: NDArray[np.bool_]
    fold_labels: Literal["grouped", "image"] = "grouped"
    default_pooling: tuple[str, ...] = ("pooled",)


@dataclass(frozen=True)
class _TrainingSet:
    """One training set and its inner folds, in rows of the tiles that any set uses."""

    rows: Int
    fold_n: Int
    group_n: Int
    groups: tuple[str, ...]
    n_folds: int

    @property
    def n_tiles(self) -> int:
        return len(self.rows)

    @property
    def n_groups(self) -> int:
        return len(self.groups)


@dataclass(frozen=True)
class _Trials:
    """All trials of one pooling on one training set; out-of-fold logits per penalty and training tile."""

    pooling: tuple[str, ...]
    logit_PnK: Float
    log_loss_P: Float
    log_loss_se_P: Float
    auroc_P: Float
    converged_P: Bool


def sweep(embeddings: Embeddings, task: SweepTask, config: SweepConfig) -> tuple[SweepResult, ...]:
    """Choose and refit a head on every training set.

    The choice falls on the lowest out-of-fold log-loss, every group weighing the same; ties go to the stronger
    penalty, then to the pooling named first.

    Args:
        embeddings: One row per tile of the task.
        task: Labels, groups and training sets.
        config: What is tried.

    Returns:
        One result per training set, in order.

    Raises:
        UserError: A training set holds unlabelled tiles, one class only, fewer groups than folds, or a class that
            lies in a single fold.
        ValueError: Shapes differ.

    Example:
        >>> result, = sweep(embeddings, task, SweepConfig())  # doctest: +SKIP
        >>> result.head.penalty  # doctest: +SKIP
        0.1
    """
    _check_task(embeddings, task, config)
    used = np.flatnonzero(task.train_sets_SN.any(axis=0))
    sets = [_training_set(embeddings.tile_ids, task, used, train_N, config) for train_N in task.train_sets_SN]
    y_n = task.labels_N[used]
    poolings = config.poolings or (task.default_pooling,)
    matrices = {pooling: _matrix(embeddings, used, pooling) for pooling in poolings}
    trials_by_set: list[list[_Trials]] = [[] for _ in sets]
    for pooling in poolings:
        for trials, found in zip(
            trials_by_set, _try_pooling(matrices[pooling], y_n, sets, pooling, (task, config)), strict=True
        ):
            trials.append(found)
    choices = [_choose(trials, config.penalties) for trials in trials_by_set]
    heads = _refit(embeddings, matrices, y_n, sets, choices, (task, config))
    return tuple(
        _result(part, trials, choice, refitted, (used, task, config))
        for part, trials, choice, refitted in zip(sets, trials_by_set, choices, heads, strict=True)
    )


def _check_task(embeddings: Embeddings, task: SweepTask, config: SweepConfig) -> None:
    """Refuse training sets that can't be learned from."""
    n = len(embeddings)
    if task.labels_N.shape != (n,) or len(task.groups) != n or task.train_sets_SN.shape[1:] != (n,):
        raise ValueError(f"labels, groups and training sets must describe the {n} embedded tiles")
    for penalty in config.penalties:
        if not penalty > 0:
            raise UserError("a penalty must be positive", value=penalty, fix="--set sweep.penalties=[0.01,0.1,1]")
    for train_N in task.train_sets_SN:
        labels = task.labels_N[train_N]
        if (labels < 0).any():
            raise UserError(
                f"{int((labels < 0).sum())} of {len(labels)} training tiles have no label",
                fix="leave unlabelled tiles out of the training set",
            )
        present = [name for index, name in enumerate(task.class_names) if (labels == index).any()]
        if len(present) < 2:
            raise UserError(
                f"training a head needs tiles of at least two classes and found {len(present)}",
                value=", ".join(present) or "no training tiles",
                allowed=", ".join(task.class_names),
                fix="check --data and --train-magnification; `histotune data describe` lists what is there",
            )


def _training_set(
    tile_ids: Sequence[str], task: SweepTask, used: Int, train_N: Bool, config: SweepConfig
) -> _TrainingSet:
    """Deal the groups of one training set into inner folds."""
    tiles = np.flatnonzero(train_N)
    labels_n = task.labels_N[tiles]
    groups = [task.groups[tile] for tile in tiles]
    codes = {group: code for code, group in enumerate(dict.fromkeys(groups))}
    if task.fold_labels == "grouped" and len(codes) < config.folds:
        raise UserError(
            f"{config.folds} folds need at least as many groups, and this training set holds {len(codes)}",
            value=", ".join(sorted(codes)[:5]),
            fix=f"--set sweep.folds={max(len(codes), 2)}" if len(codes) > 1 else "train on more cases",
        )
    units = groups if task.fold_labels == "grouped" else [f"tile {tile_ids[int(tile)]}" for tile in tiles]
    fold_by_unit = assign_group_folds(units, labels_n, len(task.class_names), config.folds, config.seed)
    fold_n = np.array([fold_by_unit[unit] for unit in units], np.int64)
    _check_folds(fold_n, labels_n, task.class_names)
    return _TrainingSet(
        np.searchsorted(used, tiles), fold_n, np.array([codes[group] for group in groups]), tuple(codes), config.folds
    )


def _check_folds(fold_n: Int, labels_n: Int, class_names: tuple[str, ...]) -> None:
    """Refuse folds whose training part holds a single class."""
    for fold in np.unique(fold_n):
        if len(np.unique(labels_n[fold_n != fold])) < 2:
            lost = [
                class_names[label] for label in np.unique(labels_n) if not (labels_n[fold_n != fold] == label).any()
            ]
            raise UserError(
                "grouped cross-validation needs every class in at least two groups; here all its tiles lie in one fold",
                value=", ".join(lost),
                fix="train on more cases of that class",
            )


def _matrix(embeddings: Embeddings, used: Int, pooling: tuple[str, ...]) -> NDArray[np.floating]:
    """Return the rows and columns of one pooling."""
    columns = embeddings.columns(pooling)
    x_ND = embeddings.matrix_ND
    contiguous = (np.diff(columns) == 1).all()  # a slice is a view, a list of columns a copy
    x_ND = x_ND[:, columns[0] : columns[-1] + 1] if contiguous else x_ND[:, columns]
    return np.ascontiguousarray(x_ND[used] if len(used) < len(x_ND) else x_ND)


def _sample_weights(rows: Int, y_n: Int, n_tiles: int, config: SweepConfig) -> Float:
    """Return the sample weights of a fit on ``rows``; ``balanced`` lets every present class weigh the same."""
    weight_n = np.zeros(n_tiles)
    counts = np.bincount(y_n[rows])
    weight_n[rows] = 1.0 if config.class_weight == "none" else len(rows) / counts[y_n[rows]]
    return weight_n


def _try_pooling(
    x_ND: NDArray[np.floating],
    y_n: Int,
    sets: Sequence[_TrainingSet],
    pooling: tuple[str, ...],
    context: tuple[SweepTask, SweepConfig],
) -> list[_Trials]:
    """Solve (training set x fold x penalty) in one call and score each out of fold."""
    task, config = context
    penalties = np.array(config.penalties)
    masks = [
        _sample_weights(part.rows[part.fold_n != fold], y_n, len(y_n), config)
        for part in sets
        for fold in range(part.n_folds)
    ]
    problems = FitProblems(
        np.stack(masks), np.repeat(np.arange(len(masks)), len(penalties)), np.tile(penalties, len(masks)),
        len(task.class_names),
    )  # fmt: skip
    solution = fit_batch(x_ND, y_n, problems, FitSettings(max_iterations=config.max_iterations))
    trials, first = [], 0
    for part in sets:
        logit_PnK = np.empty((len(penalties), part.n_tiles, len(task.class_names)))
        for fold in range(part.n_folds):
            fits = slice(first + fold * len(penalties), first + (fold + 1) * len(penalties))
            held_n = part.fold_n == fold
            logit_PnK[:, held_n] = _logits(solution, fits, x_ND[part.rows[held_n]])
        fits = slice(first, first + part.n_folds * len(penalties))
        converged_P = np.all(solution.converged_P[fits].reshape(part.n_folds, -1), axis=0)
        trials.append(_score(pooling, logit_PnK, y_n[part.rows], part, converged_P))
        first = fits.stop
    return trials


def _logits(solution: FitSolution, fits: slice, x_nD: NDArray[np.floating]) -> Float:
    """Return logits (P, n, K) of some fits; binary fits hold a zero for class 0."""
    weight_PKD, bias_PK = solution.weight_PKD[fits], solution.bias_PK[fits]
    n_fits, n_logits, n_columns = weight_PKD.shape
    flat = x_nD.astype(np.float64) @ weight_PKD.reshape(-1, n_columns).T
    z_PnK = flat.reshape(len(x_nD), n_fits, n_logits).transpose(1, 0, 2) + bias_PK[:, None, :]
    return np.concatenate([np.zeros_like(z_PnK), z_PnK], axis=2) if n_logits == 1 else z_PnK


def _score(pooling: tuple[str, ...], logit_PnK: Float, y_n: Int, part: _TrainingSet, converged_P: Bool) -> _Trials:
    """Return the group-balanced out-of-fold log-loss of every penalty, its standard error over groups, and AUROC."""
    binary = logit_PnK.shape[2] == 2
    z_PKn = logit_PnK.transpose(0, 2, 1)
    loss_Pn = loss_terms(z_PKn[:, 1:] if binary else z_PKn, np.broadcast_to(y_n, (len(logit_PnK), len(y_n))))
    of_group_nG = np.zeros((len(y_n), part.n_groups))
    of_group_nG[np.arange(len(y_n)), part.group_n] = 1.0
    loss_PG = loss_Pn @ (of_group_nG / of_group_nG.sum(axis=0))
    spread = loss_PG.std(axis=1, ddof=1) if part.n_groups > 1 else np.full(len(loss_PG), np.nan)
    ranking = [auroc(y_n, logit_nK, part.fold_n) if binary else float("nan") for logit_nK in logit_PnK]
    return _Trials(
        pooling, logit_PnK, loss_PG.mean(axis=1), spread / np.sqrt(part.n_groups), np.array(ranking), converged_P
    )


def _choose(trials: Sequence[_Trials], penalties: tuple[float, ...]) -> tuple[int, int]:
    """Return (pooling number, penalty number) of the lowest loss; ties go to the stronger penalty."""
    candidates = [
        (float(found.log_loss_P[p]), -penalty, number, p)
        for number, found in enumerate(trials)
        for p, penalty in enumerate(penalties)
    ]
    _, _, number, p = min(candidates)
    return number, p


@dataclass(frozen=True)
class _Refit:
    """The chosen head and whether its fit converged."""

    head: Head
    converged: bool


def _refit(
    embeddings: Embeddings,
    matrices: dict[tuple[str, ...], NDArray[np.floating]],
    y_n: Int,
    sets: Sequence[_TrainingSet],
    choices: Sequence[tuple[int, int]],
    context: tuple[SweepTask, SweepConfig],
) -> list[_Refit]:
    """Refit every training set with its choice, all sets that chose one pooling together."""
    task, config = context
    refitted: dict[int, _Refit] = {}
    for number, (pooling, x_ND) in enumerate(matrices.items()):
        members = [index for index, choice in enumerate(choices) if choice[0] == number]
        if not members:
            continue
        masks = np.stack([_sample_weights(sets[index].rows, y_n, len(y_n), config) for index in members])
        penalties = np.array([config.penalties[choices[index][1]] for index in members])
        problems = FitProblems(masks, np.arange(len(members)), penalties, len(task.class_names))
        solution = fit_batch(x_ND, y_n, problems, FitSettings(max_iterations=config.max_iterations))
        for row, index in enumerate(members):
            head = _head(embeddings, pooling, solution, row, (sets[index], task, float(penalties[row])))
            refitted[index] = _Refit(head, bool(solution.converged_P[row]))
    return [refitted[index] for index in range(len(sets))]


def _head(
    embeddings: Embeddings,
    pooling: tuple[str, ...],
    solution: FitSolution,
    row: int,
    context: tuple[_TrainingSet, SweepTask, float],
) -> Head:
    """Build the record of a refitted head."""
    part, task, penalty = context
    weight_KD, bias_K = solution.weight_PKD[row], solution.bias_PK[row]
    if len(weight_KD) == 1:
        weight_KD, bias_K = np.vstack([np.zeros_like(weight_KD), weight_KD]), np.r_[0.0, bias_K]
    return Head(
        weight_KD=np.ascontiguousarray(weight_KD),
        bias_K=bias_K.copy(),
        pooling=pooling,
        columns=tuple(embeddings.columns(pooling).tolist()),
        class_names=task.class_names,
        backbone=embeddings.space.backbone,
        space_key=embeddings.space.key,
        meaning_key=embeddings.space.meaning_key,
        penalty=penalty,
        n_tiles=part.n_tiles,
        n_groups=part.n_groups,
        train_groups=tuple(sorted(part.groups)),
    )


def _result(
    part: _TrainingSet,
    trials: Sequence[_Trials],
    choice: tuple[int, int],
    refitted: _Refit,
    context: tuple[Int, SweepTask, SweepConfig],
) -> SweepResult:
    """Build the record of one training set."""
    used, task, config = context
    number, p = choice
    logit_NK = np.full((len(task.labels_N), len(task.class_names)), np.nan)
    logit_NK[used[part.rows]] = trials[number].logit_PnK[p]
    n_penalties = len(config.penalties)
    chosen = np.zeros((len(trials), n_penalties), bool)
    chosen[choice] = True
    converged = np.stack([found.converged_P for found in trials])
    converged[choice] &= refitted.converged
    table = pl.DataFrame(
        {
            "pooling": ["+".join(found.pooling) for found in trials for _ in range(n_penalties)],
            "penalty": list(config.penalties) * len(trials),
            "log_loss": np.concatenate([found.log_loss_P for found in trials]),
            "log_loss_se": np.concatenate([found.log_loss_se_P for found in trials]),
            "auroc": np.concatenate([found.auroc_P for found in trials]),
            "converged": converged.ravel(),
            "chosen": chosen.ravel(),
        }
    )
    return SweepResult(refitted.head, table, logit_NK, n_fits=len(trials) * part.n_folds * n_penalties + 1)
