"""UNI's evaluation of patch embeddings, as its repository computes it (MahmoodLab/UNI, eval_patch_features).

Read from the code rather than from the paper: the penalty of its logistic regression is the norm of the weights, not
its square, and training and tuning tiles are joined.
"""

# N training tiles, n scored tiles, D columns, K classes

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from histotune.heads.head import softmax
from histotune.heads.neighbours import nearest_neighbours, uni_shot, vote
from histotune.published.protocols import ProtocolArm, ProtocolRun, metric_value
from histotune.published.thunder import averaged_draws, few_shot_draws, one_run

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.published.protocols import ProtocolData, UniConfig

    Float = NDArray[np.float64]
    Int = NDArray[np.int64]

METRIC: Final = "balanced_accuracy"


def uni(data: ProtocolData, config: UniConfig, device: str) -> tuple[ProtocolArm, ...]:
    """Run UNI's tasks."""
    # Each task draws or fits anew on the joined parts; few shots are left out where a class has fewer tiles.
    data = _joined(data)
    x_ND, y_N = data.x_ND[data.train_rows], data.y_N[data.train_rows]
    weight_KD, bias_K = uni_logistic(x_ND, y_N, data.n_classes, config.max_iterations, device)
    logit_nK = data.x_ND[data.scored_rows].astype(np.float64) @ weight_KD.T + bias_K
    value = metric_value(METRIC, data.y_N[data.scored_rows], logit_nK.argmax(axis=1), data.n_classes)
    logistic = ProtocolArm("logistic regression", METRIC, (ProtocolRun(value, softmax(logit_nK)),))
    rng = np.random.default_rng(config.seed)
    few = tuple(
        averaged_draws(data, few_shot_draws(data, shots, config.draws, uni_shot(), rng, device), shots, METRIC)
        for shots in config.shots
        if shots <= np.bincount(y_N).min()
    )
    return (logistic, *_centred_rows(data, config.k, device), *few)


def uni_logistic(
    x_ND: NDArray[np.floating[Any]], y_N: Int, n_classes: int, max_iterations: int = 1000, device: str = "cpu"
) -> tuple[Float, Float]:
    """Fit UNI's logistic regression: mean cross-entropy + 0.5 |W| / C with C = D K / 100, from zero, by L-BFGS.

    It stops where torch's L-BFGS does (gradient below 1e-7, change below 1e-9), as the original does.
    """
    import torch

    # The penalty is (100 / (D K)) |W| / 2, the norm itself, with its derivative at W = 0 taken as 0 by torch.
    x = torch.from_numpy(np.array(x_ND, dtype=np.float32)).to(device)
    y = torch.from_numpy(np.asarray(y_N, dtype=np.int64)).to(device)
    weight = torch.zeros(n_classes, x.shape[1], device=device, requires_grad=True)
    bias = torch.zeros(n_classes, device=device, requires_grad=True)
    strength = 100.0 / (x.shape[1] * n_classes)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=max_iterations, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        """Return the loss with its gradient, as L-BFGS asks for it."""
        optimiser.zero_grad()
        fit = torch.nn.functional.cross_entropy(torch.nn.functional.linear(x, weight, bias), y)
        loss: torch.Tensor = fit + strength * 0.5 * weight.norm()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach().cpu().numpy().astype(np.float64), bias.detach().cpu().numpy().astype(np.float64)


def _joined(data: ProtocolData) -> ProtocolData:
    """Train on the valid tiles too where others are scored."""
    if np.intersect1d(data.valid_rows, data.scored_rows).size:
        return data
    return replace(data, train_rows=np.concatenate([data.train_rows, data.valid_rows]))


def _centred_rows(data: ProtocolData, k: int, device: str) -> tuple[ProtocolArm, ...]:
    """KNN and class prototypes on columns centred by the training mean and brought to unit length."""
    y_N = data.y_N[data.train_rows]
    # Mean in float64, rows of unit length about it in float32; kNN by distance, which among unit lengths is the cosine.
    train_ND = data.x_ND[data.train_rows].astype(np.float32)
    mean_D = train_ND.mean(axis=0, dtype=np.float64).astype(np.float32)
    train_ND = _unit(train_ND - mean_D)
    scored_nD = _unit(data.x_ND[data.scored_rows].astype(np.float32) - mean_D)
    found = nearest_neighbours(scored_nD, train_ND, k, metric="euclidean", device=device)
    knn = one_run(data, METRIC, vote(found, y_N, data.n_classes, (k,))[0], f"k = {k}")
    # |x - m_k|^2 is least where x . m_k - |m_k|^2 / 2 is largest.
    mean_KD = np.stack([train_ND[y_N == label].mean(axis=0) for label in range(data.n_classes)])
    score_nK = scored_nD @ mean_KD.T - 0.5 * (mean_KD**2).sum(axis=1)
    prototypes = one_run(data, METRIC, softmax(score_nK.astype(np.float64)), "")
    return ProtocolArm("kNN", METRIC, (knn,)), ProtocolArm("class prototypes", METRIC, (prototypes,))


def _unit(x_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), 1e-12), dtype=np.float32)
