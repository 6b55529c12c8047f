"""What every evaluation starts from: tiles, their embeddings, and predictions built from logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.heads.head import class_probabilities, head_logits
from histotune.statistics.predictions import PREDICTION_COLUMNS, Predictions
from histotune.tools.files import hash_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.datasets.tileset import TileSet
    from histotune.embeddings.space import Embeddings
    from histotune.heads.head import Head

    Int = NDArray[np.int64]


# N tiles, K classes
@dataclass(frozen=True)
class Material:
    """A tile set as one backbone sees it, rows aligned.

    Attributes:
        tiles: The tiles; rows in the order of the embeddings.
        embeddings: One row per tile.
        input_mpp_N: Scale at which the network saw each tile, um/px; NaN where unknown.
        view: The view in words.
        default_pooling: Column blocks the backbone's authors recommend.
    """

    tiles: TileSet
    embeddings: Embeddings
    input_mpp_N: NDArray[np.float64]
    view: str
    default_pooling: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that rows are aligned."""
        if self.tiles.tile_ids != self.embeddings.tile_ids:
            raise ValueError("tiles and embeddings are not in the same order")

    def take(self, rows: NDArray[np.int64]) -> Material:
        """Return the rows at the given numbers, in that order."""
        return Material(
            self.tiles.take(rows),
            self.embeddings.take(rows),
            self.input_mpp_N[rows],
            self.view,
            self.default_pooling,
        )


@dataclass(frozen=True)
class ScoredRows:
    """Logits of some tiles and where they come from.

    Attributes:
        rows: Row numbers within the material.
        logit_NK: Logit per scored tile and class.
        probability_NK: Probability per scored tile and class.
        head_ids: Head per scored tile.
        fold_N: Fold per scored tile; 0 where there are none.
        seed: Seed of the folds.
        split_hash: Hash of the split the head was trained on.
        threshold_N: Probability of class 1 from which class 1 is predicted in binary tasks, per scored tile; None
            predicts the most probable class.
    """

    rows: NDArray[np.int64]
    logit_NK: NDArray[np.float64]
    probability_NK: NDArray[np.float64]
    head_ids: Sequence[str]
    fold_N: NDArray[np.int64]
    seed: int
    split_hash: str
    threshold_N: NDArray[np.float64] | None = None


def domains_of(tiles: TileSet) -> list[str]:
    """Return the domain of every tile: data set, part where it has one, magnification where it has one."""
    words = pl.concat_str(pl.lit(tiles.name), "split", "magnification", separator=" ", ignore_nulls=True)
    return tiles.table.select(words).to_series().to_list()


def build_predictions(material: Material, scored: ScoredRows) -> Predictions:
    """Join logits with what is known about their tiles."""
    tiles = material.tiles.take(scored.rows)
    n_classes = len(tiles.class_names)
    table = tiles.table.select("tile_id", "group_id", "source_patient_id", "slide_id").with_columns(
        pl.Series("domain", domains_of(tiles)),
        pl.Series("fold", scored.fold_N, dtype=pl.Int32),
        pl.lit(scored.seed, dtype=pl.Int32).alias("seed"),
        tiles.table["label"].alias("y_true"),
        pl.Series("logit", scored.logit_NK, dtype=pl.Array(pl.Float64, n_classes)),
        pl.Series("probability", scored.probability_NK, dtype=pl.Array(pl.Float64, n_classes)),
        pl.Series("head_id", list(scored.head_ids), dtype=pl.String),
        pl.lit(scored.split_hash).alias("split_hash"),
        pl.lit(material.view).alias("view"),
        pl.Series("input_mpp", material.input_mpp_N[scored.rows]),
        pl.Series("threshold", np.full(len(tiles), 0.5) if scored.threshold_N is None else scored.threshold_N),
    )
    return Predictions(table.select(*PREDICTION_COLUMNS, "threshold").sort("tile_id"), tiles.class_names)


# ------------------------------------------------------------------------------
# A finished head on tiles it is not refitted on: predictions with one head, no folds.


# N scored tiles, K classes
def head_predictions(material: Material, rows: NDArray[np.int64], head: Head, split_hash: str) -> Predictions:
    """Apply a head to some tiles."""
    logit_NK = head_logits(head, material.embeddings.take(rows))
    scored = ScoredRows(
        rows=rows,
        logit_NK=logit_NK,
        probability_NK=class_probabilities(head, logit_NK),
        head_ids=[head.head_id] * len(rows),
        fold_N=np.zeros(len(rows), dtype=np.int64),
        seed=0,
        split_hash=split_hash,
        threshold_N=np.full(len(rows), head.threshold),
    )
    return build_predictions(material, scored)


# ------------------------------------------------------------------------------
# A draw of tiles spread over groups: many groups with few tiles each before few groups with many.
#
# N tiles, n drawn


def spread_order(tile_ids: Sequence[str], groups: Sequence[str], seed: int) -> Int:
    """Return rows in an order whose every beginning is spread over groups as evenly as their sizes allow.

    Each group deals out one tile per round; who comes first follows hashes of the tile ids, so that the order of the
    rows changes nothing and another seed draws other tiles.

    Example:
        >>> order = spread_order(["a", "b", "c"], ["g", "g", "h"], 0)
        >>> {["g", "g", "h"][row] for row in order[:2]} == {"g", "h"}
        True
    """
    keys = [hash_bytes("spread", str(seed), tile_id.encode("utf-8", "surrogateescape")) for tile_id in tile_ids]
    n_dealt: dict[str, int] = {}
    rounds = [0] * len(keys)
    for row in sorted(range(len(keys)), key=keys.__getitem__):
        rounds[row] = n_dealt.get(groups[row], 0)
        n_dealt[groups[row]] = rounds[row] + 1
    return np.array(sorted(range(len(keys)), key=lambda row: (rounds[row], keys[row])), dtype=np.int64)
