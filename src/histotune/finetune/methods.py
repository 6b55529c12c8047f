"""Which parameters of a backbone move under a fine-tuning method.

A method declares the parameters it trains, and exactly those move: a parameter that the outputs do not depend on is
never declared, and the running statistics of batch norms are never touched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, get_args

from histotune.finetune.injection import OTHERS, inject, target_layers
from histotune.finetune.sections import Sections, find_sections, gradients
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    import torch

    from histotune.backbones.network import Network
    from histotune.backbones.spec import BackboneSpec


Method = Literal["lora", "dora", "last-blocks", "full", "norm", "none"]
METHODS: tuple[Method, ...] = get_args(Method)
KINDS = ("timm", "transformers", "lite0")
# LayerNorm, RMSNorm, GroupNorm and BatchNorm of torch, and the classes that timm and transformers write themselves.
NORMS = re.compile(r"(layer|rms|group|batch)_?norm", re.IGNORECASE)


@dataclass(frozen=True)
class MethodChoice:
    """A method and its settings.

    Attributes:
        name: The method.
        n_blocks: For last-blocks, how many; for lora and dora, on how many of the last blocks adapters go, None for
            all. The other methods do not read it.
        rank: Inner dimension of an adapter.
        alpha: An adapter's product is multiplied by alpha / rank.
        dropout: Share of an adapter's inputs that is dropped in training.
        targets: Layers that adapters go on: any of q, k, v, o, mlp; none for query and value. Where a network
            computes query, key and value in one layer, as timm's do, an adapter on it adapts all three together.
    """

    name: Method
    n_blocks: int | None = None
    rank: int = 16
    alpha: float = 16
    dropout: float = 0.0
    targets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trainable:
    """A network of which some parameters train.

    Attributes:
        network: The network that was given, adapters in place; its parameters ask for gradients exactly where
            ``names`` says so.
        names: Parameters that train, by their names in ``network.module``.
        first: Index of the first section that holds one of them, so that what goes into it never changes; -1 where
            the stem trains, ``len(sections.names)`` where no section does.
        peft: The PeftModel of lora and dora, for :func:`histotune.backbones.adapters.save_adapter`; None otherwise.
        sections: The blocks of the network.
    """

    network: Network
    names: tuple[str, ...]
    first: int
    peft: Any | None = None
    sections: Sections = field(default_factory=lambda: Sections(()))


def make_trainable(network: Network, spec: BackboneSpec, choice: MethodChoice) -> Trainable:
    """Say which parameters of a network move under a method, and put adapters in where the method has them.

    Adapters start at zero, so the outputs are those of the network that was given. Their first factor is drawn from
    torch's own generator, which the caller seeds.

    Args:
        network: A network in fp32 on the CPU; it is changed in place.
        spec: What it was built from.
        choice: The method.

    Returns:
        The same network, and what moves in it.
    """
    check_method(spec, choice)
    sections = find_sections(network, spec.size_px)
    if choice.name in ("lora", "dora"):
        return _with_adapters(network, spec, choice, sections)
    names = [name for name, _ in network.module.named_parameters()]
    if choice.name == "none":
        names = []
    elif choice.name == "last-blocks":
        start = _first_section(choice, sections)
        names = [name for name in names if sections.place(name) >= start]
    elif choice.name == "norm":
        names = norm_parameters(network.module)
    reached = gradients(network, names, spec.size_px) if names else {}
    if not reached and choice.name != "none":
        raise UserError(
            f"the method {choice.name} finds nothing to train in this network",
            value=spec.name,
            allowed="lora, dora, last-blocks, full",
            fix="--method last-blocks",
        )
    return _declared(network, tuple(name for name in names if name in reached), sections)


def check_method(spec: BackboneSpec, choice: MethodChoice) -> None:
    """Refuse a method that does not exist, and a backbone that has no network to train."""
    if choice.name not in METHODS:
        raise UserError(
            "there is no such method of fine-tuning",
            value=choice.name,
            allowed=", ".join(METHODS),
            closest=closest_name(choice.name, METHODS),
            fix="choose one of these",
        )
    if spec.kind not in KINDS:
        raise UserError(
            f"a backbone of kind {spec.kind} can't be fine-tuned: its network is not built here",
            value=spec.name,
            allowed=f"backbones of kind {', '.join(KINDS)}",
            fix="evaluate it as it is, or choose another --backbone",
        )


def _first_section(choice: MethodChoice, sections: Sections) -> int:
    """Return the first section that a method may change."""
    n_sections = len(sections.names)
    if choice.n_blocks is None and choice.name != "last-blocks":
        return 0
    if choice.n_blocks is None or not 1 <= choice.n_blocks <= n_sections:
        raise UserError(
            f"{choice.name} can't take this many blocks of the network",
            value=choice.n_blocks,
            allowed=f"1 to {n_sections}",
            fix=f"--set finetune.method.n_blocks={n_sections}, or less",
        )
    return n_sections - choice.n_blocks


def _with_adapters(network: Network, spec: BackboneSpec, choice: MethodChoice, sections: Sections) -> Trainable:
    from peft import LoraConfig

    if choice.rank < 1:
        raise UserError(
            "an adapter's rank is at least 1",
            value=choice.rank,
            allowed="1, 2, 4, ...",
            fix="--set finetune.method.rank=16",
        )
    library = "transformers" if spec.kind == "transformers" else "timm"
    found = target_layers(network.module, sections, library, choice.targets)
    start = _first_section(choice, sections)
    layers = [name for name in found if sections.place(f"{name}.weight") >= start]
    if not layers:
        raise UserError(
            "these adapters have no layer to go on",
            value=", ".join(choice.targets),
            allowed=f"the targets q and v, or the methods {OTHERS}",
            fix="leave the targets out",
        )
    config = LoraConfig(
        r=choice.rank,
        lora_alpha=choice.alpha,
        lora_dropout=choice.dropout,
        target_modules=layers,
        use_dora=choice.name == "dora",
        init_lora_weights=True,  # B = 0: the start is the bare network
        bias="none",
    )
    model = inject(network, config, spec.size_px)
    names = tuple(name for name, _ in network.module.named_parameters() if ".lora_" in name)
    return _declared(network, names, sections, model)


def _declared(network: Network, names: tuple[str, ...], sections: Sections, model: Any | None = None) -> Trainable:  # noqa: ANN401
    """Let exactly the named parameters ask for gradients."""
    chosen = set(names)
    for name, parameter in network.module.named_parameters():
        parameter.requires_grad_(name in chosen)
    first = min((sections.place(name) for name in names), default=len(sections.names))
    return Trainable(network, names, first, model, sections)


# ---- Norms ----


def norm_parameters(module: torch.nn.Module) -> list[str]:
    """Return the names of the weights and biases of all normalisation layers.

    Args:
        module: The network.

    Returns:
        Names, in the network's order.
    """
    norms = {name for name, part in module.named_modules() if _is_norm(part)}
    return [name for name, _ in module.named_parameters() if name.rpartition(".")[0] in norms]


def _is_norm(part: torch.nn.Module) -> bool:
    return any(NORMS.search(kind.__name__) for kind in type(part).__mro__)


def frozen_norms(module: torch.nn.Module) -> None:
    """Keep the batch norms of a network in evaluation mode, also under ``module.train()``.

    Their running statistics stay those of pretraining: batches of fine-tuning are small, and a cached prefix could not
    follow them. Their weights and biases may still train.

    Args:
        module: The network; its batch norms are changed in place.
    """
    import torch

    for part in module.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.eval()
            setattr(part, "train", MethodType(_stay, part))  # noqa: B010  (a bound method is copied with its module)


def rest_before(trainable: Trainable) -> None:
    """Keep what runs before the first trained section in evaluation mode, also under ``module.train()``.

    Dropout and random positions in frozen blocks would be noise, and their kept output has none.

    Args:
        trainable: What trains; its network is changed in place.
    """
    sections = trainable.sections
    outside = [name for name, place in sections.outside.items() if place < trainable.first]
    for name in (*sections.names[: max(trainable.first, 0)], *outside):
        part = trainable.network.module.get_submodule(name).eval()
        setattr(part, "train", MethodType(_stay, part))  # noqa: B010  (a bound method is copied with its module)


def _stay(part: torch.nn.Module, mode: bool = True) -> torch.nn.Module:
    """Stand for ``train``: nothing changes."""
    return part


# ---- Learning rates ----


def layer_decay_scale(trainable: Trainable, decay: float) -> dict[str, float]:
    """Return what the learning rate of each trained parameter is multiplied by.

    As in the fine-tuning of BEiT (Bao et al. 2021, arXiv 2106.08254) and MAE (He et al. 2021, arXiv 2111.06377): what
    follows the blocks has the full rate, the last block ``decay`` of it, and each level before it ``decay`` of the
    next; the stem is the last level.

    Args:
        trainable: What trains.
        decay: Factor from a level to the one before it, such as 0.75; 1 for one rate everywhere.

    Returns:
        The factor by the parameter's name.
    """
    if not 0 < decay <= 1:
        raise UserError(
            "layer decay is a factor",
            value=decay,
            allowed="above 0, at most 1",
            fix="--set finetune.method.layer_decay=0.75",
        )
    sections = trainable.sections
    # decay ** (levels behind the parameter's own), the tail being one level
    return {name: decay ** (len(sections.names) - sections.place(name)) for name in trainable.names}
