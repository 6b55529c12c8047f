"""What is known about PatchCamelyon, its original files, and how a part of it is chosen."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from histotune.datasets.dataset_spec import CandidateScale, ClassScheme, DatasetSpec
from histotune.datasets.disk import own_dataset, read_text_table
from histotune.datasets.splits.folds import keyed_hash
from histotune.datasets.tileset import LabelRegion, patch_camelyon_group_id, tile_table
from histotune.tools.errors import UserError, raise_together

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from histotune.datasets.dataset_spec import ChosenScale
    from histotune.datasets.disk import Listing

# N tiles of a part


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


# ---- One part, whichever copy it comes from ----


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


# ---- The original copy in HDF5 ----


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
        return UserError(
            "the files of PatchCamelyon are still compressed", value=listing.root, fix=f"gunzip -k {' '.join(packed)}"
        )
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
            raise UserError(
                f'data set "y" has shape {y.shape} and type {y.dtype}',
                value=path,
                allowed="shape (n, 1, 1, 1) of whole numbers",
                fix=f"download the original file from {SPEC.url}",
            )
        labels_N = np.asarray(y[...]).reshape(-1).astype(np.int64)
    strange = sorted(set(np.unique(labels_N).tolist()) - {0, 1})
    if strange:
        raise UserError(
            'data set "y" holds other labels than 0 and 1',
            value=path,
            allowed=f"0 and 1, not {strange}",
            fix=f"download the original file from {SPEC.url}",
        )
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
    found = own_dataset(file, name)
    if found is None:
        raise UserError(
            f'this HDF5 file has no data set "{name}" (it holds: {", ".join(file) or "nothing"})',
            value=path,
            fix=f"download the original file from {SPEC.url}",
        )
    return found


def _read_slides(path: str, n_tiles: int) -> list[str | None]:
    fix = f"download it again from {SPEC.url}, or remove it to go without slides"
    table = read_text_table(path, fix)
    if "wsi" not in table.columns:
        columns = ", ".join(table.columns)
        raise UserError(f'this table has no column "wsi" (it has: {columns})', value=path, fix=fix)
    if len(table) != n_tiles:
        raise UserError(f"this table has {len(table):,} rows for {n_tiles:,} tiles", value=path, fix=fix)
    return [wsi or None for wsi in table["wsi"].to_list()]


# ---- A smaller part of a large split ----


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
