"""What a sweep learns from: labels, groups and training sets, and each set's inner folds."""

# N tiles, n tiles of one training set, S training sets

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from histotune.datasets.splits.folds import assign_group_folds
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Int = NDArray[np.int64]
    Bool = NDArray[np.bool_]

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
        honest_sets: Numbers of the training sets whose procedure is itself estimated (see ``sweep.honesty``); None
            estimates all. Sets whose heads are scored on held-out tiles anyway need no estimate.
    """

    labels_N: NDArray[np.int64]
    groups: tuple[str, ...]
    class_names: tuple[str, ...]
    train_sets_SN: NDArray[np.bool_]
    fold_labels: FoldLabels = "grouped"
    default_pooling: tuple[str, ...] = ("pooled",)
    honest_sets: tuple[int, ...] | None = None


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
    """Refuse training sets that can't be learned from.

    Args:
        n_embedded: Number of embedded tiles.
        task: What is to be learned from.

    Raises:
        UserError: A training set holds unlabelled tiles or one class only.
        ValueError: Shapes differ.
    """
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


def training_set(tile_ids: Sequence[str], task: SweepTask, rows: tuple[Int, Int], plan: FoldPlan) -> TrainingSet:
    """Deal the groups of one training set into inner folds.

    Args:
        tile_ids: Id per tile of the task.
        task: Labels and groups.
        rows: The set's tiles as rows of the task, and the sorted rows of the task that form the sweep's data.
        plan: Folds and seed.

    Returns:
        The training set.

    Raises:
        UserError: Fewer groups than folds, or a class that lies in a single fold.
    """
    tiles, used = rows
    labels_n = task.labels_N[tiles]
    groups = [task.groups[tile] for tile in tiles]
    codes = {group: code for code, group in enumerate(sorted(set(groups)))}  # so that row order changes nothing
    if plan.fold_labels == "grouped" and len(codes) < plan.n_folds:
        raise UserError(
            f"{plan.n_folds} folds need at least as many groups, and this training set holds {len(codes)}",
            value=", ".join(list(codes)[:5]),
            fix=f"--set sweep.folds={max(len(codes), 2)}" if len(codes) > 1 else "train on more cases",
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
                fix="train on more cases of that class",
            )
