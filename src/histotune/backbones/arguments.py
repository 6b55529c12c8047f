"""What the catalog says about an architecture, as the constructors of timm and transformers take it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from histotune.backbones.spec import BackboneSpec

LAYERS = ("mlp_layer", "act_layer", "norm_layer")  # arguments that are classes, which config.json can't hold
PASSED_ANYWAY = ("num_classes", "pretrained")


def timm_arguments(spec: BackboneSpec, in_config: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a timm model.

    Args:
        spec: The backbone; its ``model_args`` name layer classes.
        in_config: ``model_args`` of the repository's config.json, which count where it states them.

    Returns:
        Arguments for ``timm.create_model``, layer classes resolved.

    Raises:
        UserError: A layer that neither timm nor torch has.
    """
    arguments = {name: value for name, value in {**dict(spec.model_args), **in_config}.items() if value is not None}
    arguments.update({name: value for name, value in spec.model_args if name in LAYERS})
    for name in PASSED_ANYWAY:
        arguments.pop(name, None)
    return {name: _layer(value) if name in LAYERS else value for name, value in arguments.items()}


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
    """Return a checkpoint of the original DINOv2 code under timm's names, position embeddings on the module's grid.

    Args:
        tensors: Tensor by its original name.
        module: The timm network.
        path: The file, for the message.

    Returns:
        Tensor by timm's name.

    Raises:
        UserError: It is no such checkpoint.
    """
    from timm.models.vision_transformer import checkpoint_filter_fn

    try:
        return dict(checkpoint_filter_fn(tensors, module))
    except (KeyError, RuntimeError, AttributeError, ValueError) as error:
        raise UserError("the checkpoint is not one of the DINOv2 code", value=path,
                        fix="download it again from the backbone's page") from error  # fmt: skip


def transformers_config(spec: BackboneSpec, path: Path | None) -> Any:  # noqa: ANN401  (transformers' configs)
    """Return the config of a transformers model.

    Args:
        spec: The backbone.
        path: Its config.json; None takes the catalog's settings.

    Returns:
        A ``PretrainedConfig``.
    """
    from transformers import AutoConfig

    if path is not None:
        return AutoConfig.from_pretrained(path.parent, local_files_only=True, trust_remote_code=False)
    settings = dict(spec.model_args)
    return AutoConfig.for_model(settings.pop("model_type"), **settings)
