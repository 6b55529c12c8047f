"""k nearest neighbours for a whole grid of k at once, the similarities streamed in blocks.

Memory is bounded by one block of similarities, whatever the number of tiles: PatchCamelyon's test part against its
training part (32,768 x 262,144 similarities) needs some 200 MiB beyond the embeddings.
"""

# Q queries, N training tiles, D columns, J neighbours kept (the largest k), G values of k, K classes

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Matrix = NDArray[np.floating[Any]]
    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

Metric = Literal["cosine", "euclidean"]
Weighting = Literal["majority", "softmax"]
QUERY_BLOCK, TRAIN_BLOCK = 2048, 8192
NO_NEIGHBOUR = -1
TEMPERATURE = 0.07  # of the softmax vote, as in Wu et al., arXiv 1805.01978, and in DINO's evaluation


@dataclass(frozen=True)
class ExclusionCodes:
    """Whose tiles a query may not have as neighbours.

    Attributes:
        query_Q: A code per query.
        train_N: A code per training tile; equal codes exclude. Group codes leave a query's own group out, fold codes
            give out-of-fold neighbours of all folds in one search.
    """

    query_Q: Int
    train_N: Int


@dataclass(frozen=True)
class Neighbours:
    """The nearest training tiles of every query, nearest first.

    Attributes:
        index_QJ: Row of the training tile; -1 where fewer are allowed. Which of several equally near tiles (copies)
            comes first is not defined.
        similarity_QJ: float32: the cosine, or minus the squared distance; -inf where there is none.
    """

    index_QJ: Int
    similarity_QJ: NDArray[np.float32]


def nearest_neighbours(
    query_QD: Matrix,
    train_ND: Matrix,
    k: int,
    *,
    metric: Metric = "cosine",
    exclude: ExclusionCodes | None = None,
    device: str = "cpu",
) -> Neighbours:
    """Find the nearest training tiles of every query.

    Args:
        query_QD: Embeddings of the queries, float16 or float32; may be memory-mapped.
        train_ND: Embeddings of the training tiles.
        k: How many neighbours are kept at most.
        metric: ``cosine``, or ``euclidean``.
        exclude: Pairs that are no neighbours.
        device: torch device of the products.

    Returns:
        Rows and similarities, nearest first.

    Example:
        >>> found = nearest_neighbours(test_QD, train_ND, 50)  # doctest: +SKIP
        >>> share_GQK = vote(found, y_N, 2, (1, 5, 50))  # doctest: +SKIP
    """
    import torch

    n_queries, n_train = len(query_QD), len(train_ND)
    kept = min(k, n_train)
    index = torch.full((n_queries, kept), NO_NEIGHBOUR, dtype=torch.int64)
    similarity = torch.full((n_queries, kept), -torch.inf)
    centre_D = _centre(train_ND) if metric == "euclidean" else None
    for start in range(0, n_train, TRAIN_BLOCK):
        train_nD = _block(train_ND[start : start + TRAIN_BLOCK], metric, centre_D, device)
        for first in range(0, n_queries, QUERY_BLOCK):
            rows = slice(first, first + QUERY_BLOCK)
            block_qn = _similarities(_block(query_QD[rows], metric, centre_D, device), train_nD, metric)
            if exclude is not None:
                same_qn = exclude.query_Q[rows, None] == exclude.train_N[None, start : start + TRAIN_BLOCK]
                block_qn.masked_fill_(torch.from_numpy(same_qn).to(device), -torch.inf)
            best, found = (part.cpu() for part in block_qn.topk(min(kept, block_qn.shape[1]), dim=1))
            candidates = torch.cat([similarity[rows], best], dim=1)
            similarity[rows], order = candidates.topk(kept, dim=1)
            index[rows] = torch.cat([index[rows], found + start], dim=1).gather(1, order)
    index[similarity == -torch.inf] = NO_NEIGHBOUR
    return Neighbours(index.numpy(), similarity.numpy())


def vote(
    neighbours: Neighbours, y_N: Int, n_classes: int, k_grid: Sequence[int], weighting: Weighting = "majority"
) -> Float:
    """Return each class's share of the vote, for every k of a grid in one pass.

    Args:
        neighbours: At least as many as the largest k (or as there are training tiles).
        y_N: Label per training tile.
        n_classes: Number of classes.
        k_grid: Values of k.
        weighting: ``majority``: each neighbour counts once; ``softmax``: exp(similarity / 0.07).

    Returns:
        Shares (G, Q, K) in the order of ``k_grid``; rows sum to 1, and are NaN where a query has no neighbour. The
        argmax is the majority vote, the lowest class at a tie, as in scikit-learn, THUNDER and UNI.

    Raises:
        ValueError: Fewer neighbours were kept than a k asks for, or a k below 1.
    """
    n_kept = neighbours.index_QJ.shape[1]
    if min(k_grid) < 1 or (max(k_grid) > n_kept and n_kept < len(y_N)):
        raise ValueError(f"k must lie in 1..{n_kept}, the number of neighbours kept: {tuple(k_grid)}")
    real_QJ = neighbours.index_QJ >= 0
    label_QJ = np.asarray(y_N)[np.maximum(neighbours.index_QJ, 0)]
    weight_QJ = real_QJ.astype(np.float64)
    if weighting == "softmax":
        similarity_QJ = neighbours.similarity_QJ.astype(np.float64)
        gap_QJ = np.where(real_QJ, similarity_QJ, 0.0) - np.where(real_QJ, similarity_QJ, 0.0)[:, :1]
        weight_QJ *= np.exp(gap_QJ / TEMPERATURE)
    n_queries = len(label_QJ)
    total_QK, out_GQK = np.zeros((n_queries, n_classes)), np.empty((len(k_grid), n_queries, n_classes))
    rows_Q = np.arange(n_queries)
    for place in range(n_kept):
        total_QK[rows_Q, label_QJ[:, place]] += weight_QJ[:, place]
        for position, k in enumerate(k_grid):
            if min(k, n_kept) == place + 1:
                out_GQK[position] = total_QK
    sum_GQ1 = out_GQK.sum(axis=2, keepdims=True)
    return np.asarray(np.divide(out_GQK, sum_GQ1, out=np.full_like(out_GQK, np.nan), where=sum_GQ1 > 0))


def nearest_class_mean(x_ND: Matrix, y_N: Int, n_classes: int) -> tuple[Float, Float]:
    """Return the nearest-class-mean classifier as a linear map on raw columns.

    The class whose mean is nearest in Euclidean distance is the argmax of the logits.

    Args:
        x_ND: Training embeddings.
        y_N: Labels.
        n_classes: Number of classes.

    Returns:
        Weights (K, D) and biases (K,): logit k is minus half the squared distance to mean k, up to a constant.

    Raises:
        ValueError: A class has no tile.
    """
    count_K = np.bincount(y_N, minlength=n_classes)
    if (count_K == 0).any():
        raise ValueError(f"every class needs a tile: {count_K.tolist()}")
    mean_KD = np.zeros((n_classes, x_ND.shape[1]))
    for start in range(0, len(x_ND), TRAIN_BLOCK):
        part = slice(start, start + TRAIN_BLOCK)
        one_hot_Kn = (np.asarray(y_N)[part] == np.arange(n_classes)[:, None]).astype(np.float64)
        mean_KD += one_hot_Kn @ x_ND[part].astype(np.float64)
    mean_KD /= count_K[:, None]
    centre_D = mean_KD.mean(axis=0)  # measured from there, the biases don't drown the differences
    weight_KD = mean_KD - centre_D
    return weight_KD, np.asarray(-0.5 * (weight_KD**2).sum(axis=1) - weight_KD @ centre_D)


def _centre(train_ND: Matrix) -> NDArray[np.float32]:
    """Return the training mean: distances from there lose no digits to a large common offset."""
    total_D = np.zeros(train_ND.shape[1])
    for start in range(0, len(train_ND), TRAIN_BLOCK):
        total_D += train_ND[start : start + TRAIN_BLOCK].sum(axis=0, dtype=np.float64)
    return np.asarray(total_D / len(train_ND), dtype=np.float32)


def _block(rows_nD: Matrix, metric: Metric, centre_D: NDArray[np.float32] | None, device: str) -> Any:  # noqa: ANN401  (torch is imported late)
    """Return rows in float32 on the device: of unit length for the cosine, centred for distances."""
    import torch

    rows = torch.from_numpy(np.array(rows_nD, dtype=np.float32)).to(device)
    if metric == "cosine":
        return torch.nn.functional.normalize(rows, dim=1, eps=1e-30)
    return rows - torch.from_numpy(centre_D).to(device)


def _similarities(query_qD: Any, train_nD: Any, metric: Metric) -> Any:  # noqa: ANN401  (torch is imported late)
    """Return cosines, or minus squared distances."""
    product_qn = query_qD @ train_nD.T
    if metric == "cosine":
        return product_qn
    product_qn.mul_(2.0).sub_(query_qD.square().sum(1)[:, None]).sub_(train_nD.square().sum(1)[None, :])
    return product_qn
