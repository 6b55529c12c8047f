from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.statistics.predictions import Predictions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def make_predictions(
    y: NDArray[np.int64],
    logit: NDArray[np.float64],
    groups: Sequence[str | None],
    folds: NDArray[np.int64] | None = None,
    patients: Sequence[str | None] | None = None,
    tile_ids: Sequence[str] | None = None,
) -> Predictions:
    n, n_classes = logit.shape
    e = np.exp(logit - logit.max(axis=1, keepdims=True))
    table = pl.DataFrame(
        {
            "tile_id": list(tile_ids) if tile_ids is not None else [f"tile{i:05d}" for i in range(n)],
            "group_id": pl.Series(list(groups), dtype=pl.String),
            "source_patient_id": pl.Series(list(patients if patients is not None else groups), dtype=pl.String),
            "slide_id": ["s"] * n,
            "domain": ["d"] * n,
            "fold": pl.Series(np.zeros(n) if folds is None else folds, dtype=pl.Int32),
            "seed": pl.Series([0] * n, dtype=pl.Int32),
            "y_true": pl.Series(y, dtype=pl.Int32),
            "logit": pl.Series(logit, dtype=pl.Array(pl.Float64, n_classes)),
            "probability": pl.Series(e / e.sum(axis=1, keepdims=True), dtype=pl.Array(pl.Float64, n_classes)),
            "head_id": ["h"] * n,
            "split_hash": ["x"] * n,
            "view": ["v"] * n,
            "input_mpp": [0.5] * n,
        }
    )
    return Predictions(table, tuple(f"class{k}" for k in range(n_classes)))


def random_predictions(
    n: int = 120, n_groups: int = 16, n_classes: int = 2, seed: int = 0, mixed: float = 0.1
) -> Predictions:
    """Tied scores, groups mostly of one class, folds by group."""
    rng = np.random.default_rng(seed)
    group = np.r_[np.arange(n_groups), rng.integers(0, n_groups, n - n_groups)]
    y = np.where(rng.random(n) < mixed, rng.integers(0, n_classes, n), group % n_classes)
    y[:n_groups] = np.arange(n_groups) % n_classes
    logit = rng.standard_normal((n, n_classes)) + 0.5 * rng.standard_normal((n_groups, 1))[group]
    logit[np.arange(n), y] += 0.8
    logit = np.round(logit, 1)
    if n_classes == 2:
        logit[:, 0] = 0.0
    return make_predictions(y, logit, [f"g{g:03d}" for g in group], folds=group % 4)
