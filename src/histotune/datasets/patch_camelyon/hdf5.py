"""The original copy: HDF5 files of pixels and labels, and a table of slides; pixels stay in the file."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from histotune.datasets.patch_camelyon.part import Copy, Part, numbered_ids
from histotune.datasets.pcam_files import PARTS, SIDE_PX, SPEC
from histotune.datasets.text_table import read_text_table
from histotune.tools.errors import UserError, raise_together

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from histotune.datasets.disk import Listing

# N tiles of a part
FILE_PATTERN = re.compile(
    r"camelyonpatch_level_2_split_(?P<part>train|valid|test)_(?P<kind>x\.h5|y\.h5|meta\.csv)(?P<gz>\.gz)?"
)
EXAMPLE_NAME = "camelyonpatch_level_2_split_test_x.h5"


@dataclass(frozen=True)
class PartFiles:
    """The files of one official part.

    Attributes:
        part: ``train``, ``valid`` or ``test``.
        x: HDF5 file with the pixels.
        y: HDF5 file with the labels.
        meta: CSV file with the slide of each patch; None where it is missing.
    """

    part: str
    x: str
    y: str
    meta: str | None


def claim(listing: Listing) -> str | None:
    """Return a file that shows the HDF5 copy, packed or not; None where there is none."""
    for path in listing.paths:
        match = FILE_PATTERN.fullmatch(os.path.basename(path))  # noqa: PTH119
        if match is not None and match["kind"] != "meta.csv":
            return path
    return None


def read_hdf5(listing: Listing) -> Copy:
    """Read labels and slides of the original files, each possibly in a folder of its own name.

    Args:
        listing: The files below a folder.

    Returns:
        The parts found; slides where a ``meta.csv`` names them.

    Raises:
        UserError: No part is there, a counterpart is missing or compressed, a file is truncated, of the wrong shape
            or type, or x, y and meta differ in length.
    """
    files, notes = _find_parts(listing)
    return Copy(tuple(_read_parts(files)), tuple(notes))


def _find_parts(listing: Listing) -> tuple[list[PartFiles], list[str]]:
    """Pair x with y (and meta) for every part present; whole parts that are still compressed become notes."""
    found = _named_files(listing)
    parts, packed, errors = [], [], []
    for part in PARTS:
        x, y = found.get((part, "x.h5")), found.get((part, "y.h5"))
        gz = [found[part, kind] for kind in ("x.h5.gz", "y.h5.gz") if (part, kind) in found]
        if x and y:
            parts.append(PartFiles(part, x, y, found.get((part, "meta.csv"))))
        elif x or y:
            errors.append(_missing_counterpart(listing, part, x or y or "", gz))
        elif gz:
            packed.append((part, gz))
    raise_together(errors)
    if not parts:
        raise _no_parts(listing, [path for _, paths in packed for path in paths])
    return parts, [
        f"Skipped part {part}: still compressed; to use it: gunzip -k {' '.join(paths)}." for part, paths in packed
    ]


def _named_files(listing: Listing) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for path in listing.paths:
        match = FILE_PATTERN.fullmatch(os.path.basename(path))  # noqa: PTH119
        if match is None:
            continue
        first = found.setdefault((match["part"], match["kind"] + (match["gz"] or "")), path)
        if first != path:
            raise UserError(
                "the same part of PatchCamelyon was found twice",
                value=f"{listing.relative(first)} and {listing.relative(path)}",
                fix="point --data to the folder of one copy",
            )
    return found


def _missing_counterpart(listing: Listing, part: str, present: str, gz: list[str]) -> UserError:
    other = f"camelyonpatch_level_2_split_{part}_{'y' if present.endswith('_x.h5') else 'x'}.h5"
    return UserError(
        f"part {part} is incomplete: {other} is missing beside",
        value=listing.relative(present),
        fix=f"gunzip -k {gz[0]}" if gz else f"download {other}.gz from {SPEC.url} and unpack it, or remove the part",
    )


def _no_parts(listing: Listing, packed: list[str]) -> UserError:
    if packed:
        return UserError("the files of PatchCamelyon are still compressed", value=listing.root,
                         fix=f"gunzip -k {' '.join(packed)}")  # fmt: skip
    return UserError(
        "this is not PatchCamelyon: none of its files lies below the folder",
        value=listing.root,
        allowed=f"names such as {EXAMPLE_NAME}, or each in a folder of its own name (it holds {len(listing.paths)} "
        f"files, such as {listing.relative(listing.paths[0])})",
        fix=f"point --data to the folder with the unpacked .h5 files; they are at {SPEC.url}",
    )


def _read_parts(files: list[PartFiles]) -> list[Part]:
    parts, errors = [], []
    for part in files:
        try:
            parts.append(_read_part(part))
        except UserError as error:
            errors.append(error)
    raise_together(errors)
    return parts


def _read_part(files: PartFiles) -> Part:
    n_tiles = _count_pixels(files.x)
    labels_N = _read_labels(files.y)
    if len(labels_N) != n_tiles:
        raise UserError(
            f"part {files.part} has {n_tiles:,} tiles in x and {len(labels_N):,} labels in y",
            value=files.y,
            fix=f"download both files of the part again from {SPEC.url}; they belong together",
        )
    slides = None if files.meta is None else _read_slides(files.meta, n_tiles)
    paths = pl.repeat(files.x, n_tiles, eager=True)
    return Part(files.part, numbered_ids(files.part, n_tiles), paths, np.arange(n_tiles), labels_N, slides)


def _count_pixels(path: str) -> int:
    """Return the number of tiles in an x file after checking shape and type; no pixel is read."""
    with opened_hdf5(path) as file:
        x = _dataset(file, "x", path)
        if x.ndim != 4 or x.shape[1:] != (SIDE_PX, SIDE_PX, 3) or x.dtype != np.uint8:
            raise UserError(
                f'data set "x" has shape {x.shape} and type {x.dtype}',
                value=path,
                allowed=f"shape (n, {SIDE_PX}, {SIDE_PX}, 3) and type uint8",
                fix=f"download the original file from {SPEC.url}",
            )
        if x.shape[0] == 0:
            raise UserError('data set "x" holds no tile', value=path, fix=f"download the file again from {SPEC.url}")
        return int(x.shape[0])


def _read_labels(path: str) -> NDArray[np.int64]:
    with opened_hdf5(path) as file:
        y = _dataset(file, "y", path)
        if y.dtype.kind not in "bui" or y.ndim == 0 or int(np.prod(y.shape[1:])) != 1:
            raise UserError(f'data set "y" has shape {y.shape} and type {y.dtype}', value=path,
                            allowed="shape (n, 1, 1, 1) of whole numbers",
                            fix=f"download the original file from {SPEC.url}")  # fmt: skip
        labels_N = np.asarray(y[...]).reshape(-1).astype(np.int64)
    strange = sorted(set(np.unique(labels_N).tolist()) - {0, 1})
    if strange:
        raise UserError('data set "y" holds other labels than 0 and 1', value=path, allowed=f"0 and 1, not {strange}",
                        fix=f"download the original file from {SPEC.url}")  # fmt: skip
    return labels_N


@contextmanager
def opened_hdf5(path: str) -> Iterator[Any]:
    """Open an HDF5 file for the block; whatever h5py raises on a damaged one becomes a message that names it.

    Args:
        path: The file.

    Yields:
        The ``h5py.File``.

    Raises:
        UserError: Missing, unreadable, truncated or damaged.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except UserError:
        raise
    except (PermissionError, FileNotFoundError) as error:
        raise UserError("this file can't be opened", value=path, fix=f"ls -l {path}, then chmod u+r {path}") from error
    except Exception as error:  # h5py raises OSError, RuntimeError, ValueError and KeyError on damaged files
        raise UserError(
            f"this HDF5 file is truncated or damaged ({str(error).rstrip('.')})",
            value=path,
            fix=f"unpack it again (gunzip -kf {path}.gz), or download it again from {SPEC.url}",
        ) from error


def _dataset(file: Any, name: str, path: str) -> Any:  # noqa: ANN401  (h5py has no types)
    if name not in file or not hasattr(file[name], "dtype"):
        raise UserError(
            f'this HDF5 file has no data set "{name}" (it holds: {", ".join(file) or "nothing"})',
            value=path,
            fix=f"download the original file from {SPEC.url}",
        )
    return file[name]


def _read_slides(path: str, n_tiles: int) -> list[str | None]:
    fix = f"download it again from {SPEC.url}, or remove it to go without slides"
    table = read_text_table(path, fix)
    if "wsi" not in table.columns:
        columns = ", ".join(table.columns)
        raise UserError(f'this table has no column "wsi" (it has: {columns})', value=path, fix=fix)
    if len(table) != n_tiles:
        raise UserError(f"this table has {len(table):,} rows for {n_tiles:,} tiles", value=path, fix=fix)
    return [wsi or None for wsi in table["wsi"].to_list()]
