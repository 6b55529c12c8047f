"""Rows that a reader of one's own yields, and the checks that make a TileSet of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import polars as pl

from histotune.datasets.cells import NUMBER, CellRules, clean, read_ids, read_labels
from histotune.datasets.dataset_spec import choose_scale, scale_in_words, tiles_of
from histotune.datasets.disk import marked_synthetic, name_some, size_or_reason
from histotune.datasets.look_alikes import closest_alike
from histotune.datasets.tileset import tile_table
from histotune.tools.errors import UserError, closest_name, raise_together
from histotune.tools.progress import track
from histotune.tools.stand_ins import fix_of
from histotune.tools.streams import escaped, is_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from histotune.datasets.config import DatasetConfig
    from histotune.datasets.dataset_spec import DatasetSpec
    from histotune.datasets.tileset import TileSet


PART_BY_NAME = {
    "train": "train", "training": "train", "valid": "valid", "val": "valid", "validation": "valid", "dev": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
TEXTS = ("label", "group", "slide", "site", "scanner", "stain", "magnification", "split", "tile_id")
ALL = "all tiles"
GIVEN = dict.fromkeys(TEXTS, pl.String) | {"mpp": pl.Float64, "row": pl.Int64}
MEASURED = re.compile(r"[+-]?\d*[.,]\d*[1-9]\d*(?:[eE][+-]?\d+)?|[+-]?\d+(?:\.\d+)?[eE]-\d+")
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
    """The columns mpp, mpp_source and mpp_factor, and the note on them."""

    columns: pl.DataFrame
    note: str


def tile_set(rows: Sequence[Tile], spec: DatasetSpec, config: DatasetConfig, notes: Notes | None = None) -> TileSet:
    """Check rows and make a tile set of them; image sizes come from the headers, no pixel is decoded.

    Args:
        rows: What a reader found.
        spec: What is known about the data set.
        config: Which data set, and how its cells are read.
        notes: What the reader has to say.
    """
    if not rows:
        raise UserError("the data set holds no tile", value=config.path, fix="check --data")
    notes = notes or Notes()
    root = config.path if config.path.is_dir() else config.path.parent
    _require_text(rows, root)
    read = _with_cells_read(_given(rows, spec, root), spec, config)
    given = read.table
    sizes = _check_places(given, config)
    classes, labels = _classes(given["label"].to_list(), spec, config)
    given = given.with_columns(label=pl.Series(labels, dtype=pl.String), split=_parts(given["split"]))
    scale = _scale(given, spec, config)
    index_by_name = {name: index for index, name in enumerate(classes.names)}
    columns = {
        **given.drop("written").with_columns(scale.columns).to_dict(),
        "label": [index_by_name[label] if label is not None else None for label in labels],
        "width_px": [width_px for width_px, _ in sizes],
        "height_px": [height_px for _, height_px in sizes],
    }
    unknown = _unknown_notes(given)
    known = (*([classes.note] if classes.note else []), *unknown, *_part_notes(given))
    said = (scale.note, *notes.said, *read.notes, *known)
    tiles = tiles_of(spec, tile_table(columns), classes.names, said, synthetic=marked_synthetic(root))
    whole = (ALL, f"{len(given):,} of {len(given):,}")  # of what no tile has, nothing is missing
    lacking = [note for note in unknown if not any(words in note for words in whole)]
    return replace(tiles, asked=(*notes.asked, *read.notes, *lacking))


@dataclass(frozen=True)
class Notes:
    """What a reader has to say.

    Attributes:
        said: Sentences for the report.
        asked: Those of them that ask the user something; for the terminal, too.
    """

    said: Sequence[str] = ()
    asked: Sequence[str] = ()


@dataclass(frozen=True)
class _Read:
    """A table whose ids and labels were read, and what was read as missing or joined on the way."""

    table: pl.DataFrame
    notes: tuple[str, ...]


IDS = {"group_id": "group", "slide_id": "slide", "site": "site", "scanner": "scanner", "stain": "stain"}


def _with_cells_read(given: pl.DataFrame, spec: DatasetSpec, config: DatasetConfig) -> _Read:
    """Read the cells of every column that holds ids, labels or parts; what is wrong with them is one error."""
    rules = CellRules.of(config)
    known = [label for scheme in spec.schemes for label in scheme.class_by_source]
    labels = read_labels(given["label"], rules.keeping(known) if spec.schemes else rules)
    if not spec.schemes:
        check_class_count(labels.values, config.max_classes)
    cells = {"label": labels, **{column: read_ids(given[column], name, rules) for column, name in IDS.items()}}
    cells |= {name: read_ids(given[name], name, rules.keeping(())) for name in ("magnification", "split")}
    raise_together([error for one in cells.values() for error in one.errors])
    notes = tuple(note for one in cells.values() for note in one.notes)
    return _Read(given.with_columns(one.values.alias(name) for name, one in cells.items()), notes)


def _require_text(rows: Sequence[Tile], root: Path) -> None:
    """Refuse places whose names are not UTF-8, whoever names them: a table can't hold them."""
    odd = [path for row in rows if not is_text(path := _absolute(row.path, root))]
    if odd:
        raise UserError(
            f"{len(odd):,} tiles lie at paths that are not UTF-8, and tables and reports can't hold them",
            value=name_some([escaped(path) for path in odd], 20),
            fix="rename the files, or the folders above them, in UTF-8",
        )


def _given(rows: Sequence[Tile], spec: DatasetSpec, root: Path) -> pl.DataFrame:
    """Return what is given with the tiles under the names of the tile schema, and the path as it was written."""
    columns = {name: [getattr(row, name) for row in rows] for name in GIVEN}
    table = pl.DataFrame(columns, schema=GIVEN, strict=False).rename({"group": "group_id", "slide": "slide_id"})
    return table.with_columns(
        pl.Series("tile_id", [row.tile_id or _id_of(row.path, root) for row in rows]),
        pl.Series("path", [_absolute(row.path, root) for row in rows]),
        pl.Series("written", [str(row.path) for row in rows]),
        pl.col("stain").fill_null(pl.lit(spec.stain or None)),
        pl.Series("magnification", [_magnification(row.magnification) for row in rows], dtype=pl.String),
    )


def _check_places(given: pl.DataFrame, config: DatasetConfig) -> list[tuple[int, int] | tuple[None, None]]:
    """Return the size of every tile; everything wrong with ids, paths and files is one error."""
    errors: list[UserError] = []
    twice = sorted(given.filter(pl.col("tile_id").is_duplicated())["tile_id"].unique())
    places = given.group_by("path", "row").agg("tile_id").filter(pl.col("tile_id").list.len() > 1)
    same = sorted(" and ".join(names) for names in places["tile_id"].to_list())
    unknown = sorted(name for name in given["split"].drop_nulls().unique() if name.lower() not in PART_BY_NAME)
    sizes, bad = _sizes(given)
    if twice:
        errors.append(
            UserError(
                f"{len(twice):,} tiles are named more than once", value=name_some(twice, 20), fix="name each tile once"
            )
        )
    elif same:
        errors.append(
            UserError(
                f"{len(same):,} files are named in several ways", value=name_some(same, 20), fix="name each file once"
            )
        )
    if unknown:
        allowed, fix = ", ".join(PART_BY_NAME), "name the parts train, valid and test"
        errors.append(UserError("these parts are unknown", value=name_some(unknown, 10), allowed=allowed, fix=fix))
    if bad and config.on_bad_image == "fail":
        what = f"{len(bad):,} {'image' if len(bad) == 1 else 'images'} can't be read"
        fix = fix_of(bad, "copy these files again, remove them, or leave them out with --on-bad-image skip")
        errors.append(UserError(what, value=name_some(bad, 100), fix=fix))
    raise_together(errors)
    return sizes


def _absolute(path: str | Path, root: Path) -> str:
    written = os.path.expanduser(path)  # noqa: PTH111  (thousands of paths)
    return os.path.abspath(os.path.join(root, written))  # noqa: PTH100, PTH118  (resolve() would lose links)


def _id_of(path: str | Path, root: Path) -> str:
    """Return a path below the data folder as its id, and any other path as it was written."""
    written = str(path)
    if os.path.isabs(written) and written.startswith(f"{root}{os.sep}"):  # noqa: PTH117
        written = os.path.relpath(written, root)
    return written.replace(os.sep, "/")


def _sizes(given: pl.DataFrame) -> tuple[list[tuple[int, int] | tuple[None, None]], list[str]]:
    """Return width and height of every image, and all files that have none.

    Where bad images are skipped, they keep their rows here: whoever reads their pixels leaves them out and counts them.
    """
    sizes: list[tuple[int, int] | tuple[None, None]] = []
    bad = []
    places = given.select("row", "path", "written").rows()
    for row, path, written in track(places, "reading image headers"):
        size = "" if row is not None else size_or_reason(path)
        if isinstance(size, str):
            bad += [f"{written} ({size})"] if size else []
            sizes.append((None, None))
        else:
            sizes.append(size)
    return sizes, bad


def _parts(split: pl.Series) -> pl.Series:
    return split.str.to_lowercase().replace_strict(PART_BY_NAME, default=None, return_dtype=pl.String)


def _classes(
    labels: list[str | None], spec: DatasetSpec, config: DatasetConfig
) -> tuple[Classes, Sequence[str | None]]:
    """Return the classes, and the class of every tile by its name."""
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


def _scale(given: pl.DataFrame, spec: DatasetSpec, config: DatasetConfig) -> _Scale:
    """The user's one scale wins, then a tile's own, then the data set's candidate."""
    if config.mpp is not None or config.mpp_by_magnification is not None:
        return _given_scale(given["magnification"].fill_null(""), config)
    chosen = choose_scale(spec, config) if spec.scales else None
    by_magnification = {} if chosen is None else chosen.mpp_by_magnification
    candidates = [by_magnification.get(name or "", by_magnification.get("")) for name in given["magnification"]]
    own, candidate = pl.col("mpp").is_not_null(), pl.col("candidate").is_not_null()
    columns = given.select("mpp", pl.Series("candidate", candidates, dtype=pl.Float64)).select(
        pl.coalesce("mpp", "candidate"),
        mpp_source=pl.when(own).then(pl.lit("user")).when(candidate).then(pl.lit(chosen and chosen.source)),
        mpp_factor=pl.when(own).then(pl.lit(1.0)).when(candidate).then(pl.lit(chosen and chosen.factor)),
    )
    n_own, n_unknown = given["mpp"].count(), columns["mpp"].null_count()
    words = [f"um/px of {n_own:,} tiles as given with them"] if n_own else []
    if n_own < len(given) - n_unknown and chosen is not None:
        words.append(chosen.note.removeprefix("Scale: ").rstrip("."))
    if n_unknown:
        words.append(f"unknown for {n_unknown:,} tiles (one for all: --set source.mpp=0.5)")
    return _Scale(columns, f"Scale: {'; '.join(words)}.")


def _given_scale(magnification: pl.Series, config: DatasetConfig) -> _Scale:
    """One scale for all tiles, or one per magnification, as given in the settings."""
    by_magnification, found = config.mpp_by_magnification or {}, set(magnification)
    if config.mpp is None and set(by_magnification) != found:
        raise UserError(
            "the scale per magnification must speak of exactly the magnifications of the tiles",
            value=", ".join(by_magnification),
            allowed=", ".join(sorted(found)) or "none: the tiles name none",
            fix="--set source.mpp=0.5 gives one scale for all",
        )
    exact = config.mpp_factor == 1
    words = "as given by the user" if exact else f"an estimate given by the user, within {config.mpp_factor:g} times"
    columns = pl.DataFrame({"mpp": [config.mpp or by_magnification[name] for name in magnification]}).with_columns(
        mpp_source=pl.lit("user" if exact else "estimated"), mpp_factor=pl.lit(config.mpp_factor)
    )
    return _Scale(columns, f"Scale: {scale_in_words(config.mpp, by_magnification)}, {words}.")


def _magnification(text: str | None) -> str | None:
    """Return "40X" for 40, 40x and 40 X; other labels as they are."""
    match = None if text is None else MAGNIFICATION.fullmatch(text.strip())
    return text if match is None else f"{float(match[1]):g}X"


def _unknown_notes(given: pl.DataFrame) -> list[str]:
    """Say how many tiles have no label, how many no group, and how many no part."""
    n, notes = len(given), []
    if n_unlabelled := given["label"].null_count():
        notes.append(f"{n_unlabelled:,} of {n:,} tiles are unlabelled: they are embedded, but neither train nor count.")
    if n_lost := given["group_id"].null_count():
        which = ALL if n_lost == n else f"{n_lost:,} of {n:,} tiles"
        notes.append(
            f"The group of {which} is unknown: folds over single tiles are LEAKY, and intervals are refused "
            "unless --cluster tile asks for them."
        )
    if 0 < (n_without := given["split"].null_count()) < n:
        notes.append(f"{n_without:,} of {n:,} tiles belong to no part, so the parts are not used.")
    return notes


def _part_notes(given: pl.DataFrame) -> list[str]:
    """Say which groups lie in several parts, and which classes in some parts only."""
    notes = []
    in_parts = given.drop_nulls("split")
    parts = in_parts.drop_nulls("group_id").group_by("group_id").agg(pl.col("split").n_unique())
    shared = sorted(parts.filter(pl.col("split") > 1)["group_id"])
    if shared:
        notes.append(f"{len(shared):,} groups lie in more than one part, such as {shared[0]}: the parts leak.")
    found = dict(in_parts.drop_nulls("label").group_by("split").agg(pl.col("label").unique()).rows())
    every = {label for labels in found.values() for label in labels}
    for part, labels in sorted(found.items()):
        if lacking := sorted(every - set(labels)):
            notes.append(f"Part {part} lacks {name_some(lacking, 10)}.")
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


def order_classes(labels: Iterable[str], positive: str | None) -> Classes:
    """Put the classes found in order.

    Example:
        >>> order_classes(["tumor", "normal"], None).names
        ('normal', 'tumor')
    """
    names = sorted(set(labels), key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
    if positive is not None:
        positive = closest_alike(clean(positive), names) or positive
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


MOST_CLASSES = 50
MOST_MEASURED = 10  # numbers with decimals, from more of which on they are taken for a measurement
MOST_NUMBERS = 20
MOST_UNIQUE = 7  # labels of which more than half of the tiles have one of their own


def check_class_count(labels: pl.Series, most: int | None) -> None:
    """Refuse labels that are no classes: too many, numbers that were measured, or one for nearly every tile.

    Args:
        labels: A label for every tile, null where it has none.
        most: The number of classes that the user allows; None goes by what is usual.

    Raises:
        UserError: With how to go on.
    """
    found = labels.drop_nulls().unique()
    n, n_tiles = len(found), labels.count()
    measured = sum(MEASURED.fullmatch(label) is not None for label in found)
    numbers = sum(NUMBER.fullmatch(label) is not None for label in found)
    if most is not None:
        why = f"and at most {most:,} are allowed (max_classes)" if n > most else ""
    elif measured > MOST_MEASURED or numbers > MOST_NUMBERS:
        why = "and they look like a measurement"
    elif n > MOST_UNIQUE and n > n_tiles / 2:
        why = "nearly one for each"
    else:
        why = f"and a classifier is meant to have at most {MOST_CLASSES}" if n > MOST_CLASSES else ""
    if why:
        raise UserError(
            f"{n_tiles:,} labelled tiles have {n:,} different labels, {why}",
            value=name_some([repr(label) for label in sorted(found)], 5),
            allowed="a few classes that many tiles share",
            fix="write classes into the label column, such as low and high around a bound fixed beforehand; or "
            "rename the column, to go without labels; or, if these are classes after all, add "
            f"--set source.max_classes={n}",
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
