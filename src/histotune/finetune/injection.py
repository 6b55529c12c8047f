"""Low-rank adapters on the linear layers of attention, each of them proven to act before anything is trained.

LoRA: Hu et al. 2021, arXiv 2106.09685. DoRA: Liu et al. 2024, arXiv 2402.09353.
"""

# B batch, C channels, S side of the input

from __future__ import annotations

import tomllib
import warnings
from importlib import resources
from typing import TYPE_CHECKING, Any

from histotune.finetune.sections import at_rest, gradients, random_pixels
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    import torch

    from histotune.backbones.network import Network
    from histotune.finetune.sections import Sections


TARGETS = ("q", "k", "v", "o", "mlp")
DEFAULT_TARGETS = ("q", "v")  # as in LoRA's paper, section 7.1, and in THUNDER's recipe: rank 16, alpha 16
OTHERS = "last-blocks, norm, full"
FAMILIES: list[dict[str, Any]] = tomllib.loads(
    resources.files(__package__).joinpath("targets.toml").read_text(encoding="utf-8")
)["family"]


def target_layers(module: torch.nn.Module, sections: Sections, library: str, targets: tuple[str, ...]) -> list[str]:
    """Return the full paths of the layers that adapters go on.

    Where a network computes query, key and value in one layer, asking for one of them gives that layer.

    Args:
        module: The network.
        sections: Its blocks; layers outside them are left alone.
        library: ``timm`` or ``transformers``.
        targets: Any of ``q``, ``k``, ``v``, ``o``, ``mlp``; none for query and value.

    Returns:
        Paths of linear layers, in the network's order.
    """
    wanted = targets or DEFAULT_TARGETS
    unknown = next((name for name in wanted if name not in TARGETS), None)
    if unknown is not None:
        raise UserError(
            "adapters know no such target",
            value=unknown,
            allowed=", ".join(TARGETS),
            closest=closest_name(unknown, TARGETS),
            fix="name targets from this list, or none for q and v",
        )
    linear = _linear_layers(module, sections)
    family = next((one for one in FAMILIES if one["library"] == library and _fits(one, linear)), None)
    if family is None:
        raise UserError(
            "lora and dora adapt the linear layers of attention, and this network has none that are known",
            value=type(module).__name__,
            allowed=OTHERS,
            fix="--method last-blocks",
        )
    patterns = [pattern for target in wanted for pattern in family[target]]
    return [name for name in linear if _ends_with(name, patterns)]


def _linear_layers(module: torch.nn.Module, sections: Sections) -> list[str]:
    import torch

    inside = range(len(sections.names))
    return [
        name
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.Linear) and sections.place(f"{name}.weight") in inside
    ]


def _fits(family: dict[str, Any], linear: list[str]) -> bool:
    return all(any(_ends_with(name, family[target]) for name in linear) for target in DEFAULT_TARGETS)


def _ends_with(name: str, patterns: list[str]) -> bool:
    """Return whether a layer's path, under the names of transformers 5.23, ends with a pattern."""
    from histotune.backbones.merge import canonical

    return any(f".{canonical(name)}".endswith(f".{pattern}") for pattern in patterns)


def inject(network: Network, config: Any, size_px: int) -> Any:  # noqa: ANN401  (peft has no types)
    """Put adapters into a network in place.

    Args:
        network: The network; its outputs stay what they were.
        config: A ``peft.LoraConfig`` whose ``target_modules`` are full paths.
        size_px: Side of the input.

    Returns:
        The PeftModel around the network.
    """
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = set(config.target_modules)
    with warnings.catch_warnings():  # those of the libraries about themselves
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(network.module, config)
    adapted = {name for name, part in network.module.named_modules() if isinstance(part, BaseTunerLayer)}
    if adapted != layers:  # peft takes a path for the end of a longer one
        raise RuntimeError(f"peft adapted {sorted(adapted ^ layers)[:3]} against what was asked")
    _call_adapted_layers(network.module)
    _check_that_adapters_act(network, size_px)
    return model


def _call_adapted_layers(module: torch.nn.Module) -> None:
    """Let attention call its adapted layer instead of reading the layer's weight.

    ``Attention`` of timm's beit.py, ``EvaAttention`` and ``WindowAttention`` of swin_transformer_v2.py keep the bias
    of query and value beside a fused layer and compute ``F.linear(x, self.qkv.weight, bias)``, past any adapter. Their
    own setting ``qkv_bias_separate`` makes them compute ``self.qkv(x) + bias``, the same sum, and is read at each call.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for part in module.modules():
        if getattr(part, "qkv_bias_separate", None) is False and isinstance(part.qkv, BaseTunerLayer):
            part.qkv_bias_separate = True  # type: ignore[assignment]  # a plain setting of timm's


def _check_that_adapters_act(network: Network, size_px: int) -> None:
    """Refuse a network in which an adapter gets no gradient, or in which adapters change nothing."""
    import torch

    parameters = dict(network.module.named_parameters())
    ends = [name for name in parameters if ".lora_B." in name]
    found = gradients(network, ends, size_px)
    silent = [name for name in ends if name not in found or not _alive(found[name])]
    if silent:
        raise _silent(silent, len(ends))
    generator = torch.Generator().manual_seed(0)
    x_BCSS = random_pixels(network, size_px)
    with at_rest(network.module), torch.no_grad():
        before = network.outputs(x_BCSS)
        for name in ends:
            parameters[name].copy_(torch.randn(parameters[name].shape, generator=generator))
        after = network.outputs(x_BCSS)
        for name in ends:
            parameters[name].zero_()  # where every adapter starts: B = 0
    if all(torch.equal(before[block], after[block]) for block in before):
        raise _silent(ends, len(ends))


def _alive(gradient: torch.Tensor) -> bool:
    return bool(gradient.isfinite().all()) and bool(gradient.any())


def _silent(names: list[str], n_adapters: int) -> UserError:
    layers = [name.partition(".lora_B.")[0] for name in names]
    return UserError(
        f"{len(layers)} of {n_adapters} adapters would do nothing in this network: they get no gradient",
        value=", ".join(layers[:3]) + (", ..." if len(layers) > 3 else ""),
        allowed=OTHERS,
        fix="--method last-blocks",
    )
