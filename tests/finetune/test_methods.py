"""Exactly the declared parameters move, adapters act, the start is the bare network, and `first` cuts rightly."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from histotune.backbones.adapters import save_adapter
from histotune.backbones.merge import canonical
from histotune.backbones.network import Network, Outputs, build_network
from histotune.backbones.spec import BackboneSpec
from histotune.finetune.injection import FAMILIES as TABLE
from histotune.finetune.injection import target_layers
from histotune.finetune.methods import (
    METHODS,
    Method,
    MethodChoice,
    Trainable,
    frozen_norms,
    layer_decay_scale,
    make_trainable,
)
from histotune.finetune.sections import Sections
from histotune.tools.errors import UserError
from tests.finetune.families import CONVOLUTIONAL, FAMILIES, WITH_ATTENTION, blocks_of, built, images, timm

ADAPTERS: tuple[Method, ...] = ("lora", "dora")
CASES = [
    (family, method)
    for family in FAMILIES
    for method in METHODS
    if family in WITH_ATTENTION or method not in ADAPTERS
]  # fmt: skip


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def chosen(method: Method) -> MethodChoice:
    return MethodChoice(method, n_blocks=2 if method in (*ADAPTERS, "last-blocks") else None, rank=2, alpha=4)


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return copies of all parameters and buffers, also those that are not saved."""
    return {name: one.detach().clone() for name, one in (*module.named_parameters(), *module.named_buffers())}


def joined(outputs: Outputs) -> torch.Tensor:
    return torch.cat(list(outputs.values()), dim=1)


def train(trainable: Trainable, spec: BackboneSpec, n_steps: int = 2, rate: float = 1e-3) -> None:
    """Take steps of AdamW towards random numbers, in training mode."""
    module = trainable.network.module
    module.train()
    frozen_norms(module)
    parameters = [one for one in module.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05)
    for step in range(n_steps):
        loss = joined(trainable.network.outputs(images(spec, step + 1))).sub(1).square().sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    module.eval()


def passing(network: Network, section: str, x_BCSS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what goes into a section and what comes out."""
    seen: list[torch.Tensor] = []

    def note(module: torch.nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        into = args[0] if args else kwargs["hidden_states"]
        out = output[0] if isinstance(output, tuple) else output
        seen.extend((into.clone(), out.clone()))

    handle = network.module.get_submodule(section).register_forward_hook(note, with_kwargs=True)
    with torch.no_grad():
        network.outputs(x_BCSS)
    handle.remove()
    return seen[0], seen[1]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_exactly_the_declared_parameters_move(name: str, method: Method) -> None:
    family = FAMILIES[name]
    network = built(family.spec)
    x_BCSS = images(family.spec)
    with torch.no_grad():
        bare_BD = joined(network.outputs(x_BCSS))
    trainable = make_trainable(network, family.spec, chosen(method))
    module = trainable.network.module
    assert module is network.module
    assert trainable.names == tuple(name for name, one in module.named_parameters() if one.requires_grad)
    with torch.no_grad():
        start_BD = joined(network.outputs(x_BCSS))
    torch.testing.assert_close(start_BD, bare_BD, rtol=1e-6, atol=1e-6 if method in ADAPTERS else 0)
    before = state_of(module)
    blocks = blocks_of(family, network)
    cut = trainable.first if 0 <= trainable.first < len(blocks) else None
    into, out = passing(network, blocks[cut], x_BCSS) if cut is not None else (None, None)
    if method != "none":
        train(trainable, family.spec)
    after = state_of(module)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(trainable.names)
    assert (method == "none") == (not moved)
    if cut is not None:
        into_after, out_after = passing(network, blocks[cut], x_BCSS)
        assert torch.equal(into, into_after) and not torch.equal(out, out_after)
    with torch.no_grad():
        assert torch.equal(joined(network.outputs(x_BCSS)), start_BD) == (method == "none")


@pytest.mark.parametrize(("name", "method"), CASES)
def test_what_a_method_declares_and_where_it_begins(name: str, method: Method) -> None:
    family = FAMILIES[name]
    trainable = make_trainable(built(family.spec), family.spec, chosen(method))
    n, declared = len(family.names), set(trainable.names)
    places = {trainable.sections.place(one) for one in declared}
    assert trainable.first == min(places, default=n)
    assert (trainable.peft is not None) == (method in ADAPTERS)
    if method in ADAPTERS:
        assert places == {n - 2, n - 1} and all(".lora_" in one for one in declared)
    elif method == "last-blocks":
        assert trainable.first == n - 2 and set(family.tail) <= declared
        assert places == {n - 2, n - 1} | ({n} if family.tail else set())
    elif method == "full":
        assert trainable.first == -1 and {*family.tail, *family.stem} - {"embeddings.mask_token"} <= declared
        assert "embeddings.mask_token" not in declared and not any("pooler.dense" in one for one in declared)
    elif method == "norm":
        ends = {one.rsplit(".", 1)[1] for one in declared}
        assert ends <= {"weight", "bias"} and set(family.tail) & declared == {
            one for one in family.tail if "conv" not in one
        }
    else:
        assert trainable.first == n and not declared
    scale = layer_decay_scale(trainable, 0.5)
    assert set(scale) == declared
    assert all(scale[one] == 0.5 ** (n - trainable.sections.place(one)) for one in declared)


@pytest.mark.parametrize("method", ADAPTERS)
@pytest.mark.parametrize("targets", [(), ("q", "k", "v", "o", "mlp")], ids=["default", "all"])
@pytest.mark.parametrize("name", WITH_ATTENTION)
def test_every_adapter_gets_a_gradient_and_changes_the_outputs(
    name: str, targets: tuple[str, ...], method: Method
) -> None:
    family = FAMILIES[name]
    network = built(family.spec)
    trainable = make_trainable(network, family.spec, MethodChoice(method, rank=2, targets=targets))
    ends = {one: part for one, part in network.module.named_parameters() if ".lora_B." in one}
    layers = {one.partition(".lora_B.")[0] for one in ends}
    if not targets:
        assert all(canonical(layer).endswith(family.adapted) for layer in layers)
        assert trainable.first == 0
    x_BCSS = images(family.spec)
    start_BD = joined(network.outputs(x_BCSS))
    start_BD.mul(torch.randn(start_BD.shape)).sum().backward()
    for one, end in ends.items():
        assert end.grad is not None and end.grad.any(), one
        with torch.no_grad():
            end.normal_()
            assert not torch.equal(joined(network.outputs(x_BCSS)), start_BD), one
            end.zero_()
    linear = {one for one, part in network.module.named_modules() if isinstance(part, torch.nn.Linear)}
    if targets:  # nothing in the blocks is forgotten but what belongs to no projection
        left = {one for one in linear if trainable.sections.place(f"{one}.weight") in range(len(family.names))}
        left = {one for one in left if ".lora_" not in one and not one.endswith(".base_layer")}
        assert all("cpb_mlp" in one or "downsample" in one for one in left), left


@pytest.mark.parametrize("name", CONVOLUTIONAL)
@pytest.mark.parametrize("method", ADAPTERS)
def test_convolutional_networks_take_no_adapters(name: str, method: Method) -> None:
    spec = FAMILIES[name].spec
    with pytest.raises(UserError, match="last-blocks, norm, full"):
        make_trainable(build_network(spec), spec, MethodChoice(method))


@pytest.mark.parametrize("name", ["timm-beit", "timm-eva", "timm-swinv2"])
def test_attention_that_reads_its_layers_weight_is_made_to_call_it(name: str) -> None:
    spec = FAMILIES[name].spec
    network = built(spec)
    parts = [part for part in network.module.modules() if hasattr(part, "qkv_bias_separate")]
    assert parts and not any(part.qkv_bias_separate for part in parts)
    with torch.no_grad():
        plain_BD = joined(network.outputs(images(spec)))
    make_trainable(network, spec, MethodChoice("lora"))
    assert all(part.qkv_bias_separate for part in parts)
    with torch.no_grad():
        torch.testing.assert_close(joined(network.outputs(images(spec))), plain_BD, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["timm-beit", "timm-eva", "timm-swinv2"])
def test_adapters_that_do_nothing_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = FAMILIES[name].spec
    monkeypatch.setattr("histotune.finetune.injection._call_adapted_layers", lambda module: None)
    with pytest.raises(UserError, match=r"adapters would do nothing.*\n.*last-blocks"):
        make_trainable(built(spec), spec, MethodChoice("lora"))


def test_adapters_behind_norms_that_are_zero_are_refused() -> None:
    spec = FAMILIES["timm-swinv2"].spec  # a random SwinV2 starts with blocks that add nothing
    with pytest.raises(UserError, match=r"layers\.0\.blocks\.0\.attn\.qkv"):
        make_trainable(build_network(spec), spec, MethodChoice("lora"))


@pytest.mark.parametrize("method", [*ADAPTERS, "last-blocks"])
@pytest.mark.parametrize("n_blocks", [0, 4])
def test_more_blocks_than_there_are_is_refused(method: Method, n_blocks: int) -> None:
    spec = FAMILIES["timm-vit"].spec
    with pytest.raises(UserError, match="1 to 3"):
        make_trainable(built(spec), spec, MethodChoice(method, n_blocks=n_blocks))


def test_words_that_mean_nothing_are_refused_with_the_closest() -> None:
    spec = FAMILIES["timm-vit"].spec
    network = built(spec)
    with pytest.raises(UserError, match="did you mean: mlp"):
        make_trainable(network, spec, MethodChoice("lora", targets=("q", "mpl")))
    with pytest.raises(UserError, match="did you mean: last-blocks"):
        make_trainable(network, spec, MethodChoice("last-block", n_blocks=1))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="rank is at least 1"):
        make_trainable(network, spec, MethodChoice("lora", rank=0))
    with pytest.raises(UserError, match="1 to 3"):
        make_trainable(network, spec, MethodChoice("last-blocks"))
    for decay in (0.0, 1.5):
        with pytest.raises(UserError, match="at most 1"):
            layer_decay_scale(make_trainable(network, spec, MethodChoice("full")), decay)


def test_adapters_on_many_blocks_stay_on_those_blocks() -> None:
    spec = timm("vit_tiny_patch16_224", 32, img_size=32, embed_dim=16, depth=24, num_heads=2)
    trainable = make_trainable(build_network(spec), spec, MethodChoice("lora", n_blocks=21, rank=1))  # peft shortens 20
    adapted = {one.partition(".lora_")[0] for one in trainable.names}
    assert adapted == {f"blocks.{number}.attn.qkv" for number in range(3, 24)}
    assert trainable.first == 3


@pytest.mark.parametrize("kind", ["colour-histogram", "external", "own-code"])
def test_backbones_without_a_network_of_ours_are_refused(kind: str) -> None:
    spec = replace(FAMILIES["timm-vit"].spec, kind=kind)
    with pytest.raises(UserError, match="can't be fine-tuned"):
        make_trainable(built(FAMILIES["timm-vit"].spec), spec, MethodChoice("full"))


class Named(torch.nn.Module):
    """Linear layers under given paths."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        super().__init__()
        for path in paths:
            holder: torch.nn.Module = self
            *above, own = path.split(".")
            for part in above:
                if not hasattr(holder, part):
                    holder.add_module(part, torch.nn.Module())
                holder = getattr(holder, part)
            holder.add_module(own, torch.nn.Linear(2, 2))


OLD = (
    "attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense",
    "mlp.weights_in", "mlp.weights_out",
)  # fmt: skip
OLD_VIT = (*OLD[:4], "intermediate.dense", "output.dense")


@pytest.mark.parametrize("ends", [OLD, OLD_VIT], ids=["midnight", "vit"])
def test_names_of_older_versions_of_transformers_are_found(ends: tuple[str, ...]) -> None:
    paths = tuple(f"encoder.layer.{number}.{end}" for number in (0, 1, 10) for end in ends)
    module = Named((*paths, "pooler.dense"))
    sections = Sections(tuple(f"encoder.layer.{number}" for number in (0, 1, 10)))
    found = target_layers(module, sections, "transformers", ())
    assert found == [path for path in paths if path.endswith(("query", "value"))]
    assert target_layers(module, sections, "transformers", ("q", "k", "v", "o", "mlp")) == list(paths)
    assert target_layers(module, sections, "transformers", ("o",)) == [
        path for path in paths if path.endswith("attention.output.dense")
    ]


def test_every_entry_of_the_table_is_complete() -> None:
    assert len({entry["name"] for entry in TABLE}) == len(TABLE)
    for entry in TABLE:
        assert set(entry) == {"name", "library", "q", "k", "v", "o", "mlp"}
        assert entry["library"] in ("timm", "transformers")


@pytest.mark.parametrize("method", ADAPTERS)
@pytest.mark.parametrize("name", ["timm-vit", "timm-beit", "midnight"])
def test_a_saved_adapter_gives_the_trained_network_when_it_is_merged(name: str, method: Method, tmp_path: Path) -> None:
    spec = FAMILIES[name].spec
    network = build_network(spec)
    trainable = make_trainable(network, spec, MethodChoice(method, rank=2))
    bare_BD = joined(network.outputs(images(spec))).detach()
    train(trainable, spec, n_steps=5, rate=0.02)
    save_adapter(trainable.peft, tmp_path / "adapter", spec)
    merged = build_network(replace(spec, adapter=str(tmp_path / "adapter")))
    with torch.no_grad():
        trained_BD = joined(network.outputs(images(spec)))
        torch.testing.assert_close(joined(merged.outputs(images(spec))), trained_BD, rtol=1e-5, atol=1e-5)
    assert (bare_BD - trained_BD).abs().max() > 1e-3


def test_norms_stay_in_evaluation_mode_in_copies_too() -> None:
    module = build_network(FAMILIES["timm-resnet"].spec).module
    frozen_norms(module)
    twin = copy.deepcopy(module)
    for one in (module, twin):
        one.train()
        norms = [part for part in one.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        assert norms and not any(part.training for part in norms) and one.training
    inner = next(part for part in twin.modules() if isinstance(part, torch.nn.BatchNorm2d))
    assert inner.train() is inner


def test_the_rate_falls_from_the_tail_to_the_stem() -> None:
    spec = FAMILIES["timm-vit"].spec
    scale = layer_decay_scale(make_trainable(built(spec), spec, MethodChoice("full")), 0.75)
    assert scale["norm.weight"] == 1
    assert scale["blocks.2.attn.qkv.weight"] == 0.75
    assert scale["blocks.0.norm1.bias"] == 0.75**3
    assert scale["pos_embed"] == scale["patch_embed.proj.weight"] == 0.75**4
