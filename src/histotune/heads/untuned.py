"""Heads that were never trained: the floor that shows what a draw of random weights already scores."""

# M draws, N tiles, D columns, K classes

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.embeddings.space import Embeddings


def untuned_logits(
    embeddings: Embeddings,
    columns: NDArray[np.int64],
    n_classes: int,
    n_draws: int,
    seed: int,
    train_rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the logits of random linear heads on standardised embeddings.

    Weights are drawn from a normal distribution with variance 1 / D, so that logits have unit scale; there is no bias.

    Args:
        embeddings: The tiles.
        columns: Column numbers of the pooling.
        n_classes: Number of classes.
        n_draws: Number of random heads.
        seed: Seed of the draws.
        train_rows: Rows whose mean and standard deviation standardise the columns.

    Returns:
        float64, (n_draws, n_tiles, n_classes); in binary tasks class 0 has logit 0.
    """
    x_ND = embeddings.matrix_ND[:, columns].astype(np.float64)
    train_nD = x_ND[train_rows]
    std_D = train_nD.std(axis=0)
    x_ND = (x_ND - train_nD.mean(axis=0)) / np.where(std_D > 0, std_D, 1.0)
    rng = np.random.Generator(np.random.PCG64(seed))
    n_logits = 1 if n_classes == 2 else n_classes
    weight_DJ = rng.standard_normal((len(columns), n_draws * n_logits)) / np.sqrt(len(columns))
    logit_MNK = (x_ND @ weight_DJ).reshape(len(x_ND), n_draws, n_logits).transpose(1, 0, 2)
    if n_logits == 1:
        logit_MNK = np.concatenate([np.zeros_like(logit_MNK), logit_MNK], axis=2)
    return np.ascontiguousarray(logit_MNK)
