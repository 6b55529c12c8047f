"""Rows that a reader of one's own yields, and the checks that make a TileSet of them."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from histotune.datasets.dataset_spec import choose_scale, scale_in_words
from histotune.datasets.disk import SYNTHETIC_NOTE, marked_synthetic, name_some, size_or_reason
from histotune.datasets.tileset import TileSet, tile_table
from histotune.tools.errors import UserError, closest_name, collect, raise_together
from histotune.tools.progress import track

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.dataset_spec import DatasetSpec


PART_BY_NAME = {
    "train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
TEXTS = ("label", "group", "slide", "site", "scanner", "stain", "magnification", "split", "tile_id")
MAGNIFICATION = re.compile(r"(\d+(?:\.\d+)?)\s*[xX]?")


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile, with whatever is known about it.

    Attributes:
        path: The image file; relative paths are relative to the data folder.
        label: Its class, by name or number; None where unlabelled.
        group: What must never cross a split: the patient, the case; None where unknown.
        slide: Slide it was cut from.
        site: Hospital or laboratory.
        scanner: Scanner or microscope.
        stain: Stain; None takes the data set's.
        magnification: Such as "40X".
        mpp: Micrometres per pixel of the stored image.
        split: The data set's own part: train, valid (or val), test.
        tile_id: Unique name; None takes the path.
        row: Row of an HDF5 or parquet file; None for image files.
    """

    path: str | Path
    label: str | None = None  # numbers are taken as their text, here and in the other names
    group: str | None = None
    slide: str | None = None
    site: str | None = None
    scanner: str | None = None
    stain: str | None = None
    magnification: str | None = None
    mpp: float | None = None
    split: str | None = None
    tile_id: str | None = None
    row: int | None = None

    def __post_init__(self) -> None:
        """Take numbers as names, and empty text as unknown, so that a patient 7 is not lost on the way."""
        for name in TEXTS:
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                object.__setattr__(self, name, str(value))
            elif value == "":
                object.__setattr__(self, name, None)
        if not isinstance(self.path, str | os.PathLike) or not str(self.path):
            raise UserError("a tile needs the path of its image", value=self.path)
        if self.mpp is not None and not (isinstance(self.mpp, int | float) and 0 < self.mpp < float("inf")):
            raise UserError(f"mpp of {self.path} is no positive number", value=self.mpp, allowed="um per pixel")


@dataclass(frozen=True)
class _Scale:
    """The mpp columns, and the note on them."""

    mpp: list[float | None]
    source: list[str | None]
    factor: list[float | None]
    note: str


@dataclass(frozen=True)
class _Places:
    """Id, absolute path and size of every tile."""

    ids: list[str]
    paths: list[str]
    sizes: list[tuple[int, int] | tuple[None, None]]


def tile_set(rows: Sequence[Tile], spec: DatasetSpec, config: DatasetConfig, notes: Sequence[str] = ()) -> TileSet:
    """Check rows and make a tile set of them; image sizes come from the headers, no pixel is decoded."""
    if not rows:
        raise UserError("the data set holds no tile", value=config.path, fix="check --data")
    root = config.path if config.path.is_dir() else config.path.parent
    places = _check_places(rows, root, config)
    classes, labels = _classes(rows, spec, config)
    scale = _scale(rows, spec, config)
    parts = [None if row.split is None else PART_BY_NAME[row.split.lower()] for row in rows]
    columns = {
        **_own_columns(rows, spec),
        "tile_id": places.ids,
        "path": places.paths,
        "label": [classes.index(label) for label in labels],
        "mpp": scale.mpp,
        "mpp_source": scale.source,
        "mpp_factor": scale.factor,
        "width_px": [size[0] for size in places.sizes],
        "height_px": [size[1] for size in places.sizes],
        "split": parts,
    }
    synthetic = marked_synthetic(root)
    known = [*_label_notes(labels), *_group_notes(rows), *_part_notes(rows, parts, labels)]
    said = (scale.note, *notes, *([classes.note] if classes.note else []), *known)
    return TileSet(
        name=spec.name,
        table=tile_table(columns),
        class_names=classes.names,
        licence=spec.licence,
        citation=spec.citation,
        label_region=spec.label_region,
        synthetic=synthetic,
        notes=(SYNTHETIC_NOTE, *said) if synthetic else said,
    )


def _check_places(rows: Sequence[Tile], root: Path, config: DatasetConfig) -> _Places:
    """Return ids, absolute paths and sizes; everything wrong with them is one error."""
    ids = [row.tile_id or _id_of(row.path, root) for row in rows]
    paths = [_absolute(row.path, root) for row in rows]
    errors: list[UserError] = []
    with collect(errors):
        _refuse_twice(ids, paths, rows)
    with collect(errors):
        _refuse_unknown_parts(rows)
    sizes, bad = _sizes(rows, paths)
    if bad and config.on_bad_image == "fail":
        errors.append(_unreadable(bad))
    raise_together(errors)
    return _Places(ids, paths, sizes)


def _own_columns(rows: Sequence[Tile], spec: DatasetSpec) -> dict[str, object]:
    """Columns that are taken over as they are."""
    return {
        "row": [row.row for row in rows],
        "group_id": [row.group for row in rows],
        "slide_id": [row.slide for row in rows],
        "site": [row.site for row in rows],
        "scanner": [row.scanner for row in rows],
        "stain": [row.stain or spec.stain or None for row in rows],
        "magnification": [_magnification(row.magnification) for row in rows],
    }


def _absolute(path: str | Path, root: Path) -> str:
    written = os.path.expanduser(path)  # noqa: PTH111  (thousands of paths)
    return os.path.abspath(os.path.join(root, written))  # noqa: PTH100, PTH118  (resolve() would lose links)


def _id_of(path: str | Path, root: Path) -> str:
    """Return a path below the data folder as its id, and any other path as it was written."""
    written = str(path)
    if os.path.isabs(written) and written.startswith(f"{root}{os.sep}"):  # noqa: PTH117
        written = os.path.relpath(written, root)
    return written.replace(os.sep, "/")


def _refuse_twice(ids: Sequence[str], paths: Sequence[str], rows: Sequence[Tile]) -> None:
    twice = sorted(name for name, n in Counter(ids).items() if n > 1)
    if twice:
        raise UserError(
            f"{len(twice):,} tiles are named more than once", value=name_some(twice, 20), fix="name each tile once"
        )
    places = defaultdict(list)
    for name, path, row in zip(ids, paths, rows, strict=True):
        places[path, row.row].append(name)
    same = sorted(" and ".join(names) for names in places.values() if len(names) > 1)
    if same:
        raise UserError(
            f"{len(same):,} files are named in several ways", value=name_some(same, 20), fix="name each file once"
        )


def _refuse_unknown_parts(rows: Sequence[Tile]) -> None:
    unknown = sorted({row.split for row in rows if row.split is not None and row.split.lower() not in PART_BY_NAME})
    if unknown:
        raise UserError(
            "these parts are unknown",
            value=name_some(unknown, 10),
            allowed=", ".join(PART_BY_NAME),
            fix="name the parts train, valid and test",
        )


def _sizes(rows: Sequence[Tile], paths: Sequence[str]) -> tuple[list[tuple[int, int] | tuple[None, None]], list[str]]:
    """Return width and height of every image, and all files that have none.

    Where bad images are skipped, they keep their rows here: whoever reads their pixels leaves them out and counts them.
    """
    sizes: list[tuple[int, int] | tuple[None, None]] = []
    bad = []
    for row, path in track(list(zip(rows, paths, strict=True)), "reading image headers"):
        size = "" if row.row is not None else size_or_reason(path)
        if isinstance(size, str):
            bad += [f"{row.path} ({size})"] if size else []
            sizes.append((None, None))
        else:
            sizes.append(size)
    return sizes, bad


def _unreadable(bad: list[str]) -> UserError:
    what = f"{len(bad):,} {'image' if len(bad) == 1 else 'images'} can't be read"
    fix = "copy these files again, remove them, or leave them out with --on-bad-image skip"
    return UserError(what, value=name_some(bad, 100), fix=fix)


def _classes(rows: Sequence[Tile], spec: DatasetSpec, config: DatasetConfig) -> tuple[Classes, list[str | None]]:
    """Return the classes, and the class of every tile by its name."""
    labels = [row.label for row in rows]
    if spec.schemes and config.positive_class is not None:
        raise UserError(
            "this data set fixes its classes itself",
            value=config.positive_class,
            allowed=", ".join(spec.schemes[0].class_names),
            fix="leave --set source.positive_class out",
        )
    if spec.schemes:
        return scheme_classes(spec, labels)
    return order_classes((label for label in labels if label is not None), config.positive_class), labels


def _scale(rows: Sequence[Tile], spec: DatasetSpec, config: DatasetConfig) -> _Scale:
    """The user's one scale wins, then a tile's own, then the data set's candidate."""
    n = len(rows)
    if config.mpp is not None or config.mpp_by_magnification is not None:
        return _given_scale(rows, config)
    chosen = choose_scale(spec, config) if spec.scales else None
    mpp: list[float | None] = []
    source: list[str | None] = []
    factor: list[float | None] = []
    for row in rows:
        by_magnification = {} if chosen is None else chosen.mpp_by_magnification
        candidate = by_magnification.get(_magnification(row.magnification) or "", by_magnification.get(""))
        given = row.mpp is not None
        mpp.append(row.mpp if given else candidate)
        source.append("user" if given else chosen.source if chosen and candidate else None)
        factor.append(1.0 if given else chosen.factor if chosen and candidate else None)
    n_own, n_unknown = sum(row.mpp is not None for row in rows), mpp.count(None)
    words = [f"um/px of {n_own:,} tiles as given with them"] if n_own else []
    if n_own < n - n_unknown and chosen is not None:
        words.append(chosen.note.removeprefix("Scale: ").rstrip("."))
    if n_unknown:
        words.append(f"unknown for {n_unknown:,} tiles (one for all: --set source.mpp=0.5)")
    return _Scale(mpp, source, factor, f"Scale: {'; '.join(words)}.")


def _given_scale(rows: Sequence[Tile], config: DatasetConfig) -> _Scale:
    """One scale for all tiles, or one per magnification, as given in the settings."""
    by_magnification = config.mpp_by_magnification or {}
    found = {_magnification(row.magnification) or "" for row in rows}
    if config.mpp is None and set(by_magnification) != found:
        raise UserError(
            "the scale per magnification must speak of exactly the magnifications of the tiles",
            value=", ".join(by_magnification),
            allowed=", ".join(sorted(found)) or "none: the tiles name none",
            fix="--set source.mpp=0.5 gives one scale for all",
        )
    mpp = [config.mpp or by_magnification[_magnification(row.magnification) or ""] for row in rows]
    values = scale_in_words(config.mpp, by_magnification)
    exact = config.mpp_factor == 1
    words = "as given by the user" if exact else f"an estimate given by the user, within {config.mpp_factor:g} times"
    source = "user" if exact else "estimated"
    return _Scale([*mpp], [source] * len(rows), [config.mpp_factor] * len(rows), f"Scale: {values}, {words}.")


def _magnification(text: str | None) -> str | None:
    """Return "40X" for 40, 40x and 40 X; other labels as they are."""
    match = None if text is None else MAGNIFICATION.fullmatch(text.strip())
    return text if match is None else f"{float(match[1]):g}X"


def _label_notes(labels: Sequence[str | None]) -> list[str]:
    n = sum(label is None for label in labels)
    if not n:
        return []
    return [f"{n:,} of {len(labels):,} tiles are unlabelled: they are embedded, but neither train nor count."]


def _group_notes(rows: Sequence[Tile]) -> list[str]:
    n = sum(row.group is None for row in rows)
    if not n:
        return []
    which = "all" if n == len(rows) else f"{n:,} of {len(rows):,}"
    return [
        f"The group of {which} tiles is unknown: folds over single tiles are LEAKY, and intervals are refused unless "
        "--cluster tile asks for them."
    ]


def _part_notes(rows: Sequence[Tile], parts: Sequence[str | None], labels: Sequence[str | None]) -> list[str]:
    """Say which groups lie in several parts, and which classes in some parts only."""
    notes = []
    parts_by_group, classes_by_part = defaultdict(set), defaultdict(set)
    for row, part, label in zip(rows, parts, labels, strict=True):
        if part is not None and row.group is not None:
            parts_by_group[row.group].add(part)
        if part is not None and label is not None:
            classes_by_part[part].add(label)
    shared = sorted(group for group, found in parts_by_group.items() if len(found) > 1)
    if shared:
        notes.append(f"{len(shared):,} groups lie in more than one part, such as {shared[0]}: the parts leak.")
    every = set().union(*classes_by_part.values())
    for part, found in sorted(classes_by_part.items()):
        if found != every:
            notes.append(f"Part {part} lacks {name_some(sorted(every - found), 10)}.")
    n_without = sum(part is None for part in parts)
    if 0 < n_without < len(parts):
        notes.append(f"{n_without:,} of {len(parts):,} tiles belong to no part, so the parts are not used.")
    return notes


# ---- Class names ----


POSITIVE_NAMES = ("tumor", "tumour", "malignant", "cancer", "positive", "1", "true")


@dataclass(frozen=True)
class Classes:
    """Names by label index, and how the order was chosen.

    Attributes:
        names: Sorted; of two classes the positive one is last, index 1.
        note: A sentence on the choice of the positive class, or on labels that stand for none; "" for neither.
    """

    names: tuple[str, ...]
    note: str

    def index(self, label: str | None) -> int | None:
        """Return the index of a label, None where there is none."""
        return None if label is None else self.names.index(label)


def order_classes(labels: Iterable[str], positive: str | None) -> Classes:
    """Put the classes found in order.

    Example:
        >>> order_classes(["tumor", "normal"], None).names
        ('normal', 'tumor')
    """
    names = sorted(set(labels), key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
    _refuse_look_alikes(names)
    if positive is not None:
        _check_positive(names, positive)
    if len(names) != 2:
        return Classes(tuple(names), "")
    known = [name for name in names if name.casefold() in POSITIVE_NAMES]
    if positive is not None:
        chosen, why = positive, "as asked for"
    elif len(known) == 1:
        chosen, why = known[0], "going by its name"
    else:
        chosen, why = names[1], "the later name"
    other = next(name for name in names if name != chosen)
    note = f"Class 1, the positive one, is {chosen} ({why}); another: --set source.positive_class={other}."
    return Classes((other, chosen), note)


def scheme_classes(spec: DatasetSpec, labels: Sequence[str | None]) -> tuple[Classes, list[str | None]]:
    """Map a data set's own labels to the classes of its first scheme."""
    scheme = spec.schemes[0]
    mapped = [None if label is None else scheme.class_by_source.get(label) for label in labels]
    dropped = Counter(label for label, name in zip(labels, mapped, strict=True) if label is not None and name is None)
    kinds = ", ".join(f"{label} {n:,}" for label, n in sorted(dropped.items()))
    note = f"Labels {scheme.name} leave out {dropped.total():,} tiles ({kinds})." if dropped else ""
    return Classes(scheme.class_names, note), mapped


def _refuse_look_alikes(names: Sequence[str]) -> None:
    by_lower: dict[str, list[str]] = {}
    for name in names:
        by_lower.setdefault(name.casefold(), []).append(name)
    twins = [" and ".join(map(repr, same)) for same in by_lower.values() if len(same) > 1]
    if twins:
        raise UserError(
            "labels that differ only in upper and lower case would be different classes",
            value=name_some(twins, 5),
            fix="write each class one way",
        )


def _check_positive(names: Sequence[str], positive: str) -> None:
    if positive not in names:
        raise UserError(
            "no tile has the label that should be the positive class",
            value=positive,
            allowed=", ".join(names) or "no tile is labelled",
            closest=closest_name(positive, names),
        )
    if len(names) != 2:
        raise UserError(
            f"a positive class is one of two, and there are {len(names)}",
            value=positive,
            allowed=", ".join(names),
            fix="leave --set source.positive_class out",
        )
