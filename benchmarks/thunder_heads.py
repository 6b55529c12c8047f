"""THUNDER's linear probe against thunder-bench itself, on the same embeddings, initial weights and batches.

Needs a Python with thunder-bench, named by ``HISTOTUNE_BENCH_THUNDER_PYTHON``; ``peers/thunder_head.py`` runs in it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.harness import Claim, Part, Result, measured, not_measured
from histotune.heads.config import Stopping
from histotune.heads.sgd.jobs import Layer, TrainData, TrainOptions, TrainSplit
from histotune.heads.sgd.steps import shuffled_order
from histotune.heads.sgd.train import head_logits, train_heads
from histotune.published.protocols import ThunderConfig
from histotune.published.thunder import METRIC, best_head, thunder_jobs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.heads.sgd.jobs import TrainJob

N_TRAIN, N_VALID, DIM, N_CLASSES, EPOCHS, N_SEEDS = 936, 196, 1536, 4, 40, 3
VARIABLE = "HISTOTUNE_BENCH_THUNDER_PYTHON"
INSTALL = (
    "thunder-bench is not at hand: python -m venv THUNDER && THUNDER/bin/pip install thunder-bench==0.2.2, then "
    f"{VARIABLE}=THUNDER/bin/python"
)
CLAIM = Claim(
    "thunder_heads_logits",
    "largest difference of validation logits of nine heads from thunder-bench 0.2.2's after 1, 100 and the last step",
    "logits",
    1e-4,
    "at most",
    f"{N_TRAIN} train and {N_VALID} tuning tiles as in THUNDER's BreakHis, {DIM:,} columns, {N_CLASSES} classes, "
    f"synthetic; the same embeddings, initial weights (each head its own) and batch order, fp32, {EPOCHS} epochs; both "
    f"must choose the same learning rate, weight decay and epoch, or there is no value. {N_SEEDS} seeds.",
)


def measure() -> tuple[Result, ...]:
    """Compare with the peer, or say what is missing."""
    python = Path(os.environ.get(VARIABLE, ""))
    if not python.is_file():
        return (not_measured(CLAIM, INSTALL),)
    worst = [_difference(python, seed) for seed in range(N_SEEDS)]
    parts = tuple(Part(f"seed {seed}", value) for seed, value in enumerate(worst))
    return (measured(CLAIM, worst, parts),)


def _difference(python: Path, seed: int) -> float:
    """Train both ways; return the largest difference of logits."""
    rng = np.random.default_rng(seed)
    y_N = rng.integers(0, N_CLASSES, N_TRAIN + N_VALID)
    x_ND = (rng.normal(0.0, 0.06, (N_CLASSES, DIM))[y_N] + rng.standard_normal((len(y_N), DIM))).astype(np.float32)
    jobs = thunder_jobs(ThunderConfig(epochs=EPOCHS, seed=seed))
    bound = 1.0 / np.sqrt(DIM)
    weight_TKD = rng.uniform(-bound, bound, (len(jobs), N_CLASSES, DIM)).astype(np.float32)
    bias_TK = rng.uniform(-bound, bound, (len(jobs), N_CLASSES)).astype(np.float32)
    layers = {job.settings: (Layer(weight, bias),) for job, weight, bias in zip(jobs, weight_TKD, bias_TK, strict=True)}
    order_EN = np.stack([shuffled_order(seed, epoch, N_TRAIN) for epoch in range(EPOCHS)])
    found = _peer(python, {
        "x_train": x_ND[:N_TRAIN], "y_train": y_N[:N_TRAIN], "x_val": x_ND[N_TRAIN:], "y_val": y_N[N_TRAIN:],
        "weight_TKD": weight_TKD, "bias_TK": bias_TK, "order_EN": order_EN,
    })  # fmt: skip
    split = TrainSplit(np.arange(N_TRAIN), np.arange(N_TRAIN, len(y_N)))
    data = TrainData(x_ND, y_N, N_CLASSES, (split,), standardise=False)

    def initial(job: TrainJob) -> tuple[Layer, ...]:
        return layers[job.settings.model_copy(update={"max_steps": None})]

    chosen = train_heads(data, jobs, TrainOptions((METRIC,), Stopping(monitor=METRIC), initial=initial))
    number = best_head(chosen)
    ours = (jobs[number].settings.lr, jobs[number].settings.weight_decay, chosen[number].kept_epoch)
    theirs = (float(found["lr"]), float(found["weight_decay"]), int(found["epoch"]))
    if ours != theirs:
        raise RuntimeError(f"chosen here: {ours}, by thunder-bench: {theirs}")
    worst = 0.0
    for steps, name in ((1, "logits_1"), (100, "logits_100"), (int(found["n_steps"]), "logits_last")):
        cut = [job.__class__(job.settings.model_copy(update={"max_steps": steps}), 0, seed) for job in jobs]
        heads = train_heads(data, cut, TrainOptions((), initial=initial))
        logit_TNK = np.stack([head_logits(head, x_ND[N_TRAIN:]) for head in heads])
        worst = max(worst, float(np.abs(logit_TNK - np.asarray(found[name], np.float64)).max()))
    return worst


def _peer(python: Path, given: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
    """Run the driver in thunder-bench's own environment."""
    driver = Path(__file__).parent / "peers" / "thunder_head.py"
    with tempfile.TemporaryDirectory(prefix="histotune-thunder-") as name:
        source, out = Path(name) / "in.npz", Path(name) / "out.npz"
        np.savez(source, **given)  # type: ignore[arg-type]
        done = subprocess.run([str(python), str(driver), str(source), str(out)], check=False, capture_output=True,
                              text=True)  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"thunder-bench failed: {done.stderr[-2000:]}")
        with np.load(out) as found:
            return dict(found)
