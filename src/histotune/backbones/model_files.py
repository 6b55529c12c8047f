"""What a model's own files, or timm, say about its input: size, normalisation, interpolation, licence."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histotune.backbones.spec import BackboneSpec
from histotune.backbones.transforms import processor_transform, timm_transform
from histotune.backbones.weights import INDEX, ONE_FILE, cached_file, commit_of, hub_file, model_json
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from histotune.backbones.entries import BackboneConfig


LOG = logging.getLogger(__name__)
Json = dict[str, Any]
PROCESSOR = "preprocessor_config.json"
TOKENS = ("cls", "patch_mean")
TOKEN_MODELS = frozenset(
    {
        "dinov2",
        "dinov2_with_registers",
        "dinov3_vit",
        "vit",
        "vit_msn",
        "deit",
        "beit",
        "data2vec-vision",
    }
)  # transformers model types with a class token
TOKEN_ARCHITECTURES = ("vit_", "deit_", "deit3_", "beit_", "beitv2_", "eva02_", "flexivit_")  # timm name prefixes


def describe_folder(folder: Path) -> BackboneSpec:
    """Return the facts about a backbone saved in a local folder."""
    config = model_json(folder / "config.json")
    if "architecture" in config:
        return _timm_format(str(folder), config, BackboneSpec(str(folder), "timm", "", checkpoint=str(folder)))
    processor = folder / PROCESSOR
    return _transformers_format(str(folder), "", config, model_json(processor) if processor.is_file() else None)


def describe_hub(repository: str, revision: str) -> BackboneSpec:
    """Return the facts about a backbone on the hub, from its small files."""
    path = hub_file(repository, "config.json", revision)
    assert path is not None
    config, commit = model_json(path), commit_of(path)
    if "architecture" in config:
        blank = BackboneSpec(repository, "timm", "", revision=commit, hub_id=repository)
        return _timm_format(repository, config, blank)
    processor = cached_file(repository, PROCESSOR, commit)
    if processor is None and not any(cached_file(repository, name, commit) for name in (ONE_FILE, INDEX)):
        processor = hub_file(repository, PROCESSOR, commit, optional=True)  # a snapshot with weights is complete
    return _transformers_format(repository, commit, config, None if processor is None else model_json(processor))


def describe_timm(config: BackboneConfig) -> BackboneSpec:
    """Ask timm about an architecture."""
    import timm

    name = config.name.removeprefix("timm/")
    architecture, _, tag = name.partition(".")
    tags = timm.list_pretrained(architecture)
    if not timm.is_model(architecture) or (tag and name not in tags):
        known = tags if timm.is_model(architecture) else timm.list_models()
        closest = closest_name(name, known)
        raise UserError(
            "timm knows no such model",
            value=config.name,
            closest=None if closest is None else f"timm/{closest}",
            fix='python -c "import timm; print(timm.list_pretrained())"',
        )
    facts = timm.get_pretrained_cfg(name)
    checkpoint = "" if not config.weights else str(Path(config.weights).expanduser())
    if checkpoint and not Path(checkpoint).exists():
        raise UserError("the checkpoint does not exist", value=checkpoint, fix="check --set backbone.weights=...")
    full_name = name if tag or not facts.tag else f"{name}.{facts.tag}"
    return BackboneSpec(
        name=config.name,
        kind="timm",
        source=architecture if checkpoint else full_name,
        revision=config.revision,
        **asdict(timm_transform(facts.to_dict(), config.name)),
        licence=facts.license or "",
        citation=facts.paper_name or facts.origin_url or "",
        hub_id="" if checkpoint else facts.hf_hub_id or "",
        checkpoint=checkpoint,
        default_pooling=TOKENS if _has_tokens(architecture) else ("pooled",),
    )


def _timm_format(name: str, config: Json, blank: BackboneSpec) -> BackboneSpec:
    """Read timm's hub format: an architecture, and its pretrained_cfg."""
    facts = config.get("pretrained_cfg", config)
    return replace(
        blank,
        source=config["architecture"],
        **asdict(timm_transform(facts, name)),
        licence=facts.get("license") or "",
        default_pooling=_pooling_by_name(config["architecture"], config.get("model_args") or {}),
    )


def _transformers_format(source: str, revision: str, config: Json, processor: Json | None) -> BackboneSpec:
    if "model_type" not in config:
        raise UserError(
            "config.json names neither a transformers model_type nor a timm architecture",
            value=source,
            fix="save the model with save_pretrained, or in timm's hub format",
        )
    if processor is None:
        LOG.warning("%s has no %s; assuming 224 px, mean 0.5, std 0.5, bicubic", source, PROCESSOR)
        processor = {"size": 224, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return BackboneSpec(
        name=source,
        kind="transformers",
        source=source,
        revision=revision,
        **asdict(processor_transform(processor, source)),
        default_pooling=TOKENS if config["model_type"] in TOKEN_MODELS else ("pooled",),
    )


def _has_tokens(architecture: str) -> bool:
    """Build a timm architecture without memory for its weights and look."""
    import timm

    with without_memory():
        return has_class_token(timm.create_model(architecture, num_classes=0))


def _pooling_by_name(architecture: str, model_args: Json) -> tuple[str, ...]:
    """Tell by its name whether a timm architecture has a class token, which importing timm for would cost seconds."""
    no_token = ("_gap_", "siglip", "relpos", "_rpn_")
    named = architecture.startswith(TOKEN_ARCHITECTURES) and not any(part in architecture for part in no_token)
    return TOKENS if named and model_args.get("class_token", True) else ("pooled",)


def has_class_token(module: torch.nn.Module) -> bool:
    """Return whether a timm network gives a sequence of tokens, prefix tokens first and the class token first of all.

    Networks that keep their class token elsewhere (PiT, VOLO) count as having none and give ``pooled``.
    """
    return getattr(module, "cls_token", None) is not None and getattr(module, "num_prefix_tokens", 0) >= 1


# ---- Arguments for timm and transformers ----


LAYERS = ("mlp_layer", "act_layer", "norm_layer")  # arguments that are classes, which config.json can't hold
PASSED_ANYWAY = ("num_classes", "pretrained")


def timm_arguments(spec: BackboneSpec, in_config: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a timm model."""
    named = timm_argument_names(spec, in_config)
    return {name: _layer(value) if name in LAYERS else value for name, value in named.items()}


def timm_argument_names(spec: BackboneSpec, in_config: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a timm model as config.json holds them, layer classes by name."""
    arguments = {name: value for name, value in {**dict(spec.model_args), **in_config}.items() if value is not None}
    arguments.update({name: value for name, value in spec.model_args if name in LAYERS})
    for name in PASSED_ANYWAY:
        arguments.pop(name, None)
    return arguments


def _layer(name: object) -> object:
    """Return a layer class by its name: of timm's layers, or of torch."""
    if not isinstance(name, str):
        return name
    import timm.layers
    from torch import nn

    found = getattr(timm.layers, name, None) or getattr(nn, name, None)
    if found is None:
        raise UserError("the installed timm has no such layer", value=name, fix="pip install --upgrade timm")
    return found


def timm_names(tensors: dict[str, torch.Tensor], module: torch.nn.Module, path: Path) -> dict[str, torch.Tensor]:
    """Return a checkpoint of the original DINOv2 code under timm's names, position embeddings on the module's grid."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    try:
        return dict(checkpoint_filter_fn(tensors, module))
    except (KeyError, RuntimeError, AttributeError, ValueError) as error:
        raise UserError(
            "the checkpoint is not one of the DINOv2 code", value=path, fix="download it again from the backbone's page"
        ) from error


def transformers_config(spec: BackboneSpec, path: Path | None) -> Any:  # noqa: ANN401  (transformers' configs)
    """Return the config of a transformers model."""
    from transformers import AutoConfig

    if path is not None:
        return AutoConfig.from_pretrained(path.parent, local_files_only=True, trust_remote_code=False)
    settings = dict(spec.model_args)
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


# ---- Networks without memory for their weights ----


@contextmanager
def without_memory() -> Iterator[None]:
    """Build networks on torch's ``meta`` device: names and shapes, no values."""
    import torch
    from torch.overrides import TorchFunctionMode

    class LinspaceOnCpu(TorchFunctionMode):
        """Computes ``torch.linspace`` for real: older versions of timm read its values while they build a network."""

        def __torch_function__(
            self,
            func: Callable[..., object],
            types: object,
            args: tuple[object, ...] = (),
            kwargs: dict[str, object] | None = None,
        ) -> object:
            """Call a function of torch, ``linspace`` on the CPU."""
            options = dict(kwargs or {})
            if func is torch.linspace:
                options["device"] = "cpu"
            return func(*args, **options)

    with torch.device("meta"), LinspaceOnCpu():
        yield
