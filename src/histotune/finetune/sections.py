"""The blocks of a network in the order in which they run, and which of its parameters reach its outputs.

Nothing here knows an architecture by name: blocks are the numbered modules in which most layers run, and the
stem and the tail are told apart by when a module runs.
"""

# B batch, C channels, S side of the input, D columns

from __future__ import annotations

import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import torch

    from histotune.backbones.network import Network


NUMBER = re.compile(r"\d+(?=\.|$)")  # the number that ends a part of a path: blocks.11, layer4
SEED = 0


@dataclass(frozen=True)
class Sections:
    """The blocks of a network in their order.

    Attributes:
        names: Module paths, such as ``blocks.0``, ``encoder.layer.3`` or ``layer4``.
        outside: Place of every module outside the blocks that ran: -1 before them, ``len(names)`` after them; one
            that ran between two blocks has the place of the first of the two, whose input it cannot change.
    """

    names: tuple[str, ...]
    outside: Mapping[str, int] = field(default_factory=dict, hash=False, repr=False)

    def place(self, parameter: str) -> int:
        """Return the section that holds a parameter.

        Args:
            parameter: Its name in the network.

        Returns:
            The index of the section; -1 for the stem, ``len(names)`` for what follows. Parameters of a module that
            holds the sections themselves, such as a class token of the root, count as stem, and so do those of
            modules that never ran.
        """
        positions = {name: position for position, name in enumerate(self.names)}
        owner = parameter.rpartition(".")[0]
        while owner:
            if owner in positions:
                return positions[owner]
            if owner in self.outside:
                return self.outside[owner]
            owner = owner.rpartition(".")[0]
        return -1


def find_sections(network: Network, size_px: int) -> Sections:
    """Find the blocks of a network by running it once on a blank image.

    Args:
        network: The network.
        size_px: Side of its input.

    Returns:
        Its blocks in the order in which they run, and the places of everything else.
    """
    import torch

    one = next(network.module.parameters())
    blank_1CSS = torch.zeros(1, 3, size_px, size_px, device=one.device, dtype=one.dtype)
    with at_rest(network.module), torch.no_grad(), _starts_of(network.module) as started:
        network.outputs(blank_1CSS)
    names = _largest_group(network.module, started)
    if not names:
        raise UserError(
            "this network has no numbered blocks, so they can't be told apart",
            value=type(network.module).__name__,
            fix="use a linear probe, or another backbone",
        )
    return Sections(names, _outside(names, started))


@contextmanager
def at_rest(module: torch.nn.Module) -> Iterator[None]:
    """Put every part of a network into evaluation mode and leave it as it was."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def _starts_of(module: torch.nn.Module) -> Iterator[list[str]]:
    """Give the names of the modules in the order in which they first start to run."""
    started: dict[str, None] = {}
    names: list[str] = []

    def hook(name: str) -> torch.utils.hooks.RemovableHandle:
        """Let a module tell when it starts to run."""

        def note(*_: object) -> None:
            """Note the name at the first start."""
            if name not in started:
                started[name] = None
                names.append(name)

        return module.get_submodule(name).register_forward_pre_hook(note)

    handles = [hook(name) for name, _ in module.named_modules() if name]
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()


def _largest_group(module: torch.nn.Module, started: list[str]) -> tuple[str, ...]:
    """Return the outermost numbered modules of one kind in which the most layers with weights of their own ran."""
    layers = [name for name in started if any(True for _ in module.get_submodule(name).parameters(recurse=False))]
    # Layers are counted and not weights: a wide classifier may hold more weights than all blocks.
    n_layers = Counter(holder for name in layers for holder in (name, *_parents(name)))
    groups: dict[str, list[str]] = {}
    for name in _outermost(name for name in started if n_layers[name] and name[-1].isdigit()):
        groups.setdefault(NUMBER.sub("#", name), []).append(name)
    return tuple(max(groups.values(), key=lambda names: sum(n_layers[name] for name in names), default=[]))


def _outermost(names: Iterable[str]) -> list[str]:
    kept = list(names)
    known = set(kept)
    return [name for name in kept if not any(parent in known for parent in _parents(name))]


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _outside(names: tuple[str, ...], started: list[str]) -> dict[str, int]:
    """Return the place of every module outside the blocks that ran."""
    holders = {parent for name in names for parent in _parents(name)}
    order = {name: position for position, name in enumerate(names)}
    places: dict[str, int] = {}
    place = -1
    for name in started:
        if name in order:
            place = order[name]
        elif name not in holders and not any(parent in order for parent in _parents(name)):
            # What starts after the last block started and lies outside it runs behind it.
            places[name] = place if place < len(names) - 1 else len(names)
    return places


# ---- What reaches the outputs ----


def gradients(network: Network, names: Iterable[str], size_px: int) -> dict[str, torch.Tensor]:
    """Return the gradients of a random projection of the outputs for two random images.

    Args:
        network: The network; it is left as it was, and so is torch's generator.
        names: Parameters asked about.
        size_px: Side of the input.

    Returns:
        The gradient by name, without the parameters that the outputs do not depend on.
    """
    import torch

    parameters = dict(network.module.named_parameters())
    # An empty parameter, such as the tokens of a network with no registers, has a gradient and nothing that could move.
    asked = [name for name in names if parameters[name].is_floating_point() and parameters[name].numel()]
    with at_rest(network.module), _only(parameters, asked), torch.enable_grad():
        answer = projected(network, random_pixels(network, size_px))
        if not answer.requires_grad:
            return {}
        found = torch.autograd.grad(answer, [parameters[name] for name in asked], allow_unused=True)
    return {name: gradient for name, gradient in zip(asked, found, strict=True) if gradient is not None}


def random_pixels(network: Network, size_px: int) -> torch.Tensor:
    """Return two random images as normalised pixels."""
    import torch

    one = next(network.module.parameters())
    drawn_BCSS = torch.randn(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(SEED))
    return drawn_BCSS.to(device=one.device, dtype=one.dtype)


def projected(network: Network, x_BCSS: torch.Tensor) -> torch.Tensor:
    """Return the sum over all outputs of each number times a random weight of its own."""
    import torch

    generator = torch.Generator().manual_seed(SEED + 1)
    blocks_BD = network.outputs(x_BCSS).values()
    # A plain sum would not do: after a layer norm the columns sum to a constant, whose gradient is zero.
    products = [
        (block_BD * torch.randn(block_BD.shape, generator=generator).to(block_BD)).sum() for block_BD in blocks_BD
    ]
    return torch.stack(products).sum()


@contextmanager
def _only(parameters: Mapping[str, torch.nn.Parameter], names: Iterable[str]) -> Iterator[None]:
    """Let gradients be taken for some parameters alone, and restore what was."""
    before = {name: parameter.requires_grad for name, parameter in parameters.items()}
    chosen = set(names)
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in chosen)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.requires_grad_(before[name])
