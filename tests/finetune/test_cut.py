"""A network cut in two gives what the whole one gives, in values and in gradients, at every cut of every family."""

from __future__ import annotations

import copy

import pytest
import torch

from histotune.backbones.network import Network, Outputs
from histotune.finetune.cut import Prefix, cut_network, recompute_blocks
from histotune.finetune.methods import MethodChoice, make_trainable, rest_before
from histotune.finetune.sections import find_sections
from tests.finetune.families import FAMILIES, built, images

FEW = ("timm-vit", "lite0", "timm-swin", "swin", "midnight")


def joined(outputs: Outputs) -> torch.Tensor:
    return torch.cat(list(outputs.values()), dim=1)


def gradients_of(network: Network, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradients of a weighted sum of the outputs, by name."""
    network.module.zero_grad()
    torch.manual_seed(0)  # paths that are dropped while training
    answer = joined(network.outputs(x))
    weights = torch.randn(answer.shape, generator=torch.Generator().manual_seed(2)).to(answer)
    (answer * weights).sum().backward()
    return {name: one.grad.clone() for name, one in network.module.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_parts_give_what_the_whole_gives_at_every_cut(name: str) -> None:
    family = FAMILIES[name]
    whole = built(family.spec)
    x_BCSS = images(family.spec, n=3)
    names = find_sections(whole, family.spec.size_px).names
    with torch.no_grad():
        wanted = joined(whole.outputs(x_BCSS))
    for first in range(1, len(names)):
        tokens = Prefix(whole, names[first])(x_BCSS)
        tail = cut_network(copy.deepcopy(whole), names, first, family.spec.size_px)
        with torch.no_grad():
            torch.testing.assert_close(joined(tail.outputs(tokens)), wanted, rtol=1e-6, atol=1e-6)
            one = joined(tail.outputs(tokens[1:2]))  # batches of any size, in any order
        torch.testing.assert_close(one, wanted[1:2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gradients_behind_the_cut_are_those_of_the_whole(name: str) -> None:
    family = FAMILIES[name]
    whole = built(family.spec)
    whole.module.double()
    x_BCSS = images(family.spec, n=3).double()
    names = find_sections(whole, family.spec.size_px).names
    wanted = gradients_of(whole, x_BCSS)
    first = len(names) - 1
    tokens = Prefix(whole, names[first])(x_BCSS)
    tail = cut_network(copy.deepcopy(whole), names, first, family.spec.size_px)
    found = {key: one for key, one in gradients_of(tail, tokens).items() if key.startswith(names[first])}
    assert found
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[key], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FEW)
def test_the_dropped_blocks_leave_no_weights(name: str) -> None:
    family = FAMILIES[name]
    network = built(family.spec)
    names = find_sections(network, family.spec.size_px).names
    tail = cut_network(network, names, 2, family.spec.size_px)
    kept = [key for key, _ in tail.module.named_parameters()]
    assert not [key for key in kept if key.startswith((f"{names[0]}.", f"{names[1]}."))]
    assert [key for key in kept if key.startswith(f"{names[2]}.")]


def test_the_prefix_computes_nothing_behind_its_block_and_leaves_no_hook() -> None:
    family = FAMILIES["timm-vit"]
    network = built(family.spec)
    ran: list[str] = []
    for name in family.names:
        network.module.get_submodule(name).register_forward_hook(lambda *_, own=name: ran.append(own))
    tokens = Prefix(network, family.names[1])(images(family.spec))
    assert ran == [family.names[0]]
    assert not tokens.requires_grad
    network.outputs(images(family.spec))
    assert ran == [family.names[0], *family.names]


@pytest.mark.parametrize("name", FEW)
def test_a_copy_of_a_tail_has_weights_and_tokens_of_its_own(name: str) -> None:
    family = FAMILIES[name]
    whole = built(family.spec)
    names = find_sections(whole, family.spec.size_px).names
    tokens = Prefix(whole, names[1])(images(family.spec))
    tail = cut_network(whole, names, 1, family.spec.size_px)
    recompute_blocks(tail.module, names[1:])
    other = copy.deepcopy(tail)
    with torch.no_grad():
        before = joined(tail.outputs(tokens))
        for one in other.module.parameters():
            one.mul_(1.5)
        after = joined(other.outputs(tokens))
        assert torch.equal(joined(tail.outputs(tokens)), before)
    assert not torch.allclose(after, before)
    for one in tail.module.parameters():
        one.requires_grad_(False)
    tail.module.train()
    other.module.train()
    gradients = gradients_of(other, tokens)  # recomputed blocks of the copy are its own
    assert any(key.startswith(names[-1]) for key in gradients)


def test_a_tail_works_in_another_type_than_it_was_cut_in() -> None:
    family = FAMILIES["swin"]
    whole = built(family.spec)
    names = find_sections(whole, family.spec.size_px).names
    tokens = Prefix(whole, names[2])(images(family.spec))
    tail = cut_network(whole, names, 2, family.spec.size_px)
    before = joined(tail.outputs(tokens))
    tail.module.double()
    torch.testing.assert_close(joined(tail.outputs(tokens.double())), before.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FEW)
def test_recomputed_blocks_give_equal_gradients_and_keep_less(name: str) -> None:
    family = FAMILIES[name]
    network = built(family.spec)
    network.module.double().train()
    for part in network.module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.eval()
    names = find_sections(network, family.spec.size_px).names
    x_BCSS = images(family.spec).double()
    wanted, plain_bytes = gradients_of(network, x_BCSS), kept_bytes(network, x_BCSS)
    recompute_blocks(network.module, names)
    found = gradients_of(network, x_BCSS)
    assert found.keys() == wanted.keys()
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[key], rtol=1e-12, atol=1e-12)
    assert kept_bytes(network, x_BCSS) < 0.7 * plain_bytes


def kept_bytes(network: Network, x: torch.Tensor) -> int:
    """Return the bytes of all tensors that a forward pass keeps for the backward pass."""
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        answer = joined(network.outputs(x))
    assert answer.requires_grad
    return sum(sizes.values())


def test_what_runs_before_the_first_trained_block_stays_at_rest() -> None:
    family = FAMILIES["timm-vit"]
    network = built(family.spec)
    trainable = make_trainable(network, family.spec, MethodChoice("last-blocks", n_blocks=1))
    rest_before(trainable)
    module = copy.deepcopy(network.module).train()
    training = [name for name, part in module.named_modules() if part.training]
    frozen = ("patch_embed", *family.names[:-1])
    assert any(name.startswith(family.names[-1]) for name in training)
    assert not [name for name in training if name.startswith(frozen)]
