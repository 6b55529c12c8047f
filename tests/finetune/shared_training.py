"""A training in a process of its own: alone, or one of two under torchrun; what came of it goes into a file."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from histotune.finetune.checkpoints import Checkpoints
from histotune.finetune.config import LoopConfig
from histotune.finetune.loop import Trained, train
from tests.finetune.toys import Numbers, toy_loop, toy_task, weights_of

SHARED: dict[str, dict[str, object]] = {
    "even": {"batch_size": 10},
    "odd": {"batch_size": 9},
    "accumulated": {"batch_size": 14, "micro_batch": 3},
    "more than a batch": {"batch_size": 7, "micro_batch": 100},
}
SLOW = {"dropout": 0.3}
SLOW_STEP_S = 0.05
STOPPED_AT = 4


def shared_loop(name: str) -> LoopConfig:
    return toy_loop(**SHARED[name], epochs=13, label_smoothing=0.1)


def shared(name: str) -> tuple[Trained, dict[str, torch.Tensor]]:
    """Train for at least 50 steps, with what other processes there are."""
    task = toy_task()
    trained = train(task, shared_loop(name))
    return trained, weights_of(task.model)


def stopped(path: Path) -> dict[str, object]:
    """Send SIGTERM to one of two processes, go on from the file, and say what came of it."""

    def ask(number: int) -> None:
        if os.environ["RANK"] == "1" and number == STOPPED_AT:
            os.kill(os.getpid(), signal.SIGTERM)

    task = toy_task()
    assert isinstance(task.inputs, Numbers)
    inputs = replace(task.inputs, on_batch=ask)
    code = None
    try:
        train(replace(task, inputs=inputs), shared_loop("even"), None, Checkpoints(path, {"toy": 1}, 1e9))
    except SystemExit as stop:
        code = stop.code
    trained = train(toy_task(), shared_loop("even"), None, Checkpoints(path, {"toy": 1}, 1e9))
    return {"code": code, "n_batches": inputs.n_batches, "losses": trained.step_losses}


def slow(path: Path, wait_s: float = 0.0) -> tuple[Trained, dict[str, torch.Tensor]]:
    """Train with dropout and a checkpoint after every step."""
    task = toy_task(**SLOW)  # type: ignore[arg-type]
    assert isinstance(task.inputs, Numbers)
    task = replace(task, inputs=replace(task.inputs, on_batch=lambda number: time.sleep(wait_s)))
    trained = train(task, toy_loop(epochs=8), None, Checkpoints(path, {"toy": 1}, 0.0))
    return trained, weights_of(task.model)


def main() -> None:
    """Train as the command line says and write losses, logits and weights."""
    what, out = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    if what == "slow":
        print("there", flush=True)
        slow(out, SLOW_STEP_S)
        return
    torch.distributed.init_process_group("gloo")
    for name in SHARED:
        trained, weights = shared(name)
        arrays = {key: one.numpy() for key, one in weights.items()}
        np.savez(
            out / f"{name}-{os.environ['RANK']}.npz", losses=trained.step_losses, logits=trained.logit_EnK, **arrays
        )
    np.savez(out / f"stopped-{os.environ['RANK']}.npz", **stopped(out / "toy.safetensors"))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
