"""One head trained by a plain torch loop: the reference of the batched one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from histotune.heads.sgd.jobs import TrainData, TrainSplit
from histotune.heads.sgd.steps import linear_layers, shuffled_order

if TYPE_CHECKING:
    from histotune.heads.sgd.jobs import TrainJob


def make_data(n: int = 150, dim: int = 20, n_classes: int = 2, seed: int = 0, standardise: bool = False) -> TrainData:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    x = rng.standard_normal((n, dim)).astype(np.float32)
    x[np.arange(n), y] += 1.0
    rows = np.arange(n)
    return TrainData(x, y, n_classes, (TrainSplit(rows[: 2 * n // 3], rows[2 * n // 3 :]),), standardise)


def make_net(job: TrainJob, dim: int, n_classes: int) -> torch.nn.Module:
    modules: list[torch.nn.Module] = []
    for layer in linear_layers(job, dim, n_classes):
        linear = torch.nn.Linear(layer.weight_OI.shape[1], layer.weight_OI.shape[0])
        linear.weight.data = torch.from_numpy(layer.weight_OI.copy())
        linear.bias.data = torch.from_numpy(layer.bias_O.copy())
        modules += [linear, torch.nn.ReLU() if job.settings.activation == "relu" else torch.nn.GELU()]
    return torch.nn.Sequential(*modules[:-1])


def make_optimizer(net: torch.nn.Module, job: TrainJob) -> torch.optim.Optimizer:
    s, common = job.settings, {"lr": job.settings.lr, "weight_decay": job.settings.weight_decay, "foreach": False}
    if s.optimizer == "SGD":
        return torch.optim.SGD(net.parameters(), momentum=s.momentum, nesterov=s.nesterov, **common)
    kind = torch.optim.AdamW if s.optimizer == "AdamW" else torch.optim.Adam
    return kind(net.parameters(), betas=s.betas, eps=s.eps, **common)


def loss_of(z: torch.Tensor, y: torch.Tensor, job: TrainJob, weight: torch.Tensor | None) -> torch.Tensor:
    if job.settings.one_logit:
        return functional.binary_cross_entropy_with_logits(z[:, 0], y.float())
    return functional.cross_entropy(z, y, weight=weight, label_smoothing=job.settings.label_smoothing)


def train_plainly(data: TrainData, job: TrainJob, n_steps: int, schedulers=()) -> torch.nn.Module:  # noqa: ANN001
    """``schedulers``: (make, unit) pairs of torch's own learning-rate schedulers."""
    rows = data.splits[job.split].train_rows
    x, y = torch.from_numpy(data.x_ND[rows]), torch.from_numpy(data.y_N[rows])
    net = make_net(job, x.shape[1], data.n_classes)
    optimizer = make_optimizer(net, job)
    rates = [(make(optimizer), unit) for make, unit in schedulers]
    weight = None
    if job.settings.class_weight == "balanced":
        weight = len(y) / torch.bincount(y, minlength=data.n_classes).float()
    done = epoch = 0
    while done < n_steps:
        order = torch.from_numpy(shuffled_order(job.seed, epoch, len(x)))
        batches = list(order.split(job.settings.batch_size))
        if job.settings.drop_last and len(batches[-1]) < job.settings.batch_size:
            batches.pop()
        for index in batches[: n_steps - done]:
            optimizer.zero_grad()
            loss_of(net(x[index]), y[index], job, weight).backward()
            optimizer.step()
            done += 1
            for rate, unit in rates:
                if unit == "step":
                    rate.step()
        epoch += 1
        for rate, unit in rates:
            if unit == "epoch":
                rate.step()
    return net


def plain_logits(net: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return net(torch.from_numpy(x)).double().numpy()
