"""How far apart source and target lie: Frechet distance, and how well a classifier tells them apart."""

# N tiles, n tiles of a half, R principal components

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from histotune.datasets.splits.folds import assign_group_folds
from histotune.heads.solver.logistic import fit_batch
from histotune.heads.solver.problems import FitProblems
from histotune.statistics.scores import score_predictions
from histotune.transfer.case import HeadMap, Shift, Side
from histotune.transfer.corrections import side_predictions
from histotune.transfer.direct import principal_parts
from histotune.transfer.recalibrate import two_class_margins

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.statistics.predictions import IntervalConfig, Score
    from histotune.transfer.config import TransferConfig

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

N_HALVES = 10
DOMAIN_PENALTY = 0.1


def measure_shift(source: Side, target: Side, config: TransferConfig, interval: IntervalConfig) -> Shift:
    """Measure the shift between embeddings of source and target.

    Args:
        source: Training tiles.
        target: Target tiles.
        config: Components, folds, seed.
        interval: How the interval of the domain AUROC is made.

    Returns:
        The shift; stain is added by who has the pixels.
    """
    components = min(config.components, source.x_ND.shape[1], len(source) - 1)
    source_NR, target_NR = principal_parts(source, target, components)
    between, within = _frechet_pair(source_NR, source.groups, target_NR, np.random.default_rng(config.seed))
    domain = _domain_auroc(source, target, config, interval)
    return Shift(between, within, components, domain, source.input_mpp, target.input_mpp)


def frechet_distance(a_nR: Float, b_nR: Float) -> float:
    """Return the squared Frechet distance between two normal distributions fitted to embeddings.

    Dowson and Landau, J. Multivariate Analysis 12, 1982; known in this form from Heusel et al., NeurIPS 2017.

    Args:
        a_nR: Embeddings.
        b_nR: Other embeddings.

    Returns:
        Squared distance of means plus the distance of covariances; at least 0.
    """
    cov_a, cov_b = (np.atleast_2d(np.cov(x_nR, rowvar=False)) for x_nR in (a_nR, b_nR))
    eigen, vectors = np.linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(np.maximum(eigen, 0.0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root_a @ cov_b @ root_a), 0.0)).sum()
    gap = a_nR.mean(axis=0) - b_nR.mean(axis=0)
    return float(max(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2.0 * cross, 0.0))


def _frechet_pair(
    source_NR: Float, groups: tuple[str, ...], target_NR: Float, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the distance to the target and within the source, over the same halves and numbers of tiles."""
    codes = np.unique(np.array(groups), return_inverse=True)[1]
    n_groups = int(codes.max()) + 1
    between, within = [], []
    for _ in range(N_HALVES):
        half_N = np.isin(codes, rng.permutation(n_groups)[: n_groups // 2])
        n = min(int(half_N.sum()), int((~half_N).sum()), len(target_NR))
        if n < 2:
            continue
        first, second, other = (
            x[rng.permutation(len(x))[:n]] for x in (source_NR[half_N], source_NR[~half_N], target_NR)
        )
        between.append(frechet_distance(first, other))
        within.append(frechet_distance(first, second))
    return (float(np.mean(between)), float(np.mean(within))) if between else (float("nan"), float("nan"))


def _domain_auroc(source: Side, target: Side, config: TransferConfig, interval: IntervalConfig) -> Score:
    """Score a logistic classifier of the domain, cross-validated over groups of both sides."""
    sides = (source, target)
    groups = tuple(f"{number}:{group}" for number, side in enumerate(sides) for group in side.groups)
    y_N = np.repeat([0, 1], [len(side) for side in sides]).astype(np.int64)
    fewest = min(len(set(side.groups)) for side in sides)
    both = Side("domains", np.concatenate([side.x_ND for side in sides]), y_N, groups,
                tuple(f"{number}:{tile}" for number, side in enumerate(sides) for tile in side.tile_ids),
                source.has_groups and target.has_groups)  # fmt: skip
    n_folds = max(min(config.folds, fewest), 2)
    fold_by_group = assign_group_folds(groups, y_N, 2, n_folds, config.seed)
    fold_N = np.array([fold_by_group[group] for group in groups], np.int64)
    problems = FitProblems(
        fold_N != np.arange(n_folds)[:, None], np.arange(n_folds), np.full(n_folds, DOMAIN_PENALTY), n_classes=2
    )
    found = fit_batch(both.x_ND, y_N, problems)
    margin_N = np.einsum("nd,nd->n", both.x_ND, found.weight_PKD[fold_N, 0]) + found.bias_PK[fold_N, 0]
    head = HeadMap(lambda x_ND: x_ND[:, :2], 0.5, DOMAIN_PENALTY, ("source", "target"), "domain classifier")
    predictions = side_predictions(both, head, two_class_margins(margin_N), (fold_N, np.full(len(y_N), 0.5)))
    return score_predictions(predictions, ["auroc"], interval, within_folds=True)[0]
