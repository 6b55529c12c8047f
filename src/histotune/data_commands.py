"""What the commands below ``histotune data`` do: read what was asked for, call the library, print the result."""

from __future__ import annotations

import logging
import time
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


def fetch_and_print(dataset: str, to: Path | None, source: str | None, *, dry_run: bool) -> None:
    """Fetch a data set, or say what that would do."""
    import numpy as np

    from histotune.datasets.fetch.config import NetworkConfig
    from histotune.datasets.fetch.fetch import default_folder, fetch, plan_fetch
    from histotune.datasets.fetch.records import Transfer
    from histotune.datasets.fetch.render import render_outcome, render_plan

    folder = default_folder(dataset) if to is None else to.expanduser()
    config = NetworkConfig()
    if dry_run:
        print(render_plan(plan_fetch(dataset, folder, source, config)))
        return
    say = logging.getLogger("histotune.fetch").info
    # Unseeded on purpose: the jitter keeps machines apart that were cut off together.
    transfer = Transfer(config, np.random.default_rng(), say, time.sleep)
    print(render_outcome(fetch(dataset, folder, source, transfer)))


def croissant_and_print(dataset: str, data: Path | None, out: Path, settings: Sequence[str] | None) -> None:
    """Write Croissant metadata and say where."""
    from histotune.datasets.croissant import write_croissant
    from histotune.datasets.read import read_dataset
    from histotune.experiment import single_dataset

    config = single_dataset(build_config(dataset, data=data, settings=settings))
    files = write_croissant(read_dataset(config), config.path, out)
    print(f"{files.n_tiles:,} tiles: {files.metadata} and {files.table}")


def diff_and_print(dataset: str, before: Path, after: Path, settings: Sequence[str] | None) -> None:
    """Print what changed between two versions of a data set."""
    from histotune.files import user_dir
    from histotune.images.diff import diff_datasets, render_diff
    from histotune.images.hashes import HashIndex

    index = HashIndex(user_dir("cache") / "hashes.sqlite")
    print(render_diff(diff_datasets(_read(dataset, before, settings), _read(dataset, after, settings), index)))
