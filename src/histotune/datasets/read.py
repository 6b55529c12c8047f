"""Files on disk become a TileSet: the one door for every data set, known, the user's own, or read by a hook."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from histotune.datasets.cells import clean
from histotune.datasets.dataset_spec import known_specs
from histotune.datasets.look_alikes import closest_alike
from histotune.datasets.splits.folds import DRAWN, draw_groups, keyed_hash
from histotune.datasets.splits.split import tile_groups
from histotune.tools.errors import UserError, UserErrors, closest_name, collect, raise_together

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from histotune.datasets.config import DatasetConfig, SubsetConfig
    from histotune.datasets.dataset_spec import DatasetSpec
    from histotune.datasets.tileset import TileSet

LOG = logging.getLogger(__name__)
Part = Literal["source", "target"]

# N tiles


def read_dataset(config: DatasetConfig, part: Part | None = None) -> TileSet:
    """Read a data set's files into a table of tiles; no pixel is decoded.

    Args:
        config: Which data set, where it lies, how it is labelled.
        part: What it is in a study, whose settings messages name; None leaves them as the reader writes them.

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
    try:
        found = take_subset(_reader(config.name)(config), config.subset)
    except UserError as error:
        raise _about(error, part) from error
    spoken = {note: _of_part(note, part) for note in (*found.notes, *found.asked)}
    for note in dict.fromkeys(found.asked):
        LOG.warning("%s: %s", config.path, spoken[note])
    notes, asked = (tuple(spoken[note] for note in some) for some in (found.notes, found.asked))
    return replace(found, notes=notes, asked=asked, read_from=config)


def _about(error: UserError, part: Part | None) -> UserError:
    """Return a mistake in the words of a part of a study: its settings have other names in the target."""
    if isinstance(error, UserErrors):
        return UserErrors([_about(one, part) for one in error.errors])
    allowed, fix = (None if text is None else _of_part(text, part) for text in (error.allowed, error.fix))
    return UserError(error.what, value=error.value, allowed=allowed, closest=error.closest, fix=fix)


def _of_part(text: str, part: Part | None) -> str:
    return text if part is None else re.sub(r"(--set '?)(?:source|target)\.", rf"\1{part}.", text)


def spec_of(config: DatasetConfig) -> DatasetSpec:
    """Return what is known about the data set that a config names; a hook's file is run for that."""
    if config.name == "python":
        from histotune.datasets.tiles import python_spec

        return python_spec(config)
    return dataset_spec(config.name)


def dataset_spec(name: str) -> DatasetSpec:
    """Return what is known about a data set without reading a file."""
    specs = known_specs()
    if name not in specs:
        raise UserError("unknown data set", value=name, allowed=", ".join(specs), closest=closest_name(name, specs))
    return specs[name]


def _reader(name: str) -> Callable[[DatasetConfig], TileSet]:
    from histotune.datasets.breakhis import read_breakhis
    from histotune.datasets.pcam import read_patch_camelyon
    from histotune.datasets.tiles import read_python, read_tiles

    if name == "python":
        return read_python
    readers = {"breakhis": read_breakhis, "patch_camelyon": read_patch_camelyon, "tiles": read_tiles}
    return readers[dataset_spec(name).name]


# ---- A smaller data set ----


SUBSET = "Subset"
"""First word of the note that says what a subset has kept."""


def take_subset(tiles: TileSet, config: SubsetConfig) -> TileSet:
    """Return the part of a data set that a config asks for."""
    if not config.name:
        return tiles
    errors: list[UserError] = []
    with collect(errors):
        _require_known("magnification", config.magnifications, _present_magnifications(tiles))
    classes = [closest_alike(clean(name), tiles.class_names) or name for name in config.classes]
    with collect(errors):
        _require_known("class", classes, tiles.class_names)
    raise_together(errors)
    taken = tiles
    notes: list[str] = []
    if config.magnifications:
        taken = taken.where(pl.col("magnification").is_in(config.magnifications))
    if config.classes:
        taken = _keep_classes(taken, classes)
    if config.group_fraction is not None:
        taken = _thin(taken, lambda part: _share_of_groups(part, config), notes)
        if not taken.has_groups:
            notes.append("It is unknown which tiles belong together: the share was drawn among single tiles.")
    if config.shots is not None:
        taken = _thin(taken, lambda part: _shots(part, config, notes), notes)
    if not len(taken):
        raise UserError("this subset holds no tiles", value=config.name, fix="widen --set source.subset.…")
    kept = (
        f"{SUBSET} {config.name}: kept {len(taken):,} of {len(tiles):,} tiles, {taken.n_groups:,} of "
        f"{tiles.n_groups:,} groups ({_by_class(taken)})."
    )
    return replace(taken, notes=(*tiles.notes, kept, *dict.fromkeys(notes)))


def _require_known(what: str, asked: Sequence[str], present: Sequence[str]) -> None:
    unknown = [name for name in asked if name not in present]
    if unknown:
        raise UserError(
            f"no such {what} in this data set",
            value=", ".join(unknown),
            allowed=", ".join(present) or "none",
            closest=closest_name(unknown[0], present),
        )


def _present_magnifications(tiles: TileSet) -> tuple[str, ...]:
    found = set(tiles.table["magnification"].drop_nulls())
    return tuple(sorted(found, key=lambda name: (len(name), name)))


def _keep_classes(tiles: TileSet, classes: Sequence[str]) -> TileSet:
    names = tuple(name for name in tiles.class_names if name in classes)
    new_by_old = {tiles.class_names.index(name): label for label, name in enumerate(names)}
    label = pl.col("label").replace_strict(new_by_old, default=None, return_dtype=pl.Int32)
    table = tiles.table.with_columns(label).filter(pl.col("label").is_not_null())
    return replace(tiles, table=table, class_names=names, pixel_fingerprint=None)


def _thin(tiles: TileSet, draw: Callable[[TileSet], NDArray[np.int64]], notes: list[str]) -> TileSet:
    """Draw from the train part where there are official parts, from all tiles otherwise."""
    in_train_N = (tiles.table["split"].fill_null("train") == "train").to_numpy()
    if not in_train_N.all():
        notes.append("Only the official train part was thinned out; valid and test are whole.")
    rows = np.flatnonzero(in_train_N)
    drawn = rows[draw(tiles.take(rows))] if len(rows) else rows
    return tiles.take(np.sort(np.concatenate([np.flatnonzero(~in_train_N), drawn])))


def _share_of_groups(tiles: TileSet, config: SubsetConfig) -> NDArray[np.int64]:
    """Return the rows of the drawn groups."""
    assert config.group_fraction is not None
    permille, groups = round(1000 * config.group_fraction), tile_groups(tiles)
    if permille == 1000 or len(set(groups)) < 2:
        return np.arange(len(tiles), dtype=np.int64)
    sides = draw_groups(groups, tiles.labels_N, len(tiles.class_names), permille, config.seed).side_by_group
    return np.flatnonzero([sides[group] == DRAWN for group in groups])


def _shots(tiles: TileSet, config: SubsetConfig, notes: list[str]) -> NDArray[np.int64]:
    """Return the rows of n tiles, or of n groups, of each class."""
    assert config.shots is not None
    labels, keys = tiles.labels_N.tolist(), tiles.tile_ids if config.shots_of == "tiles" else tile_groups(tiles)
    keys_by_label: dict[int, set[str]] = defaultdict(set)
    for key, label in zip(keys, labels, strict=True):
        if label >= 0:
            keys_by_label[label].add(key)
    drawn: set[str] = set()
    for label, found in sorted(keys_by_label.items()):
        already = len(found & drawn)  # a group of several classes counts for each of them
        ranked = sorted(found - drawn, key=lambda key: (keyed_hash(config.seed, key), key))
        drawn |= set(ranked[: max(config.shots - already, 0)])
        if len(found) < config.shots:
            notes.append(f"Class {tiles.class_names[label]} has only {len(found):,} {config.shots_of}.")
    wanted = [key in drawn and label >= 0 for key, label in zip(keys, labels, strict=True)]
    return np.flatnonzero(wanted)


def _by_class(tiles: TileSet) -> str:
    counts = np.bincount(tiles.labels_N[tiles.labels_N >= 0], minlength=len(tiles.class_names))
    return ", ".join(f"{n:,} {name}" for n, name in zip(counts, tiles.class_names, strict=True))
