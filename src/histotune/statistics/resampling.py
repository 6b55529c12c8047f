"""Which tiles a score looks at, which groups are resampled, and every metric as a function of group counts."""

# N tiles, K classes, G groups, B resamples, U distinct scores

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.errors import UserError
from histotune.statistics import metrics as m

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from histotune.statistics.metrics import MetricName
    from histotune.statistics.records import Predictions

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]
    Evaluator = Callable[[NDArray[np.float64]], NDArray[np.float64]]

MAX_DENSE = 4_000_000
"""Entries of a groups-by-scores table up to which resamples are scored from group tables, not tile by tile."""
CHUNK_VALUES = 2**18


@dataclass(frozen=True)
class Sample:
    """Scored tiles as arrays, in an order that does not depend on the order of the rows.

    Attributes:
        y_N: Labels.
        probability_NK: Probabilities.
        score_NK: What ranks: logits in binary tasks (they don't saturate), probabilities otherwise.
        predicted_N: Decisions.
        fold_N: Fold per tile.
        patient_N: Number of the authors' patient per tile; None where one is unknown.
        group_N: Group number per tile, groups numbered by their first tile; None where one is unknown.
        class_names: Names by label.
        order: Row of the table behind each tile.
    """

    y_N: Int
    probability_NK: Float
    score_NK: Float
    predicted_N: Int
    fold_N: Int
    patient_N: Int | None
    group_N: Int | None
    class_names: tuple[str, ...]
    order: Int

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def n_groups(self) -> int:
        """Number of groups; 0 where unknown."""
        return 0 if self.group_N is None or not len(self.group_N) else int(self.group_N.max()) + 1


def read_sample(predictions: Predictions) -> Sample:
    """Read predictions into arrays sorted by tile.

    Args:
        predictions: The scored tiles.

    Returns:
        The arrays.

    Raises:
        UserError: A tile has no label, or a probability is not finite.
    """
    keys = ("tile_id", "domain", "seed", "fold", "head_id")
    order = predictions.table.select(pl.arg_sort_by(keys)).to_series().to_numpy().astype(np.int64)
    table = predictions.table
    if table["y_true"].null_count() or (len(table) and int(table["y_true"].min()) < 0):  # type: ignore[arg-type]
        raise UserError("tiles without a label can't be scored", fix="score the labelled tiles only")
    probability_NK = predictions.probability_NK[order]
    if not np.isfinite(probability_NK).all():
        raise UserError("some predicted probabilities are not finite", fix="check the embeddings of these tiles")
    logit_NK = predictions.logit_NK[order]
    return Sample(
        y_N=predictions.y_true_N[order],
        probability_NK=probability_NK,
        score_NK=_ranking_scores(logit_NK, probability_NK),
        predicted_N=predictions.predicted_N[order],
        fold_N=table["fold"].fill_null(-1).to_numpy()[order].astype(np.int64),
        patient_N=_codes(table["source_patient_id"], order),
        group_N=_codes(table["group_id"], order),
        class_names=predictions.class_names,
        order=order,
    )


def _ranking_scores(logit_NK: Float, probability_NK: Float) -> Float:
    """Return what ranks tiles per class; binary tasks hold 0 for class 0, so that no rounding breaks a tie."""
    if probability_NK.shape[1] != 2:
        return probability_NK
    finite = np.isfinite(logit_NK).all()
    margin_N = logit_NK[:, 1] - logit_NK[:, 0] if finite else probability_NK[:, 1]
    return np.stack([np.zeros(len(margin_N)), margin_N], axis=1)


def _codes(column: pl.Series, order: Int) -> Int | None:
    """Number the ids by first appearance; None where one is unknown."""
    if column.null_count() or not len(column):
        return None
    ranks = column.rank("dense").to_numpy().astype(np.int64)[order]
    _, first, inverse = np.unique(ranks, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse])


def class_signatures(y_N: Int, unit_N: Int, n_units: int, n_classes: int) -> NDArray[np.bool_]:
    """Return which classes each unit holds, (n_units, K)."""
    holds = np.zeros((n_units, n_classes), bool)
    holds[unit_N, y_N] = True
    return holds


def draw_counts(holds_GK: NDArray[np.bool_], n_resamples: int, seed: int, n_tiles: int) -> Iterator[Float]:
    """Yield how often each unit was drawn, in chunks of resamples.

    Units are drawn with replacement within strata of equal class signature, so that every resample holds as many
    units of each kind as the data; a unit that holds several classes moves as one.

    Args:
        holds_GK: Which classes each unit holds.
        n_resamples: Number of resamples.
        seed: Seed of the draws.
        n_tiles: Number of tiles, which sets the size of a chunk.

    Yields:
        Counts (b, G).
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    n_units = len(holds_GK)
    _, stratum_G = np.unique(holds_GK, axis=0, return_inverse=True)
    strata = [np.flatnonzero(stratum_G.ravel() == code) for code in range(int(stratum_G.max()) + 1)]
    chunk = int(np.clip(CHUNK_VALUES // max(n_tiles, n_units), 16, n_resamples))
    for start in range(0, n_resamples, chunk):
        n = min(chunk, n_resamples - start)
        flat = [
            members[rng.integers(0, len(members), (n, len(members)))] + n_units * np.arange(n)[:, None]
            for members in strata
        ]
        drawn = np.concatenate([values.ravel() for values in flat])
        yield np.bincount(drawn, minlength=n * n_units).reshape(n, n_units).astype(np.float64)


def make_evaluator(name: MetricName, sample: Sample, unit_N: Int, n_units: int, *, within_folds: bool) -> Evaluator:
    """Return a function from unit counts (B, G) to values (B,).

    Args:
        name: The metric.
        sample: The tiles.
        unit_N: Resampling unit per tile.
        n_units: Number of units.
        within_folds: AUROC compares only tiles of one fold.

    Returns:
        The metric as a function of how often each unit was drawn.

    Raises:
        UserError: The metric does not exist, or AUPRC was asked for with more than two classes.
    """
    if name == "auroc":
        return _auroc_evaluator(sample, unit_N, n_units, sample.fold_N if within_folds else None)
    if name == "auprc":
        if sample.n_classes != 2:
            raise UserError("AUPRC is defined for two classes", value=f"{sample.n_classes} classes",
                            fix="leave auprc out of the metrics")  # fmt: skip
        return _auprc_evaluator(sample, unit_N, n_units)
    sums = _tile_sums(name, sample)
    addend_GM = np.stack(
        [np.bincount(unit_N, weights=column, minlength=n_units) for column in sums.addend_NM.T], axis=1
    )
    return lambda counts_BG: sums.finish(counts_BG @ addend_GM)


def _tile_sums(name: MetricName, sample: Sample) -> m.TileSums:
    """Return the addends of a metric that is a function of sums."""
    y_N, predicted_N, p_NK = sample.y_N, sample.predicted_N, sample.probability_NK
    if name == "patient_recognition_rate" and sample.patient_N is not None:
        return m.patient_recognition_sums(y_N, predicted_N, sample.patient_N)
    makers: dict[str, Callable[[], m.TileSums]] = {
        "accuracy": lambda: m.accuracy_sums(y_N, predicted_N),
        "balanced_accuracy": lambda: m.balanced_accuracy_sums(y_N, predicted_N, sample.n_classes),
        "macro_f1": lambda: m.macro_f1_sums(y_N, predicted_N, sample.n_classes),
        "log_loss": lambda: m.log_loss_sums(y_N, p_NK),
        "brier": lambda: m.brier_sums(y_N, p_NK),
        "ece": lambda: m.ece_sums(y_N, p_NK),
    }
    if name not in makers:
        raise UserError("this metric can't be computed from these predictions", value=name, allowed=", ".join(makers))
    return makers[name]()


def win_matrix(
    positive_N: NDArray[np.bool_], score_N: Float, unit_N: Int, n_units: int, fold_N: Int | None = None
) -> tuple[Float, Float]:
    """Return wins and comparable pairs between every two units.

    Args:
        positive_N: Which tiles are positive.
        score_N: Ranking score.
        unit_N: Unit (group) per tile.
        n_units: Number of units G.
        fold_N: Compare only tiles of one fold.

    Returns:
        (wins, pairs), each (G, G): entry (g, h) counts the pairs of a positive tile of g and a negative tile of h,
        wins those where the positive scores higher, ties half.
    """
    wins_GG, pairs_GG = np.zeros((n_units, n_units)), np.zeros((n_units, n_units))
    for rows in m.fold_rows(fold_N, len(score_N)):
        positive_GU, negative_GU = _tables(positive_N[rows], score_N[rows], unit_N[rows], n_units)
        wins_GG += positive_GU @ (np.cumsum(negative_GU, axis=1) - 0.5 * negative_GU).T
        pairs_GG += np.outer(positive_GU.sum(axis=1), negative_GU.sum(axis=1))
    return wins_GG, pairs_GG


def _tables(positive_N: NDArray[np.bool_], score_N: Float, unit_N: Int, n_units: int) -> tuple[Float, Float]:
    """Return positive and negative tiles per unit and distinct score, scores ascending."""
    distinct, rank_N = np.unique(score_N, return_inverse=True)
    cell_N = unit_N * len(distinct) + rank_N
    shape = (n_units, len(distinct))
    tables = [
        np.bincount(cell_N, weights=which.astype(np.float64), minlength=n_units * len(distinct)).reshape(shape)
        for which in (positive_N, ~positive_N)
    ]
    return np.asarray(tables[0], np.float64), np.asarray(tables[1], np.float64)


def _auroc_evaluator(sample: Sample, unit_N: Int, n_units: int, fold_N: Int | None) -> Evaluator:
    """AUROC from pair counts between units, or tile by tile where there are too many units."""
    if n_units * max(n_units, len(unit_N)) > MAX_DENSE:
        return lambda counts_BG: m.weighted_auroc(sample.y_N, sample.score_NK, counts_BG[:, unit_N], fold_N)
    matrices = [
        win_matrix(positive_N, score_N, unit_N, n_units, fold_N)
        for positive_N, score_N in m.ranking_tasks(sample.y_N, sample.score_NK)
    ]

    def evaluate(counts_BG: Float) -> Float:
        values = []
        for wins_GG, pairs_GG in matrices:
            wins_B = np.einsum("bg,bg->b", counts_BG @ wins_GG, counts_BG)
            pairs_B = np.einsum("bg,bg->b", counts_BG @ pairs_GG, counts_BG)
            values.append(np.divide(wins_B, pairs_B, out=np.full_like(wins_B, np.nan), where=pairs_B > 0))
        return np.asarray(np.mean(values, axis=0))

    return evaluate


def _auprc_evaluator(sample: Sample, unit_N: Int, n_units: int) -> Evaluator:
    """Average precision from cumulative counts per unit at the scores where positives lie."""
    positive_N, score_N = m.ranking_tasks(sample.y_N, sample.score_NK)[0]
    if n_units * len(unit_N) > MAX_DENSE:
        return lambda counts_BG: m.weighted_average_precision(positive_N, score_N, counts_BG[:, unit_N])
    positive_GU, negative_GU = _tables(positive_N, -score_N, unit_N, n_units)
    gains = positive_GU.any(axis=0)
    positives_above_GU = np.cumsum(positive_GU, axis=1)[:, gains]
    above_GU = positives_above_GU + np.cumsum(negative_GU, axis=1)[:, gains]
    gained_GU = positive_GU[:, gains]
    return lambda counts_BG: m.average_precision_from_blocks(
        counts_BG @ gained_GU, counts_BG @ positives_above_GU, counts_BG @ above_GU
    )
