"""A family of heads: what a sweep asks of logistic regression and SGD heads alike.

A family lists its trials, gives the out-of-fold logits of all of them, and refits the chosen ones. It sees embeddings,
labels, training sets and their folds; it never chooses. Everything it fits (standardisation too) it fits on the rows
it is told to train on.
"""

# N tiles, n rows of the data or tiles of one training set, D columns of a pooling, K classes, T trials, P fits,
# S training sets, H hidden units, E epochs

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from histotune.datasets.splits.folds import assign_group_folds
from histotune.heads.fit_cache import FitCache
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from histotune.embeddings.space import Embeddings
    from histotune.heads.config import ClassWeight, SgdSettings, SweepConfig
    from histotune.heads.head import HiddenLayer, TrainingColumns

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Outcomes = Sequence["OutOfFold"]


TRAINED_BY = {
    "optimizer", "lr", "weight_decay", "momentum", "epochs", "batch_size", "label_smoothing", "hidden_units",
    "activation",
}  # fmt: skip
"""Settings of a trained trial besides its class weighting, in the columns of the trials table."""


@dataclass(frozen=True)
class Trial:
    """Settings of one trial.

    Attributes:
        pooling: Column blocks.
        class_weight: How classes weigh in the training loss.
        strength: How strongly it is regularised (the penalty, or the weight decay): ties go to the stronger.
        training: How it is trained by gradient steps; None for what is solved.
    """

    pooling: tuple[str, ...]
    class_weight: ClassWeight
    strength: float
    training: SgdSettings | None = None

    def settings(self) -> dict[str, float | int | str]:
        """Return the family's own columns of the trials table; a trained head has no penalty of the mean loss: 0."""
        if self.training is None:
            return {"penalty": self.strength}
        return {"penalty": 0.0, **self.training.model_dump(include=TRAINED_BY)}


@dataclass(frozen=True)
class Tried:
    """Trials that a family has just finished on one training set; told to whoever watches.

    Attributes:
        part: The training set.
        trials: The trials.
        found: Their out-of-fold logits.
        y_n: Label per tile of the set.
        n_done: Trials finished so far on all training sets.
        n_trials: Trials on all training sets.
    """

    part: TrainingSet
    trials: Sequence[Trial]
    found: OutOfFold
    y_n: Int
    n_done: int
    n_trials: int


@dataclass(frozen=True)
class SweepSupport:
    """What a sweep may use besides its data; nothing of it changes a result.

    Attributes:
        fits: Solved fits, kept.
        watch: Called whenever trials are finished; None where nobody watches.
    """

    fits: FitCache = field(default_factory=FitCache)
    watch: Callable[[Tried], None] | None = None


@dataclass(frozen=True)
class SweepData:
    """What all trials share.

    Attributes:
        embeddings: The embedded tiles.
        used: Rows of the embeddings that any training set uses, sorted; ``n`` counts these.
        y_n: Label per used row.
        n_classes: Number of classes; 2 gives a binary task.
        support: Solved fits, and who watches.
    """

    embeddings: Embeddings
    used: Int
    y_n: Int
    n_classes: int
    support: SweepSupport = field(default_factory=SweepSupport)

    def matrix(self, pooling: tuple[str, ...]) -> NDArray[np.floating]:
        """Return the used rows and the columns of one pooling (n, D): a view where both are whole, else a copy."""
        columns = self.embeddings.columns(pooling)
        x_ND = self.embeddings.matrix_ND
        contiguous = (np.diff(columns) == 1).all()  # a slice is a view, a list of columns a copy
        x_ND = x_ND[:, columns[0] : columns[-1] + 1] if contiguous else x_ND[:, columns]
        return np.ascontiguousarray(x_ND[self.used] if len(self.used) < len(x_ND) else x_ND)


@dataclass(frozen=True)
class OutOfFold:
    """All trials on one training set.

    Attributes:
        logit_TnK: Logits of the set's tiles, each from the inner fold that held its group out; binary families hold
            zeros for class 0. NaN where a trial diverged.
        converged_T: Whether every fold's fit met its tolerance; families without one say True.
        diverged_T: Whether any fold's fit diverged; such a trial is reported and never chosen.
    """

    logit_TnK: Float
    converged_T: NDArray[np.bool_]
    diverged_T: NDArray[np.bool_]

    @classmethod
    def empty(cls, n_trials: int, n_tiles: int, n_classes: int) -> OutOfFold:
        """Return unknown logits, to be filled in."""
        logit_TnK = np.full((n_trials, n_tiles, n_classes), np.nan)
        return cls(logit_TnK, np.ones(n_trials, bool), np.zeros(n_trials, bool))


@dataclass(frozen=True)
class Refit:
    """A chosen trial, fitted on all tiles of its training set.

    Attributes:
        weight_KD: Weights on raw columns of the pooling, standardisation folded in; on hidden units (K, H) where there
            is a hidden layer. Row 0 is zero in binary tasks.
        bias_K: Biases.
        converged: Whether the fit met its tolerance.
        hidden: Hidden layer on raw columns; None for linear heads.
        diverged: Whether the fit diverged.
        loss_E: Training loss after every epoch; None where nothing is trained in epochs.
        columns: What the training tiles say of the columns; None where unknown.
    """

    weight_KD: Float
    bias_K: Float
    converged: bool = True
    hidden: HiddenLayer | None = None
    diverged: bool = False
    loss_E: Float | None = None
    columns: TrainingColumns | None = None


class Family:
    """A family of heads that a sweep can try.

    Args:
        config: What is tried.
    """

    name = ""

    def __init__(self, config: SweepConfig) -> None:
        self.config = config

    def trials(self, poolings: Sequence[tuple[str, ...]]) -> tuple[Trial, ...]:
        """Return every trial over some poolings, in the order of the trials table (a pooling's trials together)."""
        raise NotImplementedError

    def fill(
        self, data: SweepData, parts: Sequence[TrainingSet], trials: Sequence[Trial], members: Int, found: Outcomes
    ) -> None:
        """Fit the trials of one pooling, in the places ``members``, on all inner folds, and write their logits."""
        raise NotImplementedError

    def refit_together(self, data: SweepData, chosen: Sequence[tuple[TrainingSet, Trial]]) -> list[Refit]:
        """Fit chosen trials of one pooling on all tiles of their training sets."""
        raise NotImplementedError

    def out_of_fold(self, data: SweepData, parts: Sequence[TrainingSet], trials: Sequence[Trial]) -> list[OutOfFold]:
        """Fit every trial on every inner fold of every training set, and tell whoever watches."""
        found = [OutOfFold.empty(len(trials), part.n_tiles, data.n_classes) for part in parts]
        n_done = 0
        for pooling in dict.fromkeys(trial.pooling for trial in trials):
            members = np.array([t for t, trial in enumerate(trials) if trial.pooling == pooling])
            some = [trials[t] for t in members]
            self.fill(data, parts, some, members, found)
            n_done += len(members)
            for part, one in zip(parts if data.support.watch else (), found, strict=False):
                own = OutOfFold(one.logit_TnK[members], one.converged_T[members], one.diverged_T[members])
                data.support.watch(Tried(part, some, own, data.y_n[part.rows], n_done, len(trials)))  # type: ignore[misc]
        return found

    def refit(self, data: SweepData, chosen: Sequence[tuple[TrainingSet, Trial]]) -> list[Refit]:
        """Fit chosen trials on all tiles of their training sets, those of one pooling together."""
        refits: dict[int, Refit] = {}
        for pooling in dict.fromkeys(trial.pooling for _, trial in chosen):
            members = [number for number, (_, trial) in enumerate(chosen) if trial.pooling == pooling]
            refits |= zip(members, self.refit_together(data, [chosen[number] for number in members]), strict=True)
        return [refits[number] for number in range(len(chosen))]


def sample_weights(rows: Int, y_n: Int, class_weight: ClassWeight) -> Float:
    """Return the sample weights of a fit, 0 outside ``rows``."""
    weight_n = np.zeros(len(y_n))
    weight_n[rows] = 1.0 if class_weight == "none" else len(rows) / np.bincount(y_n[rows])[y_n[rows]]
    return weight_n


def full_logits(weight_PKD: Float, bias_PK: Float, x_nD: NDArray[np.floating]) -> Float:
    """Return logits (P, n, K) of some linear fits on some rows."""
    n_fits, n_logits, n_columns = weight_PKD.shape
    flat = x_nD.astype(np.float64) @ weight_PKD.reshape(-1, n_columns).T
    z_PnK = flat.reshape(len(x_nD), n_fits, n_logits).transpose(1, 0, 2) + bias_PK[:, None, :]
    return np.concatenate([np.zeros_like(z_PnK), z_PnK], axis=2) if n_logits == 1 else z_PnK


def with_zero_class(weight_KD: Float, bias_K: Float) -> tuple[Float, Float]:
    """Return weights and biases with class 0's zeros where a binary fit holds one logit; copies otherwise."""
    if len(weight_KD) == 1:
        return np.vstack([np.zeros_like(weight_KD), weight_KD]), np.r_[0.0, bias_K]
    return np.ascontiguousarray(weight_KD), bias_K.copy()


# ------------------------------------------------------------------------------
# What a sweep learns from: labels, groups and training sets, and each set's inner folds


FoldLabels = Literal["grouped", "image"]


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
        nested_estimate_sets: Training sets whose procedure is itself estimated (``sweep.honesty``), by number; None
            estimates all. Sets whose heads are scored on held-out tiles anyway need no estimate.
    """

    labels_N: NDArray[np.int64]
    groups: tuple[str, ...]
    class_names: tuple[str, ...]
    train_sets_SN: NDArray[np.bool_]
    fold_labels: FoldLabels = "grouped"
    default_pooling: tuple[str, ...] = ("pooled",)
    nested_estimate_sets: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TrainingSet:
    """One training set and its inner folds.

    Attributes:
        rows: Its tiles, as row numbers of the sweep's data (the tiles that any training set uses).
        fold_n: Inner fold of each of these tiles.
        group_n: Group of each of these tiles, as an index into ``groups``.
        groups: Group keys, sorted.
        n_folds: Number of inner folds.
    """

    rows: Int
    fold_n: Int
    group_n: Int
    groups: tuple[str, ...]
    n_folds: int

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return len(self.rows)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(self.groups)

    def fold_train_rows(self, fold: int) -> Int:
        """Return the rows that train the head of one inner fold."""
        return np.asarray(self.rows[self.fold_n != fold])


@dataclass(frozen=True)
class FoldPlan:
    """How inner folds are dealt.

    Attributes:
        n_folds: Number of folds.
        seed: Seed of the deal.
        fold_labels: Whether groups or single tiles are dealt.
    """

    n_folds: int
    seed: int
    fold_labels: FoldLabels = "grouped"


def check_task(n_embedded: int, task: SweepTask) -> None:
    """Refuse training sets that can't be learned from."""
    n = n_embedded
    if task.labels_N.shape != (n,) or len(task.groups) != n or task.train_sets_SN.shape[1:] != (n,):
        raise ValueError(f"labels, groups and training sets must describe the {n} embedded tiles")
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


MANY_GROUPS = 50  # of a class: dealt evenly, they never lie in one fold


def check_inner_folds(tile_ids: Sequence[str], task: SweepTask, config: SweepConfig) -> None:
    """Refuse training sets that can't be dealt into the folds asked for; no embedding is needed to tell.

    Args:
        tile_ids: Id per tile.
        task: Labels, groups and training sets.
        config: How many folds, and whether the procedure is itself estimated by leaving folds out.

    Raises:
        UserError: As :func:`~histotune.heads.sweep.sweep` would raise it after the embedding.
    """
    check_task(len(tile_ids), task)
    plan = FoldPlan(config.folds, config.seed, task.fold_labels)
    nested = task.nested_estimate_sets if config.honesty == "nested" and task.fold_labels == "grouped" else ()
    for number, train_N in enumerate(task.train_sets_SN):
        rows = np.flatnonzero(train_N)
        units = [task.groups[row] if task.fold_labels == "grouped" else str(row) for row in rows]
        kinds = set(zip(task.labels_N[rows].tolist(), units, strict=True))
        fewest = min(sum(label == one for one, _ in kinds) for label in {label for label, _ in kinds})
        if fewest >= MANY_GROUPS:
            continue
        part = training_set(tile_ids, task, rows, rows, plan)
        if nested is None or number in nested:
            parts_without_folds(part, (tile_ids, task, rows), config.seed)


def parts_without_folds(part: TrainingSet, of: tuple[Sequence[str], SweepTask, Int], seed: int) -> list[TrainingSet]:
    """Return a training set without each of its folds, inner folds dealt anew among the groups that stay.

    Args:
        part: The training set.
        of: Ids of all tiles, the task, and the tiles that any training set uses.
        seed: Seed of the deal.
    """
    tile_ids, task, used = of
    parts = []
    for fold in range(part.n_folds):
        tiles = used[part.fold_train_rows(fold)]
        n_groups = len({task.groups[tile] for tile in tiles})
        plan = FoldPlan(min(part.n_folds, n_groups), seed, task.fold_labels)
        parts.append(training_set(tile_ids, task, tiles, used, plan))
    return parts


def training_set(tile_ids: Sequence[str], task: SweepTask, tiles: Int, used: Int, plan: FoldPlan) -> TrainingSet:
    """Deal the groups of one training set into inner folds; ``used`` are the tiles that any training set uses."""
    labels_n = task.labels_N[tiles]
    groups = [task.groups[tile] for tile in tiles]
    codes = {group: code for code, group in enumerate(sorted(set(groups)))}  # so that row order changes nothing
    if plan.fold_labels == "grouped" and len(codes) < plan.n_folds:
        raise UserError(
            f"{plan.n_folds} folds need at least as many groups, and this training set holds {len(codes)}",
            value=", ".join(list(codes)[:5]),
            fix=f"--set sweep.folds={max(len(codes), 2)}" if len(codes) > 1 else "train on more groups",
        )
    units = groups if plan.fold_labels == "grouped" else [f"tile {tile_ids[int(tile)]}" for tile in tiles]
    fold_by_unit = assign_group_folds(units, labels_n, len(task.class_names), plan.n_folds, plan.seed)
    fold_n = np.array([fold_by_unit[unit] for unit in units], np.int64)
    _check_folds(fold_n, labels_n, task.class_names)
    group_n = np.array([codes[group] for group in groups], np.int64)
    return TrainingSet(np.searchsorted(used, tiles), fold_n, group_n, tuple(codes), plan.n_folds)


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
                fix="train on more groups of that class",
            )
