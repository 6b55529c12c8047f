"""THUNDER's frozen-embedding classification tasks (thunder-bench 0.2.2): nine linear heads, kNN, SimpleShot."""

# N tiles, n scored tiles, D columns, K classes, E epochs

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from histotune.heads.config import SgdSettings, Stopping
from histotune.heads.neighbours import thunder_shot
from histotune.heads.sgd.data import Job, Split, TrainData, TrainOptions
from histotune.heads.sgd.train import train_heads
from histotune.published.linear import linear_run
from histotune.published.records import ProtocolArm
from histotune.published.votes import best_k, few_shot_draws, voted_draws

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.heads.sgd.data import TrainedHead
    from histotune.published.config import ThunderConfig
    from histotune.published.records import ProtocolData

METRIC: Final = "macro_f1"
WEAKNESSES = (
    "One run of one seed: nothing says how far another start or batch order would move the number.",
    "THUNDER's own interval resamples single tiles (3,000 times): tiles of one case are not independent, so that it is "
    "too narrow; the interval here resamples cases, where that can be done.",
    "The best of (learning rates x weight decays x epochs) on the tuning part is taken without refitting on it.",
    "On a CPU thunder-bench 0.2.2 keeps the weights of the last epoch for those of the best one (its copy shares "
    "memory); here, as on a GPU, the best epoch's weights are kept.",
)


def thunder(data: ProtocolData, config: ThunderConfig, device: Literal["cpu", "cuda"]) -> tuple[ProtocolArm, ...]:
    """Run THUNDER's three tasks on frozen embeddings.

    Args:
        data: Parts.
        config: The published values, or others.
        device: Where heads train.

    Returns:
        Linear probing, kNN, then SimpleShot by number of shots, as far as every class has the tiles.
    """
    rng = np.random.default_rng(config.seed)
    smallest = np.bincount(data.y_N[data.train_rows], minlength=data.n_classes).min()
    few = tuple(
        voted_draws(data, few_shot_draws(data, shots, config.draws, thunder_shot(), rng, device), shots, METRIC)
        for shots in config.shots
        if shots <= smallest
    )
    return (_linear_probe(data, config, device), best_k(data, config.k, METRIC, device), *few)


def thunder_jobs(config: ThunderConfig) -> tuple[Job, ...]:
    """Return the grid of heads, in THUNDER's order; all see the same batches.

    Args:
        config: Learning rates, weight decays, epochs, batch size.

    Returns:
        A job per head.
    """
    return tuple(
        Job(SgdSettings(optimizer="Adam", lr=lr, weight_decay=decay, epochs=config.epochs,
                        batch_size=config.batch_size), 0, config.seed)
        for lr, decay in product(config.lr, config.weight_decay)
    )  # fmt: skip


def best_head(trained: Sequence[TrainedHead]) -> int:
    """Return the head whose best epoch is best; at a tie the earlier epoch, then the earlier head.

    Args:
        trained: Heads with curves of macro-F1, each kept at its best epoch.

    Returns:
        Its number.
    """
    order = [
        (-float(head.curve(METRIC)[head.kept_epoch - 1]), head.kept_epoch, number)
        for number, head in enumerate(trained)
        if not head.diverged
    ]
    return min(order)[2] if order else 0


def _linear_probe(data: ProtocolData, config: ThunderConfig, device: Literal["cpu", "cuda"]) -> ProtocolArm:
    split = Split(data.train_rows, data.valid_rows)
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
