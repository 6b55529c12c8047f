"""Kaggle's copy, ``histopathologic-cancer-detection``: a TIFF per patch, named by its id, and a table of labels."""

from __future__ import annotations

import os
import re
import stat
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from histotune.datasets.disk import name_some
from histotune.datasets.headers import size_or_reason
from histotune.datasets.patch_camelyon.part import Copy, Part
from histotune.datasets.pcam_files import SIDE_PX
from histotune.datasets.text_table import read_text_table
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from histotune.datasets.config import OnBadImage
    from histotune.datasets.disk import Listing

NAME_PATTERN = re.compile(r"(?P<id>[0-9a-f]{40})\.tif")
LABELS = "train_labels.csv"
AGAIN = "download the competition's files again (histopathologic-cancer-detection)"
NOTE = (
    "Kaggle's copy: the training slides of PatchCamelyon without duplicate patches. It has no official parts, and "
    "names no slides."
)


def claim(listing: Listing) -> str | None:
    """Return a file that shows Kaggle's copy; None where there is none."""
    for path in listing.paths:
        name = os.path.basename(path)  # noqa: PTH119  (hundreds of thousands of names)
        if name == LABELS or NAME_PATTERN.fullmatch(name):
            return path
    return None


def read_kaggle(listing: Listing, on_bad_image: OnBadImage = "fail") -> Copy:
    """Read the labelled patches; images that the table does not name are left out, and counted.

    Every patch is 96 x 96 pixels by the data set's definition; only the first header is read to make sure.

    Args:
        listing: The files below a folder: ``train_labels.csv`` and images, in any arrangement of folders.
        on_bad_image: ``skip`` leaves empty and missing files to whoever reads the pixels, who counts them.

    Returns:
        One part without a name; no slides.

    Raises:
        UserError: No table or no image, images that are empty or found twice, labels other than 0 and 1.
    """
    images, n_others = _images(listing)
    labels = _labels(listing)
    table = images.join(labels, on="id", how="inner").sort("id")
    if table.is_empty():
        raise UserError(f"no image belongs to a row of {LABELS}", value=listing.root, fix=AGAIN)
    _check_files(listing, table["path"].to_list(), on_bad_image)
    notes = [NOTE, *_left_out(images, labels, table, n_others)]
    part = Part(None, table["id"], table["path"], None, table["label"].cast(pl.Int64).to_numpy(), None)
    return Copy((part,), tuple(notes))


def _images(listing: Listing) -> tuple[pl.DataFrame, int]:
    """Return path and id of every image, and the number of other files."""
    path_by_id: dict[str, str] = {}
    n_others = 0
    for path in listing.paths:
        match = NAME_PATTERN.fullmatch(os.path.basename(path))  # noqa: PTH119
        if match is None:
            n_others += 1
        elif (first := path_by_id.setdefault(match["id"], path)) != path:
            raise UserError("the same image of Kaggle's copy was found twice",
                            value=f"{listing.relative(first)} and {listing.relative(path)}",
                            fix="point --data to the folder of one copy")  # fmt: skip
    if not path_by_id:
        raise UserError(f"{LABELS} lies here, but none of its images", value=listing.root,
                        allowed="names of 40 hexadecimal digits and .tif, in any arrangement of folders",
                        fix=AGAIN)  # fmt: skip
    table = pl.DataFrame({"id": list(path_by_id), "path": list(path_by_id.values())})
    return table, n_others - sum(os.path.basename(path) == LABELS for path in listing.paths)  # noqa: PTH119


def _labels(listing: Listing) -> pl.DataFrame:
    tables = [path for path in listing.paths if os.path.basename(path) == LABELS]  # noqa: PTH119
    if not tables:
        raise UserError(f"images of Kaggle's copy lie here, but no {LABELS}", value=listing.root,
                        fix=f"point --data to the folder that holds {LABELS} and train; images alone can be predicted: "
                        "histotune predict HEAD FOLDER")  # fmt: skip
    if len(tables) > 1:
        raise UserError(f"{LABELS} was found more than once", value=name_some([*map(listing.relative, tables)], 5),
                        fix="point --data to the folder of one copy")  # fmt: skip
    path = tables[0]
    table = read_text_table(path, AGAIN)
    if table.columns != ["id", "label"]:
        raise UserError("this table has other columns", value=path,
                        allowed=f"id, label (it has: {', '.join(table.columns)})", fix=AGAIN)  # fmt: skip
    strange = sorted(set(table["label"].fill_null("").unique()) - {"0", "1"})
    if strange:
        raise UserError("this table holds other labels than 0 and 1", value=path,
                        allowed=f"0 and 1, not {name_some([repr(label) for label in strange], 5)}",
                        fix=AGAIN)  # fmt: skip
    table = table.unique()
    if table["id"].n_unique() != len(table):
        example = table.filter(pl.col("id").is_duplicated())["id"].sort()[0]
        raise UserError("this table gives one image both labels", value=f"{path}, {example}", fix=AGAIN)
    return table


def _check_files(listing: Listing, paths: list[str], on_bad_image: OnBadImage) -> None:
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
        raise UserError(f"{len(bad):,} {'image' if len(bad) == 1 else 'images'} can't be read",
                        value=name_some(bad, 100), fix=f"{AGAIN}, or pass --on-bad-image skip")  # fmt: skip
    if size != (SIDE_PX, SIDE_PX):
        raise UserError(f"this is no patch of PatchCamelyon ({size[0]} x {size[1]} pixels)", value=paths[0],
                        allowed=f"{SIDE_PX} x {SIDE_PX} pixels", fix=AGAIN)  # fmt: skip


def _why_not_read(path: str) -> str | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return error.strerror or str(error)
    if not stat.S_ISREG(status.st_mode):
        return "not a file"
    return None if status.st_size else "empty file"


def _left_out(images: pl.DataFrame, labels: pl.DataFrame, table: pl.DataFrame, n_others: int) -> list[str]:
    notes = []
    unlabelled = images.join(labels, on="id", how="anti")
    in_test = int(np.sum([_folder(path) == "test" for path in unlabelled["path"]]))
    if in_test:
        notes.append(
            f"Left out {in_test:,} images in test, whose labels Kaggle keeps (`histotune predict` reads them)."
        )
    if len(unlabelled) > in_test:
        notes.append(f"Left out {len(unlabelled) - in_test:,} images that {LABELS} does not name.")
    n_missing = len(labels) - len(table)
    if n_missing:
        notes.append(
            f"INCOMPLETE: {n_missing:,} of {len(labels):,} rows of {LABELS} have no image here and are left out."
        )
    if n_others:
        notes.append(f"Skipped {n_others:,} other {'file' if n_others == 1 else 'files'}.")
    return notes


def _folder(path: str) -> str:
    return os.path.basename(os.path.dirname(path)).lower()  # noqa: PTH119, PTH120
