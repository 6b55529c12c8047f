"""A sweep of 1,000 heads trained by gradient steps, all together, against the same trials one by one in plain torch."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.harness import (
    Arm,
    Claim,
    Part,
    Result,
    alternate,
    cores,
    measured,
    missing_hardware,
    not_measured,
    ratios,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.heads.sgd.jobs import TrainData, TrainedHead, TrainJob

N_CORES, N_TRIALS, N_SAMPLE = 2, 1000, 40
N_TILES, N_COLUMNS, N_CLASSES, N_EPOCHS, BATCH_SIZE = 2000, 1536, 2, 10, 256
LOGIT_TOLERANCE = 1e-3
METHOD = (
    f"{N_TILES:,} tiles x {N_COLUMNS:,} columns, {N_CLASSES} classes, {N_EPOCHS} epochs of batch {BATCH_SIZE}, fp32;"
    " trials drawn at random: AdamW, Adam or SGD with momentum 0.9, learning rate log-uniform 1e-6..1e-2, weight decay"
    f" log-uniform 1e-5..1e-1, one seed. The peer trains a random sample of {N_SAMPLE} of the same trials one by one"
    " (nn.Linear, torch.optim, rows of a tensor picked by a permutation, no DataLoader, no validation), and its time is"
    " scaled to all. Ours trains all trials, without validation, from the raw matrix to heads. Both start from the same"
    f" weights and see the same batches; the sample's logits agree within {LOGIT_TOLERANCE:g}. In turns, median of 5"
    " after 1 warm-up."
)
CLAIM = Claim(
    "sweep_sgd", "1,000-trial SGD sweep, times faster than one trial at a time in plain torch, on 2 cores", "x", 20.0,
    "at least", METHOD,
)  # fmt: skip


def measure() -> tuple[Result, ...]:
    """Time both ways in turns and compare their logits."""
    lacking = missing_hardware(n_cpus=N_CORES)
    if lacking:
        return (not_measured(CLAIM, lacking),)
    import torch

    from histotune.heads.sgd.train import train_heads

    data, jobs = make_data(), make_jobs()
    sample = np.random.default_rng(1).choice(N_TRIALS, N_SAMPLE, replace=False).tolist()
    outcomes: dict[str, list[TrainedHead]] = {}
    peers: dict[str, list[NDArray[np.float32]]] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(N_CORES)
    try:
        with cores(N_CORES):
            seconds = alternate(
                [
                    Arm("peer", lambda: peers.update(all=[train_plainly(data, jobs[j]) for j in sample])),
                    Arm("ours", lambda: outcomes.update(all=train_heads(data, jobs))),
                ]
            )
    finally:
        torch.set_num_threads(threads)
    worst = largest_difference(data, [outcomes["all"][j] for j in sample], peers["all"])
    if not worst <= LOGIT_TOLERANCE:
        raise ValueError(f"the two ways disagree: logits differ by {worst:g}")
    scaled = {"peer": tuple(value * N_TRIALS / N_SAMPLE for value in seconds["peer"]), "ours": seconds["ours"]}
    parts = [
        Part("peer, a trial, s", statistics.median(seconds["peer"]) / N_SAMPLE),
        Part("peer, all trials, scaled, s", statistics.median(scaled["peer"])),
        Part("ours, all trials, s", statistics.median(scaled["ours"])),
        Part("largest difference of logits", worst),
    ]
    return (measured(CLAIM, ratios(scaled, "peer", "ours"), parts, N_CORES),)


def make_data() -> TrainData:
    """Return standard-normal columns of which twelve directions tell the classes apart."""
    from histotune.heads.sgd.jobs import TrainData, TrainSplit

    rng = np.random.default_rng(0)
    y_N = rng.integers(0, N_CLASSES, N_TILES)
    latent = rng.standard_normal((N_TILES, 12)) + 0.5 * (y_N[:, None] * 2 - 1)
    x_ND = latent @ rng.standard_normal((12, N_COLUMNS)) / 4 + rng.standard_normal((N_TILES, N_COLUMNS))
    return TrainData(x_ND.astype(np.float32), y_N, N_CLASSES, (TrainSplit(np.arange(N_TILES)),), standardise=False)


def make_jobs() -> list[TrainJob]:
    """Return the drawn trials."""
    from histotune.heads.config import Choice, LogUniform, SgdConfig, SgdSettings, draw_trials
    from histotune.heads.sgd.jobs import TrainJob

    config = SgdConfig(
        method="random",
        n_trials=N_TRIALS,
        space={
            "optimizer": Choice(values=("AdamW", "Adam", "SGD")),
            "lr": LogUniform(low=1e-6, high=1e-2),
            "weight_decay": LogUniform(low=1e-5, high=1e-1),
        },
        base=SgdSettings(epochs=N_EPOCHS, batch_size=BATCH_SIZE),
    )
    return [TrainJob(trial) for trial in draw_trials(config)]


def train_plainly(data: TrainData, job: TrainJob) -> NDArray[np.float32]:
    """Train one trial as a careful script does, and return its logits on all tiles."""
    import torch

    from histotune.heads.sgd.steps import linear_layers, shuffled_order

    x_ND, y_N = torch.from_numpy(np.asarray(data.x_ND)), torch.from_numpy(data.y_N)
    layer = linear_layers(job, N_COLUMNS, N_CLASSES)[0]
    model = torch.nn.Linear(N_COLUMNS, N_CLASSES)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(layer.weight_OI))
        model.bias.copy_(torch.from_numpy(layer.bias_O))
    settings = job.settings
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "SGD":
        optimizer = torch.optim.SGD(
            model.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    else:
        kind = torch.optim.AdamW if settings.optimizer == "AdamW" else torch.optim.Adam
        optimizer = kind(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    for epoch in range(settings.epochs):
        order_N = torch.from_numpy(shuffled_order(job.seed, epoch, N_TILES))
        for index_B in order_N.split(settings.batch_size):  # type: ignore[no-untyped-call]
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(x_ND[index_B]), y_N[index_B]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        return np.asarray(model(x_ND).numpy())


def largest_difference(
    data: TrainData, heads: Sequence[TrainedHead], peer_logits: Sequence[NDArray[np.float32]]
) -> float:
    """Return the largest difference of logits between the two ways, over all trials and tiles."""
    from histotune.heads.sgd.train import head_logits

    pairs = zip(heads, peer_logits, strict=True)
    return max(float(np.abs(head_logits(head, data.x_ND) - theirs).max()) for head, theirs in pairs)
