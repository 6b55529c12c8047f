"""A network cut in two: frozen blocks whose output is computed once, and the blocks behind them that are trained."""

# B batch, C channels, S side of the input; tokens have the shape that their block takes: (B, T, D) or (B, C, H, W)

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from types import MethodType
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch.utils import _pytree as pytree

from histotune.finetune.sections import at_rest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from histotune.backbones.network import Network, Outputs


class Prefix:
    """The part of a network before one of its blocks.

    Args:
        network: The whole network; it is run only as far as the block.
        block: Name of the block whose input is wanted.
    """

    def __init__(self, network: Network, block: str) -> None:
        self._network = network
        self._block = network.module.get_submodule(block)

    def __call__(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        """Return the input of the block for normalised pixels; nothing behind it is computed."""
        return self._input(x_BCSS)

    def _input(self, x_BCSS: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), _stopped_at(self._block):
            try:
                self._network.outputs(x_BCSS)
            except _Reached as reached:
                return reached.tokens.detach()
        raise RuntimeError("the network gave its outputs without reaching the block")


class Tail:
    """The part of a network from one of its blocks on; the blocks before it are dropped, with their weights.

    The network's own code still runs, on one blank image: what it hands to the block is exchanged for the tokens. So
    every architecture keeps its own ending, norms and poolings included, for the price of one stem. A dropped
    block says what it said to the blank image: some blocks hand sizes on beside their tokens.

    Args:
        network: The network; its blocks before the cut lose their weights in place.
        blocks: Names of all its blocks, in order.
        first: Index of the first block that stays.
        size_px: Side of the input.
    """

    def __init__(self, network: Network, blocks: tuple[str, ...], first: int, size_px: int) -> None:
        self.module = network.module
        self._outputs = network.outputs
        self._side_px = size_px
        self._tokens: torch.Tensor | None = None
        answers = self._answers(blocks[:first], blocks[first])
        for name in blocks[:first]:
            _drop(self.module.get_submodule(name), answers[name])
        self.module.get_submodule(blocks[first]).register_forward_pre_hook(self._exchange, with_kwargs=True)

    def __call__(self, tokens: torch.Tensor) -> Outputs:
        """Return the network's named outputs for the input of its first block."""
        self._tokens = tokens
        try:
            return self._outputs(self._blank())
        finally:
            self._tokens = None

    def _blank(self) -> torch.Tensor:
        one = next(one for one in self.module.parameters() if one.is_floating_point())
        return torch.zeros(1, 3, self._side_px, self._side_px, device=one.device, dtype=one.dtype)

    def _answers(self, dropped: tuple[str, ...], first: str) -> dict[str, Any]:
        """Return what the blocks that go say to a blank image."""
        answers: dict[str, Any] = {}

        def note(name: str) -> Callable[..., None]:
            """Return a hook that keeps what the block of this name says."""

            def keep(module: torch.nn.Module, args: object, answer: object) -> None:
                """Keep a copy of the answer."""
                answers[name] = pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, answer)

            return keep

        with ExitStack() as stack, at_rest(self.module), torch.no_grad():
            for name in dropped:
                handle = self.module.get_submodule(name).register_forward_hook(note(name))
                stack.callback(handle.remove)
            stack.enter_context(_stopped_at(self.module.get_submodule(first)))
            stack.enter_context(suppress(_Reached))
            self._outputs(self._blank())
        return answers

    def _exchange(
        self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (self._tokens, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._tokens}


def _drop(block: torch.nn.Module, answer: Any) -> None:  # noqa: ANN401  (every architecture has its own)
    """Take the weights from a block and let it say what it said to a blank image.

    The block itself stays, since networks read settings of their blocks.
    """
    for part in block.modules():
        for name, _ in list(part.named_parameters(recurse=False)):
            setattr(part, name, None)
    setattr(block, "answer", answer)  # noqa: B010
    setattr(block, "forward", MethodType(_answered, block))  # noqa: B010  (a bound method is copied with its block)


def _answered(block: torch.nn.Module, x: torch.Tensor, *args: object, **kwargs: object) -> Any:  # noqa: ANN401
    """Stand for a block's ``forward``: the answer, as the input has its device and type."""
    return pytree.tree_map_only(torch.Tensor, lambda one: _like(one, x), block.answer)


def _like(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return one.to(other.device, other.dtype) if one.is_floating_point() else one.to(other.device)


class _Reached(Exception):
    def __init__(self, tokens: torch.Tensor) -> None:
        super().__init__()
        self.tokens = tokens


@contextmanager
def _stopped_at(block: torch.nn.Module) -> Iterator[None]:
    """Stop the network where it is about to run a block."""

    def stop(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
        """Leave the forward pass with the tokens that the block would take."""
        raise _Reached(args[0] if args else kwargs["hidden_states"])

    handle = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def recompute_blocks(module: torch.nn.Module, blocks: tuple[str, ...]) -> None:
    """Let blocks keep their inputs alone while training, and compute the rest again in the backward pass.

    Chen et al. 2016, arXiv 1604.06174: the memory of a block's activations for one more forward pass of it.
    """
    for name in blocks:
        block = module.get_submodule(name)
        setattr(block, "forward", MethodType(_recomputed, block))  # noqa: B010  (a bound method is copied with its block)


def _recomputed(block: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    """Stand for a block's ``forward``."""
    from torch.utils.checkpoint import checkpoint

    run = type(block).forward
    if not (block.training and torch.is_grad_enabled()):
        return run(block, *args, **kwargs)
    return checkpoint(run, block, *args, use_reentrant=False, **kwargs)


def cut_network(network: Network, blocks: tuple[str, ...], first: int, size_px: int) -> Network:
    """Return a network that takes tokens in place of pixels; the given one loses its first blocks.

    Args:
        network: The network, adapters included.
        blocks: Names of all its blocks, in order.
        first: Index of the first block that holds a trained parameter; 1 or more.
        size_px: Side of the input.

    Returns:
        A network of the same module whose ``outputs`` maps the tokens before block ``first`` to the named outputs.
    """
    tail = Tail(network, blocks, first, size_px)
    return replace(network, outputs=tail)
