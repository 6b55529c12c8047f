"""The parquet copy of the Hugging Face hub, such as ``1aurent/PatchCamelyon``: rows of image and label."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.disk import name_some
from histotune.datasets.headers import encoded_size_px
from histotune.datasets.parquet import explained_parquet_errors, image_batches, image_leaf, open_parquet
from histotune.datasets.patch_camelyon.part import Copy, Part, numbered_ids
from histotune.datasets.pcam_files import PARTS, SIDE_PX
from histotune.tools.errors import UserError, collect, raise_together

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.datasets.disk import Listing
# N tiles of a part

PART_BY_NAME = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "test": "test"}
NAME = "|".join(PART_BY_NAME)
FILE_PATTERN = re.compile(rf"(?P<part>{NAME})(?:-(?P<shard>\d+)-of-(?P<total>\d+)(?:-[0-9a-f]+)?)?\.parquet")
NUMBERED_PATTERN = re.compile(r"(?P<shard>\d{4,5})\.parquet")  # in a folder named by the part
AGAIN = "download it again: 1aurent/PatchCamelyon on the Hugging Face hub"


@dataclass(frozen=True)
class Shard:
    """One parquet file.

    Attributes:
        part: ``train``, ``valid`` or ``test``.
        number: Its place within the part.
        total: Files that the part has, by this file's name; None where the name does not say.
        path: The file.
    """

    part: str
    number: int
    total: int | None
    path: str


def claim(listing: Listing) -> str | None:
    """Return a file that shows the parquet copy; None where there is none."""
    return next((path for path in listing.paths if _shard(path) is not None), None)


def read_hub(listing: Listing) -> Copy:
    """Read the labels of every part; images stay in the files and are read row by row when they are needed.

    Args:
        listing: The files below a folder.

    Returns:
        The parts found; tiles are numbered through the files of a part in the files' order. No slides.

    Raises:
        UserError: Files are missing, found twice, damaged, or hold something else.
    """
    shards = [shard for path in listing.paths if (shard := _shard(path)) is not None]
    errors: list[UserError] = []
    parts = []
    for name in PARTS:
        files = sorted((shard for shard in shards if shard.part == name), key=lambda shard: (shard.number, shard.path))
        if files:
            with collect(errors):
                _check_complete(listing, files)
                parts.append(_read_part(name, files))
    raise_together(errors)
    absent = [name for name in PARTS if name not in {part.name for part in parts}]
    tables = sum(path.endswith("_meta.csv") for path in listing.paths)
    return Copy(tuple(parts), (*([f"Part {', '.join(absent)} is not here."] if absent else []), *_meta_note(tables)))


def _shard(path: str) -> Shard | None:
    name = os.path.basename(path)  # noqa: PTH119
    match = FILE_PATTERN.fullmatch(name)
    if match is not None:
        total = None if match["total"] is None else int(match["total"])
        return Shard(PART_BY_NAME[match["part"]], int(match["shard"] or 0), total, path)
    match = NUMBERED_PATTERN.fullmatch(name)
    folder = os.path.basename(os.path.dirname(path))  # noqa: PTH119, PTH120
    if match is None or folder not in PART_BY_NAME:
        return None
    return Shard(PART_BY_NAME[folder], int(match["shard"]), None, path)


def _check_complete(listing: Listing, files: list[Shard]) -> None:
    """Refuse a part that lacks files or has two of the same number."""
    part, numbers = files[0].part, [shard.number for shard in files]
    twice = [listing.relative(shard.path) for shard in files if numbers.count(shard.number) > 1]
    if twice:
        raise UserError(f"part {part} was found more than once", value=name_some(twice, 6),
                        fix="point --data to the folder of one copy")  # fmt: skip
    total = max(shard.total or 0 for shard in files) or numbers[-1] + 1
    missing = [str(number) for number in range(total) if number not in numbers]
    if missing:
        raise UserError(f"part {part} is incomplete: {len(missing)} of its {total} parquet files are missing",
                        value=f"number {name_some(missing, 20)} beside {listing.relative(files[0].path)}",
                        fix=AGAIN)  # fmt: skip


def _read_part(name: str, files: list[Shard]) -> Part:
    errors: list[UserError] = []
    labels: list[NDArray[np.int64]] = []
    for shard in files:
        with collect(errors):
            labels.append(_read_labels(shard.path))
    raise_together(errors)
    sizes = [len(labels_N) for labels_N in labels]
    paths = pl.concat(pl.repeat(shard.path, n, eager=True) for shard, n in zip(files, sizes, strict=True))
    rows = np.concatenate([np.arange(n) for n in sizes])
    return Part(name, numbered_ids(name, sum(sizes)), paths, rows, np.concatenate(labels), None)


def _read_labels(path: str) -> NDArray[np.int64]:
    """Return the labels of one file after a look at its first image."""
    file = open_parquet(path)
    _check_first_image(file, path)
    with explained_parquet_errors(path):
        if "label" not in file.schema_arrow.names:
            raise UserError('the parquet file has no column "label"', value=path,
                            allowed=f"image, label (it has: {', '.join(file.schema_arrow.names)})",
                            fix=AGAIN)  # fmt: skip
        column = pl.Series("label", file.read(columns=["label"]).column("label").combine_chunks())
    if not (column.dtype.is_integer() or column.dtype == pl.Boolean):
        raise UserError(f'column "label" holds {column.dtype}', value=path, allowed="0 and 1, or false and true",
                        fix=AGAIN)  # fmt: skip
    strange = sorted({str(value) for value in column.unique()} - {"0", "1", "True", "False"})
    if strange:
        raise UserError('column "label" holds other labels than 0 and 1', value=path,
                        allowed=f"0 and 1, not {name_some(strange, 5)}", fix=AGAIN)  # fmt: skip
    return column.cast(pl.Int64).to_numpy()


def _check_first_image(file: object, path: str) -> None:
    image_leaf(file, path)
    data = next((cells[0] for cells in image_batches(file, path, 0)), None) if _n_rows(file) else None
    if data is None:
        raise UserError("the parquet file holds no tile", value=path, fix=AGAIN)
    try:
        size = encoded_size_px(data)
    except ValueError as error:
        raise UserError(f"the first image can't be read ({error})", value=path, fix=AGAIN) from error
    if size != (SIDE_PX, SIDE_PX):
        raise UserError(f"these are no patches of PatchCamelyon: {size[0]} x {size[1]} pixels", value=path,
                        allowed=f"{SIDE_PX} x {SIDE_PX} pixels",
                        fix="other data sets: histotune run tiles --help")  # fmt: skip


def _n_rows(file: object) -> int:
    return int(file.metadata.num_rows)  # type: ignore[attr-defined]


def _meta_note(n_tables: int) -> list[str]:
    if not n_tables:
        return []
    return [
        f"{n_tables} meta.csv beside the parquet files were not used: only the HDF5 files of the same patches show "
        "that their rows belong together (--set target.slides_from=FOLDER_OF_THE_HDF5_FILES)."
    ]
