"""Train on every row of the matrix by cross-fitting, score every column, and set each cell against the diagonal."""

# N tiles, S training sets

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.splits.split import tile_groups
from histotune.evaluation.crossfit import score_folds
from histotune.evaluation.matrix.records import MagnificationMatrix, MatrixCell
from histotune.evaluation.matrix.training_sets import TrainingTiles, magnifications_of, training_sets
from histotune.heads.family import FoldPlan, SweepTask, training_set
from histotune.heads.sweep import sweep
from histotune.statistics.comparison import paired_difference
from histotune.statistics.predictions import Score
from histotune.statistics.scores import score_predictions
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.evaluation.held_out import StudySettings
    from histotune.evaluation.matrix.records import Experiment, SeenScale, TrainingSize
    from histotune.evaluation.plan import CrossFitPlan
    from histotune.evaluation.predict import Material
    from histotune.heads.head import SweepResult
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.predictions import Predictions

METRICS: tuple[MetricName, ...] = ("auroc", "balanced_accuracy", "log_loss")


@dataclass(frozen=True)
class Row:
    """One training set's predictions of every tile, or why there are none."""

    name: str
    predictions: Predictions | None
    n_train_tiles: int
    n_train_groups: int
    reason: str = ""


@dataclass(frozen=True)
class ScoredTiles:
    """The magnification of every tile, and how many tiles and groups each column scores."""

    by_tile: dict[str, str | None]
    sizes: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Seen:
    """Which experiment it is, and what its view shows of each magnification."""

    experiment: Experiment
    scales: tuple[SeenScale, ...]
    notes: tuple[str, ...] = ()


def magnification_matrix(
    material: Material, plan: CrossFitPlan, seen: Seen, settings: StudySettings, size: TrainingSize
) -> MagnificationMatrix:
    """Fill one matrix.

    Args:
        material: Tiles of all magnifications with their embeddings.
        plan: Outer folds over the groups of all magnifications; its ``train_N`` is not used.
        seen: The experiment.
        settings: What is swept, and how intervals are made.
        size: The size of training sets.

    Returns:
        Every row scored at every magnification by heads whose training and selection excluded the tile's group.

    Raises:
        UserError: The tiles have fewer than two magnifications.
    """
    names, seed = magnifications_of(material.tiles), settings.evaluation.seed
    untrainable = _untrainable(material, plan, settings)
    trainable = tuple(name for name in names if name not in untrainable)
    try:
        sets = training_sets(material.tiles, size, seed, trainable)
    except UserError as error:  # no group has them all: every row says so
        sets = tuple(TrainingTiles(name, np.zeros(len(material.tiles), bool)) for name in names)
        untrainable = {name: untrainable.get(name, error.what) for name in names}
    rows = _cross_fit_rows(material, plan, sets, (settings, untrainable))
    scored = _scored_tiles(material, plan)
    cells = []
    for row in rows:
        for name in names:
            diagonal = next(one for one in rows if one.name == name)
            cells.append(_cell(row, diagonal, name, settings, scored))
    return MagnificationMatrix(seen.experiment, size, material.view, tuple(cells), seen.scales,
                               (*_size_notes(material, sets, size), *seen.notes))  # fmt: skip


def _scored_tiles(material: Material, plan: CrossFitPlan) -> ScoredTiles:
    of_tile = material.tiles.table["magnification"].to_list()
    groups, known_N = np.array(tile_groups(material.tiles)), (plan.fold_N >= 0) & (material.tiles.labels_N >= 0)
    sizes = {}
    for name in magnifications_of(material.tiles):
        here_N = known_N & np.array([one == name for one in of_tile])
        sizes[name] = (int(here_N.sum()), len(set(groups[here_N])))
    return ScoredTiles(dict(zip(material.tiles.tile_ids, of_tile, strict=True)), sizes)


def _untrainable(material: Material, plan: CrossFitPlan, settings: StudySettings) -> dict[str, str]:
    """Return why a magnification's own tiles can't train a head, for those that can't."""
    names = magnifications_of(material.tiles)
    singles = [one for one in training_sets(material.tiles, "all data", 0) if one.name in names]
    masks = _masks(plan, singles)
    task = _task(material, [mask_N for of_fold in masks.values() for mask_N in of_fold])
    reasons = {name: _why_not(material, task, of_fold, settings) for name, of_fold in masks.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _folds(plan: CrossFitPlan) -> list[int]:
    return sorted({int(fold) for fold in plan.fold_N[plan.fold_N >= 0]})


def _masks(plan: CrossFitPlan, sets: Sequence[TrainingTiles]) -> dict[str, list[NDArray[np.bool_]]]:
    """Return each set's training tiles without every fold."""
    return {
        one.name: [one.train_N & (plan.fold_N >= 0) & (plan.fold_N != fold) for fold in _folds(plan)] for one in sets
    }


def _task(material: Material, masks: Sequence[NDArray[np.bool_]]) -> SweepTask:
    return SweepTask(
        labels_N=material.tiles.labels_N, groups=tuple(tile_groups(material.tiles)),
        class_names=material.tiles.class_names, train_sets_SN=np.stack(masks), fold_labels="grouped",
        default_pooling=material.default_pooling, honest_sets=(),  # these heads are scored on held-out tiles
    )  # fmt: skip


def _cross_fit_rows(
    material: Material, plan: CrossFitPlan, sets: Sequence[TrainingTiles], context: tuple[StudySettings, dict[str, str]]
) -> list[Row]:
    """Sweep every training set without every fold, all in one batch."""
    settings, untrainable = context
    folds, masks = _folds(plan), _masks(plan, sets)
    task = _task(material, [mask_N for of_fold in masks.values() for mask_N in of_fold])
    reasons = {
        name: untrainable.get(name) or _why_not(material, task, of_fold, settings) for name, of_fold in masks.items()
    }
    kept = [mask_N for name, of_fold in masks.items() if not reasons[name] for mask_N in of_fold]
    swept = sweep(material.embeddings, _task(material, kept), settings.sweep, settings.support) if kept else ()
    results = iter(swept)
    rows = []
    for name, of_fold in masks.items():
        n_tiles = int(np.median([mask_N.sum() for mask_N in of_fold]))
        n_groups = int(np.median([len({task.groups[row] for row in np.flatnonzero(mask_N)}) for mask_N in of_fold]))
        predictions = None if reasons[name] else _predict(material, plan, [next(results) for _ in folds], folds)
        rows.append(Row(name, predictions, n_tiles, n_groups, reasons[name]))
    return rows


def _why_not(material: Material, task: SweepTask, masks: Sequence[NDArray[np.bool_]], settings: StudySettings) -> str:
    """Return why a row can't be trained in every fold; empty where it can."""
    plan = FoldPlan(settings.sweep.folds, settings.sweep.seed)
    for mask_N in masks:
        rows = np.flatnonzero(mask_N)
        present = np.unique(task.labels_N[rows])
        if len(present) < len(task.class_names):
            missing = [name for label, name in enumerate(task.class_names) if label not in present]
            return f"no training tile of {', '.join(missing)} outside one of the folds"
        try:
            training_set(material.embeddings.tile_ids, task, (rows, rows), plan)
        except UserError as error:
            return error.what
    return ""


def _predict(material: Material, plan: CrossFitPlan, results: list[SweepResult], folds: Sequence[int]) -> Predictions:
    known_N = (material.tiles.labels_N >= 0) & material.tiles.table["magnification"].is_not_null().to_numpy()
    rows_by_fold = [np.flatnonzero((plan.fold_N == fold) & known_N) for fold in folds]
    return score_folds(material, plan, results, rows_by_fold)


def _cell(row: Row, diagonal: Row, magnification: str, settings: StudySettings, scored: ScoredTiles) -> MatrixCell:
    """Score one row at one magnification, and against the heads that were trained there."""
    sizes = (row.n_train_tiles, row.n_train_groups)
    sizes_scored, by_tile = scored.sizes[magnification], scored.by_tile
    if row.predictions is None:
        missing = tuple(Score(name, float("nan"), None, *sizes_scored, reason=row.reason) for name in METRICS)
        return MatrixCell(row.name, magnification, missing, (), *sizes)
    here = _at(row.predictions, magnification, by_tile)
    scores = score_predictions(here, METRICS, settings.interval, within_folds=True)
    if row.name == magnification or diagonal.predictions is None:
        return MatrixCell(row.name, magnification, scores, (), *sizes)
    trained_here = _at(diagonal.predictions, magnification, by_tile)
    differences = tuple(
        paired_difference(here, trained_here, name, settings.interval, within_folds=True) for name in METRICS
    )
    return MatrixCell(row.name, magnification, scores, differences, *sizes)


def _at(predictions: Predictions, magnification: str, by_tile: dict[str, str | None]) -> Predictions:
    wanted = [tile for tile in predictions.table["tile_id"].to_list() if by_tile[tile] == magnification]
    return predictions.where(pl.col("tile_id").is_in(wanted))


def _size_notes(material: Material, sets: Sequence[TrainingTiles], size: TrainingSize) -> tuple[str, ...]:
    """Say what equal sizes left out."""
    if size == "all data":
        return ("Rows differ in how many tiles and groups train them, so they don't compare by magnification alone.",)
    groups = np.array(tile_groups(material.tiles))
    labelled_N = material.tiles.labels_N >= 0
    largest = max(sets, key=lambda one: int(one.train_N.sum()))
    n_all, n_kept = len(set(groups[labelled_N])), len(set(groups[largest.train_N]))
    if not n_kept:
        return ("Training sizes can't be equalised here.",)
    missing = f" {n_all - n_kept} of {n_all} groups lack one of the equalised magnifications and train nothing."
    left_out = missing if n_kept < n_all else ""
    return (f"Every group gives every row as many tiles, {int(largest.train_N.sum()):,} in all.{left_out}",)
