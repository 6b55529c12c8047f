"""Bytes of a training step, counted and not measured: parameters, gradients, moments, and what autograd keeps.

A tensor that the backward pass needs is kept until then. How many bytes that are is the same on every device up to the
kernels' own choices, so that a step can be sized on a machine without a GPU.
"""

# B batch, C channels, S side of the input, K classes

from __future__ import annotations

import copy
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from histotune.finetune.cut import Prefix, cut_network, recompute_blocks
from histotune.finetune.methods import MethodChoice, frozen_norms, make_trainable
from histotune.finetune.tuned_model import LinearHead, TunedModel
from histotune.finetune.workbench import chosen_method

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from histotune.backbones.network import Network
    from histotune.finetune.workbench import TuningBench


@dataclass(frozen=True)
class ParameterBytes:
    """Bytes of a model that do not depend on how many tiles it is shown.

    Attributes:
        weights: Parameters and buffers, each once.
        gradients: Of the parameters that train.
        moments: The two that AdamW keeps of each of those.
        copies: Further copies of what trains: the start and the best weights, where they lie in the same memory, and
            the gradients that DistributedDataParallel sends around.
    """

    weights: int
    gradients: int
    moments: int
    copies: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.moments + self.copies


@dataclass(frozen=True)
class ByteLine:
    """Bytes that grow with the number of tiles.

    Attributes:
        fixed: Without a tile.
        per_tile: For each.
    """

    fixed: float
    per_tile: float

    @classmethod
    def through(cls, one: float, two: float) -> ByteLine:
        """Return the line through the bytes at one and at two tiles."""
        return cls(max(2 * one - two, 0.0), two - one)

    def at(self, n_tiles: int) -> float:
        """Return the bytes for some tiles."""
        return self.fixed + n_tiles * self.per_tile


@dataclass(frozen=True)
class SavedBytes:
    """What one forward pass leaves.

    Attributes:
        total: Bytes of all storages that autograd keeps, and of the input; parameters are left out.
        block: Bytes of the block that keeps the most.
        widest: Bytes of the input and the output of the layer where they are the most.
    """

    total: int
    block: int
    widest: int


@dataclass(frozen=True)
class TrialModel:
    """A model as it will be trained, with a blank head; it is thrown away.

    Attributes:
        model: The backbone and its head, on their device.
        blocks: Blocks that train or run behind the first that does.
        cut: Name of the block whose input is kept; empty where the model takes pixels.
        prefix: Maps pixels to that input; None where the model takes pixels.
        product_type: Type that matrix products are computed in.
    """

    model: TunedModel
    blocks: tuple[str, ...]
    cut: str
    prefix: Prefix | None
    product_type: torch.dtype

    def taken(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        """Return what the model takes for some pixels."""
        return x_BCSS if self.prefix is None else self.prefix(x_BCSS).to(x_BCSS.dtype)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        """Return a loss of a batch, as a training step has it."""
        with autocast(x.device, self.product_type):
            logit_BK = self.model(x)
        y_B = torch.zeros(len(logit_BK), dtype=torch.int64, device=logit_BK.device)
        return torch.nn.functional.cross_entropy(logit_BK, y_B)

    def recompute(self) -> None:
        """Let the blocks keep their inputs alone from now on."""
        recompute_blocks(self.model.backbone, self.blocks)


def trial_model(bench: TuningBench, choice: MethodChoice | None = None) -> TrialModel:
    """Return a model as a training would have it, without a probe and without kept tokens.

    Args:
        bench: The frozen network; it is copied.
        choice: Which parameters move; None takes the config's.

    Returns:
        The model, in training mode, on the workbench's device.
    """
    network = copy.deepcopy(bench.base)
    network.module.to("cpu", torch.float32)
    with torch.random.fork_rng(devices=[]):  # adapters are drawn
        trainable = make_trainable(network, bench.of.spec, choice or chosen_method(bench.config))
    network = trainable.network
    frozen_norms(network.module)
    first, names = trainable.first, bench.sections.names
    cut, prefix = "", None
    if bench.keeps_prefix and 1 <= first < len(names):
        cut = names[first]
        bench.base.module.to(bench.device, bench.number_type)
        prefix = Prefix(bench.base, cut)
        network = cut_network(network, names, first, bench.of.view.size_px)
    network.module.to(bench.device, bench.number_type)
    like = bench.pixels.blank()
    head = _blank_head(network, like if prefix is None else prefix(like).to(like.dtype), bench)
    model = TunedModel(network, head, bench.number_type).to(bench.device).train()
    return TrialModel(model, names[max(first, 0) :], cut, prefix, bench.product_type)


def _blank_head(network: Network, x: torch.Tensor, bench: TuningBench) -> LinearHead:
    """Return a head on all outputs whose logits are 0."""
    network.module.eval()
    with torch.no_grad():
        outputs = network.outputs(x)
    n_columns, n_classes = sum(one.shape[1] for one in outputs.values()), len(bench.of.tiles.class_names)
    zeros_D = np.zeros(n_columns)
    return LinearHead(
        np.zeros((n_classes, n_columns)), np.zeros(n_classes), zeros_D, np.ones(n_columns), tuple(outputs)
    )


def count_parameters(module: torch.nn.Module) -> ParameterBytes:
    """Count a module's weights, and the gradients and moments of those that train.

    Example:
        >>> import torch
        >>> count_parameters(torch.nn.Linear(3, 2))
        ParameterBytes(weights=32, gradients=32, moments=64, copies=0)
    """
    weights = sum(one.nbytes for one in module.parameters()) + sum(one.nbytes for one in module.buffers())
    trained = sum(one.nbytes for one in module.parameters() if one.requires_grad)
    return ParameterBytes(weights, trained, 2 * trained)


def count_saved(
    module: torch.nn.Module, blocks: tuple[str, ...], x: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]
) -> SavedBytes:
    """Run a forward pass and count what it keeps for the backward pass.

    Args:
        module: What is run; torch's generator is left as it was.
        blocks: Parts of it that run one after another.
        x: A batch.
        loss: Maps the batch to a loss.

    Returns:
        Bytes of storages, each counted once however many tensors show it.
    """
    counter = _Counter(module)
    counter.keep(x)
    devices = [x.device] if x.device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(counter.watching(module, blocks))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(counter.keep, lambda one: one))
        loss(x)
    by_block = counter.by_block
    return SavedBytes(
        sum(by_block.values()), max((by_block.get(name, 0) for name in blocks), default=0), counter.widest
    )


@dataclass
class _Counter:
    """Storages that autograd keeps, by the block in which they were kept first; they are held, lest a place is reused.

    Attributes:
        module: Its parameters and buffers do not count.
    """

    module: torch.nn.Module
    by_block: dict[str, int] = field(default_factory=dict)
    widest: int = 0
    _block: str = ""
    _held: dict[int, torch.UntypedStorage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Leave out what the model holds anyway."""
        for one in (*self.module.parameters(), *self.module.buffers()):
            self._held[one.untyped_storage().data_ptr()] = one.untyped_storage()

    def keep(self, one: torch.Tensor) -> torch.Tensor:
        """Count a tensor's storage."""
        storage = one.untyped_storage()
        if storage.data_ptr() not in self._held:
            self._held[storage.data_ptr()] = storage
            self.by_block[self._block] = self.by_block.get(self._block, 0) + storage.nbytes()
        return one

    @contextmanager
    def watching(self, module: torch.nn.Module, blocks: tuple[str, ...]) -> Iterator[None]:
        """Know which block runs, and how wide the layers are."""
        layers = [part for part in module.modules() if not any(True for _ in part.children())]
        handles = [layer.register_forward_hook(self._look) for layer in layers]
        for name, part in module.named_modules():
            own = name.removeprefix("backbone.")
            if own in blocks:
                handles.append(part.register_forward_pre_hook(lambda *_, own=own: self._enter(own)))
                handles.append(part.register_forward_hook(lambda *_: self._enter("")))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, block: str) -> None:
        self._block = block

    def _look(self, layer: torch.nn.Module, args: tuple[Any, ...], answer: object) -> None:
        tensors = [one for one in (*args, answer) if isinstance(one, torch.Tensor)]
        self.widest = max(self.widest, sum(one.nbytes for one in tensors))


def autocast(device: torch.device, product_type: torch.dtype) -> AbstractContextManager[Any]:
    """Return the context in which a model is trained."""
    half = product_type in (torch.float16, torch.bfloat16)
    return torch.autocast(device.type, product_type) if half else nullcontext()
