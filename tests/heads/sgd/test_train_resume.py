"""A killed training goes on and gives the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from histotune.heads.config import SgdSettings, Stopping
from histotune.heads.sgd import jobs as data_module
from histotune.heads.sgd.jobs import TrainedHead, TrainJob, TrainOptions
from histotune.heads.sgd.train import ChunkRun, train_heads
from tests.heads.sgd.peer import make_data

if TYPE_CHECKING:
    from pathlib import Path

JOBS = [
    TrainJob(SgdSettings(optimizer=optimizer, lr=lr, epochs=12, batch_size=16, hidden_units=hidden), seed=seed)
    for optimizer in ("AdamW", "SGD")
    for lr in (1e-3, 3e-2, 1e5)
    for hidden in (0, 4)
    for seed in (0, 1)
]
STOPPING = Stopping(monitor="log_loss", patience=4)


def options(folder: Path | None) -> TrainOptions:
    return TrainOptions(("macro_f1",), STOPPING, checkpoint=folder, checkpoint_every_s=0.0)


def assert_equal(ours: list[TrainedHead], theirs: list[TrainedHead]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        for layer, same in zip(one.layers, other.layers, strict=True):
            np.testing.assert_array_equal(layer.weight_OI, same.weight_OI)
            np.testing.assert_array_equal(layer.bias_O, same.bias_O)
        for curve, same_curve in zip(one.curves, other.curves, strict=True):
            np.testing.assert_array_equal(curve.value_E, same_curve.value_E)
        assert (one.kept_epoch, one.n_epochs, one.n_steps, one.diverged) == (
            other.kept_epoch, other.n_epochs, other.n_steps, other.diverged,
        )  # fmt: skip


@pytest.mark.parametrize("stop_after", [1, 7, 20, 31])
def test_an_interrupted_training_goes_on_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    data = make_data()
    whole = train_heads(data, JOBS, options(None))
    assert any(head.diverged for head in whole)
    epochs = 0
    train_epoch = ChunkRun.train_epoch

    def interrupted(run: ChunkRun) -> None:
        nonlocal epochs
        if epochs == stop_after:
            raise KeyboardInterrupt
        epochs += 1
        train_epoch(run)

    monkeypatch.setattr(ChunkRun, "train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_heads(data, JOBS, options(tmp_path))
    seen = []
    monkeypatch.setattr(ChunkRun, "train_epoch", lambda run: (seen.append(1), train_epoch(run)))
    assert_equal(train_heads(data, JOBS, options(tmp_path)), whole)
    first, seen[:] = len(seen), []
    assert_equal(train_heads(data, JOBS, options(tmp_path)), whole)
    assert first > 0 and not seen


def test_another_plan_reads_nothing_of_this_one(tmp_path: Path) -> None:
    data = make_data()
    train_heads(data, JOBS[:2], options(tmp_path))
    other = [TrainJob(job.settings.model_copy(update={"lr": 0.02}), seed=job.seed) for job in JOBS[:2]]
    assert_equal(train_heads(data, other, options(tmp_path)), train_heads(data, other, options(None)))


PROGRAM = """
import sys
from pathlib import Path
from histotune.heads.sgd.train import ChunkRun
from histotune.heads.sgd.train import train_heads
from tests.heads.sgd.peer import make_data
from tests.heads.sgd.test_train_resume import JOBS, options
import time
train_epoch = ChunkRun.train_epoch
def slowly(run):
    train_epoch(run)
    time.sleep(0.05)
ChunkRun.train_epoch = slowly
train_heads(make_data(), JOBS, options(Path(sys.argv[1])))
"""


def test_a_killed_process_loses_nothing_but_its_last_epoch(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/chunk-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert list(tmp_path.glob("*/chunk-00000.safetensors"))
    assert not list(
        tmp_path.glob(f"*/chunk-{len(data_module.plan_chunks(make_data(), JOBS, 'cpu')) - 1:05d}.safetensors")
    )
    assert_equal(train_heads(make_data(), JOBS, options(tmp_path)), train_heads(make_data(), JOBS, options(None)))
