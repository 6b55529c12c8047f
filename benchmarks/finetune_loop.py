"""The loop of fine-tuning against its own forward and backward passes, and the kept output of frozen blocks."""

# B batch, S side of the input

from __future__ import annotations

from dataclasses import dataclass, replace
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
    import torch

    from histotune.backbones.network import Network
    from histotune.backbones.spec import BackboneSpec
    from histotune.finetune.loop import TrainingTask
    from histotune.finetune.tuned_model import LinearHead

N_CORES, N_TILES, BATCH, SIDE_PX, N_BLOCKS = 2, 32, 16, 224, 12
SHAPE = (
    "ViT-S/16 at 224 px, random weights, fp32, the last of 12 blocks trained, 32 tiles in 2 batches of 16, one epoch; "
)
OVERHEAD = Claim(
    "finetune_loop", "an epoch of fine-tuning, times its bare forward and backward passes, on 2 cores", "x", 1.05,
    "at most",
    SHAPE + "the bare arm runs the same batches through the same model and calls backward, without an optimiser, "
    "sampling, clipping or scoring. In turns, median of 5 after 1 warm-up.",
)  # fmt: skip
PREFIX = Claim(
    "finetune_prefix", "an epoch on kept output of frozen blocks, share of the speed-up that counted operations allow",
    "x", 0.9, "at least",
    SHAPE + "with kept tokens against pixels through all blocks; the allowed ratio is that of torch's FlopCounterMode "
    "over one step of each. In turns, median of 5 after 1 warm-up.",
)  # fmt: skip


class Fixed:
    """Inputs that lie in memory, so that nothing but the loop and the network is timed.

    Args:
        x: The inputs of all tiles.
    """

    def __init__(self, x: torch.Tensor) -> None:
        self._x = x

    def tensor(self, rows: np.ndarray, view: int) -> torch.Tensor:
        """Return the inputs of a batch."""
        return self._x[rows]


@dataclass(frozen=True)
class Prepared:
    """One way to train: the model with its inputs."""

    task: TrainingTask

    def epoch(self) -> None:
        """Train for one epoch as histotune does."""
        from histotune.finetune.config import LoopConfig
        from histotune.finetune.loop import train

        train(self.task, LoopConfig(epochs=1, batch_size=BATCH, sampling="tiles"))

    def bare(self) -> None:
        """Run the same batches forward and backward, and nothing else."""
        import torch

        self.task.model.train()
        labels_N = torch.from_numpy(self.task.labels_N)
        for start in range(0, N_TILES, BATCH):
            rows = np.arange(start, start + BATCH)
            logit_BK = self.task.model(self.task.inputs.tensor(rows, 0))
            torch.nn.functional.cross_entropy(logit_BK, labels_N[rows]).backward()  # type: ignore[no-untyped-call]
            self.task.model.zero_grad(set_to_none=True)

    def operations(self) -> int:
        """Return the operations of the bare passes."""
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
        with counter:
            self.bare()
        return int(counter.get_total_flops())


def measure() -> tuple[Result, ...]:
    """Time both claims."""
    lacking = missing_hardware(n_cpus=N_CORES)
    if lacking:
        return (not_measured(OVERHEAD, lacking), not_measured(PREFIX, lacking))
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(N_CORES)
    try:
        with cores(N_CORES):
            whole, cut = prepare(kept=False), prepare(kept=True)
            loop_s = alternate([Arm("bare", whole.bare), Arm("loop", whole.epoch)])
            kept_s = alternate([Arm("pixels", whole.epoch), Arm("tokens", cut.epoch)])
    finally:
        torch.set_num_threads(threads)
    allowed = whole.operations() / cut.operations()
    shares = tuple(one / allowed for one in ratios(kept_s, "pixels", "tokens"))
    return (
        measured(OVERHEAD, ratios(loop_s, "loop", "bare"), [Part("bare, s", min(loop_s["bare"]))], N_CORES),
        measured(PREFIX, shares, [Part("allowed by operations, x", allowed)], N_CORES),
    )


def prepare(*, kept: bool) -> Prepared:
    """Return a model that trains its last block, on pixels or on the tokens before that block."""
    import torch

    from histotune.backbones.network import build_network
    from histotune.finetune.cut import Prefix, cut_network
    from histotune.finetune.loop import TrainingTask
    from histotune.finetune.methods import MethodChoice, make_trainable
    from histotune.finetune.tuned_model import TunedModel

    spec = vit_small()
    network = build_network(spec)
    torch.manual_seed(0)
    x_BCSS = torch.randn(N_TILES, 3, SIDE_PX, SIDE_PX)
    trainable = make_trainable(network, spec, MethodChoice("last-blocks", 1))
    names = trainable.sections.names
    inputs = x_BCSS
    outputs: Network = trainable.network
    if kept:
        inputs = torch.cat([Prefix(build_network(spec), names[-1])(part) for part in x_BCSS.split(BATCH)])  # type: ignore[no-untyped-call]
        outputs = cut_network(trainable.network, names, len(names) - 1, SIDE_PX)
    labels_N = np.arange(N_TILES) % 2
    groups = [str(row) for row in range(N_TILES)]
    rows = np.arange(N_TILES)
    model = TunedModel(outputs, blank_head(384), torch.float32)
    return Prepared(TrainingTask(model, {}, Fixed(inputs), labels_N, groups, rows, rows[:0]))


def vit_small() -> BackboneSpec:
    """Return ViT-S/16 with random weights."""
    from histotune.backbones.catalog import find_backbone
    from histotune.backbones.entries import BackboneConfig

    spec = find_backbone(BackboneConfig(name="random/timm/vit_small_patch16_224"))
    return replace(spec, size_px=SIDE_PX)


def blank_head(width: int) -> LinearHead:
    """Return a head that says nothing yet, on the class token."""
    from histotune.finetune.tuned_model import LinearHead

    zeros_KD = np.zeros((2, width))
    return LinearHead(zeros_KD, np.zeros(2), np.zeros(width), np.ones(width), ("cls",))
