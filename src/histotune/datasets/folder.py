"""The user's own tiles as folders: one per class, below a folder per part where there are parts."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.datasets.disk import list_files, name_some
from histotune.datasets.headers import IMAGE_SUFFIXES
from histotune.datasets.rows import PART_BY_NAME, Tile
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.disk import Listing

LAYOUT = "FOLDER/class/image.png, or FOLDER/train/class/image.png with train, valid and test"


def read_folder(config: DatasetConfig) -> tuple[list[Tile], list[str]]:
    """Read class folders; the name of a folder is the label of every image below it.

    Args:
        config: ``path`` holds the class folders, or the folders of parts; ``group_pattern`` finds a tile's group in
            its path below the class folder.

    Returns:
        A tile per image; notes on files that were skipped and names without a group.

    Raises:
        UserError: No folder, no image, images outside class folders, or a pattern that finds no group at all.
    """
    listing = list_files(config.path)
    paths, notes = _images(listing)
    with_parts = _has_parts(listing, paths)
    depth = 2 if with_parts else 1
    outside = ["/".join(parts) for parts in paths if len(parts) <= depth]
    if outside:
        raise UserError(f"{len(outside):,} images lie in no class folder", value=name_some(outside, 20),
                        allowed=LAYOUT, fix="move them into the folder of their class, or name them in a table "
                        "(a CSV file with the columns path and label)")  # fmt: skip
    tiles = [
        Tile(
            path=os.path.join(listing.root, *parts),  # noqa: PTH118
            label=parts[depth - 1],
            group=_group(config.group_pattern, "/".join(parts[depth:])),
            split=parts[0] if with_parts else None,
            tile_id="/".join(parts),
        )
        for parts in paths
    ]
    return tiles, notes + _pattern_notes(config.group_pattern, tiles)


def _images(listing: Listing) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return the images as parts of their paths below the folder; hidden and other files become a note."""
    images: list[tuple[str, ...]] = []
    others: list[tuple[str, ...]] = []
    for path in listing.paths:
        parts = Path(listing.relative(path)).parts
        hidden = any(part.startswith(".") for part in parts)
        (others if hidden or not path.lower().endswith(IMAGE_SUFFIXES) else images).append(parts)
    if not images:
        found = "/".join(others[0])
        raise UserError("this folder holds no images", value=listing.root,
                        allowed=f"{LAYOUT}; {', '.join(IMAGE_SUFFIXES)} (found {found})",
                        fix="check --data")  # fmt: skip
    if not others:
        return images, []
    files, example = "file that is" if len(others) == 1 else "files that are", "/".join(others[0])
    return images, [f"Skipped {len(others):,} {files} no image by name, such as {example}."]


def _has_parts(listing: Listing, paths: list[tuple[str, ...]]) -> bool:
    """Return whether the first folders are parts; a mixture of parts and classes is refused."""
    first = sorted({parts[0] for parts in paths if len(parts) > 1})
    parts = [name for name in first if name.lower() in PART_BY_NAME]
    classes = [name for name in first if name.lower() not in PART_BY_NAME]
    if parts and classes:
        raise UserError("folders of parts and of classes lie side by side", value=listing.root,
                        allowed=f"{LAYOUT} (parts: {name_some(parts, 5)}; others: {name_some(classes, 5)})",
                        fix="move the class folders into the parts, or rename the folder that is no part")  # fmt: skip
    return bool(parts)


def _group(pattern: str | None, name: str) -> str | None:
    match = None if pattern is None else re.search(pattern, name)
    return None if match is None else match["group"] or None


def _pattern_notes(pattern: str | None, tiles: list[Tile]) -> list[str]:
    if pattern is None:
        return []
    without = [tile for tile in tiles if tile.group is None]
    if len(without) == len(tiles):
        raise UserError("group_pattern finds no group in any file name", value=pattern,
                        allowed=f"a pattern that matches names such as {_base(tiles[0].path)}",
                        fix="--set source.group_pattern='^(?P<group>[^_]+)_'")  # fmt: skip
    n_groups = len({tile.group for tile in tiles if tile.group is not None})
    notes = [f"Groups come from file names: {n_groups:,} by the pattern {pattern}."]
    if without:
        notes.append(f"The pattern finds no group in {len(without):,} names, such as {_base(without[0].path)}.")
    return notes


def _base(path: str | Path) -> str:
    return os.path.basename(path)  # noqa: PTH119
