"""A PEFT adapter merged into a network's weights: every tensor of its file is used, or it is refused."""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from histotune.backbones.adapters import AdapterFiles, check_base, locate_adapter, read_adapter_config, read_sidecar
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from histotune.backbones.spec import BackboneSpec


LOG = logging.getLogger(__name__)
PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")  # initialisations that leave the base weights alone


def merge_adapter(module: torch.nn.Module, spec: BackboneSpec) -> torch.nn.Module:
    """Merge an adapter into a network's weights, or apply it beside them where peft can't merge it."""
    files = locate_adapter(spec.adapter, spec.adapter_revision)
    check_base(spec, files)
    settings, tensors = read_adapter_config(files), _read(files)
    with warnings.catch_warnings():  # those of the libraries about themselves
        warnings.simplefilter("ignore", FutureWarning)
        if settings["peft_type"] == "LORA":
            config, tensors = _placed_lora(module, files, settings, tensors)
        else:
            config = _plain_config(settings, files)
        model = _injected(module, config, tensors, files)
        return _merged(model, spec)


def _read(files: AdapterFiles) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = {name: tensor.float() for name, tensor in load_file(files.weights).items()}
    except SafetensorError as error:
        raise UserError("the adapter's weights can't be read", value=files.weights, fix="copy it again") from error
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise UserError("the adapter holds values that are not finite", value=broken[0], fix="train or copy it again")
    return tensors


def _placed_lora(
    module: torch.nn.Module, files: AdapterFiles, settings: dict[str, Any], tensors: dict[str, torch.Tensor]
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return the config and the tensors of a LoRA adapter under the names of this network."""
    start = settings.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        raise UserError(
            f"this adapter was started as {start}, which changes the base weights too",
            value=files.config,
            fix="convert it with peft: save_pretrained(path_initial_model_for_weight_conversion=...)",
        )
    layers, others = _layers(settings, tensors)
    placed, lost = place(layers, (name for name, _ in module.named_modules()))
    if others or lost:
        raise _left_over([*others, *lost], files)
    power = 0.5 if settings.get("use_rslora") else 1.0
    known = _known_settings(settings)
    known.update(
        target_modules=[layer.module for layer in placed],
        rank_pattern={layer.module: layer.rank for layer in placed},
        alpha_pattern={layer.module: layer.scale * layer.rank**power for layer in placed},
        modules_to_save=None,
        layers_to_transform=None,
        layers_pattern=None,
        exclude_modules=None,
        init_lora_weights=False,
        inference_mode=True,
        base_model_name_or_path=None,
        revision=None,
    )
    names = {f"{PREFIX}{layer.module}.{part}": tensor for layer in placed for part, tensor in layer.parts.items()}
    from peft import LoraConfig

    accepted = inspect.signature(LoraConfig).parameters
    return LoraConfig(**{name: value for name, value in known.items() if name in accepted}), names


def _layers(settings: dict[str, Any], tensors: dict[str, torch.Tensor]) -> tuple[list[LoraLayer], list[str]]:
    """Group tensors by layer; the second list names tensors that belong to none."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    others = []
    for key, tensor in tensors.items():
        found = split_key(key)
        if found is None:
            others.append(key)
        else:
            parts.setdefault(found[0], {})[found[1]] = tensor
    layers = []
    for name, held in parts.items():
        inner = next((tensor for part, tensor in held.items() if part.startswith(("lora_A", "lora_embedding_A"))), None)
        if inner is None:
            others.append(name)
            continue
        rank = int(inner.shape[0])
        layers.append(LoraLayer(name, held, rank, _scale(settings, name, rank)))
    return layers, others


def _scale(settings: dict[str, Any], module: str, rank: int) -> float:
    """Return alpha / r, or alpha / sqrt(r) for rank-stabilised adapters (Kalajdzievski 2023, arXiv 2312.03732)."""
    patterns = settings.get("alpha_pattern") or {}
    matching = (value for key, value in patterns.items() if re.match(rf"(?:.*\.)?(?:{key})$", module))
    alpha = float(next(matching, settings.get("lora_alpha", 8)))
    return alpha / rank**0.5 if settings.get("use_rslora") else alpha / rank


def _known_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that the installed peft knows; say which others, not left at nothing, are ignored."""
    from peft import LoraConfig

    accepted = inspect.signature(LoraConfig).parameters
    ignored = [
        name
        for name, value in settings.items()
        if name not in accepted and name not in ("peft_type", "auto_mapping", "peft_version") and value
    ]
    ignored = [name for name in ignored if settings[name] != {} and name != "qalora_group_size"]
    if ignored:
        LOG.warning("the installed peft does not know these settings of the adapter: %s", ", ".join(ignored))
    return {name: value for name, value in settings.items() if name in accepted and name != "peft_type"}


def _plain_config(settings: dict[str, Any], files: AdapterFiles) -> Any:  # noqa: ANN401  (peft's configs)
    """Return the config of an adapter that is no LoRA: it is used under its own names or not at all."""
    from peft import get_peft_config
    from peft.config import PromptLearningConfig

    kept = {name: value for name, value in settings.items() if value is not None and name != "auto_mapping"}
    try:
        config = get_peft_config(kept)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"the installed peft does not take this {settings['peft_type']} adapter ({error})",
            value=files.config,
            fix="pip install --upgrade peft",
        ) from error
    if isinstance(config, PromptLearningConfig):
        raise UserError(
            "adapters that add tokens to a text do not fit an image backbone",
            value=settings["peft_type"],
            allowed="LORA and other kinds that change layers",
            fix="choose another adapter",
        )
    config.inference_mode = True
    return config


def _injected(module: torch.nn.Module, config: Any, tensors: dict[str, torch.Tensor], files: AdapterFiles) -> Any:  # noqa: ANN401
    """Return a PeftModel that holds exactly the adapter's tensors."""
    from peft import get_peft_model, get_peft_model_state_dict

    try:
        model = get_peft_model(module, config)
        held = get_peft_model_state_dict(model)
        strange = sorted(set(tensors) - set(held))
        if strange:
            raise _left_over(strange, files)
        missing = sorted(set(held) - set(tensors))
        if missing:
            raise UserError(
                "the adapter's file lacks tensors that its settings ask for",
                value=missing[0],
                allowed=f"{len(held)} tensors; {len(missing)} lack",
                fix="copy it again",
            )
        _fill(held, tensors)
        if any(not torch.equal(held[name], part) for name, part in get_peft_model_state_dict(model).items()):
            raise ValueError("its values did not reach the network")
    except (ValueError, RuntimeError, TypeError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"peft can't put this adapter on the backbone: {first}", value=files.weights.parent, fix=naming_hint(files)
        ) from error
    return model


def _fill(held: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> None:
    """Write an adapter's values into the tensors that a PeftModel shares.

    peft's own setter is not used: up to version 0.14 it loses layers whose name holds the word of the part it renames
    (``weights_in`` and ``weight``), without a word.
    """
    odd = next((name for name in held if held[name].shape != tensors[name].shape), None)
    if odd is not None:
        raise ValueError(f"{odd} is {tuple(tensors[odd].shape)}, not {tuple(held[odd].shape)}")
    with torch.no_grad():
        for name, tensor in held.items():
            tensor.copy_(tensors[name])


def _merged(model: Any, spec: BackboneSpec) -> torch.nn.Module:  # noqa: ANN401
    try:
        merged: torch.nn.Module = model.merge_and_unload(safe_merge=True)
    except (NotImplementedError, AttributeError, ValueError, TypeError) as error:
        LOG.warning(
            "the adapter %s can't be merged (%s); it is applied beside the weights, which is slower",
            spec.adapter,
            error,
        )
        merged = model.base_model.model
    return merged


def _left_over(names: list[str], files: AdapterFiles) -> UserError:
    return UserError(
        f"{len(names)} tensors or layers of the adapter have no place in this backbone, e.g. {names[0]}",
        value=files.weights.parent,
        allowed="an adapter whose every tensor belongs to the backbone",
        fix=naming_hint(files),
    )


def naming_hint(files: AdapterFiles) -> str:
    """Return what to do with an adapter that has no place: which library named its layers."""
    from histotune.tools.provenance import library_version

    naming = read_sidecar(files).get("naming") or {}
    if naming:
        return (
            f"it was saved under {naming.get('library')} {naming.get('version')}; choose the backbone it was made for"
        )
    return (
        f"choose the backbone it was made for (installed: transformers {library_version('transformers')}, "
        f"timm {library_version('timm')})"
    )


# ---- Layer names of every version of transformers ----
#
# Transformers renamed the layers of its vision transformers with version 5.23, and split DINOv2's fused SwiGLU input
# ``weights_in`` into ``gate_proj`` (the first half of its rows) and ``up_proj``; checkpoints keep the old names on
# disk, adapters do not. A low-rank update B A of the fused layer is, row for row, the update (B_gate A, B_up A) of its
# halves.


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

    Example:
        >>> split_key("base_model.model.blocks.0.attn.qkv.lora_B.weight")
        ('blocks.0.attn.qkv', 'lora_B.weight')
    """
    found = PART.fullmatch(key.removeprefix(PREFIX))
    return None if found is None else (found["module"], found["part"])


def canonical(module: str) -> str:
    """Return the name of a layer that all versions of transformers share.

    Example:
        >>> canonical("encoder.layer.3.attention.attention.query") == canonical("layers.3.attention.q_proj")
        True
    """
    for pattern, replacement in CANONICAL:
        module = pattern.sub(replacement, module)
    return module


def place(layers: Iterable[LoraLayer], modules: Iterable[str]) -> tuple[list[LoraLayer], list[str]]:
    """Put each layer where the network has it, splitting and joining the fused SwiGLU input where versions differ."""
    known = set(modules)
    by_canonical = {canonical(name): name for name in known}
    placed: list[LoraLayer] = []
    lost: list[str] = []
    halves: dict[str, dict[str, LoraLayer]] = {}
    for layer in layers:
        name = canonical(layer.module)
        stem = name.removesuffix(FUSED)
        if layer.module in known or name in by_canonical:
            placed.append(replace(layer, module=layer.module if layer.module in known else by_canonical[name]))
        elif name.endswith(FUSED) and stem + GATE in by_canonical and _can_split(layer):
            placed += _split(layer, by_canonical[stem + GATE], by_canonical[stem + UP])
        elif name.endswith((GATE, UP)) and name.rsplit(".mlp.", 1)[0] + FUSED in by_canonical and _can_split(layer):
            fused = by_canonical[name.rsplit(".mlp.", 1)[0] + FUSED]
            halves.setdefault(fused, {})["gate" if name.endswith(GATE) else "up"] = layer
        else:
            lost.append(layer.module)
    placed += [_joined(fused, found) for fused, found in halves.items()]
    return placed, lost


def _can_split(layer: LoraLayer) -> bool:
    """Return whether a layer is a plain low-rank update: others (embeddings, DoRA's joined halves) are not halved."""
    return all(part.startswith(("lora_A", "lora_B", "lora_magnitude_vector")) for part in layer.parts)


def _split(layer: LoraLayer, gate: str, up: str) -> tuple[LoraLayer, LoraLayer]:
    """Return the halves of a fused update: A is shared, the rows of B (and of DoRA's magnitudes) are divided."""
    gate_parts, up_parts = {}, {}
    for part, tensor in layer.parts.items():
        first, second = (tensor, tensor.clone()) if part.startswith("lora_A") else tensor.chunk(2, dim=0)
        gate_parts[part], up_parts[part] = first.contiguous(), second.contiguous()
    return replace(layer, module=gate, parts=gate_parts), replace(layer, module=up, parts=up_parts)


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
