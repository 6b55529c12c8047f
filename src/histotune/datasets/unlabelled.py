"""Images whose labels nobody knows or needs: files, folders, patterns, HDF5 files, tables; what a head predicts."""

from __future__ import annotations

import glob
import math
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from histotune.datasets.config import DatasetConfig
from histotune.datasets.dataset_spec import known_specs
from histotune.datasets.disk import IMAGE_SUFFIXES, is_hidden, list_files, name_some, own_dataset, size_or_reason
from histotune.datasets.image_parquet import holds_images, read_image_parquet
from histotune.datasets.rows import tile_set
from histotune.datasets.tileset import TILE_SCHEMA, TileSet
from histotune.datasets.user_table import is_table, read_table
from histotune.tools.errors import UserError, collect, raise_together
from histotune.tools.files import require_regular

if TYPE_CHECKING:
    from collections.abc import Sequence


HDF5_SUFFIXES = (".h5", ".hdf5")
PIXELS = "x"  # name of the HDF5 data set that holds pixels
ALLOWED = f'{", ".join(IMAGE_SUFFIXES)}, folders of them, {", ".join(HDF5_SUFFIXES)} with a data set "x", tables'
SIZE_COLUMNS = ("width_px", "height_px")


def read_unlabelled_images(paths: Sequence[Path], class_names: tuple[str, ...], mpp: float | None = None) -> TileSet:
    """List images as unlabelled tiles.

    Args:
        paths: Image files, folders of them, HDF5 files with a data set "x", parquet files of images, tables of tiles
            (whose labels are not read), or patterns: a word with ``*``, ``?`` or ``[`` that is the name of nothing.
        class_names: Names of the head's classes.
        mpp: Scale of the images, um/px, where no table gives it; None where unknown.

    Returns:
        The images, sorted by their names, each once.

    Raises:
        UserError: Nothing there, no images, tables that can't be read, or two images of one name.

    Example:
        >>> read_unlabelled_images([Path("tiles"), Path("more/*.png")], ("benign", "malignant"))  # doctest: +SKIP
    """
    errors: list[UserError] = []
    parts: list[pl.DataFrame] = []
    skipped: list[str] = []
    notes: list[str] = []
    if mpp is not None and not 0 < mpp < math.inf:
        errors.append(UserError("--mpp takes a positive number of um/px", value=mpp, fix="--mpp 0.25"))
    for typed in paths:
        with collect(errors):
            for path in expand_pattern(typed):
                found = _read_path(path)
                parts.append(found.table)
                skipped += found.skipped
                notes += found.notes
    raise_together(errors)
    if skipped:
        count = "1 file" if len(skipped) == 1 else f"{len(skipped):,} files"
        notes.insert(0, f"Skipped {count}: {name_some(sorted(skipped), 20)}.")
    table = _one_table(parts)
    if mpp is not None:
        table = _with_scale(table, mpp)
    return TileSet(
        "images", table, class_names, licence="the user's own", citation="", notes=tuple(dict.fromkeys(notes))
    )


def expand_pattern(path: Path) -> list[Path]:
    """Return what a word of the command line names: itself, or what it matches where nothing has this name.

    This is the one place where a name becomes a pattern, so that ``"tiles/*.png"`` in quotes reaches more files than a
    command line can hold; a folder that is called ``set[1]`` stays itself.

    Args:
        path: As it was typed.

    Returns:
        Paths that are no patterns any more; ``**`` matches folders at any depth, and hidden files are left out.

    Raises:
        UserError: Nothing is there.
    """
    pattern = os.path.expanduser(path)  # noqa: PTH111  (a pattern is text)
    if os.path.lexists(pattern):
        return [Path(pattern)]
    found = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else []  # noqa: PTH207
    if found:
        return [Path(name) for name in found]
    tried = ", and as a pattern it matches nothing" if glob.has_magic(pattern) else ""
    raise UserError(f"no such file or folder{tried}", value=path, allowed=ALLOWED, fix="check the path")


@dataclass(frozen=True)
class _Found:
    """The images that a path names, the files that were skipped there, and what is to be said of them."""

    table: pl.DataFrame
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _read_path(path: Path) -> _Found:
    """Return the images that a path names."""
    name = path.name.lower()
    if path.is_dir():
        files, skipped = _images_in(path)
        if not files:
            about = f"{path} (skipped: {name_some(skipped, 20)})" if skipped else path
            raise UserError("no image here", value=about, allowed=ALLOWED, fix="check the path")
        return _Found(_files(files), tuple(skipped))
    if name.endswith(HDF5_SUFFIXES):
        return _Found(_hdf5_rows(path))
    if is_table(path):
        return _table_rows(path)
    if path.is_file() and name.endswith(IMAGE_SUFFIXES):
        return _Found(_files([str(path)]))
    raise UserError("no image here", value=path, allowed=ALLOWED, fix="check the path")


def _files(names: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"tile_id": names, "path": names}, schema_overrides={"tile_id": pl.String, "path": pl.String})


def _images_in(path: Path) -> tuple[list[str], list[str]]:
    """Return the images that lie below a folder, and every other file there with why it is skipped."""
    images, skipped = [], []
    listing = list_files(path)
    for place in listing.paths:
        name = listing.relative(place)
        reason = _why_skipped(place, name)
        if reason:
            skipped.append(f"{name} ({reason})")
        else:
            images.append(os.path.join(path, name))  # noqa: PTH118  (as it was typed)
    return images, skipped


def _why_skipped(path: str, name: str) -> str:
    """Return why a file of a folder is not predicted; empty for an image, a damaged one among them."""
    if is_hidden(name):
        return "hidden"
    if not name.lower().endswith(IMAGE_SUFFIXES):
        return "no image by name"
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except OSError:
        return "a broken link" if os.path.islink(path) else "gone"  # noqa: PTH114
    return "" if stat.S_ISREG(mode) else "a device or pipe"


def _hdf5_rows(path: Path) -> pl.DataFrame:
    """Return the rows of an HDF5 file of images; no pixel is read."""
    import h5py

    again = "write the images as uint8 (rows, height, width, 3) into a data set named x"
    try:
        require_regular(path)
        with h5py.File(path, "r") as file:
            found = own_dataset(file, PIXELS)
            if found is None:
                held = ", ".join(file) or "nothing"
                raise UserError(
                    f'this HDF5 file has no data set "{PIXELS}"', value=f"{path} (it holds: {held})", fix=again
                )
            shape = found.shape
    except UserError:
        raise
    except Exception as error:  # h5py raises OSError, RuntimeError, ValueError and KeyError on damaged files
        raise UserError(f"this HDF5 file can't be read ({error})", value=path, fix="copy it again") from error
    if len(shape) != 4 or shape[0] < 1:
        raise UserError("this HDF5 file holds no images", value=f"{path}, x of shape {shape}", fix=again)
    rows = range(shape[0])
    return pl.DataFrame(
        {
            "tile_id": [f"{path}/{row:07d}" for row in rows],
            "path": [str(path)] * len(rows),
            "row": list(rows),
            "width_px": [shape[2]] * len(rows),
            "height_px": [shape[1]] * len(rows),
        }
    )


def _table_rows(path: Path) -> _Found:
    """Return the tiles of a table, or of a parquet file of images, without their labels."""
    config = DatasetConfig(name="tiles", path=path)
    if path.name.lower().endswith(".parquet") and path.is_file() and holds_images(path):
        rows, notes = read_image_parquet([path], config)
    else:
        rows, notes = read_table(config, path)
    tiles = tile_set([replace(row, label=None, split=None) for row in rows], known_specs()["tiles"], config, notes)
    return _Found(tiles.table, (), tuple(notes.said))


def _one_table(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return all images as one table of tiles, each image once."""
    whole = pl.concat([part.cast({name: TILE_SCHEMA[name] for name in part.columns}) for part in parts], how="diagonal")
    known = [name for name in ("tile_id", "path", "row") if name in whole.columns]
    whole = whole.unique(subset=known, keep="first").sort("tile_id")  # before empty columns are added: they take memory
    whole = whole.with_columns(
        pl.lit(None, TILE_SCHEMA[name]).alias(name) for name in TILE_SCHEMA if name not in whole.columns
    ).select(list(TILE_SCHEMA))
    twice = whole["tile_id"].filter(whole["tile_id"] == whole["tile_id"].shift(1))
    if len(twice):
        raise UserError(
            "two images have one name, so that their rows could not be told apart",
            value=", ".join(twice.unique().sort().head(10)),
            fix="predict the tables one by one, or write whole paths into them",
        )
    return whole


def _with_scale(table: pl.DataFrame, mpp: float) -> pl.DataFrame:
    """Fill in the scale, and the sizes that a view with a target scale needs; who decodes explains odd headers."""
    lacking = table["mpp"].is_null()
    sizes = [
        size_or_reason(path) if width is None and row is None else None
        for path, row, width in table.select("path", "row", "width_px").iter_rows()
    ]
    known = [size if isinstance(size, tuple) else (None, None) for size in sizes]
    found = pl.DataFrame(
        {name: [size[axis] for size in known] for axis, name in enumerate(SIZE_COLUMNS)},
        schema=dict.fromkeys(SIZE_COLUMNS, pl.Int32),
    )
    return table.with_columns(
        *(pl.col(name).fill_null(found[name]) for name in SIZE_COLUMNS),
        mpp=pl.when(lacking).then(pl.lit(mpp)).otherwise(pl.col("mpp")),
        mpp_source=pl.when(lacking).then(pl.lit("user")).otherwise(pl.col("mpp_source")),
    )
