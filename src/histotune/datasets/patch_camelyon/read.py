"""PatchCamelyon from a folder: which of its copies lies there, its parts, their slides."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import polars as pl

from histotune.datasets.catalog import choose_scale
from histotune.datasets.disk import SYNTHETIC_NOTE, Listing, list_files
from histotune.datasets.patch_camelyon import hdf5, hub, kaggle
from histotune.datasets.patch_camelyon.part import part_table
from histotune.datasets.patch_camelyon.slides import join_slides
from histotune.datasets.pcam_files import SPEC
from histotune.datasets.subset import keep_rows
from histotune.datasets.tileset import TileSet
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.patch_camelyon.part import Copy, Part


def read_patch_camelyon(config: DatasetConfig) -> TileSet:
    """Read the parts of PatchCamelyon that a folder holds; pixels are not loaded.

    Three copies are known: the original HDF5 files, the images and the table of Kaggle's
    ``histopathologic-cancer-detection``, and parquet files of the Hugging Face hub. The folder shows which it is.

    Args:
        config: ``path`` is the folder of one copy; ``max_tiles_per_split`` keeps a seeded part of each part;
            ``slides_from`` names the folder of the HDF5 files with ``meta.csv``, whose slides are given to this copy
            where its pixels are the same.

    Returns:
        The tiles of all parts found, ids such as "train/0000012", or the names of Kaggle's images.

    Raises:
        UserError: The folder is missing, holds no copy, or several; or its files are damaged or do not fit together.
    """
    scheme = SPEC.scheme("binary")
    listing = list_files(config.path)
    copy = _which_copy(listing, config)(listing)
    parts, notes = copy.parts, list(copy.notes)
    if config.slides_from is not None:
        joined = join_slides(parts, config.slides_from)
        parts, notes = joined.parts, [*notes, *joined.notes]
    notes += _slide_notes(parts)
    scale = choose_scale(SPEC, config)
    tables = []
    for part in parts:
        rows_N, kept = keep_rows(
            part.labels_N, part.slides, scheme.class_names, config.max_tiles_per_split, config.seed
        )
        notes += [f"{part.words.capitalize()}: {kept}"] if kept else []
        tables.append(part_table(part, rows_N, scale))
    return TileSet(
        name=SPEC.name,
        table=pl.concat(tables).sort("tile_id"),
        class_names=scheme.class_names,
        licence=SPEC.licence,
        citation=SPEC.citation,
        label_region=SPEC.label_region,
        synthetic=listing.synthetic,
        notes=((SYNTHETIC_NOTE,) if listing.synthetic else ()) + (scale.note, *notes),
    )


def _which_copy(listing: Listing, config: DatasetConfig) -> Callable[[Listing], Copy]:
    """Return the reader of the one copy that lies below the folder."""
    found = [
        (words, claimed, read)
        for words, claim, read in (
            ("the HDF5 files", hdf5.claim, hdf5.read_hdf5),
            ("the images of Kaggle", kaggle.claim, partial(kaggle.read_kaggle, on_bad_image=config.on_bad_image)),
            ("parquet files", hub.claim, hub.read_hub),
        )
        if (claimed := claim(listing)) is not None
    ]
    if len(found) > 1:
        places = ", ".join(f"{words} ({listing.relative(claimed)})" for words, claimed, _ in found)
        raise UserError(f"{len(found)} copies of PatchCamelyon lie in this folder: {places}", value=listing.root,
                        fix="point --data to the folder of one of them")  # fmt: skip
    return found[0][2] if found else hdf5.read_hdf5  # which says what it would have accepted


def _slide_notes(parts: Sequence[Part]) -> list[str]:
    notes = []
    nameless = [part for part in parts if part.slides is None]
    if nameless:
        named = [part.name for part in nameless if part.name]
        start = f"No meta.csv for {', '.join(named)}" if named else "This copy names no slides"
        notes.append(
            f"{start}: the slides of these tiles are unknown, so no grouped split or interval can be made on them."
        )
    known = [{slide for slide in part.slides if slide} for part in parts if part.slides]
    shared = sorted(slide for slide, n in Counter(slide for slides in known for slide in slides).items() if n > 1)
    if shared:
        notes.append(f"{len(shared)} slides lie in more than one official part, such as {shared[0]}: the parts leak.")
    return notes
