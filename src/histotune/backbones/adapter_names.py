"""Where an adapter's tensors belong, whatever version of transformers named them.

Transformers renamed the layers of its vision transformers with version 5.23, and split DINOv2's fused SwiGLU input
``weights_in`` into ``gate_proj`` (the first half of its rows) and ``up_proj``; checkpoints keep the old names on disk,
adapters do not. A low-rank update B A of the fused layer is, row for row, the update (B_gate A, B_up A) of its halves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

Parts = dict[str, torch.Tensor]
PREFIX = "base_model.model."
PART = re.compile(r"(?P<module>.+?)\.(?P<part>lora_(?:A|B|magnitude_vector|embedding_A|embedding_B)(?:\..*)?)")
CANONICAL = (
    (re.compile(r"^(?:vit|dinov2|dinov2_with_registers|dinov3_vit|beit|deit|vision_model|model)\."), ""),
    (re.compile(r"^(?:encoder\.)?layers?\.(\d+)\."), r"\1."),
    (re.compile(r"^model\.layer\.(\d+)\."), r"\1."),
    (re.compile(r"\.attention\.attention\.query$"), ".attention.q_proj"),
    (re.compile(r"\.attention\.attention\.key$"), ".attention.k_proj"),
    (re.compile(r"\.attention\.attention\.value$"), ".attention.v_proj"),
    (re.compile(r"\.attention\.output\.dense$"), ".attention.o_proj"),
    (re.compile(r"\.intermediate\.dense$"), ".mlp.fc1"),
    (re.compile(r"(?<!attention)\.output\.dense$"), ".mlp.fc2"),
    (re.compile(r"\.mlp\.weights_out$"), ".mlp.down_proj"),
)
FUSED, GATE, UP = ".mlp.weights_in", ".mlp.gate_proj", ".mlp.up_proj"


@dataclass(frozen=True)
class LoraLayer:
    """The low-rank update of one layer.

    Attributes:
        module: Its name in the network.
        parts: Tensors by their suffix, such as ``lora_A.weight``.
        rank: Inner dimension.
        scale: What the product is multiplied by.
    """

    module: str
    parts: Parts
    rank: int
    scale: float


def split_key(key: str) -> tuple[str, str] | None:
    """Return (module, part) of a LoRA tensor's name; None for other tensors.

    Args:
        key: Such as "base_model.model.encoder.layer.0.mlp.fc1.lora_A.weight".

    Example:
        >>> split_key("base_model.model.blocks.0.attn.qkv.lora_B.weight")
        ('blocks.0.attn.qkv', 'lora_B.weight')
    """
    found = PART.fullmatch(key.removeprefix(PREFIX))
    return None if found is None else (found["module"], found["part"])


def canonical(module: str) -> str:
    """Return the name of a layer that all versions of transformers share.

    Args:
        module: Its name in a network or an adapter.

    Example:
        >>> canonical("encoder.layer.3.attention.attention.query") == canonical("layers.3.attention.q_proj")
        True
    """
    for pattern, replacement in CANONICAL:
        module = pattern.sub(replacement, module)
    return module


def place(layers: Iterable[LoraLayer], modules: Iterable[str]) -> tuple[list[LoraLayer], list[str]]:
    """Put each layer where the network has it, splitting and joining the fused SwiGLU input where versions differ.

    Args:
        layers: Layers under the names of their file.
        modules: Names of the network's modules.

    Returns:
        The layers under the network's names, and the names that it does not have.
    """
    known = set(modules)
    by_canonical = {canonical(name): name for name in known}
    placed: list[LoraLayer] = []
    lost: list[str] = []
    halves: dict[str, dict[str, LoraLayer]] = {}
    for layer in layers:
        name = canonical(layer.module)
        stem = name.removesuffix(FUSED)
        if layer.module in known or name in by_canonical:
            placed.append(_renamed(layer, layer.module if layer.module in known else by_canonical[name]))
        elif name.endswith(FUSED) and stem + GATE in by_canonical and _can_split(layer):
            placed += _split(layer, by_canonical[stem + GATE], by_canonical[stem + UP])
        elif name.endswith((GATE, UP)) and name.rsplit(".mlp.", 1)[0] + FUSED in by_canonical and _can_split(layer):
            fused = by_canonical[name.rsplit(".mlp.", 1)[0] + FUSED]
            halves.setdefault(fused, {})["gate" if name.endswith(GATE) else "up"] = layer
        else:
            lost.append(layer.module)
    placed += [_joined(fused, found) for fused, found in halves.items()]
    return placed, lost


def _renamed(layer: LoraLayer, module: str) -> LoraLayer:
    return LoraLayer(module, layer.parts, layer.rank, layer.scale)


def _can_split(layer: LoraLayer) -> bool:
    """Return whether a layer is a plain low-rank update: others (embeddings, DoRA's joined halves) are not halved."""
    return all(part.startswith(("lora_A", "lora_B", "lora_magnitude_vector")) for part in layer.parts)


def _split(layer: LoraLayer, gate: str, up: str) -> tuple[LoraLayer, LoraLayer]:
    """Return the halves of a fused update: A is shared, the rows of B (and of DoRA's magnitudes) are divided."""
    gate_parts, up_parts = {}, {}
    for part, tensor in layer.parts.items():
        first, second = (tensor, tensor.clone()) if part.startswith("lora_A") else tensor.chunk(2, dim=0)
        gate_parts[part], up_parts[part] = first.contiguous(), second.contiguous()
    return LoraLayer(gate, gate_parts, layer.rank, layer.scale), LoraLayer(up, up_parts, layer.rank, layer.scale)


def _joined(fused: str, found: dict[str, LoraLayer]) -> LoraLayer:
    """Return one update of the fused layer: the A of both halves stacked, their B on the diagonal, scales folded in."""
    down, blocks = [], []
    for half in ("gate", "up"):
        layer = found.get(half)
        other = layer or next(iter(found.values()))
        rows = _part(other, "lora_B").shape[0]
        if layer is None:
            blocks.append(torch.zeros(rows, 0))
        else:
            down.append(_part(layer, "lora_A").float())
            blocks.append(_part(layer, "lora_B").float() * layer.scale)
    a_RI, b_OR = torch.cat(down), torch.block_diag(*blocks)  # type: ignore[no-untyped-call]  # untyped in torch
    return LoraLayer(fused, {"lora_A.weight": a_RI, "lora_B.weight": b_OR}, a_RI.shape[0], 1.0)


def _part(layer: LoraLayer, name: str) -> torch.Tensor:
    return next(tensor for part, tensor in layer.parts.items() if part.startswith(name))
