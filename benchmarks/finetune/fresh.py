"""LoRA from a fresh head, as others fine-tune: no probe to start from, a fixed schedule, nobody who decides.

Low-rank updates (Hu et al. 2022) of rank 16 lie on the 1x1 convolutions of the last stage and of what follows it, and
the head starts at zero on standardised columns. Trained tiles, batches, rates and number of epochs are those of the
fine-tuning that it stands beside.
"""

# N tiles, n tiles, K classes

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from peft import LoraConfig

from benchmarks.finetune.trial import held_out_auroc
from histotune.backbones.network import seeded
from histotune.datasets.splits.split import tile_groups
from histotune.finetune.candidates import rows_by_id, training_task
from histotune.finetune.cut import cut_network
from histotune.finetune.injection import inject
from histotune.finetune.loop import tile_logits, train
from histotune.finetune.methods import Trainable, frozen_norms, rest_before
from histotune.finetune.tuned_model import TunedModel, head_of_probe
from histotune.finetune.workbench import StartingPoint
from histotune.heads.family import SweepTask
from histotune.heads.sweep import sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from histotune.finetune.workbench import TuningBench
    from histotune.heads.config import SweepConfig
    from histotune.heads.head import Head

    Bools = NDArray[np.bool_]

RANK = 16


def fresh_lora_auroc(bench: TuningBench, train_sets: Sequence[Bools], config: SweepConfig) -> float:
    """Train adapters and a head from zero on every training set, and return the AUROC of the tiles left out.

    Args:
        bench: The network and the tiles; its method trains the last blocks, so that the kept output is shared.
        train_sets: Tiles that train.
        config: How a probe is found: the fresh head takes its columns' means and deviations alone.
    """
    tiles, of = bench.of.tiles, bench.of
    task = SweepTask(
        tiles.labels_N, tile_groups(tiles), tiles.class_names, np.stack(train_sets), "grouped",
        of.spec.default_pooling, (),
    )  # fmt: skip
    rows, logits = [], []
    for train_N, found in zip(train_sets, sweep(of.embeddings, task, config), strict=True):
        zero = replace(found.head, weight_KD=0.0 * found.head.weight_KD, bias_K=0.0 * found.head.bias_K)
        start = lora_start(bench, zero)
        own, left = rows_by_id(bench, train_N), rows_by_id(bench, ~train_N)
        bench.prepare(start.inputs, own, left)
        train(training_task(bench, start, own, own[:0]), bench.config.loop)
        rows.append(left)
        logits.append(tile_logits(start.model, start.inputs, left))
    return held_out_auroc(bench, rows, logits)


def lora_start(bench: TuningBench, head: Head) -> StartingPoint:
    """Return a model whose last stage has low-rank updates, all zero, under a given head."""
    plain = bench.start(head)  # for its kept tokens: the same block is the first that moves
    sections, first = bench.sections, plain.trainable.first
    network = copy.deepcopy(bench.base)
    network.module.to("cpu", torch.float32)
    layers = [
        name
        for name, part in network.module.named_modules()
        if isinstance(part, torch.nn.Conv2d)
        and part.kernel_size == (1, 1)
        and sections.place(f"{name}.weight") >= first
    ]
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=layers, init_lora_weights=True, bias="none")
    with seeded(bench.config.loop.seed):
        adapted = inject(network, config, bench.of.view.size_px)
    names = tuple(name for name, _ in network.module.named_parameters() if ".lora_" in name)
    for name, parameter in network.module.named_parameters():
        parameter.requires_grad_(name in names)
    trainable = Trainable(network, names, first, adapted, sections)
    frozen_norms(network.module)
    rest_before(trainable)
    cut = cut_network(network, sections.names, first, bench.of.view.size_px)
    return StartingPoint(TunedModel(cut, head_of_probe(head)), trainable, {}, plain.inputs)
