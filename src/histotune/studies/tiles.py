"""The user's own tiles, from a table, from class folders, or through a Python file of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from histotune.datasets.config import DatasetConfig
from histotune.studies.config import ExperimentConfig
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.studies.records import RecipeData


def tiles(data: RecipeData) -> ExperimentConfig:
    """Cross-fit a probe on one's own tiles by group; where groups are unknown, over single tiles, marked LEAKY.

    Expect: whatever your data says; the floors in every table tell what a number is worth.
    Hardware: any; a small backbone embeds some ten tiles a second on two cores. Seed 0.

    Command: ``histotune run tiles --data tiles.csv``

    Args:
        data: ``data`` is a CSV or parquet table, or a folder of class folders.

    Returns:
        The complete config.

    Raises:
        UserError: No table or folder was given.
    """
    if data.data is None:
        raise UserError("this recipe needs your tiles", fix="add --data tiles.csv, or --data FOLDER_OF_CLASS_FOLDERS")
    return ExperimentConfig(
        recipe="tiles",
        source=DatasetConfig(name="tiles", path=data.data),
        target=None if data.pcam is None else DatasetConfig(name="patch_camelyon", path=data.pcam),
        out=Path("runs/tiles"),
    )


def python_file(code: Path, data: RecipeData) -> ExperimentConfig:
    """The ``tiles`` recipe for any data set that a Python file of the user's reads.

    Command: ``histotune run my_dataset.py --data FOLDER``

    Args:
        code: The file, with ``SPEC`` and ``read``; docs/datasets.md shows how to write one.
        data: ``data`` is handed to the reader.

    Returns:
        The complete config, tied to the file's content.

    Raises:
        UserError: The file or the data was not given.
    """
    from histotune.datasets.tiles import code_sha256

    if data.data is None:
        raise UserError("this reader needs to know where the data lies", value=code, fix="add --data FOLDER")
    source = DatasetConfig(name="python", path=data.data, code=code.absolute(), code_sha256=code_sha256(code))
    config = tiles(data).model_copy(update={"recipe": code.stem, "source": source})
    return config.model_copy(update={"out": Path("runs") / code.stem})
