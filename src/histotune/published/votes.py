"""Rows that need no training: nearest neighbours, prototypes and few shots, as THUNDER and UNI count them."""

# N training tiles, V valid tiles, n scored tiles, D columns, K classes, B draws

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from histotune.heads.neighbours import draw_shots, nearest_neighbours, predict_draws, vote
from histotune.published.records import ProtocolArm, ProtocolRun, decided, metric_of_counts, metric_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.heads.neighbours import FewShotPredictions, PrototypeConfig
    from histotune.published.records import ProtocolData, ProtocolMetric

    Int = NDArray[np.int64]

ENSEMBLE_NOTE = (
    "as THUNDER counts: one majority vote over all draws, so that up to draws x shots x classes labelled tiles speak; "
    "no single draw of so few tiles scores this"
)


def best_k(data: ProtocolData, k_grid: Sequence[int], metric: ProtocolMetric, device: str) -> ProtocolArm:
    """Choose k on the valid part and score it, by cosine and majority vote (THUNDER).

    Args:
        data: Train, valid and scored parts.
        k_grid: Values of k; the first of equally good ones wins.
        metric: What chooses and is reported.
        device: torch device.

    Returns:
        One run.
    """
    train_ND, y_N = data.take(data.train_rows), data.y_N[data.train_rows]

    def shares(rows: Int, grid: Sequence[int]) -> NDArray[np.float64]:
        found = nearest_neighbours(data.take(rows), train_ND, max(grid), device=device)
        return vote(found, y_N, data.n_classes, grid)

    y_V = data.y_N[data.valid_rows]
    valid = [
        metric_value(metric, y_V, share_VK.argmax(axis=1), data.n_classes)
        for share_VK in shares(data.valid_rows, k_grid)
    ]
    k = k_grid[int(np.argmax(valid))]
    share_nK = shares(data.scored_rows, (k,))[0]
    return ProtocolArm("kNN, cosine", metric, (one_run(data, metric, share_nK, f"k = {k}"),))


def few_shot_draws(
    data: ProtocolData, shots: int, n_draws: int, prototypes: PrototypeConfig, rng: np.random.Generator, device: str
) -> FewShotPredictions:
    """Draw tiles of the train part and classify the scored tiles with every draw.

    Args:
        data: Train and scored parts.
        shots: Tiles per class.
        n_draws: Draws.
        prototypes: How prototypes are made and compared.
        rng: Source of the draws: tile by tile, as the benchmarks draw, so that shots may come from one case.
        device: torch device.

    Returns:
        A prediction per draw and scored tile.
    """
    train_ND, y_N = data.take(data.train_rows), data.y_N[data.train_rows]
    support_BKS = draw_shots(y_N, shots, n_draws, rng)
    return predict_draws(data.take(data.scored_rows), train_ND, support_BKS, prototypes, device)


def voted_draws(data: ProtocolData, found: FewShotPredictions, shots: int, metric: ProtocolMetric) -> ProtocolArm:
    """Return THUNDER's few-shot row: the majority vote of all draws, with single draws beside it in its note."""
    y_n = data.y_N[data.scored_rows]
    single = metric_of_counts(metric, found.confusion_BKK(y_n))
    note = (
        f"{ENSEMBLE_NOTE}; single draws: {single.mean():.3f} (SD {single.std(ddof=1):.3f})" if len(single) > 1 else ""
    )
    run = one_run(data, metric, draw_shares(found), f"vote of {len(single)} draws")
    return ProtocolArm(f"SimpleShot, {shots} shots", metric, (run,), note=note)


def averaged_draws(data: ProtocolData, found: FewShotPredictions, shots: int, metric: ProtocolMetric) -> ProtocolArm:
    """Return UNI's few-shot row: mean and SD over the draws."""
    values_B = metric_of_counts(metric, found.confusion_BKK(data.y_N[data.scored_rows]))
    run = one_run(data, metric, draw_shares(found), "vote of all draws")
    return ProtocolArm(
        f"SimpleShot, {shots} shots", metric, (run,), "draws of training tiles", tuple(values_B.tolist()),
        note="mean over draws; the interval is that of their majority vote",
    )  # fmt: skip


def draw_shares(found: FewShotPredictions) -> NDArray[np.float64]:
    """Return the share of the draws that predict each class, (n, K)."""
    return np.stack([(found.predicted_BQ == label).mean(axis=0) for label in range(found.n_classes)], axis=1)


def one_run(data: ProtocolData, metric: ProtocolMetric, share_nK: NDArray[Any], chosen: str) -> ProtocolRun:
    """Return a run from shares of a vote."""
    value = metric_value(metric, data.y_N[data.scored_rows], share_nK.argmax(axis=1), data.n_classes)
    return ProtocolRun(value, decided(share_nK), chosen)
