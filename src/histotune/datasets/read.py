"""Files on disk become a TileSet: the one door for every data set, known, the user's own, or read by a hook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histotune.datasets.take import take_subset
from histotune.tools.errors import UserError, closest_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from histotune.datasets.catalog import DatasetSpec
    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.tileset import TileSet


def read_dataset(config: DatasetConfig) -> TileSet:
    """Read a data set's files into a table of tiles; no pixel is decoded.

    Args:
        config: Which data set, where it lies, how it is labelled.

    Returns:
        One row per labelled tile of the subset that was asked for, with notes on everything skipped or assumed.

    Raises:
        UserError: The folder is missing, empty or holds something else, or files are broken.

    Example:
        >>> from pathlib import Path
        >>> tiles = read_dataset(DatasetConfig(name="breakhis", path=Path("BreaKHis_v1")))  # doctest: +SKIP
        >>> len(tiles)  # doctest: +SKIP
        7909
    """
    return take_subset(_reader(config.name)(config), config.subset)


def known_specs() -> dict[str, DatasetSpec]:
    """Return what is known about every data set that has a reader here, by name."""
    from histotune.datasets import breakhis, patch_camelyon, tiles

    return {spec.name: spec for spec in (breakhis.SPEC, patch_camelyon.SPEC, tiles.SPEC)}


def spec_of(config: DatasetConfig) -> DatasetSpec:
    """Return what is known about the data set that a config names; a hook's file is run for that.

    Args:
        config: Which data set.

    Returns:
        Licence, citation, candidate scales, class schemes, caveats.

    Raises:
        UserError: A hook's file is missing or stops with an error.
    """
    if config.name == "python":
        from histotune.datasets.python_file import python_spec

        return python_spec(config)
    return dataset_spec(config.name)


def dataset_spec(name: str) -> DatasetSpec:
    """Return what is known about a data set without reading a file.

    Args:
        name: As in ``DatasetConfig.name``.

    Returns:
        Licence, citation, candidate scales, class schemes, caveats.

    Raises:
        UserError: There is no such data set; the closest name is given.
    """
    specs = known_specs()
    if name not in specs:
        raise UserError("unknown data set", value=name, allowed=", ".join(specs), closest=closest_name(name, specs))
    return specs[name]


def _reader(name: str) -> Callable[[DatasetConfig], TileSet]:
    from histotune.datasets.breakhis import read_breakhis
    from histotune.datasets.patch_camelyon.read import read_patch_camelyon
    from histotune.datasets.python_file import read_python
    from histotune.datasets.tiles import read_tiles

    if name == "python":
        return read_python
    readers = {"breakhis": read_breakhis, "patch_camelyon": read_patch_camelyon, "tiles": read_tiles}
    return readers[dataset_spec(name).name]
