"""What a backbone is: an identity that hashes, named outputs, a licence; and what loading one gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch
    from numpy.typing import NDArray


BackboneKind = Literal["lite0", "timm", "transformers", "colour-histogram", "own-code", "external"]
ModelArgument = int | float | bool | str


@dataclass(frozen=True)
class ColumnBlock:
    """A named range of embedding columns, such as ``cls`` or ``patch_mean``; ``stop`` is exclusive."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class BackboneSpec:
    """Everything known about a backbone before its weights are read.

    Attributes:
        name: What the user types.
        kind: Which loader reads it.
        source: Hub id, timm architecture name, or local folder or file.
        revision: Pinned hub revision; empty for local files.
        weights: ``pretrained``, or ``random`` (the floor: same architecture, seeded random weights).
        seed: Seed of random weights.
        size_px: Side of the input the view must produce.
        view_name: How the documented transform makes a square: by cropping the centre beside a resized short side, or
            by resizing both sides.
        resize_px: What the documented transform resizes to before it crops ``size_px``; None: ``size_px`` itself, 0:
            it crops the stored pixels.
        mean: Normalisation mean per RGB channel, of values in [0, 1]. A transform that does not normalise has mean 0
            and std 1; one that does not rescale, or by another factor, has both divided accordingly.
        std: Normalisation standard deviation per RGB channel.
        interpolation: Resampling filter of the documented transform.
        licence: Licence of the weights.
        citation: Where the figures of this entry come from.
        gated: Whether the hub asks for an accepted licence and a token.
        training_mpp: Scale of the pretraining tiles, um/px; empty for natural images or where not published.
        overlap: Known overlap of the pretraining data with benchmark data; empty where none is known.
        default_pooling: Recommended set of column blocks.
        hub_id: Hub repository of a timm backbone's weights; empty where it has none.
        checkpoint: Local file or folder that holds a timm backbone's weights; empty takes ``hub_id``.
        model_args: Everything the constructor needs beside the architecture's name: keyword arguments of timm (layer
            classes by name, such as ``SwiGLUPacked``), or the settings of a transformers config, ``model_type`` first.
            Where given, timm backbones are built from these alone, and random twins need no file at all.
        weights_file: Name of the checkpoint in the repository, where it is not a usual one.
        layout: Tensor names in the checkpoint: ``timm``, or ``dinov2`` for those of the original implementation.
        adapter: PEFT's or changed tensors, merged into the weights: a local folder, or ``ORGANISATION/NAME[/FOLDER]``
            on the hub.
        adapter_revision: Pinned hub revision of the adapter.
    """

    name: str
    kind: BackboneKind
    source: str
    revision: str = ""
    weights: Literal["pretrained", "random"] = "pretrained"
    seed: int = 0
    size_px: int = 224
    view_name: Literal["short-side-crop", "square"] = "short-side-crop"
    resize_px: int | None = None
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    licence: str = ""
    citation: str = ""
    gated: bool = False
    training_mpp: tuple[float, ...] = ()
    overlap: str = ""
    default_pooling: tuple[str, ...] = ("pooled",)
    hub_id: str = ""
    checkpoint: str = ""
    model_args: tuple[tuple[str, ModelArgument], ...] = ()
    weights_file: str = ""
    layout: Literal["timm", "dinov2"] = "timm"
    adapter: str = ""
    adapter_revision: str = ""

    @property
    def repository(self) -> str:
        """Hub repository of the weights; empty where they come from somewhere else."""
        if self.kind == "timm":
            return "" if self.checkpoint else self.hub_id
        return self.source if self.kind in ("transformers", "own-code") and not Path(self.source).is_dir() else ""


@dataclass
class Reruns:
    """Counts the batches that overflowed in half precision and were run again in fp32."""

    n_batches: int = 0


@dataclass(frozen=True)
class Backbone:
    """A loaded network with named outputs.

    Attributes:
        spec: Where it came from.
        blocks: Named column ranges of the output.
        embed: Maps uint8 pixels (B, size_px, size_px, 3) to float32 embeddings (B, total_dim); moves to the device,
            normalises and runs the network in the chosen precision, without gradients.
        module: The network itself, batch norms folded, for inference and explanations; None for the colour histogram.
        reruns: Batches that were run again in fp32.
    """

    spec: BackboneSpec
    blocks: tuple[ColumnBlock, ...]
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    module: torch.nn.Module | None = None
    reruns: Reruns = field(default_factory=Reruns)

    @property
    def total_dim(self) -> int:
        """Number of embedding columns."""
        return self.blocks[-1].stop
