"""Blocks are found in every architecture, in their order, and stem and tail lie where they run."""

from __future__ import annotations

import pytest
import torch

from histotune.backbones.network import Network
from histotune.finetune.sections import Sections, at_rest, find_sections, gradients
from histotune.tools.errors import UserError
from tests.finetune.families import FAMILIES, bare, blocks_of, built


@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_stem_and_tail_of_an_architecture(name: str) -> None:
    family = FAMILIES[name]
    network = bare(family.spec)
    names, sections = blocks_of(family, network), find_sections(network, family.spec.size_px)
    assert sections.names == names
    held = dict(network.module.named_parameters())
    for position, section in enumerate(names):
        inner = [one for one in held if one.startswith(f"{section}.")]
        assert inner and all(sections.place(one) == position for one in inner)
    assert {sections.place(one) for one in family.stem} == {-1} and set(family.stem) <= set(held)
    assert all(sections.place(one) == len(names) for one in family.tail) and set(family.tail) <= set(held)


@pytest.mark.parametrize("name", FAMILIES)
def test_finding_blocks_leaves_no_hook_and_no_mode_behind(name: str) -> None:
    network = bare(FAMILIES[name].spec)
    network.module.train()
    hooks = [len(part._forward_pre_hooks) for part in network.module.modules()]
    find_sections(network, FAMILIES[name].spec.size_px)
    assert [len(part._forward_pre_hooks) for part in network.module.modules()] == hooks
    assert all(part.training for part in network.module.modules())


def test_block_1_is_not_the_beginning_of_block_10() -> None:
    sections = Sections(tuple(f"blocks.{number}" for number in range(12)), {"norm": 12})
    assert [sections.place(f"blocks.{number}.attn.qkv.weight") for number in (1, 10, 11)] == [1, 10, 11]
    assert sections.place("norm.weight") == 12
    assert sections.place("pos_embed") == -1


class Odd(torch.nn.Module):
    """Blocks that run against their numbers, with a module between two of them and one that never runs."""

    def __init__(self, n: int = 3) -> None:
        super().__init__()
        self.zoom = torch.nn.Linear(4, 4)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(n))
        self.between = torch.nn.Linear(4, 4)
        self.entry = torch.nn.Linear(3, 4)
        self.unused = torch.nn.Linear(4, 4)

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        x_BD = self.entry(x_BD)
        for position, block in enumerate(reversed(self.blocks)):
            x_BD = block(x_BD)
            x_BD = self.between(x_BD) if position == 0 else x_BD
        return self.zoom(x_BD)


def test_order_is_that_of_running_and_no_list_of_names() -> None:
    module = Odd()
    network = Network(module, lambda x_BCHW: {"pooled": module(x_BCHW.mean((2, 3)))}, convolutional=False)
    sections = find_sections(network, 8)
    assert sections.names == ("blocks.2", "blocks.1", "blocks.0")
    places = {name: sections.place(f"{name}.weight") for name in ("entry", "between", "zoom", "unused", "blocks.0")}
    assert places == {"entry": -1, "between": 0, "zoom": 3, "unused": -1, "blocks.0": 2}


def test_blocks_are_where_most_layers_run_and_not_where_most_weights_lie() -> None:
    module = torch.nn.Sequential()
    module.add_module("body", Odd(n=4))
    module.add_module("fc1", torch.nn.Linear(4, 999))
    module.add_module("fc2", torch.nn.Linear(999, 4))
    network = Network(module, lambda x_BCHW: {"pooled": module(x_BCHW.mean((2, 3)))}, convolutional=False)
    sections = find_sections(network, 8)
    assert sections.names == tuple(f"body.blocks.{number}" for number in (3, 2, 1, 0))
    assert sections.place("fc1.weight") == sections.place("fc2.bias") == 4


def test_a_network_without_blocks_is_refused() -> None:
    module = torch.nn.Linear(3, 2)
    network = Network(module, lambda x_BCHW: {"pooled": module(x_BCHW.mean((2, 3)))}, convolutional=False)
    with pytest.raises(UserError, match="no numbered blocks"):
        find_sections(network, 8)


def test_gradients_name_what_reaches_the_outputs_and_leave_everything_as_it_was() -> None:
    family = FAMILIES["dinov2"]
    network = built(family.spec)
    network.module.requires_grad_(requires_grad=False)
    state = torch.random.get_rng_state()
    names = [name for name, _ in network.module.named_parameters()]
    with torch.no_grad():
        found = gradients(network, names, family.spec.size_px)
    assert set(names) - set(found) == {"embeddings.mask_token"}
    assert all(one.any() for name, one in found.items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in network.module.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert gradients(network, ["embeddings.mask_token"], family.spec.size_px) == {}


def test_a_network_at_rest_returns_to_the_modes_of_its_parts() -> None:
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(2))
    module[1].eval()
    with at_rest(module):
        assert not any(part.training for part in module.modules())
    assert module.training and module[0].training and not module[1].training
