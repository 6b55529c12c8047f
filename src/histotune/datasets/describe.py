"""What is in a data set: counts, scales, groups, and what to beware of, before anything is trained."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from histotune.datasets.dataset_spec import group_word, group_words, known_specs
from histotune.tools.marks import SYNTHETIC
from histotune.tools.table import ShownAsTables, Table, columns_of, rows_of

if TYPE_CHECKING:
    from histotune.datasets.dataset_spec import DatasetSpec
    from histotune.datasets.tileset import TileSet

FEW_GROUPS = 5  # below this many groups in a class no interval over groups is given
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Description(ShownAsTables):
    """Facts and tables about a tile set.

    Attributes:
        tiles: The tiles that were counted.
        title: Name for people.
        n_unlabelled: Tiles without a label.
        n_tiles_without_group: Tiles whose group is unknown.
        n_source_patients: The data set authors' own patient ids; 0 where they give none.
        n_slides: Known slides.
        group: What a group is, in words.
        by_magnification: magnification, class, tiles, groups.
        by_split: split, class, tiles, groups; empty where there are no official parts.
        scales: magnification, mpp, mpp_source, mpp_factor, tiles: the scale in use.
        candidate_scales: source, magnification, mpp, mpp_factor, why: every reading on record.
        sizes: width_px, height_px, tiles.
        mixed_groups: group_id, classes, tiles: groups that hold more than one class.
        merged_patients: group_id, source_patient_ids, tiles: groups that hold several of the authors' patients.
        caveats: What is known to be odd about the data set.
        warnings: What stands in the way of an honest result.
    """

    tiles: TileSet
    title: str
    n_unlabelled: int
    n_tiles_without_group: int
    n_source_patients: int
    n_slides: int
    group: str
    by_magnification: pl.DataFrame
    by_split: pl.DataFrame
    scales: pl.DataFrame
    candidate_scales: pl.DataFrame
    sizes: pl.DataFrame
    mixed_groups: pl.DataFrame
    merged_patients: pl.DataFrame
    caveats: tuple[str, ...]
    warnings: tuple[str, ...]

    def tables(self) -> tuple[Table, ...]:
        """Return what was counted as tables, empty ones left out."""
        word = group_word(self.tiles.name)
        many = {"groups": f"{word}s", "group_id": word}
        frames = {
            f"Tiles and {word}s by magnification and class": self.by_magnification,
            "Official parts": self.by_split,
            "Scale in use (um/px; the truth within a factor of mpp_factor)": self.scales,
            "Candidate scales": self.candidate_scales.drop("why"),
            "Tile sizes": self.sizes,
            f"{word.capitalize()}s with more than one class": self.mixed_groups,
            f"{word.capitalize()}s that hold several of the authors' patients": self.merged_patients,
        }
        renamed = ((title, frame.rename(many, strict=False)) for title, frame in frames.items())
        return tuple(_table(title, frame) for title, frame in renamed if not frame.is_empty())


def describe(tiles: TileSet, spec: DatasetSpec | None = None) -> Description:
    """Count what a tile set holds; no pixel is read.

    Args:
        tiles: Any tile set.
        spec: What is known about the data set; None looks it up by name.

    Returns:
        Facts, tables, notes and warnings, for the terminal and for reports.
    """
    table = _with_class(tiles)
    spec = spec or known_specs().get(tiles.name)
    by_magnification = _counts(table, "magnification")
    labelled, merged = table.filter(pl.col("label").is_not_null()), groups_with_several(table, "source_patient_id")
    return Description(
        tiles=tiles,
        title=spec.title if spec else tiles.name,
        n_unlabelled=tiles.table["label"].null_count(),
        n_tiles_without_group=tiles.table["group_id"].null_count(),
        n_source_patients=tiles.table["source_patient_id"].drop_nulls().n_unique(),
        n_slides=tiles.table["slide_id"].drop_nulls().n_unique(),
        group=spec.group if spec else "the group_id column",
        by_magnification=by_magnification,
        by_split=_counts(table.filter(pl.col("split").is_not_null()), "split"),
        scales=_scales(table),
        candidate_scales=_candidates(spec),
        sizes=table.group_by("width_px", "height_px").agg(tiles=pl.len()).sort("tiles", "width_px", descending=True),
        mixed_groups=_joined(groups_with_several(labelled, "class"), "class", "classes"),
        merged_patients=_joined(merged, "source_patient_id", "source_patient_ids"),
        caveats=spec.caveats if spec else (),
        warnings=_warnings(tiles, by_magnification),
    )


def render_text(description: Description) -> str:
    """Write a description as plain text for the terminal."""
    d = description
    blocks = [
        _headline(d),
        *(table.as_text() for table in d.tables()),
        _list("Notes", d.tiles.notes),
        _list("Caveats", d.caveats),
        _list("Warnings", d.warnings),
        f"Licence: {d.tiles.licence}\n" + textwrap.fill(f"Cite: {d.tiles.citation}", 110, subsequent_indent="  "),
    ]
    return "\n\n".join(block for block in blocks if block)


def _with_class(tiles: TileSet) -> pl.DataFrame:
    names = dict(enumerate(tiles.class_names))
    label = pl.col("label").replace_strict(names, default=None, return_dtype=pl.String).fill_null("unlabelled")
    return tiles.table.with_columns(label.alias("class"))


def _counts(table: pl.DataFrame, column: str) -> pl.DataFrame:
    """Tiles and known groups by a column and class, in a person's order (40X before 100X, classes by index)."""
    return (
        table.group_by(pl.col(column).fill_null(UNKNOWN), "label", "class")
        .agg(tiles=pl.len(), groups=pl.col("group_id").drop_nulls().n_unique())
        .sort(_natural(column), column, "label", nulls_last=True)
        .drop("label")
    )


def _natural(column: str) -> pl.Expr:
    parts = {"train": 0, "valid": 1, "test": 2}
    number = pl.col(column).str.extract(r"^(\d+)").cast(pl.Int64)
    return number.fill_null(pl.col(column).replace_strict(parts, default=99, return_dtype=pl.Int64))


def _scales(table: pl.DataFrame) -> pl.DataFrame:
    keys = ("magnification", "mpp", "mpp_source", "mpp_factor")
    counted = table.with_columns(pl.col("magnification").fill_null(UNKNOWN)).group_by(keys).agg(tiles=pl.len())
    return counted.sort(_natural("magnification"), "magnification", "mpp")


def _candidates(spec: DatasetSpec | None) -> pl.DataFrame:
    rows = [
        (scale.source, magnification or "any", mpp, scale.factor, scale.why)
        for scale in (spec.scales if spec else ())
        for magnification, mpp in scale.mpp_by_magnification.items()
    ]
    schema = {
        "source": pl.String,
        "magnification": pl.String,
        "mpp": pl.Float64,
        "mpp_factor": pl.Float64,
        "why": pl.String,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def groups_with_several(table: pl.DataFrame, column: str) -> pl.DataFrame:
    """Return the groups that hold several values of a column: the sorted values as a list, and the number of tiles."""
    grouped = table.filter(pl.col("group_id").is_not_null()).group_by("group_id")
    counted = grouped.agg(pl.col(column).drop_nulls().unique().sort(), tiles=pl.len())
    return counted.filter(pl.col(column).list.len() > 1).sort("group_id")


def _joined(groups: pl.DataFrame, column: str, plural: str) -> pl.DataFrame:
    return groups.select("group_id", pl.col(column).list.join(", ").alias(plural), "tiles")


def _warnings(tiles: TileSet, by_magnification: pl.DataFrame) -> tuple[str, ...]:
    warnings = []
    labelled = by_magnification.filter(pl.col("class") != "unlabelled")
    present = labelled["class"].unique().to_list()
    if len(present) < 2:
        warnings.append(f"Only one class is present ({', '.join(present) or 'none labelled'}): nothing can be trained.")
    else:
        alone = labelled.group_by("magnification").agg(pl.col("class")).filter(pl.col("class").list.len() == 1)
        for magnification, classes in alone.sort(_natural("magnification")).iter_rows():
            warnings.append(f"{magnification} holds one class only ({classes[0]}): AUROC is undefined there.")
    missing, word = tiles.table["group_id"].null_count(), group_word(tiles.name)
    if missing:
        warnings.append(f"The {word} of {missing:,} tiles is unknown: intervals over {word}s are refused.")
    if tiles.n_groups:
        warnings += _few_groups(labelled, word)
    return tuple(warnings)


def _few_groups(labelled: pl.DataFrame, word: str) -> list[str]:
    few = labelled.filter(pl.col("groups") < FEW_GROUPS).group_by("magnification", maintain_order=True)
    sentences = []
    for magnification, classes, groups in few.agg("class", "groups").iter_rows():
        where = "" if magnification == UNKNOWN else f" at {magnification}"
        counts = ", ".join(f"{name} {n}" for name, n in zip(classes, groups, strict=True))
        sentences.append(f"Few {word}s{where} ({counts}): an interval needs at least {FEW_GROUPS} in each class.")
    return sentences


def _headline(d: Description) -> str:
    tiles, region = d.tiles, d.tiles.label_region
    lines = [f"{SYNTHETIC} {d.title}" if tiles.synthetic else d.title]
    groups = group_words(tiles.name, tiles.n_groups) if tiles.n_groups else "0 groups"
    meaning = d.group.removeprefix("a case: ").removeprefix("a ") if tiles.n_groups else d.group
    lines.append(f"{len(tiles):,} tiles, {groups} ({meaning})")
    if d.n_source_patients:
        lines.append(f"{d.n_source_patients:,} patients as the authors count them, in {groups}")
    if d.n_slides:
        lines.append(f"{d.n_slides:,} slides")
    lines.append(f"Classes: {', '.join(tiles.class_names) or 'none labelled'}")
    if d.n_unlabelled:
        lines.append("1 tile is unlabelled" if d.n_unlabelled == 1 else f"{d.n_unlabelled:,} tiles are unlabelled")
    if region is not None:
        size, place = f"{region.width_px}x{region.height_px} px", f"({region.left_px}, {region.top_px})"
        lines.append(f"A label speaks about the {size} at {place} only")
    return "\n".join(lines)


def _table(title: str, frame: pl.DataFrame) -> Table:
    numbers = [name for name, dtype in frame.schema.items() if dtype.is_numeric()]
    rows = rows_of([_cell(value) for value in row] for row in frame.iter_rows())
    return Table(title, columns_of(frame.columns, right=numbers), rows)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else UNKNOWN if value is None else str(value)


def _list(title: str, sentences: tuple[str, ...]) -> str:
    if not sentences:
        return ""
    filled = [textwrap.fill(text, 108, initial_indent="  - ", subsequent_indent="    ") for text in sentences]
    return "\n".join([title, *filled])
