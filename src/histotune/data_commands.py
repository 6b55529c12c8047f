"""What the commands below ``histotune data`` do: read what was asked for, call the library, print the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.commands import build_config
from histotune.errors import UserError, raise_together

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from histotune.datasets.records import TileSet
    from histotune.images.config import ScaleConfig


def describe_and_print(dataset: str, data: Path | None, backbone: str | None, settings: Sequence[str] | None) -> None:
    """Print what a data set holds, and what a backbone's view shows of it."""
    from histotune.backbones.catalog import documented_view, find_backbone
    from histotune.datasets.describe import describe, render_text
    from histotune.images.field_of_view import render_fields

    config = build_config(dataset, data=data, backbone=backbone, settings=settings)
    tiles = _read(dataset, data, settings)
    view = config.view or documented_view(find_backbone(config.backbone, config.cache))
    print(render_text(describe(tiles)))
    print()
    print(render_fields(tiles, view, config.backbone.name))


@dataclass(frozen=True)
class ScaleOptions:
    """Options of ``histotune data estimate-mpp`` as typed; None where absent."""

    tissue: str | None
    nucleus_um: float | None
    max_tiles: int | None
    out: Path | None


def estimate_mpp_and_print(
    dataset: str, data: Path | None, settings: Sequence[str] | None, options: ScaleOptions
) -> None:
    """Measure the scale of a data set, print it, and write it where asked."""
    from histotune.files import write_json
    from histotune.images.scale import estimate_scale
    from histotune.images.scale_text import render_scale

    config = build_config(dataset, data=data, settings=settings)
    estimate = estimate_scale(_read(dataset, data, settings), _scale_config(options), config.loader)
    part = "source" if config.source is not None else "target"
    print(render_scale(estimate, part))
    if options.out is not None:
        write_json(options.out, {**estimate.as_dict(), "settings": list(estimate.settings(part))})
        print(f"\nwritten: {options.out}")


def _scale_config(options: ScaleOptions) -> ScaleConfig:
    """Turn the options into a config; report every mistake together."""
    from pydantic import ValidationError

    from histotune.images.config import ScaleConfig

    typed = {"tissue": options.tissue, "nucleus_um": options.nucleus_um, "max_tiles": options.max_tiles}
    try:
        return ScaleConfig.model_validate({name: value for name, value in typed.items() if value is not None})
    except ValidationError as error:
        raise_together([
            UserError(f"--{str(detail['loc'][0]).replace('_', '-')}: {detail['msg'][:1].lower()}{detail['msg'][1:]}",
                      value=detail["input"], fix="histotune data estimate-mpp --help")
            for detail in error.errors()
        ])  # fmt: skip
        raise


def _read(dataset: str, data: Path | None, settings: Sequence[str] | None) -> TileSet:
    """Read the tiles that the command line names."""
    from histotune.datasets.read import read_dataset
    from histotune.experiment import single_dataset

    return read_dataset(single_dataset(build_config(dataset, data=data, settings=settings)))
