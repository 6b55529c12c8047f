"""k nearest neighbours for a whole grid of k at once, the similarities streamed in blocks.

Memory is bounded by one block of similarities, whatever the number of tiles: PatchCamelyon's test part against its
training part (32,768 x 262,144 similarities) needs some 200 MiB beyond the embeddings.
"""

# Q queries, N training tiles, D columns, J neighbours kept (the largest k), G values of k (or groups), K classes,
# B draws (b of a block), S shots per class

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Matrix = NDArray[np.floating[Any]]
    Float = NDArray[np.float64]
    Int = NDArray[np.int64]


Metric = Literal["cosine", "euclidean"]
Weighting = Literal["majority", "softmax"]
QUERY_BLOCK, TRAIN_BLOCK = 2048, 8192
BLOCK_BYTES = 128 * 2**20
FEW_SHOT_QUERY_BLOCK = 4096
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

    # The k nearest so far and the k nearest of each new block compete: the result does not depend on the blocks.
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
    """Return each class's share of the vote, for every k of a grid in one pass."""
    n_kept = neighbours.index_QJ.shape[1]
    if min(k_grid) < 1 or (max(k_grid) > n_kept and n_kept < len(y_N)):
        raise ValueError(f"k must lie in 1..{n_kept}, the number of neighbours kept: {tuple(k_grid)}")
    # A vote weighs 1, or exp((s - s_1) / T) with s_1 the nearest's similarity. The neighbours are added nearest first,
    # so that the running total after place k is the vote of k.
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


def _centre(train_ND: Matrix) -> NDArray[np.float32]:
    """Return the training mean: distances from there lose no digits to a large common offset."""
    return _mean(train_ND, TRAIN_BLOCK).astype(np.float32)


def _mean(train_ND: Matrix, block: int) -> NDArray[np.float64]:
    """Return the mean row, summed in float64 a block of rows at a time."""
    total_D = np.zeros(train_ND.shape[1])
    for start in range(0, len(train_ND), block):
        total_D += train_ND[start : start + block].sum(axis=0, dtype=np.float64)
    return np.asarray(total_D / len(train_ND))


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


# ------------------------------------------------------------------------------
# Few-shot classification by class prototypes: every draw of a benchmark in one batched pass. A thousand draws of a few
# shots are a thousand small sets of prototypes; their scores of all queries are columns of one matrix product


class PrototypeConfig(BaseModel):
    """How class prototypes are made and compared.

    As it stands it is SimpleShot's CL2N: centred by the training mean, unit length (Wang et al., arXiv 1911.04623).

    Attributes:
        centre: What is subtracted: the mean of the draw's ``support``, the mean of all ``training`` tiles, or
            ``nothing``.
        normalise: Whether support and query are brought to unit length before prototypes are averaged.
        metric: How a query and a prototype are compared.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    centre: Literal["support", "training", "nothing"] = "training"
    normalise: bool = True
    metric: Literal["cosine", "euclidean"] = "euclidean"


def thunder_shot() -> PrototypeConfig:
    """Return THUNDER's variant (thunder-bench 0.2.2): centred by the support's mean, nearest prototype by cosine."""
    return PrototypeConfig(centre="support", normalise=False, metric="cosine")


def uni_shot() -> PrototypeConfig:
    """Return UNI's variant (MahmoodLab/UNI, ``eval_fewshot``): centred by the support's mean, unit length."""
    return PrototypeConfig(centre="support")


@dataclass(frozen=True)
class FewShotPredictions:
    """Every draw's prediction of every query.

    Attributes:
        predicted_BQ: Class, int16.
        n_classes: Number of classes.
    """

    predicted_BQ: NDArray[np.int16]
    n_classes: int

    def confusion_BKK(self, y_Q: Int) -> Int:
        """Return each draw's confusion matrix: true class by predicted class."""
        n_draws, k = len(self.predicted_BQ), self.n_classes
        out = np.empty((n_draws, k * k), np.int64)
        for draw, predicted_Q in enumerate(self.predicted_BQ):
            out[draw] = np.bincount(np.asarray(y_Q) * k + predicted_Q, minlength=k * k)
        return out.reshape(n_draws, k, k)


def draw_shots(
    y_N: Int, shots: int, n_draws: int, rng: np.random.Generator, *, group_N: Int | None = None
) -> NDArray[np.int64]:
    """Draw the same number of training tiles of every class, without replacement, many times."""
    n_classes = int(np.max(y_N)) + 1
    out_BKS = np.empty((n_draws, n_classes, shots), np.int64)
    for label in range(n_classes):
        rows_n = np.flatnonzero(np.asarray(y_N) == label)
        if len(rows_n) < shots:
            raise ValueError(f"class {label} has {len(rows_n)} tiles, {shots} shots were asked for")
        groups = None if group_N is None else _GroupDraws(rows_n, np.asarray(group_N)[rows_n])
        for draw in range(n_draws):
            if groups is None:
                out_BKS[draw, label] = rows_n[rng.choice(len(rows_n), shots, replace=False, shuffle=False)]
            else:
                out_BKS[draw, label] = groups.draw(shots, rng)
    return out_BKS


def predict_draws(
    query_QD: Matrix, train_ND: Matrix, support_BKS: Int, config: PrototypeConfig, device: str = "cpu"
) -> FewShotPredictions:
    """Classify every query with the prototypes of every draw."""
    import torch

    n_draws, n_classes, _ = support_BKS.shape
    out_BQ = np.empty((n_draws, len(query_QD)), np.int16)
    # A common offset changes no distance and nothing that is centred later, and would cost digits.
    keeps_offset = config.centre == "nothing" and (config.normalise or config.metric == "cosine")
    shift_D = np.zeros(train_ND.shape[1]) if keeps_offset else _mean(train_ND, FEW_SHOT_QUERY_BLOCK)
    shift = torch.from_numpy(shift_D.astype(np.float32)).to(device)
    for part in _draw_blocks(support_BKS, train_ND.shape[1]):
        prototypes = _prototypes(_gather(train_ND, support_BKS[part], shift, device), config)
        for start in range(0, len(query_QD), FEW_SHOT_QUERY_BLOCK):
            rows = slice(start, start + FEW_SHOT_QUERY_BLOCK)
            query_qD = torch.from_numpy(np.array(query_QD[rows], dtype=np.float32)).to(device) - shift
            score_qbK = _scores(query_qD, prototypes, config)
            out_BQ[part, rows] = score_qbK.argmax(2).T.to(torch.int16).cpu().numpy()
    return FewShotPredictions(out_BQ, n_classes)


@dataclass(frozen=True)
class _Prototypes:
    """Prototypes of some draws (b, K, D), measured from each draw's centre (b, D), which is None where it is 0."""

    mean_bKD: Any
    centre_bD: Any


def _prototypes(support_bKSD: Any, config: PrototypeConfig) -> _Prototypes:  # noqa: ANN401  (torch is imported late)
    """Average the support per class."""
    import torch

    centre_bD = None
    if config.centre == "support":
        centre_bD = support_bKSD.mean((1, 2))
        support_bKSD = support_bKSD - centre_bD[:, None, None, :]
    if config.normalise:
        support_bKSD = torch.nn.functional.normalize(support_bKSD, dim=3, eps=1e-30)
    return _Prototypes(support_bKSD.mean(2), centre_bD)


def _scores(query_qD: Any, prototypes: _Prototypes, config: PrototypeConfig) -> Any:  # noqa: ANN401  (torch is imported late)
    """Return scores (q, b, K) whose argmax is the nearest prototype: one product over all draws.

    A query's length scales its scores alike for every class, so that the cosine needs none of it; a distance between
    vectors of unit length does.
    """
    # With query q, centre c and prototype p: |q - c - p|^2 is least where (q - c) . p - |p|^2 / 2 is largest. Cosine:
    # (q - c) . p / |p|. With queries of unit length (q - c) . p is divided by |q - c| first.
    mean_bKD, centre_bD = prototypes.mean_bKD, prototypes.centre_bD
    n_draws, n_classes, n_columns = mean_bKD.shape
    score_qbK = (query_qD @ mean_bKD.reshape(-1, n_columns).T).reshape(-1, n_draws, n_classes)
    if centre_bD is not None:
        score_qbK -= (mean_bKD @ centre_bD[:, :, None])[None, :, :, 0]
    if config.metric == "cosine":
        return score_qbK / mean_bKD.norm(dim=2).clamp_min(1e-30)[None]
    if config.normalise:
        square_qb = query_qD.square().sum(1)[:, None]
        if centre_bD is not None:
            square_qb = square_qb - 2.0 * (query_qD @ centre_bD.T) + centre_bD.square().sum(1)[None]
        score_qbK /= square_qb.clamp_min(1e-30).sqrt()[:, :, None]
    return score_qbK - 0.5 * mean_bKD.square().sum(2)[None]


def _gather(train_ND: Matrix, support_bKS: Int, shift_D: Any, device: str) -> Any:  # noqa: ANN401  (torch is imported late)
    """Return the support's rows (b, K, S, D), each training tile converted once."""
    import torch

    rows, place = np.unique(support_bKS, return_inverse=True)
    used_nD = torch.from_numpy(np.array(train_ND[rows], dtype=np.float32)).to(device) - shift_D
    return used_nD[torch.from_numpy(place.reshape(support_bKS.shape)).to(device)]


def _draw_blocks(support_BKS: Int, n_columns: int) -> Iterator[slice]:
    """Yield draws whose support and scores fit a block."""
    n_draws, n_classes, n_shots = support_BKS.shape
    floats = max(n_classes * n_shots * n_columns, FEW_SHOT_QUERY_BLOCK * (n_classes + 1))
    size = max(1, BLOCK_BYTES // (4 * floats))
    for start in range(0, n_draws, size):
        yield slice(start, min(start + size, n_draws))


class _GroupDraws:
    """Draws of one class that take a second tile of a group only when every group has given one."""

    def __init__(self, rows_n: Int, group_n: Int) -> None:
        order_n = np.argsort(group_n, kind="stable")
        self.rows_n, self.group_n = rows_n[order_n], group_n[order_n]
        self.first_G = np.flatnonzero(np.r_[True, np.diff(self.group_n) != 0])
        self.size_G = np.diff(np.r_[self.first_G, len(rows_n)])

    def draw(self, shots: int, rng: np.random.Generator) -> Int:
        """Return rows (S,)."""
        n_groups = len(self.first_G)
        if shots <= n_groups:
            group_S = rng.choice(n_groups, shots, replace=False)
            return np.asarray(self.rows_n[self.first_G[group_S] + rng.integers(self.size_G[group_S])])
        # Every tile gets a random turn within its group; first turns come first, groups of one turn in random order.
        order_n = np.lexsort((rng.random(len(self.rows_n)), self.group_n))
        turn_n = np.arange(len(order_n)) - np.repeat(self.first_G, self.size_G)  # which of its group's tiles this is
        luck_n = np.repeat(rng.random(n_groups), self.size_G)
        return np.asarray(self.rows_n[order_n[np.lexsort((luck_n, turn_n))[:shots]]])
