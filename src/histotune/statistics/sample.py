"""Which tiles a score looks at, as arrays, and how groups are drawn."""

# N tiles, K classes, G units (groups, or tiles where asked), B resamples

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from histotune.statistics.predictions import Predictions, Ranking

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


CHUNK_VALUES = 2**18
CHUNK_ROWS = 512


@dataclass(frozen=True)
class Sample:
    """Scored tiles as arrays, in an order that does not depend on the order of the rows.

    Attributes:
        y_N: Labels.
        probability_NK: Probabilities.
        score_NK: What ranks: logits in binary tasks (they don't saturate) and for pairs of classes, probabilities
            otherwise.
        predicted_N: Decisions.
        fold_N: Fold per tile.
        patient_N: Number of the authors' patient per tile; None where one is unknown.
        group_N: Group number per tile, groups numbered by their first tile; None where one is unknown.
        class_names: Names by label.
        order: Row of the table behind each tile.
        tile_ids: Id per tile.
        ranking: What AUROC means with several classes.
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
    tile_ids: pl.Series
    ranking: Ranking = "rest"

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def n_groups(self) -> int:
        """Number of groups; 0 where unknown."""
        return 0 if self.group_N is None or not len(self.group_N) else int(self.group_N.max()) + 1


def read_sample(predictions: Predictions) -> Sample:
    """Read predictions into arrays sorted by tile."""
    # Sorted by tile, so that sums and resamples do not depend on the order of the rows.
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
        score_NK=_ranking_scores(logit_NK, probability_NK, predictions.ranking),
        predicted_N=predictions.predicted_N[order],
        fold_N=table["fold"].fill_null(-1).to_numpy()[order].astype(np.int64),
        patient_N=_codes(table["source_patient_id"], order),
        group_N=_codes(table["group_id"], order),
        class_names=predictions.class_names,
        order=order,
        tile_ids=table["tile_id"].gather(order),
        ranking=predictions.ranking,
    )


def _ranking_scores(logit_NK: Float, probability_NK: Float, ranking: Ranking) -> Float:
    """Return what ranks tiles per class; binary tasks hold 0 for class 0, so that no rounding breaks a tie."""
    finite = np.isfinite(logit_NK).all()
    if probability_NK.shape[1] != 2:
        return logit_NK if finite and ranking == "pairs" else probability_NK
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


def draw_counts(stratum_G: Int, n_resamples: int, seed: int) -> Iterator[Float]:
    """Yield how often each unit was drawn, in chunks of resamples.

    Units are drawn with replacement within their stratum, so that every resample holds as many units of each as the
    data; a unit that holds several classes moves as one.
    """
    # One bincount counts a whole chunk: resample b of a stratum draws as many of its members as it has, numbered from b
    # n_units on.
    rng = np.random.Generator(np.random.PCG64(seed))
    n_units = len(stratum_G)
    strata = [np.flatnonzero(stratum_G == code) for code in range(int(stratum_G.max()) + 1)]
    chunk = int(np.clip(CHUNK_VALUES // n_units, 16, min(CHUNK_ROWS, n_resamples)))
    for start in range(0, n_resamples, chunk):
        n = min(chunk, n_resamples - start)
        flat = [
            members[rng.integers(0, len(members), (n, len(members)))] + n_units * np.arange(n)[:, None]
            for members in strata
        ]
        drawn = np.concatenate([values.ravel() for values in flat])
        yield np.bincount(drawn, minlength=n * n_units).reshape(n, n_units).astype(np.float64)
