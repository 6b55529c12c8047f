"""What the matrices say, in plain words made from their cells alone."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from histotune.datasets.splits.split import tile_groups
from histotune.evaluation.answer import in_words
from histotune.evaluation.crossfit import score_folds, sweep_task
from histotune.evaluation.plan import magnifications_in
from histotune.heads.family import FoldPlan, training_set
from histotune.heads.sweep import sweep
from histotune.images.views import view_geometry
from histotune.statistics.comparison import paired_difference
from histotune.statistics.predictions import Score
from histotune.statistics.scores import score_predictions
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.evaluation.held_out import StudySettings
    from histotune.evaluation.material import Material
    from histotune.evaluation.plan import CrossFitPlan
    from histotune.heads.family import SweepTask
    from histotune.heads.head import SweepResult
    from histotune.images.config import ViewConfig
    from histotune.statistics.metrics import MetricName
    from histotune.statistics.predictions import Predictions

    Bool = NDArray[np.bool_]
    Int = NDArray[np.int64]


def matrix_answer(matrices: Sequence[MagnificationMatrix]) -> str:
    """Say how well heads do where they were trained, where they lose most, and whether matching changes it."""
    first = next((matrix for matrix in matrices if _estimable(matrix)), matrices[0])
    diagonal = [cell for cell in first.cells if cell.on_diagonal and not math.isnan(cell.scores[0].value)]
    if not diagonal:
        return "No magnification can be scored by heads trained at it: not estimable."
    reached = ", ".join(f"{cell.magnification} {in_words(cell.scores[0])}" for cell in diagonal)
    sentences = [
        f"With {'equal training sizes' if first.training_size == 'equal' else 'all data'}, heads scored at the"
        f" magnification they were trained at reach AUROC {reached}."
    ]
    worst = _worst(first)
    if worst is None:
        return sentences[0]
    told = (
        f"heads trained at {worst.trained_on} on {worst.magnification}: AUROC {in_words(worst.scores[0])}, a difference"
        f" of {in_words(worst.differences[0])} to heads trained there, on the same tiles"
    )
    if not _is_shown(worst):
        return " ".join((*sentences, f"No loss at another magnification is shown; the lowest difference is of {told}."))
    sentences.append(f"The largest loss that is shown is that of {told}.")
    sentences += [
        _matched(worst, other)
        for other in matrices
        if other.training_size == first.training_size and other.experiment != first.experiment
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _estimable(matrix: MagnificationMatrix) -> bool:
    return any(cell.on_diagonal and not math.isnan(cell.scores[0].value) for cell in matrix.cells)


def _single(matrix: MagnificationMatrix) -> list[MatrixCell]:
    """Cells off the diagonal whose heads saw one magnification, and that have a difference."""
    return [
        cell
        for cell in matrix.cells
        if cell.trained_on in matrix.columns and cell.differences and not math.isnan(cell.differences[0].value)
    ]


def _worst(matrix: MagnificationMatrix) -> MatrixCell | None:
    """Return the cell that loses most, one whose loss is shown before any other."""
    return min(_single(matrix), key=lambda cell: (not _is_shown(cell), cell.differences[0].value), default=None)


def _is_shown(cell: MatrixCell) -> bool:
    """Whether the whole interval of a cell's difference lies below 0."""
    interval = cell.differences[0].interval
    return interval is not None and interval.high < 0


def _matched(worst: MatrixCell, other: MagnificationMatrix) -> str:
    cell = other.cell(worst.trained_on, worst.magnification)
    if not cell.differences or math.isnan(cell.differences[0].value):
        return f"With {other.experiment} that cell is not estimable."
    before, now = worst.differences[0].value, cell.differences[0].value
    share = (before - now) / before if before < 0 else float("nan")
    words = f"With {other.experiment} the same difference is {in_words(cell.differences[0])}"
    interval = cell.differences[0].interval
    if not math.isfinite(share) or interval is None:
        return f"{words}."
    if share >= 0.5:
        return f"{words}: consistent with scale as the larger part of the loss, at the price named beside the matrix."
    if interval.high < 0:
        return f"{words}: a loss remains that this match does not explain, or that the match itself costs."
    return f"{words}: whether scale explains the loss can't be told from these groups."


# ------------------------------------------------------------------------------
# The two views that hold scale or field of view equal between magnifications, and what each view shows.
#
# N tiles


MATCHED: tuple[Experiment, ...] = ("equal input_mpp", "equal field of view")


def matched_view(tiles: TileSet, view: ViewConfig, experiment: Experiment) -> ViewConfig:
    """Return the view under which all magnifications look alike in one respect.

    A network's input has a fixed number of pixels, so scale and field can't both be kept without a price.
    ``equal input_mpp`` takes the scale at which the network sees the lowest magnification: every tile is shrunk to it,
    detail is equal, and what is missing of the field is padding. ``equal field of view`` takes the scale at which it
    sees the highest: lower magnifications are cropped to the same tissue and enlarged, nothing is padded, and detail
    is not equal.
    """
    if experiment not in MATCHED:
        return view
    plain = view.model_copy(update={"name": "short-side-crop", "target_mpp": None})
    seen = seen_scales(tiles, plain)
    unknown = [one.magnification for one in seen if not np.isfinite(one.input_mpp)]
    if unknown:
        raise UserError(
            f"{experiment} needs the scale of every magnification",
            value=", ".join(unknown),
            fix="give the data set's mpp: histotune data describe",
        )
    choose = max if experiment == "equal input_mpp" else min
    target = choose(one.input_mpp for one in seen)
    return plain.model_copy(update={"target_mpp": float(f"{target:.6g}")})


def seen_scales(tiles: TileSet, view: ViewConfig) -> tuple[SeenScale, ...]:
    """Return what a view shows of each magnification's labelled tiles."""
    geometry = view_geometry(tiles, view)
    mpp_N = geometry.input_mpp_N2.mean(axis=1)
    of_tile = tiles.table["magnification"].fill_null("").to_numpy()
    ratio_N = np.divide(
        geometry.resized_px_N2.min(axis=1),
        geometry.source_px_N2.min(axis=1),
        out=np.full(len(tiles), np.nan),
        where=geometry.known_N,
    )
    found = []
    for name in magnifications_of(tiles):
        here_N = (of_tile == name) & (tiles.labels_N >= 0)
        found.append(
            SeenScale(
                name,
                input_mpp=_median(mpp_N[here_N]),
                seen_share=_median(geometry.seen_share_N[here_N]),
                padded_share=_median(geometry.padded_share_N[here_N]),
                enlargement=_median(ratio_N[here_N]),
            )
        )
    return tuple(found)


def _median(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


# ------------------------------------------------------------------------------
# The cross-magnification matrix as a record: cells, what they rest on, and what a view cost them.


Experiment = Literal["as the network sees it", "equal input_mpp", "equal field of view"]
TrainingSize = Literal["equal", "all data"]


@dataclass(frozen=True)
class MatrixCell:
    """Heads of one training set, scored at one magnification.

    Attributes:
        trained_on: "100X", "all but 100X" or "all".
        magnification: Of the scored tiles.
        scores: AUROC first; NaN with its reason where not estimable.
        differences: Each score less that of the heads trained at the scored magnification, on the same tiles, paired
            by group; empty on the diagonal and where either is not estimable.
        n_train_tiles: Median over folds.
        n_train_groups: Median over folds.
    """

    trained_on: str
    magnification: str
    scores: tuple[Score, ...]
    differences: tuple[Score, ...]
    n_train_tiles: int
    n_train_groups: int

    @property
    def on_diagonal(self) -> bool:
        """Whether the heads were trained at the scored magnification alone."""
        return self.trained_on == self.magnification


@dataclass(frozen=True)
class SeenScale:
    """What the network saw of one magnification's tiles.

    Attributes:
        magnification: Which.
        input_mpp: Median, um/px; NaN where unknown.
        seen_share: Median share of a tile that reaches the network.
        padded_share: Median share of the network's input that is padding.
        enlargement: Median of resized over stored pixels along a side; above 1 the network sees no more detail.
    """

    magnification: str
    input_mpp: float
    seen_share: float
    padded_share: float
    enlargement: float

    @property
    def lost(self) -> str:
        """What the view cost, in words; empty where nothing worth a word."""
        words = []
        if self.seen_share < 0.995:
            words.append(f"{1 - self.seen_share:.0%} of the tile is cut off")
        if self.padded_share > 0.005:
            words.append(f"{self.padded_share:.0%} of the input is padding")
        if self.enlargement > 1.005:
            words.append(f"enlarged {self.enlargement:.1f} x, without more detail")
        elif self.enlargement < 0.995:
            words.append(f"shrunk to {self.enlargement:.2f} of its pixels")
        return "; ".join(words)


@dataclass(frozen=True)
class MagnificationMatrix:
    """One experiment with one rule for the size of training sets.

    Attributes:
        experiment: The view: as it is, or matched.
        training_size: "equal": every group gives every training set as many tiles; "all data": all there are.
        view: The view in words.
        cells: Training sets in rows, magnifications in columns, row by row.
        scales: What the network saw, per magnification.
        notes: Caveats, one sentence each.
    """

    experiment: Experiment
    training_size: TrainingSize
    view: str
    cells: tuple[MatrixCell, ...]
    scales: tuple[SeenScale, ...]
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the training sets."""
        return tuple(dict.fromkeys(cell.trained_on for cell in self.cells))

    @property
    def columns(self) -> tuple[str, ...]:
        """Scored magnifications, lowest first."""
        return tuple(dict.fromkeys(cell.magnification for cell in self.cells))

    def cell(self, trained_on: str, magnification: str) -> MatrixCell:
        """Return one cell."""
        return next(c for c in self.cells if (c.trained_on, c.magnification) == (trained_on, magnification))


@dataclass(frozen=True)
class MatrixStudy:
    """All matrices of a data set.

    Attributes:
        data_set: Its name.
        backbone: The backbone.
        protocol: How the numbers were made, with the seeds.
        matrices: With equal training sizes first; the view as it is first.
        marks: Marks of every number: SYNTHETIC, TOO NARROW.
        answer: What the matrices say, in plain words.
        licence: Of the data.
        citation: Of the data.
        split_hash: Hash of the outer folds.
    """

    data_set: str
    backbone: str
    protocol: str
    matrices: tuple[MagnificationMatrix, ...]
    marks: tuple[str, ...]
    answer: str
    licence: str
    citation: str
    split_hash: str

    def as_dict(self) -> dict[str, object]:
        """Return a JSON-ready dict."""
        return asdict(self)


# ------------------------------------------------------------------------------
# Train on every row of the matrix by cross-fitting, score every column, and set each cell against the diagonal.
#
# N tiles, S training sets


METRICS: tuple[MetricName, ...] = ("auroc", "balanced_accuracy", "log_loss")


@dataclass(frozen=True)
class MatrixRow:
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
        sets = {name: np.zeros(len(material.tiles), bool) for name in names}
        untrainable = {name: untrainable.get(name, error.what) for name in names}
    rows = _cross_fit_rows(material, plan, sets, (settings, untrainable))
    scored = _scored_tiles(material, plan)
    cells = []
    for row in rows:
        for name in names:
            diagonal = next(one for one in rows if one.name == name)
            cells.append(_cell(row, diagonal, name, settings, scored))
    return MagnificationMatrix(
        seen.experiment,
        size,
        material.view,
        tuple(cells),
        seen.scales,
        (*_size_notes(material, sets, size), *seen.notes),
    )


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
    sets = training_sets(material.tiles, "all data", 0)
    masks = _masks(plan, {name: sets[name] for name in names})
    task = sweep_task(material, [mask_N for of_fold in masks.values() for mask_N in of_fold], ())
    reasons = {name: _why_not(material, task, of_fold, settings) for name, of_fold in masks.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def _folds(plan: CrossFitPlan) -> list[int]:
    return sorted({int(fold) for fold in plan.fold_N[plan.fold_N >= 0]})


def _masks(plan: CrossFitPlan, sets: Mapping[str, Bool]) -> dict[str, list[NDArray[np.bool_]]]:
    """Return each set's training tiles without every fold."""
    return {
        name: [train_N & (plan.fold_N >= 0) & (plan.fold_N != fold) for fold in _folds(plan)]
        for name, train_N in sets.items()
    }


def _cross_fit_rows(
    material: Material, plan: CrossFitPlan, sets: Mapping[str, Bool], context: tuple[StudySettings, dict[str, str]]
) -> list[MatrixRow]:
    """Sweep every training set without every fold, all in one batch."""
    settings, untrainable = context
    folds, masks = _folds(plan), _masks(plan, sets)
    task = sweep_task(material, [mask_N for of_fold in masks.values() for mask_N in of_fold], ())
    reasons = {
        name: untrainable.get(name) or _why_not(material, task, of_fold, settings) for name, of_fold in masks.items()
    }
    kept = [mask_N for name, of_fold in masks.items() if not reasons[name] for mask_N in of_fold]
    swept = sweep(material.embeddings, sweep_task(material, kept, ()), settings.sweep, settings.support) if kept else ()
    results = iter(swept)
    rows = []
    for name, of_fold in masks.items():
        n_tiles = int(np.median([mask_N.sum() for mask_N in of_fold]))
        n_groups = int(np.median([len({task.groups[row] for row in np.flatnonzero(mask_N)}) for mask_N in of_fold]))
        predictions = None if reasons[name] else _predict(material, plan, [next(results) for _ in folds], folds)
        rows.append(MatrixRow(name, predictions, n_tiles, n_groups, reasons[name]))
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
            training_set(material.embeddings.tile_ids, task, rows, rows, plan)
        except UserError as error:
            return error.what
    return ""


def _predict(material: Material, plan: CrossFitPlan, results: list[SweepResult], folds: Sequence[int]) -> Predictions:
    known_N = (material.tiles.labels_N >= 0) & material.tiles.table["magnification"].is_not_null().to_numpy()
    rows_by_fold = [np.flatnonzero((plan.fold_N == fold) & known_N) for fold in folds]
    return score_folds(material, plan, results, rows_by_fold)


def _cell(
    row: MatrixRow, diagonal: MatrixRow, magnification: str, settings: StudySettings, scored: ScoredTiles
) -> MatrixCell:
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


def _size_notes(material: Material, sets: Mapping[str, Bool], size: TrainingSize) -> tuple[str, ...]:
    """Say what equal sizes left out."""
    if size == "all data":
        return ("Rows differ in how many tiles and groups train them, so they don't compare by magnification alone.",)
    groups = np.array(tile_groups(material.tiles))
    labelled_N = material.tiles.labels_N >= 0
    largest_N = max(sets.values(), key=np.count_nonzero)
    n_all, n_kept = len(set(groups[labelled_N])), len(set(groups[largest_N]))
    if not n_kept:
        return ("Training sizes can't be equalised here.",)
    missing = f" {n_all - n_kept} of {n_all} groups lack one of the equalised magnifications and train nothing."
    left_out = missing if n_kept < n_all else ""
    return (f"Every group gives every row as many tiles, {int(largest_N.sum()):,} in all.{left_out}",)


# ------------------------------------------------------------------------------
# Who trains each row of the matrix: one magnification, all but one, or all; equally many tiles per group, or all.
#
# N tiles


ALL = "all"


def magnifications_of(tiles: TileSet) -> tuple[str, ...]:
    """Return the magnifications that labelled tiles have, lowest first."""
    known = magnifications_in(tiles.table.filter(tiles.labels_N >= 0))
    names = tuple(known)
    if len(names) < 2:
        raise UserError(
            "a cross-magnification matrix needs labelled tiles of at least two magnifications",
            value=", ".join(names) or f"no magnifications in {tiles.name}",
            fix="histotune matrix breakhis --data BreaKHis_v1",
        )
    return names


def training_sets(
    tiles: TileSet, size: TrainingSize, seed: int, trainable: tuple[str, ...] | None = None
) -> dict[str, Bool]:
    """Return which tiles train each row, by its name: "100X", "all but 100X" or "all"."""
    names = magnifications_of(tiles)
    members_of_all = names if trainable is None or size == "all data" else trainable
    rows: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in names]
    if len(members_of_all) > 2:
        rows += [(f"all but {name}", tuple(o for o in members_of_all if o != name)) for name in members_of_all]
    rows.append((ALL, members_of_all))
    of_tile = tiles.table["magnification"].fill_null("").to_numpy()
    labelled_N = tiles.labels_N >= 0
    if size == "all data":
        return {name: labelled_N & np.isin(of_tile, members) for name, members in rows}
    drawn = _draw_per_group(tiles, members_of_all, seed)
    nothing_N = np.zeros(len(tiles), bool)
    return {
        name: _take_in_turn(len(tiles), drawn, members) if set(members) <= set(members_of_all) else nothing_N
        for name, members in rows
    }


def _draw_per_group(tiles: TileSet, names: tuple[str, ...], seed: int) -> list[dict[str, Int]]:
    """Return, per group with every magnification, as many drawn rows of each; independent of the order of rows."""
    rng = np.random.Generator(np.random.PCG64(seed))
    by_group: dict[str, dict[str, list[int]]] = {}
    of_tile, labels_N, groups = tiles.table["magnification"].to_list(), tiles.labels_N, tile_groups(tiles)
    ids = tiles.tile_ids
    for row in sorted(range(len(tiles)), key=lambda row: ids[row]):
        if of_tile[row] is not None and labels_N[row] >= 0:
            by_group.setdefault(groups[row], {}).setdefault(of_tile[row], []).append(row)
    drawn = []
    for group in sorted(by_group):
        rows = by_group[group]
        if all(name in rows for name in names):
            n = min(len(rows[name]) for name in names)
            drawn.append({name: np.array(rows[name])[rng.permutation(len(rows[name]))[:n]] for name in names})
    if not drawn:
        raise UserError(
            "no group has tiles at every magnification, so training sizes can't be equalised by group",
            value=", ".join(names),
        )
    return drawn


def _take_in_turn(n_tiles: int, drawn: list[dict[str, Int]], members: tuple[str, ...]) -> Bool:
    """Take as many tiles of every group as a single magnification gives, from the members in turn."""
    train_N = np.zeros(n_tiles, bool)
    for number, rows in enumerate(drawn):
        n = len(rows[members[0]])
        first = number % len(members)  # so that the remainder doesn't always fall to the lowest magnification
        order = members[first:] + members[:first]
        for place, name in enumerate(order):
            train_N[rows[name][: (n - place + len(order) - 1) // len(order)]] = True
    return train_N
