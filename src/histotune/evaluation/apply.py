"""A finished head on tiles it is not refitted on: predictions with one head, no folds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.evaluation.predict import ScoredRows, build_predictions
from histotune.heads.head import class_probabilities, head_logits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.evaluation.predict import Material
    from histotune.heads.head import Head
    from histotune.statistics.predictions import Predictions
# N scored tiles, K classes


def head_predictions(material: Material, rows: NDArray[np.int64], head: Head, split_hash: str) -> Predictions:
    """Apply a head to some tiles.

    Args:
        material: Tiles and embeddings.
        rows: Row numbers of the tiles to score.
        head: The head, applied as it is, with its own threshold.
        split_hash: Hash of what is scored.

    Returns:
        A row per scored tile.
    """
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
