"""What is known about PatchCamelyon, its original files, and how a part of it is chosen."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from histotune.datasets.dataset_spec import known_specs
from histotune.datasets.disk import own_dataset, read_text_table
from histotune.datasets.splits.folds import keyed_hash
from histotune.datasets.tileset import patch_camelyon_group_id, tile_table
from histotune.tools.errors import UserError, collect, raise_together
from histotune.tools.files import require_regular
from histotune.tools.stand_ins import refuse_stand_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from histotune.datasets.dataset_spec import ChosenScale
    from histotune.datasets.disk import Listing

# N tiles of a part


PARTS = ("train", "valid", "test")
SIDE_PX = 96

SPEC = known_specs()["patch_camelyon"]


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


def found_twice(what: str, places: str) -> UserError:
    """Return the message for files of two copies in one folder."""
    return UserError(what, value=places, fix="point --data to the folder of one copy")


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
KAGGLE_PATTERN_X = re.compile(r"(?P<part>training|validation|test)_split\.h5(?P<gz>\.gz)?")
"""Pixels as Kaggle's data set metastatic-tissue-classification-patchcamelyon names them; the rest has its own names."""
PART_OF_KAGGLE = {"training": "train", "validation": "valid", "test": "test"}
EXAMPLE_NAME = "camelyonpatch_level_2_split_test_x.h5"


def claim_hdf5(listing: Listing) -> str | None:
    """Return a file that shows the HDF5 copy, packed or not; None where there is none."""
    named = ((path, _part_and_kind(path)) for path in listing.paths)
    return next((path for path, found in named if found is not None and not found[1].startswith("meta")), None)


def _part_and_kind(path: str) -> tuple[str, str] | None:
    """Return the part of a file and what it holds, such as "x.h5"; None for other files."""
    name = os.path.basename(path)  # noqa: PTH119
    if match := HDF5_PATTERN.fullmatch(name):
        return match["part"], match["kind"] + (match["gz"] or "")
    if match := KAGGLE_PATTERN_X.fullmatch(name):
        return PART_OF_KAGGLE[match["part"]], "x.h5" + (match["gz"] or "")
    return None


def read_hdf5(listing: Listing) -> Copy:
    """Read labels and slides of the original files, each possibly in a folder of its own name."""
    found = _named_files(listing)
    whole, packed, errors = [], dict[str, list[str]](), list[UserError]()
    for part in PARTS:
        present = [kind for kind in ("x.h5", "y.h5") if (part, kind) in found]
        gz = [found[part, kind] for kind in ("x.h5.gz", "y.h5.gz") if (part, kind) in found]
        if len(present) == 2:
            whole.append(part)
        elif present:
            other = "y.h5" if present[0] == "x.h5" else "x.h5"
            errors.append(_missing_counterpart(listing, part, other, found[part, present[0]], gz))
        elif gz:
            packed[part] = gz
    raise_together(errors)
    if not whole:
        raise _no_parts(listing, [path for paths in packed.values() for path in paths])
    parts = []
    for part in whole:
        with collect(errors):
            x, y, meta = found[part, "x.h5"], found[part, "y.h5"], found.get((part, "meta.csv"))
            parts.append(_read_hdf5_part(part, x, y, meta))
    raise_together(errors)
    hint = "still compressed; to use it: gunzip -k"
    return Copy(tuple(parts), tuple(f"Skipped part {part}: {hint} {' '.join(gz)}." for part, gz in packed.items()))


def _named_files(listing: Listing) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for path in listing.paths:
        named = _part_and_kind(path)
        if named is None:
            continue
        first = found.setdefault(named, path)
        if first != path:
            places = f"{listing.relative(first)} and {listing.relative(path)}"
            raise found_twice("the same part of PatchCamelyon was found twice", places)
    return found


def _missing_counterpart(listing: Listing, part: str, kind: str, present: str, gz: list[str]) -> UserError:
    other = f"camelyonpatch_level_2_split_{part}_{kind}"
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


def _read_hdf5_part(name: str, x: str, y: str, meta: str | None) -> Part:
    n_tiles = _count_pixels(x)
    labels_N = _read_hdf5_labels(y)
    if len(labels_N) != n_tiles:
        raise UserError(
            f"part {name} has {n_tiles:,} tiles in x and {len(labels_N):,} labels in y",
            value=y,
            fix=f"download both files of the part again from {SPEC.url}; they belong together",
        )
    slides = None if meta is None else _read_slides(meta, n_tiles)
    paths = pl.repeat(x, n_tiles, eager=True)
    return Part(name, numbered_ids(name, n_tiles), paths, np.arange(n_tiles), labels_N, slides)


def _count_pixels(path: str) -> int:
    """Return the number of tiles in an x file after checking shape and type; no pixel is read."""
    with opened_hdf5(path) as file:
        x = _dataset(file, "x", path)
        if x.ndim != 4 or x.shape[1:] != (SIDE_PX, SIDE_PX, 3) or x.dtype != np.uint8:
            allowed = f"shape (n, {SIDE_PX}, {SIDE_PX}, 3) and type uint8"
            raise _another_file(path, f'data set "x" has shape {x.shape} and type {x.dtype}', allowed)
        if x.shape[0] == 0:
            raise UserError('data set "x" holds no tile', value=path, fix=f"download the file again from {SPEC.url}")
        return int(x.shape[0])


def _read_hdf5_labels(path: str) -> NDArray[np.int64]:
    with opened_hdf5(path) as file:
        y = _dataset(file, "y", path)
        if y.dtype.kind not in "bui" or y.ndim == 0 or int(np.prod(y.shape[1:])) != 1:
            what = f'data set "y" has shape {y.shape} and type {y.dtype}'
            raise _another_file(path, what, "shape (n, 1, 1, 1) of whole numbers")
        labels_N = np.asarray(y[...]).reshape(-1).astype(np.int64)
    strange = sorted(set(np.unique(labels_N).tolist()) - {0, 1})
    if strange:
        raise _another_file(path, 'data set "y" holds other labels than 0 and 1', f"0 and 1, not {strange}")
    return labels_N


def _another_file(path: str, what: str, allowed: str | None = None) -> UserError:
    return UserError(what, value=path, allowed=allowed, fix=f"download the original file from {SPEC.url}")


@contextmanager
def opened_hdf5(path: str) -> Iterator[Any]:
    """Open an HDF5 file for the block; whatever h5py raises on a damaged one becomes a message that names it."""
    import h5py

    try:
        require_regular(Path(path))
        with h5py.File(path, "r") as file:
            yield file
    except UserError:
        raise
    except (PermissionError, FileNotFoundError) as error:
        raise UserError("this file can't be opened", value=path, fix=f"ls -l {path}, then chmod u+r {path}") from error
    except Exception as error:  # h5py raises OSError, RuntimeError, ValueError and KeyError on damaged files
        refuse_stand_in(path, "this HDF5 file")
        raise UserError(
            f"this HDF5 file is truncated or damaged ({str(error).rstrip('.')})",
            value=path,
            fix=f"unpack it again (gunzip -kf {path}.gz), or download it again from {SPEC.url}",
        ) from error


def _dataset(file: Any, name: str, path: str) -> Any:  # noqa: ANN401  (h5py has no types)
    found = own_dataset(file, name)
    if found is None:
        raise _another_file(path, f'this HDF5 file has no data set "{name}" (it holds: {", ".join(file) or "nothing"})')
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
    slide_N = [None] * n if slides is None else slides
    kept, whole = _whole_slides(labels_N, slide_N, room, seed)
    rows = np.array(sorted([*kept, *_spread(labels_N, slide_N, room, whole, seed)]), dtype=np.int64)
    counts = Counter(labels_N[rows].tolist())
    classes = ", ".join(f"{counts[label]:,} {name}" for label, name in enumerate(class_names))
    text = f"kept {len(rows):,} of {n:,} tiles ({classes})"
    if slides is None:
        return rows, f"{text}, drawn at random; slides are unknown."
    present = {slides[row] for row in rows.tolist()} - {None}
    return rows, f"{text} from {len(present)} slides, {len(whole)} of them whole."


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
    labels_N: NDArray[np.int64], slides: Sequence[str | None], room: Counter[int], whole: set[str], seed: int
) -> list[int]:
    """Fill each class's remaining room, one tile of every other slide in turn."""
    turn: Counter[tuple[int, str | None]] = Counter()
    candidates: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    order = sorted((keyed_hash(seed, str(row)), row) for row in range(len(labels_N)))
    for rank, row in order:
        slide, label = slides[row], int(labels_N[row])
        if slide in whole or not room[label]:
            continue
        if slide is not None:
            turn[label, slide] += 1
        candidates[label].append((turn[label, slide], rank, row))
    return [row for label, rows in candidates.items() for _, _, row in sorted(rows)[: room[label]]]
