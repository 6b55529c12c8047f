"""BreakHis: breast tumours at four magnifications; the file name says everything, wherever the file lies."""

from __future__ import annotations

import filecmp
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from histotune.datasets.dataset_spec import choose_scale, known_specs, tiles_of
from histotune.datasets.disk import Listing, image_size_px, list_files, name_some, png_size_px
from histotune.datasets.tileset import LEVEL, breakhis_group_id, breakhis_source_patient_id, skipped_note, tile_table
from histotune.tools.errors import UserError
from histotune.tools.stand_ins import fix_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.dataset_spec import ChosenScale, ClassScheme
    from histotune.datasets.tileset import TileSet

EXAMPLE_NAME = "SOB_M_DC-14-5694-400-005.png"
NAME_PATTERN = re.compile(
    r"SOB_(?:(?P<b>B)_(?P<benign>A|F|PT|TA)|(?P<m>M)_(?P<malignant>DC|LC|MC|PC))"
    r"-(?P<year>\d{2})-(?P<slide>\d+[A-Z]*)-(?P<magnification>40|100|200|400)-(?P<image>\d+)"
    r"\.(?i:png|jpe?g|tiff?|bmp|webp)"
)
WIDTH_PX, HEIGHT_PX = 700, 460  # of the images as they were published

IMAGE_SCHEMA = dict.fromkeys(
    ("path", "tile_id", "letter", "tumour", "year", "slide", "magnification"), pl.String
) | dict.fromkeys(("width_px", "height_px"), pl.Int64)
SPEC = known_specs()["breakhis"]


def read_breakhis(config: DatasetConfig) -> TileSet:
    """Read BreakHis from its own tree or from any other arrangement of its files."""
    listing = list_files(config.path)
    paths, notes = _recognised(listing)
    images, bad = _read_headers(listing, paths)
    notes += _refuse_or_note(bad, config)
    notes += _contradicting_folders(listing, images)
    scheme = SPEC.scheme(config.labels)
    labelled = images.filter(pl.col("tumour").is_in(list(scheme.class_by_source)))
    left_out = images.filter(~pl.col("tumour").is_in(list(scheme.class_by_source)))
    if len(left_out):
        kinds = ", ".join(f"{tumour} {n}" for tumour, n in sorted(Counter(left_out["tumour"]).items()))
        notes.append(f"Labels {config.labels} leave out {len(left_out)} images of other tumour types ({kinds}).")
    if labelled.is_empty():
        raise UserError(
            "no image has a tumour type of these classes",
            value=config.labels,
            allowed=", ".join(scheme.class_by_source),
            fix="--set source.labels=binary",
        )
    scale = choose_scale(SPEC, config)
    columns = _columns(labelled, scheme, scale)
    if config.mpp is None and config.mpp_by_magnification is None:
        notes += _copies_of_another_size(columns)
    notes += _other_level(listing, labelled)
    table = tile_table(columns)
    tiles = tiles_of(SPEC, table, scheme.class_names, (scale.note, *notes), synthetic=listing.synthetic)
    return replace(tiles, n_skipped=len(bad))


def _recognised(listing: Listing) -> tuple[list[str], list[str]]:
    """Paths whose names parse, one per name; and notes on the others."""
    path_by_name: dict[str, str] = {}
    others: list[str] = []
    copies: list[str] = []
    clashes: list[str] = []
    for path in listing.paths:
        name = os.path.basename(path)  # noqa: PTH119  (thousands of names)
        if not NAME_PATTERN.fullmatch(name):
            others.append(path)
        elif (first := path_by_name.setdefault(os.path.splitext(name)[0], path)) != path:  # noqa: PTH122
            if _same_bytes(first, path):
                copies.append(path)
            else:
                clashes.append(f"{listing.relative(first)} and {listing.relative(path)}")
    _refuse_strangers(listing, list(path_by_name.values()), clashes)
    return list(path_by_name.values()), _listing_notes(listing, others, copies)


def _same_bytes(first: str, second: str) -> bool:
    try:
        return filecmp.cmp(first, second, shallow=False)
    except OSError as error:
        raise UserError(
            f"an image can't be read ({error.strerror})",
            value=error.filename or second,
            fix="download it again, or remove it",
        ) from error


def _refuse_strangers(listing: Listing, paths: list[str], clashes: list[str]) -> None:
    if not paths:
        raise UserError(
            "this is not BreakHis: no file name below the folder is one of its names",
            value=listing.root,
            allowed=f"names such as {EXAMPLE_NAME} in any arrangement of folders "
            f"(found {_count(listing.paths, 'other file')}, such as {listing.relative(listing.paths[0])})",
            fix=next(
                (f"pass --data {one}" for one in Path(listing.root).parents if one.name.lower() == "breakhis_v1"),
                f"point --data to the unpacked BreaKHis_v1 folder; the data set is at {SPEC.url}",
            ),
        )
    if clashes:
        raise UserError(
            "one image name stands for two different images",
            value=name_some(clashes, 20),
            fix=f"point --data to one copy, such as --data {_one_copy(listing)}",
        )


def _one_copy(listing: Listing) -> Path:
    """Return the folder, right below the one that was named, that holds the first image; itself where it lies there."""
    named = (path for path in listing.paths if NAME_PATTERN.fullmatch(os.path.basename(path)))  # noqa: PTH119
    parts = Path(listing.relative(next(named))).parts
    return Path(listing.root, *parts[:-1][:1])


def _listing_notes(listing: Listing, others: list[str], copies: list[str]) -> list[str]:
    notes = []
    if others:
        notes.append(
            f"Skipped {_count(others, 'file')} not named like a BreakHis image, such as {listing.relative(others[0])}."
        )
    if copies:
        notes.append(
            f"Skipped {_count(copies, 'identical copy', 'identical copies')} of an image found elsewhere, such as "
            f"{listing.relative(copies[0])}."
        )
    return notes


def _read_headers(listing: Listing, paths: list[str]) -> tuple[pl.DataFrame, dict[str, str]]:
    """Read name and header of every file; return a row per image, and the reason for every file without a header."""
    rows, bad = [], {}
    for path in paths:
        try:
            width_px, height_px = (png_size_px if path.lower().endswith(".png") else image_size_px)(path)
        except (ValueError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            bad[listing.relative(path)] = str(reason)
        else:
            rows.append((path, *_parse(path), width_px, height_px))
    return pl.DataFrame(rows, schema=IMAGE_SCHEMA, orient="row"), bad


def _parse(path: str) -> tuple[str, ...]:
    """Return what a name says: tile, class letter, tumour type, year, slide and magnification."""
    name = os.path.basename(path)  # noqa: PTH119
    match = NAME_PATTERN.fullmatch(name)
    assert match is not None, "only recognised names get here"
    letter, tumour = match["b"] or match["m"], match["benign"] or match["malignant"]
    stem = os.path.splitext(name)[0]  # noqa: PTH122
    return stem, letter, tumour, match["year"], match["slide"], f"{match['magnification']}X"


def _refuse_or_note(bad: dict[str, str], config: DatasetConfig) -> list[str]:
    """Report all bad files at once, or leave them out with a note where the user asked for that."""
    if not bad:
        return []
    if config.on_bad_image == "skip":
        return [skipped_note(bad)]
    raise UserError(
        f"{_count(list(bad), 'image')} can't be read",
        value=name_some([f"{name} ({reason})" for name, reason in bad.items()], 100),
        fix=fix_of(
            list(bad.values()), "download these files again, remove them, or leave them out with --on-bad-image skip"
        ),
    )


def _contradicting_folders(listing: Listing, images: pl.DataFrame) -> list[str]:
    """Note files whose folder names another class or magnification than the file name, which decides."""
    words = {"benign": "B", "malignant": "M", **{f"{m}x": f"{m}X" for m in (40, 100, 200, 400)}}
    wrong = []
    for path, letter, magnification in images.select("path", "letter", "magnification").iter_rows():
        folders = Path(listing.relative(path).lower()).parent.parts
        if not {words[folder] for folder in folders if folder in words} <= {letter, magnification}:
            wrong.append(path)
    if not wrong:
        return []
    return [
        f"{_count(wrong, 'image')} {'lies' if len(wrong) == 1 else 'lie'} in a folder of another class or "
        f"magnification than the file name says, such as {listing.relative(wrong[0])}; the name decided."
    ]


def _columns(images: pl.DataFrame, scheme: ClassScheme, scale: ChosenScale) -> dict[str, object]:
    slides, n = images.select("letter", "tumour", "year", "slide").rows(), len(images)
    return {
        **images.select("tile_id", "path", "magnification", "width_px", "height_px").to_dict(),
        "label": [scheme.index(tumour) for tumour in images["tumour"]],
        "group_id": [breakhis_group_id(year, slide) for _, _, year, slide in slides],
        "source_patient_id": [breakhis_source_patient_id(*facts) for facts in slides],
        "slide_id": [f"{year}-{slide}" for _, _, year, slide in slides],
        "stain": [SPEC.stain] * n,
        "mpp": [scale.mpp_by_magnification[magnification] for magnification in images["magnification"]],
        "mpp_source": [scale.source] * n,
        "mpp_factor": [scale.factor] * n,
    }


def _copies_of_another_size(columns: dict[str, Any]) -> list[str]:
    """Say which images are converted copies, and take the scale away from those whose pixels have another size."""
    paths, widths, heights = (list(columns[name]) for name in ("path", "width_px", "height_px"))
    copies = [row for row, path in enumerate(paths) if not path.lower().endswith(".png")]
    if not copies:
        return []
    resized = {row for row in copies if (widths[row], heights[row]) != (WIDTH_PX, HEIGHT_PX)}
    for name in ("mpp", "mpp_source", "mpp_factor"):
        columns[name] = [None if row in resized else value for row, value in enumerate(columns[name])]
    notes = [
        f"{len(copies):,} images are no PNG, such as {os.path.basename(paths[copies[0]])}: BreakHis was published as "  # noqa: PTH119
        "PNG, so these are copies that somebody converted."
    ]
    if resized:
        row = min(resized)
        notes.append(
            f"{len(resized):,} of them have other sizes than {WIDTH_PX} x {HEIGHT_PX} pixels, such as {widths[row]} x "
            f"{heights[row]}: they were resized, and their scale is unknown (one for all: --set source.mpp=0.5)."
        )
    return notes


def _other_level(listing: Listing, images: pl.DataFrame) -> list[str]:
    """Say where the other class lies, where the folder that was named holds one of them only."""
    letters, sides = set(images["letter"]), ("benign", "malignant")
    if len(letters) > 1:
        return []
    root = Path(listing.root)
    own, other = sides if "B" in letters else sides[::-1]
    for folder in (root, *root.parents):
        if folder.name.lower() == own and (beside := folder.with_name(other)).is_dir():
            return [f"{LEVEL}all images are {own}, and {beside} lies beside; pass --data {folder.parent} for both."]
    return []


def _count(items: Sequence[str], one: str, many: str = "") -> str:
    return f"{len(items):,} {one if len(items) == 1 else many or one + 's'}"
