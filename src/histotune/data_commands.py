"""What the commands below ``histotune data`` do: read what was asked for, call the library, print the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histotune.commands import build_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.records import TileSet


def describe_and_print(dataset: str, data: Path | None, settings: Sequence[str] | None) -> None:
    """Print what a data set holds."""
    from histotune.datasets.describe import describe, render_text
    from histotune.datasets.read import spec_of

    spec = spec_of(_dataset(dataset, data, settings))
    print(render_text(describe(_read(dataset, data, settings), spec)))


def _dataset(dataset: str, data: Path | None, settings: Sequence[str] | None) -> DatasetConfig:
    """Return the settings of the data set that the command line names."""
    from histotune.experiment import single_dataset

    return single_dataset(build_config(dataset, data=data, settings=settings))


def _read(dataset: str, data: Path | None, settings: Sequence[str] | None) -> TileSet:
    """Read the tiles that the command line names."""
    from histotune.datasets.read import read_dataset

    return read_dataset(_dataset(dataset, data, settings))
