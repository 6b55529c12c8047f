"""What an export is made from: the options, and everything that a format is written from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from histotune.backbones.network import Network
    from histotune.backbones.spec import BackboneSpec, ColumnBlock
    from histotune.deploy.bundle import Bundle
    from histotune.deploy.folded_head import FoldedHead

ExportFormat = Literal["transformers", "onnx", "wsinfer", "folder"]
EXPORT_FILE, EXPORT_VERSION = "histotune_export.json", 1


@dataclass(frozen=True)
class ExportConfig:
    """What is written, and what is known about the images that it will see.

    Attributes:
        format: For whom: ``transformers``, ``onnx``, ``wsinfer`` or ``folder``.
        tile_px: Side of the square tiles that WSInfer and QuPath cut out of a slide.
        mpp: Scale of the images, um/px; WSInfer, and views with ``target_mpp``, need it.
        head_only: Leave out the backbone's weights (``folder``).
        for_own_use: Write weights that the licence does not let one pass on.
        overwrite: Replace an earlier export.
    """

    format: ExportFormat
    tile_px: int | None = None
    mpp: float | None = None
    head_only: bool = False
    for_own_use: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class ExportJob:
    """Everything that a format is written from.

    Attributes:
        bundle: The head and its view.
        spec: The backbone with the view's size.
        head: Its layers with the calibration folded in.
        network: The backbone in fp32, an adapter merged; None where its weights are left out.
        module: The same network's module, for what is written about it.
        blocks: Names and widths of its outputs.
        config: What was asked for.
    """

    bundle: Bundle
    spec: BackboneSpec
    head: FoldedHead
    network: Network | None
    module: Any
    blocks: tuple[ColumnBlock, ...]
    config: ExportConfig


def check_format(text: str) -> ExportFormat:
    """Return the name of a format as typed."""
    by_name: dict[str, ExportFormat] = {name: name for name in get_args(ExportFormat)}
    if text in by_name:
        return by_name[text]
    raise UserError(
        "heads are not exported in this format",
        value=text,
        allowed=", ".join(by_name),
        closest=closest_name(text, by_name),
        fix="histotune export --help",
    )
