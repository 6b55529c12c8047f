"""PatchCamelyon: lymph-node patches in HDF5; pixels stay in the file, only labels and slides are read."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from histotune.datasets.catalog import CandidateScale, ClassScheme, DatasetSpec, choose_scale
from histotune.datasets.groups import patch_camelyon_group_id
from histotune.datasets.listing import SYNTHETIC_NOTE, Listing, list_files
from histotune.datasets.records import LabelRegion, TileSet, tile_table
from histotune.datasets.subset import keep_rows
from histotune.errors import UserError, raise_together

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from histotune.datasets.catalog import ChosenScale
    from histotune.datasets.config import DatasetConfig

# N tiles of a part
PARTS = ("train", "valid", "test")
SIDE_PX = 96
FILE_PATTERN = re.compile(
    r"camelyonpatch_level_2_split_(?P<part>train|valid|test)_(?P<kind>x\.h5|y\.h5|meta\.csv)(?P<gz>\.gz)?"
)
EXAMPLE_NAME = "camelyonpatch_level_2_split_test_x.h5"

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
        "Classes are balanced by construction, so the prevalence is not that of a clinic.",
        "The train part is known to hold many duplicate patches.",
    ),
)


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


@dataclass(frozen=True)
class Part:
    """One official part without its pixels.

    Attributes:
        files: Where it came from.
        labels_N: 0 or 1 per tile.
        slides: Slide per tile; None where no meta file says so.
    """

    files: PartFiles
    labels_N: NDArray[np.int64]
    slides: list[str | None] | None


def read_patch_camelyon(config: DatasetConfig) -> TileSet:
    """Read the parts of PatchCamelyon that a folder holds; pixels are not loaded.

    Args:
        config: ``path`` is the folder with the unpacked ``.h5`` files, each possibly in a folder of its own;
            ``max_tiles_per_split`` keeps a seeded part of each.

    Returns:
        The tiles of all parts found, ids such as "train/0000012".

    Raises:
        UserError: The folder is missing or holds no part, a counterpart is missing or compressed, a file is
            truncated, of the wrong shape or type, or x, y and meta differ in length.
    """
    scheme = SPEC.scheme("binary")
    listing = list_files(config.path)
    files, notes = _find_parts(listing)
    parts = _read_parts(files)
    notes += _slide_notes(parts)
    scale = choose_scale(SPEC, config)
    tables = []
    for part in parts:
        rows, kept_note = keep_rows(
            part.labels_N, part.slides, scheme.class_names, config.max_tiles_per_split, config.seed
        )
        notes += [f"Part {part.files.part}: {kept_note}"] if kept_note else []
        tables.append(_table(part, rows, scale))
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
    return Part(files, labels_N, slides)


def _count_pixels(path: str) -> int:
    """Return the number of tiles in an x file after checking shape and type; no pixel is read."""
    with _open_h5(path) as file:
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
    with _open_h5(path) as file:
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


def _open_h5(path: str) -> Any:  # noqa: ANN401  (h5py has no types)
    import h5py

    try:
        return h5py.File(path, "r")
    except (PermissionError, FileNotFoundError) as error:
        raise UserError("this file can't be opened", value=path, fix=f"ls -l {path}, then chmod u+r {path}") from error
    except OSError as error:
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
    try:
        table = pl.read_csv(path, infer_schema=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"this table can't be read ({error})", value=path, fix=fix) from error
    if "wsi" not in table.columns:
        columns = ", ".join(table.columns)
        raise UserError(f'this table has no column "wsi" (it has: {columns})', value=path, fix=fix)
    if len(table) != n_tiles:
        raise UserError(f"this table has {len(table):,} rows for {n_tiles:,} tiles", value=path, fix=fix)
    return [wsi or None for wsi in table["wsi"].to_list()]


def _slide_notes(parts: list[Part]) -> list[str]:
    notes = []
    nameless = [part.files.part for part in parts if part.slides is None]
    if nameless:
        notes.append(
            f"No meta.csv for {', '.join(nameless)}: the slides of these tiles are unknown, so no grouped split or "
            f"interval can be made on them."
        )
    slides_by_part = {part.files.part: {s for s in part.slides if s} for part in parts if part.slides}
    n_parts_by_slide: dict[str, int] = {}
    for slides in slides_by_part.values():
        for slide in slides:
            n_parts_by_slide[slide] = n_parts_by_slide.get(slide, 0) + 1
    shared = sorted(slide for slide, n in n_parts_by_slide.items() if n > 1)
    if shared:
        notes.append(f"{len(shared)} slides lie in more than one official part, such as {shared[0]}: the parts leak.")
    return notes


def _table(part: Part, rows: NDArray[np.int64], scale: ChosenScale) -> pl.DataFrame:
    n = len(rows)
    name = part.files.part
    slides = None if part.slides is None else pl.Series(part.slides, dtype=pl.String)[rows]
    groups = None if slides is None else slides.map_elements(patch_camelyon_group_id, return_dtype=pl.String)
    unknown = pl.repeat(None, n, dtype=pl.String, eager=True)
    return tile_table(
        {
            "tile_id": f"{name}/" + pl.Series(rows).cast(pl.String).str.zfill(7),
            "path": pl.repeat(part.files.x, n, eager=True),
            "row": rows,
            "label": part.labels_N[rows],
            "group_id": unknown if groups is None else groups,
            "slide_id": unknown if slides is None else slides,
            "stain": pl.repeat(SPEC.stain, n, eager=True),
            "mpp": np.full(n, scale.mpp_by_magnification[""]),
            "mpp_source": pl.repeat(scale.source, n, eager=True),
            "mpp_factor": np.full(n, scale.factor),
            "width_px": np.full(n, SIDE_PX),
            "height_px": np.full(n, SIDE_PX),
            "split": pl.repeat(name, n, eager=True),
        }
    )
