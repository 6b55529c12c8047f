"""What is known about PatchCamelyon, whatever the copy."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from histotune.datasets.dataset_spec import CandidateScale, ClassScheme, DatasetSpec
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
from histotune.datasets.splits.folds import keyed_hash
from histotune.datasets.tileset import LabelRegion, patch_camelyon_group_id, tile_table
from histotune.tools.errors import UserError, collect, raise_together

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from histotune.datasets.config import OnBadImage
    from histotune.datasets.dataset_spec import ChosenScale
    from histotune.datasets.disk import Listing


PARTS = ("train", "valid", "test")
SIDE_PX = 96

SPEC = DatasetSpec(
    name="patch_camelyon",
    title="PatchCamelyon",
    licence="CC0 1.0",
    citation=(
        "Veeling, Linmans, Winkens, Cohen, Welling: Rotation equivariant CNNs for digital pathology. MICCAI 2018. "
        "arXiv:1806.03962. Slides: Camelyon16, Ehteshami Bejnordi et al., JAMA 318(22), 2017."
    ),
    url="https://zenodo.org/records/2546921",
    stain="H&E",
    scales=(
        CandidateScale(
            "nominal",
            {"": 0.972},
            1.0,
            "Camelyon16 slides at 0.243 um/px, taken at level 2, which is four times coarser: 0.972 um/px.",
        ),
    ),
    schemes=(
        ClassScheme(
            "binary",
            ("normal", "tumour"),
            {"0": "normal", "1": "tumour"},
            "Whether the centre 32x32 pixels hold at least one tumour pixel.",
        ),
    ),
    group="a Camelyon16 slide",
    label_region=LabelRegion(left_px=32, top_px=32, width_px=32, height_px=32),
    caveats=(
        "The label speaks about the centre 32x32 pixels only: a view that moves or crops the centre changes its "
        "meaning.",
        "The patches derive from Camelyon16, on whose slides several foundation models were pretrained; their scores "
        "here are not fully external.",
        "Classes are balanced by construction (nearly so in Kaggle's copy): the prevalence is not that of a clinic.",
        "The original train part is known to hold many duplicate patches; Kaggle's copy leaves them out.",
    ),
)


# ------------------------------------------------------------------------------
# One part of PatchCamelyon as every copy hands it over: ids, places, labels, slides; no pixels.


# N tiles of a part
@dataclass(frozen=True)
class Part:
    """One part without its pixels.

    Attributes:
        name: ``train``, ``valid`` or ``test``; None where the copy has no official parts.
        tile_ids: Id per tile.
        paths: File per tile: an image, or the HDF5 or parquet file that holds it.
        rows: Row within that file per tile; None where every tile is a file of its own.
        labels_N: 0 or 1 per tile.
        slides: Slide per tile, None where unknown; None where the copy names no slides.
    """

    name: str | None
    tile_ids: pl.Series
    paths: pl.Series
    rows: NDArray[np.int64] | None
    labels_N: NDArray[np.int64]
    slides: list[str | None] | None

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.labels_N)

    @property
    def words(self) -> str:
        """The part as messages name it."""
        return "this copy" if self.name is None else f"part {self.name}"


@dataclass(frozen=True)
class Copy:
    """What one copy holds.

    Attributes:
        parts: Its parts.
        notes: What was skipped or assumed.
    """

    parts: tuple[Part, ...]
    notes: tuple[str, ...]


def numbered_ids(name: str, n_tiles: int) -> pl.Series:
    """Return the ids of a part whose tiles are known by their place, such as "train/0000012".

    The HDF5 and the parquet copy number their tiles alike, so that equal order means equal ids.
    """
    return f"{name}/" + pl.int_range(n_tiles, eager=True).cast(pl.String).str.zfill(7)


def part_table(part: Part, rows_N: NDArray[np.int64], scale: ChosenScale) -> pl.DataFrame:
    """Return some tiles of a part as a table of the tile schema."""
    n = len(rows_N)
    unknown = pl.repeat(None, n, dtype=pl.String, eager=True)
    slides = unknown if part.slides is None else pl.Series(part.slides, dtype=pl.String)[rows_N]
    return tile_table(
        {
            "tile_id": part.tile_ids[rows_N],
            "path": part.paths[rows_N],
            "row": pl.repeat(None, n, dtype=pl.Int64, eager=True) if part.rows is None else part.rows[rows_N],
            "label": part.labels_N[rows_N],
            "group_id": slides.map_elements(patch_camelyon_group_id, return_dtype=pl.String),
            "slide_id": slides,
            "stain": pl.repeat(SPEC.stain, n, eager=True),
            "mpp": np.full(n, scale.mpp_by_magnification[""]),
            "mpp_source": pl.repeat(scale.source, n, eager=True),
            "mpp_factor": np.full(n, scale.factor),
            "width_px": np.full(n, SIDE_PX),
            "height_px": np.full(n, SIDE_PX),
            "split": pl.repeat(part.name, n, dtype=pl.String, eager=True),
        }
    )


# ------------------------------------------------------------------------------
# The original copy: HDF5 files of pixels and labels, and a table of slides; pixels stay in the file.


# N tiles of a part
HDF5_PATTERN = re.compile(
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


def claim_hdf5(listing: Listing) -> str | None:
    """Return a file that shows the HDF5 copy, packed or not; None where there is none."""
    for path in listing.paths:
        match = HDF5_PATTERN.fullmatch(os.path.basename(path))  # noqa: PTH119
        if match is not None and match["kind"] != "meta.csv":
            return path
    return None


def read_hdf5(listing: Listing) -> Copy:
    """Read labels and slides of the original files, each possibly in a folder of its own name."""
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
        match = HDF5_PATTERN.fullmatch(os.path.basename(path))  # noqa: PTH119
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
            parts.append(_read_hdf5_part(part))
        except UserError as error:
            errors.append(error)
    raise_together(errors)
    return parts


def _read_hdf5_part(files: PartFiles) -> Part:
    n_tiles = _count_pixels(files.x)
    labels_N = _read_hdf5_labels(files.y)
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


def _read_hdf5_labels(path: str) -> NDArray[np.int64]:
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
    """Open an HDF5 file for the block; whatever h5py raises on a damaged one becomes a message that names it."""
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


# ------------------------------------------------------------------------------
# The parquet copy of the Hugging Face hub, such as ``1aurent/PatchCamelyon``: rows of image and label.


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
    tables = sum(path.endswith("_meta.csv") for path in listing.paths)
    return Copy(tuple(parts), (*([f"Part {', '.join(absent)} is not here."] if absent else []), *_meta_note(tables)))


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
        raise UserError(f"part {part} was found more than once", value=name_some(twice, 6),
                        fix="point --data to the folder of one copy")  # fmt: skip
    total = max(shard.total or 0 for shard in files) or numbers[-1] + 1
    missing = [str(number) for number in range(total) if number not in numbers]
    if missing:
        raise UserError(f"part {part} is incomplete: {len(missing)} of its {total} parquet files are missing",
                        value=f"number {name_some(missing, 20)} beside {listing.relative(files[0].path)}",
                        fix=HUB_AGAIN)  # fmt: skip


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
            raise UserError('the parquet file has no column "label"', value=path,
                            allowed=f"image, label (it has: {', '.join(file.schema_arrow.names)})",
                            fix=HUB_AGAIN)  # fmt: skip
        column = pl.Series("label", file.read(columns=["label"]).column("label").combine_chunks())
    if not (column.dtype.is_integer() or column.dtype == pl.Boolean):
        raise UserError(f'column "label" holds {column.dtype}', value=path, allowed="0 and 1, or false and true",
                        fix=HUB_AGAIN)  # fmt: skip
    strange = sorted({str(value) for value in column.unique()} - {"0", "1", "True", "False"})
    if strange:
        raise UserError('column "label" holds other labels than 0 and 1', value=path,
                        allowed=f"0 and 1, not {name_some(strange, 5)}", fix=HUB_AGAIN)  # fmt: skip
    return column.cast(pl.Int64).to_numpy()


def _check_first_image(file: object, path: str) -> None:
    image_leaf(file, path)
    data = next((cells[0] for cells in image_batches(file, path, 0)), None) if _n_rows(file) else None
    if data is None:
        raise UserError("the parquet file holds no tile", value=path, fix=HUB_AGAIN)
    try:
        size = encoded_size_px(data)
    except ValueError as error:
        raise UserError(f"the first image can't be read ({error})", value=path, fix=HUB_AGAIN) from error
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


# ------------------------------------------------------------------------------
# Kaggle's copy, ``histopathologic-cancer-detection``: a TIFF per patch, named by its id, and a table of labels.


KAGGLE_PATTERN = re.compile(r"(?P<id>[0-9a-f]{40})\.tif")
KAGGLE_LABELS = "train_labels.csv"
KAGGLE_AGAIN = "download the competition's files again (histopathologic-cancer-detection)"
KAGGLE_NOTE = (
    "Kaggle's copy: the training slides of PatchCamelyon without duplicate patches. It has no official parts, and "
    "names no slides."
)


def claim_kaggle(listing: Listing) -> str | None:
    """Return a file that shows Kaggle's copy; None where there is none."""
    for path in listing.paths:
        name = os.path.basename(path)  # noqa: PTH119  (hundreds of thousands of names)
        if name == KAGGLE_LABELS or KAGGLE_PATTERN.fullmatch(name):
            return path
    return None


def read_kaggle(listing: Listing, on_bad_image: OnBadImage = "fail") -> Copy:
    """Read the labelled patches; images that the table does not name are left out, and counted.

    Every patch is 96 x 96 pixels by the data set's definition; only the first header is read to make sure.
    """
    images, n_others = _kaggle_images(listing)
    labels = _kaggle_labels(listing)
    table = images.join(labels, on="id", how="inner").sort("id")
    if table.is_empty():
        raise UserError(f"no image belongs to a row of {KAGGLE_LABELS}", value=listing.root, fix=KAGGLE_AGAIN)
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
            raise UserError("the same image of Kaggle's copy was found twice",
                            value=f"{listing.relative(first)} and {listing.relative(path)}",
                            fix="point --data to the folder of one copy")  # fmt: skip
    if not path_by_id:
        raise UserError(f"{KAGGLE_LABELS} lies here, but none of its images", value=listing.root,
                        allowed="names of 40 hexadecimal digits and .tif, in any arrangement of folders",
                        fix=KAGGLE_AGAIN)  # fmt: skip
    table = pl.DataFrame({"id": list(path_by_id), "path": list(path_by_id.values())})
    return table, n_others - sum(os.path.basename(path) == KAGGLE_LABELS for path in listing.paths)  # noqa: PTH119


def _kaggle_labels(listing: Listing) -> pl.DataFrame:
    tables = [path for path in listing.paths if os.path.basename(path) == KAGGLE_LABELS]  # noqa: PTH119
    if not tables:
        raise UserError(f"images of Kaggle's copy lie here, but no {KAGGLE_LABELS}", value=listing.root,
                        fix=f"point --data to the folder that holds {KAGGLE_LABELS} and train; images alone can be "
                        "predicted: histotune predict HEAD FOLDER")  # fmt: skip
    if len(tables) > 1:
        raise UserError(f"{KAGGLE_LABELS} was found more than once",
                        value=name_some([*map(listing.relative, tables)], 5),
                        fix="point --data to the folder of one copy")  # fmt: skip
    path = tables[0]
    table = read_text_table(path, KAGGLE_AGAIN)
    if table.columns != ["id", "label"]:
        raise UserError("this table has other columns", value=path,
                        allowed=f"id, label (it has: {', '.join(table.columns)})", fix=KAGGLE_AGAIN)  # fmt: skip
    strange = sorted(set(table["label"].fill_null("").unique()) - {"0", "1"})
    if strange:
        raise UserError("this table holds other labels than 0 and 1", value=path,
                        allowed=f"0 and 1, not {name_some([repr(label) for label in strange], 5)}",
                        fix=KAGGLE_AGAIN)  # fmt: skip
    table = table.unique()
    if table["id"].n_unique() != len(table):
        example = table.filter(pl.col("id").is_duplicated())["id"].sort()[0]
        raise UserError("this table gives one image both labels", value=f"{path}, {example}", fix=KAGGLE_AGAIN)
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
        raise UserError(f"{len(bad):,} {'image' if len(bad) == 1 else 'images'} can't be read",
                        value=name_some(bad, 100), fix=f"{KAGGLE_AGAIN}, or pass --on-bad-image skip")  # fmt: skip
    if size != (SIDE_PX, SIDE_PX):
        raise UserError(f"this is no patch of PatchCamelyon ({size[0]} x {size[1]} pixels)", value=paths[0],
                        allowed=f"{SIDE_PX} x {SIDE_PX} pixels", fix=KAGGLE_AGAIN)  # fmt: skip


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


# ------------------------------------------------------------------------------
# A smaller part of a large split: whole slides first, classes balanced, the same for every seed on every machine.
#
# N tiles


def keep_rows(
    labels_N: NDArray[np.int64],
    slides: Sequence[str | None] | None,
    class_names: tuple[str, ...],
    max_tiles: int,
    seed: int,
) -> tuple[NDArray[np.int64], str]:
    """Choose at most ``max_tiles`` rows, as many of each class as the classes allow.

    Where slides are known, they are taken whole in the order of a keyed hash as long as every class stays within its
    share; what is still missing is then spread evenly over the other slides, so that many groups stay.
    """
    n = len(labels_N)
    if not 0 < max_tiles < n:
        return np.arange(n, dtype=np.int64), ""
    room = _share(Counter(labels_N.tolist()), max_tiles)
    kept: list[int] = []
    whole: set[str] = set()
    if slides is not None:
        kept, whole = _whole_slides(labels_N, slides, room, seed)
    kept += _spread(labels_N, slides, room, whole, seed)
    rows = np.array(sorted(kept), dtype=np.int64)
    return rows, _describe(labels_N, slides, class_names, rows, whole)


def _share(available: Counter[int], max_tiles: int) -> Counter[int]:
    """Split the budget evenly over the classes; what a small class can't use goes to the others."""
    share: Counter[int] = Counter()
    left, classes = max_tiles, sorted(available, key=lambda label: (available[label], label))
    for position, label in enumerate(classes):
        share[label] = min(available[label], left // (len(classes) - position))
        left -= share[label]
    return share


def _whole_slides(
    labels_N: NDArray[np.int64], slides: Sequence[str | None], room: Counter[int], seed: int
) -> tuple[list[int], set[str]]:
    """Take slides that fit whole; ``room`` shrinks by what they use."""
    rows_by_slide: dict[str, list[int]] = defaultdict(list)
    for row, slide in enumerate(slides):
        if slide is not None:
            rows_by_slide[slide].append(row)
    kept: list[int] = []
    whole = set()
    for slide in sorted(rows_by_slide, key=lambda slide: (keyed_hash(seed, slide), slide)):
        needed = Counter(labels_N[rows_by_slide[slide]].tolist())
        if needed <= room:
            room.subtract(needed)
            kept += rows_by_slide[slide]
            whole.add(slide)
    return kept, whole


def _spread(
    labels_N: NDArray[np.int64], slides: Sequence[str | None] | None, room: Counter[int], whole: set[str], seed: int
) -> list[int]:
    """Fill each class's remaining room, one tile of every other slide in turn."""
    turn: Counter[tuple[int, str | None]] = Counter()
    candidates: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    order = sorted((keyed_hash(seed, str(row)), row) for row in range(len(labels_N)))
    for rank, row in order:
        slide = None if slides is None else slides[row]
        label = int(labels_N[row])
        if slide in whole or not room[label]:
            continue
        if slide is not None:
            turn[label, slide] += 1
        candidates[label].append((turn[label, slide], rank, row))
    return [row for label, rows in candidates.items() for _, _, row in sorted(rows)[: room[label]]]


def _describe(
    labels_N: NDArray[np.int64],
    slides: Sequence[str | None] | None,
    class_names: tuple[str, ...],
    rows: NDArray[np.int64],
    whole: set[str],
) -> str:
    counts = Counter(labels_N[rows].tolist())
    classes = ", ".join(f"{counts[label]:,} {name}" for label, name in enumerate(class_names))
    text = f"kept {len(rows):,} of {len(labels_N):,} tiles ({classes})"
    if slides is None:
        return f"{text}, drawn at random; slides are unknown."
    present = {slides[row] for row in rows.tolist()} - {None}
    return f"{text} from {len(present)} slides, {len(whole)} of them whole."
