"""PatchCamelyon as others have copied it: parquet files of the Hugging Face hub, and images of a Kaggle competition."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from histotune.datasets.disk import (
    encoded_size_px,
    explained_parquet_errors,
    image_batches,
    image_leaf,
    name_some,
    open_parquet,
    read_text_table,
    size_or_reason,
)
from histotune.datasets.pcam_files import PARTS, SIDE_PX, Copy, Part, found_twice, numbered_ids
from histotune.tools.errors import UserError, collect, raise_together
from histotune.tools.stand_ins import fix_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.datasets.config import OnBadImage
    from histotune.datasets.disk import Listing

# N tiles of a part


PART_BY_NAME = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "test": "test"}
PART_NAMES = "|".join(PART_BY_NAME)
PARQUET_PATTERN = re.compile(rf"(?P<part>{PART_NAMES})(?:-(?P<shard>\d+)-of-(?P<total>\d+)(?:-[0-9a-f]+)?)?\.parquet")
NUMBERED_PATTERN = re.compile(r"(?P<shard>\d{4,5})\.parquet")  # in a folder named by the part
HUB_AGAIN = "download it again: 1aurent/PatchCamelyon on the Hugging Face hub"


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


def claim_parquet(listing: Listing) -> str | None:
    """Return a file that shows the parquet copy; None where there is none."""
    return next((path for path in listing.paths if _shard(path) is not None), None)


def read_hub(listing: Listing) -> Copy:
    """Read the labels of every part; images stay in the files and are read row by row when they are needed."""
    shards = [shard for path in listing.paths if (shard := _shard(path)) is not None]
    errors: list[UserError] = []
    parts = []
    for name in PARTS:
        files = sorted((shard for shard in shards if shard.part == name), key=lambda shard: (shard.number, shard.path))
        if files:
            with collect(errors):
                _check_complete(listing, files)
                parts.append(_read_parquet_part(name, files))
    raise_together(errors)
    absent = [name for name in PARTS if name not in {part.name for part in parts}]
    notes = [f"Part {', '.join(absent)} is not here."] if absent else []
    if n_tables := sum(path.endswith("_meta.csv") for path in listing.paths):
        notes.append(
            f"{n_tables} meta.csv beside the parquet files were not used: only the HDF5 files of the same patches show "
            "that their rows belong together (--set target.slides_from=FOLDER_OF_THE_HDF5_FILES)."
        )
    return Copy(tuple(parts), tuple(notes))


def _shard(path: str) -> Shard | None:
    name = os.path.basename(path)  # noqa: PTH119
    match = PARQUET_PATTERN.fullmatch(name)
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
        raise found_twice(f"part {part} was found more than once", name_some(twice, 6))
    total = max(shard.total or 0 for shard in files) or numbers[-1] + 1
    missing = [str(number) for number in range(total) if number not in numbers]
    if missing:
        what = f"part {part} is incomplete: {len(missing)} of its {total} parquet files are missing"
        raise _damaged(f"number {name_some(missing, 20)} beside {listing.relative(files[0].path)}", what)


def _read_parquet_part(name: str, files: list[Shard]) -> Part:
    errors: list[UserError] = []
    labels: list[NDArray[np.int64]] = []
    for shard in files:
        with collect(errors):
            labels.append(_read_parquet_labels(shard.path))
    raise_together(errors)
    sizes = [len(labels_N) for labels_N in labels]
    paths = pl.concat(pl.repeat(shard.path, n, eager=True) for shard, n in zip(files, sizes, strict=True))
    rows = np.concatenate([np.arange(n) for n in sizes])
    return Part(name, numbered_ids(name, sum(sizes)), paths, rows, np.concatenate(labels), None)


def _read_parquet_labels(path: str) -> NDArray[np.int64]:
    """Return the labels of one file after a look at its first image."""
    file = open_parquet(path)
    _check_first_image(file, path)
    with explained_parquet_errors(path):
        if "label" not in file.schema_arrow.names:
            allowed = f"image, label (it has: {', '.join(file.schema_arrow.names)})"
            raise _damaged(path, 'the parquet file has no column "label"', allowed)
        column = pl.Series("label", file.read(columns=["label"]).column("label").combine_chunks())
    if not (column.dtype.is_integer() or column.dtype == pl.Boolean):
        raise _damaged(path, f'column "label" holds {column.dtype}', "0 and 1, or false and true")
    strange = sorted({str(value) for value in column.unique()} - {"0", "1", "True", "False"})
    if strange:
        allowed = f"0 and 1, not {name_some(strange, 5)}"
        raise _damaged(path, 'column "label" holds other labels than 0 and 1', allowed)
    return column.cast(pl.Int64).to_numpy()


def _check_first_image(file: Any, path: str) -> None:  # noqa: ANN401  (pyarrow has no types)
    image_leaf(file, path)
    data = next((cells[0] for cells in image_batches(file, path, 0)), None) if file.metadata.num_rows else None
    if data is None:
        raise _damaged(path, "the parquet file holds no tile")
    try:
        size = encoded_size_px(data)
    except ValueError as error:
        raise _damaged(path, f"the first image can't be read ({error})") from error
    if size != (SIDE_PX, SIDE_PX):
        what, fix = (
            f"these are no patches of PatchCamelyon: {size[0]} x {size[1]} pixels",
            "other data sets: histotune run tiles --help",
        )
        raise UserError(what, value=path, allowed=f"{SIDE_PX} x {SIDE_PX} pixels", fix=fix)


def _damaged(place: str, what: str, allowed: str | None = None, fix: str = HUB_AGAIN) -> UserError:
    return UserError(what, value=place, allowed=allowed, fix=fix)


# ---- Kaggle's copy: a TIFF per patch, and a table of labels ----


KAGGLE_PATTERN = re.compile(r"(?P<id>[0-9a-f]{40})\.tif")
KAGGLE_LABELS = "train_labels.csv"
KAGGLE_AGAIN = "download the competition's files again (histopathologic-cancer-detection)"
KAGGLE_NOTE = (
    "Kaggle's copy: the training slides of PatchCamelyon without duplicate patches. It has no official parts, and "
    "names no slides."
)


def claim_kaggle(listing: Listing) -> str | None:
    """Return a file that shows Kaggle's copy; None where there is none."""
    names = ((path, os.path.basename(path)) for path in listing.paths)  # noqa: PTH119
    return next((path for path, name in names if name == KAGGLE_LABELS or KAGGLE_PATTERN.fullmatch(name)), None)


def read_kaggle(listing: Listing, on_bad_image: OnBadImage = "fail") -> Copy:
    """Read the labelled patches; images that the table does not name are left out, and counted.

    Every patch is 96 x 96 pixels by the data set's definition; only the first header is read to make sure.
    """
    images, n_others = _kaggle_images(listing)
    labels = _kaggle_labels(listing)
    table = images.join(labels, on="id", how="inner").sort("id")
    if table.is_empty():
        raise _damaged(listing.root, f"no image belongs to a row of {KAGGLE_LABELS}", fix=KAGGLE_AGAIN)
    _check_kaggle_files(listing, table["path"].to_list(), on_bad_image)
    notes = [KAGGLE_NOTE, *_left_out_of_kaggle(images, labels, table, n_others)]
    part = Part(None, table["id"], table["path"], None, table["label"].cast(pl.Int64).to_numpy(), None)
    return Copy((part,), tuple(notes))


def _kaggle_images(listing: Listing) -> tuple[pl.DataFrame, int]:
    """Return path and id of every image, and the number of other files."""
    path_by_id: dict[str, str] = {}
    n_others = 0
    for path in listing.paths:
        match = KAGGLE_PATTERN.fullmatch(os.path.basename(path))  # noqa: PTH119
        if match is None:
            n_others += 1
        elif (first := path_by_id.setdefault(match["id"], path)) != path:
            places = f"{listing.relative(first)} and {listing.relative(path)}"
            raise found_twice("the same image of Kaggle's copy was found twice", places)
    if not path_by_id:
        allowed = "names of 40 hexadecimal digits and .tif, in any arrangement of folders"
        raise _damaged(listing.root, f"{KAGGLE_LABELS} lies here, but none of its images", allowed, KAGGLE_AGAIN)
    table = pl.DataFrame({"id": list(path_by_id), "path": list(path_by_id.values())})
    return table, n_others - sum(os.path.basename(path) == KAGGLE_LABELS for path in listing.paths)  # noqa: PTH119


def _kaggle_labels(listing: Listing) -> pl.DataFrame:
    tables = [path for path in listing.paths if os.path.basename(path) == KAGGLE_LABELS]  # noqa: PTH119
    if not tables:
        raise UserError(
            f"images of Kaggle's copy lie here, but no {KAGGLE_LABELS}",
            value=listing.root,
            fix=f"point --data to the folder that holds {KAGGLE_LABELS} and train; images alone can be "
            "predicted: histotune predict HEAD FOLDER",
        )
    if len(tables) > 1:
        raise found_twice(f"{KAGGLE_LABELS} was found more than once", name_some([*map(listing.relative, tables)], 5))
    path = tables[0]
    table = read_text_table(path, KAGGLE_AGAIN)
    if table.columns != ["id", "label"]:
        allowed = f"id, label (it has: {', '.join(table.columns)})"
        raise _damaged(path, "this table has other columns", allowed, KAGGLE_AGAIN)
    strange = sorted(set(table["label"].fill_null("").unique()) - {"0", "1"})
    if strange:
        allowed = f"0 and 1, not {name_some([repr(label) for label in strange], 5)}"
        raise _damaged(path, "this table holds other labels than 0 and 1", allowed, KAGGLE_AGAIN)
    table = table.unique()
    if table["id"].n_unique() != len(table):
        example = table.filter(pl.col("id").is_duplicated())["id"].sort()[0]
        raise _damaged(f"{path}, {example}", "this table gives one image both labels", fix=KAGGLE_AGAIN)
    return table


def _check_kaggle_files(listing: Listing, paths: list[str], on_bad_image: OnBadImage) -> None:
    """Find empty files, and a copy that was cut otherwise, without opening each of 220,000 files."""
    if on_bad_image == "skip":
        paths = list(islice((path for path in paths if isinstance(size_or_reason(path), tuple)), 1))
        if not paths:
            return
    size = size_or_reason(paths[0])
    bad = [f"{listing.relative(path)} ({reason})" for path in paths if (reason := _why_not_read(path))]
    if isinstance(size, str) and not bad:
        bad = [f"{listing.relative(paths[0])} ({size})"]
    if bad:
        what = f"{len(bad):,} {'image' if len(bad) == 1 else 'images'} can't be read"
        raise _damaged(name_some(bad, 100), what, fix=fix_of(bad, f"{KAGGLE_AGAIN}, or pass --on-bad-image skip"))
    if size != (SIDE_PX, SIDE_PX):
        what = f"this is no patch of PatchCamelyon ({size[0]} x {size[1]} pixels)"
        raise _damaged(paths[0], what, f"{SIDE_PX} x {SIDE_PX} pixels", KAGGLE_AGAIN)


def _why_not_read(path: str) -> str | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISREG(status.st_mode):
        return "not a file"
    return None if status.st_size else "empty file"


def _left_out_of_kaggle(images: pl.DataFrame, labels: pl.DataFrame, table: pl.DataFrame, n_others: int) -> list[str]:
    notes = []
    unlabelled = images.join(labels, on="id", how="anti")
    in_test = int(np.sum([_folder(path) == "test" for path in unlabelled["path"]]))
    if in_test:
        notes.append(
            f"Left out {in_test:,} images in test, whose labels Kaggle keeps (`histotune predict` reads them)."
        )
    if len(unlabelled) > in_test:
        notes.append(f"Left out {len(unlabelled) - in_test:,} images that {KAGGLE_LABELS} does not name.")
    n_missing = len(labels) - len(table)
    if n_missing:
        notes.append(
            f"INCOMPLETE: {n_missing:,} of {len(labels):,} rows of {KAGGLE_LABELS} have no image here and are left out."
        )
    if n_others:
        notes.append(f"Skipped {n_others:,} other {'file' if n_others == 1 else 'files'}.")
    return notes


def _folder(path: str) -> str:
    return os.path.basename(os.path.dirname(path)).lower()  # noqa: PTH119, PTH120
