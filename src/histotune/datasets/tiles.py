"""The user's own tiles: a table, or a folder of class folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histotune.datasets.catalog import DatasetSpec
from histotune.datasets.folder import read_folder
from histotune.datasets.rows import tile_set
from histotune.datasets.table import is_table, read_table
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.tileset import TileSet

SPEC = DatasetSpec(
    name="tiles",
    title="Own tiles",
    licence="the user's own",
    citation="the user's own",
    group="the group column, or what group_pattern finds in file names",
    caveats=(
        "Nothing is known about these tiles but what the table, the folders and the image headers say: histotune "
        "can't tell whether one group is one patient.",
    ),
)


def read_tiles(config: DatasetConfig) -> TileSet:
    """Read the user's own tiles.

    Args:
        config: ``path`` is a table (see :func:`~histotune.datasets.table.read_table`) or a folder of class folders
            (see :func:`~histotune.datasets.folder.read_folder`).

    Returns:
        The tiles; of two classes the positive one has index 1.

    Raises:
        UserError: The table or a folder can't be read, or images are missing or damaged.

    Example:
        >>> from pathlib import Path
        >>> from histotune.datasets.config import DatasetConfig
        >>> read_tiles(DatasetConfig(name="tiles", path=Path("tiles.csv"))).class_names  # doctest: +SKIP
        ('normal', 'tumor')
    """
    if not config.path.is_file() and not (is_table(config.path) and not config.path.is_dir()):
        rows, notes = read_folder(config)
    elif config.group_pattern is not None:
        raise UserError("group_pattern is for class folders; a table has a column for groups",
                        value=config.group_pattern, fix="add a column group to the table")  # fmt: skip
    else:
        rows, notes = read_table(config.path)
    return tile_set(rows, SPEC, config, notes)
