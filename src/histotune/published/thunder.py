"""THUNDER's frozen-embedding classification tasks (thunder-bench 0.2.2): nine linear heads, kNN, SimpleShot."""

# N tiles, V valid tiles, n scored tiles, D columns, K classes, E epochs, B draws

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from histotune.heads.config import SgdSettings, Stopping
from histotune.heads.neighbours import draw_shots, nearest_neighbours, predict_draws, thunder_shot, vote
from histotune.heads.sgd.jobs import TrainData, TrainJob, TrainOptions, TrainSplit
from histotune.heads.sgd.train import train_heads
from histotune.published.eva import linear_run
from histotune.published.protocols import WORDS, ProtocolArm, ProtocolRun, decided, metric_of_counts, metric_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.heads.neighbours import FewShotPredictions, PrototypeConfig
    from histotune.heads.sgd.jobs import TrainedHead
    from histotune.published.protocols import ProtocolData, ProtocolMetric, ThunderConfig

    Int = NDArray[np.int64]


METRIC: Final = "macro_f1"


def thunder(data: ProtocolData, config: ThunderConfig, device: Literal["cpu", "cuda"]) -> tuple[ProtocolArm, ...]:
    """Run THUNDER's three tasks on frozen embeddings."""
    rng = np.random.default_rng(config.seed)
    smallest = np.bincount(data.y_N[data.train_rows], minlength=data.n_classes).min()
    few = tuple(
        voted_draws(data, few_shot_draws(data, shots, config.draws, thunder_shot(), rng, device), shots, METRIC)
        for shots in config.shots
        if shots <= smallest
    )
    return (_linear_probe(data, config, device), best_k(data, config.k, METRIC, device), *few)


def thunder_jobs(config: ThunderConfig) -> tuple[TrainJob, ...]:
    """Return the grid of heads, in THUNDER's order; all see the same batches."""
    n_epochs, size = config.epochs, config.batch_size
    grid = [
        SgdSettings(optimizer="Adam", lr=lr, weight_decay=decay, epochs=n_epochs, batch_size=size)
        for lr, decay in product(config.lr, config.weight_decay)
    ]
    return tuple(TrainJob(settings, split=0, seed=config.seed) for settings in grid)


def best_head(trained: Sequence[TrainedHead]) -> int:
    """Return the head whose best epoch is best; at a tie the earlier epoch, then the earlier head."""
    order = [
        (-float(head.curve(METRIC)[head.kept_epoch - 1]), head.kept_epoch, number)
        for number, head in enumerate(trained)
        if not head.diverged
    ]
    return min(order)[2] if order else 0


def _linear_probe(data: ProtocolData, config: ThunderConfig, device: Literal["cpu", "cuda"]) -> ProtocolArm:
    split = TrainSplit(data.train_rows, data.valid_rows)
    jobs = thunder_jobs(config)
    options = TrainOptions(metrics=(METRIC,), stopping=Stopping(monitor=METRIC), device=device)
    trained = train_heads(TrainData(data.x_ND, data.y_N, data.n_classes, (split,), standardise=False), jobs, options)
    number = best_head(trained)
    settings, head = jobs[number].settings, trained[number]
    n_diverged = sum(other.diverged for other in trained)
    chosen = f"lr {settings.lr:g}, weight decay {settings.weight_decay:g}, epoch {head.kept_epoch} of {config.epochs}"
    note = f"{n_diverged} of {len(jobs)} heads diverged" if n_diverged else ""
    run = linear_run(data, head, METRIC, chosen)
    return ProtocolArm(f"linear probe, best of {len(jobs)}", METRIC, (run,), note=note)


# ------------------------------------------------------------------------------
# Rows that need no training: nearest neighbours, prototypes and few shots, as THUNDER and UNI count them


def best_k(data: ProtocolData, k_grid: Sequence[int], metric: ProtocolMetric, device: str) -> ProtocolArm:
    """Choose k on the valid part and score it, by cosine and majority vote (THUNDER)."""
    train_ND, y_N = data.take(data.train_rows), data.y_N[data.train_rows]

    def shares(rows: Int, grid: Sequence[int]) -> NDArray[np.float64]:
        """Return the votes of the neighbours for every k of a grid."""
        found = nearest_neighbours(data.take(rows), train_ND, max(grid), device=device)
        return vote(found, y_N, data.n_classes, grid)

    # The first k of the grid that scores best on the valid part; one search serves the whole grid.
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
    """Draw tiles of the train part and classify the scored tiles with every draw."""
    train_ND, y_N = data.take(data.train_rows), data.y_N[data.train_rows]
    support_BKS = draw_shots(y_N, shots, n_draws, rng)
    return predict_draws(data.take(data.scored_rows), train_ND, support_BKS, prototypes, device)


def voted_draws(data: ProtocolData, found: FewShotPredictions, shots: int, metric: ProtocolMetric) -> ProtocolArm:
    """Return THUNDER's few-shot row: the majority vote of all draws, with single draws beside it in its note."""
    y_n = data.y_N[data.scored_rows]
    single = metric_of_counts(metric, found.confusion_BKK(y_n))
    note = (
        f"{WORDS['thunder']['ensemble']}; single draws: {single.mean():.3f} (SD {single.std(ddof=1):.3f})"
        if len(single) > 1
        else ""
    )
    run = one_run(data, metric, draw_shares(found), f"vote of {len(single)} draws")
    return ProtocolArm(f"SimpleShot, {shots} shots", metric, (run,), note=note)


def averaged_draws(data: ProtocolData, found: FewShotPredictions, shots: int, metric: ProtocolMetric) -> ProtocolArm:
    """Return UNI's few-shot row: mean and SD over the draws."""
    values_B = metric_of_counts(metric, found.confusion_BKK(data.y_N[data.scored_rows]))
    run = one_run(data, metric, draw_shares(found), "vote of all draws")
    return ProtocolArm(
        f"SimpleShot, {shots} shots",
        metric,
        (run,),
        spread_over="draws of training tiles",
        value_B=tuple(values_B.tolist()),
        note="mean over draws; the interval is that of their majority vote",
    )


def draw_shares(found: FewShotPredictions) -> NDArray[np.float64]:
    """Return the share of the draws that predict each class, (n, K)."""
    return np.stack([(found.predicted_BQ == label).mean(axis=0) for label in range(found.n_classes)], axis=1)


def one_run(data: ProtocolData, metric: ProtocolMetric, share_nK: NDArray[Any], chosen: str) -> ProtocolRun:
    """Return a run from shares of a vote."""
    value = metric_value(metric, data.y_N[data.scored_rows], share_nK.argmax(axis=1), data.n_classes)
    return ProtocolRun(value, decided(share_nK), chosen)
