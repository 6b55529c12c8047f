"""Fit heads with kaiko-eva itself: ``PYTHON eva_head.py INPUT.npz OUTPUT.npz MODE``, run by eva's own Python.

INPUT holds x_train, y_train, x_val, y_val, max_steps, patience. MODE ``given`` adds weight, bias and order_EN (rows of
every epoch). MODE ``seeds`` adds seeds of eva's own batch orders, with weight_SKD and bias_SK. MODE ``speed`` reads
embeddings from files as eva's configurations do; after every ``segment_steps`` steps it prints their seconds and waits
for a line, so that another program can take turns with it. eva's
trainer, head module, metrics, early stopping and checkpoint are used as its BreakHis configuration (0.4.5) sets them.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from eva.core import trainers
from eva.core.data import dataloaders, datamodules, datasets
from eva.core.data.datamodules import schemas
from eva.core.metrics import AverageLoss, MulticlassClassificationMetrics, structs
from eva.core.models import modules
from eva.core.trainers import functional
from given_order import GivenOrder
from lightning.pytorch import callbacks

N_WORKERS = 4  # as in eva's configurations


class Rows(torch.utils.data.Dataset):
    """Embeddings in memory."""

    def __init__(self, x, y):
        self.x, self.y = torch.tensor(x), torch.tensor(y)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, row):
        return self.x[row], self.y[row]


class Recorder(callbacks.Callback):
    """Logits on the valid rows after chosen steps, and when the run stopped."""

    def __init__(self, x_val, at_steps, out):
        self.x_val, self.at_steps, self.out = torch.tensor(x_val), at_steps, out
        self.found = {}

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step in self.at_steps:
            self.found[f"logits_{trainer.global_step}"] = self._logits(module)

    def on_train_end(self, trainer, module):
        self.found["logits_last"] = self._logits(module)
        self.found |= {"n_steps": trainer.global_step}
        np.savez(self.out, **self.found)

    def _logits(self, module):
        with torch.no_grad():
            return module.head(self.x_val).numpy().copy()


class Turns(callbacks.Callback):
    """Says how long each segment took, its validation included, and waits to be told to go on."""

    def __init__(self, segment_steps):
        self.segment_steps, self.start_s = segment_steps, time.perf_counter()

    def on_train_epoch_end(self, trainer, module):
        if trainer.global_step % self.segment_steps == 0:
            print(f"segment {time.perf_counter() - self.start_s}", flush=True)
            sys.stdin.readline()
            self.start_s = time.perf_counter()


def run(data, datamodule, head, out, more=()):
    """One fit and validation, as one of eva's runs; returns the reported balanced accuracy."""
    n_classes = int(data["y_train"].max()) + 1
    recorder = Recorder(data["x_val"], {1, 100}, out)
    monitor = {"monitor": "val/MulticlassAccuracy", "mode": "max"}
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainers.Trainer(
            default_root_dir=folder, n_runs=1, max_steps=int(data["max_steps"]), accelerator="cpu", logger=False,
            enable_progress_bar=False, enable_model_summary=False,
            callbacks=[
                callbacks.ModelCheckpoint(filename="best", save_top_k=1, dirpath=folder, **monitor),
                callbacks.EarlyStopping(min_delta=0, patience=int(data["patience"]), **monitor),
                recorder,
                *more,
            ],
        )  # fmt: skip
        module = modules.HeadModule(
            head=head, criterion=torch.nn.CrossEntropyLoss(), optimizer=functools.partial(torch.optim.AdamW, lr=3e-4),
            metrics=structs.MetricsSchema(common=[AverageLoss(), MulticlassClassificationMetrics(n_classes)]),
        )  # fmt: skip
        scores, _ = functional.run_evaluation(
            trainer, module, datamodule, run_id=0, stages=["fit", "validate"], verbose=False
        )
    return float(scores[0]["val/MulticlassAccuracy"])


def in_memory(data, sampler=None):
    loader = functools.partial(dataloaders.DataLoader, batch_size=256, num_workers=0, pin_memory=False,
                               persistent_workers=False, prefetch_factor=None)  # fmt: skip
    return datamodules.DataModule(
        datasets=schemas.DatasetsSchema(Rows(data["x_train"], data["y_train"]), Rows(data["x_val"], data["y_val"])),
        dataloaders=schemas.DataloadersSchema(train=loader(shuffle=sampler is None), val=loader()),
        samplers=schemas.SamplersSchema(train=sampler),
    )


def from_files(data, folder):
    """Embeddings as eva stores them: a file each and a manifest."""
    rows = []
    for split in ("train", "val"):
        for number, (x, y) in enumerate(zip(data[f"x_{split}"], data[f"y_{split}"], strict=True)):
            torch.save(torch.tensor(x), folder / f"{split}-{number}.pt")
            rows.append((f"{split}-{number}.pt", int(y), split))
    pd.DataFrame(rows, columns=["embeddings", "target", "split"]).to_csv(folder / "manifest.csv", index=False)
    parts = [datasets.EmbeddingsClassificationDataset(str(folder), "manifest.csv", split) for split in ("train", "val")]
    loader = functools.partial(dataloaders.DataLoader, batch_size=256, num_workers=N_WORKERS)
    return datamodules.DataModule(
        datasets=schemas.DatasetsSchema(*parts),
        dataloaders=schemas.DataloadersSchema(train=loader(shuffle=True), val=loader()),
    )


def main():
    source, out, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    data = dict(np.load(source))
    n_classes, dim = int(data["y_train"].max()) + 1, data["x_train"].shape[1]
    if mode == "given":
        head = torch.nn.Linear(dim, n_classes)
        head.load_state_dict({"weight": torch.tensor(data["weight"]), "bias": torch.tensor(data["bias"])})
        score = run(data, in_memory(data, GivenOrder(data["order_EN"])), head, out)
        np.savez(out, **np.load(out), score=score)
    elif mode == "seeds":
        scores, steps = [], []
        for seed, weight, bias in zip(data["seeds"], data["weight_SKD"], data["bias_SK"], strict=True):
            torch.manual_seed(int(seed))
            head = torch.nn.Linear(dim, n_classes)
            head.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
            scores.append(run(data, in_memory(data), head, out))
            steps.append(int(np.load(out)["n_steps"]))
        np.savez(out, scores=np.array(scores), n_steps=np.array(steps))
    else:
        with tempfile.TemporaryDirectory() as folder:
            turns = Turns(int(data["segment_steps"]))
            run(data, from_files(data, Path(folder)), torch.nn.Linear(dim, n_classes), out, (turns,))


if __name__ == "__main__":
    main()
