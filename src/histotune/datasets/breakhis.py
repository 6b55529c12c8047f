"""BreakHis: breast tumours at four magnifications; the file name says everything, wherever the file lies."""

from __future__ import annotations

import filecmp
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histotune.datasets.dataset_spec import choose_scale, known_specs
from histotune.datasets.disk import SYNTHETIC_NOTE, Listing, list_files, name_some, png_size_px
from histotune.datasets.tileset import TileSet, breakhis_group_id, breakhis_source_patient_id, skipped_note, tile_table
from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.dataset_spec import ChosenScale, ClassScheme

EXAMPLE_NAME = "SOB_M_DC-14-5694-400-005.png"
NAME_PATTERN = re.compile(
    r"SOB_(?:(?P<b>B)_(?P<benign>A|F|PT|TA)|(?P<m>M)_(?P<malignant>DC|LC|MC|PC))"
    r"-(?P<year>\d{2})-(?P<slide>\d+[A-Z]*)-(?P<magnification>40|100|200|400)-(?P<image>\d+)\.[Pp][Nn][Gg]"
)

SPEC = known_specs()["breakhis"]


@dataclass(frozen=True)
class BreakhisImage:
    """What a file name and a PNG header say about an image."""

    path: str
    tile_id: str
    class_letter: str
    tumour: str
    year: str
    slide: str
    magnification: str
    width_px: int
    height_px: int


def read_breakhis(config: DatasetConfig) -> TileSet:
    """Read BreakHis from its own tree or from any other arrangement of its files."""
    listing = list_files(config.path)
    paths, notes = _recognised(listing)
    images, bad = _read_headers(listing, paths)
    notes += _refuse_or_note(bad, config)
    notes += _contradicting_folders(listing, images)
    scheme = SPEC.scheme(config.labels)
    labelled = [image for image in images if scheme.index(image.tumour) is not None]
    notes += _left_out(config.labels, images, scheme)
    if not labelled:
        raise UserError(
            "no image has a tumour type of these classes",
            value=config.labels,
            allowed=", ".join(scheme.class_by_source),
            fix="--set source.labels=binary",
        )
    scale = choose_scale(SPEC, config)
    return TileSet(
        name=SPEC.name,
        table=tile_table(_columns(labelled, scheme, scale)),
        class_names=scheme.class_names,
        licence=SPEC.licence,
        citation=SPEC.citation,
        synthetic=listing.synthetic,
        notes=((SYNTHETIC_NOTE,) if listing.synthetic else ()) + (scale.note, *notes),
        n_skipped=len(bad),
    )


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
            continue
        first = path_by_name.setdefault(os.path.splitext(name)[0], path)  # noqa: PTH122
        if first == path:
            continue
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
            fix=f"point --data to the unpacked BreaKHis_v1 folder; the data set is at {SPEC.url}",
        )
    if clashes:
        raise UserError(
            "one image name stands for two different images",
            value=name_some(clashes, 20),
            fix="point --data to one copy of the data set",
        )


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


def _read_headers(listing: Listing, paths: list[str]) -> tuple[list[BreakhisImage], dict[str, str]]:
    """Read name and header of every file; return the images, and the reason for every file that has no header."""
    images, bad = [], {}
    for path in paths:
        try:
            images.append(_parse(path, png_size_px(path)))
        except (ValueError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            bad[listing.relative(path)] = str(reason)
    return images, bad


def _refuse_or_note(bad: dict[str, str], config: DatasetConfig) -> list[str]:
    """Report all bad files at once, or leave them out with a note where the user asked for that."""
    if not bad:
        return []
    if config.on_bad_image == "skip":
        return [skipped_note(bad)]
    raise UserError(
        f"{_count(list(bad), 'image')} can't be read",
        value=name_some([f"{name} ({reason})" for name, reason in bad.items()], 100),
        fix="download these files again, remove them, or leave them out with --on-bad-image skip",
    )


def _parse(path: str, size_px: tuple[int, int]) -> BreakhisImage:
    name = os.path.basename(path)  # noqa: PTH119
    match = NAME_PATTERN.fullmatch(name)
    assert match is not None, "only recognised names get here"
    return BreakhisImage(
        path=path,
        tile_id=os.path.splitext(name)[0],  # noqa: PTH122
        class_letter=match["b"] or match["m"],
        tumour=match["benign"] or match["malignant"],
        year=match["year"],
        slide=match["slide"],
        magnification=f"{match['magnification']}X",
        width_px=size_px[0],
        height_px=size_px[1],
    )


def _contradicting_folders(listing: Listing, images: list[BreakhisImage]) -> list[str]:
    """Note files whose folder names another class or magnification than the file name, which decides."""
    words = {"benign": "B", "malignant": "M", **{f"{m}x": f"{m}X" for m in (40, 100, 200, 400)}}
    wrong = []
    for image in images:
        folders = Path(listing.relative(image.path).lower()).parent.parts
        said = {words[folder] for folder in folders if folder in words}
        if not said <= {image.class_letter, image.magnification}:
            wrong.append(image.path)
    if not wrong:
        return []
    return [
        f"{_count(wrong, 'image')} {'lies' if len(wrong) == 1 else 'lie'} in a folder of another class or "
        f"magnification than the file name says, such as {listing.relative(wrong[0])}; the name decided."
    ]


def _left_out(labels: str, images: list[BreakhisImage], scheme: ClassScheme) -> list[str]:
    dropped = Counter(image.tumour for image in images if scheme.index(image.tumour) is None)
    if not dropped:
        return []
    kinds = ", ".join(f"{tumour} {n}" for tumour, n in sorted(dropped.items()))
    return [f"Labels {labels} leave out {dropped.total()} images of other tumour types ({kinds})."]


def _columns(images: list[BreakhisImage], scheme: ClassScheme, scale: ChosenScale) -> dict[str, object]:
    return {
        "tile_id": [image.tile_id for image in images],
        "path": [image.path for image in images],
        "label": [scheme.index(image.tumour) for image in images],
        "group_id": [breakhis_group_id(image.year, image.slide) for image in images],
        "source_patient_id": [
            breakhis_source_patient_id(image.class_letter, image.tumour, image.year, image.slide) for image in images
        ],
        "slide_id": [f"{image.year}-{image.slide}" for image in images],
        "stain": [SPEC.stain] * len(images),
        "magnification": [image.magnification for image in images],
        "mpp": [scale.mpp_by_magnification[image.magnification] for image in images],
        "mpp_source": [scale.source] * len(images),
        "mpp_factor": [scale.factor] * len(images),
        "width_px": [image.width_px for image in images],
        "height_px": [image.height_px for image in images],
    }


def _count(items: Sequence[str], one: str, many: str = "") -> str:
    return f"{len(items):,} {one if len(items) == 1 else many or one + 's'}"
