"""How much a lower precision moves the scores of a probe, asked without labels.

A probe can lean on directions in which tiles hardly differ, where an error that is small in every dimension is large.
So ridge probes are fitted to random targets on half of the tiles, once per precision, and score the other half: random
targets use every direction, and no label is needed.
"""

# N tiles, D columns, n tiles of a half, T random targets

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]

N_SPLITS, N_TARGETS = 32, 8
SHRINKAGE = 0.001
"""Ridge penalty over the mean eigenvalue of the Gram matrix."""


def probe_error(reference_ND: Float, candidate_ND: Float, seed: int = 0) -> float:
    """Return the RMS change of a probe's scores over their spread between tiles it was not trained on.

    Args:
        reference_ND: fp32 embeddings; finite, four tiles or more.
        candidate_ND: The same tiles otherwise computed or stored; finite.
        seed: Seed of the halves and the targets.

    Returns:
        0 where nothing changes; about the relative error of the directions that a probe uses. Dimensions without
        spread are left out.

    Example:
        >>> x_ND = np.random.default_rng(0).normal(size=(64, 20))
        >>> probe_error(x_ND, x_ND)
        0.0
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    mean_D, spread_D = reference_ND.mean(axis=0), reference_ND.std(axis=0)
    used_D = spread_D > 0
    if not used_D.any():
        return 0.0
    a_ND, b_ND = ((x_ND - mean_D)[:, used_D] / spread_D[used_D] for x_ND in (reference_ND, candidate_ND))
    squares, spread = 0.0, 0.0
    for _ in range(N_SPLITS):
        order_N = rng.permutation(len(a_ND))
        train_n, held_n = np.array_split(order_N, 2)
        target_nT = rng.normal(size=(len(train_n), N_TARGETS))
        score_nT = _ridge_scores(a_ND[train_n], a_ND[held_n], target_nT)
        squares += float(((_ridge_scores(b_ND[train_n], b_ND[held_n], target_nT) - score_nT) ** 2).sum())
        spread += float(((score_nT - score_nT.mean(axis=0)) ** 2).sum())
    return float(np.sqrt(squares / spread)) if spread > 0 else 0.0


def _ridge_scores(train_nD: Float, held_nD: Float, target_nT: Float) -> Float:
    """Return what ridge probes say of held-out tiles, from the Gram matrix because tiles are fewer than dimensions."""
    mean_D = train_nD.mean(axis=0)
    centred_nD = train_nD - mean_D
    gram_nn = centred_nD @ centred_nD.T
    gram_nn[np.diag_indices_from(gram_nn)] += SHRINKAGE * np.trace(gram_nn) / len(gram_nn) or 1.0
    weight_DT = centred_nD.T @ np.linalg.solve(gram_nn, target_nT - target_nT.mean(axis=0))
    return np.asarray((held_nD - mean_D) @ weight_DT)
