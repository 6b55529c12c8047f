"""The user's own tiles as folders: the name of a folder is the class of the images below it."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.datasets.cells import CellRules, is_missing
from histotune.datasets.disk import IMAGE_SUFFIXES, name_some
from histotune.datasets.rows import PART_BY_NAME, POSITIVE_NAMES, Notes, Tile
from histotune.datasets.tileset import LEVEL
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.disk import Listing


LAYOUT = "FOLDER/class/image.png, or FOLDER/train/class/image.png with train, valid and test"
CLASS_WORDS = frozenset({*POSITIVE_NAMES, "benign", "normal", "negative", "healthy", "false", *"0123456789"})
"""Names that hardly anything but a class has."""
INNER, OUTER = "--set source.layout=group/class", "--set source.layout=class/group"
OUTER_ALONE = "--set source.layout=class"
Parts = tuple[str, ...]  # of a path below the data folder


@dataclass(frozen=True)
class _Levels:
    """Which folders of a path mean what, counted from 0 below the data folder; None where no folder does."""

    part: int | None
    label: int
    group: int | None

    @property
    def n_folders(self) -> int:
        """How many folders an image must lie in."""
        return 1 + max(self.label, self.group or 0)


def read_folder(config: DatasetConfig, listing: Listing) -> tuple[list[Tile], Notes]:
    """Read class folders; the name of a folder is the label of every image below it."""
    if config.images_from is not None:
        what = "images_from is for a table of tiles, and this is a folder of class folders"
        raise UserError(what, value=config.images_from, fix="leave out --set source.images_from=...")
    paths, notes = _images(listing)
    levels = _levels(config, with_parts=_has_parts(listing, paths))
    outside = ["/".join(parts) for parts in paths if len(parts) <= levels.n_folders]
    if outside:
        raise _no_class_folder(listing, outside, config)
    _refuse_missing_words(sorted({parts[levels.label] for parts in paths}), config)
    asked = [] if config.class_level > 1 or config.layout else _other_level(listing, paths, config.group_pattern)
    tiles = [
        Tile(
            path=os.path.join(listing.root, *parts),  # noqa: PTH118
            label=parts[levels.label],
            group=_group(config.group_pattern, _around(parts, levels)) if levels.group is None else parts[levels.group],
            split=None if levels.part is None else parts[levels.part],
            tile_id="/".join(parts),
        )
        for parts in paths
    ]
    said = [*notes, *asked, *_layout_notes(config, tiles), *_pattern_notes(config.group_pattern, tiles)]
    return tiles, Notes(said, asked)


def _levels(config: DatasetConfig, *, with_parts: bool) -> _Levels:
    first, part = int(with_parts), 0 if with_parts else None
    if config.layout == "class/group":
        return _Levels(part, first, first + 1)
    if config.layout == "group/class":
        return _Levels(part, first + 1, first)
    return _Levels(part, first + config.class_level - 1, None)


def _around(parts: Parts, levels: _Levels) -> str:
    """Return a path without its part and its class, where a pattern looks for the group."""
    return "/".join(part for level, part in enumerate(parts) if level not in (levels.part, levels.label))


def _layout_notes(config: DatasetConfig, tiles: list[Tile]) -> list[str]:
    if config.layout in (None, "class"):
        return []
    n_groups = len({tile.group for tile in tiles})
    return [f"Groups are the names of folders: {n_groups:,} by the layout {config.layout}."]


def _refuse_missing_words(classes: list[str], config: DatasetConfig) -> None:
    """Ask about a class folder whose name stands for a missing value in a table: it may be a class, or no label."""
    rules = CellRules.of(config)
    decided = {name.casefold() for name in config.also_missing}
    odd = [name for name in classes if is_missing(name, rules) and name.casefold() not in decided]
    if odd:
        raise UserError(
            "a class folder is named as programs write a missing value",
            value=name_some(odd, 5),
            allowed="names of classes",
            fix=f"if it is a class: --set 'source.not_missing=[\"{odd[0]}\"]'; if its images have no label: --set "
            f"'source.also_missing=[\"{odd[0]}\"]'",
        )


def has_class_folders(listing: Listing) -> bool:
    """Return whether images lie in class folders: every one in a folder, in two or more of them."""
    paths = [parts for path in listing.paths if _is_image(parts := _below(listing, path))]
    with_parts = any(parts[0].lower() in PART_BY_NAME for parts in paths if len(parts) > 1)
    inside = all(len(parts) > 1 + with_parts for parts in paths)
    return inside and len({parts[with_parts] for parts in paths}) > 1


def _below(listing: Listing, path: str) -> Parts:
    return Path(listing.relative(path)).parts


def _is_image(parts: Parts) -> bool:
    return not any(part.startswith(".") for part in parts) and parts[-1].lower().endswith(IMAGE_SUFFIXES)


def _images(listing: Listing) -> tuple[list[Parts], list[str]]:
    """Return the images as parts of their paths below the folder; hidden and other files become a note."""
    found = [_below(listing, path) for path in listing.paths]
    images, others = [parts for parts in found if _is_image(parts)], [parts for parts in found if not _is_image(parts)]
    if not images:
        example = "/".join(others[0])
        raise UserError(
            "this folder holds no images",
            value=listing.root,
            allowed=f"{LAYOUT}; {', '.join(IMAGE_SUFFIXES)} (found {example})",
            fix="check --data",
        )
    if not others:
        return images, []
    files, example = "file that is" if len(others) == 1 else "files that are", "/".join(others[0])
    return images, [f"Skipped {len(others):,} {files} no image by name, such as {example}."]


def _has_parts(listing: Listing, paths: list[Parts]) -> bool:
    """Return whether the first folders are parts; a mixture of parts and classes is refused."""
    first = sorted({parts[0] for parts in paths if len(parts) > 1})
    parts = [name for name in first if name.lower() in PART_BY_NAME]
    classes = [name for name in first if name.lower() not in PART_BY_NAME]
    if parts and classes:
        raise UserError(
            "folders of parts and of classes lie side by side",
            value=listing.root,
            allowed=f"{LAYOUT} (parts: {name_some(parts, 5)}; others: {name_some(classes, 5)})",
            fix="move the class folders into the parts, or rename the folder that is no part",
        )
    return bool(parts)


# ---- Another level of folders than the one that was named ----


def _no_class_folder(listing: Listing, outside: list[str], config: DatasetConfig) -> UserError:
    """Return the message for images outside of class folders; where their folder is itself a class, for that."""
    root, fix = Path(listing.root), "move them into the folder of their class"
    beside = _image_folders(root.parent)
    if config.layout not in (None, "class"):
        return UserError(
            f"{len(outside):,} images don't lie two folders deep, as this layout has them",
            value=name_some(outside, 20),
            allowed=f"FOLDER/{config.layout}/image.png, or FOLDER/train/{config.layout}/image.png",
            fix="move them, or leave out --set source.layout=...",
        )
    if config.class_level > 1:
        fix = "check --set source.class_level=..."
    elif root.name in beside and len(beside) > 1:
        itself = f"if {root.name} is itself one of the classes ({name_some(beside, 5)}), pass --data {root.parent}"
        fix = f"{itself}; else {fix}"
    return UserError(
        f"{len(outside):,} images lie in no class folder",
        value=name_some(outside, 20),
        allowed=LAYOUT,
        fix=f"{fix}, or name them in a table (a CSV file with the columns path and label)",
    )


def _other_level(listing: Listing, paths: list[Parts], pattern: str | None) -> list[str]:
    """Refuse folders that are no classes while those in them, or beside them, are; doubt in the other cases."""
    depth = 1 + _has_parts(listing, paths)
    root, classes = Path(listing.root), sorted({parts[depth - 1] for parts in paths})
    beside = [name for name in _image_folders(root.parent) if _is_class(name)] if _is_class(root.name) else []
    if len(beside) > 1 and not all(map(_is_class, classes)):
        said = f"this folder is named {root.name}, and others like it lie beside it ({name_some(beside, 5)})"
        return [f"{LEVEL}{said}. If these are the classes, pass --data {root.parent}."]
    if any(len(parts) <= depth + 1 for parts in paths):
        return []
    deeper = sorted({parts[depth] for parts in paths})
    words = f"every folder in them is one of {name_some(deeper, 10)}"
    if all(map(_is_class, deeper)) and not all(map(_is_class, classes)):
        raise UserError(
            "these folders are no classes, but the folders in them are",
            value=name_some(classes, 10),
            allowed=f"{LAYOUT} ({words})",
            fix=f"pass --data {root / classes[0]}"
            if len(classes) == 1 and depth == 1
            else f"{INNER} where the outer folders are cases or slides; {OUTER_ALONE} where the outer ones are classes",
        )
    if all(name.lower() in PART_BY_NAME for name in deeper):
        said = f"In the class folders lie folders named like parts ({name_some(deeper, 5)})"
        return [f"{said}, which are not used as such, since parts come first: {LAYOUT}."]
    if pattern is not None or len(deeper) < 2:
        return []
    shared = len(classes) > 1 and _all_shared(paths, depth)
    if shared and not all(map(_is_class, classes)):
        raise UserError(
            "all of these folders hold folders of the same names, so either may be the classes",
            value=name_some(classes, 10),
            allowed=f"{LAYOUT} (within them: {name_some(deeper, 10)})",
            fix=f"{INNER} where the classes are {name_some(deeper, 3)}; where they are {name_some(classes, 3)}: "
            f"{OUTER} if those within are cases or slides, else {OUTER_ALONE}",
        )
    if len(classes) == 1 and depth == 1:
        said, fix = f"all images lie in one folder, {classes[0]}", f"pass --data {root / classes[0]}"
    else:
        said = f"the classes are {name_some(classes, 5)}, and all images lie in folders within these"
        fix = f"{INNER}; if they are cases or slides, {OUTER}; if neither, {OUTER_ALONE}"
    return [f"{LEVEL}{said}. If the folders within ({name_some(deeper, 5)}) are the classes, {fix}."]


def _all_shared(paths: list[Parts], depth: int) -> bool:
    """Return whether every folder within a class folder has one of its name in another: patients rarely do."""
    above: dict[str, set[str]] = {}
    for parts in paths:
        above.setdefault(parts[depth], set()).add(parts[depth - 1])
    return all(len(outer) > 1 for outer in above.values())


def _is_class(name: str) -> bool:
    return name.casefold() in CLASS_WORDS


def _image_folders(folder: Path) -> list[str]:
    """Return the names of the folders right below one that hold an image, or a folder, themselves."""
    names = []
    with suppress(OSError):
        for one in sorted(folder.iterdir()):
            with suppress(OSError):
                if one.is_dir() and not one.name.startswith(".") and _holds_images(one):
                    names.append(one.name)
    return names


def _holds_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.is_dir() or entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in entries)


# ---- Groups by name ----


def _group(pattern: str | None, name: str) -> str | None:
    match = None if pattern is None else re.search(pattern, name)
    return None if match is None else match["group"] or None


def _pattern_notes(pattern: str | None, tiles: list[Tile]) -> list[str]:
    if pattern is None:
        return []
    without = [tile for tile in tiles if tile.group is None]
    if len(without) == len(tiles):
        raise UserError(
            "group_pattern finds no group in any file name",
            value=pattern,
            allowed=f"a pattern that matches names such as {_base(tiles[0].path)}",
            fix="--set source.group_pattern='^(?P<group>[^_]+)_'",
        )
    n_groups = len({tile.group for tile in tiles if tile.group is not None})
    notes = [f"Groups come from file names: {n_groups:,} by the pattern {pattern}."]
    if without:
        notes.append(f"The pattern finds no group in {len(without):,} names, such as {_base(without[0].path)}.")
    return notes


def _base(path: str | Path) -> str:
    return os.path.basename(path)  # noqa: PTH119
