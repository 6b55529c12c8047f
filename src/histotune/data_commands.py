"""What the commands below ``histotune data`` do: read what was asked for, call the library, print the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.commands import build_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from histotune.datasets.records import TileSet


def describe_and_print(dataset: str, data: Path | None, settings: Sequence[str] | None) -> None:
    """Print what a data set holds."""
    from histotune.datasets.describe import describe, render_text

    print(render_text(describe(_read(dataset, data, settings))))


def _read(dataset: str, data: Path | None, settings: Sequence[str] | None) -> TileSet:
    """Read the tiles that the command line names."""
    from histotune.datasets.read import read_dataset
    from histotune.experiment import single_dataset

    return read_dataset(single_dataset(build_config(dataset, data=data, settings=settings)))


@dataclass(frozen=True)
class SplitRequest:
    """Which split is made.

    Attributes:
        split: Its name, or a file.
        out: File to write; None only prints.
        allow_leaky: Take one that leaks.
    """

    split: str
    out: Path | None
    allow_leaky: bool


def split_and_print(dataset: str, data: Path | None, request: SplitRequest, settings: Sequence[str] | None) -> None:
    """Print a split's balance and notes, and write it."""
    from histotune.datasets.splits.store import find_split, save_split
    from histotune.datasets.splits.summary import render_split

    tiles = _read(dataset, data, settings)
    split = find_split(request.split, tiles, allow_leaky=request.allow_leaky)
    print(render_split(split, tiles))
    if request.out is not None:
        save_split(split, request.out)
        print(f"split: {request.out}")
